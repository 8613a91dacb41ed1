use std::time::Duration;

use super::*;
use crate::adapters::fs::{Fs, FsConfig};
use crate::adapters::mock::{Mock, MockConfig};
use crate::capacity::CapacityLimits;
use crate::layers::fault::{Fault, FaultConfig};
use crate::testing::{Directory, TestArena, contents, key};

fn files(directory: &Directory) -> Arc<dyn Adapter> {
    let config = FsConfig::new(directory.path());
    Arc::new(Fs::open(&config, 8, CapacityLimits::capacity(0), None).unwrap())
}

fn corrupt(directory: &Directory, n: u64) {
    let path = directory.path().join(key(n).file_name());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[17] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// Opens the adapter again, as after a restart. A process that another test starts at this moment inherits all open
/// files, and with them the lock, until it runs.
fn reopened(directory: &Directory) -> Checksum {
    let started = std::time::Instant::now();
    loop {
        match Checksum::new(files(directory), Some(directory.path())) {
            Err(error) if error.kind() == ErrorKind::Busy && started.elapsed().as_secs() < 10 => {
                std::thread::yield_now();
            }
            other => return other.unwrap(),
        }
    }
}

#[tokio::test]
async fn detects_corrupt_files_after_restart_and_stores_them_again() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("checksum"));
    let adapter = Checksum::new(files(&directory), Some(directory.path())).unwrap();
    let stored = adapter.store((0..4).map(|n| arena.object(n, 5000)).collect()).await;
    assert!(stored.iter().all(Result::is_ok));
    adapter.close().await;
    drop(adapter);
    corrupt(&directory, 2);
    let adapter = reopened(&directory);
    let loaded = adapter.load((0..4).map(|n| arena.blank(n, 5000)).collect()).await;
    let failed: Vec<_> = loaded.iter().map(|result| result.as_ref().err().map(L2Error::kind)).collect();
    assert_eq!(failed, [None, None, Some(ErrorKind::Corrupt), None]);
    assert_eq!(*adapter.lookup(vec![key(2)]).await[0].as_ref().unwrap(), None, "it was deleted");
    let stored = adapter.store(vec![arena.object(2, 5000)]).await;
    assert_eq!(stored[0].as_ref().unwrap().written_bytes, 5000);
    assert!(adapter.load(vec![arena.blank(2, 5000)]).await[0].is_ok());
}

#[tokio::test]
async fn objects_without_checksum_are_accepted() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("checksum-others"));
    let plain = files(&directory);
    assert!(plain.store(vec![arena.object(1, 5000)]).await[0].is_ok());
    let adapter = Checksum::new(Arc::clone(&plain), Some(directory.path())).unwrap();
    assert!(adapter.load(vec![arena.blank(1, 5000)]).await[0].is_ok());
    // A store of an object that is there already must not add a checksum for unseen bytes.
    assert_eq!(adapter.store(vec![arena.object(1, 5000)]).await[0].as_ref().unwrap().written_bytes, 0);
    corrupt(&directory, 1);
    assert!(adapter.load(vec![arena.blank(1, 5000)]).await[0].is_ok());
}

#[tokio::test(start_paused = true)]
async fn detects_every_flipped_bit() {
    let arena = TestArena::new(1 << 20);
    let mock = Mock::new(&MockConfig { max_size_bytes: 1 << 20, bandwidth_bytes_per_second: 1 << 40 });
    let faults = FaultConfig { bit_flip: 0.5, seed: 4, ..FaultConfig::default() };
    let adapter = Checksum::new(Arc::new(Fault::new(Arc::new(mock), faults)), None).unwrap();
    let _ = adapter.store((0..64).map(|n| arena.object(n, 300)).collect()).await;
    let blanks: Vec<_> = (0..64).map(|n| arena.blank(n, 300)).collect();
    let regions: Vec<_> = blanks.iter().map(|blank| blank.region.clone()).collect();
    let loaded = adapter.load(blanks).await;
    for (n, (result, region)) in loaded.iter().zip(&regions).enumerate() {
        let whole = contents(region) == crate::testing::bytes(n as u64, 300);
        assert_eq!(result.is_ok(), whole, "object {n}");
    }
    assert!(loaded.iter().any(Result::is_err) && loaded.iter().any(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn drops_checksums_of_evicted_objects() {
    let arena = TestArena::new(1 << 20);
    let mock = Mock::new(&MockConfig { max_size_bytes: 100, bandwidth_bytes_per_second: 1 << 40 });
    let adapter = Checksum::new(Arc::new(mock), None).unwrap();
    for n in 0..3 * STALE_RECORDS as u64 {
        let _ = adapter.store(vec![arena.object(n, 10)]).await;
    }
    adapter.close().await;
    assert!(adapter.shared.lock().records.len() <= STALE_RECORDS + 20);
}

#[tokio::test(start_paused = true)]
async fn load_waits_for_running_store_of_its_object() {
    let arena = TestArena::new(1 << 20);
    let mock = Mock::new(&MockConfig { max_size_bytes: 1 << 20, bandwidth_bytes_per_second: 1 << 40 });
    let fault = Arc::new(Fault::new(Arc::new(mock), FaultConfig::default()));
    let adapter = Checksum::new(Arc::clone(&fault) as Arc<dyn Adapter>, None).unwrap();
    let mut store = adapter.store(vec![arena.object(1, 300)]);
    fault.set(FaultConfig { delay: 1.0, ..FaultConfig::default() });
    while fault.calls() == 0 {
        assert!(tokio::time::timeout(Duration::ZERO, &mut store).await.is_err(), "it is delayed");
    }
    let mut load = adapter.load(vec![arena.blank(1, 300)]);
    assert!(tokio::time::timeout(Duration::ZERO, &mut load).await.is_err());
    assert_eq!(fault.calls(), 1, "the load has not reached the backend");
    assert!(store.await[0].is_ok());
    assert!(load.await[0].is_ok());
}

#[test]
fn checksum_in_pieces_equals_checksum_of_whole() {
    let arena = TestArena::new(1 << 20);
    for len in [0, 1, PIECE_BYTES as u64, 3 * PIECE_BYTES as u64 - 1] {
        let region = arena.object(7, len).region;
        let bytes = contents(&region);
        assert_eq!(sum(&region).unwrap()[..], blake3::hash(&bytes).as_bytes()[..16], "{len} bytes");
    }
}
