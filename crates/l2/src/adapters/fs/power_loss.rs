//! The adapter over a disk that loses power: afterwards each object is whole or a miss.
//!
//! `LARDER_L2_POWER_LOSSES` sets the number of losses for each kind of disk. A failure names the seed.

use std::path::Path;
use std::sync::Arc;

use super::simulated_disk::{Nature, SimulatedDisk};
use super::{Fs, FsConfig, SyncPolicy};
use larder_types::dtype::DType;
use larder_types::object::ObjectKey;
use larder_types::{Layout, LayoutId};

use crate::adapter::{Adapter, Transfer};
use crate::capacity::CapacityLimits;
use crate::config::ChecksumMode;
use crate::testing::{TestArena, bytes, contents, key};

const LOSSES: u64 = 20;
const NUMBERS: u64 = 24;
const BATCHES: usize = 16;

/// Calls of a run that is not cut are about this many.
const CALLS: u64 = 1200;

fn len_of(n: u64) -> u64 {
    1 + n * 2311 % 20_000
}

/// Objects have one of two layouts, so that one of them has the plain file names.
fn layout_of(n: u64) -> LayoutId {
    let dtype = [DType::Float16, DType::BFloat16][n as usize % 2];
    Layout::new(&[8], dtype).unwrap().id()
}

fn key_of(n: u64) -> ObjectKey {
    key(n).with_layout(layout_of(n))
}

fn object(arena: &TestArena, n: u64) -> Transfer {
    Transfer { key: key_of(n), ..arena.object(n, len_of(n)) }
}

fn blank(arena: &TestArena, n: u64) -> Transfer {
    Transfer { key: key_of(n), ..arena.blank(n, len_of(n)) }
}

async fn open(disk: &SimulatedDisk, sync: SyncPolicy, checksums: ChecksumMode) -> Fs {
    let config = FsConfig { sync, checksums, ..FsConfig::new("/kv/l2") };
    let mode = config.io_mode();
    // One thread, so that the seed alone decides.
    let limits = CapacityLimits::capacity(0);
    let adapter = Fs::start("fs", &config, mode, 1, limits, None, Arc::new(disk.clone())).unwrap();
    adapter.counted().await;
    adapter
}

/// Stores and deletes until power is lost. The objects that were stored.
async fn use_until_cut(adapter: &Fs, arena: &TestArena, rng: &mut fastrand::Rng) -> Vec<u64> {
    let mut stored = Vec::new();
    for _ in 0..BATCHES {
        let mut numbers: Vec<u64> = (0..NUMBERS).collect();
        rng.shuffle(&mut numbers);
        numbers.truncate(rng.usize(1..8));
        let results = adapter.store(numbers.iter().map(|n| object(arena, *n)).collect()).await;
        stored.extend(numbers.iter().zip(results).filter(|(_, result)| result.is_ok()).map(|(n, _)| *n));
        if rng.u8(..4) == 0 {
            let deleted = rng.u64(..NUMBERS);
            // Whether it succeeds or not, the object may be gone.
            let _ = adapter.delete(vec![key_of(deleted)]).await;
            stored.retain(|n| *n != deleted);
        }
    }
    stored
}

