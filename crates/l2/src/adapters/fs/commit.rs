//! The commit point: written files get their names, and objects are stored from then on.
//!
//! The bytes of an object and its record are durable before its file is renamed ([`SyncPolicy`]), so that after a loss of
//! power a name stands for a whole object. Under [`SyncPolicy::Batch`] objects that are written at the same time are
//! renamed together, and one sync of the directory makes all their names durable ([`Committer`]).

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::faults::{Need, object_error};
use super::names::ObjectFile;
use super::object_dir::{ObjectDir, Reservation, Unfinished};
use super::sync_policy::SyncPolicy;
use crate::adapter::{Results, Stored, Transfer};
use crate::error::L2Error;

/// An object that is written and has no name yet. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) file: ObjectFile,
    pub(super) unfinished: Unfinished,
    pub(super) reservation: Reservation,
    /// Length of the object.
    pub(super) bytes: u64,
    /// Whether its record is a file of its own.
    pub(super) separate_record: bool,
}

/// Commits what several threads have written, together: while one thread commits, the others write on, and the next
/// commit takes all that is written by then. So one sync of the directory serves many objects, whether one call stores
/// them or several.
#[derive(Debug)]
pub(super) struct Committer {
    dir: Arc<ObjectDir>,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    written: Vec<(Written, StoreResult)>,
    /// A thread commits, and goes on until nothing waits.
    committing: bool,
}

type StoreResult = oneshot::Sender<Result<Stored, L2Error>>;

impl Committer {
    pub(super) fn new(dir: Arc<ObjectDir>) -> Self {
        Self { dir, queue: Mutex::default() }
    }

    /// Writes an object and has it committed, on this thread or on the one that commits already.
    pub(super) fn store(&self, transfer: Transfer, result: StoreResult) {
        let written = self.dir.write(&transfer);
        // The memory is free before the object is durable.
        drop(transfer);
        // The receiver may be dropped.
        match written {
            Ok(Some(written)) => self.commit(written, result),
            Ok(None) => drop(result.send(Ok(Stored { written_bytes: 0 }))),
            Err(error) => drop(result.send(Err(error))),
        }
    }

    fn commit(&self, written: Written, result: StoreResult) {
        let mut queue = self.queue();
        queue.written.push((written, result));
        if std::mem::replace(&mut queue.committing, true) {
            return;
        }
        drop(queue);
        let _end = EndOnPanic(self);
        while let Some(group) = self.next_group() {
            let (group, results): (Vec<_>, Vec<_>) = group.into_iter().unzip();
            for (result, stored) in results.into_iter().zip(self.dir.commit(group)) {
                let _ = result.send(stored);
            }
        }
    }

    /// All that is written. `None` if there is nothing; then no thread commits any more.
    fn next_group(&self) -> Option<Vec<(Written, StoreResult)>> {
        let mut queue = self.queue();
        queue.committing = !queue.written.is_empty();
        queue.committing.then(|| std::mem::take(&mut queue.written))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the next store commit if this thread panics, which is a bug.
struct EndOnPanic<'a>(&'a Committer);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.queue().committing = false;
        }
    }
}

impl ObjectDir {
    /// Stores one object on its own.
    pub(super) fn store(self: &Arc<Self>, transfer: &Transfer) -> Result<Stored, L2Error> {
        let Some(written) = self.write(transfer)? else { return Ok(Stored { written_bytes: 0 }) };
        self.commit(vec![written]).pop().unwrap_or(Err(L2Error::not_found()))
    }

    /// Gives each file its name. They are stored when this returns.
    pub(super) fn commit(&self, group: Vec<Written>) -> Results<Stored> {
        let durable = self.sync() != SyncPolicy::None;
        if durable
            && group.iter().any(|written| written.separate_record)
            && let Err(error) = self.records().sync()
        {
            return self.write_error("sync checksums in", error).for_all(group.len());
        }
        let mut results: Vec<_> = group.into_iter().map(|written| self.publish(written)).collect();
        if durable
            && results.iter().any(Result::is_ok)
            && let Err(error) = self.files().sync_directory(self.base())
        {
            let error = self.write_error("sync directory", error);
            for result in results.iter_mut() {
                if let Ok((file, _)) = result {
                    // It would be whole for readers until a loss of power; but a store that failed leaves nothing.
                    let _ = self.delete(&file.key);
                    *result = Err(error.clone());
                }
            }
        }
        results.into_iter().map(|result| result.map(|(_, stored)| stored)).collect()
    }

    fn publish(&self, written: Written) -> Result<(ObjectFile, Stored), L2Error> {
        let Written { file, unfinished, reservation, bytes, .. } = written;
        let _stripe = self.stripe(&file.key);
        let renamed = unfinished.rename(&file.path);
        renamed.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.write_error("name an object in", error),
            _ => object_error(self.base(), &file.path, "replace", Need::Write, error),
        })?;
        self.unreadable_objects().remove(&file.key);
        reservation.become_object(&file.key);
        Ok((file, Stored { written_bytes: bytes }))
    }
}
