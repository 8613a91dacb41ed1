use std::time::Duration;

use super::*;
use crate::adapters::mock::{Mock, MockConfig};
use crate::layers::fault::{Fault, FaultConfig};
use crate::testing::{TestArena, contents};

fn mock() -> Arc<dyn Adapter> {
    Arc::new(Mock::new(&MockConfig { max_size_bytes: 1 << 20, bandwidth_bytes_per_second: 1 << 40 }))
}

#[tokio::test(start_paused = true)]
async fn objects_without_checksum_are_accepted() {
    let (arena, plain) = (TestArena::new(1 << 20), mock());
    assert!(plain.store(vec![arena.object(1, 5000)]).await[0].is_ok());
    let adapter = Checksum::new(plain).unwrap();
    assert!(adapter.load(vec![arena.blank(1, 5000)]).await[0].is_ok());
    // A store of an object that is there already must not add a checksum for unseen bytes.
    assert_eq!(adapter.store(vec![arena.object(1, 5000)]).await[0].as_ref().unwrap().written_bytes, 0);
    assert!(adapter.shared.lock().records.is_empty());
}

#[tokio::test(start_paused = true)]
async fn detects_every_flipped_bit() {
    let arena = TestArena::new(1 << 20);
    let mock = Mock::new(&MockConfig { max_size_bytes: 1 << 20, bandwidth_bytes_per_second: 1 << 40 });
    let faults = FaultConfig { bit_flip: 0.5, seed: 4, ..FaultConfig::default() };
    let adapter = Checksum::new(Arc::new(Fault::new(Arc::new(mock), faults))).unwrap();
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
    let adapter = Checksum::new(Arc::new(mock)).unwrap();
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
    let adapter = Checksum::new(Arc::clone(&fault) as Arc<dyn Adapter>).unwrap();
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
