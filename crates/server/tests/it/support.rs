//! A server on free ports and a client that speaks to it, both in this process.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use larder_types::InstanceId;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::log_watch::LogWatch;
use larder_l2::adapters::BackendConfig;
use larder_l2::adapters::fs::FsConfig;
use larder_server::Server;
use larder_server::app::state::State;
use larder_server::config::{Config, L2AdapterConfig};
use larder_wire::codec::Newer;
use larder_wire::key::CacheKey;
use larder_wire::message::{ResponseMessage, request_frames};
use larder_wire::ops::register_engine_driven::Pool;
use larder_wire::ops::{self, OperationSpec};
use larder_wire::request::Request;
use larder_wire::response::ResultFrame;
use larder_zmtp::{Dealer, DealerOptions, Endpoint};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Tokens per chunk of the servers here.
pub(crate) const CHUNK: usize = 16;

/// No answer within this is a failure, not slowness.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct TestServer {
    pub(crate) state: Arc<State>,
    pub(crate) endpoint: Endpoint,
    pub(crate) http: std::net::SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    log: LogWatch,
}

/// A configuration on free ports with a segment of its own.
pub(crate) fn config() -> Config {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut config = Config::default();
    config.rpc.host = "127.0.0.1".to_owned();
    config.rpc.port = 0;
    config.http.port = 0;
    config.chunk_tokens = CHUNK as u32;
    config.l1.bytes = 1 << 20;
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    config.l1.shm_name = Some(format!("larder_serve_test_{}_{n}", std::process::id()));
    config
}

