//! `register_kv_cache_engine_driven_context`.

use std::sync::Arc;

use bytes::Bytes;
use larder_types::InstanceId;

use crate::codec::{Payloads, Value, encode_frame, structure};
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
}

structure!(Pool { shm_name = String::new(), pool_size = 0 });

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
}] => vec![Pool { shm_name: "pool".to_owned(), pool_size: 1 << 40 }]);
