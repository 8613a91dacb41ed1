//! The Unix socket of `--http-uds`: HTTP for this server's user and root, as the kernel knows the peer.

use std::io;
use std::path::Path;
use std::time::Duration;

use axum::serve::Listener;
use larder_zmtp::{BindError, IpcListener};
use tokio::net::UnixStream;
use tokio::net::unix::UCred;
use tokio::time::Instant;

use crate::private_file;

/// Pause after a failed `accept`, which fails when there are no descriptors left.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Refused connections are logged at most this often, so that they do not fill the log.
const REFUSALS_LOGGED_EVERY: Duration = Duration::from_secs(60);

/// A listening socket. Its file has mode 0600 and is removed at the end.
#[derive(Debug)]
pub(crate) struct OwnerSocket {
    listener: IpcListener,
    /// When a refused connection was last logged.
    logged: Option<Instant>,
}

impl OwnerSocket {
    /// Binds the socket. The directory that it lies in is made if it is missing.
    ///
    /// # Errors
    /// Another process listens there, something else is in the way, or the system refuses.
    pub(crate) fn bind(path: &Path) -> Result<Self, BindError> {
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty())
            && let Err(error) = private_file::create_dir(directory)
        {
            // What is wrong shows in the next step, too.
            tracing::debug!(directory = %directory.display(), %error, "cannot make a directory");
        }
        IpcListener::bind(path).map(|listener| Self { listener, logged: None })
    }
}

impl OwnerSocket {
    fn log_refusal(&mut self, peer: &io::Result<UCred>) {
        if self.logged.is_none_or(|logged| logged.elapsed() >= REFUSALS_LOGGED_EVERY) {
            self.logged = Some(Instant::now());
            tracing::warn!(?peer, "--http-uds: connection of another user refused");
        }
    }
}

impl Listener for OwnerSocket {
    type Io = UnixStream;
    type Addr = ();

    async fn accept(&mut self) -> (UnixStream, ()) {
        loop {
            match self.listener.accept().await {
                Ok(stream) => match stream.peer_cred() {
                    Ok(peer) if is_owner(peer.uid()) => return (stream, ()),
                    peer => self.log_refusal(&peer),
                },
                Err(error) => {
                    tracing::debug!(%error, "--http-uds: cannot accept");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a user may do everything: the server's own, or root.
fn is_owner(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_users_are_not_owners() {
        let own = rustix::process::geteuid().as_raw();
        assert!(is_owner(own) && is_owner(0));
        assert!(!is_owner(own + 1) && !is_owner(u32::MAX));
    }
}
