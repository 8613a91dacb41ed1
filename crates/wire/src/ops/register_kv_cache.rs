//! `register_kv_cache`.

use std::sync::Arc;

use larder_types::InstanceId;

use crate::codec::{Entry, KERNEL_GROUPS_MAX, Value, structure};
use crate::device_handle::DeviceHandle;
use crate::error::DecodeError;
use crate::msgpack::{Reader, Writer};
use crate::ops::{operation, samples};
use crate::text_enum::text_enum;

/// Registers an engine's KV tensors, which the server is to copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterKvCache {
    /// The worker.
    pub instance_id: InstanceId,
    /// One descriptor per KV tensor, in layer order.
    pub handles: Vec<DeviceHandle>,
    /// The model as in cache keys.
    pub model_name: Arc<str>,
    /// The world size as in cache keys.
    pub world_size: i64,
    /// The engine.
    pub engine_type: EngineType,
    /// Help for recognising the layout.
    pub layout_hints: LayoutHints,
    /// The groups of layers; empty for one group of all.
    pub groups: Vec<GroupInfo>,
}

text_enum! {
    /// The engine behind a registration; it decides how layouts are recognised.
    EngineType {
        /// vLLM.
        Vllm = "vllm",
        /// ATOM.
        Atom = "atom",
        /// SGLang.
        Sglang = "sglang",
        /// TensorRT-LLM.
        Trtllm = "trtllm",
        /// Only in tests of the reference, which refuses it here.
        Mock = "mock",
    }
}

text_enum! {
    /// Order of a layer's axes in memory.
    KvLayout {
        /// Heads after the slots of a block.
        Nhd = "NHD",
        /// Heads before the slots of a block.
        Hnd = "HND",
        /// Blocks outermost, then layers, heads before slots.
        Blhnc = "BLHNC",
        /// Blocks outermost, then layers, slots before heads.
        Blnhc = "BLNHC",
    }
}

text_enum! {
    /// Order of SGLang's tensors.
    KvListLayout {
        /// First all K layers, then all V layers.
        KThenV = "k_v",
        /// One tensor per component.
        Unified = "unified",
    }
}

/// Optional hints of an engine about the layout of its tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayoutHints {
    /// Order of the axes.
    pub kv_layout: Option<KvLayout>,
    /// KV heads per layer.
    pub num_kv_heads: Option<i64>,
    /// Tokens per block.
    pub tokens_per_block: Option<i64>,
    /// Order of the list of tensors.
    pub kv_list_layout: Option<KvListLayout>,
    /// Elements per head.
    pub head_dim: Option<i64>,
}

/// A map that lacks the hints not given; none of them may be nil.
impl Value for LayoutHints {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        let mut hints = Self::default();
        reader.structure(field, |name, reader| {
            match name {
                b"kv_layout" => hints.kv_layout = Some(KvLayout::decode(reader, "kv_layout")?),
                b"num_kv_heads" => hints.num_kv_heads = Some(reader.i64("num_kv_heads")?),
                b"tokens_per_block" => hints.tokens_per_block = Some(reader.i64("tokens_per_block")?),
                b"kv_list_layout" => {
                    hints.kv_list_layout = Some(KvListLayout::decode(reader, "kv_list_layout")?);
                }
                b"head_dim" => hints.head_dim = Some(reader.i64("head_dim")?),
                _ => reader.skip(field)?,
            }
            Ok(())
        })?;
        Ok(hints)
    }

    fn encode(&self, writer: &mut Writer) {
        let texts = [
            ("kv_layout", self.kv_layout.map(KvLayout::name)),
            ("kv_list_layout", self.kv_list_layout.map(KvListLayout::name)),
        ];
        let numbers = [
            ("num_kv_heads", self.num_kv_heads),
            ("tokens_per_block", self.tokens_per_block),
            ("head_dim", self.head_dim),
        ];
        let texts = texts.iter().filter_map(|&(name, text)| Some((name, text?)));
        let numbers = numbers.iter().filter_map(|&(name, number)| Some((name, number?)));
        writer.map(texts.clone().count() + numbers.clone().count());
        for (name, text) in texts {
            writer.str(name);
            writer.str(text);
        }
        for (name, number) in numbers {
            writer.str(name);
            writer.int(number);
        }
    }
}

/// One group of layers with common block ids and a common shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupInfo {
    /// The engine's block address space that the group belongs to.
    pub engine_group_id: i64,
    /// Positions of its layers in the list of tensors.
    pub layer_indices: Vec<i64>,
    /// Tokens that one block id stands for; 0 for as many as a block has slots.
    pub tokens_per_block: i64,
    /// Attention window in tokens; -1 for full attention.
    pub sw_size_tokens: i64,
    /// Above 0 for auxiliary groups.
    pub extra_object_group_tag: i64,
    /// Whether blocks hold recurrent state instead of attention KV.
    pub recurrent_state: bool,
}

structure!(GroupInfo {
    engine_group_id,
    layer_indices = Vec::new(),
    tokens_per_block = 0,
    sw_size_tokens = -1,
    extra_object_group_tag = 0,
    recurrent_state = false,
});

impl Entry for GroupInfo {
    const LIST_MAX: usize = KERNEL_GROUPS_MAX;
}

operation!(
    RegisterKvCache = Some(1), "register_kv_cache",
    { instance_id, handles as "kv_cache", model_name, world_size, engine_type, layout_hints, groups as "engine_group_infos" } -> (), failure: None
);

samples!(RegisterKvCache: vec![Self {
    instance_id: INSTANCE,
    handles: vec![device_handle(), device_handle()],
    model_name: "org/model".into(),
    world_size: 4,
    engine_type: EngineType::Sglang,
    layout_hints: LayoutHints {
        kv_layout: Some(KvLayout::Blhnc),
        num_kv_heads: Some(8),
        tokens_per_block: Some(64),
        kv_list_layout: Some(KvListLayout::KThenV),
        head_dim: Some(128),
    },
    groups: vec![GroupInfo {
        engine_group_id: 1,
        layer_indices: vec![0, 1, 300],
        tokens_per_block: 64,
        sw_size_tokens: -1,
        extra_object_group_tag: 2,
        recurrent_state: true,
    }],
}] => vec![()]);
