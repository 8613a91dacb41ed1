//! Measures the `fs` adapter against the bounds of the machine.
//!
//! `cargo run --release -p larder-l2 --example fs_speed -- DIRECTORY [OBJECT_KIB] [TOTAL_MIB] [WORKERS]`
//!
//! Bounds: a copy between two touched ranges of memory, and one large file written and read in 1 MiB
//! steps as `dd` does it. Cold means that the page cache was told to drop the files before.

#![expect(clippy::print_stdout, reason = "this is what it is for")]

use std::error::Error;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use larder_l2::fs::{Fs, FsConfig, FsNativeConfig};
use larder_l2::{Adapter, Transfer};
use larder_store::arena::{Arena, Hold, Region};
use larder_wire::object::{ChunkHash, KvRank, ObjectKey};
use rustix::fs::Advice;

type Fallible<T> = Result<T, Box<dyn Error>>;

#[derive(Debug)]
struct Nothing;

impl Hold for Nothing {}

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
        PathBuf::from(arguments.first().ok_or("where? fs_speed DIRECTORY [KIB] [MIB] [WORKERS]")?);
    let directory = directory.join(format!("larder-fs-speed-{}", std::process::id()));
    let object_bytes = number(1, 4096)? << 10;
    let count = ((number(2, 1024)? << 20) / object_bytes).max(1);
    let arena = Arena::private(object_bytes * count)?;
    arena.populate(arena.size())?;
    let workers = usize::try_from(number(3, 8)?)?;
    let speed = Speed { directory, object_bytes, count, workers, arena: Arc::new(arena) };
    println!("{count} objects of {} KiB, {workers} workers", object_bytes >> 10);
    fs::create_dir_all(&speed.directory)?;
    let outcome = speed.bounds().and_then(|()| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(speed.adapter(false))?;
        runtime.block_on(speed.adapter(true))
    });
    fs::remove_dir_all(&speed.directory)?;
    outcome
}

impl Speed {
    fn report(&self, what: &str, begun: Instant) {
        let seconds = begun.elapsed().as_secs_f64();
        let bytes = (self.object_bytes * self.count) as f64;
        println!("{what:32} {:8.2} GB/s", bytes / seconds / 1e9);
    }

    fn bounds(&self) -> Fallible<()> {
        let mut buffer = vec![1; self.object_bytes as usize];
        for what in ["touch memory", "memory copy, 1 thread"] {
            let begun = Instant::now();
            for n in 0..self.count {
                self.arena.write(n * self.object_bytes, &buffer)?;
            }
            self.report(what, begun);
        }
        let path = self.directory.join("one");
        let step = 1 << 20;
        buffer.resize(buffer.len().max(step), 1);
        let total = self.object_bytes * self.count;
        let begun = Instant::now();
        let mut file = File::create(&path)?;
        for _ in 0..total.div_ceil(step as u64) {
            file.write_all(&buffer[..step])?;
        }
        self.report("one file, written to the cache", begun);
        file.sync_all()?;
        self.report("one file, written and synced", begun);
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
        for what in ["one file, read cold", "one file, read from the cache"] {
            let mut file = File::open(&path)?;
            let begun = Instant::now();
            while file.read(&mut buffer[..step])? > 0 {}
            self.report(what, begun);
        }
        Ok(fs::remove_file(path)?)
    }

    async fn adapter(&self, use_odirect: bool) -> Fallible<()> {
        let base_path = self.directory.join(if use_odirect { "direct" } else { "buffered" });
        let fs = FsConfig { base_path, relative_tmp_dir: None, read_ahead_bytes: None, use_odirect };
        let path = fs.base_path.clone();
        let adapter =
            Fs::open_native(FsNativeConfig { fs, num_workers: self.workers, max_capacity_bytes: 0 })?;
        let how = if use_odirect { "O_DIRECT" } else { "buffered" };
        let begun = Instant::now();
        adapter.store(self.transfers()?).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        self.report(&format!("{how}: store"), begun);
        drop_from_cache(&path)?;
        self.report(&format!("{how}: store and sync"), begun);
        for what in ["load cold", "load again", "load again"] {
            let begun = Instant::now();
            adapter.load(self.transfers()?).await.into_iter().collect::<Result<Vec<_>, _>>()?;
            self.report(&format!("{how}: {what}"), begun);
        }
        let begun = Instant::now();
        let keys = (0..self.count).map(key).collect::<Fallible<Vec<_>>>()?;
        adapter.lookup(keys).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let micros = begun.elapsed().as_secs_f64() * 1e6 / self.count as f64;
        println!("{:32} {micros:8.2} us for each key", format!("{how}: lookup"));
        adapter.close().await;
        Ok(fs::remove_dir_all(path)?)
    }

    fn transfers(&self) -> Fallible<Vec<Transfer>> {
        let transfer = |n: u64| {
            let arena = Arc::clone(&self.arena);
            let region = Region::new(arena, n * self.object_bytes, self.object_bytes, Arc::new(Nothing))?;
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