async fn lose_power(seed: u64, sync: SyncPolicy, checksums: ChecksumMode, nature: Nature) -> usize {
    let case = format!("seed {seed}, {sync:?}, {checksums:?}, {nature:?}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let (arena, disk) = (TestArena::new(2 << 20), SimulatedDisk::new(nature));
    let adapter = open(&disk, sync, checksums).await;
    disk.cut_after(rng.u64(..CALLS));
    let stored = use_until_cut(&adapter, &arena, &mut rng).await;
    drop(adapter);
    let disk = disk.after_power_loss(&mut rng);
    let adapter = open(&disk, sync, checksums).await;
    let mut whole = Vec::new();
    for n in 0..NUMBERS {
        let other = Transfer { key: key(n).with_layout(layout_of(n + 1)), ..arena.blank(n, len_of(n)) };
        assert!(
            adapter.load(vec![other]).await[0].is_err(),
            "object {n} is served in another layout: {case}"
        );
        let own = blank(&arena, n);
        let region = own.region.clone();
        if adapter.load(vec![own]).await[0].is_ok() {
            assert!(contents(&region) == bytes(n, len_of(n)), "object {n} has wrong bytes: {case}");
            whole.push(n);
        }
    }
    if sync != SyncPolicy::None && !nature.misdirects {
        for n in &stored {
            assert!(whole.contains(n), "object {n} was stored and is lost: {case}");
        }
    }
    let unfinished = |path: &Path| path.to_string_lossy().ends_with(".tmp");
    assert!(!disk.paths().iter().any(|path| unfinished(path)), "unfinished files stay: {case}");
    // What is missing or damaged can be stored again.
    let all = || 0..NUMBERS;
    let again = adapter.store(all().map(|n| object(&arena, n)).collect()).await;
    assert!(again.iter().all(Result::is_ok), "{again:?}: {case}");
    let loaded = adapter.load(all().map(|n| blank(&arena, n)).collect()).await;
    assert!(loaded.iter().all(Result::is_ok), "{loaded:?}: {case}");
    whole.len()
}

/// Objects that were whole after the losses, of all.
async fn lose_power_often(sync: SyncPolicy, checksums: ChecksumMode, nature: Nature) -> f64 {
    let losses = std::env::var("LARDER_L2_POWER_LOSSES").map_or(LOSSES, |count| count.parse().unwrap());
    let mut whole = 0;
    for seed in 0..losses {
        whole += lose_power(seed, sync, checksums, nature).await;
    }
    whole as f64 / (losses * NUMBERS) as f64
}

fn disks() -> impl Iterator<Item = Nature> {
    [(true, false), (true, true), (false, false), (false, true)]
        .map(|(attributes, reorders)| Nature { attributes, reorders, misdirects: false })
        .into_iter()
}

#[tokio::test]
async fn synced_objects_survive_and_all_others_are_whole_or_gone() {
    for sync in [SyncPolicy::Always, SyncPolicy::Batch] {
        for checksums in [ChecksumMode::Off, ChecksumMode::Check] {
            for nature in disks() {
                let whole = lose_power_often(sync, checksums, nature).await;
                assert!(whole > 0.2, "{whole}: the losses prove nothing");
            }
        }
    }
}

#[tokio::test]
async fn misdirected_blocks_and_names_are_misses() {
    for sync in [SyncPolicy::Always, SyncPolicy::Batch] {
        for nature in disks() {
            let whole =
                lose_power_often(sync, ChecksumMode::Check, Nature { misdirects: true, ..nature }).await;
            assert!(whole > 0.2, "{whole}: the losses prove nothing");
        }
    }
}

/// Of file systems that keep the order of operations on metadata.
#[tokio::test]
async fn without_syncs_checksums_recognise_what_was_lost() {
    for misdirects in [false, true] {
        for nature in disks().filter(|nature| !nature.reorders) {
            let nature = Nature { misdirects, ..nature };
            let whole = lose_power_often(SyncPolicy::None, ChecksumMode::Check, nature).await;
            assert!(whole > 0.02, "{whole}: the losses prove nothing");
        }
    }
}

/// The simulated disk does lose what was not synced.
#[tokio::test]
async fn without_syncs_and_checksums_wrong_bytes_would_be_served() {
    let nature = Nature { attributes: true, reorders: false, misdirects: false };
    let mut wrong = 0;
    for seed in 0..LOSSES {
        let run = tokio::spawn(lose_power(seed, SyncPolicy::None, ChecksumMode::Off, nature));
        wrong += u64::from(run.await.is_err());
    }
    assert!(wrong > 0, "the simulation finds nothing");
}
