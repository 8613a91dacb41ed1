use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use larder_policy::eviction::EvictionKind;
use rustix::fs::{FlockOperation, flock};

use super::*;
use crate::capacity::{TenantLimits, Trim};
use crate::error::Retry;
use crate::eviction::EvictionReason;
use crate::testing::{Directory, TestArena, bytes, contents, key};

fn open(config: &FsConfig) -> Result<Fs, L2Error> {
    Fs::open(config, 8, CapacityLimits::capacity(0), None)
}

fn native(path: &Path, capacity: u64, use_odirect: bool) -> Fs {
    let fs = FsConfig { use_odirect, ..FsConfig::new(path) };
    Fs::open_native(&FsNativeConfig { fs, num_workers: 2 }, CapacityLimits::capacity(capacity), None).unwrap()
}

fn bounded(path: &Path, limits: CapacityLimits) -> Fs {
    Fs::open(&FsConfig::new(path), 8, limits, None).unwrap()
}

/// Numbers of the objects whose files exist.
fn present(directory: &Path) -> Vec<u64> {
    (0..20).filter(|n| file_of(directory, *n).exists()).collect()
}

fn file_of(directory: &Path, n: u64) -> PathBuf {
    directory.join(key(n).file_name())
}

fn age(path: &Path, seconds: u64) {
    let then = SystemTime::now() - Duration::from_secs(seconds);
    let times = FileTimes::new().set_modified(then).set_accessed(then);
    File::options().write(true).open(path).unwrap().set_times(times).unwrap();
}

async fn kind_of_store(adapter: &Fs, arena: &TestArena, n: u64) -> Option<ErrorKind> {
    adapter.store(vec![arena.object(n, 1000)]).await[0].as_ref().err().map(L2Error::kind)
}

#[tokio::test]
async fn files_contain_exactly_the_object_bytes() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("bytes"));
    let plain = open(&FsConfig { use_odirect: true, ..FsConfig::new(directory.path()) }).unwrap();
    assert!(plain.store(vec![arena.object(1, 541), arena.object(2, 8192)]).await.iter().all(Result::is_ok));
    assert_eq!(fs::read(file_of(directory.path(), 1)).unwrap(), bytes(1, 541));
    assert_eq!(fs::read(file_of(directory.path(), 2)).unwrap(), bytes(2, 8192));
    let padding = native(directory.path(), 0, true);
    assert!(padding.store(vec![arena.object(3, 541)]).await[0].is_ok());
    let file = fs::read(file_of(directory.path(), 3)).unwrap();
    assert_eq!((file.len(), &file[..541]), (4096, &bytes(3, 541)[..]));
    assert!(file[541..].iter().all(|byte| *byte == 0));
    // Both read each other's files.
    for (reader, n) in [(&plain, 3), (&padding, 1)] {
        let blank = arena.blank(n, 541);
        let region = blank.region.clone();
        assert!(reader.load(vec![blank]).await[0].is_ok());
        assert_eq!(contents(&region), bytes(n, 541));
    }
}

#[tokio::test]
async fn abandoned_unfinished_files_are_removed_at_start() {
    let directory = Directory::new("stale");
    let tmp = directory.path().join("tmp");
    fs::create_dir(&tmp).unwrap();
    let reference = key(1).file_name().replace(".data", ".tmp");
    let written = directory.path().join("larder-1-2-5.tmp");
    let cases = [
        (directory.path().join("larder-1-2-3.tmp"), 0, false),
        (directory.path().join(&reference), 7200, false),
        (directory.path().join(reference.replace("@0@", "@1@")), 60, true),
        (tmp.join("larder-1-2-4.tmp"), 7200, false),
        (written.clone(), 7200, true),
        (directory.path().join("notes.tmp"), 7200, true),
        (file_of(directory.path(), 2), 7200, true),
    ];
    for (path, seconds, _) in &cases {
        fs::write(path, b"x").unwrap();
        age(path, *seconds);
    }
    let writer = File::open(&written).unwrap();
    flock(&writer, FlockOperation::LockExclusive).unwrap();
    let relative_tmp_dir = Some("tmp".into());
    let adapter = open(&FsConfig { relative_tmp_dir, ..FsConfig::new(directory.path()) }).unwrap();
    adapter.counted().await;
    for (path, _, stays) in &cases {
        assert_eq!(path.exists(), *stays, "{}", path.display());
    }
    assert_eq!((adapter.usage().objects, adapter.usage().used_bytes), (1, 1));
}

