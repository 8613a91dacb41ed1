//! Why an operation on one key failed.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::adapter::Results;

/// What went wrong; also a label of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorKind {
    /// The object is not there.
    NotFound,
    /// The stored object has another length. A miss; a store replaces the object.
    WrongSize,
    /// The stored bytes have changed. A miss; the object was deleted.
    Corrupt,
    /// The backend works, but this object cannot be read, replaced or removed: it belongs to another user, or something
    /// else is in its place. A miss.
    Unreadable,
    /// The backend answers, but its medium fails to read or write this object. A miss.
    Damaged,
    /// There is no space, and nothing can be evicted.
    Full,
    /// The object does not fit a configured capacity or quota, or a size that the backend takes. The backend works.
    OverLimit,
    /// The backend cannot be reached, or its circuit breaker is open.
    Unavailable,
    /// No answer before the deadline. The I/O may still be running.
    Timeout,
    /// A queue or the process is at a limit.
    Busy,
    /// The process or the system has no file descriptors left.
    TooManyFiles,
    /// The server may not use the backend.
    Denied,
    /// The backend can only be read.
    ReadOnly,
    /// The backend has replaced what the server had open, as a network file system that was exported again does.
    Stale,
    /// The backend cannot represent the key.
    BadKey,
    /// The adapter does not support the call ([`Capabilities`](crate::Capabilities)).
    Unsupported,
    /// The adapter is closed.
    Closed,
    /// Any other failure of the backend.
    Io,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 18] = [
        Self::NotFound,
        Self::WrongSize,
        Self::Corrupt,
        Self::Unreadable,
        Self::Damaged,
        Self::Full,
        Self::OverLimit,
        Self::Unavailable,
        Self::Timeout,
        Self::Busy,
        Self::TooManyFiles,
        Self::Denied,
        Self::ReadOnly,
        Self::Stale,
        Self::BadKey,
        Self::Unsupported,
        Self::Closed,
        Self::Io,
    ];

    /// The kind as logs and metrics write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::WrongSize => "wrong_size",
            Self::Corrupt => "corrupt",
            Self::Unreadable => "unreadable",
            Self::Damaged => "damaged",
            Self::Full => "full",
            Self::OverLimit => "over_limit",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Busy => "busy",
            Self::TooManyFiles => "too_many_files",
            Self::Denied => "permission_denied",
            Self::ReadOnly => "read_only",
            Self::Stale => "stale_handle",
            Self::BadKey => "bad_key",
            Self::Unsupported => "unsupported",
            Self::Closed => "closed",
            Self::Io => "io",
        }
    }

    /// What an operator can do about it, as a clause; `None`: nothing, or not needed.
    pub const fn remedy(self) -> Option<&'static str> {
        Some(match self {
            Self::NotFound | Self::WrongSize | Self::Unsupported | Self::Closed => return None,
            Self::Corrupt => "check the storage, which returned other bytes than were stored",
            Self::Unreadable => {
                "give the file to the user of this server, or remove it; until then it is a miss"
            }
            Self::Damaged => "look for errors of the device in the kernel's log; until then it is a miss",
            Self::Full => "free space (or inodes, or quota) on its file system, or lower max_capacity_gb",
            Self::OverLimit => "raise max_capacity_gb or the quota, or let objects be evicted",
            Self::Unavailable => "check that the directory exists and its file system is mounted",
            Self::Timeout => "check the storage and the network to it",
            Self::Busy => "the storage is slower than what is stored: use a faster one, or store less",
            Self::TooManyFiles => {
                "raise the limit of open files (LimitNOFILE= in systemd, 'ulimit -n' in a shell)"
            }
            Self::Denied => "let the user of this server read, write and enter the directory",
            Self::ReadOnly => {
                "mount the file system for writing; the kernel's log may say why it is read-only"
            }
            Self::Stale => "mount the network file system again",
            Self::BadKey => "change the name of the model",
            Self::Io => "look for errors of the device in the kernel's log",
        })
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a retry may help. Read by the [`retry`](crate::layers::retry) layer only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// The same call will fail again.
    Permanent,
    /// The same call may succeed soon.
    Temporary,
    /// Retries failed as well, or a retry now is known to be useless.
    Persistent,
}

/// Why an operation on one key failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{context} ({kind})")]
pub struct L2Error {
    kind: ErrorKind,
    retry: Retry,
    context: Cow<'static, str>,
    #[source]
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl L2Error {
    /// An error that a retry does not cure.
    pub fn permanent(kind: ErrorKind, context: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, retry: Retry::Permanent, context: context.into(), source: None }
    }

