//! The one Python pickle of this protocol: a list of torch tensors.
//!
//! Workers without access to the shared memory send and receive chunks in this form. Unpickling in general
//! runs code that the bytes name. This reader accepts only the form that `pickle.dumps(list_of_tensors)`
//! has, knows four names of Python and torch, calls none of them, and refuses everything else. Limits:
//! [`TENSORS_MAX`] tensors, as many axes as torch allows, and a stack and memo of the size they need.

mod machine;
mod read;
mod write;

pub use read::{Runs, Tensor, read_tensors};
pub use write::PickleWriter;

/// Tensors of one pickle.
pub const TENSORS_MAX: usize = 1 << 14;

/// Bytes that are not a pickled list of tensors, or a tensor that cannot be pickled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    /// The bytes end too early.
    #[error("the pickle ends early")]
    Truncated,
    /// An instruction that a list of tensors does not need.
    #[error("pickle opcode {opcode:#04x} at byte {at} is refused: only a list of torch tensors is taken")]
    Opcode {
        /// The instruction.
        opcode: u8,
        /// Its place in its stream.
        at: usize,
    },
    /// A name that a list of tensors does not need, as in an attack.
    #[error("pickle refers to {module}.{name}, which is refused: only a list of torch tensors is taken")]
    Global {
        /// Start of the module's name.
        module: String,
        /// Start of the name in it.
        name: String,
    },
    /// The instructions are known but do not build a list of tensors.
    #[error("the pickle is not a list of torch tensors: {reason}")]
    Malformed {
        /// What is wrong.
        reason: &'static str,
    },
    /// The pickle is larger than this implementation takes.
    #[error("the pickle has more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// Tensors of this element type pickle in a form that torch itself cannot read back.
    #[error("tensors of {dtype} cannot be pickled")]
    DType {
        /// The element type.
        dtype: larder_types::dtype::DType,
    },
    /// The bytes given for a tensor, or the place to copy it to, do not have its size.
    #[error("{found} bytes for a tensor of {expected} bytes")]
    Size {
        /// Bytes of the tensor.
        expected: u64,
        /// Bytes given.
        found: usize,
    },
}

impl PickleError {
    fn malformed(reason: &'static str) -> Self {
        Self::Malformed { reason }
    }
}
