//! What handlers return.

use larder_wire::key::KeyError;

/// Why a request failed. The client gets its operation's failure value, the log this.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The key is not valid for the operation.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Its tokens cannot be hashed.
    #[error(transparent)]
    Tokens(#[from] larder_wire::tokens::TokenError),
    /// The worker has not registered, or for another model.
    #[error(transparent)]
    NotRegistered(#[from] larder_core::NotRegistered),
    /// Pickled chunks cannot be read or written.
    #[error(transparent)]
    Pickle(#[from] larder_wire::pickle::PickleError),
    /// The same as a map.
    #[error(transparent)]
    TensorMap(#[from] larder_wire::tensor_map::TensorMapError),
    /// The chunks that a worker leaves out are not chunks of its groups and of the range.
    #[error("skipped_chunks: {0}")]
    Skipped(&'static str),
    /// A transfer of more objects than an answer can describe.
    #[error("{objects} objects are more than one transfer can have; use a larger --chunk-size")]
    TooManyObjects {
        /// Of the range.
        objects: usize,
    },
    /// A slot outside the arena: a bug of the server.
    #[error(transparent)]
    OutOfRange(#[from] larder_arena::OutOfRange),
    /// The machine has no memory to back the slots.
    #[error("no memory to back more of L1, which stays as large as it is: {0}")]
    Memory(#[from] std::io::Error),
    /// A limit of this server.
    #[error(transparent)]
    Limit(#[from] larder_wire::error::DecodeError),
    /// This server does not do that.
    #[error("{0}")]
    Unserved(&'static str),
}

/// The result of an operation, of its response type.
pub(super) type Answer<T> = Result<T, Failure>;

/// Work for the copy pool that ends with the answer.
pub(super) type CopyJob<T> = Box<dyn FnOnce() -> Answer<T> + Send>;

/// When a request is answered.
pub(super) enum Reply<T> {
    /// At once.
    Now(Answer<T>),
    /// By a task of the handler, through a detached responder.
    Later,
    /// At the end of a job on the copy pool.
    Copy(CopyJob<T>),
}

impl<T: 'static> Reply<T> {
    /// Answers with the result of `job`, run on the copy pool.
    pub(super) fn copy(job: impl FnOnce() -> Answer<T> + Send + 'static) -> Self {
        Self::Copy(Box::new(job))
    }

    /// The reply of a handler that may fail before it has one.
    pub(super) fn from_result(reply: Result<Self, Failure>) -> Self {
        reply.unwrap_or_else(|failure| Self::Now(Err(failure)))
    }

    /// The same reply with another type of result.
    pub(super) fn map<R>(self, change: impl FnOnce(T) -> R + Send + 'static) -> Reply<R> {
        match self {
            Self::Now(answer) => Reply::Now(answer.map(change)),
            Self::Later => Reply::Later,
            Self::Copy(job) => Reply::Copy(Box::new(move || job().map(change))),
        }
    }
}

impl<T> From<Answer<T>> for Reply<T> {
    fn from(answer: Answer<T>) -> Self {
        Self::Now(answer)
    }
}
