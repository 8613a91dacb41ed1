//! Unix sockets: service, the file's mode, and whose file it is.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::server::Server;
use bytes::Bytes;
use larder_zmtp::{BindError, Dealer, DealerOptions, Endpoint, Limits, Router};

/// A directory of its own for each test, removed with everything in it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("larder-zmtp-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Directory(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn serve(path: &Path) -> Server {
    Server::start(&[Endpoint::Ipc(path.into())], Limits::default()).await
}

async fn bind(path: &Path) -> Result<Router, BindError> {
    Router::bind(&[Endpoint::Ipc(path.into())], Limits::default()).await
}

async fn echoes(server: &Server) -> bool {
    let mut dealer = Dealer::connect(server.endpoint(), DealerOptions::default()).await.unwrap();
    let message = vec![Bytes::from_static(b"hello"), Bytes::from(vec![1; 1_000_000])];
    dealer.send(message.clone()).await.unwrap();
    dealer.recv().await.unwrap() == message
}

#[tokio::test]
async fn echoes_over_ipc_with_a_private_socket_removed_at_the_end() {
    let directory = Directory::new("echo");
    let mut server = serve(&directory.socket()).await;
    assert!(echoes(&server).await);
    let peer = server.connected().await;
    assert!(peer.remote().starts_with("ipc"), "{}", peer.remote());
    let metadata = std::fs::metadata(directory.socket()).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    server.stop().await;
    assert!(!directory.socket().exists());
}

#[tokio::test]
async fn replaces_a_stale_socket() {
    let directory = Directory::new("stale");
    drop(std::os::unix::net::UnixListener::bind(directory.socket()).unwrap());
    assert!(directory.socket().exists());
    let server = serve(&directory.socket()).await;
    assert!(echoes(&server).await);
    server.stop().await;
}

#[tokio::test]
async fn keeps_the_socket_of_a_running_server() {
    let directory = Directory::new("live");
    let server = serve(&directory.socket()).await;
    let error = bind(&directory.socket()).await.unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error:?}");
    assert!(echoes(&server).await);
    server.stop().await;
}

#[tokio::test]
async fn keeps_a_file_that_is_no_socket() {
    let directory = Directory::new("file");
    std::fs::write(directory.socket(), b"precious").unwrap();
    let error = bind(&directory.socket()).await.unwrap_err();
    assert!(matches!(error, BindError::NotASocket { .. }), "{error:?}");
    assert_eq!(std::fs::read(directory.socket()).unwrap(), b"precious");
}

#[tokio::test]
async fn keeps_a_file_of_another_server_at_shutdown() {
    let directory = Directory::new("taken");
    let first = serve(&directory.socket()).await;
    std::fs::remove_file(directory.socket()).unwrap();
    let second = serve(&directory.socket()).await;
    first.stop().await;
    assert!(echoes(&second).await);
    second.stop().await;
}

#[tokio::test]
async fn long_or_missing_paths_are_errors() {
    for path in ["/nonexistent-directory/socket".into(), format!("/tmp/{}", "x".repeat(200))] {
        let error = bind(Path::new(&path)).await.unwrap_err();
        assert!(matches!(error, BindError::Io { .. }), "{error:?}");
    }
}
