//! A MessagePack reader and writer for this protocol.
//!
//! The reader works on borrowed bytes, never recurses (skipping a nested value counts the values still to
//! be skipped), and never allocates by a claimed length that the remaining bytes could not fill. It takes
//! any encoding of a value, minimal or not. The writer emits the encodings of the reference: the shortest
//! integer and length forms, and every float in eight bytes.
//!
//! Format: <https://github.com/msgpack/msgpack/blob/master/spec.md>.

use crate::error::DecodeError;

type Result<T> = std::result::Result<T, DecodeError>;

/// The longest name of a model, in bytes. Names on the model hub are below 100.
pub const NAME_BYTES_MAX: usize = 1024;

/// The longest id of a request, in bytes. vLLM's are below 100, besides what its user chooses.
pub const REQUEST_ID_BYTES_MAX: usize = 256;

/// Reads MessagePack values from the front of a byte slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

/// The type of a value, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `nil`.
    Nil,
    /// `true` or `false`.
    Bool,
    /// An integer of any width, signed or not.
    Int,
    /// A float of 32 or 64 bits.
    Float,
    /// Text.
    Str,
    /// Bytes.
    Bin,
    /// An array.
    Array,
    /// A map.
    Map,
    /// An extension value.
    Ext,
    /// The byte 0xc1, which no encoder may emit.
    Reserved,
}

impl Kind {
    /// The kind that a first byte announces.
    pub const fn of(first: u8) -> Self {
        match first {
            0x00..=0x7f | 0xcc..=0xd3 | 0xe0..=0xff => Self::Int,
            0x80..=0x8f | 0xde | 0xdf => Self::Map,
            0x90..=0x9f | 0xdc | 0xdd => Self::Array,
            0xa0..=0xbf | 0xd9..=0xdb => Self::Str,
            0xc0 => Self::Nil,
            0xc1 => Self::Reserved,
            0xc2 | 0xc3 => Self::Bool,
            0xc4..=0xc6 => Self::Bin,
            0xc7..=0xc9 | 0xd4..=0xd8 => Self::Ext,
            0xca | 0xcb => Self::Float,
        }
    }

