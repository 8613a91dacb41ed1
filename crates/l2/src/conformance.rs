//! The test suite for every adapter and every layer.
//!
//! [`run`] tests an empty adapter; [`restart`] and [`shared`] test several adapters on the same data. Features
//! that [`Capabilities`](crate::Capabilities) exclude are skipped. Failures panic with the name of the case.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use larder_types::object::{ChunkHash, KvRank, ObjectKey};

use crate::adapter::{Adapter, Listed, Results, Stored, Transfer, holds};
use crate::error::ErrorKind;
use crate::testing::{TestArena, bytes, contents, key};

/// Sizes mixed in one batch: less than a block, whole blocks, neither, and many blocks.
pub const SIZES: [u64; 6] = [1, 541, 4096, 5000, 64 << 10, (1 << 20) + 4096];

/// Bytes of memory that the tests need.
pub const ARENA_BYTES: u64 = 64 << 20;

/// Maximum wait for background work.
const PATIENCE: Duration = Duration::from_secs(120);

/// Tests an empty adapter that holds at least 16 MiB, and closes it.
///
/// # Panics
/// If the adapter fails a test.
pub async fn run(adapter: Arc<dyn Adapter>) {
    let arena = TestArena::new(ARENA_BYTES);
    let adapter = &*adapter;
    empty_batches(adapter).await;
    round_trip(adapter, &arena).await;
    absent_keys(adapter, &arena).await;
    wrong_lengths(adapter, &arena).await;
    deletes(adapter, &arena).await;
    names(adapter, &arena).await;
    concurrent_calls_for_one_key(adapter, &arena).await;
    listing(adapter, &arena).await;
    dropped_futures(adapter, &arena).await;
    closing(adapter, &arena).await;
}

async fn empty_batches(adapter: &dyn Adapter) {
    assert!(adapter.lookup(Vec::new()).await.is_empty(), "lookup of nothing");
    assert!(adapter.load(Vec::new()).await.is_empty(), "load of nothing");
    assert!(adapter.store(Vec::new()).await.is_empty(), "store of nothing");
    assert!(adapter.delete(Vec::new()).await.is_empty(), "delete of nothing");
}

/// Stored bytes are loaded unchanged, and usage counts them.
async fn round_trip(adapter: &dyn Adapter, arena: &TestArena) {
    let numbers = || SIZES.iter().zip(100..);
    let before = adapter.usage();
    let stored = adapter.store(numbers().map(|(len, n)| arena.object(n, *len)).collect()).await;
    let written: Vec<_> = stored.into_iter().map(|r| r.expect("store").written_bytes).collect();
    assert_eq!(written, SIZES, "every size of a mixed batch is written");
    let found = adapter.lookup(numbers().map(|(_, n)| key(n)).collect()).await;
    for ((len, n), found) in numbers().zip(found) {
        let found = found.expect("lookup").expect("a stored object is found");
        assert!(holds(found, *len), "object {n} of {len} bytes is found with {found}");
    }
    load_and_check(adapter, arena, numbers().map(|(len, n)| (n, *len))).await;
    let after = adapter.usage();
    assert_eq!(after.objects - before.objects, SIZES.len() as u64, "objects counted");
    let grown = after.used_bytes - before.used_bytes;
    assert!(grown >= SIZES.iter().sum(), "counted bytes grow by {grown}");
    // Storing again writes nothing and counts nothing twice.
    let again = adapter.store(numbers().map(|(len, n)| arena.object(n, *len)).collect()).await;
    assert!(
        again.into_iter().all(|r| r.is_ok_and(|stored| stored == Stored { written_bytes: 0 })),
        "stored twice"
    );
    assert_eq!(adapter.usage().used_bytes, after.used_bytes, "counted twice");
    remove(adapter, numbers().map(|(_, n)| n)).await;
    assert_eq!(adapter.usage().used_bytes, before.used_bytes, "bytes after the deletes");
}

async fn load_and_check(adapter: &dyn Adapter, arena: &TestArena, objects: impl Iterator<Item = (u64, u64)>) {
    let objects: Vec<_> = objects.collect();
    let blanks: Vec<_> = objects.iter().map(|(n, len)| arena.blank(*n, *len)).collect();
    let regions: Vec<_> = blanks.iter().map(|blank| blank.region.clone()).collect();
    let loaded = adapter.load(blanks).await;
    assert_eq!(loaded.len(), objects.len(), "one result for each key");
    for (((n, len), result), region) in objects.iter().zip(loaded).zip(regions) {
        result.unwrap_or_else(|error| panic!("load object {n} of {len} bytes: {error}"));
        assert!(contents(&region) == bytes(*n, *len), "object {n} of {len} bytes came back changed");
    }
}

