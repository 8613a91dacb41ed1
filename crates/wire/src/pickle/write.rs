//! Writes tensors as a pickle that `pickle.loads` of any Python with torch reads.

use bytes::Bytes;

use super::read::{LEGACY_MAGIC, LEGACY_VERSION};
use super::{PickleError, TENSORS_MAX};
use crate::codec::TENSOR_AXES_MAX;
use larder_types::dtype::{DType, tensor_bytes};

type Result<T> = std::result::Result<T, PickleError>;

/// Bytes that a tensor takes besides its elements, at most: text, sizes and strides.
const OVERHEAD_BYTES: usize = 512 + 2 * TENSOR_AXES_MAX * 11;

/// Writes `pickle.dumps(list_of_tensors)`, one tensor at a time.
///
/// Every tensor is written by the same template: contiguous, with a storage of its own.
#[derive(Clone, Debug)]
pub struct PickleWriter {
    out: Vec<u8>,
    tensors: usize,
}

impl Default for PickleWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl PickleWriter {
    /// An empty list.
    pub fn new() -> Self {
        // Protocol 4, a list, and a mark before its entries.
        Self { out: b"\x80\x04](".to_vec(), tensors: 0 }
    }

    /// Appends a tensor of the given elements in row-major order.
    ///
    /// # Errors
    /// See [`PickleWriter::push_with`]; also if `elements` does not have the size of the tensor.
    pub fn push(&mut self, dtype: DType, shape: &[u64], elements: &[u8]) -> Result<()> {
        match tensor_bytes(dtype, shape) {
            Some(expected) if expected != elements.len() as u64 => {
                Err(PickleError::Size { expected, found: elements.len() })
            }
            _ => self.push_with(dtype, shape, |out| out.copy_from_slice(elements)),
        }
    }

    /// Appends a tensor whose elements `fill` writes in row-major order. The bytes it is given have the
    /// size of the tensor and are zero.
    ///
    /// # Errors
    /// The element type has no storage class, or the list or the tensor is too large. Nothing was written
    /// then.
    pub fn push_with(&mut self, dtype: DType, shape: &[u64], fill: impl FnOnce(&mut [u8])) -> Result<()> {
        let class = dtype.storage_class().ok_or(PickleError::DType { dtype })?;
        if self.tensors >= TENSORS_MAX {
            return Err(PickleError::TooMany { what: "tensors", limit: TENSORS_MAX });
        }
        if shape.len() > TENSOR_AXES_MAX {
            return Err(PickleError::TooMany { what: "axes", limit: TENSOR_AXES_MAX });
        }
        let too_large = PickleError::TooMany { what: "bytes", limit: isize::MAX as usize };
        let bytes = tensor_bytes(dtype, shape).and_then(|bytes| usize::try_from(bytes).ok());
        let bytes = bytes.filter(|&bytes| bytes < isize::MAX as usize / 2).ok_or(too_large)?;
        self.out.reserve(bytes + OVERHEAD_BYTES);
        self.tensors += 1;
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.raw(b"(");
        self.storage(class, bytes / dtype.width(), bytes, fill);
        self.int(0);
        self.tuple(shape.iter().copied());
        self.tuple(strides(shape).into_iter());
        self.raw(b"\x89");
        self.global("collections", "OrderedDict");
        self.raw(b")RtR");
        Ok(())
    }

    /// Ends the list and returns the pickle.
    pub fn finish(mut self) -> Bytes {
        self.raw(b"e.");
        self.out.into()
    }

    /// A call of `torch.storage._load_from_bytes` with a legacy stream of one storage.
    fn storage(&mut self, class: &str, count: usize, bytes: usize, fill: impl FnOnce(&mut [u8])) {
        let head = legacy_head(class, count);
        self.global("torch.storage", "_load_from_bytes");
        let stream_bytes = head.len() + bytes;
        match u32::try_from(stream_bytes) {
            Ok(stream_bytes) => {
                self.raw(b"B");
                self.raw(&stream_bytes.to_le_bytes());
            }
            Err(_) => {
                self.raw(b"\x8e");
                self.raw(&(stream_bytes as u64).to_le_bytes());
            }
        }
        self.raw(&head);
        let start = self.out.len();
        self.out.resize(start + bytes, 0);
        fill(&mut self.out[start..]);
        self.raw(b"\x85R");
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    fn global(&mut self, module: &str, name: &str) {
        for text in [module, name] {
            self.raw(&[0x8c, text.len() as u8]);
            self.raw(text.as_bytes());
        }
        self.raw(b"\x93");
    }

    fn int(&mut self, value: u64) {
        push_int(&mut self.out, i128::from(value));
    }

    fn tuple(&mut self, values: impl Iterator<Item = u64>) {
        self.raw(b"(");
        values.for_each(|value| self.int(value));
        self.raw(b"t");
    }
}

/// Strides of a contiguous tensor, as torch counts them: an empty axis counts like one of size 1.
fn strides(shape: &[u64]) -> Vec<u64> {
    let mut strides = vec![1_u64; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis].max(1));
    }
    strides
}