#[tokio::test]
async fn eviction_order_survives_restart() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("order"));
    for n in 0..4 {
        fs::write(file_of(directory.path(), n), bytes(n, 1000)).unwrap();
    }
    for (n, seconds) in [(0, 100), (1, 400), (2, 300), (3, 200)] {
        age(&file_of(directory.path(), n), seconds);
    }
    let adapter = native(directory.path(), 3000, false);
    adapter.counted().await;
    let there = || present(directory.path());
    assert_eq!(there(), [0, 2, 3], "trimmed to its capacity at the start");
    assert!(adapter.lookup(vec![key(2)]).await[0].as_ref().unwrap().is_some());
    assert!(adapter.load(vec![arena.blank(2, 1000)]).await[0].is_ok());
    assert_eq!(kind_of_store(&adapter, &arena, 5).await, None);
    assert_eq!(there(), [0, 2, 5]);
    assert!(adapter.lookup(vec![key(0)]).await[0].as_ref().unwrap().is_some());
    assert_eq!(kind_of_store(&adapter, &arena, 6).await, None);
    assert_eq!(there(), [0, 5, 6], "a lookup is a use");
    assert_eq!(adapter.usage().evicted_objects, 3);
}

#[tokio::test]
async fn watermarks_evict_in_advance() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("marks"));
    let trim = Some(Trim { trigger: 0.9, ratio: 0.5 });
    let adapter = bounded(directory.path(), CapacityLimits { trim, ..CapacityLimits::capacity(12_700) });
    for n in 0..8 {
        assert_eq!(kind_of_store(&adapter, &arena, n).await, None);
    }
    let batch = adapter.store((8..12).map(|n| arena.object(n, 1000)).collect()).await;
    assert!(batch.iter().all(Result::is_ok));
    assert_eq!(present(directory.path()), [6, 7, 8, 9, 10, 11], "half of the objects, the oldest ones");
    adapter.close().await;
    let limits = CapacityLimits { trim, ..CapacityLimits::capacity(2000) };
    let adapter = bounded(directory.path(), limits);
    adapter.counted().await;
    assert_eq!(present(directory.path()).len(), 1, "not to 0 by rounding");
    assert_eq!(kind_of_store(&adapter, &arena, 1).await, None);
    assert_eq!(present(directory.path()), [1]);
}

#[tokio::test]
async fn tail_of_a_batch_is_evicted_in_advance_before_its_head() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("marks-batch"));
    let trim = Some(Trim { trigger: 0.8, ratio: 0.5 });
    let adapter = bounded(directory.path(), CapacityLimits { trim, ..CapacityLimits::capacity(10_000) });
    let batch = adapter.store((0..8).map(|n| arena.object(n, 1000)).collect()).await;
    assert!(batch.iter().all(Result::is_ok));
    assert_eq!(present(directory.path()), [0, 1, 2, 3]);
}

#[tokio::test]
async fn shared_directory_keeps_what_others_stored() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("shared"));
    for n in 0..12 {
        fs::write(file_of(directory.path(), n), bytes(n, 1000)).unwrap();
        age(&file_of(directory.path(), n), 7200);
    }
    let (fresh, old) = (directory.path().join("larder-1-2-3.tmp"), directory.path().join("larder-1-2-4.tmp"));
    fs::write(&fresh, b"x").unwrap();
    fs::write(&old, b"x").unwrap();
    age(&old, 7200);
    let trim = Some(Trim { trigger: 0.9, ratio: 0.5 });
    let limits = CapacityLimits { trim, own_objects_only: true, ..CapacityLimits::capacity(2000) };
    let adapter = bounded(directory.path(), limits);
    adapter.counted().await;
    assert!(fresh.exists() && !old.exists(), "another server may be writing it");
    assert_eq!(adapter.usage().objects, 0, "what others stored is not counted,");
    let found = adapter.lookup((0..12).map(key).collect()).await;
    assert!(found.iter().all(|found| matches!(found, Ok(Some(1000)))), "but found");
    assert!(adapter.load(vec![arena.blank(3, 1000)]).await[0].is_ok(), "and served");
    assert_eq!(kind_of_store(&adapter, &arena, 4).await, None, "it is there already");
    assert_eq!(adapter.usage().objects, 0);
    for n in 12..17 {
        assert_eq!(kind_of_store(&adapter, &arena, n).await, None);
    }
    assert_eq!(present(directory.path()), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 16]);
    assert_eq!((adapter.usage().objects, adapter.usage().used_bytes), (1, 1000));
}