async fn remove(adapter: &dyn Adapter, numbers: impl Iterator<Item = u64>) {
    let deleted = adapter.delete(numbers.map(key).collect()).await;
    deleted.into_iter().for_each(|result| assert!(result.expect("delete"), "an existing object is deleted"));
}

/// Absent keys among present ones, each with its own result.
async fn absent_keys(adapter: &dyn Adapter, arena: &TestArena) {
    let _ = adapter.store(vec![arena.object(200, 4096), arena.object(202, 8192)]).await;
    let found = adapter.lookup((199..204).map(key).collect()).await;
    let found: Vec<_> = found.into_iter().map(|r| r.expect("lookup").is_some()).collect();
    assert_eq!(found, [false, true, false, true, false], "a partial lookup");
    let loaded = adapter
        .load(vec![
            arena.blank(199, 4096),
            arena.blank(200, 4096),
            arena.blank(201, 1),
            arena.blank(202, 8192),
        ])
        .await;
    assert_eq!(
        kinds(&loaded),
        [Some(ErrorKind::NotFound), None, Some(ErrorKind::NotFound), None],
        "a partial load"
    );
    remove(adapter, [200, 202].into_iter()).await;
}

fn kinds<T>(results: &Results<T>) -> Vec<Option<ErrorKind>> {
    results.iter().map(|result| result.as_ref().err().map(crate::L2Error::kind)).collect()
}

/// An object of another length is a miss of that key only, and a store repairs it.
async fn wrong_lengths(adapter: &dyn Adapter, arena: &TestArena) {
    let _ = adapter.store(vec![arena.object(300, 4096), arena.object(301, 4096)]).await;
    let loaded = adapter.load(vec![arena.blank(300, 8192), arena.blank(301, 4096)]).await;
    assert_eq!(kinds(&loaded), [Some(ErrorKind::WrongSize), None], "a short object");
    let stored = adapter.store(vec![arena.object(300, 8192)]).await;
    assert_eq!(*stored[0].as_ref().expect("repair"), Stored { written_bytes: 8192 }, "it is replaced");
    load_and_check(adapter, arena, [(300, 8192)].into_iter()).await;
    let loaded = adapter.load(vec![arena.blank(300, 4000)]).await;
    assert_eq!(kinds(&loaded), [Some(ErrorKind::WrongSize)], "a long object");
    remove(adapter, [300, 301].into_iter()).await;
}

async fn deletes(adapter: &dyn Adapter, arena: &TestArena) {
    let _ = adapter.store(vec![arena.object(400, 100)]).await;
    let deleted = adapter.delete(vec![key(400), key(401), key(400)]).await;
    let deleted: Vec<_> = deleted.into_iter().map(|result| result.expect("delete")).collect();
    assert_eq!(deleted.len(), 3, "one result for each key");
    assert_eq!(deleted.iter().filter(|there| **there).count(), 1, "deleted once");
    assert!(!deleted[1], "an absent key");
    let found = adapter.lookup(vec![key(400)]).await;
    assert_eq!(*found[0].as_ref().expect("lookup"), None, "deleted objects are not found");
}

/// Keys that differ in any part are different objects.
async fn names(adapter: &dyn Adapter, arena: &TestArena) {
    let hash = ChunkHash::new(&[0xde, 0xad, 0xbe, 0xef]).expect("a hash");
    let new = |model: &str, rank, group, salt: &str| {
        ObjectKey::new(hash, model, KvRank(rank), group, salt).expect("a legal key")
    };
    let keys = [
        new("org/a b", 0x0805_0805, 17, "tenant:42"),
        new("org/a b", 0x0805_0805, 17, ""),
        new("org/a b", 0x0805_0805, 16, ""),
        new("org/a b", 0x0804_0804, 17, ""),
        new("org/a c", 0x0805_0805, 17, ""),
        new("größe", 0x0805_0805, 17, "ü"),
    ];
    let with_region = |(n, key): (u64, &ObjectKey)| Transfer { key: key.clone(), ..arena.object(n, 64) };
    let stored = adapter.store((500..).zip(&keys).map(with_region).collect()).await;
    stored.into_iter().for_each(|result| assert_eq!(result.expect("store").written_bytes, 64));
    for (n, key) in (500..).zip(&keys) {
        let region = arena.region(64);
        let loaded = adapter.load(vec![Transfer { key: key.clone(), region: region.clone() }]).await;
        assert_eq!(kinds(&loaded), [None], "load {key:?}");
        assert_eq!(contents(&region), bytes(n, 64), "the bytes of {key:?}");
    }
    let deleted = adapter.delete(keys.to_vec()).await;
    assert!(deleted.into_iter().all(|result| result.is_ok_and(|there| there)), "delete by each name");
}

