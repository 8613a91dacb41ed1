//! A disk in memory that loses power, under the code of the adapter.
//!
//! What is written is in the page cache until it is synced. Operations on metadata (names, lengths, attributes) are in
//! a journal until the file or the directory that they belong to is synced. When power is lost, every page that
//! was not synced has its old or its new bytes, or some sectors of each; and of the journal a beginning survives, or,
//! on a disk that reorders, any part. A disk may also put a block, or a name, where another one belongs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use fastrand::Rng;
use larder_arena::Region;

use super::access::FileMode;
use super::file_system::{FileSystem, Names, OpenFile, Stat};

const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// What the disk is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nature {
    /// Files have attributes.
    pub(super) attributes: bool,
    /// Of operations on metadata that were not synced, any part may survive; else a beginning.
    pub(super) reorders: bool,
    /// Blocks and names get to wrong places when power is lost.
    pub(super) misdirects: bool,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub(super) struct SimulatedDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    nature: Nature,
    /// Calls until power is lost.
    calls_left: u64,
    next_inode: u64,
    /// What processes see.
    seen: Tree,
    inodes: HashMap<u64, Inode>,
    /// Operations on metadata that are not durable yet, in their order.
    journal: Vec<Operation>,
    /// What is on the disk.
    durable: Tree,
}

#[derive(Clone, Debug, Default)]
struct Tree {
    names: BTreeMap<PathBuf, u64>,
    directories: BTreeSet<PathBuf>,
    lengths: HashMap<u64, usize>,
    attributes: HashMap<u64, Vec<u8>>,
}

/// The bytes of a file.
#[derive(Clone, Debug, Default)]
struct Inode {
    seen: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
enum Operation {
    Create(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    Directory(PathBuf),
    Length(u64, usize),
    Attribute(u64, Vec<u8>),
}

impl Operation {
    fn belongs_to_file(&self, inode: u64) -> bool {
        matches!(self, Self::Length(of, _) | Self::Attribute(of, _) if *of == inode)
    }

    fn belongs_to_directory(&self, directory: &Path) -> bool {
        match self {
            Self::Create(path, _) | Self::Remove(path) | Self::Directory(path) | Self::Rename(_, path) => {
                path.parent() == Some(directory)
            }
            Self::Length(..) | Self::Attribute(..) => false,
        }
    }
}

impl Tree {
    fn apply(&mut self, operation: &Operation, inode_of: &HashMap<PathBuf, u64>) {
        match operation {
            Operation::Create(path, inode) => drop(self.names.insert(path.clone(), *inode)),
            Operation::Rename(from, to) => {
                self.names.remove(from);
                if let Some(inode) = inode_of.get(from) {
                    self.names.insert(to.clone(), *inode);
                }
            }
            Operation::Remove(path) => drop(self.names.remove(path)),
            Operation::Directory(path) => drop(self.directories.insert(path.clone())),
            Operation::Length(inode, len) => drop(self.lengths.insert(*inode, *len)),
            Operation::Attribute(inode, value) => drop(self.attributes.insert(*inode, value.clone())),
        }
    }
}

impl SimulatedDisk {
    pub(super) fn new(nature: Nature) -> Self {
        let root = BTreeSet::from([PathBuf::from("/")]);
        let tree = Tree { directories: root, ..Tree::default() };
        Self(Arc::new(Mutex::new(State {
            nature,
            calls_left: u64::MAX,
            next_inode: 1,
            seen: tree.clone(),
            inodes: HashMap::new(),
            journal: Vec::new(),
            durable: tree,
        })))
    }

    /// Loses power after this many further calls.
    pub(super) fn cut_after(&self, calls: u64) {
        self.state().calls_left = calls;
    }

    /// The disk as it is found when power is back.
    pub(super) fn after_power_loss(&self, rng: &mut Rng) -> Self {
        let state = self.state();
        let inode_of = state.inode_of_temporary_names();
        let mut tree = state.durable.clone();
        let survives = rng.usize(..=state.journal.len());
        for (at, operation) in state.journal.iter().enumerate() {
            if if state.nature.reorders { rng.bool() } else { at < survives } {
                tree.apply(operation, &inode_of);
            }
        }
        let directories = tree.directories.clone();
        tree.names.retain(|path, _| path.parent().is_some_and(|parent| directories.contains(parent)));
        let mut inodes: HashMap<u64, Inode> = HashMap::new();
        for inode in tree.names.values() {
            let len = tree.lengths.get(inode).copied().unwrap_or(0);
            let bytes = state.inodes[inode].after_power_loss(len, rng);
            inodes.insert(*inode, Inode { seen: bytes.clone(), durable: bytes, dirty: BTreeSet::new() });
        }
        if state.nature.misdirects {
            misdirect(&mut tree, &mut inodes, rng);
        }
        Self(Arc::new(Mutex::new(State {
            nature: state.nature,
            calls_left: u64::MAX,
            next_inode: state.next_inode,
            seen: tree.clone(),
            inodes,
            journal: Vec::new(),
            durable: tree,
        })))
    }

