//! File descriptors, and what may use them.
//!
//! A process that has none left can neither accept an engine nor open a file of L2, so each kind of connection gets a
//! share of them, and the rest is for files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Below this limit of open files, few connections are accepted.
const ENOUGH: usize = 1024;

/// Raises the soft limit of open files to the hard one, as the first thing: connections are limited by it. Returns the
/// limit that is in force.
pub(super) fn raise_limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if let Err(error) = &raised {
        tracing::warn!(%error, ?current, ?maximum, "cannot raise the soft limit of open files to the hard one");
    }
    let limit = if raised.is_ok() { maximum } else { current };
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    if limit < ENOUGH {
        let Shares { peers, http, .. } = Shares::of(limit);
        tracing::warn!(
            limit,
            "few files may be open: at most {peers} engines and {http} HTTP clients can be connected, and the files of \
             L2 share the rest; raise the hard limit (LimitNOFILE= of systemd, ulimit -Hn) to {ENOUGH} or more"
        );
    }
    limit
}

/// How many connections of each kind may be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shares {
    /// Peers, which are engines.
    pub(super) peers: usize,
    /// Connections within their handshake.
    pub(super) half_open: usize,
    /// Connections to the HTTP port.
    pub(super) http: usize,
    /// Connections to each further HTTP listener.
    pub(super) http_more: usize,
}

impl Shares {
    /// The shares of a process with this limit of open files.
    pub(super) fn of(limit: usize) -> Self {
        Self {
            peers: (limit / 2).clamp(8, 4096),
            half_open: (limit / 8).clamp(4, 1024),
            http: (limit / 8).clamp(4, 256),
            http_more: (limit / 32).clamp(4, 64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_leave_descriptors_for_files() {
        for limit in [128, 256, 1024, 65_536, usize::MAX] {
            let Shares { peers, half_open, http, http_more } = Shares::of(limit);
            assert!(peers + half_open + http + 2 * http_more <= limit - limit / 8, "{limit}");
        }
        assert_eq!(Shares::of(1 << 20), Shares { peers: 4096, half_open: 1024, http: 256, http_more: 64 });
    }
}
