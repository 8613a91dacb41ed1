//! Descriptors of engine tensors that the server may map.
//!
//! They arrive as extension values of type 1; the body is a MessagePack map with a `type` tag. Only
//! descriptors of CPU shared memory are decoded; those of device memory are recognised by their tag.
//! Hand-written: the map is strict about unknown fields, and one that breaks a rule becomes a value.

use bytes::Bytes;

use larder_types::dtype::DType;

use crate::codec::{Entry, Value, decode_only};
use crate::error::DecodeError;
use crate::msgpack::{Reader, Writer, required};
use crate::text_enum::text_enum;

/// Extension type code of descriptors.
pub const HANDLE_EXT_CODE: i8 = 1;

/// The only descriptor version.
const VERSION: i128 = 1;

text_enum! {
    /// Descriptors of device memory, by their tag.
    DeviceKind {
        /// A torch storage shared over CUDA IPC.
        Cuda = "cuda",
        /// A whole CUDA allocation shared over CUDA IPC.
        CudaRaw = "cuda_raw",
        /// A CUDA virtual-memory allocation.
        CudaVmm = "cuda_vmm",
        /// A Moore Threads device.
        Musa = "musa",
        /// An Ascend device.
        Npu = "npu",
    }
}

/// A view of a tensor inside its memory, in elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorView {
    /// Element type.
    pub dtype: DType,
    /// Size of each axis.
    pub shape: Vec<u64>,
    /// Elements from one index of an axis to the next.
    pub stride: Vec<u64>,
    /// Elements before the first.
    pub storage_offset: u64,
    /// The device as torch prints its UUID, or `cpu`.
    pub device_uuid: String,
}

/// A tensor in POSIX shared memory owned by the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuShmHandle {
    /// Name of the segment with its leading `/`; empty for an empty tensor.
    pub shm_name: String,
    /// Bytes of the segment that belong to the tensor's memory.
    pub nbytes: u64,
    /// The tensor inside it.
    pub view: TensorView,
}

/// One descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceHandle {
    /// CPU shared memory.
    CpuShm(CpuShmHandle),
    /// Device memory; the body is left as it is.
    Device {
        /// Which kind.
        kind: DeviceKind,
        /// The MessagePack map.
        body: Bytes,
    },
    /// A descriptor that breaks the rules: an unknown tag, a view outside its memory, or a Python pickle
    /// as clients up to 0.5.5 send it. Kept as a value so that the refusal of the registration can name the reason.
    Refused {
        /// The reason.
        reason: DecodeError,
        /// What was sent.
        body: Bytes,
    },
}

impl TensorView {
    /// The end of the last byte touched; 0 for an empty tensor. `None` if that overflows.
    pub fn byte_span(&self) -> Option<u64> {
        if self.shape.contains(&0) {
            return Some(0);
        }
        let last =
            self.shape.iter().zip(&self.stride).try_fold(self.storage_offset, |last, (size, stride)| {
                last.checked_add((size - 1).checked_mul(*stride)?)
            })?;
        last.checked_add(1)?.checked_mul(self.dtype.width() as u64)
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (mut dtype, mut shape, mut stride, mut storage_offset, mut device_uuid) =
            (None, None, None, None, None);
        reader.structure("metadata", |name, reader| {
            match name {
                b"dtype" => dtype = Some(DType::decode(reader, "dtype")?),
                b"shape" => shape = Some(Vec::decode(reader, "shape")?),
                b"stride" => stride = Some(Vec::decode(reader, "stride")?),
                b"storage_offset" => storage_offset = Some(reader.u64("storage_offset")?),
                b"device_uuid" => device_uuid = Some(reader.str("device_uuid")?.to_owned()),
                other => return Err(unknown_field("metadata", other)),
            }
            Ok(())
        })?;
        let view = Self {
            dtype: required("dtype", dtype)?,
            shape: required("shape", shape)?,
            stride: required("stride", stride)?,
            storage_offset: required("storage_offset", storage_offset)?,
            device_uuid: required("device_uuid", device_uuid)?,
        };
        if view.shape.len() != view.stride.len() {
            return Err(DecodeError::OutOfRange {
                field: "stride",
                value: view.stride.len() as i128,
                allowed: "the number of axes of the shape",
            });
        }
        Ok(view)
    }

    fn encode(&self, writer: &mut Writer) {
        writer.map(5);
        writer.str("dtype");
        writer.str(self.dtype.name());
        writer.str("shape");
        writer.uints(&self.shape);
        writer.str("stride");
        writer.uints(&self.stride);
        writer.str("storage_offset");
        writer.uint(self.storage_offset);
        writer.str("device_uuid");
        writer.str(&self.device_uuid);
    }
}

