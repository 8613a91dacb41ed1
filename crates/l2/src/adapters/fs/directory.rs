//! Which layout has the plain file names of a directory.
//!
//! A plain name, which LMCache reads and writes too, does not say how the bytes are to be read. So the plain names of
//! a model, KV rank and object group belong to one layout: the first that was looked up or stored there. A small file
//! beside the objects records which, for all servers that use the directory:
//!
//! ```text
//! MODEL@0xRRRRRRRR@G.layout:   larder-layout 1
//!                              16 hexadecimal digits
//! ```
//!
//! Files of LMCache and of earlier versions count as that layout's. Objects of all other layouts have extended names
//! with the layout in them, which LMCache ignores. The record is durable before the first object is stored under a
//! plain name, and is examined again before each load and store, as other processes may remove the directory and make it again.
//! Where it cannot be read, all names are extended: these are never ambiguous.

use std::collections::HashMap;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use larder_types::LayoutId;
use larder_types::object::{KvRank, ObjectGroup, ObjectKey};

use super::access::FileMode;
use super::file_system::{FileSystem, OpenFile, Stat};
use super::names::TemporaryNames;

/// Ends the name of a record.
const RECORD_SUFFIX: &str = ".layout";

/// The first line of a record.
const HEADER: &str = "larder-layout 1";

/// Bytes of a record that are read; it has fewer.
const RECORD_BYTES_MAX: usize = 64;

/// How often a record is read or written again when other servers do the same.
const TRIES: usize = 4;

/// The directory of the objects.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    access: FileMode,
    files: Arc<dyn FileSystem>,
    names: TemporaryNames,
    owners: Mutex<HashMap<Piece, Owner>>,
}

/// What has one record: the objects of a model for one rank and group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Piece {
    model: Arc<str>,
    rank: KvRank,
    group: ObjectGroup,
}

/// What a record says.
#[derive(Clone, Copy, Debug)]
struct Owner {
    /// `None`: the record is not readable as one.
    layout: Option<LayoutId>,
    /// The version of the file. `None`: the directory cannot be written, and the owner is known to this process only.
    file: Option<FileVersion>,
}

/// Changes whenever a file is replaced or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileVersion {
    id: (u64, u64),
    changed: (i64, i64),
}

impl From<Stat> for FileVersion {
    fn from(Stat { id, changed, .. }: Stat) -> Self {
        Self { id, changed }
    }
}

impl Deref for Directory {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl AsRef<Path> for Directory {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

impl Directory {
    pub(super) fn new(path: PathBuf, access: FileMode, files: Arc<dyn FileSystem>) -> Self {
        Self { path, access, files, names: TemporaryNames::new(), owners: Mutex::default() }
    }

    /// Whether an object with a known layout has a plain name. The first layout that asks gets the plain names.
    /// Examines the record, to load or store.
    pub(super) fn has_plain_name(&self, key: &ObjectKey) -> bool {
        let Some((piece, record)) = self.record(key) else { return false };
        for _ in 0..TRIES {
            match self.read(&piece, &record) {
                Ok(Some(owner)) => return owner == Some(key.layout),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(file = %record.display(), %error, "could not read which layout has the plain names");
                    return false;
                }
            }
            match self.create(&record, key.layout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                // Another server took the unfinished record for abandoned, or the directory is gone.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if cannot_be_written(&error) => {
                    let owner = Owner { layout: Some(key.layout), file: None };
                    let owner = *self.owners().entry(piece).or_insert(owner);
                    return owner.layout == Some(key.layout);
                }
                Err(error) => {
                    tracing::debug!(file = %record.display(), %error, "could not record which layout has the plain names");
                    return false;
                }
            }
        }
        false
    }

    /// The same from memory if it is known, to look up or count: a load that follows examines the record.
    pub(super) fn had_plain_name(&self, key: &ObjectKey) -> bool {
        let known = self.record(key).and_then(|(piece, _)| self.owners().get(&piece).copied());
        known.map_or_else(|| self.has_plain_name(key), |owner| owner.layout == Some(key.layout))
    }

    /// The layout of an object with a plain name, if there is a record.
    pub(super) fn layout_of_plain(&self, key: &ObjectKey) -> LayoutId {
        let Some((piece, record)) = self.record(key) else { return LayoutId::UNKNOWN };
        let known = self.owners().get(&piece).map(|owner| owner.layout);
        let owner = known.or_else(|| self.read(&piece, &record).ok().flatten());
        owner.flatten().unwrap_or_default()
    }

    fn owners(&self) -> MutexGuard<'_, HashMap<Piece, Owner>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The record for an object. `None` if its model has no plain names.
    fn record(&self, key: &ObjectKey) -> Option<(Piece, PathBuf)> {
        let plain_model = key.plain_model()?;
        let (rank, group) = (key.kv_rank, key.object_group);
        let record = self.path.join(format!("{plain_model}@0x{:08x}@{group:x}{RECORD_SUFFIX}", rank.0));
        Some((Piece { model: Arc::clone(&key.model_name), rank, group }, record))
    }

    /// What the record says; `None` if there is none.
    fn read(&self, piece: &Piece, record: &Path) -> io::Result<Option<Option<LayoutId>>> {
        let known = self.owners().get(piece).copied();
        let Some(stat) = self.files.stat(record)? else {
            if let Some(Owner { layout, file: None }) = known {
                return Ok(Some(layout));
            }
            self.owners().remove(piece);
            return Ok(None);
        };
        if let Some(Owner { layout, .. }) = known.filter(|owner| owner.file == Some(stat.into())) {
            return Ok(Some(layout));
        }
        let file = self.files.open(record, false)?;
        let version = file.stat()?.into();
        let layout = parse(&read_all(&*file)?);
        if layout.is_none() {
            tracing::warn!(
                file = %record.display(),
                "this file does not say which layout has the plain file names: none has; remove it with the objects of its \
                 model to start again"
            );
        }
        self.owners().insert(piece.clone(), Owner { layout, file: Some(version) });
        Ok(Some(layout))
    }

