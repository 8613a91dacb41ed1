//! The commit point: files whose bytes are written get their names, and objects are stored from then on.
//!
//! The bytes of an object and its record are durable before its file is renamed ([`SyncPolicy`]), so that after a loss of
//! power a name stands for a whole object. Under [`SyncPolicy::Batch`] objects of one call are renamed together, and
//! one sync of the directory makes all their names durable.

use std::io;
use std::sync::Arc;

use super::config::SyncPolicy;
use super::faults::{Need, object_error};
use super::names::ObjectFile;
use super::object_dir::{ObjectDir, Reservation, Unfinished};
use crate::adapter::{Results, Stored, Transfer};
use crate::error::L2Error;

/// Objects that one sync of the directory makes durable at most: each keeps a file open.
const GROUP_OBJECTS_MAX: usize = 32;

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

impl SyncPolicy {
    /// Objects that are committed together at most.
    pub(super) fn group_objects(self) -> usize {
        match self {
            Self::Batch => GROUP_OBJECTS_MAX,
            Self::Always | Self::None => 1,
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
