//! Element types by the names torch gives them.

use std::fmt;

/// A name that is not an element type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not an element type")]
pub struct DTypeError {
    /// The start of the name as given.
    pub name: String,
}

/// Characters of a refused name that an error message repeats.
const QUOTED_CHARS_MAX: usize = 64;

macro_rules! dtypes {
    ($($variant:ident = $name:literal $(| $alias:literal)*, $width:literal, $storage:expr;)+) => {
        /// An element type of torch 2.13.
        ///
        /// Types narrower than a byte occupy a whole one; their width here is that of the memory they take.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DType {
            $(#[doc = concat!("`torch.", $name, "`.")] $variant,)+
        }

        impl DType {
            /// Every element type.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name as the reference writes it: without `torch.` and never an alias.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// Bytes per element.
            pub const fn width(self) -> usize {
                match self { $(Self::$variant => $width,)+ }
            }

            /// The storage class of torch that pickles of such tensors name; `None` for types that
            /// pickle in another way.
            pub const fn storage_class(self) -> Option<&'static str> {
                match self { $(Self::$variant => $storage,)+ }
            }

            /// Finds a type by its name or alias, as an attribute of the module `torch`.
            pub fn from_name(name: &str) -> Result<Self, DTypeError> {
                match name {
                    $($name $(| $alias)* => Ok(Self::$variant),)+
                    _ => Err(DTypeError { name: name.chars().take(QUOTED_CHARS_MAX).collect() }),
                }
            }

            /// Finds a type by the name of its storage class, such as `HalfStorage`.
            pub fn from_storage_class(class: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|dtype| dtype.storage_class() == Some(class))
            }
        }
    };
}

dtypes! {
    Float16 = "float16" | "half", 2, Some("HalfStorage");
    BFloat16 = "bfloat16", 2, Some("BFloat16Storage");
    Float32 = "float32" | "float", 4, Some("FloatStorage");
    Float64 = "float64" | "double", 8, Some("DoubleStorage");
    Float8E4M3Fn = "float8_e4m3fn", 1, None;
    Float8E4M3FnUz = "float8_e4m3fnuz", 1, None;
    Float8E5M2 = "float8_e5m2", 1, None;
    Float8E5M2FnUz = "float8_e5m2fnuz", 1, None;
    Float8E8M0Fnu = "float8_e8m0fnu", 1, None;
    Float4E2M1FnX2 = "float4_e2m1fn_x2", 1, None;
    UInt8 = "uint8", 1, Some("ByteStorage");
    Int8 = "int8", 1, Some("CharStorage");
    Int16 = "int16" | "short", 2, Some("ShortStorage");
    Int32 = "int32" | "int", 4, Some("IntStorage");
    Int64 = "int64" | "long", 8, Some("LongStorage");
    UInt16 = "uint16", 2, None;
    UInt32 = "uint32", 4, None;
    UInt64 = "uint64", 8, None;
    Bool = "bool", 1, Some("BoolStorage");
    Complex32 = "complex32" | "chalf", 4, None;
    Complex64 = "complex64" | "cfloat", 8, Some("ComplexFloatStorage");
    Complex128 = "complex128" | "cdouble", 16, Some("ComplexDoubleStorage");
    QInt8 = "qint8", 1, None;
    QUInt8 = "quint8", 1, None;
    QInt32 = "qint32", 4, None;
    QUInt4X2 = "quint4x2", 1, None;
    QUInt2X4 = "quint2x4", 1, None;
    Bits8 = "bits8", 1, None;
    Bits16 = "bits16", 2, None;
    Bits1X8 = "bits1x8", 1, None;
    Bits2X4 = "bits2x4", 1, None;
    Bits4X2 = "bits4x2", 1, None;
    UInt1 = "uint1" | "bit", 1, None;
    UInt2 = "uint2", 1, None;
    UInt3 = "uint3", 1, None;
    UInt4 = "uint4", 1, None;
    UInt5 = "uint5", 1, None;
    UInt6 = "uint6", 1, None;
    UInt7 = "uint7", 1, None;
    Int1 = "int1", 1, None;
    Int2 = "int2", 1, None;
    Int3 = "int3", 1, None;
    Int4 = "int4", 1, None;
    Int5 = "int5", 1, None;
    Int6 = "int6", 1, None;
    Int7 = "int7", 1, None;
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Bytes that `shape` takes with elements of `dtype`; `None` if that overflows 64 bits.
pub fn tensor_bytes(dtype: DType, shape: &[u64]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(dtype.width() as u64, |bytes, &size| bytes.checked_mul(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_types_by_name_and_alias() {
        for &dtype in DType::ALL {
            assert_eq!(DType::from_name(dtype.name()), Ok(dtype));
        }
        for (alias, name) in [("half", "float16"), ("float", "float32"), ("long", "int64"), ("bit", "uint1")]
        {
            assert_eq!(DType::from_name(alias).map(DType::name), Ok(name));
        }
        assert!(DType::from_name("float7").is_err());
        assert!(DType::from_name("torch.float16").is_err());
        assert_eq!(DType::ALL.len(), 46);
    }

    #[test]
    fn finds_types_by_storage_class() {
        for &dtype in DType::ALL {
            if let Some(class) = dtype.storage_class() {
                assert_eq!(DType::from_storage_class(class), Some(dtype));
            }
        }
        assert_eq!(DType::from_storage_class("UntypedStorage"), None);
    }

    #[test]
    fn sizes_of_tensors_do_not_overflow() {
        assert_eq!(tensor_bytes(DType::Float16, &[2, 16, 12]), Some(768));
        assert_eq!(tensor_bytes(DType::Float16, &[u64::MAX, 2]), None);
        assert_eq!(tensor_bytes(DType::Float16, &[u64::MAX, 2, 0]), Some(0));
        assert_eq!(tensor_bytes(DType::Float32, &[]), Some(4));
    }
}
