//! Errors of decoding what a peer sent. Each names the field and the reason.

use larder_types::object::ObjectKeyError;

/// Bytes from a peer do not hold the declared value.
///
/// None of these is retryable: the same bytes fail again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside a value, or a length claims more than is there.
    #[error("{field}: the MessagePack data ends early")]
    Truncated {
        /// The field being read.
        field: &'static str,
    },
    /// A frame holds more than one value.
    #[error("{field}: {count} bytes are left over after the value")]
    Trailing {
        /// The field being read.
        field: &'static str,
        /// Bytes left over.
        count: usize,
    },
    /// The value is of another type, or its first byte is not valid MessagePack.
    #[error("{field}: expected {expected}, found {found}")]
    Type {
        /// The field being read.
        field: &'static str,
        /// The declared type.
        expected: &'static str,
        /// The type that was sent.
        found: &'static str,
    },
    /// Text that is not UTF-8.
    #[error("{field}: the text is not UTF-8")]
    Utf8 {
        /// The field being read.
        field: &'static str,
    },
    /// A required field of a structure is absent.
    #[error("{field}: missing")]
    Missing {
        /// The absent field.
        field: &'static str,
    },
    /// A value is given in two forms.
    #[error("{one} and {other} are both present")]
    Both {
        /// A field.
        one: &'static str,
        /// Another.
        other: &'static str,
    },
    /// An integer that the field cannot take.
    #[error("{field}: {value} is not in {allowed}")]
    OutOfRange {
        /// The field being read.
        field: &'static str,
        /// The value sent.
        value: i128,
        /// The values taken, in words or as a range.
        allowed: &'static str,
    },
    /// More entries than this implementation takes.
    #[error("{field}: {count} entries are more than the limit of {limit}")]
    TooMany {
        /// The field being read.
        field: &'static str,
        /// Entries claimed or seen.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// A name that is longer than this implementation keeps.
    #[error("{field}: {bytes} bytes are more than the limit of {limit}")]
    TooLong {
        /// The field being read.
        field: &'static str,
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A text that has to be one of a fixed set is not.
    #[error("{field}: {value:?} is not one of the known values")]
    UnknownName {
        /// The field being read.
        field: &'static str,
        /// The start of the text that was sent.
        value: String,
    },
    /// The bytes are no such protobuf message.
    #[error("not a message of this method: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// A part of a key breaks the rules for keys.
    #[error("{field}: {source}")]
    Key {
        /// The field being read.
        field: &'static str,
        /// The rule that is broken.
        source: ObjectKeyError,
    },
    /// Too few or too many payload frames.
    #[error("{operation} takes {expected} payloads, {found} were sent")]
    PayloadCount {
        /// Name of the operation.
        operation: &'static str,
        /// Payloads the operation declares.
        expected: usize,
        /// Payloads sent.
        found: usize,
    },
}

/// Characters of a refused text that an error message repeats.
const QUOTED_CHARS_MAX: usize = 64;

impl DecodeError {
    /// Whether the request is well formed as far as it was read, but exceeds a limit of this implementation. Such a
    /// request is answered with its failure, others are dropped.
    pub const fn is_limit(&self) -> bool {
        matches!(self, Self::TooMany { .. } | Self::TooLong { .. })
    }

    pub(crate) fn unknown_name(field: &'static str, value: &str) -> Self {
        Self::UnknownName { field, value: value.chars().take(QUOTED_CHARS_MAX).collect() }
    }

    /// A rule for object keys is broken.
    pub(crate) const fn object_key(source: ObjectKeyError) -> Self {
        Self::Key { field: "object key", source }
    }
}