#[tokio::test]
async fn files_and_directories_are_for_their_owner_only_whatever_the_umask() {
    use std::os::unix::fs::MetadataExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("modes"));
    let private =
        FsConfig { relative_tmp_dir: Some("tmp".into()), ..FsConfig::new(directory.path().join("a/b")) };
    let shared =
        FsConfig { mode: FileMode::parse("0660").unwrap(), ..FsConfig::new(directory.path().join("c")) };
    for (config, directories, files) in [(&private, 0o700, 0o600), (&shared, 0o2770, 0o660)] {
        let adapter = open(config).unwrap();
        assert_eq!(kind_of_store(&adapter, &arena, 1).await, None);
        assert_eq!(mode(&config.base_path), directories);
        assert_eq!(mode(&config.temporary().unwrap()), directories);
        assert_eq!(mode(&file_of(&config.base_path, 1)), files);
    }
}

#[tokio::test]
async fn noop_policy_refuses_stores_over_capacity() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("noop"));
    let adapter = bounded(
        directory.path(),
        CapacityLimits { policy: EvictionKind::Noop, ..CapacityLimits::capacity(2000) },
    );
    for n in 0..2 {
        assert_eq!(kind_of_store(&adapter, &arena, n).await, None);
    }
    let full = adapter.store(vec![arena.object(2, 1000)]).await;
    let error = full[0].as_ref().unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::OverLimit, Retry::Permanent));
    assert_eq!(present(directory.path()), [0, 1]);
}

/// A batch holds the chunks of a prompt in order; which of them was written or read first does not matter.
#[tokio::test]
async fn evicts_tail_of_prompt_before_head() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("prompt"));
    let adapter = native(directory.path(), 4000, false);
    let batch = |numbers: std::ops::Range<u64>| numbers.map(|n| arena.object(n, 1000)).collect::<Vec<_>>();
    assert!(adapter.store(batch(0..4)).await.iter().all(Result::is_ok));
    assert_eq!(kind_of_store(&adapter, &arena, 10).await, None);
    assert_eq!(present(directory.path()), [0, 1, 2, 10]);
    assert!(adapter.lookup((0..3).map(key).collect()).await.iter().all(Result::is_ok));
    for n in [2, 0, 1] {
        assert!(adapter.load(vec![arena.blank(n, 1000)]).await[0].is_ok());
    }
    for n in 11..13 {
        assert_eq!(kind_of_store(&adapter, &arena, n).await, None);
    }
    assert_eq!(present(directory.path()), [0, 1, 11, 12]);
}

#[tokio::test]
async fn tenant_at_quota_evicts_only_its_own_objects() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("quotas"));
    let of = |salt: &str, n: u64| Transfer {
        key: ObjectKey { cache_salt: salt.into(), ..key(n) },
        ..arena.object(n, 1000)
    };
    let held = |adapter: &Fs| {
        let mut held = adapter.usage_by_salt();
        held.sort_unstable();
        held.into_iter().map(|(salt, bytes)| (salt.to_string(), bytes)).collect::<Vec<_>>()
    };
    let limits = CapacityLimits { policy: EvictionKind::IsolatedLru, ..CapacityLimits::capacity(10_000) };
    let adapter = bounded(directory.path(), limits);
    adapter.set_quota(&"a".into(), Some(2000)).await;
    for n in 0..4 {
        let stored = adapter.store(vec![of("a", n), of("b", n)]).await;
        assert!(stored.iter().all(Result::is_ok), "{stored:?}");
    }
    assert_eq!(held(&adapter), [("a".into(), 2000), ("b".into(), 4000)]);
    let found = adapter.lookup((0..4).map(|n| of("a", n).key).collect()).await;
    let found: Vec<bool> = found.into_iter().map(|found| found.unwrap().is_some()).collect();
    assert_eq!(found, [false, false, true, true], "its least recently used objects are evicted");
    adapter.set_quota(&"b".into(), Some(1000)).await;
    assert_eq!(held(&adapter), [("a".into(), 2000), ("b".into(), 1000)], "a lower quota applies at once");
    adapter.set_quota(&"a".into(), Some(0)).await;
    let refused = adapter.store(vec![of("a", 5)]).await;
    assert_eq!(refused[0].as_ref().unwrap_err().kind(), ErrorKind::OverLimit);
    assert_eq!(held(&adapter), [("b".into(), 1000)]);
    adapter.close().await;
    drop(adapter);
    // A default limit of 0 evicts nothing at start.
    let default_limit_bytes = Some(0);
    let tenants = TenantLimits { default_limit_bytes, ..TenantLimits::default() };
    let limits = CapacityLimits { policy: EvictionKind::IsolatedLru, tenants, ..CapacityLimits::capacity(0) };
    let adapter = bounded(directory.path(), limits);
    adapter.counted().await;
    assert_eq!(held(&adapter), [("b".into(), 1000)]);
    assert!(adapter.store(vec![of("b", 6)]).await[0].is_err());
    adapter.set_quota(&"b".into(), Some(2000)).await;
    assert!(adapter.store(vec![of("b", 6)]).await[0].is_ok());
    adapter.set_quota(&"b".into(), None).await;
    assert_eq!(held(&adapter), [], "its quota was removed");
}

