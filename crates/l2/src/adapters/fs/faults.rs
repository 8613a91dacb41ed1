//! Whether an error of the operating system is a fault of one object or of the whole directory.
//!
//! A file of another user, a directory in an object's place or a bad sector are misses of their object; nothing else
//! is affected. Such objects are remembered for a while: they are not found, so that no prompt is promised
//! them, and a store replaces them.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use larder_types::object::ObjectKey;
use rustix::fs::Access;
use rustix::io::Errno;

use crate::error::{ErrorKind, L2Error, Retry};

/// What a call on an object's file needs of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// To enter it.
    Read,
    /// To add and remove names.
    Write,
}

impl Need {
    fn access(self) -> Access {
        match self {
            Self::Read => Access::EXEC_OK,
            Self::Write => Access::EXEC_OK | Access::WRITE_OK,
        }
    }
}

/// The error of a call on the file `path` of an object in `directory`.
pub(super) fn object_error(
    directory: &Path,
    path: &Path,
    action: &str,
    need: Need,
    error: io::Error,
) -> L2Error {
    let kind = match Errno::from_io_error(&error) {
        Some(Errno::ACCESS | Errno::PERM) => {
            rustix::fs::access(directory, need.access()).is_ok().then_some(ErrorKind::Unreadable)
        }
        Some(Errno::ISDIR | Errno::NOTDIR | Errno::LOOP | Errno::NOTEMPTY | Errno::EXIST | Errno::NXIO) => {
            directory.is_dir().then_some(ErrorKind::Unreadable)
        }
        Some(Errno::IO) => is_listed(directory).then_some(ErrorKind::Damaged),
        _ => None,
    };
    let error = L2Error::system(format!("{action} {}", path.display()), error);
    match kind {
        Some(kind) => error.with_kind(kind).with_retry(Retry::Permanent),
        None => error,
    }
}

fn is_listed(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none_or(|entry| entry.is_ok()))
}

/// Whether an error is a fault of its object alone, so that others can go on.
pub(super) fn is_of_object(error: &L2Error) -> bool {
    matches!(error.kind(), ErrorKind::Unreadable | ErrorKind::Damaged)
}

/// Objects are remembered for this time, and then tried again.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// At most this many objects are remembered.
const OBJECTS_MAX: usize = 4096;

/// Objects that could not be read lately.
#[derive(Debug, Default)]
pub(super) struct UnreadableObjects(Mutex<HashMap<ObjectKey, Instant>>);

impl UnreadableObjects {
    pub(super) fn add(&self, key: &ObjectKey, now: Instant) {
        let mut objects = self.lock();
        if objects.len() >= OBJECTS_MAX {
            objects.retain(|_, since| now.saturating_duration_since(*since) < REMEMBERED_FOR);
        }
        if objects.len() < OBJECTS_MAX {
            objects.insert(key.clone(), now);
        }
    }

    pub(super) fn contains(&self, key: &ObjectKey, now: Instant) -> bool {
        let mut objects = self.lock();
        match objects.get(key) {
            Some(since) if now.saturating_duration_since(*since) < REMEMBERED_FOR => true,
            Some(_) => {
                objects.remove(key);
                false
            }
            None => false,
        }
    }

    pub(super) fn remove(&self, key: &ObjectKey) {
        let mut objects = self.lock();
        if !objects.is_empty() {
            objects.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Directory, key};

    #[test]
    fn a_fault_is_of_the_object_only_if_the_directory_can_be_used() {
        let directory = Directory::new("object-error");
        let gone = directory.path().join("gone");
        let kind = |base: &Path, errno: Errno| {
            object_error(base, &base.join("x"), "read", Need::Write, errno.into()).kind()
        };
        let cases = [
            (Errno::ACCESS, ErrorKind::Unreadable, ErrorKind::Denied),
            (Errno::PERM, ErrorKind::Unreadable, ErrorKind::Denied),
            (Errno::ISDIR, ErrorKind::Unreadable, ErrorKind::Unavailable),
            (Errno::LOOP, ErrorKind::Unreadable, ErrorKind::Io),
            (Errno::IO, ErrorKind::Damaged, ErrorKind::Io),
            (Errno::MFILE, ErrorKind::TooManyFiles, ErrorKind::TooManyFiles),
            (Errno::ROFS, ErrorKind::ReadOnly, ErrorKind::ReadOnly),
        ];
        for (errno, usable, unusable) in cases {
            assert_eq!(kind(directory.path(), errno), usable, "{errno}");
            assert_eq!(kind(&gone, errno), unusable, "{errno} without the directory");
        }
        let error =
            object_error(directory.path(), Path::new("/kv/x"), "read", Need::Read, Errno::ACCESS.into());
        assert_eq!(error.retry(), Retry::Permanent);
        assert!(error.explained().starts_with("read /kv/x: Permission denied"), "{}", error.explained());
    }

    #[test]
    fn objects_are_remembered_for_a_while() {
        let (objects, now) = (UnreadableObjects::default(), Instant::now());
        objects.add(&key(1), now);
        assert!(objects.contains(&key(1), now) && !objects.contains(&key(2), now));
        assert!(!objects.contains(&key(1), now + REMEMBERED_FOR));
        for n in 0..2 * OBJECTS_MAX as u64 {
            objects.add(&key(n), now);
        }
        assert_eq!(objects.lock().len(), OBJECTS_MAX);
        objects.add(&key(u64::MAX), now + REMEMBERED_FOR);
        assert_eq!(objects.lock().len(), 1, "old ones make room");
        objects.remove(&key(u64::MAX));
        assert!(!objects.contains(&key(u64::MAX), now + REMEMBERED_FOR));
    }
}
