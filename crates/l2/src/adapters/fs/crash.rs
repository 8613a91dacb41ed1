//! Repeatedly kills a process that stores, and checks what it leaves.
//!
//! The process is this test binary itself, running the test `child`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Fs, FsConfig, FsNativeConfig, SyncPolicy};
use crate::adapter::Adapter;
use crate::adapters::fs::names::object_in;
use crate::capacity::CapacityLimits;
use crate::testing::{Directory, TestArena, bytes, key};

const DIRECTORY_VARIABLE: &str = "LARDER_L2_CRASH_DIRECTORY";
/// A file that says that a child has begun to store.
const STARTED: &str = "started";

const ROUNDS: u64 = 100;
const NUMBERS: u64 = 400;
const CAPACITY: u64 = 8 << 20;

fn len_of(n: u64) -> u64 {
    1 + n * 997 % 150_000
}

fn open(path: &Path) -> Fs {
    // The machine lives on, so nothing needs to be synced, and more is stored in a short life.
    let fs = FsConfig { sync: SyncPolicy::None, ..FsConfig::new(path) };
    let config = FsNativeConfig { fs, num_workers: 4 };
    Fs::open_native(&config, CapacityLimits::capacity(CAPACITY), None).unwrap()
}

/// Stores and deletes until it is killed.
#[tokio::test]
#[ignore = "runs as the child of `killed_process_leaves_complete_objects`"]
async fn child() {
    let Some(path) = std::env::var_os(DIRECTORY_VARIABLE) else { return };
    let (arena, adapter) = (TestArena::new(16 << 20), open(Path::new(&path)));
    let mut rng = fastrand::Rng::with_seed(u64::from(std::process::id()));
    // A child without a parent ends by itself.
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(30) {
        let mut some = |count| (0..count).map(|_| rng.u64(..NUMBERS)).collect::<Vec<_>>();
        let (stores, deletes) = (some(16), some(2));
        let objects = stores.into_iter().map(|n| arena.object(n, len_of(n))).collect();
        let (stored, _) =
            tokio::join!(adapter.store(objects), adapter.delete(deletes.into_iter().map(key).collect()));
        assert!(stored.iter().all(Result::is_ok), "{stored:?}");
        // The first batch is stored; the adapter ignores this name.
        fs::write(Path::new(&path).join(STARTED), b"").unwrap();
    }
}

/// Checks each object file. Returns their number and bytes.
fn check_files(path: &Path) -> (u64, u64) {
    let keys: Vec<_> = (0..NUMBERS).map(key).collect();
    let (mut objects, mut sum) = (0, 0);
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let Some(found) = object_in(entry.file_name().to_str().unwrap()) else { continue };
        let n = keys.iter().position(|key| *key == found).expect("an object of this test") as u64;
        let contents = fs::read(entry.path()).unwrap();
        assert!(contents == bytes(n, len_of(n)), "object {n} is not complete: {} bytes", contents.len());
        objects += 1;
        sum += contents.len() as u64;
    }
    (objects, sum)
}

#[tokio::test]
async fn killed_process_leaves_complete_objects() {
    let directory = Directory::new("crash");
    let mut rng = fastrand::Rng::with_seed(1);
    let (mut seen, started) = (0, directory.path().join(STARTED));
    for round in 0..ROUNDS {
        let _ = fs::remove_file(&started);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "adapters::fs::crash::child"])
            .env(DIRECTORY_VARIABLE, directory.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Real time: the child is another process. A busy machine may need long to start it.
        while !started.exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(rng.u64(..30)));
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success(), "round {round}: the child ended by itself");
        let (objects, bytes) = check_files(directory.path());
        assert!(bytes <= CAPACITY, "round {round}: {bytes} bytes");
        let adapter = open(directory.path());
        adapter.counted().await;
        let is_unfinished = |name: &str| name.ends_with(".tmp");
        let mut names = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(
            !names.any(|name| is_unfinished(name.to_str().unwrap())),
            "round {round}: unfinished files stay"
        );
        let usage = adapter.usage();
        assert_eq!((usage.objects, usage.used_bytes), (objects, bytes), "round {round}");
        seen += objects;
    }
    assert!(seen > ROUNDS, "the children have stored something: {seen}");
}