impl CpuShmHandle {
    fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let (mut shm_name, mut nbytes, mut version, mut view) = (None, None, None, None);
        reader.structure("handle", |name, reader| {
            match name {
                b"type" => reader.skip("type")?,
                b"shm_name" => shm_name = Some(reader.str("shm_name")?.to_owned()),
                b"nbytes" => nbytes = Some(reader.u64("nbytes")?),
                b"version" => version = Some(reader.int("version")?),
                b"metadata" => view = Some(TensorView::decode(reader)?),
                other => return Err(unknown_field("handle", other)),
            }
            Ok(())
        })?;
        reader.finish("handle")?;
        let version = required("version", version)?;
        if version != VERSION {
            return Err(DecodeError::OutOfRange { field: "version", value: version, allowed: "1 to 1" });
        }
        let handle = Self {
            shm_name: required("shm_name", shm_name)?,
            nbytes: required("nbytes", nbytes)?,
            view: required("metadata", view)?,
        };
        match handle.view.byte_span() {
            Some(span) if span <= handle.nbytes => Ok(handle),
            span => Err(DecodeError::OutOfRange {
                field: "nbytes",
                value: i128::from(handle.nbytes),
                allowed: if span.is_some() { "the sizes that hold the view" } else { "any size at all" },
            }),
        }
    }

    fn encode(&self) -> Bytes {
        let mut writer = Writer::new();
        writer.map(5);
        writer.str("type");
        writer.str("cpu_shm");
        writer.str("shm_name");
        writer.str(&self.shm_name);
        writer.str("nbytes");
        writer.uint(self.nbytes);
        writer.str("version");
        writer.int_any(VERSION);
        writer.str("metadata");
        self.view.encode(&mut writer);
        writer.into_bytes()
    }
}

impl DeviceHandle {
    /// The descriptor that a MessagePack map describes.
    pub fn from_body(body: Bytes) -> Self {
        let parsed = decode_tag(&body).and_then(|tag| match DeviceKind::from_name(tag) {
            Some(kind) => Ok(Self::Device { kind, body: body.clone() }),
            None if tag == "cpu_shm" => CpuShmHandle::decode(&body).map(Self::CpuShm),
            None => Err(DecodeError::unknown_name("type", tag)),
        });
        parsed.unwrap_or_else(|reason| Self::Refused { reason, body })
    }
}

/// Only a value that is no descriptor at all is an error.
impl Value for DeviceHandle {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        let (code, body) = reader.ext(field)?;
        if code != HANDLE_EXT_CODE {
            let allowed = "the extension type codes 1 to 1";
            return Err(DecodeError::OutOfRange { field, value: i128::from(code), allowed });
        }
        Ok(Self::from_body(Bytes::copy_from_slice(body)))
    }

    fn encode(&self, writer: &mut Writer) {
        match self {
            Self::CpuShm(handle) => writer.ext(HANDLE_EXT_CODE, &handle.encode()),
            Self::Device { body, .. } | Self::Refused { body, .. } => writer.ext(HANDLE_EXT_CODE, body),
        }
    }
}

/// Tensors of one registration; the largest models have a few hundred layers.
impl Entry for DeviceHandle {
    const LIST_MAX: usize = 1 << 14;
}

/// The `type` tag of a descriptor.
fn decode_tag(body: &[u8]) -> Result<&str, DecodeError> {
    let mut tag = None;
    decode_only(body, "handle", |reader| {
        reader.structure("handle", |name, reader| {
            match name {
                b"type" => tag = Some(reader.str("type")?),
                _ => reader.skip("handle")?,
            }
            Ok(())
        })
    })?;
    required("type", tag)
}

/// Descriptors, unlike all other structures, must not carry fields the server does not know.
fn unknown_field(field: &'static str, name: &[u8]) -> DecodeError {
    DecodeError::unknown_name(field, &String::from_utf8_lossy(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(shape: &[u64], stride: &[u64], storage_offset: u64) -> TensorView {
        TensorView {
            dtype: DType::Float16,
            shape: shape.to_vec(),
            stride: stride.to_vec(),
            storage_offset,
            device_uuid: "cpu".to_owned(),
        }
    }

    #[test]
    fn byte_span_ends_at_last_byte_of_view() {
        assert_eq!(view(&[2, 3], &[3, 1], 4).byte_span(), Some(20));
        assert_eq!(view(&[2, 0], &[3, 1], 4).byte_span(), Some(0));
        assert_eq!(view(&[u64::MAX, 3], &[3, 1], 4).byte_span(), None);
        assert_eq!(view(&[], &[], 0).byte_span(), Some(2));
    }

    #[test]
    fn view_outside_its_memory_decodes_as_refused() {
        let handle = CpuShmHandle { shm_name: "/x".to_owned(), nbytes: 19, view: view(&[2, 3], &[3, 1], 4) };
        let mut writer = Writer::new();
        writer.ext(1, &handle.encode());
        writer.ext(1, b"\x80\x04]\x94.");
        let bytes = writer.into_bytes();
        let mut reader = Reader::new(&bytes);
        for _ in 0..2 {
            assert!(matches!(
                DeviceHandle::decode(&mut reader, "kv_cache"),
                Ok(DeviceHandle::Refused { .. })
            ));
        }
    }
}
