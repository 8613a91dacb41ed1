//! Keeps quotas over restarts: one small JSON file in the directory of `--state-dir` (`docs/formats.md`).
//!
//! ```json
//! {"version": 1, "limit_bytes": {"alice": 2147483648, "": 536870912}}
//! ```
//!
//! The file is written before a change takes effect, into a new file that is then renamed: after a crash the next
//! server finds the old quotas or the new ones, and every acknowledged change. A file that cannot be read is moved
//! aside, never overwritten. A lock file keeps other servers out of the directory. Files are readable by this server's
//! user only, and links under their names are not followed.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder_policy::quota::QUOTAS_MAX;
use larder_types::object::check_cache_salt;
use serde::{Deserialize, Serialize};

use super::start_error::may_pass;
use crate::private_file;

/// The current version.
const VERSION: u32 = 1;

/// Larger than any file of [`QUOTAS_MAX`] quotas.
const BYTES_MAX: u64 = 64 << 20;

/// Unreadable files that may be kept beside the one in use.
const ASIDE_MAX: u32 = 1000;

/// Byte limits by cache salt.
pub type Limits = BTreeMap<Arc<str>, u64>;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    limit_bytes: Limits,
}

/// The file of quotas.
#[derive(Debug)]
pub struct QuotaFile {
    path: PathBuf,
    /// Held for as long as this server uses the directory.
    _lock: File,
}

