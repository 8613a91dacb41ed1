//! Measures the `fs` adapter against the memory and disk of the machine.
//!
//! `cargo run --release -p larder-l2 --example fs_speed -- DIRECTORY [OBJECT_KIB] [TOTAL_MIB] [WORKERS]`
//!
//! Baselines: a copy between two touched ranges of memory, and one large file written and read in 1 MiB steps,
//! as `dd` does. Cold means that the files were dropped from the page cache before.

#![expect(clippy::print_stdout, reason = "prints a report")]

use std::error::Error;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use larder_arena::{Arena, IoPin, Region};
use larder_l2::adapters::fs::{Fs, FsConfig, FsNativeConfig, SyncPolicy};
use larder_l2::{Adapter, CapacityLimits, ChecksumMode, Transfer};
use larder_types::object::{ChunkHash, KvRank, ObjectKey};
use rustix::fs::Advice;

type Fallible<T> = Result<T, Box<dyn Error>>;

/// Objects stored in one call.
const BATCH_OBJECTS: usize = 32;

/// Number of cached reads; the best one counts.
const PASSES: usize = 5;

#[derive(Debug)]
struct NoPin;

impl IoPin for NoPin {}

/// Wall-clock seconds and CPU seconds. On a busy machine the second is more reliable.
type Spent = (f64, f64);

fn better(one: Spent, other: Spent) -> Spent {
    (one.0.min(other.0), one.1.min(other.1))
}

#[derive(Clone, Copy)]
struct Started(Instant, f64);

impl Started {
    fn now() -> Self {
        Self(Instant::now(), Self::cpu())
    }

    fn spent(self) -> Spent {
        (self.0.elapsed().as_secs_f64(), Self::cpu() - self.1)
    }

    fn cpu() -> f64 {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    }
}

struct Speed {
    directory: PathBuf,
    object_bytes: u64,
    count: u64,
    workers: usize,
    arena: Arc<Arena>,
}

fn main() -> Fallible<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let directory =
        PathBuf::from(arguments.first().ok_or("usage: fs_speed DIRECTORY [KIB] [MIB] [WORKERS]")?);
    let directory = directory.join(format!("larder-fs-speed-{}", std::process::id()));
    let object_bytes = number(1, 4096)? << 10;
    let count = ((number(2, 1024)? << 20) / object_bytes).max(1);
    let arena = Arena::private(object_bytes * count)?;
    arena.commit(arena.size())?;
    let workers = usize::try_from(number(3, 8)?)?;
    let speed = Speed { directory, object_bytes, count, workers, arena: Arc::new(arena) };
    println!("{count} objects of {} KiB, {workers} workers", object_bytes >> 10);
    fs::create_dir_all(&speed.directory)?;
    let outcome = speed.baselines().and_then(|()| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (off, check) = (ChecksumMode::Off, ChecksumMode::Check);
        runtime.block_on(speed.adapter("no sync, no checksums", SyncPolicy::None, off, false))?;
        runtime.block_on(speed.adapter("no sync", SyncPolicy::None, check, false))?;
        runtime.block_on(speed.adapter("batch", SyncPolicy::Batch, check, false))?;
        runtime.block_on(speed.adapter("always", SyncPolicy::Always, check, false))?;
        runtime.block_on(speed.adapter("batch, O_DIRECT", SyncPolicy::Batch, check, true))
    });
    fs::remove_dir_all(&speed.directory)?;
    outcome
}

impl Speed {
    fn report(&self, what: &str, started: Started) {
        self.report_spent(what, started.spent());
    }

    fn report_spent(&self, what: &str, (wall, cpu): Spent) {
        let gigabytes = (self.object_bytes * self.count) as f64 / 1e9;
        println!("{what:40} {:8.2} GB/s {:8.2} GB per CPU second", gigabytes / wall, gigabytes / cpu);
    }

    fn baselines(&self) -> Fallible<()> {
        let mut buffer = vec![1; self.object_bytes as usize];
        for what in ["touch memory", "memory copy, 1 thread"] {
            let started = Started::now();
            for n in 0..self.count {
                self.arena.write(n * self.object_bytes, &buffer)?;
            }
            self.report(what, started);
        }
        let path = self.directory.join("one");
        let step = 1 << 20;
        buffer.resize(buffer.len().max(step), 1);
        let total = self.object_bytes * self.count;
        let started = Started::now();
        let mut file = File::create(&path)?;
        for _ in 0..total.div_ceil(step as u64) {
            file.write_all(&buffer[..step])?;
        }
        self.report("one file, written to the cache", started);
        file.sync_all()?;
        self.report("one file, written and synced", started);
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
        let started = Started::now();
        let mut file = File::open(&path)?;
        while file.read(&mut buffer[..step])? > 0 {}
        self.report("one file, read cold", started);
        for threads in [1, 2, 4] {
            let mut best = (f64::INFINITY, f64::INFINITY);
            for _ in 0..PASSES {
                let started = Started::now();
                self.read_one_file(&path, threads)?;
                best = better(best, started.spent());
            }
            self.report_spent(&format!("cache to arena, {threads} threads"), best);
        }
        Ok(fs::remove_file(path)?)
    }

