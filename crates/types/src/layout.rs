//! The shape of an object's bytes, and its identity.

use std::fmt;
use std::sync::Arc;

use crate::dtype::{DType, tensor_bytes};

/// Identifies a [`Layout`]: the same number for the same element type and shape, in every process.
///
/// Part of an object's key: bytes of one layout are never taken for those of another one of the same size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayoutId(u64);

impl LayoutId {
    /// Not known: the key comes from a place that does not say it, such as another server or a file of LMCache.
    pub const UNKNOWN: Self = Self(0);

    /// Digits of an id as text.
    pub const DIGITS: usize = 16;

    /// The first 64 bits of the BLAKE3 hash of element type and shape.
    fn of(shape: &[u64], dtype: DType) -> Self {
        let mut hasher = blake3::Hasher::new();
        // The name has no zero byte and the axes have a fixed width, so no two layouts are hashed alike.
        hasher.update(b"larder layout 1\0").update(dtype.name().as_bytes()).update(&[0]);
        for axis in shape {
            hasher.update(&axis.to_le_bytes());
        }
        let mut first = [0; 8];
        hasher.finalize_xof().fill(&mut first);
        Self(u64::from_le_bytes(first).max(1))
    }

    /// Whether the layout is known.
    pub const fn is_known(self) -> bool {
        self.0 != 0
    }

    /// The number, for digests of keys.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Reads an id of 16 lower-case hexadecimal digits. `None` for any other text, and for the unknown id.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == Self::DIGITS
            && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        let id = Self(u64::from_str_radix(text, 16).ok().filter(|_| digits)?);
        id.is_known().then_some(id)
    }
}

impl fmt::Display for LayoutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One tensor: its shape, its element type, and so its size.
///
/// Cheap to clone and to compare.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    shape: Arc<[u64]>,
    dtype: DType,
    bytes: u64,
    id: LayoutId,
}

impl Layout {
    /// A tensor of `shape` with elements of type `dtype`. `None` if it is empty or its size does not
    /// fit 63 bits.
    pub fn new(shape: &[u64], dtype: DType) -> Option<Self> {
        let bytes = tensor_bytes(dtype, shape).filter(|b| *b > 0 && i64::try_from(*b).is_ok())?;
        Some(Self { shape: shape.into(), dtype, bytes, id: LayoutId::of(shape, dtype) })
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

    /// What distinguishes it from all other layouts; never [`LayoutId::UNKNOWN`].
    pub fn id(&self) -> LayoutId {
        self.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(shape: &[u64], dtype: DType) -> LayoutId {
        Layout::new(shape, dtype).unwrap().id()
    }

    #[test]
    fn ids_differ_by_type_and_shape_at_equal_size() {
        let stored = id(&[2, 16, 8], DType::Float16);
        let same = [id(&[2, 16, 8], DType::from_name("half").unwrap()), stored];
        assert!(same.iter().all(|other| *other == stored));
        let others = [
            id(&[2, 16, 8], DType::BFloat16),
            id(&[2, 16, 16], DType::Float8E4M3Fn),
            id(&[4, 16, 4], DType::Float16),
            id(&[2, 1, 16, 8], DType::Float16),
            id(&[2, 8, 16], DType::Float16),
            id(&[256], DType::Float16),
        ];
        assert!(others.iter().all(|other| *other != stored && other.is_known()));
    }

    #[test]
    fn ids_are_the_same_in_every_version() {
        assert_eq!(id(&[2, 16, 8], DType::Float16).to_string(), "edf663b9e915dc48");
    }

    #[test]
    fn reads_ids_back() {
        let stored = id(&[2, 16, 8], DType::Float16);
        assert_eq!(LayoutId::parse(&stored.to_string()), Some(stored));
        for text in ["", "0000000000000000", "00000000000000AB", "+000000000000001", "1"] {
            assert_eq!(LayoutId::parse(text), None, "{text:?}");
        }
    }
}