#[tokio::test]
async fn load_updates_old_access_time() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("atime"));
    let path = file_of(directory.path(), 1);
    fs::write(&path, bytes(1, 1000)).unwrap();
    age(&path, 86_400);
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let adapter = native(directory.path(), 1 << 20, false);
    assert!(adapter.load(vec![arena.blank(1, 1000)]).await[0].is_ok());
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(meta.modified().unwrap(), modified);
    assert!(meta.accessed().unwrap().elapsed().unwrap() < Duration::from_secs(3600));
}

#[tokio::test]
async fn changes_by_other_processes_are_noticed() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("others"));
    let adapter = open(&FsConfig::new(directory.path())).unwrap();
    adapter.counted().await;
    fs::write(file_of(directory.path(), 1), bytes(1, 700)).unwrap();
    fs::write(file_of(directory.path(), 2), bytes(2, 800)).unwrap();
    assert_eq!(*adapter.lookup(vec![key(1)]).await[0].as_ref().unwrap(), Some(700));
    assert!(adapter.load(vec![arena.blank(2, 800)]).await[0].is_ok());
    assert_eq!((adapter.usage().objects, adapter.usage().used_bytes), (2, 1500));
    fs::remove_file(file_of(directory.path(), 1)).unwrap();
    fs::remove_file(file_of(directory.path(), 2)).unwrap();
    assert_eq!(*adapter.lookup(vec![key(1)]).await[0].as_ref().unwrap(), None);
    assert!(adapter.load(vec![arena.blank(2, 800)]).await[0].is_err());
    assert_eq!((adapter.usage().objects, adapter.usage().used_bytes), (0, 0));
}

#[tokio::test]
async fn removed_directory_is_created_again() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("removed"));
    let base = directory.path().join("parent/l2");
    let adapter = native(&base, 10_000, false);
    assert_eq!(kind_of_store(&adapter, &arena, 1).await, None);
    fs::remove_dir_all(directory.path().join("parent")).unwrap();
    let loaded = adapter.load(vec![arena.blank(1, 1000)]).await;
    assert_eq!(loaded[0].as_ref().unwrap_err().kind(), ErrorKind::NotFound);
    assert!(base.is_dir(), "an empty L2");
    assert_eq!((adapter.usage().objects, adapter.usage().used_bytes), (0, 0));
    fs::remove_dir_all(directory.path().join("parent")).unwrap();
    // A file in its place: it cannot be created.
    fs::write(directory.path().join("parent"), b"").unwrap();
    let looked_up = adapter.lookup(vec![key(1)]).await;
    assert_eq!(looked_up[0].as_ref().unwrap_err().kind(), ErrorKind::Unavailable, "not a miss");
    assert_eq!(kind_of_store(&adapter, &arena, 1).await, Some(ErrorKind::Unavailable));
    fs::remove_file(directory.path().join("parent")).unwrap();
    assert_eq!(kind_of_store(&adapter, &arena, 2).await, None, "created again");
    assert!(adapter.load(vec![arena.blank(2, 1000)]).await[0].is_ok());
    assert_eq!(*adapter.lookup(vec![key(1)]).await[0].as_ref().unwrap(), None);
    assert_eq!((adapter.usage().objects, adapter.usage().used_bytes), (1, 1000));
}