fn push_int(out: &mut Vec<u8>, value: i128) {
    match (u8::try_from(value), u16::try_from(value)) {
        (Ok(value), _) => out.extend_from_slice(&[b'K', value]),
        (_, Ok(value)) => {
            out.push(b'M');
            out.extend_from_slice(&value.to_le_bytes());
        }
        _ => {
            let bytes = value.to_le_bytes();
            // Signed, so the highest bit of the last byte has to be the sign; all values here are positive.
            let used = bytes.len() - value.leading_zeros() as usize / 8;
            let count = (used + usize::from(bytes[used - 1] >= 0x80)).min(bytes.len());
            out.extend_from_slice(&[0x8a, count as u8]);
            out.extend_from_slice(&bytes[..count]);
        }
    }
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// A legacy stream up to its elements, for one storage of `count` elements.
fn legacy_head(class: &str, count: usize) -> Vec<u8> {
    const PROTOCOL: &[u8] = b"\x80\x02";
    /// Any text does; torch uses an address.
    const KEY: &str = "0";
    let mut out = Vec::with_capacity(OVERHEAD_BYTES);
    for number in [LEGACY_MAGIC, LEGACY_VERSION] {
        out.extend_from_slice(PROTOCOL);
        push_int(&mut out, number);
        out.push(b'.');
    }
    out.extend_from_slice(PROTOCOL);
    out.extend_from_slice(b"}(");
    push_text(&mut out, "protocol_version");
    push_int(&mut out, LEGACY_VERSION);
    push_text(&mut out, "little_endian");
    out.push(0x88);
    push_text(&mut out, "type_sizes");
    out.extend_from_slice(b"}(");
    for (name, size) in [("short", 2), ("int", 4), ("long", 4)] {
        push_text(&mut out, name);
        push_int(&mut out, size);
    }
    out.extend_from_slice(b"uu.");
    out.extend_from_slice(PROTOCOL);
    out.push(b'(');
    push_text(&mut out, "storage");
    out.extend_from_slice(b"ctorch\n");
    out.extend_from_slice(class.as_bytes());
    out.push(b'\n');
    push_text(&mut out, KEY);
    push_text(&mut out, "cpu");
    push_int(&mut out, count as i128);
    out.extend_from_slice(b"NtQ.");
    out.extend_from_slice(PROTOCOL);
    out.push(b']');
    push_text(&mut out, KEY);
    out.extend_from_slice(b"a.");
    out.extend_from_slice(&(count as u64).to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::super::read::read_tensors;
    use super::*;

    #[test]
    fn pickles_round_trip() {
        let mut writer = PickleWriter::new();
        let elements: Vec<u8> = (0..=255).cycle().take(2 * 300 * 4).collect();
        writer.push(DType::Float32, &[2, 300], &elements).unwrap();
        writer.push(DType::UInt8, &[0, 3], &[]).unwrap();
        writer.push_with(DType::Bool, &[], |out| out.fill(1)).unwrap();
        let pickle = writer.finish();
        let tensors = read_tensors(&pickle).unwrap();
        assert_eq!(tensors.len(), 3);
        assert_eq!((tensors[0].dtype(), tensors[0].shape()), (DType::Float32, &[2, 300][..]));
        assert_eq!(tensors[0].contiguous(), Some(&elements[..]));
        assert_eq!((tensors[1].shape(), tensors[1].contiguous()), (&[0, 3][..], Some(&[][..])));
        assert_eq!((tensors[2].shape(), tensors[2].contiguous()), (&[][..], Some(&[1][..])));
    }

    #[test]
    fn refused_tensors_leave_the_pickle_unchanged() {
        let mut writer = PickleWriter::new();
        assert_eq!(
            writer.push(DType::Float8E5M2, &[1], &[0]),
            Err(PickleError::DType { dtype: DType::Float8E5M2 })
        );
        assert_eq!(writer.push(DType::Float16, &[2], &[0]), Err(PickleError::Size { expected: 4, found: 1 }));
        assert!(writer.push(DType::Float16, &[u64::MAX], &[]).is_err());
        assert_eq!(read_tensors(&writer.finish()), Ok(Vec::new()));
    }

    #[test]
    fn numbers_are_written_as_positive() {
        for value in [0x8000_u64, 0xffff_ffff, 0x10000, 0x7f_ffff, 0x80_0000, u64::MAX] {
            let mut out = Vec::new();
            push_int(&mut out, i128::from(value));
            let last = out.last().copied().unwrap_or_default();
            assert!(out[0] != 0x8a || last < 0x80, "{value:#x} is negative in {out:x?}");
        }
    }
}