    /// Reads one open file into all regions: the cost of the kernel's copy alone.
    fn read_one_file(&self, path: &Path, threads: u64) -> Fallible<()> {
        let file = File::open(path)?;
        let transfers = self.transfers()?;
        let part = transfers.len().div_ceil(threads as usize);
        std::thread::scope(|scope| {
            let read = |(at, part): (usize, &[Transfer])| -> std::io::Result<()> {
                for (n, transfer) in part.iter().enumerate() {
                    let offset = (at + n) as u64 * self.object_bytes;
                    transfer.region.read_from(0, &file, offset)?;
                }
                Ok(())
            };
            let start = |(n, part): (usize, _), len: usize| scope.spawn(move || read((n * len, part)));
            let handles: Vec<_> = transfers.chunks(part).enumerate().map(|one| start(one, part)).collect();
            handles
                .into_iter()
                .try_for_each(|handle| handle.join().map_err(|_| "a thread panicked")?.map_err(Into::into))
        })
    }

    fn open(&self, fs: FsConfig) -> Fallible<Fs> {
        let config = FsNativeConfig { fs, num_workers: self.workers };
        Ok(Fs::open_native(&config, CapacityLimits::capacity(0), None)?)
    }

    async fn adapter(
        &self,
        how: &str,
        sync: SyncPolicy,
        checksums: ChecksumMode,
        use_odirect: bool,
    ) -> Fallible<()> {
        let base_path = self.directory.join("objects");
        let path = base_path.clone();
        let adapter = self.open(FsConfig { use_odirect, sync, checksums, ..FsConfig::new(base_path) })?;
        let (started, mut batches) = (Started::now(), Vec::new());
        for batch in self.transfers()?.chunks(BATCH_OBJECTS) {
            let batch_started = Instant::now();
            adapter.store(batch.to_vec()).await.into_iter().collect::<Result<Vec<_>, _>>()?;
            batches.push(batch_started.elapsed().as_secs_f64() * 1e3);
        }
        self.report(&format!("{how}: store"), started);
        batches.sort_unstable_by(f64::total_cmp);
        let (median, last) = (batches[batches.len() / 2], batches[batches.len() - 1]);
        println!(
            "{:40} {median:8.2} ms median {last:8.2} ms maximum",
            format!("{how}: a batch of {BATCH_OBJECTS}")
        );
        self.load_again(&adapter, &format!("{how}: load what was stored")).await?;
        drop_from_cache(&path)?;
        let started = Started::now();
        self.load(&adapter).await?;
        self.report(&format!("{how}: load cold"), started);
        self.load_again(&adapter, &format!("{how}: load again")).await?;
        let started = Started::now();
        let keys = (0..self.count).map(key).collect::<Fallible<Vec<_>>>()?;
        adapter.lookup(keys).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let micros = started.spent().0 * 1e6 / self.count as f64;
        println!("{:40} {micros:8.2} us for each key", format!("{how}: lookup"));
        adapter.close().await;
        Ok(fs::remove_dir_all(path)?)
    }

    async fn load(&self, adapter: &dyn Adapter) -> Fallible<()> {
        let loaded = adapter.load(self.transfers()?).await;
        Ok(loaded.into_iter().collect::<Result<(), _>>()?)
    }

    async fn load_again(&self, adapter: &dyn Adapter, what: &str) -> Fallible<()> {
        let mut best = (f64::INFINITY, f64::INFINITY);
        for _ in 0..PASSES {
            let started = Started::now();
            self.load(adapter).await?;
            best = better(best, started.spent());
        }
        self.report_spent(what, best);
        Ok(())
    }

    fn transfers(&self) -> Fallible<Vec<Transfer>> {
        let transfer = |n: u64| {
            let arena = Arc::clone(&self.arena);
            let region = Region::new(arena, n * self.object_bytes, self.object_bytes, Arc::new(NoPin))?;
            Ok(Transfer { key: key(n)?, region })
        };
        (0..self.count).map(transfer).collect()
    }
}

fn key(n: u64) -> Fallible<ObjectKey> {
    let hash = ChunkHash::new(&n.to_be_bytes()).ok_or("eight bytes are a hash")?;
    Ok(ObjectKey::new(hash, "model", KvRank::new(1, 0), 0, "")?)
}

fn drop_from_cache(directory: &Path) -> Fallible<()> {
    for entry in fs::read_dir(directory)? {
        let file = File::open(entry?.path())?;
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}