#[tokio::test]
async fn objects_of_models_with_long_names_are_stored() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("long"));
    let of = |model: &str| ObjectKey { model_name: model.repeat(20).into(), ..key(1) };
    let (first, second) = (of("/mnt/models/one/"), of("/mnt/models/two/"));
    let adapter = open(&FsConfig::new(directory.path())).unwrap();
    let object = Transfer { key: first.clone(), ..arena.object(1, 1000) };
    assert!(adapter.store(vec![object]).await[0].is_ok());
    let found = adapter.lookup(vec![first.clone(), second]).await;
    assert_eq!(found.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [Some(1000), None]);
    let blank = Transfer { key: first.clone(), ..arena.blank(1, 1000) };
    let region = blank.region.clone();
    assert!(adapter.load(vec![blank]).await[0].is_ok());
    assert_eq!(contents(&region), bytes(1, 1000));
    adapter.close().await;
    let adapter = open(&FsConfig::new(directory.path())).unwrap();
    adapter.counted().await;
    assert_eq!((adapter.usage().objects, adapter.usage().used_bytes), (1, 1000));
    let listed = adapter.list(None, NonZeroUsize::MIN).await.unwrap().objects;
    assert!(matches!(adapter.delete(vec![listed[0].key.clone()]).await[..], [Ok(true)]), "as it is listed");
    assert_eq!(*adapter.lookup(vec![first]).await[0].as_ref().unwrap(), None);
    assert_eq!(adapter.usage().objects, 0);
}

#[tokio::test]
async fn failed_store_leaves_no_file_and_no_reservation() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("fails"));
    let adapter = native(directory.path(), 10_000, false);
    fs::create_dir(file_of(directory.path(), 1)).unwrap();
    assert!(kind_of_store(&adapter, &arena, 1).await.is_some(), "the path is a directory");
    assert_eq!(*adapter.lookup(vec![key(1)]).await[0].as_ref().unwrap(), None);
    assert_eq!(adapter.usage().used_bytes, 0, "the reservation is released");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "the unfinished file is removed");
    let too_large = adapter.store(vec![arena.object(2, 10_001)]).await;
    let error = too_large[0].as_ref().unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::OverLimit, Retry::Permanent));
}

/// Needs a small file system: `LARDER_L2_SMALL_FS=/mnt/of/1/MiB`.
#[tokio::test]
async fn full_disk_is_reported_and_cleaned_up() {
    let Some(small) = std::env::var_os("LARDER_L2_SMALL_FS").map(PathBuf::from) else { return };
    let arena = TestArena::new(16 << 20);
    let adapter = open(&FsConfig::new(&small)).unwrap();
    let stored = adapter.store((0..8).map(|n| arena.object(n, 512 << 10)).collect()).await;
    let full = stored.iter().filter_map(|result| result.as_ref().err());
    assert!(full.clone().count() > 0 && full.into_iter().all(|error| error.kind() == ErrorKind::Full));
    let whole = fs::read_dir(&small).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_str().is_some_and(|name| name.ends_with(".data"))
    });
    assert_eq!(whole.count() as u64, adapter.usage().objects);
    assert!(
        !fs::read_dir(&small).unwrap().any(|e| e.unwrap().file_name().to_str().unwrap().ends_with(".tmp"))
    );
    let _ = adapter.delete((0..8).map(key).collect()).await;
}

#[test]
fn temporary_directory_outside_base_is_refused() {
    let directory = Directory::new("escape");
    for path in ["../x", "/x", "a/../../x"] {
        let relative_tmp_dir = Some(path.into());
        assert!(open(&FsConfig { relative_tmp_dir, ..FsConfig::new(directory.path()) }).is_err(), "{path}");
    }
}

#[derive(Debug, Default)]
struct RemovedKeys(std::sync::Mutex<Vec<(ObjectKey, EvictionReason)>>);

impl EvictionListener for RemovedKeys {
    fn on_removed(&self, key: &ObjectKey, reason: EvictionReason) {
        self.0.lock().unwrap().push((key.clone(), reason));
    }
}

#[tokio::test]
async fn listener_receives_evicted_and_missing_objects() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("watched"));
    let removed = Arc::new(RemovedKeys::default());
    let config = FsConfig::new(directory.path());
    let files = Fs::open(&config, 2, CapacityLimits::capacity(8192), Some(removed.clone())).unwrap();
    for n in 1..=3 {
        assert!(files.store(vec![arena.object(n, 4096)]).await[0].is_ok());
    }
    fs::remove_file(file_of(directory.path(), 3)).unwrap();
    assert!(files.lookup(vec![key(3), key(9)]).await.iter().all(|found| matches!(found, Ok(None))));
    // Deletes are not reported.
    assert!(matches!(files.delete(vec![key(2)]).await[..], [Ok(true)]));
    assert_eq!(
        *removed.0.lock().unwrap(),
        [(key(1), EvictionReason::Evicted), (key(3), EvictionReason::Missing)]
    );
}
