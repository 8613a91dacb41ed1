//! The file that keeps checksums over restarts (see `docs/formats.md`).
//!
//! A header, then appended lines; the last line about an object counts:
//!
//! ```text
//! larder-checksums 1
//! + 32 hexadecimal digits, length in bytes, name of the object's file
//! - name of the object's file
//! ```
//!
//! Other lines, such as one that a crash cut short, are skipped: the object is then unverified, not lost. The
//! file's name is not that of an object, so servers ignore it. When most lines are outdated the file is
//! rewritten and renamed. A lock on it excludes a second server.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use larder_types::object::ObjectKey;
use rustix::fs::{FlockOperation, flock};

use crate::error::{ErrorKind, L2Error};

/// The file's name, beside the objects.
pub const SIDECAR_NAME: &str = ".larder-checksums";

const HEADER: &str = "larder-checksums 1";

/// Outdated lines that are always tolerated.
const OUTDATED_LINES: usize = 4096;

/// The checksum of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) sum: [u8; 16],
    pub(super) bytes: u64,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Add(ObjectKey, Record),
    Remove(ObjectKey),
}

/// The open file.
#[derive(Debug)]
pub(super) struct Sidecar {
    path: PathBuf,
    file: File,
    lines: usize,
}

impl Sidecar {
    /// Opens or creates the file in `directory` and reads it.
    pub(super) fn open(directory: &Path) -> Result<(Self, HashMap<ObjectKey, Record>), L2Error> {
        let path = directory.join(SIDECAR_NAME);
        let failed = |error| L2Error::system(format!("open {}", path.display()), error);
        let mut file = open(&path).map_err(failed)?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            let text = format!("{} is in use by another server; only one can keep checksums", path.display());
            return Err(L2Error::permanent(ErrorKind::Busy, text).with_source(error));
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed)?;
        let (records, lines) = parse(&String::from_utf8_lossy(&text));
        let mut sidecar = Self { path, file, lines };
        // Also drops a line that was cut short, and writes the header of a new file.
        sidecar.rewrite(&records).map_err(|error| L2Error::system("write checksums", error))?;
        Ok((sidecar, records))
    }

    /// Whether most lines would be outdated after `more` lines, so that the file should be rewritten.
    pub(super) fn wants_rewrite(&self, more: usize, records: usize) -> bool {
        self.lines + more > 2 * records + OUTDATED_LINES
    }

    pub(super) fn append(&mut self, lines: &[Line]) -> io::Result<()> {
        let mut text = String::new();
        lines.iter().for_each(|line| line.write(&mut text));
        self.lines += lines.len();
        self.file.write_all(text.as_bytes())
    }

    pub(super) fn rewrite(&mut self, records: &HashMap<ObjectKey, Record>) -> io::Result<()> {
        let mut text = format!("{HEADER}\n");
        records.iter().for_each(|(key, record)| Line::Add(key.clone(), *record).write(&mut text));
        let unfinished = self.path.with_extension("tmp");
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = open(&unfinished)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&unfinished, &self.path)?;
        (self.file, self.lines) = (file, records.len());
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

fn parse(text: &str) -> (HashMap<ObjectKey, Record>, usize) {
    let mut records = HashMap::new();
    let Some(text) = text.strip_prefix(HEADER).and_then(|text| text.strip_prefix('\n')) else {
        return (records, 0);
    };
    let mut lines = 0;
    // A last line without its line end was cut short.
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        lines += 1;
        match Line::read(line) {
            Some(Line::Add(key, record)) => drop(records.insert(key, record)),
            Some(Line::Remove(key)) => drop(records.remove(&key)),
            None => {}
        }
    }
    (records, lines)
}

impl Line {
    fn write(&self, text: &mut String) {
        let (Self::Add(key, _) | Self::Remove(key)) = self;
        let name = key.file_name();
        if name.contains('\n') {
            return;
        }
        let written = match self {
            Self::Add(_, record) => {
                writeln!(text, "+ {:032x} {} {name}", u128::from_be_bytes(record.sum), record.bytes)
            }
            Self::Remove(_) => writeln!(text, "- {name}"),
        };
        written.expect("writing to a String does not fail");
    }

    fn read(line: &str) -> Option<Self> {
        if let Some(name) = line.strip_prefix("- ") {
            return Some(Self::Remove(ObjectKey::from_file_name(name).ok()?));
        }
        let mut parts = line.strip_prefix("+ ")?.splitn(3, ' ');
        let (sum, bytes, name) = (parts.next()?, parts.next()?, parts.next()?);
        let sum = u128::from_str_radix(sum, 16).ok().filter(|_| sum.len() == 32)?;
        let record = Record { sum: sum.to_be_bytes(), bytes: bytes.parse().ok()? };
        Some(Self::Add(ObjectKey::from_file_name(name).ok()?, record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Directory, key};

    fn record(n: u8) -> Record {
        Record { sum: [n; 16], bytes: u64::from(n) }
    }

    #[test]
    fn reads_back_appended_lines_and_skips_incomplete_ones() {
        let directory = Directory::new("sidecar");
        let path = directory.path().join(SIDECAR_NAME);
        let (mut sidecar, mut records) = Sidecar::open(directory.path()).unwrap();
        assert!(records.is_empty());
        let error = Sidecar::open(directory.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        for n in 0..3 {
            records.insert(key(n), record(n as u8));
            sidecar.append(&[Line::Add(key(n), record(n as u8))]).unwrap();
        }
        records.remove(&key(1));
        sidecar.append(&[Line::Remove(key(1))]).unwrap();
        drop(sidecar);
        let mut text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("larder-checksums 1\n+ 00000000000000000000000000000000 0 org-SEP-model@0x")
        );
        text.push_str("garbage\n+ 0");
        fs::write(&path, text).unwrap();
        let (sidecar, again) = Sidecar::open(directory.path()).unwrap();
        assert_eq!(again, records);
        assert_eq!(sidecar.lines, 2);
        drop(sidecar);
        fs::write(&path, "something else").unwrap();
        assert!(Sidecar::open(directory.path()).unwrap().1.is_empty());
    }

    #[test]
    fn rewrite_drops_outdated_lines() {
        let directory = Directory::new("sidecar-outdated");
        let (mut sidecar, mut records) = Sidecar::open(directory.path()).unwrap();
        records.insert(key(1), record(1));
        while !sidecar.wants_rewrite(1, records.len()) {
            sidecar.append(&[Line::Add(key(1), record(1))]).unwrap();
        }
        assert_eq!(sidecar.lines, OUTDATED_LINES + 2);
        sidecar.rewrite(&records).unwrap();
        assert_eq!(sidecar.lines, 1);
        drop(sidecar);
        assert_eq!(Sidecar::open(directory.path()).unwrap().1, records);
    }
}