    /// All names of files.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.state().seen.names.keys().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, for a call; an error once power is lost.
    fn call(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        state.calls_left = state.calls_left.checked_sub(1).ok_or_else(|| io::Error::other("no power"))?;
        Ok(state)
    }

    fn opened(&self, inode: u64) -> Box<dyn OpenFile> {
        Box::new(SimulatedFile { disk: self.clone(), inode })
    }
}

/// Puts a page, or a name, where another one belongs.
fn misdirect(tree: &mut Tree, inodes: &mut HashMap<u64, Inode>, rng: &mut Rng) {
    let names: Vec<PathBuf> = tree.names.keys().cloned().collect();
    for _ in 0..names.len().min(3) {
        let (one, other) = (&names[rng.usize(..names.len())], &names[rng.usize(..names.len())]);
        let (a, b) = (tree.names[one], tree.names[other]);
        if rng.bool() {
            tree.names.insert(one.clone(), b);
            tree.names.insert(other.clone(), a);
        } else {
            let page: Vec<u8> = inodes[&a].durable.iter().copied().take(PAGE).collect();
            let target = inodes.get_mut(&b).expect("it has a name");
            let len = page.len().min(target.durable.len());
            target.durable[..len].copy_from_slice(&page[..len]);
            target.seen.clone_from(&target.durable);
        }
    }
}

impl State {
    fn inode(&mut self, inode: u64) -> &mut Inode {
        self.inodes.get_mut(&inode).expect("open files exist")
    }

    /// Which file each name was given to when it was created: temporary names are used once.
    fn inode_of_temporary_names(&self) -> HashMap<PathBuf, u64> {
        let created = self.journal.iter().filter_map(|operation| match operation {
            Operation::Create(path, inode) => Some((path.clone(), *inode)),
            _ => None,
        });
        let durable = self.durable.names.iter().map(|(path, inode)| (path.clone(), *inode));
        durable.chain(created).collect()
    }

    /// Does `operation` for processes, and on the disk once it is synced.
    fn operate(&mut self, operation: Operation) {
        let names = self.seen.names.iter().map(|(path, inode)| (path.clone(), *inode)).collect();
        self.seen.apply(&operation, &names);
        self.journal.push(operation);
    }

    fn make_durable(&mut self, belongs: impl Fn(&Operation) -> bool) {
        let inode_of = self.inode_of_temporary_names();
        // A journal is written in its order.
        let all_until = (!self.nature.reorders).then(|| self.journal.iter().rposition(&belongs)).flatten();
        let mut at = 0;
        let durable = &mut self.durable;
        self.journal.retain(|operation| {
            let now = belongs(operation) || all_until.is_some_and(|last| at <= last);
            at += 1;
            if now {
                durable.apply(operation, &inode_of);
            }
            !now
        });
    }

    fn stat(&self, inode: u64) -> Stat {
        let now = SystemTime::now();
        Stat {
            bytes: self.inodes[&inode].seen.len() as u64,
            is_file: true,
            used: now,
            modified: now,
            changed: (0, 0),
            id: (1, inode),
            links: self.seen.names.values().filter(|of| **of == inode).count() as u64,
        }
    }
}

impl Inode {
    fn after_power_loss(&self, len: usize, rng: &mut Rng) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        bytes.resize(self.seen.len().max(len), 0);
        for page in &self.dirty {
            let start = page * PAGE;
            let new = &self.seen[start.min(self.seen.len())..self.seen.len().min(start + PAGE)];
            let written = match rng.u8(..4) {
                0 => 0,
                1 => (rng.usize(..PAGE / SECTOR) * SECTOR).min(new.len()),
                _ => new.len(),
            };
            bytes[start..start + written].copy_from_slice(&new[..written]);
        }
        bytes.resize(len, 0);
        bytes
    }
}

impl FileSystem for SimulatedDisk {
    fn open(&self, path: &Path, _: bool) -> io::Result<Box<dyn OpenFile>> {
        let inode = self.call()?.seen.names.get(path).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(self.opened(inode))
    }