    /// The name for error messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nil => "nil",
            Self::Bool => "a boolean",
            Self::Int => "an integer",
            Self::Float => "a float",
            Self::Str => "text",
            Self::Bin => "bytes",
            Self::Array => "an array",
            Self::Map => "a map",
            Self::Ext => "an extension value",
            Self::Reserved => "the reserved byte 0xc1",
        }
    }
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The bytes not read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Drops `count` bytes that the caller has read from [`Reader::rest`].
    pub(crate) fn advance(&mut self, count: usize) {
        self.rest = self.rest.get(count..).unwrap_or_default();
    }

    /// Checks that nothing is left.
    pub fn finish(&self, field: &'static str) -> Result<()> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(DecodeError::Trailing { field, count }),
        }
    }

    /// The kind of the next value, which stays unread.
    pub fn kind(&self, field: &'static str) -> Result<Kind> {
        self.rest.first().map(|&first| Kind::of(first)).ok_or(DecodeError::Truncated { field })
    }

    fn mismatch(&self, field: &'static str, expected: &'static str) -> DecodeError {
        match self.kind(field) {
            Ok(kind) => DecodeError::Type { field, expected, found: kind.name() },
            Err(error) => error,
        }
    }

    fn take(&mut self, field: &'static str, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::Truncated { field })?;
        self.rest = rest;
        Ok(taken)
    }

    fn array_of<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated { field })?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Big-endian unsigned number of `N` bytes, as used for lengths.
    fn length<const N: usize>(&mut self, field: &'static str) -> Result<usize> {
        let bytes = self.array_of::<N>(field)?;
        let value = bytes.iter().fold(0_u64, |value, &byte| value << 8 | u64::from(byte));
        // A length that does not fit the address space cannot be backed by bytes either.
        usize::try_from(value).map_err(|_| DecodeError::Truncated { field })
    }

    fn first(&mut self, field: &'static str) -> Result<u8> {
        Ok(self.array_of::<1>(field)?[0])
    }

    /// Reads `nil` if that is next.
    pub fn nil(&mut self) -> bool {
        let found = self.rest.first() == Some(&0xc0);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    /// Reads an integer in any encoding. Booleans and floats are refused.
    pub fn int(&mut self, field: &'static str) -> Result<i128> {
        if self.kind(field)? != Kind::Int {
            return Err(self.mismatch(field, "an integer"));
        }
        Ok(match self.first(field)? {
            first @ 0x00..=0x7f => i128::from(first),
            0xcc => i128::from(u8::from_be_bytes(self.array_of(field)?)),
            0xcd => i128::from(u16::from_be_bytes(self.array_of(field)?)),
            0xce => i128::from(u32::from_be_bytes(self.array_of(field)?)),
            0xcf => i128::from(u64::from_be_bytes(self.array_of(field)?)),
            0xd0 => i128::from(i8::from_be_bytes(self.array_of(field)?)),
            0xd1 => i128::from(i16::from_be_bytes(self.array_of(field)?)),
            0xd2 => i128::from(i32::from_be_bytes(self.array_of(field)?)),
            0xd3 => i128::from(i64::from_be_bytes(self.array_of(field)?)),
            first => i128::from(first.cast_signed()),
        })
    }

    /// Reads an integer in the range of `i64`.
    pub fn i64(&mut self, field: &'static str) -> Result<i64> {
        int_to(field, self.int(field)?, "the range of a signed 64-bit integer")
    }

    /// Reads an integer in the range of `u64`.
    pub fn u64(&mut self, field: &'static str) -> Result<u64> {
        int_to(field, self.int(field)?, "the range of an unsigned 64-bit integer")
    }

    /// Reads an integer in the range of `u32`.
    pub fn u32(&mut self, field: &'static str) -> Result<u32> {
        int_to(field, self.int(field)?, "the range of an unsigned 32-bit integer")
    }

    /// Reads a boolean; integers are refused.
    pub fn bool(&mut self, field: &'static str) -> Result<bool> {
        match self.rest.first() {
            Some(0xc2 | 0xc3) => Ok(self.first(field)? == 0xc3),
            _ => Err(self.mismatch(field, "a boolean")),
        }
    }

    /// Reads a float of either width, or an integer converted to one.
    pub fn f64(&mut self, field: &'static str) -> Result<f64> {
        match self.kind(field)? {
            Kind::Int => Ok(self.int(field)? as f64),
            Kind::Float => match self.first(field)? {
                0xca => Ok(f64::from(f32::from_be_bytes(self.array_of(field)?))),
                _ => Ok(f64::from_be_bytes(self.array_of(field)?)),
            },
            _ => Err(self.mismatch(field, "a number")),
        }
    }

    /// Reads text as its bytes, without looking at the encoding.
    fn str_bytes(&mut self, field: &'static str) -> Result<&'a [u8]> {
        if self.kind(field)? != Kind::Str {
            return Err(self.mismatch(field, "text"));
        }
        let count = match self.first(field)? {
            0xd9 => self.length::<1>(field)?,
            0xda => self.length::<2>(field)?,
            0xdb => self.length::<4>(field)?,
            first => usize::from(first & 0x1f),
        };
        self.take(field, count)
    }

    /// Reads text.
    pub fn str(&mut self, field: &'static str) -> Result<&'a str> {
        std::str::from_utf8(self.str_bytes(field)?).map_err(|_| DecodeError::Utf8 { field })
    }

    /// Reads the name of a model, or the id of a request if the field is `request_id`. The server keeps these, so they
    /// are bounded by [`NAME_BYTES_MAX`] and [`REQUEST_ID_BYTES_MAX`].
    pub fn name(&mut self, field: &'static str) -> Result<&'a str> {
        let name = self.str(field)?;
        let limit = if field == "request_id" { REQUEST_ID_BYTES_MAX } else { NAME_BYTES_MAX };
        if name.len() > limit {
            return Err(DecodeError::TooLong { field, bytes: name.len(), limit });
        }
        Ok(name)
    }

    /// Reads bytes; text is refused.
    pub fn bin(&mut self, field: &'static str) -> Result<&'a [u8]> {
        if self.kind(field)? != Kind::Bin {
            return Err(self.mismatch(field, "bytes"));
        }
        let count = match self.first(field)? {
            0xc4 => self.length::<1>(field)?,
            0xc5 => self.length::<2>(field)?,
            _ => self.length::<4>(field)?,
        };
        self.take(field, count)
    }

    /// Reads the head of an array and returns its entry count, which the bytes that follow can hold:
    /// every entry takes at least one byte.
    pub fn array(&mut self, field: &'static str) -> Result<usize> {
        if self.kind(field)? != Kind::Array {
            return Err(self.mismatch(field, "an array"));
        }
        let count = match self.first(field)? {
            0xdc => self.length::<2>(field)?,
            0xdd => self.length::<4>(field)?,
            first => usize::from(first & 0x0f),
        };
        if count > self.rest.len() {
            return Err(DecodeError::Truncated { field });
        }
        Ok(count)
    }

    /// Like [`Reader::array`], refusing more than `limit` entries.
    pub fn array_up_to(&mut self, field: &'static str, limit: usize) -> Result<usize> {
        match self.array(field)? {
            count if count > limit => Err(DecodeError::TooMany { field, count, limit }),
            count => Ok(count),
        }
    }

    /// Reads an array of exactly `expected` entries.
    pub fn tuple(&mut self, field: &'static str, expected: usize, words: &'static str) -> Result<()> {
        if self.kind(field)? != Kind::Array {
            return Err(self.mismatch(field, words));
        }
        if self.array(field)? != expected {
            return Err(DecodeError::Type { field, expected: words, found: "an array of another length" });
        }
        Ok(())
    }

    /// Reads the head of a map and returns its entry count, which the bytes that follow can hold.
    pub fn map(&mut self, field: &'static str) -> Result<usize> {
        if self.kind(field)? != Kind::Map {
            return Err(self.mismatch(field, "a map"));
        }
        let count = match self.first(field)? {
            0xde => self.length::<2>(field)?,
            0xdf => self.length::<4>(field)?,
            first => usize::from(first & 0x0f),
        };
        if count > self.rest.len() / 2 {
            return Err(DecodeError::Truncated { field });
        }
        Ok(count)
    }

    /// Reads a structure: a map with text keys. `read` is called for every entry with the key and has
    /// to read or [`Reader::skip`] the value. Of a repeated key the last entry counts.
    pub fn structure(
        &mut self,
        field: &'static str,
        mut read: impl FnMut(&'a [u8], &mut Self) -> Result<()>,
    ) -> Result<()> {
        for _ in 0..self.map(field)? {
            let key = self.str_bytes(field)?;
            read(key, self)?;
        }
        Ok(())
    }

    /// Reads a list by calling `read` for every entry, refusing more than `limit` entries.
    pub fn list<T>(
        &mut self,
        field: &'static str,
        limit: usize,
        mut read: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let count = self.array_up_to(field, limit)?;
        // Grown by use: an entry may be far larger in memory than the byte that claims it.
        let mut list = Vec::with_capacity(count.min(LIST_CAPACITY_FIRST));
        for _ in 0..count {
            list.push(read(self)?);
        }
        Ok(list)
    }

    /// Reads an extension value: its type code and its body.
    pub fn ext(&mut self, field: &'static str) -> Result<(i8, &'a [u8])> {
        if self.kind(field)? != Kind::Ext {
            return Err(self.mismatch(field, "an extension value"));
        }
        let count = match self.first(field)? {
            0xc7 => self.length::<1>(field)?,
            0xc8 => self.length::<2>(field)?,
            0xc9 => self.length::<4>(field)?,
            first => 1 << (first - 0xd4),
        };
        let code = self.first(field)?.cast_signed();
        Ok((code, self.take(field, count)?))
    }

    /// Skips one value of any kind and depth.
    pub fn skip(&mut self, field: &'static str) -> Result<()> {
        let mut due = 1_usize;
        while due > 0 {
            due -= 1;
            match self.kind(field)? {
                Kind::Nil | Kind::Bool => self.advance(1),
                Kind::Int => drop(self.int(field)?),
                Kind::Float => drop(self.f64(field)?),
                Kind::Str => drop(self.str_bytes(field)?),
                Kind::Bin => drop(self.bin(field)?),
                Kind::Ext => drop(self.ext(field)?),
                Kind::Array => due += self.array(field)?,
                Kind::Map => due += 2 * self.map(field)?,
                Kind::Reserved => return Err(self.mismatch(field, "a MessagePack value")),
            }
            // Each value still due takes at least one byte, so this also bounds `due`.
            if due > self.rest.len() {
                return Err(DecodeError::Truncated { field });
            }
        }
        Ok(())
    }

    /// Skips one value and returns its bytes.
    pub fn raw(&mut self, field: &'static str) -> Result<&'a [u8]> {
        let before = self.rest;
        self.skip(field)?;
        Ok(&before[..before.len() - self.rest.len()])
    }

    /// Reads a payload declared plainly as an integer: booleans count as 0 and 1, floats are cut off,
    /// text and bytes are read as a decimal number, as the reference does.
    pub fn loose_int(&mut self, field: &'static str) -> Result<i128> {
        match self.kind(field)? {
            Kind::Bool => Ok(i128::from(self.bool(field)?)),
            Kind::Float => {
                let value = self.f64(field)?;
                if value.abs() < LOOSE_FLOAT_LIMIT {
                    Ok(value.trunc() as i128)
                } else {
                    Err(DecodeError::Type { field, expected: "an integer", found: "a float without one" })
                }
            }
            Kind::Str => parse_decimal(field, self.str(field)?),
            Kind::Bin => {
                let bytes = self.bin(field)?;
                parse_decimal(field, std::str::from_utf8(bytes).map_err(|_| DecodeError::Utf8 { field })?)
            }
            _ => self.int(field),
        }
    }

    /// [`Reader::loose_int`] in the range of `i64`.
    pub fn loose_i64(&mut self, field: &'static str) -> Result<i64> {
        int_to(field, self.loose_int(field)?, "the range of a signed 64-bit integer")
    }

    /// Reads a payload declared plainly as a boolean: nil, zero and whatever is empty are false, all
    /// else is true, as in the reference.
    pub fn loose_bool(&mut self, field: &'static str) -> Result<bool> {
        let before = self.clone();
        let kind = self.kind(field)?;
        self.skip(field)?;
        let mut value = before;
        Ok(match kind {
            Kind::Nil | Kind::Reserved => false,
            Kind::Bool => value.bool(field)?,
            Kind::Int => value.int(field)? != 0,
            Kind::Float => value.f64(field)? != 0.0,
            Kind::Str => !value.str(field)?.is_empty(),
            Kind::Bin => !value.bin(field)?.is_empty(),
            Kind::Array => value.array(field)? > 0,
            Kind::Map => value.map(field)? > 0,
            Kind::Ext => true,
        })
    }
}

/// Entries that a list reserves capacity for at first.
const LIST_CAPACITY_FIRST: usize = 64;

/// Floats from this one on (2^96) are refused as integers.
const LOOSE_FLOAT_LIMIT: f64 = 79_228_162_514_264_337_593_543_950_336.0;

/// Converts to a narrower integer; `allowed` describes the range in the error.
pub(crate) fn int_to<T: TryFrom<i128>>(field: &'static str, value: i128, allowed: &'static str) -> Result<T> {
    T::try_from(value).map_err(|_| DecodeError::OutOfRange { field, value, allowed })
}

/// The value of a required field, or the error that it is missing.
pub(crate) fn required<T>(field: &'static str, value: Option<T>) -> Result<T> {
    value.ok_or(DecodeError::Missing { field })
}

/// A decimal number as Python's `int` reads one from ASCII text: blanks around it, a sign, single
/// underscores between digits.
fn parse_decimal(field: &'static str, text: &str) -> Result<i128> {
    let refused = || DecodeError::Type { field, expected: "an integer", found: "text that is no number" };
    let trimmed = text.trim();
    let (negative, digits) = match trimmed.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let mut value = 0_i128;
    let mut digit_before = false;
    for &byte in digits {
        match byte {
            b'0'..=b'9' => {
                let next = value.checked_mul(10).and_then(|value| value.checked_add(i128::from(byte - b'0')));
                value = next.ok_or_else(refused)?;
                digit_before = true;
            }
            b'_' if digit_before => digit_before = false,
            _ => return Err(refused()),
        }
    }
    if !digit_before {
        return Err(refused());
    }
    Ok(if negative { -value } else { value })
}

/// Writes MessagePack values in their shortest encodings.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// An empty writer.
    pub const fn new() -> Self {
        Self { out: Vec::new() }
    }

    /// An empty writer with capacity for `bytes` bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { out: Vec::with_capacity(bytes) }
    }

    /// Reserves capacity for `bytes` more bytes.
    pub fn reserve(&mut self, bytes: usize) {
        self.out.reserve(bytes);
    }

    /// The bytes written.
    pub fn into_bytes(self) -> bytes::Bytes {
        self.out.into()
    }

    /// Appends bytes that already are MessagePack.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Writes `nil`.
    pub fn nil(&mut self) {
        self.out.push(0xc0);
    }

    /// Writes a boolean.
    pub fn bool(&mut self, value: bool) {
        self.out.push(if value { 0xc3 } else { 0xc2 });
    }

    /// Writes an unsigned integer.
    pub fn uint(&mut self, value: u64) {
        if let Ok(value) = u8::try_from(value) {
            if value >= 0x80 {
                self.out.push(0xcc);
            }
            self.out.push(value);
        } else if let Ok(value) = u16::try_from(value) {
            self.head(0xcd, &value.to_be_bytes());
        } else if let Ok(value) = u32::try_from(value) {
            self.head(0xce, &value.to_be_bytes());
        } else {
            self.head(0xcf, &value.to_be_bytes());
        }
    }

    /// Writes a signed integer.
    pub fn int(&mut self, value: i64) {
        if let Ok(value) = u64::try_from(value) {
            self.uint(value);
        } else if value >= -32 {
            self.out.push((value as i8).cast_unsigned());
        } else if let Ok(value) = i8::try_from(value) {
            self.head(0xd0, &value.to_be_bytes());
        } else if let Ok(value) = i16::try_from(value) {
            self.head(0xd1, &value.to_be_bytes());
        } else if let Ok(value) = i32::try_from(value) {
            self.head(0xd2, &value.to_be_bytes());
        } else {
            self.head(0xd3, &value.to_be_bytes());
        }
    }

    /// Writes an integer that a reader took; values outside 64 bits, which no reader returns, are
    /// clamped.
    pub(crate) fn int_any(&mut self, value: i128) {
        match u64::try_from(value) {
            Ok(value) => self.uint(value),
            Err(_) if value > 0 => self.uint(u64::MAX),
            Err(_) => self.int(i64::try_from(value).unwrap_or(i64::MIN)),
        }
    }

    /// Writes a float in eight bytes.
    pub fn f64(&mut self, value: f64) {
        self.head(0xcb, &value.to_be_bytes());
    }

    /// Writes text.
    pub fn str(&mut self, value: &str) {
        match value.len() {
            count @ 0..=31 => self.out.push(0xa0 | count as u8),
            count => self.length(Some(0xd9), 0xda, 0xdb, count),
        }
        self.raw(value.as_bytes());
    }

    /// Writes bytes.
    pub fn bin(&mut self, value: &[u8]) {
        self.length(Some(0xc4), 0xc5, 0xc6, value.len());
        self.raw(value);
    }

    /// Writes `count` bytes, which `fill` is given as zeros.
    pub(crate) fn bin_with(&mut self, count: usize, fill: impl FnOnce(&mut [u8])) {
        self.length(Some(0xc4), 0xc5, 0xc6, count);
        let start = self.out.len();
        self.out.resize(start + count, 0);
        fill(&mut self.out[start..]);
    }

    /// Writes the head of an array; `count` values have to follow.
    pub fn array(&mut self, count: usize) {
        match count {
            0..=15 => self.out.push(0x90 | count as u8),
            _ => self.length(None, 0xdc, 0xdd, count),
        }
    }

    /// Writes the head of a map; `count` pairs of values have to follow.
    pub fn map(&mut self, count: usize) {
        match count {
            0..=15 => self.out.push(0x80 | count as u8),
            _ => self.length(None, 0xde, 0xdf, count),
        }
    }

    /// Writes an array of signed integers.
    pub fn ints(&mut self, values: &[i64]) {
        self.array(values.len());
        values.iter().for_each(|&value| self.int(value));
    }

    /// Writes an array of unsigned integers.
    pub fn uints(&mut self, values: &[u64]) {
        self.array(values.len());
        values.iter().for_each(|&value| self.uint(value));
    }

    /// Writes an extension value.
    pub fn ext(&mut self, code: i8, body: &[u8]) {
        match body.len() {
            1 => self.out.push(0xd4),
            2 => self.out.push(0xd5),
            4 => self.out.push(0xd6),
            8 => self.out.push(0xd7),
            16 => self.out.push(0xd8),
            count => self.length(Some(0xc7), 0xc8, 0xc9, count),
        }
        self.out.push(code.cast_unsigned());
        self.raw(body);
    }

    fn head(&mut self, first: u8, rest: &[u8]) {
        self.out.push(first);
        self.raw(rest);
    }

    /// Lengths stop at 32 bits; frames of this protocol are far smaller.
    fn length(&mut self, one: Option<u8>, two: u8, four: u8, count: usize) {
        match (one, u8::try_from(count), u16::try_from(count)) {
            (Some(first), Ok(count), _) => self.head(first, &[count]),
            (_, _, Ok(count)) => self.head(two, &count.to_be_bytes()),
            _ => {
                let count = u32::try_from(count).expect("a MessagePack value is at most 4 GiB long");
                self.head(four, &count.to_be_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loose(bytes: &[u8]) -> Result<i128> {
        let mut reader = Reader::new(bytes);
        let value = reader.loose_int("n")?;
        reader.finish("n")?;
        Ok(value)
    }

    #[test]
    fn length_of_names_is_bounded_and_of_other_text_is_not() {
        let limits = [("model_name", NAME_BYTES_MAX), ("request_id", REQUEST_ID_BYTES_MAX)];
        let cases =
            limits.map(|(field, max)| [(field, 0, true), (field, max, true), (field, max + 1, false)]);
        for (field, len, fits) in cases.into_iter().flatten() {
            let mut writer = Writer::new();
            writer.str(&"x".repeat(len));
            let bytes = writer.into_bytes();
            assert_eq!(Reader::new(&bytes).name(field).is_ok(), fits, "{field} of {len} bytes");
            assert!(Reader::new(&bytes).str("text").is_ok());
        }
    }

    #[test]
    fn reads_integers_of_every_width_and_sign() {
        let cases: [(&[u8], i128); 10] = [
            (&[0x05], 5),
            (&[0xcc, 5], 5),
            (&[0xcd, 0, 5], 5),
            (&[0xce, 0, 0, 0, 5], 5),
            (&[0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], u64::MAX as i128),
            (&[0xd0, 0xfb], -5),
            (&[0xd1, 0, 5], 5),
            (&[0xd2, 0xff, 0xff, 0xff, 0xfb], -5),
            (&[0xd3, 0, 0, 0, 0, 0, 0, 0, 5], 5),
            (&[0xff], -1),
        ];
        for (bytes, value) in cases {
            assert_eq!(Reader::new(bytes).int("n"), Ok(value), "{bytes:x?}");
        }
    }

    #[test]
    fn loose_integers_convert_as_in_the_reference() {
        assert_eq!(loose(b"\xa3999"), Ok(999));
        assert_eq!(loose(b"\xa5 1_2 "), Ok(12));
        assert_eq!(loose(b"\xa2-4"), Ok(-4));
        assert_eq!(loose(b"\xc4\x0212"), Ok(12));
        assert_eq!(loose(b"\xc3"), Ok(1));
        assert_eq!(loose(&[&[0xcb][..], &999.7_f64.to_be_bytes()].concat()), Ok(999));
        for refused in [&b"\xa1x"[..], b"\xc0", b"\xa0", b"\xa21_", b"\xa3_12", b"\x90", b"\xa41__2"] {
            assert!(loose(refused).is_err(), "{refused:x?}");
        }
        assert!(loose(&[&[0xcb][..], &f64::NAN.to_be_bytes()].concat()).is_err());
    }

    #[test]
    fn loose_booleans_convert_as_in_the_reference() {
        for (bytes, value) in [
            (&b"\xc0"[..], false),
            (b"\x00", false),
            (b"\x01", true),
            (b"\xa0", false),
            (b"\xa10", true),
            (b"\x90", false),
            (b"\x91\x00", true),
            (b"\x80", false),
            (b"\xc3", true),
        ] {
            let mut reader = Reader::new(bytes);
            assert_eq!(reader.loose_bool("b"), Ok(value), "{bytes:x?}");
            assert_eq!(reader.finish("b"), Ok(()));
        }
    }

    #[test]
    fn refuses_lengths_beyond_the_remaining_bytes() {
        for bytes in [
            &b"\xdd\xff\xff\xff\xff\x00"[..],
            b"\xdf\xff\xff\xff\xff\x00",
            b"\xc6\xff\xff\xff\xff\x00",
            b"\xdb\xff\xff\xff\xff\x00",
            b"\xc9\xff\xff\xff\xff\x00",
            b"\x92\x00",
        ] {
            assert_eq!(
                Reader::new(bytes).skip("v"),
                Err(DecodeError::Truncated { field: "v" }),
                "{bytes:x?}"
            );
        }
    }

    #[test]
    fn skips_deep_nesting_without_recursion() {
        let mut bytes = vec![0x91; 1 << 20];
        bytes.push(0xc0);
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.skip("v"), Ok(()));
        assert_eq!(reader.finish("v"), Ok(()));
    }

    #[test]
    fn writer_uses_the_shortest_forms() {
        let mut writer = Writer::new();
        for value in [0, 127, 128, 255, 256, 65535, 65536, i64::MAX, -1, -32, -33, -128, -129, -32769] {
            writer.int(value);
        }
        let bytes = writer.into_bytes();
        let mut reader = Reader::new(&bytes);
        for value in [0, 127, 128, 255, 256, 65535, 65536, i64::MAX, -1, -32, -33, -128, -129, -32769] {
            assert_eq!(reader.i64("n"), Ok(value));
        }
        assert_eq!(bytes.len(), 1 + 1 + 2 + 2 + 3 + 3 + 5 + 9 + 1 + 1 + 2 + 2 + 3 + 5);
    }
}
