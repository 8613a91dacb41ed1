//! What others do to the directory, and a file system that fails.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::dir_watch::Check;
use super::file_system::Mounted;
use super::object_dir::ObjectDir;
use super::{Fs, FsConfig};
use crate::adapter::{Adapter, Results};
use crate::capacity::CapacityLimits;
use crate::error::{ErrorKind, L2Error};
use crate::eviction::{EvictionListener, EvictionReason};
use crate::layers::LayersConfig;
use crate::testing::{Directory, TestArena, bytes, contents, key};
use larder_types::object::ObjectKey;

fn open(path: &Path, capacity: u64) -> Fs {
    Fs::open(&FsConfig::new(path), 4, CapacityLimits::capacity(capacity), None).unwrap()
}

fn file_of(directory: &Path, n: u64) -> PathBuf {
    directory.join(key(n).file_name())
}

fn kinds<T>(results: &Results<T>) -> Vec<Option<ErrorKind>> {
    results.iter().map(|result| result.as_ref().err().map(L2Error::kind)).collect()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[tokio::test]
async fn directory_in_the_place_of_an_object_is_a_miss_of_that_object() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("in-place"));
    let files = open(directory.path(), 0);
    let adapter = LayersConfig::default().wrap(Arc::new(files)).unwrap();
    fs::create_dir_all(file_of(directory.path(), 1).join("x")).unwrap();
    let store = || adapter.store((1..4).map(|n| arena.object(n, 1000)).collect());
    for _ in 0..10 {
        assert_eq!(kinds(&store().await), [Some(ErrorKind::Unreadable), None, None]);
        assert_eq!(kinds(&adapter.delete(vec![key(1)]).await), [Some(ErrorKind::Unreadable)]);
        let found = adapter.lookup((1..4).map(key).collect()).await;
        assert_eq!(found.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [None, Some(1000), Some(1000)]);
        assert!(adapter.load(vec![arena.blank(2, 1000)]).await[0].is_ok());
    }
    assert_eq!(adapter.health(), crate::Health::default());
    let failures = adapter.failures();
    assert_eq!(failures.problems, [""; 0]);
    let counts =
        [(crate::Call::Store, ErrorKind::Unreadable, 10), (crate::Call::Delete, ErrorKind::Unreadable, 10)];
    assert_eq!(failures.counts, counts, "no attempt was repeated");
    fs::remove_dir_all(file_of(directory.path(), 1)).unwrap();
    assert_eq!(kinds(&store().await), [None, None, None]);
}

/// Root may read every file.
#[tokio::test]
async fn file_of_another_user_is_a_miss_until_a_store_replaces_it() {
    if is_root() {
        return;
    }
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("foreign"));
    let adapter = open(directory.path(), 0);
    for n in 1..3 {
        fs::write(file_of(directory.path(), n), bytes(n, 1000)).unwrap();
        fs::set_permissions(file_of(directory.path(), n), fs::Permissions::from_mode(0o000)).unwrap();
    }
    assert_eq!(kinds(&adapter.load(vec![arena.blank(1, 1000)]).await), [Some(ErrorKind::Unreadable)]);
    assert_eq!(*adapter.lookup(vec![key(1)]).await[0].as_ref().unwrap(), None, "it is not promised again");
    for n in 1..3 {
        assert_eq!(adapter.store(vec![arena.object(n, 1000)]).await[0].as_ref().unwrap().written_bytes, 1000);
        let blank = arena.blank(n, 1000);
        let region = blank.region.clone();
        assert!(adapter.load(vec![blank]).await[0].is_ok());
        assert_eq!(contents(&region), bytes(n, 1000));
    }
    // The directory itself.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o500)).unwrap();
    let stored = adapter.store(vec![arena.object(5, 1000)]).await;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(kinds(&stored), [Some(ErrorKind::Denied)]);
    let text = stored[0].as_ref().unwrap_err().explained();
    assert!(
        text.contains(&directory.path().display().to_string()) && text.contains("let the user"),
        "{text}"
    );
}

#[tokio::test]
async fn object_that_cannot_be_removed_does_not_stop_eviction() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("stuck"));
    let adapter = open(directory.path(), 3000);
    for n in 1..4 {
        assert!(adapter.store(vec![arena.object(n, 1000)]).await[0].is_ok());
    }
    fs::remove_file(file_of(directory.path(), 1)).unwrap();
    fs::create_dir_all(file_of(directory.path(), 1).join("x")).unwrap();
    for n in 4..9 {
        assert_eq!(kinds(&adapter.store(vec![arena.object(n, 1000)]).await), [None], "{n}");
    }
    assert!(file_of(directory.path(), 8).exists() && file_of(directory.path(), 7).exists());
    assert_eq!(adapter.usage().evicted_objects, 5);
}

#[derive(Debug, Default)]
struct Missing(std::sync::Mutex<Vec<ObjectKey>>);

impl EvictionListener for Missing {
    fn on_removed(&self, key: &ObjectKey, reason: EvictionReason) {
        assert_eq!(reason, EvictionReason::Missing);
        self.0.lock().unwrap().push(key.clone());
    }
}

