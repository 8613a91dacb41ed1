//! Files that do not hold what was stored are never served, with default settings.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{Fs, FsConfig};
use crate::adapter::Adapter;
use crate::capacity::CapacityLimits;
use crate::config::ChecksumMode;
use crate::error::{ErrorKind, L2Error};
use crate::testing::{Directory, TestArena, bytes, contents, key};

/// Damaged files, a multiple of [`BATCH`], unless `LARDER_L2_DAMAGED_FILES` says how many.
const FILES: u64 = 600;

const BATCH: u64 = 50;

const ATTRIBUTE: &str = "user.larder.checksum";

fn open(path: &Path, checksums: ChecksumMode) -> Fs {
    let config = FsConfig { checksums, ..FsConfig::new(path) };
    Fs::open(&config, 4, CapacityLimits::capacity(0), None).unwrap()
}

fn file_of(directory: &Directory, n: u64) -> PathBuf {
    directory.path().join(key(n).file_name())
}

/// Lengths of which some share a block count, so that swapped files have lengths that fit.
fn len_of(n: u64) -> u64 {
    [4096, 5000, 1, 300_000][n as usize % 4]
}

/// Damages file `n` of `count`. Whether its object is still whole.
fn damage(directory: &Directory, n: u64, count: u64, rng: &mut fastrand::Rng) -> bool {
    let (path, len) = (file_of(directory, n), len_of(n));
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let at = rng.u64(..len);
    let mut byte = [0];
    match n / 4 % 8 {
        0 => {
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1 << rng.u8(..8)], at).unwrap();
        }
        // Cut short, or cut short and filled up with zeros, as after a loss of power.
        1 => file.set_len(at).unwrap(),
        2 => {
            file.set_len(at).unwrap();
            file.set_len(len).unwrap();
        }
        3 => {
            file.set_len(0).unwrap();
            file.set_len(len).unwrap();
        }
        // Longer than it was, by less than a block.
        4 => file.write_all_at(&vec![0; (len.next_multiple_of(4096) - len) as usize + 1], len).unwrap(),
        // The file of another object of the same length, with its attribute.
        5 => {
            fs::copy(file_of(directory, (n + 4 * 8) % count), &path).unwrap();
            let other = File::open(file_of(directory, (n + 4 * 8) % count)).unwrap();
            let mut value = [0; 64];
            let len = rustix::fs::fgetxattr(&other, ATTRIBUTE, &mut value[..]).unwrap();
            rustix::fs::fsetxattr(&file, ATTRIBUTE, &value[..len], rustix::fs::XattrFlags::empty()).unwrap();
        }
        // Its bytes alone, with the attribute of this one.
        6 => file.write_all_at(&bytes(n + 4 * 8, len), 0).unwrap(),
        // An attribute that was lost in part.
        _ => {
            let empty = rustix::fs::XattrFlags::empty();
            rustix::fs::fsetxattr(&file, ATTRIBUTE, &[0; 41], empty).unwrap();
        }
    }
    fs::read(&path).unwrap() == bytes(n, len)
}

