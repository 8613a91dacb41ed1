//! The shape of an object's bytes.

use std::sync::Arc;

use crate::dtype::{DType, tensor_bytes};

/// One tensor: its shape, its element type, and so its size.
///
/// Cheap to clone and to compare.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    shape: Arc<[u64]>,
    dtype: DType,
    bytes: u64,
}

impl Layout {
    /// A tensor of `shape` with elements of type `dtype`. `None` if it is empty or its size does not
    /// fit 63 bits.
    pub fn new(shape: &[u64], dtype: DType) -> Option<Self> {
        let bytes = tensor_bytes(dtype, shape).filter(|b| *b > 0 && i64::try_from(*b).is_ok())?;
        Some(Self { shape: shape.into(), dtype, bytes })
    }

    /// Length of each axis, outermost first.
    pub fn shape(&self) -> &Arc<[u64]> {
        &self.shape
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Exact size in bytes, not rounded to any alignment.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}
