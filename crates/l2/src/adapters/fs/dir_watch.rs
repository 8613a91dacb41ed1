//! Compares what is counted with what is there, since others can remove the files, the directory or its file system.
//!
//! Each check examines the directory and a few objects, in turn, and all of them if many are missing. Lookups and loads
//! correct what they meet; this finds changes to all other objects.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::STALE_AFTER;
use super::object_dir::ObjectDir;
use super::scan;
use crate::error::L2Error;

/// Time between two checks.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// Objects that a check examines.
const OBJECTS: usize = 64;

/// All objects are examined if more than one in this many is missing.
const MISSING_MAX: usize = 8;

/// The thread that checks, as long as this value lives.
#[derive(Debug)]
pub(super) struct DirWatch(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    stopped: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stop: bool,
    /// Why the directory cannot be used.
    problem: Option<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next check. Whether there is one.
    fn wait(&self) -> bool {
        let waited = self.stopped.wait_timeout_while(self.lock(), CHECK_EVERY, |state| !state.stop);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !state.stop
    }
}

impl DirWatch {
    /// Starts the thread.
    pub(super) fn start(dir: &Arc<ObjectDir>) -> Result<Self, L2Error> {
        let shared = Arc::new(Shared::default());
        let (watch, dir, mut check) =
            (Self(Arc::clone(&shared)), Arc::downgrade(dir), Check::new(dir.base()));
        let builder = thread::Builder::new().name("larder-l2-watch".to_owned());
        let work = move || {
            while shared.wait() {
                let Some(dir) = Weak::upgrade(&dir) else { return };
                let problem = check.run(&dir).err().map(|error| error.explained());
                let before = std::mem::replace(&mut shared.lock().problem, problem.clone());
                match (before, problem) {
                    (None, Some(problem)) => tracing::warn!("the L2 directory cannot be used: {problem}"),
                    (Some(_), None) => {
                        tracing::info!(path = %dir.base().display(), "the L2 directory can be used again");
                    }
                    _ => {}
                }
            }
        };
        builder.spawn(work).map_err(|error| L2Error::system("start the watch of the directory", error))?;
        Ok(watch)
    }

    /// Why the directory cannot be used, as of the last check.
    pub(super) fn problem(&self) -> Option<String> {
        self.0.lock().problem.clone()
    }
}

impl Drop for DirWatch {
    fn drop(&mut self) {
        self.0.lock().stop = true;
        self.0.stopped.notify_all();
    }
}

/// One check after the other.
#[derive(Debug)]
pub(super) struct Check {
    /// Device and inode of the directory. They change when another one takes its place or is mounted over it.
    id: Option<(u64, u64)>,
    /// Where the next check goes on in the table of objects.
    position: usize,
}

impl Check {
    pub(super) fn new(base: &Path) -> Self {
        Self { id: identity(base).ok(), position: 0 }
    }

    /// Examines the directory, which is made again if it is missing, and some objects.
    pub(super) fn run(&mut self, dir: &ObjectDir) -> Result<(), L2Error> {
        dir.restore_base()?;
        let id = identity(dir.base())?;
        let before = self.id.replace(id);
        let was_missing = dir.take_uncounted();
        let is_another = before.is_some_and(|before| before != id);
        if is_another && !was_missing {
            let path = dir.base().display();
            tracing::warn!(%path, "the L2 directory is another one than before: its objects are counted again");
        }
        if is_another || was_missing {
            forget_missing(dir);
            return scan::recover(dir, STALE_AFTER, || true);
        }
        let (keys, next) = dir.tracker().some_from(self.position, OBJECTS);
        self.position = next.unwrap_or(0);
        let missing = keys.iter().filter(|key| dir.forget_if_missing(key)).count();
        if missing > keys.len() / MISSING_MAX {
            let (path, missing) = (dir.base().display(), missing + forget_missing(dir));
            tracing::warn!(%path, missing, "files were removed from the L2 directory by others; they are not counted any more");
        }
        Ok(())
    }
}

fn identity(path: &Path) -> Result<(u64, u64), L2Error> {
    let failed = |error: rustix::io::Errno| {
        L2Error::system(format!("examine directory {}", path.display()), error.into())
    };
    rustix::fs::stat(path).map(|stat| (stat.st_dev, stat.st_ino)).map_err(failed)
}

/// Examines all objects. Returns the number of missing ones.
fn forget_missing(dir: &ObjectDir) -> usize {
    let (mut missing, mut from) = (0, Some(0));
    while let Some(position) = from {
        let (keys, next) = dir.tracker().some_from(position, 16 * OBJECTS);
        missing += keys.iter().filter(|key| dir.forget_if_missing(key)).count();
        from = next;
    }
    missing
}
