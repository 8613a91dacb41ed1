//! The suite for every adapter, and for every layer around `mock` and around `fs`.

use std::path::Path;

use super::*;
use crate::adapters::fault_inject::{FaultInject, Faults};
use crate::adapters::fs::{Fs, FsConfig, FsNativeConfig};
use crate::adapters::mock::{Mock, MockConfig};
use crate::capacity::CapacityLimits;
use crate::layers::{
    Breaker, Checksum, Deadline, Fault, LayersConfig, Limit, LimitConfig, RetryConfig, Retrying,
};
use crate::testing::Directory;

fn fs(path: &Path) -> Arc<dyn Adapter> {
    Arc::new(Fs::open(&FsConfig::new(path), 8, CapacityLimits::capacity(0), None).unwrap())
}

fn fs_native(path: &Path, use_odirect: bool, capacity: Option<u64>) -> Arc<dyn Adapter> {
    let limits = CapacityLimits::capacity(capacity.unwrap_or(0));
    let fs = FsConfig { use_odirect, ..FsConfig::new(path) };
    Arc::new(Fs::open_native(&FsNativeConfig { fs, num_workers: 4 }, limits, None).unwrap())
}

fn mock() -> Arc<dyn Adapter> {
    Arc::new(Mock::new(&MockConfig { max_size_bytes: 32 << 20, bandwidth_bytes_per_second: 1 << 40 }))
}

/// `inner` in each layer, one at a time. The limit is small enough to split batches.
fn layered(inner: impl Fn() -> Arc<dyn Adapter>) -> Vec<Arc<dyn Adapter>> {
    let limit = LimitConfig { jobs: 3, bytes: 300_000 };
    let faults = Faults { rate: 0.0, seed: 0, gap_indices: Vec::new(), gap_tail_ratios: Vec::new() };
    vec![
        Arc::new(Limit::new(inner(), limit)),
        Arc::new(Deadline::new(inner(), Default::default())),
        Arc::new(Retrying::new(inner(), Default::default())),
        Arc::new(Breaker::new(inner(), Default::default())),
        Arc::new(Checksum::new(inner()).unwrap()),
        Arc::new(Fault::new(inner(), Default::default())),
        Arc::new(FaultInject::new(inner(), faults)),
    ]
}

#[tokio::test]
async fn files() {
    let directory = Directory::new("conformance-fs");
    run(fs(directory.path())).await;
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(
        left.iter().all(|name| name.to_str().unwrap().ends_with(".data")),
        "no unfinished files: {left:?}"
    );
}

#[tokio::test]
async fn files_in_all_settings() {
    let directory = Directory::new("conformance-settings");
    let relative_tmp_dir = Some("a/tmp".into());
    let config = FsConfig {
        relative_tmp_dir,
        read_ahead_bytes: Some(4096),
        use_odirect: true,
        ..FsConfig::new(directory.path())
    };
    run(Arc::new(Fs::open(&config, 8, CapacityLimits::capacity(0), None).unwrap())).await;
}

#[tokio::test]
async fn native_files() {
    for use_odirect in [false, true] {
        let directory = Directory::new("conformance-native");
        run(fs_native(directory.path(), use_odirect, Some(32 << 20))).await;
    }
}

#[tokio::test(start_paused = true)]
async fn memory() {
    run(mock()).await;
}

#[tokio::test(start_paused = true)]
async fn layers_around_memory() {
    for adapter in layered(mock) {
        run(adapter).await;
    }
}

#[tokio::test]
async fn layers_around_files() {
    let directories: Vec<_> = (0..7).map(|_| Directory::new("conformance-layers")).collect();
    let next = std::cell::Cell::new(0);
    let inner = || fs(directories[next.replace(next.get() + 1)].path());
    for adapter in layered(inner) {
        run(adapter).await;
    }
}

#[tokio::test]
async fn all_layers() {
    let directory = Directory::new("conformance-stack");
    let layers = LayersConfig { checksum: true, ..LayersConfig::default() };
    run(layers.wrap(fs(directory.path())).unwrap()).await;
}

/// On the real clock: a paused one runs ahead while threads hash, and would cause timeouts.
#[tokio::test]
async fn all_layers_hide_faults_of_backend() {
    let fault = crate::layers::FaultConfig {
        seed: 11,
        error: 0.2,
        delay: 0.2,
        delay_max: Duration::from_millis(1),
        short_read: 0.05,
        bit_flip: 0.05,
        torn_write: 0.05,
        ..Default::default()
    };
    let retry = Some(RetryConfig { first_pause: Duration::from_millis(1), ..RetryConfig::default() });
    let layers = LayersConfig { checksum: true, retry, fault: Some(fault), ..LayersConfig::default() };
    let adapter = layers.wrap(mock()).unwrap();
    let arena = TestArena::new(ARENA_BYTES);
    let mut whole = 0;
    for _ in 0..20 {
        let _ = adapter.store((0..64).map(|n| arena.object(n, 2000 + n)).collect()).await;
        let blanks: Vec<_> = (0..64).map(|n| arena.blank(n, 2000 + n)).collect();
        let regions: Vec<_> = blanks.iter().map(|blank| blank.region.clone()).collect();
        let loaded = adapter.load(blanks).await;
        for (n, (result, region)) in (0..).zip(loaded.iter().zip(regions)) {
            if result.is_ok() {
                whole += 1;
                assert!(contents(&region) == bytes(n, 2000 + n), "a wrong byte was returned");
            }
        }
    }
    assert!(whole > 1000, "{whole} of 1280 loads succeeded");
    adapter.close().await;
    assert_eq!(arena.regions(), 0);
}

#[tokio::test]
async fn capacity_holds_after_restart() {
    for use_odirect in [false, true] {
        let directory = Directory::new("conformance-restart");
        let path = directory.path();
        restart(1 << 20, |capacity| async move { fs_native(path, use_odirect, capacity) }).await;
    }
}

#[tokio::test]
async fn adapters_share_a_directory() {
    let directory = Directory::new("conformance-shared");
    shared(fs(directory.path()), fs_native(directory.path(), true, None)).await;
}