    /// Writes a record, durably and at once.
    fn create(&self, record: &Path, layout: LayoutId) -> io::Result<()> {
        let unfinished = self.path.join(self.names.next());
        let written =
            self.write(&unfinished, layout).and_then(|()| match self.files.link(&unfinished, record) {
                // Readers that meet an incomplete record use extended names.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => self.write(record, layout),
                other => other,
            });
        let _ = self.files.remove(&unfinished);
        written?;
        tracing::info!(file = %record.display(), %layout, "this layout has the plain file names of its model");
        self.files.sync_directory(&self.path)
    }

    fn write(&self, path: &Path, layout: LayoutId) -> io::Result<()> {
        let file = self.files.create(path, false, self.access)?;
        let text = format!("{HEADER}\n{layout}\n");
        let mut at = 0;
        while at < text.len() {
            match file.write(at as u64, &text.as_bytes()[at..])? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => at += written,
            }
        }
        file.sync()
    }
}

/// The bytes of a record, and of what is none only some.
fn read_all(file: &dyn OpenFile) -> io::Result<Vec<u8>> {
    let (mut bytes, mut len) = (vec![0; RECORD_BYTES_MAX], 0);
    while len < bytes.len() {
        match file.read(len as u64, &mut bytes[len..])? {
            0 => break,
            read => len += read,
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

fn parse(bytes: &[u8]) -> Option<LayoutId> {
    // What is no text is no record.
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines = text.lines();
    let is_record = lines.next() == Some(HEADER);
    lines.next().filter(|_| is_record && text.ends_with('\n')).and_then(LayoutId::parse)
}

fn cannot_be_written(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::adapters::fs::file_system::Mounted;
    use crate::testing::{Directory as Scratch, key};
    use larder_types::Layout;
    use larder_types::dtype::DType;

    fn layout(dtype: DType) -> LayoutId {
        Layout::new(&[8], dtype).unwrap().id()
    }

    fn directory(scratch: &Scratch) -> Directory {
        Directory::new(scratch.path().to_owned(), FileMode::default(), Arc::new(Mounted))
    }

    fn records(scratch: &Scratch) -> Vec<String> {
        let names =
            fs::read_dir(scratch.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    #[test]
    fn first_layout_gets_the_plain_names_for_all_servers() {
        let scratch = Scratch::new("layout-record");
        let (a, b) =
            (key(1).with_layout(layout(DType::Float16)), key(2).with_layout(layout(DType::BFloat16)));
        let (first, second) = (directory(&scratch), directory(&scratch));
        assert!(first.has_plain_name(&a) && second.has_plain_name(&a));
        assert!(!first.has_plain_name(&b) && !second.has_plain_name(&b));
        assert!(first.had_plain_name(&a) && !first.had_plain_name(&b));
        assert_eq!(first.layout_of_plain(&key(3)), a.layout);
        let record = records(&scratch);
        assert!(record.len() == 1 && record[0].ends_with(".layout"), "{record:?}");
        // Other ranks and groups have their own.
        let other = ObjectKey { object_group: 1, ..b.clone() };
        assert!(second.has_plain_name(&other) && !first.has_plain_name(&b));
        assert_eq!(records(&scratch).len(), 2);
    }

    #[test]
    fn record_that_was_removed_belongs_to_the_next() {
        let scratch = Scratch::new("layout-removed");
        let (a, b) =
            (key(1).with_layout(layout(DType::Float16)), key(1).with_layout(layout(DType::BFloat16)));
        let (first, second) = (directory(&scratch), directory(&scratch));
        assert!(first.has_plain_name(&a));
        fs::remove_dir_all(scratch.path()).unwrap();
        assert!(!first.has_plain_name(&a), "there is no directory");
        fs::create_dir(scratch.path()).unwrap();
        assert!(second.has_plain_name(&b));
        assert!(!first.has_plain_name(&a) && first.has_plain_name(&b));
    }

    #[test]
    fn unreadable_record_leaves_the_plain_names_to_none() {
        for text in [
            "",
            "larder-layout 1\n",
            "larder-layout 1\n0123456789abcdef",
            "larder-layout 2\n0123456789abcdef\n",
        ] {
            let scratch = Scratch::new("layout-damaged");
            let a = key(1).with_layout(layout(DType::Float16));
            assert!(directory(&scratch).has_plain_name(&a));
            let record = scratch.path().join(&records(&scratch)[0]);
            fs::write(&record, text).unwrap();
            assert!(!directory(&scratch).has_plain_name(&a), "{text:?}");
            fs::write(&record, [0xff; 10]).unwrap();
            assert!(!directory(&scratch).has_plain_name(&a));
        }
    }

    #[test]
    fn many_servers_agree_on_one_layout() {
        let scratch = Scratch::new("layout-race");
        let layouts: Vec<_> = DType::ALL.iter().take(8).map(|dtype| layout(*dtype)).collect();
        let owners: usize = std::thread::scope(|scope| {
            let servers: Vec<_> = layouts
                .iter()
                .map(|layout| {
                    scope.spawn(|| directory(&scratch).has_plain_name(&key(1).with_layout(*layout)))
                })
                .collect();
            servers.into_iter().map(|server| usize::from(server.join().unwrap())).sum()
        });
        assert_eq!(owners, 1);
        assert_eq!(records(&scratch).len(), 1);
    }
}