/// The same key is stored, loaded and deleted at the same time.
async fn concurrent_calls_for_one_key(adapter: &dyn Adapter, arena: &TestArena) {
    const LEN: u64 = 32 << 10;
    for _ in 0..8 {
        let stores = adapter.store((0..4).map(|_| arena.object(600, LEN)).collect());
        let blanks: Vec<_> = (0..4).map(|_| arena.blank(600, LEN)).collect();
        let regions: Vec<_> = blanks.iter().map(|blank| blank.region.clone()).collect();
        let (stored, loaded, _) =
            tokio::join!(stores, adapter.load(blanks), adapter.delete(vec![key(600), key(600)]));
        assert!(stored.iter().all(Result::is_ok), "stores of one key: {stored:?}");
        for (result, region) in loaded.iter().zip(regions) {
            match result {
                Ok(()) => assert!(contents(&region) == bytes(600, LEN), "a torn object was read"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
            }
        }
    }
    let _ = adapter.delete(vec![key(600)]).await;
}

/// All pages together list exactly the counted objects.
async fn listing(adapter: &dyn Adapter, arena: &TestArena) {
    let limit = NonZeroUsize::new(3).expect("not zero");
    if !adapter.capabilities().list {
        let kind = adapter.list(None, limit).await.expect_err("listing is not supported").kind();
        assert_eq!(kind, ErrorKind::Unsupported);
        return;
    }
    let before = adapter.usage();
    let _ = adapter.store((700..710).map(|n| arena.object(n, 100 + n)).collect()).await;
    let listed = list_all(adapter, limit).await;
    for n in 700..710 {
        let count = listed.iter().filter(|object| object.key == key(n)).count();
        assert_eq!(count, 1, "object {n} is listed once");
    }
    let usage = adapter.usage();
    assert_eq!(listed.len() as u64, usage.objects, "listed and counted");
    let bytes: u64 = listed.iter().map(|object| object.stored_bytes).sum();
    assert_eq!(bytes, usage.used_bytes, "bytes listed and counted");
    remove(adapter, 700..710).await;
    assert_eq!(adapter.usage().objects, before.objects);
}

/// All objects of an adapter.
///
/// # Panics
/// If a page fails, or there are more than a million.
pub async fn list_all(adapter: &dyn Adapter, limit: NonZeroUsize) -> Vec<Listed> {
    let (mut listed, mut cursor) = (Vec::new(), None);
    for _ in 0..1_000_000 {
        let page = adapter.list(cursor, limit).await.expect("list");
        assert!(page.objects.len() <= limit.get(), "a page keeps its limit");
        listed.extend(page.objects);
        match page.next {
            Some(next) => cursor = Some(next),
            None => return listed,
        }
    }
    panic!("the listing does not end");
}

/// Rule 4: dropped futures release their regions and leave complete objects.
async fn dropped_futures(adapter: &dyn Adapter, arena: &TestArena) {
    let regions = arena.regions();
    for round in 0..10_u64 {
        let numbers = 800 + round * 8..808 + round * 8;
        let mut store = adapter.store(numbers.clone().map(|n| arena.object(n, 20_000)).collect());
        let mut load = adapter.load(numbers.map(|n| arena.blank(n, 20_000)).collect());
        // Each has started, or waits in a queue.
        let _ = tokio::time::timeout(Duration::ZERO, &mut store).await;
        let _ = tokio::time::timeout(Duration::ZERO, &mut load).await;
    }
    until("dropped operations release their regions", || arena.regions() == regions).await;
    // Objects that they stored are complete, and the adapter still works.
    for n in 800..880 {
        let found = adapter.lookup(vec![key(n)]).await;
        if found[0].as_ref().expect("lookup").is_some() {
            load_and_check(adapter, arena, [(n, 20_000)].into_iter()).await;
        }
    }
    let _ = adapter.delete((800..880).map(key).collect()).await;
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let started = std::time::Instant::now();
    // Both clocks: a paused one runs ahead while threads of an adapter still run.
    while !done() {
        let over = tokio::time::Instant::now() > deadline && started.elapsed() > PATIENCE;
        assert!(!over, "{what}: not within {PATIENCE:?}");
        std::thread::yield_now();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Rule 5.
async fn closing(adapter: &dyn Adapter, arena: &TestArena) {
    let regions = arena.regions();
    let mut store = adapter.store((900..908).map(|n| arena.object(n, 100_000)).collect());
    let _ = tokio::time::timeout(Duration::ZERO, &mut store).await;
    drop(store);
    adapter.close().await;
    until("close waits for running I/O", || arena.regions() == regions).await;
    let closed = [Some(ErrorKind::Closed)];
    assert_eq!(kinds(&adapter.lookup(vec![key(900)]).await), closed, "lookup after close");
    assert_eq!(kinds(&adapter.load(vec![arena.blank(900, 1)]).await), closed, "load after close");
    assert_eq!(kinds(&adapter.store(vec![arena.object(909, 1)]).await), closed, "store after close");
    assert_eq!(kinds(&adapter.delete(vec![key(900)]).await), closed, "delete after close");
    adapter.close().await;
}

/// A capacity of `capacity` bytes holds after a restart too. `open` opens an adapter with that capacity, or with
/// none, on the same data.
///
/// # Panics
/// If the adapter fails a test.
pub async fn restart<F, Fut>(capacity: u64, open: F)
where
    F: Fn(Option<u64>) -> Fut,
    Fut: Future<Output = Arc<dyn Adapter>>,
{
    const LEN: u64 = 64 << 10;
    let arena = TestArena::new(ARENA_BYTES);
    let unbounded = open(None).await;
    let count = 2 * capacity / LEN;
    let stored = unbounded.store((0..count).map(|n| arena.object(n, LEN)).collect()).await;
    assert!(stored.iter().all(Result::is_ok), "stores before the restart");
    let before = unbounded.usage();
    unbounded.close().await;
    drop(unbounded);

    let again = open(None).await;
    until("the objects are counted", || !again.usage().recovering).await;
    assert_eq!(again.usage().used_bytes, before.used_bytes, "bytes after a restart");
    assert_eq!(again.usage().objects, before.objects, "objects after a restart");
    again.close().await;
    drop(again);

    let bounded = open(Some(capacity)).await;
    for n in 0..count {
        let stored = bounded.store(vec![arena.object(1000 + n, LEN)]).await;
        assert!(stored[0].is_ok(), "a full adapter evicts: {stored:?}");
        let used = bounded.usage().used_bytes;
        assert!(used <= capacity, "{used} bytes are held, the capacity is {capacity}");
    }
    let usage = bounded.usage();
    assert!(usage.used_bytes + LEN > capacity, "no more is evicted than needed: {usage:?}");
    assert_eq!(usage.evicted_objects, 2 * count - usage.objects, "evictions are counted");
    load_and_check(&*bounded, &arena, [(1000 + count - 1, LEN)].into_iter()).await;
    let too_large = bounded.store(vec![arena.object(1, capacity + 1)]).await;
    assert_eq!(kinds(&too_large), [Some(ErrorKind::OverLimit)], "larger than everything");
    bounded.close().await;
}

/// Two adapters on the same data: readers of one see complete objects of the other, or none.
///
/// # Panics
/// If an adapter fails a test.
pub async fn shared(one: Arc<dyn Adapter>, other: Arc<dyn Adapter>) {
    const LEN: u64 = 256 << 10;
    let arena = TestArena::new(ARENA_BYTES);
    for round in 0..20_u64 {
        let numbers = round * 4..round * 4 + 4;
        let blanks: Vec<_> = numbers.clone().map(|n| arena.blank(n, LEN)).collect();
        let regions: Vec<_> = blanks.iter().map(|blank| blank.region.clone()).collect();
        let (first, second, loaded) = tokio::join!(
            one.store(numbers.clone().map(|n| arena.object(n, LEN)).collect()),
            other.store(numbers.clone().map(|n| arena.object(n, LEN)).collect()),
            other.load(blanks),
        );
        assert!(first.iter().chain(&second).all(Result::is_ok), "two writers of one key");
        for ((result, region), n) in loaded.iter().zip(regions).zip(numbers.clone()) {
            match result {
                Ok(()) => assert!(contents(&region) == bytes(n, LEN), "object {n} was read torn"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
            }
        }
        load_and_check(&*one, &arena, numbers.map(|n| (n, LEN))).await;
    }
    let deleted = other.delete((0..80).map(key).collect()).await;
    assert!(deleted.into_iter().all(|result| result.is_ok_and(|there| there)));
    let found = one.lookup((0..80).map(key).collect()).await;
    assert!(found.into_iter().all(|result| result.is_ok_and(|found| found.is_none())), "deleted for both");
    assert_eq!(one.usage().used_bytes, 0, "bytes after the deletes");
}

#[cfg(test)]
mod tests;
