//! A server on free ports in this process, for the binary to connect to.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use larder_core::{Group, WorkerSpec};
use larder_server::Server;
use larder_server::app::state::State;
use larder_server::config::Config;
use larder_server::config::l2::parse_adapter;
use larder_types::ConnectionId;
use larder_types::dtype::DType;
use larder_types::layout::Layout;
use tokio::sync::oneshot;

use crate::binary::{Finished, TestDir};

/// Tokens per chunk of the test servers.
pub(crate) const CHUNK: u32 = 16;

/// A server, stopped when dropped.
pub(crate) struct TestServer {
    pub(crate) state: Arc<State>,
    pub(crate) url: String,
    pub(crate) dir: TestDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TestServer {
    /// A server with L1 only, with a configuration that `configure` changes.
    pub(crate) fn with(configure: impl FnOnce(&mut Config, &TestDir)) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = TestDir::new();
        let mut config = Config::default();
        config.rpc.host = "127.0.0.1".to_owned();
        config.rpc.port = 0;
        config.http.port = 0;
        config.chunk_tokens = CHUNK;
        config.l1.bytes = 1 << 20;
        let name = format!("larder_ctl_test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        config.l1.shm_name = Some(name);
        configure(&mut config, &dir);
        let (sender, receiver) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let server = Server::bind(config).await.expect("the server starts");
                let http = server.http_address().expect("http is bound");
                sender.send((server.state().clone(), http)).expect("the test waits");
                server.serve(async { drop(stopped.await) }).await;
            });
        });
        let (state, http) = receiver.recv().expect("the server starts");
        Self { state, url: format!("http://{http}"), dir, stop: Some(stop), thread: Some(thread) }
    }

    /// A server with L1 only.
    pub(crate) fn new() -> Self {
        Self::with(|_, _| {})
    }

    /// A server whose L2 is the directory `l2` in `dir`.
    pub(crate) fn with_fs_l2() -> Self {
        Self::with(|config, dir| {
            let adapter = format!(r#"{{"type":"fs","base_path":"{}"}}"#, dir.path("l2").display());
            config.l2.adapters = vec![parse_adapter(1, &adapter).expect("a valid adapter")];
        })
    }

    /// Runs `larder ctl` with these arguments against the server.
    pub(crate) fn ctl(&self, args: &[&str]) -> Finished {
        self.dir.larder(&[&["ctl", "--url", &self.url], args].concat(), &[])
    }

    /// The stdout of `larder ctl`, which must succeed without a message on stderr.
    pub(crate) fn ctl_ok(&self, args: &[&str]) -> String {
        let run = self.ctl(args);
        assert_eq!((run.status, &*run.stderr), (Some(0), ""), "{args:?}: {run:#?}");
        run.stdout
    }

    /// Registers a worker of `model`. Returns the size of its objects in bytes.
    pub(crate) fn register(&self, model: &str) -> u64 {
        let layout = Layout::new(&[2, 1, u64::from(CHUNK), 8], DType::Float16).expect("a layout");
        let bytes = layout.bytes();
        let spec = WorkerSpec {
            instance: larder_types::InstanceId(7),
            model: model.into(),
            world_size: 1,
            block_tokens: Some(CHUNK),
            groups: vec![Group { id: 0, window: None, layout }],
        };
        assert!(self.state.core().with(|core, now| core.register(now, ConnectionId(1), spec)));
        bytes
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the server ends in order");
        }
    }
}

/// A URL without a server: a port that was free just now, on an address that no other test uses.
pub(crate) fn unused_url() -> String {
    let listener = TcpListener::bind("127.77.0.1:0").expect("a free port");
    format!("http://{}", listener.local_addr().expect("its address"))
}