/// A directory of its own, removed at the end.
pub(crate) struct Directory(pub(crate) std::path::PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("larder_serve_{}_{n}", std::process::id()));
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(&path).unwrap();
        Self(path)
    }

    /// How many objects are stored in it.
    pub(crate) fn objects(&self) -> usize {
        let files = std::fs::read_dir(&self.0).unwrap().map(|f| f.unwrap().file_name());
        files.filter(|name| name.to_string_lossy().ends_with(".data")).count()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A configuration whose L2 is a directory.
pub(crate) fn with_files(directory: &Directory) -> Config {
    let mut config = config();
    config.l2.adapters = vec![L2AdapterConfig::new(BackendConfig::Fs(FsConfig::new(&directory.0)))];
    config
}

impl TestServer {
    pub(crate) async fn start(config: Config) -> Self {
        let log = LogWatch::start();
        let server = Server::bind(config).await.expect("the server starts");
        let (stop, stopped) = oneshot::channel();
        let state = server.state().clone();
        let endpoint = server.endpoints()[0].clone();
        let http = server.http_address().expect("http is bound");
        let task = tokio::spawn(server.serve(async { drop(stopped.await) }));
        Self { state, endpoint, http, stop: Some(stop), task, log }
    }

    /// The server may log WARN and ERROR lines that contain `text`; any other one fails the test.
    pub(crate) fn expect_log(&mut self, text: &'static str) {
        self.log.expect(text);
    }

    /// The WARN and ERROR lines so far that contain `text`.
    pub(crate) fn logged(&self, text: &str) -> Vec<String> {
        self.log.lines(text)
    }

    pub(crate) async fn client(&self) -> Client {
        let dealer = Dealer::connect(&self.endpoint, DealerOptions::default()).await.expect("connects");
        Client { dealer, uid: 0 }
    }

    /// Polls until `condition` holds: what a connection's end brings about comes by itself.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&State) -> bool) {
        let wait = async {
            while !condition(&self.state) {
                // What is waited for needs the processor more.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        self.http("GET", path, "", "").await
    }

    /// One HTTP call. `headers` are whole lines.
    pub(crate) async fn http(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let (head, body) = self.exchange(method, path, headers, body).await;
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status line");
        (status, body)
    }

    /// The same, with all of the answer: its head and its body.
    pub(crate) async fn exchange(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> (String, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.http).await.unwrap();
        let length = body.len();
        let host = if headers.contains("Host: ") { "" } else { "Host: 127.0.0.1\r\n" };
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{host}Connection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        (head.to_owned(), body.to_owned())
    }

    /// Waits for the server to end by itself.
    pub(crate) async fn ended(self) {
        let ended = tokio::time::timeout(PATIENCE, self.task).await.expect("the server ends");
        ended.expect("it ends without a panic");
    }

    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        self.task.await.expect("the server ends without a panic");
    }
}

pub(crate) struct Client {
    pub(crate) dealer: Dealer,
    uid: u64,
}

impl Client {
    /// The answer to one request.
    pub(crate) async fn call<O: OperationSpec + Into<Request>>(&mut self, request: O) -> O::Response {
        let result = self.result(request.into()).await;
        result.decode().expect("an answer that stock clients understand")
    }

    /// The encoded answer to one request.
    pub(crate) async fn result(&mut self, request: Request) -> ResultFrame {
        self.uid += 1;
        self.dealer.send(request_frames(self.uid, &request)).await.expect("sends");
        let answer = self.answer().await;
        assert_eq!(answer.uid().unwrap(), self.uid, "an answer to {request:?}");
        answer.result
    }

    pub(crate) async fn answer(&mut self) -> ResponseMessage {
        let frames = tokio::time::timeout(PATIENCE, self.dealer.recv()).await.expect("an answer at once");
        ResponseMessage::from_frames(frames.expect("the connection lives")).expect("a response")
    }

    pub(crate) async fn register(&mut self, instance: i64, model: &str) -> Pool {
        self.call(registration(instance, model)).await
    }

    /// Looks up and waits for the result.
    pub(crate) async fn hit(&mut self, key: &CacheKey) -> i64 {
        self.call(ops::Lookup { key: key.clone(), tp_size: 1 }).await;
        let wait = ops::WaitPrefetchStatus { request_id: key.request_id.clone(), timeout: PATIENCE };
        match self.call(wait).await {
            Some(chunks) => chunks,
            None => panic!("the lookup is still pending"),
        }
    }
}

/// Chunks of 2 layers, 16 slots, 12 half-precision elements: 768 bytes.
pub(crate) fn registration(instance: i64, model: &str) -> ops::RegisterEngineDriven {
    ops::RegisterEngineDriven {
        instance_id: InstanceId(instance),
        model_name: model.into(),
        world_size: 1,
        block_size: 4,
        num_layers: 2,
        hidden_dim_size: 12,
        dtype: "float16".to_owned(),
        use_mla: true,
        num_physical_slots: Some(CHUNK as i64),
        group_layouts: Newer(None),
    }
}

/// A key of `chunks` chunks of a prompt that begins with `seed`; of worker 0, or of the scheduler.
pub(crate) fn key(model: &str, seed: u32, chunks: usize, request_id: &str, worker: Option<u32>) -> CacheKey {
    let tokens: Vec<u32> = (0..(chunks * CHUNK) as u32).map(|t| seed * 100_000 + t).collect();
    CacheKey {
        model_name: model.into(),
        world_size: 1,
        worker_id: worker,
        tokens: tokens.into(),
        start: 0,
        end: (chunks * CHUNK) as u64,
        request_id: request_id.into(),
        cache_salt: "".into(),
        request_configs: None,
        num_kv_readers: Some(1),
    }
}

/// The pool as a worker maps it.
pub(crate) fn open_pool(pool: &Pool) -> File {
    let path = format!("/dev/shm/{}", pool.shm_name);
    File::options().read(true).write(true).open(path).expect("the pool can be opened by its name")
}

/// Fills slot `i` with `fill + i`.
pub(crate) fn fill(pool: &File, slots: &[larder_wire::slot::Slot], fill: u8) {
    for (i, slot) in slots.iter().enumerate() {
        pool.write_all_at(&vec![fill + i as u8; slot.length as usize], slot.offset).unwrap();
    }
}

/// Whether slot `i` holds `fill + i`.
pub(crate) fn holds(pool: &File, slots: &[larder_wire::slot::Slot], fill: u8) -> bool {
    slots.iter().enumerate().all(|(i, slot)| {
        let mut bytes = vec![0; slot.length as usize];
        pool.read_exact_at(&mut bytes, slot.offset).unwrap();
        bytes.iter().all(|b| *b == fill + i as u8)
    })
}
