//! What operators and tools send to the server: adapter specifications, the quota file, HTTP requests.

use std::path::PathBuf;
use std::sync::{LazyLock, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use larder_server::Server;
use larder_server::app::quota_file::QuotaFile;
use larder_server::config::Config;
use larder_server::config::l2::parse_adapter;
use larder_server::http;
use tokio::runtime::Runtime;
use tower::ServiceExt;

/// The value of `--l2-adapter`.
pub(crate) fn adapter(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = parse_adapter(0, text);
    }
}

pub(crate) fn adapter_seeds() -> Vec<Vec<u8>> {
    [
        r#"{"type":"fs","base_path":"/x","use_odirect":true,"max_capacity_gb":1.5,"read_ahead_size":4096}"#,
        r#"{"type":"fs_native","base_path":"/x","num_workers":4,"eviction":{"eviction_policy":"LRU"}}"#,
        r#"{"type":"mock","max_size_gb":1,"mock_bandwidth_gb":2.0,"checksum":true}"#,
        r#"{"type":"fault_inject","inner":{"type":"mock","max_size_gb":1},"failure_rate":0.1}"#,
    ]
    .map(Into::into)
    .to_vec()
}

/// `quotas.json`: whatever it holds, the directory opens, and what was read comes back the next time.
pub(crate) fn quotas(data: &[u8]) {
    static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| super::scratch::directory("quotas"));
    for entry in std::fs::read_dir(&*DIRECTORY).expect("the directory is there").flatten() {
        std::fs::remove_file(entry.path()).expect("a file can be removed");
    }
    std::fs::write(DIRECTORY.join("quotas.json"), data).expect("a file can be written");
    let (file, limits) = QuotaFile::open(&DIRECTORY).expect("the directory can be used");
    drop(file);
    let (_, again) = QuotaFile::open(&DIRECTORY).expect("the directory can be used");
    assert_eq!(limits, again);
}

pub(crate) fn quotas_seeds() -> Vec<Vec<u8>> {
    vec![br#"{"version": 1, "limit_bytes": {"alice": 2147483648, "": 536870912}}"#.to_vec()]
}

/// A server that is bound but not served, and its HTTP routes.
struct Http {
    runtime: Runtime,
    router: Router,
    _server: Server,
}

static HTTP: LazyLock<Mutex<Http>> = LazyLock::new(|| {
    let mut config = Config::default();
    config.rpc.host = "127.0.0.1".to_owned();
    config.rpc.port = 0;
    config.http.port = 0;
    config.l1.bytes = 1 << 20;
    config.l1.shm_name = None;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let server = runtime.block_on(Server::bind(config)).expect("a server");
    let router = http::router(server.state().clone(), http::Caller::Anyone);
    Mutex::new(Http { runtime, router, _server: server })
});

/// One HTTP request: the first byte selects the route, the first line fills its placeholders and is the
/// query, the rest is the body. The server answers, and never with an internal error.
pub(crate) fn http(data: &[u8]) {
    let Some((&route, data)) = data.split_first() else { return };
    let routes = http::routes();
    let (method, path) = routes[usize::from(route) % routes.len()];
    let end = data.iter().position(|&byte| byte == b'\n').unwrap_or(data.len());
    let (line, body) = (String::from_utf8_lossy(&data[..end]), data.get(end + 1..).unwrap_or_default());
    let (segment, query) = line.split_once('?').unwrap_or((&line, ""));
    let filled: Vec<&str> =
        path.split('/').map(|part| if part.starts_with('{') { segment } else { part }).collect();
    let request = Request::builder().method(method).uri(format!("{}?{query}", filled.join("/")));
    let Ok(request) = request.body(Body::from(body.to_vec())) else { return };
    let http = HTTP.lock().expect("no earlier input panicked");
    let answer = http.runtime.block_on(http.router.clone().oneshot(request));
    let Ok(answer) = answer;
    assert_ne!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

pub(crate) fn http_seeds() -> Vec<Vec<u8>> {
    let bodies = [
        r#"{"limit_gb":1.5,"level":"debug","keys":[{"model_name":"m"}]}"#,
        r#"{"model_name":"m","world_size":1,"token_ids":[1,2,3],"cache_salt":"","source_tier":"l2","target_tier":"l1"}"#,
        r#"{"block_ids":[0],"chunk_size":256,"instance_id":1,"layerwise":false}"#,
    ];
    (0..http::routes().len() as u8)
        .flat_map(|route| {
            bodies.map(|body| [&[route][..], b"alice?limit=10&format=json\n", body.as_bytes()].concat())
        })
        .collect()
}