impl QuotaFile {
    /// Locks the directory, which is made if it is missing, and reads the quotas. A file that cannot be read is moved
    /// aside with a warning, and there are no quotas.
    ///
    /// # Errors
    /// The directory cannot be used, or another server uses it.
    pub fn open(directory: &Path) -> io::Result<(Self, Limits)> {
        private_file::create_dir(directory)?;
        let lock = private_file::open_lock(&directory.join("lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                io::Error::new(io::ErrorKind::ResourceBusy, "another server uses this directory")
            }
            TryLockError::Error(error) => error,
        })?;
        let file = Self { path: directory.join("quotas.json"), _lock: lock };
        let limits = match read(&file.path) {
            Ok(limits) => limits,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Limits::new(),
            Err(error) if fs::symlink_metadata(&file.path).is_ok_and(|found| found.is_symlink()) => {
                return Err(error);
            }
            Err(error) => {
                let aside = move_aside(&file.path)?;
                tracing::warn!(
                    %error, file = %file.path.display(), moved_to = %aside.display(),
                    "the quota file cannot be read and was moved aside: there are no quotas until they are set again"
                );
                Limits::new()
            }
        };
        // A file that cannot be written is an error at the start, not at the first change. A full disk is not: it may
        // get space, and the quotas have been read.
        match file.write(&limits) {
            Err(error) if may_pass(&error) => {
                let path = file.path.display();
                tracing::warn!(%error, file = %path, "quotas cannot be changed until the quota file can be written");
            }
            written => written?,
        }
        Ok((file, limits))
    }

    /// Replaces the quotas. Blocks until they are on disk.
    ///
    /// # Errors
    /// The file cannot be written; it keeps the old quotas.
    pub fn write(&self, limits: &Limits) -> io::Result<()> {
        let new = self.path.with_extension("json.new");
        let content = Content { version: VERSION, limit_bytes: limits.clone() };
        // Left by a server that ended here, or put here by somebody else: not opened, be it a link.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = private_file::create_new(&new, false)?;
        file.write_all(&serde_json::to_vec(&content)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        let directory = self.path.parent().unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn read(path: &Path) -> io::Result<Limits> {
    let mut text = Vec::new();
    private_file::open(path)?.take(BYTES_MAX + 1).read_to_end(&mut text)?;
    let Content { version, limit_bytes } = serde_json::from_slice(&text)?;
    let bad = |why: String| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    if version != VERSION {
        return bad(format!("version {version}, not {VERSION}"));
    }
    if limit_bytes.len() > QUOTAS_MAX || text.len() as u64 > BYTES_MAX {
        return bad(format!("more than {QUOTAS_MAX} quotas"));
    }
    for salt in limit_bytes.keys() {
        if let Err(fault) = check_cache_salt(salt) {
            return bad(format!("cache salt {salt:?}: {fault}"));
        }
    }
    Ok(limit_bytes)
}

/// Renames a file to an unused name, and returns it.
fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let names = (1..=ASIDE_MAX).map(|n| path.with_extension(format!("json.bad-{n}")));
    let mut free = names.filter(|name| fs::symlink_metadata(name).is_err());
    let aside = free.next().ok_or_else(|| io::Error::other("too many unreadable files lie beside it"))?;
    fs::rename(path, &aside)?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            Self(std::env::temp_dir().join(format!("larder_quota_file_{}_{n}", std::process::id())))
        }

        /// The names in it, less the lock's.
        fn names(&self) -> Vec<String> {
            let names = fs::read_dir(&self.0).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<String> = names.filter(|name| name != "lock").collect();
            names.sort();
            names
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn reads_what_was_written() {
        let directory = Directory::new();
        let (file, none) = QuotaFile::open(&directory.0).unwrap();
        assert_eq!(none, Limits::new());
        let limits = Limits::from([("".into(), 7), ("a \"b\"".into(), u64::MAX)]);
        file.write(&limits).unwrap();
        drop(file);
        assert_eq!(QuotaFile::open(&directory.0).unwrap().1, limits);
        assert_eq!(directory.names(), ["quotas.json"]);
    }

    #[test]
    fn locks_the_directory() {
        let directory = Directory::new();
        let first = QuotaFile::open(&directory.0).unwrap();
        let refused = QuotaFile::open(&directory.0).unwrap_err();
        assert!(refused.to_string().contains("another server"), "{refused}");
        drop(first);
        assert!(QuotaFile::open(&directory.0).is_ok());
    }

    #[test]
    fn moves_an_unreadable_file_aside() {
        let directory = Directory::new();
        fs::create_dir_all(&directory.0).unwrap();
        let bad = [
            "{\"version\":1,\"limit_bytes\":{\"a\":1}",
            r#"{"version":2,"limit_bytes":{}}"#,
            r#"{"version":1,"limit_bytes":{"a/b":1}}"#,
            r#"{"version":1,"limit_bytes":{"a":-1}}"#,
            r#"{"version":1,"limit_bytes":{},"more":1}"#,
        ];
        for text in bad {
            fs::write(directory.0.join("quotas.json"), text).unwrap();
            let (_file, limits) = QuotaFile::open(&directory.0).unwrap();
            assert_eq!(limits, Limits::new(), "{text}");
        }
        for (n, text) in (1..).zip(bad) {
            let kept = fs::read_to_string(directory.0.join(format!("quotas.json.bad-{n}"))).unwrap();
            assert_eq!(kept, text);
        }
    }

    #[test]
    fn links_under_its_names_are_not_followed() {
        for name in ["lock", "quotas.json", "quotas.json.new"] {
            let (directory, victim) = (Directory::new(), Directory::new());
            fs::create_dir_all(&directory.0).unwrap();
            fs::write(&victim.0, r#"{"version":1,"limit_bytes":{"a":1}}"#).unwrap();
            std::os::unix::fs::symlink(&victim.0, directory.0.join(name)).unwrap();
            match QuotaFile::open(&directory.0) {
                // What is left in the way of a new file is removed.
                Ok((file, limits)) => {
                    assert_eq!((name, limits), ("quotas.json.new", Limits::new()));
                    file.write(&Limits::from([("b".into(), 2)])).unwrap();
                }
                Err(error) => assert!(error.to_string().contains("is a symbolic link"), "{name}: {error}"),
            }
            assert_eq!(fs::read_to_string(&victim.0).unwrap(), r#"{"version":1,"limit_bytes":{"a":1}}"#);
            fs::remove_file(&victim.0).unwrap();
        }
    }

    #[test]
    fn failed_write_keeps_the_old_quotas() {
        let directory = Directory::new();
        let (file, _) = QuotaFile::open(&directory.0).unwrap();
        file.write(&Limits::from([("a".into(), 1)])).unwrap();
        // A directory of that name blocks the write, even for root.
        fs::create_dir(directory.0.join("quotas.json.new")).unwrap();
        assert!(file.write(&Limits::from([("a".into(), 2)])).is_err());
        drop(file);
        fs::remove_dir(directory.0.join("quotas.json.new")).unwrap();
        assert_eq!(QuotaFile::open(&directory.0).unwrap().1, Limits::from([("a".into(), 1)]));
    }
}
