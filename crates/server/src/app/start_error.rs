//! Why a server does not start, and whether trying again may help.

use std::error::Error;
use std::io::{self, ErrorKind};

use larder_arena::ArenaError;
use larder_l2::ErrorKind as L2ErrorKind;
use larder_types::hash::HashAlgorithmError;
use larder_zmtp::{BindError, BindTcpError, ParseEndpointError};

use crate::l2::OpenError;

/// Why the server did not start. [`error_chain`] prints it with its causes.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An endpoint is not one.
    #[error("--listen")]
    Endpoint(#[from] ParseEndpointError),
    /// The request port is taken or the address is not this machine's.
    #[error("requests")]
    Requests(#[from] BindError),
    /// The HTTP or metrics port is taken.
    #[error("{flag} {address}")]
    Http {
        /// The flag that names the port.
        flag: &'static str,
        /// What could not be bound.
        address: String,
        /// Why.
        source: BindTcpError,
    },
    /// The socket of `--http-uds` cannot be bound.
    #[error("--http-uds")]
    HttpSocket(#[source] BindError),
    /// There is no memory for L1.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// An L2 adapter cannot be opened.
    #[error(transparent)]
    L2(#[from] OpenError),
    /// What has to outlast the server cannot be kept.
    #[error("--state-dir {path}")]
    StateDir {
        /// The directory.
        path: String,
        /// Why it cannot be used.
        source: io::Error,
    },
    /// What is asked cannot be recorded.
    #[error("--record {path}")]
    Record {
        /// The file.
        path: String,
        /// Why it cannot be written.
        source: io::Error,
    },
    /// Lookups cannot be logged.
    #[error("--lookup-hash-log-dir {path}")]
    LookupLog {
        /// The directory.
        path: String,
        /// Why it cannot be written.
        source: io::Error,
    },
    /// The hash algorithm cannot be used.
    #[error("--hash-algorithm")]
    Hash(#[from] HashAlgorithmError),
    /// The operating system refused something else.
    #[error("{action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// Kinds of failures of an adapter that may end by themselves.
const L2_MAY_PASS: [L2ErrorKind; 5] = [
    L2ErrorKind::Busy,
    L2ErrorKind::Full,
    L2ErrorKind::Timeout,
    L2ErrorKind::TooManyFiles,
    L2ErrorKind::Stale,
];

/// What a failed start means for a service manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// A setting is wrong: starting again does not help.
    Setting,
    /// A person must look at it: permissions, a disk, a directory.
    Person,
    /// It may pass: a port in use, a server that is about to end, a full disk, no memory.
    Time,
}

impl StartError {
    /// What may help.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Endpoint(_) | Self::Hash(_) | Self::Arena(ArenaError::BadName { .. }) => Remedy::Setting,
            Self::Requests(BindError::InUse { .. } | BindError::Resolve { .. })
            | Self::HttpSocket(BindError::InUse { .. })
            | Self::Http { source: BindTcpError::Resolve(_), .. }
            | Self::Arena(ArenaError::InUse { .. }) => Remedy::Time,
            Self::L2(error) if L2_MAY_PASS.contains(&error.kind()) => Remedy::Time,
            other if causes(other).filter_map(|cause| cause.downcast_ref()).any(may_pass) => Remedy::Time,
            _ => Remedy::Person,
        }
    }
}

/// Whether what the system lacks may be there later.
pub(super) fn may_pass(error: &io::Error) -> bool {
    /// `ENFILE` and `EMFILE`.
    const NO_FILES: [i32; 2] = [23, 24];
    error.raw_os_error().is_some_and(|code| NO_FILES.contains(&code))
        || matches!(
            error.kind(),
            ErrorKind::AddrInUse
                | ErrorKind::AddrNotAvailable
                | ErrorKind::WouldBlock
                | ErrorKind::ResourceBusy
                | ErrorKind::OutOfMemory
                | ErrorKind::StorageFull
                | ErrorKind::QuotaExceeded
                | ErrorKind::TimedOut
                | ErrorKind::StaleNetworkFileHandle
        )
}

/// An error and its causes, the outermost first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// An error with all its causes, in one line. Causes that the text before them includes are left out.
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in causes(error).skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state_dir(source: io::Error) -> StartError {
        StartError::StateDir { path: "/s".to_owned(), source }
    }

    #[test]
    fn prints_every_cause_once() {
        let bind = BindTcpError::Bind {
            address: "127.0.0.1:1".parse().unwrap(),
            source: ErrorKind::PermissionDenied.into(),
        };
        let error = StartError::Http { flag: "--http-port", address: "localhost:1".to_owned(), source: bind };
        assert_eq!(
            error_chain(&error),
            "--http-port localhost:1: cannot bind 127.0.0.1:1: permission denied"
        );
        assert_eq!(error_chain(&state_dir(io::Error::other("why"))), "--state-dir /s: why");
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        let remedy = |kind: ErrorKind| state_dir(kind.into()).remedy();
        assert_eq!(remedy(ErrorKind::StorageFull), Remedy::Time);
        assert_eq!(remedy(ErrorKind::PermissionDenied), Remedy::Person);
        assert_eq!(state_dir(io::Error::from_raw_os_error(24)).remedy(), Remedy::Time);
        let name = StartError::Arena(ArenaError::BadName { name: "a/b".to_owned() });
        assert_eq!(name.remedy(), Remedy::Setting);
        let held = StartError::Arena(ArenaError::InUse { name: "a".to_owned() });
        assert_eq!(held.remedy(), Remedy::Time);
    }
}
