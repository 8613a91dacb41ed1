//! The shape of an object's bytes.

use std::sync::Arc;

/// One tensor: its shape, its element type, and so its size.
///
/// Cheap to clone and to compare: equal layouts usually share their parts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    shape: Arc<[u64]>,
    dtype: Arc<str>,
    bytes: u64,
}

impl Layout {
    /// A tensor of `shape` with elements of type `dtype` (a torch name without `torch.`), each
    /// `element_bytes` wide. `None` if it is empty or its size does not fit 63 bits.
    pub fn new(shape: &[u64], dtype: &str, element_bytes: u64) -> Option<Self> {
        let bytes = shape.iter().try_fold(element_bytes, |n, d| n.checked_mul(*d))?;
        if bytes == 0 || i64::try_from(bytes).is_err() {
            return None;
        }
        Some(Self { shape: shape.into(), dtype: dtype.into(), bytes })
    }

    /// Length of each axis, outermost first.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// Element type as torch names it, without the `torch.` prefix.
    pub fn dtype(&self) -> &str {
        &self.dtype
    }

    /// Exact size in bytes, not rounded to any alignment.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}
