//! `--lookup-hash-log-dir`: what a real server looked up, as `larder simulate` reads it.

use std::time::Duration;

use larder_lab::simulate::trace::{ReadOptions, read};
use larder_server::config::{Config, LookupHashLogConfig};
use larder_wire::key::CacheKey;

use crate::support::{CHUNK, Directory, TestServer, config, key};

fn logging(directory: &Directory) -> Config {
    let log = LookupHashLogConfig {
        dir: directory.0.join("lookups"),
        rotation_interval: Duration::from_secs(3600),
        rotation_max_bytes: 1 << 20,
        max_files: 2,
    };
    Config { lookup_hash_log: Some(log), ..config() }
}

#[tokio::test]
async fn lookups_are_logged_and_read_as_a_trace() {
    let directory = Directory::new();
    let config = logging(&directory);
    let dir = config.lookup_hash_log.as_ref().unwrap().dir.clone();
    let server = TestServer::start(config).await;
    let mut c = server.client().await;
    // Nobody serves this model yet, and the next prompt has no whole chunk: they look for nothing.
    c.hit(&key("m", 1, 4, "early", None)).await;
    c.register(7, "m").await;
    c.hit(&CacheKey { end: 3, ..key("m", 1, 1, "short", None) }).await;
    for (seed, chunks, request) in [(1, 4, "a"), (2, 2, "b"), (1, 4, "c")] {
        c.hit(&key("m", seed, chunks, request, None)).await;
    }
    let salted = CacheKey { cache_salt: "tenant".into(), ..key("m", 1, 4, "d", None) };
    c.hit(&salted).await;
    let state = server.state.clone();
    server.stop().await;
    assert_eq!(state.lookup_log.as_ref().unwrap().lines(), (4, 0));
    let trace = read(&dir, &ReadOptions::default()).unwrap();
    assert_eq!(
        (trace.requests().len(), trace.chunk_tokens as usize, trace.chunk_bytes),
        (4, CHUNK, Some(768))
    );
    assert_eq!((trace.chunk_accesses(), trace.unique_chunks()), (14, 4 + 2 + 4));
    assert_eq!(trace.requests()[0].tokens, 4 * CHUNK as u64);
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_known_at_the_start() {
    let directory = Directory::new();
    let mut config = logging(&directory);
    config.lookup_hash_log.as_mut().unwrap().dir = "/dev/null/lookups".into();
    let error = larder_server::error_chain(&larder_server::Server::bind(config).await.unwrap_err());
    assert!(error.starts_with("--lookup-hash-log-dir /dev/null/lookups: "), "{error}");
}
