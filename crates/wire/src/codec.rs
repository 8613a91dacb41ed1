//! How the values of the protocol are laid out in MessagePack, for requests and responses alike.
//!
//! A structure names its fields once, in `structure!` (a map with text keys) or in `payloads!` (one
//! payload frame for each field). Both keep the rules of the reference's decoder, msgspec, and the limits
//! of [`Reader`]. serde with rmp-serde was tried for these structures and is not used, because it accepts
//! and rejects other bytes (rmp-serde 1.3): it takes arrays and integer keys where a map with text keys is
//! declared and bytes where text is declared, refuses repeated keys, recurses into unknown fields up to a
//! depth limit, and its errors do not name the field.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use larder_types::InstanceId;
use larder_types::dtype::DType;

use crate::error::DecodeError;
use crate::msgpack::{Reader, Writer};

/// The longest wait that a request can ask for.
pub const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Axes of a tensor; torch's own limit is 64.
pub const TENSOR_AXES_MAX: usize = 64;

/// Groups of layers of one worker that copies by itself.
pub const GROUPS_MAX: usize = 64;

/// Kernel groups of one registration or transfer.
pub const KERNEL_GROUPS_MAX: usize = 1 << 12;

/// Texts of one list.
const TEXTS_MAX: usize = 1 << 10;

/// A type with one MessagePack form.
pub trait Value: Sized {
    /// Reads a value from the front of `reader`; errors name `field`.
    ///
    /// # Errors
    /// The bytes are of another type, break a limit, or end early.
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError>;

    /// Appends the value as stock clients and servers write it.
    fn encode(&self, writer: &mut Writer);

    /// Whether the value is left out of its structure.
    fn is_left_out(&self) -> bool {
        false
    }

    /// Decodes a payload frame that holds this value and nothing else.
    ///
    /// # Errors
    /// As [`Value::decode`]; also if bytes are left over.
    fn decode_payload(frame: &Bytes, field: &'static str) -> Result<Self, DecodeError> {
        decode_only(frame, field, |reader| Self::decode(reader, field))
    }
}

/// A [`Value`] that also occurs in lists.
pub trait Entry: Value {
    /// Entries that one list may have.
    const LIST_MAX: usize;
}

/// The payload frames of an operation.
pub trait Payloads: Sized {
    /// Frames of a request.
    const COUNT: usize;

    /// Decodes the frames of a request.
    ///
    /// # Errors
    /// The count of frames is not [`Payloads::COUNT`], or a frame does not hold its value. The reference
    /// leaves such requests without an answer.
    fn decode(frames: &[Bytes]) -> Result<Self, DecodeError>;

    /// Encodes the frames as stock clients do.
    fn encode(&self) -> Vec<Bytes>;
}

/// Reads one value that takes up all of `bytes`.
pub(crate) fn decode_only<'a, T>(
    bytes: &'a [u8],
    field: &'static str,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let mut reader = Reader::new(bytes);
    let value = read(&mut reader)?;
    reader.finish(field)?;
    Ok(value)
}

/// Encodes one value as a frame.
pub fn encode_frame(value: &impl Value) -> Bytes {
    let mut writer = Writer::new();
    value.encode(&mut writer);
    writer.into_bytes()
}

/// The name of a field on the wire: the field's own unless another is given.
macro_rules! wire_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $name:literal) => {
        $name
    };
}

/// Implements [`Value`] for a structure that travels as a map with text keys.
///
/// Fields are written in the order given. A field with `= value` may be absent. Unknown fields are
/// skipped; of a repeated one the last counts.
macro_rules! structure {
    ($type:ident { $($field:ident $(as $name:literal)? $(= $default:expr)?),+ $(,)? }) => {
        impl $crate::codec::Value for $type {
            fn decode(
                reader: &mut $crate::msgpack::Reader<'_>,
                structure: &'static str,
            ) -> Result<Self, $crate::error::DecodeError> {
                $(let mut $field = None;)+
                reader.structure(structure, |key, reader| {
                    $({
                        const NAME: &str = $crate::codec::wire_name!($field $($name)?);
                        if key == NAME.as_bytes() {
                            $field = Some($crate::codec::Value::decode(reader, NAME)?);
                            return Ok(());
                        }
                    })+
                    reader.skip(structure)
                })?;
                Ok(Self {
                    $($field: match $field {
                        Some(value) => value,
                        None => $crate::codec::structure!(@absent $field [$($name)?] $($default)?),
                    },)+
                })
            }

            fn encode(&self, writer: &mut $crate::msgpack::Writer) {
                let left_out = [$($crate::codec::Value::is_left_out(&self.$field)),+];
                writer.map(left_out.iter().filter(|left_out| !**left_out).count());
                $(if !$crate::codec::Value::is_left_out(&self.$field) {
                    writer.str($crate::codec::wire_name!($field $($name)?));
                    $crate::codec::Value::encode(&self.$field, writer);
                })+
            }
        }
    };
    (@absent $field:ident [$($name:literal)?]) => {
        return Err($crate::error::DecodeError::Missing { field: $crate::codec::wire_name!($field $($name)?) })
    };
    (@absent $field:ident [$($name:literal)?] $default:expr) => {
        $default
    };
}

