//! What engines announce about themselves (`protocol.md` 3, 8.1 and 10.1).

use std::sync::Arc;

use crate::error::DecodeError;
use crate::handle::{DeviceHandle, decode_ints};
use crate::msgpack::{Reader, Writer, required};
use crate::text_enum::text_enum;
use larder_types::InstanceId;

/// Group infos of one registration, and block-id lists of one transfer.
pub const KERNEL_GROUPS_MAX: usize = 1 << 12;

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
    /// How SGLang lists its tensors.
    KvListLayout {
        /// First all K layers, then all V layers.
        KThenV = "k_v",
        /// One tensor per component.
        Unified = "unified",
    }
}

/// What an engine adds to help recognise the layout of its tensors. All of it is optional.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayoutHints {
    /// Order of the axes.
    pub kv_layout: Option<KvLayout>,
    /// KV heads per layer.
    pub num_kv_heads: Option<i64>,
    /// Tokens per block.
    pub tokens_per_block: Option<i64>,
    /// How the list of tensors is made up.
    pub kv_list_layout: Option<KvListLayout>,
    /// Elements per head.
    pub head_dim: Option<i64>,
}

impl LayoutHints {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut hints = Self::default();
        reader.structure("layout_hints", |name, reader| {
            match name {
                b"kv_layout" => hints.kv_layout = Some(KvLayout::decode(reader, "kv_layout")?),
                b"num_kv_heads" => hints.num_kv_heads = Some(reader.i64("num_kv_heads")?),
                b"tokens_per_block" => hints.tokens_per_block = Some(reader.i64("tokens_per_block")?),
                b"kv_list_layout" => {
                    hints.kv_list_layout = Some(KvListLayout::decode(reader, "kv_list_layout")?);
                }
                b"head_dim" => hints.head_dim = Some(reader.i64("head_dim")?),
                _ => reader.skip("layout_hints")?,
            }
            Ok(())
        })?;
        Ok(hints)
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
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

/// One group of layers that share block ids and a shape.
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

impl GroupInfo {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut engine_group_id = None;
        let mut info = Self {
            engine_group_id: 0,
            layer_indices: Vec::new(),
            tokens_per_block: 0,
            sw_size_tokens: -1,
            extra_object_group_tag: 0,
            recurrent_state: false,
        };
        reader.structure("engine_group_infos", |name, reader| {
            match name {
                b"engine_group_id" => engine_group_id = Some(reader.i64("engine_group_id")?),
                b"layer_indices" => info.layer_indices = decode_ints(reader, "layer_indices")?,
                b"tokens_per_block" => info.tokens_per_block = reader.i64("tokens_per_block")?,
                b"sw_size_tokens" => info.sw_size_tokens = reader.i64("sw_size_tokens")?,
                b"extra_object_group_tag" => {
                    info.extra_object_group_tag = reader.i64("extra_object_group_tag")?;
                }
                b"recurrent_state" => info.recurrent_state = reader.bool("recurrent_state")?,
                _ => reader.skip("engine_group_infos")?,
            }
            Ok(())
        })?;
        info.engine_group_id = required("engine_group_id", engine_group_id)?;
        Ok(info)
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.map(6);
        writer.str("engine_group_id");
        writer.int(self.engine_group_id);
        writer.str("layer_indices");
        writer.ints(&self.layer_indices);
        writer.str("tokens_per_block");
        writer.int(self.tokens_per_block);
        writer.str("sw_size_tokens");
        writer.int(self.sw_size_tokens);
        writer.str("extra_object_group_tag");
        writer.int(self.extra_object_group_tag);
        writer.str("recurrent_state");
        writer.bool(self.recurrent_state);
    }
}

/// Payloads of `register_kv_cache` and `register_q_cache`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvCacheRegistration {
    /// The worker.
    pub instance_id: InstanceId,
    /// One descriptor per KV tensor, in layer order.
    pub handles: Vec<DeviceHandle>,
    /// The model as cache keys will name it.
    pub model_name: Arc<str>,
    /// The world size as cache keys will give it.
    pub world_size: i64,
    /// The engine.
    pub engine_type: EngineType,
    /// Help for recognising the layout.
    pub layout_hints: LayoutHints,
    /// The groups of layers; empty for one group of all.
    pub groups: Vec<GroupInfo>,
}

/// Payload of `register_kv_cache_engine_driven_context`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineDrivenRegistration {
    /// The worker.
    pub instance_id: InstanceId,
    /// The model as cache keys will name it.
    pub model_name: Arc<str>,
    /// The world size as cache keys will give it.
    pub world_size: i64,
    /// Tokens per block; informative.
    pub block_size: i64,
    /// Layers of the model.
    pub num_layers: i64,
    /// Elements per token, layer and plane.
    pub hidden_dim_size: i64,
    /// Element type by torch's name or an alias. Left as text, so that an unknown one can be refused by
    /// name.
    pub dtype: String,
    /// Whether a chunk has one plane instead of two; set for fused formats as well as for MLA.
    pub use_mla: bool,
    /// Slots per chunk; `None`, from clients before 0.5.5, for one per token.
    pub num_physical_slots: Option<i64>,
}

impl EngineDrivenRegistration {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (mut instance_id, mut model_name, mut world_size) = (None, None, None);
        let (mut block_size, mut num_layers, mut hidden_dim_size) = (None, None, None);
        let (mut dtype, mut use_mla, mut num_physical_slots) = (None, None, None);
        reader.structure("registration", |name, reader| {
            match name {
                b"instance_id" => instance_id = Some(reader.i64("instance_id")?),
                b"model_name" => model_name = Some(reader.name("model_name")?),
                b"world_size" => world_size = Some(reader.i64("world_size")?),
                b"block_size" => block_size = Some(reader.i64("block_size")?),
                b"num_layers" => num_layers = Some(reader.i64("num_layers")?),
                b"hidden_dim_size" => hidden_dim_size = Some(reader.i64("hidden_dim_size")?),
                b"dtype_str" => dtype = Some(reader.str("dtype_str")?.to_owned()),
                b"use_mla" => use_mla = Some(reader.bool("use_mla")?),
                b"num_physical_slots" if reader.nil() => num_physical_slots = None,
                b"num_physical_slots" => num_physical_slots = Some(reader.i64("num_physical_slots")?),
                _ => reader.skip("registration")?,
            }
            Ok(())
        })?;
        Ok(Self {
            instance_id: InstanceId(required("instance_id", instance_id)?),
            model_name: required("model_name", model_name)?.into(),
            world_size: required("world_size", world_size)?,
            block_size: required("block_size", block_size)?,
            num_layers: required("num_layers", num_layers)?,
            hidden_dim_size: required("hidden_dim_size", hidden_dim_size)?,
            dtype: required("dtype_str", dtype)?,
            use_mla: required("use_mla", use_mla)?,
            num_physical_slots,
        })
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.map(9);
        writer.str("instance_id");
        writer.int(self.instance_id.0);
        writer.str("model_name");
        writer.str(&self.model_name);
        writer.str("world_size");
        writer.int(self.world_size);
        writer.str("block_size");
        writer.int(self.block_size);
        writer.str("num_layers");
        writer.int(self.num_layers);
        writer.str("hidden_dim_size");
        writer.int(self.hidden_dim_size);
        writer.str("dtype_str");
        writer.str(&self.dtype);
        writer.str("use_mla");
        writer.bool(self.use_mla);
        writer.str("num_physical_slots");
        match self.num_physical_slots {
            Some(slots) => writer.int(slots),
            None => writer.nil(),
        }
    }
}