#[tokio::test]
async fn damaged_files_are_misses_and_are_stored_again() {
    let files = std::env::var("LARDER_L2_DAMAGED_FILES").map_or(FILES, |count| count.parse().unwrap());
    let (arena, directory) = (TestArena::new(64 << 20), Directory::new("damage"));
    let adapter = open(directory.path(), ChecksumMode::default());
    for from in (0..files).step_by(BATCH as usize) {
        let stored = adapter.store((from..from + BATCH).map(|n| arena.object(n, len_of(n))).collect()).await;
        assert!(stored.iter().all(Result::is_ok), "{stored:?}");
    }
    let mut rng = fastrand::Rng::with_seed(7);
    let whole: Vec<bool> = (0..files).map(|n| damage(&directory, n, files, &mut rng)).collect();
    let adapter = open(directory.path(), ChecksumMode::default());
    let (mut served, mut missed) = (0, 0);
    for n in 0..files {
        let blank = arena.blank(n, len_of(n));
        let region = blank.region.clone();
        match &adapter.load(vec![blank]).await[0] {
            Ok(()) => {
                served += 1;
                assert!(contents(&region) == bytes(n, len_of(n)), "object {n} was served with wrong bytes");
                assert!(whole[n as usize], "object {n} was damaged and served");
            }
            Err(error) => {
                missed += 1;
                let kind = error.kind();
                assert!(matches!(kind, ErrorKind::Corrupt | ErrorKind::WrongSize), "object {n}: {error}");
            }
        }
    }
    assert!(missed > files * 9 / 10, "{missed} misses, {served} served");
    assert!(adapter.usage().integrity.damaged_objects > files / 2);
    for from in (0..files).step_by(BATCH as usize) {
        let all = || from..from + BATCH;
        let stored = adapter.store(all().map(|n| arena.object(n, len_of(n))).collect()).await;
        assert!(stored.iter().all(Result::is_ok), "{stored:?}");
        let loaded = adapter.load(all().map(|n| arena.blank(n, len_of(n))).collect()).await;
        assert!(loaded.iter().all(Result::is_ok), "stored again: {loaded:?}");
    }
}

#[tokio::test]
async fn files_without_checksum_are_accepted_unless_one_is_required() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("unverified"));
    fs::write(file_of(&directory, 1), bytes(1, 1000)).unwrap();
    let adapter = open(directory.path(), ChecksumMode::Check);
    assert!(adapter.load(vec![arena.blank(1, 1000)]).await[0].is_ok());
    let integrity = adapter.usage().integrity;
    assert_eq!((integrity.verified_loads, integrity.unverified_loads), (0, 1));
    assert_eq!(adapter.store(vec![arena.object(1, 1000)]).await[0].as_ref().unwrap().written_bytes, 0);
    let strict = open(directory.path(), ChecksumMode::Require);
    let refused = strict.load(vec![arena.blank(1, 1000)]).await;
    assert_eq!(refused[0].as_ref().map_err(L2Error::kind), Err(ErrorKind::NotFound));
    assert!(file_of(&directory, 1).exists(), "it is whole for other servers");
    let stored = strict.store(vec![arena.object(1, 1000)]).await;
    assert_eq!(stored[0].as_ref().unwrap().written_bytes, 1000, "it is replaced");
    assert!(strict.load(vec![arena.blank(1, 1000)]).await[0].is_ok());
    assert_eq!(strict.usage().integrity.verified_loads, 1);
}

#[tokio::test]
async fn without_checksums_none_is_written_or_read() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("no-checksums"));
    let off = open(directory.path(), ChecksumMode::Off);
    assert!(off.store(vec![arena.object(1, 1000)]).await[0].is_ok());
    let strict = open(directory.path(), ChecksumMode::Require);
    assert!(strict.load(vec![arena.blank(1, 1000)]).await[0].is_err());
    assert!(strict.store(vec![arena.object(2, 1000)]).await[0].is_ok());
    fs::write(file_of(&directory, 2), bytes(3, 1000)).unwrap();
    assert!(off.load(vec![arena.blank(2, 1000)]).await[0].is_ok());
    assert_eq!(off.usage().integrity.unverified_loads, 1);
}

#[tokio::test]
async fn servers_that_share_a_directory_verify_objects_of_each_other() {
    let (arena, directory) = (TestArena::new(1 << 20), Directory::new("checksums-shared"));
    let [one, other] = [(); 2].map(|()| open(directory.path(), ChecksumMode::Require));
    assert!(one.store(vec![arena.object(1, 1000)]).await[0].is_ok());
    assert!(other.load(vec![arena.blank(1, 1000)]).await[0].is_ok());
    assert!(other.delete(vec![key(1)]).await[0].as_ref().unwrap());
    assert!(other.store(vec![arena.object(1, 1000)]).await[0].is_ok());
    assert!(one.load(vec![arena.blank(1, 1000)]).await[0].is_ok());
}
