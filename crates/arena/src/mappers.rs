//! Which processes map the arena.
//!
//! A worker writes to its slots through its own mapping of the segment. So a process that does not map the segment any
//! more, or has ended, can write no more. The kernel lists mappings by device and inode in `/proc/PID/maps`; the name of
//! the file means nothing there.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;

/// A process. Its number alone may be given to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it was started, in clock ticks since the machine was.
    started: u64,
}

impl Process {
    /// The process of that number. `None` if there is none.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name of the program, in parentheses, may contain anything. 20 fields after it comes the time.
        let (_, fields) = stat.rsplit_once(')')?;
        let started = fields.split_whitespace().nth(19)?.parse().ok()?;
        Some(Self { pid, started })
    }

    /// Whether it has ended.
    pub fn has_ended(self) -> bool {
        Self::of(self.pid) != Some(self) && !is_hidden()
    }
}

/// Whether `/proc` may hide processes that there are.
fn is_hidden() -> bool {
    // One's own is always shown; if it is not, nothing can be said about others.
    fs::metadata("/proc/self/stat").is_err()
}

/// Whether a process maps `file`.
pub(super) fn maps(pid: u32, file: &File) -> io::Result<bool> {
    let metadata = file.metadata()?;
    let (dev, inode) = (metadata.dev(), metadata.ino().to_string());
    let dev = format!("{:02x}:{:02x}", rustix::fs::major(dev), rustix::fs::minor(dev));
    let maps = fs::read(format!("/proc/{pid}/maps"))?;
    // Paths need not be UTF-8; the fields before them are ASCII.
    let found = String::from_utf8_lossy(&maps).lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(3);
        fields.next() == Some(dev.as_str()) && fields.next() == Some(inode.as_str())
    });
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_ends_once() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        assert!(!process.has_ended());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(process.has_ended());
        let reused = Process { pid: std::process::id(), started: process.started + 1 };
        assert!(reused.has_ended(), "the number is another process's now");
    }

    #[test]
    fn a_mapping_is_seen_while_it_is_there() {
        let name = format!("mappers_{}", std::process::id());
        let arena = crate::Arena::shared(&name, 1 << 20).unwrap();
        let own = std::process::id();
        assert!(arena.is_mapped_by(own).unwrap());
        let other = crate::Arena::shared(&format!("{name}_2"), 1 << 20).unwrap();
        let file = other.segment.as_ref().unwrap().file().try_clone().unwrap();
        drop(other);
        assert!(!maps(own, &file).unwrap(), "not mapped any more");
        assert!(maps(u32::MAX, &file).is_err(), "no such process");
    }
}