/// Implements [`Payloads`] for a structure with one payload frame for each field, in the order given.
macro_rules! payloads {
    ($type:ident { $($field:ident $(as $name:literal)?),* $(,)? }) => {
        impl $crate::codec::Payloads for $type {
            const COUNT: usize = {
                const NAMES: &[&str] = &[$(stringify!($field)),*];
                NAMES.len()
            };

            fn decode(frames: &[bytes::Bytes]) -> Result<Self, $crate::error::DecodeError> {
                let [$($field),*] = frames else {
                    return Err($crate::ops::payload_count::<Self>(frames.len()));
                };
                Ok(Self {
                    $($field: $crate::codec::Value::decode_payload(
                        $field,
                        $crate::codec::wire_name!($field $($name)?),
                    )?,)*
                })
            }

            fn encode(&self) -> Vec<bytes::Bytes> {
                vec![$($crate::codec::encode_frame(&self.$field)),*]
            }
        }
    };
}

pub(crate) use {payloads, structure, wire_name};

/// Nil.
impl Value for () {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        if reader.nil() {
            return Ok(());
        }
        Err(DecodeError::Type { field, expected: "nil", found: reader.kind(field)?.name() })
    }

    fn encode(&self, writer: &mut Writer) {
        writer.nil();
    }
}

impl Value for bool {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        reader.bool(field)
    }

    fn encode(&self, writer: &mut Writer) {
        writer.bool(*self);
    }

    /// A payload declared as a boolean takes values of any type.
    fn decode_payload(frame: &Bytes, field: &'static str) -> Result<Self, DecodeError> {
        decode_only(frame, field, |reader| reader.loose_bool(field))
    }
}

impl Value for i64 {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        reader.i64(field)
    }

    fn encode(&self, writer: &mut Writer) {
        writer.int(*self);
    }

    /// A payload declared as an integer takes booleans, floats and decimal text too.
    fn decode_payload(frame: &Bytes, field: &'static str) -> Result<Self, DecodeError> {
        decode_only(frame, field, |reader| reader.loose_i64(field))
    }
}

impl Value for u64 {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        reader.u64(field)
    }

    fn encode(&self, writer: &mut Writer) {
        writer.uint(*self);
    }
}

impl Entry for u64 {
    const LIST_MAX: usize = TENSOR_AXES_MAX;
}

impl Value for InstanceId {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        reader.i64(field).map(Self)
    }

    fn encode(&self, writer: &mut Writer) {
        writer.int(self.0);
    }

    fn decode_payload(frame: &Bytes, field: &'static str) -> Result<Self, DecodeError> {
        i64::decode_payload(frame, field).map(Self)
    }
}

/// The wait that a request asks for by a number of seconds.
pub(crate) fn wait(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.min(WAIT_MAX.as_secs_f64())).unwrap_or_default()
}

/// Seconds. A negative number means no wait, and more than [`WAIT_MAX`] means that.
impl Value for Duration {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        reader.f64(field).map(wait)
    }

    fn encode(&self, writer: &mut Writer) {
        writer.f64(self.as_secs_f64());
    }
}

impl Value for String {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        reader.str(field).map(str::to_owned)
    }

    fn encode(&self, writer: &mut Writer) {
        writer.str(self);
    }
}

impl Entry for String {
    const LIST_MAX: usize = TEXTS_MAX;
}

/// The name of a model or a request, see [`Reader::name`].
impl Value for Arc<str> {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        reader.name(field).map(Self::from)
    }

    fn encode(&self, writer: &mut Writer) {
        writer.str(self);
    }
}

impl Value for Bytes {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        reader.bin(field).map(Self::copy_from_slice)
    }

    fn encode(&self, writer: &mut Writer) {
        writer.bin(self);
    }

    /// A slice of the frame, not a copy.
    fn decode_payload(frame: &Bytes, field: &'static str) -> Result<Self, DecodeError> {
        decode_only(frame, field, |reader| reader.bin(field)).map(|bytes| frame.slice_ref(bytes))
    }
}