    /// An error that a retry may cure.
    pub fn temporary(kind: ErrorKind, context: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, retry: Retry::Temporary, context: context.into(), source: None }
    }

    /// The object is not there.
    pub fn not_found() -> Self {
        Self::permanent(ErrorKind::NotFound, "no such object")
    }

    /// An object of another length than requested.
    pub fn wrong_size(stored: u64, wanted: u64) -> Self {
        Self::permanent(ErrorKind::WrongSize, format!("{stored} bytes are stored, {wanted} were asked for"))
    }

    /// An error of the operating system during `action`, a short verb phrase such as `read object`.
    pub fn system(action: impl Into<Cow<'static, str>>, error: io::Error) -> Self {
        let (kind, retry) = classify(&error);
        Self { kind, retry, context: action.into(), source: Some(Arc::new(error)) }
    }

    /// The same error with another kind.
    #[must_use]
    pub fn with_kind(self, kind: ErrorKind) -> Self {
        Self { kind, ..self }
    }

    /// The same error with another retry class.
    #[must_use]
    pub fn with_retry(self, retry: Retry) -> Self {
        Self { retry, ..self }
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(self, source: impl Error + Send + Sync + 'static) -> Self {
        Self { source: Some(Arc::new(source)), ..self }
    }

    /// The same error for `count` keys.
    pub(crate) fn for_all<T>(self, count: usize) -> Results<T> {
        std::iter::repeat_with(|| Err(self.clone())).take(count).collect()
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether a retry may help.
    pub fn retry(&self) -> Retry {
        self.retry
    }

    /// The error with its causes and the remedy, in one line.
    pub fn explained(&self) -> String {
        let mut text = self.context.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        match self.kind.remedy() {
            Some(remedy) => format!("{text} ({}); {remedy}", self.kind),
            None => format!("{text} ({})", self.kind),
        }
    }
}

/// Kind and retry class of an error of the operating system.
fn classify(error: &io::Error) -> (ErrorKind, Retry) {
    use io::ErrorKind as Io;
    match error.kind() {
        Io::NotFound => (ErrorKind::NotFound, Retry::Permanent),
        Io::StorageFull | Io::QuotaExceeded => (ErrorKind::Full, Retry::Permanent),
        Io::FileTooLarge => (ErrorKind::OverLimit, Retry::Permanent),
        Io::InvalidFilename => (ErrorKind::BadKey, Retry::Permanent),
        Io::NotADirectory | Io::IsADirectory | Io::AlreadyExists => {
            (ErrorKind::Unavailable, Retry::Permanent)
        }
        Io::StaleNetworkFileHandle => (ErrorKind::Stale, Retry::Temporary),
        Io::NotConnected
        | Io::HostUnreachable
        | Io::NetworkUnreachable
        | Io::NetworkDown
        | Io::ConnectionRefused
        | Io::ConnectionReset
        | Io::ConnectionAborted
        | Io::BrokenPipe => (ErrorKind::Unavailable, Retry::Temporary),
        Io::TimedOut => (ErrorKind::Timeout, Retry::Temporary),
        Io::WouldBlock | Io::ResourceBusy | Io::OutOfMemory => (ErrorKind::Busy, Retry::Temporary),
        Io::PermissionDenied => (ErrorKind::Denied, Retry::Permanent),
        Io::ReadOnlyFilesystem => (ErrorKind::ReadOnly, Retry::Permanent),
        Io::CrossesDevices | Io::InvalidInput => (ErrorKind::Io, Retry::Permanent),
        _ if too_many_files(error) => (ErrorKind::TooManyFiles, Retry::Temporary),
        _ => (ErrorKind::Io, Retry::Temporary),
    }
}

fn too_many_files(error: &io::Error) -> bool {
    let number = rustix::io::Errno::from_io_error(error);
    number == Some(rustix::io::Errno::MFILE) || number == Some(rustix::io::Errno::NFILE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn classifies_system_errors() {
        let cases = [
            (Errno::NOSPC, ErrorKind::Full, Retry::Permanent),
            (Errno::DQUOT, ErrorKind::Full, Retry::Permanent),
            (Errno::NOENT, ErrorKind::NotFound, Retry::Permanent),
            (Errno::NOTDIR, ErrorKind::Unavailable, Retry::Permanent),
            (Errno::STALE, ErrorKind::Stale, Retry::Temporary),
            (Errno::MFILE, ErrorKind::TooManyFiles, Retry::Temporary),
            (Errno::NFILE, ErrorKind::TooManyFiles, Retry::Temporary),
            (Errno::ACCESS, ErrorKind::Denied, Retry::Permanent),
            (Errno::NAMETOOLONG, ErrorKind::BadKey, Retry::Permanent),
            (Errno::ROFS, ErrorKind::ReadOnly, Retry::Permanent),
            (Errno::IO, ErrorKind::Io, Retry::Temporary),
        ];
        for (number, kind, retry) in cases {
            let error = L2Error::system("read object", number.into());
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{number}");
            assert!(error.source().is_some());
        }
    }

    #[test]
    fn prints_as_one_line() {
        assert_eq!(
            L2Error::wrong_size(3, 4).to_string(),
            "3 bytes are stored, 4 were asked for (wrong_size)"
        );
        let error = L2Error::system("create /kv/x", Errno::MFILE.into()).explained();
        assert!(
            error.starts_with("create /kv/x: Too many open files")
                && error.contains("(too_many_files); raise"),
            "{error}"
        );
        let words: std::collections::HashSet<_> = ErrorKind::ALL.map(ErrorKind::as_str).into();
        assert_eq!(words.len(), ErrorKind::ALL.len());
    }
}