fn object_dir(
    path: &Path,
    limits: CapacityLimits,
    listener: Option<Arc<dyn EvictionListener>>,
) -> Arc<ObjectDir> {
    let config = FsConfig::new(path);
    let place = config.place(config.io_mode(), Arc::new(Mounted)).unwrap();
    let dir = Arc::new(ObjectDir::new(place, limits, listener));
    dir.make_directories().unwrap();
    dir
}

/// Stores objects number 0 to `count`.
fn store_all(dir: &Arc<ObjectDir>, arena: &TestArena, count: u64, len: u64) {
    (0..count).for_each(|n| assert!(dir.store(&arena.object(n, len)).is_ok()));
}

fn counted(dir: &ObjectDir) -> (u64, u64) {
    let usage = dir.tracker().usage(false);
    (usage.objects, usage.used_bytes)
}

#[test]
fn files_that_others_remove_are_not_counted_any_more() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("emptied"));
    let (base, missing) = (directory.path().join("l2"), Arc::new(Missing::default()));
    let dir = object_dir(&base, CapacityLimits::capacity(0), Some(missing.clone()));
    let mut check = Check::new(&base);
    store_all(&dir, &arena, 200, 100);
    check.run(&dir).unwrap();
    assert_eq!(counted(&dir), (200, 20_000));
    fs::remove_file(file_of(&base, 3)).unwrap();
    (0..4).for_each(|_| check.run(&dir).unwrap());
    assert_eq!(counted(&dir), (199, 19_900), "one file: found in turn");
    for entry in fs::read_dir(&base).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    check.run(&dir).unwrap();
    assert_eq!((counted(&dir), missing.0.lock().unwrap().len()), ((0, 0), 200), "all files: found at once");
    store_all(&dir, &arena, 1, 100);
    assert_eq!(counted(&dir), (1, 100));
}

#[test]
fn removed_or_replaced_directory_is_noticed() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("replaced"));
    let (base, other) = (directory.path().join("l2"), directory.path().join("other"));
    let dir = object_dir(&base, CapacityLimits::capacity(0), None);
    let mut check = Check::new(&base);
    store_all(&dir, &arena, 3, 100);
    fs::remove_dir_all(&base).unwrap();
    check.run(&dir).unwrap();
    assert!(base.is_dir(), "made again");
    assert_eq!(counted(&dir), (0, 0));
    store_all(&dir, &arena, 3, 100);
    fs::create_dir(&other).unwrap();
    for n in 1..5 {
        fs::write(file_of(&other, n), bytes(n, 50)).unwrap();
    }
    fs::rename(&base, directory.path().join("before")).unwrap();
    fs::rename(&other, &base).unwrap();
    check.run(&dir).unwrap();
    assert_eq!(counted(&dir).0, 4, "what the other directory has");
    fs::remove_dir_all(&base).unwrap();
    fs::write(&base, b"").unwrap();
    let error = check.run(&dir).unwrap_err();
    assert!(error.explained().contains(&base.display().to_string()), "{}", error.explained());
    fs::remove_file(&base).unwrap();
    fs::rename(directory.path().join("before"), &base).unwrap();
    check.run(&dir).unwrap();
    assert_eq!(counted(&dir), (3, 300), "it is back with its objects");
}

#[test]
fn full_file_system_evicts_the_oldest_objects_and_tries_again() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("full"));
    let dir = object_dir(directory.path(), CapacityLimits::capacity(1 << 30), None);
    let present = || (0..20).filter(|n| file_of(directory.path(), *n).exists()).collect::<Vec<_>>();
    store_all(&dir, &arena, 20, 1000);
    // There is space for 13 files of 1000 bytes.
    let full = || L2Error::system("write", rustix::io::Errno::NOSPC.into());
    let write = || if present().len() < 13 { Ok(()) } else { Err(full()) };
    dir.with_space("", 3000, write).unwrap();
    assert_eq!(present(), (12..20).collect::<Vec<_>>(), "enough for the object twice");
    let attempts = Cell::new(0);
    let in_vain = || {
        attempts.set(attempts.get() + 1);
        Err::<(), _>(full())
    };
    assert_eq!(dir.with_space("", 100, in_vain).unwrap_err().kind(), ErrorKind::Full);
    assert_eq!((attempts.get(), present().len()), (3, 0));
    store_all(&dir, &arena, 20, 1000);
    for _ in 0..3 {
        assert!(dir.with_space("", 100, in_vain).is_err());
    }
    assert_eq!(present().len(), 4, "evictions in vain are bounded");
    let noop = CapacityLimits {
        policy: larder_policy::eviction::EvictionKind::Noop,
        ..CapacityLimits::capacity(1 << 30)
    };
    let dir = object_dir(directory.path(), noop, None);
    store_all(&dir, &arena, 20, 1000);
    assert!(dir.with_space("", 100, in_vain).is_err());
    assert_eq!(present().len(), 20, "noop evicts nothing");
}