/// Nil for `None`.
impl<T: Value> Value for Option<T> {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        if reader.nil() { Ok(None) } else { T::decode(reader, field).map(Some) }
    }

    fn encode(&self, writer: &mut Writer) {
        match self {
            Some(value) => value.encode(writer),
            None => writer.nil(),
        }
    }
}

/// A field that older clients and servers do not know. `None`: it is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Newer<T>(pub Option<T>);

impl<T: Value> Value for Newer<T> {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        T::decode(reader, field).map(|value| Self(Some(value)))
    }

    fn encode(&self, writer: &mut Writer) {
        match &self.0 {
            Some(value) => value.encode(writer),
            None => writer.nil(),
        }
    }

    fn is_left_out(&self) -> bool {
        self.0.is_none()
    }
}

impl<T: Entry> Value for Vec<T> {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        reader.list(field, T::LIST_MAX, |reader| T::decode(reader, field))
    }

    fn encode(&self, writer: &mut Writer) {
        writer.array(self.len());
        self.iter().for_each(|entry| entry.encode(writer));
    }
}

/// Bounded by the frame alone: an integer takes at most eight times its bytes there.
impl Value for Vec<i64> {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        let count = reader.array(field)?;
        let mut values = Self::with_capacity(count);
        for _ in 0..count {
            values.push(reader.i64(field)?);
        }
        Ok(values)
    }

    fn encode(&self, writer: &mut Writer) {
        writer.ints(self);
    }
}

/// Block ids, one list for each kernel group.
impl Entry for Vec<i64> {
    const LIST_MAX: usize = KERNEL_GROUPS_MAX;
}

/// Shapes, one for each kernel group.
impl Entry for Vec<u64> {
    const LIST_MAX: usize = KERNEL_GROUPS_MAX;
}

/// A shape.
impl Value for Arc<[u64]> {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        Vec::decode(reader, field).map(Self::from)
    }

    fn encode(&self, writer: &mut Writer) {
        writer.uints(self);
    }
}

/// The element type by torch's name or an alias.
impl Value for DType {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        let name = reader.str(field)?;
        Self::from_name(name).map_err(|_| DecodeError::unknown_name(field, name))
    }

    fn encode(&self, writer: &mut Writer) {
        writer.str(self.name());
    }
}

impl Entry for DType {
    const LIST_MAX: usize = KERNEL_GROUPS_MAX;
}

/// One value of any type, as its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawValue(pub Bytes);

impl Value for RawValue {
    fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, DecodeError> {
        reader.raw(field).map(|bytes| Self(Bytes::copy_from_slice(bytes)))
    }

    fn encode(&self, writer: &mut Writer) {
        writer.raw(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Sample {
        count: i64,
        label: String,
        limit: Option<i64>,
    }

    structure!(Sample { count, label as "name", limit = None });

    fn decode(bytes: &'static [u8]) -> Result<Sample, DecodeError> {
        Sample::decode_payload(&Bytes::from_static(bytes), "sample")
    }

    fn sample(count: i64) -> Sample {
        Sample { count, label: "x".to_owned(), limit: None }
    }

    #[test]
    fn structure_takes_fields_in_any_order_and_skips_unknown_ones() {
        assert_eq!(decode(b"\x82\xa4name\xa1x\xa5count\x01"), Ok(sample(1)));
        assert_eq!(decode(b"\x83\xa5other\x91\x80\xa4name\xa1x\xa5count\x01"), Ok(sample(1)));
        assert_eq!(decode(b"\x83\xa5limit\xc0\xa4name\xa1x\xa5count\x01"), Ok(sample(1)));
    }

    #[test]
    fn structure_takes_the_last_of_a_repeated_field() {
        assert_eq!(decode(b"\x83\xa5count\x01\xa4name\xa1x\xa5count\x02"), Ok(sample(2)));
    }

    #[test]
    fn structure_refuses_other_forms_and_names_the_field() {
        let type_error = |field, expected, found| Err(DecodeError::Type { field, expected, found });
        assert_eq!(decode(b"\x92\x01\xa1x"), type_error("sample", "a map", "an array"));
        assert_eq!(decode(b"\x82\x00\x01\x01\xa1x"), type_error("sample", "text", "an integer"));
        assert_eq!(decode(b"\x82\xa5count\x01\xa4name\xc4\x01x"), type_error("name", "text", "bytes"));
        assert_eq!(decode(b"\x81\xa5count\x01"), Err(DecodeError::Missing { field: "name" }));
    }

    #[test]
    fn structure_writes_fields_in_order() {
        assert_eq!(&encode_frame(&sample(1))[..], b"\x83\xa5count\x01\xa4name\xa1x\xa5limit\xc0");
    }
}
