//! File names: of objects, and of unfinished files. All other files are left alone.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use larder_types::LayoutId;
use larder_types::file_names::FILE_SUFFIX;
use larder_types::object::ObjectKey;

use super::directory::Directory;
use super::long_names::shortened;
use crate::error::{ErrorKind, L2Error};

/// Ends the name of an unfinished file.
const TEMPORARY_SUFFIX: &str = ".tmp";

/// Begins the name of an unfinished file of Larder.
pub(super) const TEMPORARY_PREFIX: &str = "larder-";

/// An object and its file.
#[derive(Clone, Debug)]
pub(super) struct ObjectFile {
    /// The key that the file name parses to: the requested one, without its layout if the name is plain.
    pub(super) key: ObjectKey,
    pub(super) path: PathBuf,
}

impl ObjectFile {
    /// The file of an object that is loaded or stored.
    pub(super) fn new(base: &Directory, key: &ObjectKey) -> Result<Self, L2Error> {
        let is_plain = key.layout.is_known() && base.has_plain_name(key);
        Self::named(base, canonical(key, is_plain))
    }

    /// The file of an object that is looked up.
    pub(super) fn to_look_up(base: &Directory, key: &ObjectKey) -> Result<Self, L2Error> {
        Self::named(base, counted_as(base, key))
    }

    fn named(base: &Directory, key: Cow<'_, ObjectKey>) -> Result<Self, L2Error> {
        let name = key.file_name();
        if name.contains('\0') {
            return Err(L2Error::permanent(ErrorKind::BadKey, "the model name contains NUL"));
        }
        Ok(Self { key: key.into_owned(), path: base.join(name) })
    }
}

/// The key that the file name of `key` parses to, from memory.
pub(super) fn counted_as<'a>(base: &Directory, key: &'a ObjectKey) -> Cow<'a, ObjectKey> {
    canonical(key, key.layout.is_known() && base.had_plain_name(key))
}

fn canonical(key: &ObjectKey, is_plain: bool) -> Cow<'_, ObjectKey> {
    if is_plain {
        let plain = key.clone().with_layout(LayoutId::UNKNOWN);
        return Cow::Owned(shortened(&plain).into_owned());
    }
    shortened(key)
}

/// The object in the file `name`, if `name` is exactly its file name.
pub(super) fn object_in(name: &str) -> Option<ObjectKey> {
    let key = ObjectKey::from_file_name(name).ok()?;
    (key.file_name() == name).then_some(key)
}

/// Whether `name` is that of an unfinished file, of Larder or of LMCache.
pub(super) fn is_temporary(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(TEMPORARY_SUFFIX) else { return false };
    stem.starts_with(TEMPORARY_PREFIX) || object_in(&format!("{stem}{FILE_SUFFIX}")).is_some()
}

/// Names of unfinished files, unique among all processes on all machines that share the directory. Short, so
/// that every object with a legal name can be stored.
#[derive(Debug)]
pub(super) struct TemporaryNames {
    counter: AtomicU64,
    random: u64,
}

impl TemporaryNames {
    pub(super) fn new() -> Self {
        // The standard library seeds this from the system's randomness.
        Self { counter: AtomicU64::new(0), random: RandomState::new().hash_one(std::process::id()) }
    }

    pub(super) fn next(&self) -> String {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        let (pid, random) = (std::process::id(), self.random);
        format!("{TEMPORARY_PREFIX}{pid}-{counter}-{random:016x}{TEMPORARY_SUFFIX}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::fs::access::FileMode;
    use crate::adapters::fs::file_system::Mounted;
    use larder_types::object::{ChunkHash, KvRank};
    use std::path::Path;

    fn directory() -> Directory {
        Directory::new("/d".into(), FileMode::default(), std::sync::Arc::new(Mounted))
    }

    fn key(model: &str, salt: &str) -> ObjectKey {
        let hash = ChunkHash::new(&[0xde, 0xad, 0xbe, 0xef]).unwrap();
        ObjectKey::new(hash, model, KvRank(0x0805_0805), 17, salt).unwrap()
    }

    #[test]
    fn golden_names() {
        for (model, name) in [
            ("org/a b c", "org-SEP-a b c@0x08050805@11@deadbeef@tenant:42.data"),
            ("org-SEP-Ab c", "org-%53%45%50-%41b%20c@0x08050805@11@deadbeef@tenant%3A42@.data"),
        ] {
            let file = ObjectFile::new(&directory(), &key(model, "tenant:42")).unwrap();
            assert_eq!(file.path, Path::new("/d").join(name));
            assert_eq!(object_in(name).as_ref(), Some(&file.key));
            assert_eq!(&*file.key.model_name, model);
        }
    }

    #[test]
    fn long_names_are_shortened_and_names_with_nul_refused() {
        let longest = 255 - key("", "").file_name().len();
        for (len, is_whole) in [(longest, true), (longest + 1, false)] {
            let model = "m".repeat(len);
            let file = ObjectFile::new(&directory(), &key(&model, "")).unwrap();
            let name = file.path.file_name().and_then(std::ffi::OsStr::to_str).unwrap();
            assert_eq!(name.contains(&model), is_whole);
            assert_eq!(object_in(name), Some(file.key), "it is counted and listed");
        }
        let error = ObjectFile::new(&directory(), &key("a\0b", "")).unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::BadKey, crate::Retry::Permanent));
        assert!(ObjectFile::new(&directory(), &key("a\0b", "")).is_err());
    }

    #[test]
    fn other_files_are_left_alone() {
        assert!(object_in("m@08050805@11@deadbeef.data").is_none(), "its file name has 0x");
        assert!(object_in("notes.data").is_none());
        let names = TemporaryNames::new();
        let (first, second) = (names.next(), names.next());
        assert!(first != second && is_temporary(&first) && is_temporary(&second));
        assert_ne!(TemporaryNames::new().next(), TemporaryNames::new().next());
        assert!(is_temporary("m@0x08050805@11@deadbeef.tmp"), "of LMCache");
        assert!(!is_temporary("notes.tmp") && !is_temporary("m@0x08050805@11@deadbeef.data"));
    }
}