    fn create(&self, path: &Path, _: bool, _: FileMode) -> io::Result<Box<dyn OpenFile>> {
        let mut state = self.call()?;
        if !path.parent().is_some_and(|parent| state.seen.directories.contains(parent)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.seen.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.next_inode;
        state.next_inode += 1;
        state.inodes.insert(inode, Inode::default());
        state.operate(Operation::Create(path.to_owned(), inode));
        drop(state);
        Ok(self.opened(inode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.call()?;
        if !state.seen.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.operate(Operation::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn link(&self, path: &Path, name: &Path) -> io::Result<()> {
        let mut state = self.call()?;
        let inode = state.seen.names.get(path).copied().ok_or(io::ErrorKind::NotFound)?;
        if state.seen.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.operate(Operation::Create(name.to_owned(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.call()?;
        if !state.seen.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.operate(Operation::Remove(path.to_owned()));
        Ok(())
    }

    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        let state = self.call()?;
        Ok(state.seen.names.get(path).map(|inode| state.stat(*inode)))
    }

    fn attribute(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        self.open(path, false)?.attribute()
    }

    fn is_readable(&self, path: &Path) -> bool {
        self.state().seen.names.contains_key(path)
    }

    fn is_directory(&self, path: &Path) -> bool {
        self.state().seen.directories.contains(path)
    }

    fn create_directories(&self, path: &Path, _: FileMode) -> io::Result<()> {
        let mut state = self.call()?;
        let ancestors: Vec<_> = path.ancestors().map(Path::to_owned).collect();
        for directory in ancestors.into_iter().rev() {
            if !state.seen.directories.contains(&directory) {
                state.operate(Operation::Directory(directory));
            }
        }
        Ok(())
    }

    fn names(&self, directory: &Path) -> io::Result<Names> {
        let state = self.call()?;
        let inside = state.seen.names.keys().filter(|path| path.parent() == Some(directory));
        let names: Vec<_> =
            inside.filter_map(|path| path.file_name()).map(|name| Ok(name.to_owned())).collect();
        Ok(Box::new(names.into_iter()))
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.call()?.make_durable(|operation| operation.belongs_to_directory(directory));
        Ok(())
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    inode: u64,
}

impl OpenFile for SimulatedFile {
    fn stat(&self) -> io::Result<Stat> {
        Ok(self.disk.call()?.stat(self.inode))
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let mut state = self.disk.call()?;
        let file = &state.inode(self.inode).seen;
        let rest = &file[file.len().min(at as usize)..];
        let len = rest.len().min(bytes.len());
        bytes[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn read_region(&self, at: u64, region: &Region) -> io::Result<usize> {
        let mut bytes = vec![0; (region.len() - at) as usize];
        let len = self.read(at, &mut bytes)?;
        region.fill_part(at, &bytes[..len]).map_err(io::Error::other)?;
        Ok(len)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.disk.call()?;
        let (start, end) = (at as usize, at as usize + bytes.len());
        let file = state.inode(self.inode);
        let longer = end > file.seen.len();
        if longer {
            file.seen.resize(end, 0);
        }
        file.seen[start..end].copy_from_slice(bytes);
        file.dirty.extend(start / PAGE..end.div_ceil(PAGE));
        if longer {
            state.operate(Operation::Length(self.inode, end));
        }
        Ok(bytes.len())
    }

    fn write_region(&self, at: u64, region: &Region) -> io::Result<usize> {
        let mut bytes = vec![0; (region.len() - at) as usize];
        region.copy_part(at, &mut bytes).map_err(io::Error::other)?;
        self.write(at, &bytes)
    }

    fn leave_direct(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_attribute(&self, value: &[u8]) -> io::Result<()> {
        let mut state = self.disk.call()?;
        if !state.nature.attributes {
            return Err(io::ErrorKind::Unsupported.into());
        }
        state.operate(Operation::Attribute(self.inode, value.to_owned()));
        Ok(())
    }

    fn attribute(&self) -> io::Result<Option<Vec<u8>>> {
        let state = self.disk.call()?;
        if !state.nature.attributes {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(state.seen.attributes.get(&self.inode).cloned())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.call()?;
        let inode = self.inode;
        let file = state.inode(inode);
        file.durable.clone_from(&file.seen);
        file.dirty.clear();
        state.make_durable(|operation| operation.belongs_to_file(inode));
        Ok(())
    }

    fn lock(&self) -> io::Result<bool> {
        drop(self.disk.call()?);
        Ok(true)
    }

    fn renew_access(&self) -> io::Result<()> {
        Ok(())
    }
}
