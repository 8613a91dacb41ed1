//! Directory scans: recovery at start, and listings.

use std::collections::BinaryHeap;
use std::ffi::OsStr;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::{Duration, SystemTime};

use larder_types::object::ObjectKey;

use super::file_system::FileSystem;
use super::names::{TEMPORARY_PREFIX, is_temporary, object_in};
use super::object_dir::{ObjectDir, directory_error, is_abandoned};
use crate::adapter::{Cursor, Listed, Page};
use crate::error::L2Error;

/// The most objects in a page.
const PAGE_OBJECTS_MAX: usize = 10_000;

/// Counts the objects that earlier processes left, and removes abandoned unfinished files: those of Larder by
/// their locks, others once they are older than `stale_after`. Stops once `go_on` is false.
pub(super) fn recover(
    dir: &ObjectDir,
    stale_after: Duration,
    go_on: impl Fn() -> bool,
) -> Result<(), L2Error> {
    let failed = |error| directory_error("read", dir.base(), error);
    let now = SystemTime::now();
    let mut found: Vec<(SystemTime, ObjectKey)> = Vec::new();
    for directory in dir.directories() {
        for name in dir.files().names(directory).map_err(failed)? {
            if !go_on() {
                return Ok(());
            }
            let name = name.map_err(failed)?;
            let Some(name) = name.to_str() else { continue };
            let path = directory.join(name);
            if is_temporary(name) {
                let locks = name.starts_with(TEMPORARY_PREFIX);
                let abandoned = locks.then(|| is_abandoned(dir.files(), &path)).flatten();
                let is_old = || is_older(dir.files(), &path, now, stale_after);
                // Locks may not reach the other machines that share the directory.
                let is_stale = match abandoned {
                    Some(abandoned) => abandoned && (!dir.own_objects_only() || is_old()),
                    None => is_old(),
                };
                if is_stale {
                    remove_unfinished(dir.files(), &path);
                }
            } else if directory == &**dir.base()
                && !dir.own_objects_only()
                && let Some(key) = object_in(name)
                && let Some(used) = last_use(dir.files(), &path)
            {
                found.push((used, key));
            }
        }
    }
    let mut counted = Ok(());
    for (_, key) in &found {
        // One object that cannot be examined does not keep the others from being counted.
        counted = counted.and(dir.insert_found(key));
    }
    found.sort_unstable_by_key(|(used, _)| *used);
    dir.tracker().finish_recovery(found.iter().map(|(_, key)| key));
    remove_orphaned_records(dir, stale_after, go_on);
    counted
}

/// When a file was last used. `None` if it was removed since it was listed.
fn last_use(files: &dyn FileSystem, path: &Path) -> Option<SystemTime> {
    let stat = files.stat(path).ok().flatten().filter(|stat| stat.is_file)?;
    Some(stat.used)
}

fn is_older(files: &dyn FileSystem, path: &Path, now: SystemTime, than: Duration) -> bool {
    let stat = files.stat(path).ok().flatten();
    stat.is_some_and(|stat| now.duration_since(stat.modified).is_ok_and(|age| age >= than))
}

fn remove_unfinished(files: &dyn FileSystem, path: &Path) {
    match files.remove(path) {
        Ok(()) => tracing::info!(file = %path.display(), "removed an unfinished file"),
        Err(error) => tracing::debug!(file = %path.display(), %error, "could not remove an unfinished file"),
    }
}

/// Removes records that are files and have no object any more, once they are older than `stale_after`: the
/// object of a younger one may be about to get its name.
fn remove_orphaned_records(dir: &ObjectDir, stale_after: Duration, go_on: impl Fn() -> bool) {
    let Some(records) = dir.records().directory() else { return };
    let Ok(names) = dir.files().names(records) else { return };
    let now = SystemTime::now();
    for name in names.map_while(Result::ok) {
        if !go_on() {
            return;
        }
        let (record, object) = (records.join(&name), dir.base().join(&name));
        if matches!(dir.files().stat(&object), Ok(None)) && is_older(dir.files(), &record, now, stale_after) {
            // A record without an object does no harm.
            let _ = dir.files().remove(&record);
        }
    }
}

/// The first `limit` objects after `cursor`, by name. Reads the whole directory, but keeps only one page.
pub(super) fn list(dir: &ObjectDir, cursor: Option<&Cursor>, limit: NonZeroUsize) -> Result<Page, L2Error> {
    let limit = limit.get().min(PAGE_OBJECTS_MAX);
    let failed = |error: io::Error| directory_error("list", dir.base(), error);
    let after = cursor.map(|cursor| cursor.0.as_str());
    // The largest name is on top and is replaced by smaller ones.
    let mut names: BinaryHeap<String> = BinaryHeap::new();
    for name in dir.files().names(dir.base()).map_err(failed)? {
        let name = name.map_err(failed)?;
        let Some(name) = as_object_name(&name, after) else { continue };
        if names.len() <= limit {
            names.push(name.to_owned());
        } else if names.peek().is_some_and(|largest| name < largest.as_str()) {
            names.pop();
            names.push(name.to_owned());
        }
    }
    let mut names = names.into_sorted_vec();
    let more = names.len() > limit;
    names.truncate(limit);
    let next = names.last().filter(|_| more).map(|name| Cursor(name.clone()));
    let objects = names.iter().filter_map(|name| listed(dir, name)).collect();
    Ok(Page { objects, next })
}

fn as_object_name<'a>(name: &'a OsStr, after: Option<&str>) -> Option<&'a str> {
    let name = name.to_str()?;
    (after.is_none_or(|after| name > after) && object_in(name).is_some()).then_some(name)
}

/// `None` if it was removed meanwhile.
fn listed(dir: &ObjectDir, name: &str) -> Option<Listed> {
    let stat = dir.files().stat(&dir.base().join(name)).ok().flatten().filter(|stat| stat.is_file)?;
    let mut key = object_in(name)?;
    if !key.layout.is_known() {
        key.layout = dir.base().layout_of_plain(&key);
    }
    Some(Listed { key, stored_bytes: stat.bytes })
}
