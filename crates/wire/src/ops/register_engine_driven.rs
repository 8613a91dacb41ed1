//! `register_kv_cache_engine_driven_context`.

use std::sync::Arc;

use bytes::Bytes;
use larder_types::InstanceId;

use crate::codec::{Entry, GROUPS_MAX, Newer, Payloads, Value, encode_frame, structure};
use crate::error::DecodeError;
use crate::ops::{operation, payload_count, samples};

/// Registers a worker that copies by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterEngineDriven {
    /// The worker.
    pub instance_id: InstanceId,
    /// The model as in cache keys.
    pub model_name: Arc<str>,
    /// The world size as in cache keys.
    pub world_size: i64,
    /// Tokens per block; informative.
    pub block_size: i64,
    /// Layers of the model.
    pub num_layers: i64,
    /// Elements per token, layer and plane.
    pub hidden_dim_size: i64,
    /// Element type by torch's name or an alias; text, so that a refusal can quote an unknown one.
    pub dtype: String,
    /// Whether a chunk has one plane instead of two; set for fused formats as well as for MLA.
    pub use_mla: bool,
    /// Slots per chunk; `None`, from clients before 0.5.5, for one per token.
    pub num_physical_slots: Option<i64>,
    /// The layers by groups; no groups: one, which the fields above describe. Clients before 0.5.7 do not know it.
    pub group_layouts: Newer<Vec<GroupLayout>>,
}

/// Layers that are stored together: one object per chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupLayout {
    /// Layers of the group.
    pub num_layers: i64,
    /// Elements per token, layer and plane.
    pub hidden_dim_size: i64,
    /// Element type by torch's name or an alias.
    pub dtype: String,
    /// Tokens per block of the engine's own cache; informative.
    pub tokens_per_block: i64,
    /// Tokens of each chunk that are stored, its last ones; 0 for all of it.
    pub window_tokens: i64,
    /// Planes: 2 for keys and values apart, 1 for one plane; 0 if `use_mla` of the registration says it.
    pub kv_size: i64,
    /// How many of a hit's last chunks the group needs; 0 for all.
    pub window_chunks: i64,
    /// Whether its data are states of a recurrence, such as those of linear attention, instead of keys and values.
    pub recurrent: bool,
}

structure!(GroupLayout {
    num_layers,
    hidden_dim_size,
    dtype as "dtype_str",
    tokens_per_block,
    window_tokens = 0,
    kv_size = 0,
    window_chunks = 0,
    recurrent = false,
});

impl Entry for GroupLayout {
    const LIST_MAX: usize = GROUPS_MAX;
}

structure!(RegisterEngineDriven {
    instance_id,
    model_name,
    world_size,
    block_size,
    num_layers,
    hidden_dim_size,
    dtype as "dtype_str",
    use_mla,
    num_physical_slots = None,
    group_layouts = Newer(None),
});

/// One payload, which is the structure.
impl Payloads for RegisterEngineDriven {
    const COUNT: usize = 1;

    fn decode(frames: &[Bytes]) -> Result<Self, DecodeError> {
        match frames {
            [frame] => Value::decode_payload(frame, "registration"),
            _ => Err(payload_count::<Self>(frames.len())),
        }
    }

    fn encode(&self) -> Vec<Bytes> {
        vec![encode_frame(self)]
    }
}

/// The server's shared memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// Name without a leading `/`; empty if there is none and chunks travel as pickles.
    pub shm_name: String,
    /// Size in bytes.
    pub pool_size: u64,
    /// The id of the engine's block that stands for absent data, for clients that know this field.
    pub null_block_id: Newer<i64>,
}

structure!(Pool { shm_name = String::new(), pool_size = 0, null_block_id = Newer(None) });

operation!(
    RegisterEngineDriven = Some(14), "register_kv_cache_engine_driven_context",
    -> Pool, failure: Some(Pool::default())
);

samples!(RegisterEngineDriven: vec![Self {
    instance_id: INSTANCE,
    model_name: "org/model".into(),
    world_size: 4,
    block_size: 16,
    num_layers: 32,
    hidden_dim_size: 1024,
    dtype: "half".to_owned(),
    use_mla: false,
    num_physical_slots: None,
    group_layouts: Newer(None),
}] => vec![Pool { shm_name: "pool".to_owned(), pool_size: 1 << 40, null_block_id: Newer(None) }]);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::DecodeError;
    use crate::msgpack::Writer;
    use crate::ops::tests::Samples;

    fn registration(groups: Option<Vec<GroupLayout>>) -> RegisterEngineDriven {
        let sample = RegisterEngineDriven::requests().remove(0);
        RegisterEngineDriven { group_layouts: Newer(groups), ..sample }
    }

    fn group(window_chunks: i64) -> GroupLayout {
        GroupLayout {
            num_layers: 2,
            hidden_dim_size: 128,
            dtype: "bfloat16".to_owned(),
            tokens_per_block: 16,
            window_tokens: 64,
            kv_size: 1,
            window_chunks,
            recurrent: window_chunks == 1,
        }
    }

    #[test]
    fn groups_round_trip_and_their_absence_is_not_an_empty_list() {
        for groups in [None, Some(vec![]), Some(vec![group(0), group(1)])] {
            let sent = registration(groups);
            assert_eq!(Payloads::decode(&Payloads::encode(&sent)), Ok(sent));
        }
        let too_many = registration(Some(vec![group(0); GROUPS_MAX + 1]));
        let error = <RegisterEngineDriven as Payloads>::decode(&Payloads::encode(&too_many));
        assert!(matches!(error, Err(DecodeError::TooMany { .. })), "{error:?}");
    }

    #[test]
    fn a_group_needs_only_the_fields_of_the_first_client_that_sent_one() {
        let mut writer = Writer::new();
        writer.map(4);
        [("num_layers", 2), ("hidden_dim_size", 8), ("tokens_per_block", 16)].iter().for_each(|(name, n)| {
            writer.str(name);
            writer.int(*n);
        });
        writer.str("dtype_str");
        writer.str("half");
        let group = GroupLayout::decode_payload(&writer.into_bytes(), "group").expect("all that is required");
        let rest = (group.window_tokens, group.kv_size, group.window_chunks, group.recurrent);
        assert_eq!(rest, (0, 0, 0, false));
    }
}
