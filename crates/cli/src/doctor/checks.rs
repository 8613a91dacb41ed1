//! The checks, each a finding. What cannot be read is a warning: a guess would be worse.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::{Resource, getrlimit};

use super::Finding;
use crate::ctl::bytes;
use crate::server::Machine;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Below this an L1 is of no use to any model.
const SHM_MIN: u64 = 256 * MIB;
/// Each engine and each file of L2 in flight takes one.
const FILES_MIN: u64 = 4096;
/// What is written to measure a directory.
const PROBE_BYTES: u64 = 64 * MIB;
/// A directory slower than this is hardly faster than computing anew.
const L2_BYTES_PER_SECOND_MIN: f64 = 200e6;
/// The releases of the client whose protocol is spoken.
const CLIENT: &str = "0.5.";

pub(super) fn shared_memory() -> Finding {
    let matter = "/dev/shm";
    let how = "start the container with a larger --shm-size, or mount a memory-backed emptyDir there";
    let Ok(stat) = rustix::fs::statvfs("/dev/shm") else {
        return Finding::fail(matter, "is not there", "mount a tmpfs there");
    };
    let (size, free) = (stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize);
    let is = format!("{} free of {}", bytes(free), bytes(size));
    match free {
        free if free < SHM_MIN => Finding::fail(matter, is, how),
        free if free < 4 * GIB => Finding::warn(matter, is, format!("that is a small L1: {how}")),
        _ => Finding::ok(matter, is),
    }
}

/// The server sizes L1 by itself, from this and `/dev/shm`.
pub(super) fn memory() -> Finding {
    let available = Machine::measure(None).memory_available;
    let is = format!("{} available", bytes(available));
    if available < GIB {
        return Finding::fail("memory", is, "free some, or raise the container's limit");
    }
    Finding::ok("memory", is)
}

pub(super) fn open_files() -> Finding {
    match getrlimit(Resource::Nofile).current {
        None => Finding::ok("open files", "no limit"),
        Some(limit) if limit < FILES_MIN => {
            let change = "raise it: ulimit -n 65536, or LimitNOFILE=65536 in the systemd unit";
            Finding::warn("open files", format!("at most {limit}"), change)
        }
        Some(limit) => Finding::ok("open files", format!("at most {limit}")),
    }
}

pub(super) fn huge_pages() -> Finding {
    const FILE: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let matter = "huge pages";
    let modes = fs::read_to_string(FILE).unwrap_or_default();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let change = format!("echo advise > {FILE}");
    let is = |mode| format!("shmem_enabled is {mode}, Linux {}", release.trim());
    match (selected(&modes), can_collapse(&release)) {
        (None, _) => Finding::warn(matter, "not known to this kernel", "copies work, a little slower"),
        (Some(mode @ ("always" | "within_size" | "advise" | "force")), _) => Finding::ok(matter, is(mode)),
        // The server collapses pages by itself, which `never` allows and `deny` does not.
        (Some(mode @ "never"), true) => Finding::ok(matter, format!("{}: collapsed on demand", is(mode))),
        (Some(mode), _) => Finding::warn(matter, is(mode), change),
    }
}

/// The word in brackets.
fn selected(modes: &str) -> Option<&str> {
    modes.split_once('[')?.1.split_once(']').map(|(mode, _)| mode)
}

/// Whether a kernel has `MADV_COLLAPSE`: from 6.1 on.
fn can_collapse(release: &str) -> bool {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 1)
}

pub(super) fn port(matter: &'static str, flag: &str, port: u16) -> Finding {
    match TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Finding::ok(matter, format!("{port} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Finding::warn(
            matter,
            format!("{port} is in use"),
            format!("unless by a server of ours, choose another {flag}"),
        ),
        Err(error) => Finding::fail(
            matter,
            format!("{port} cannot be bound: {error}"),
            format!("choose another {flag}"),
        ),
    }
}

pub(super) fn l2(directory: &Path) -> Finding {
    let is = |what: String| format!("{} {what}", directory.display());
    match write_speed(directory) {
        Err(error) => {
            Finding::fail("L2", is(format!("cannot be written: {error}")), "make it, or give it to this user")
        }
        Ok(speed) => {
            let is = is(format!("takes {:.0} MB/s", speed / 1e6));
            if speed < L2_BYTES_PER_SECOND_MIN {
                return Finding::warn("L2", is, "a faster disk makes more of it");
            }
            Finding::ok("L2", is)
        }
    }
}

/// Bytes a second that reach the disk below `directory`.
fn write_speed(directory: &Path) -> io::Result<f64> {
    let path = directory.join(format!(".larder-doctor-{}", std::process::id()));
    let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    let measured = write_probe(file);
    fs::remove_file(&path)?;
    measured
}

fn write_probe(mut file: File) -> io::Result<f64> {
    // Not zeros, which some file systems do not write at all.
    let block: Vec<u8> = (0..MIB).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect();
    let began = Instant::now();
    for _ in 0..PROBE_BYTES / MIB {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    Ok(PROBE_BYTES as f64 / began.elapsed().as_secs_f64())
}

pub(super) fn client(python: &Path) -> Finding {
    // Not an import of the package: that would take seconds, and torch.
    let ask = "import importlib.metadata as m; print(m.version('lmcache'))";
    let asked = Command::new(python).args(["-c", ask]).stdin(Stdio::null()).output();
    let install = format!("{} -m pip install lmcache=={CLIENT}6", python.display());
    match asked {
        Err(error) => Finding::fail(
            "client",
            format!("{} does not run: {error}", python.display()),
            "give the engine's Python",
        ),
        Ok(output) if !output.status.success() => Finding::fail("client", "no lmcache in it", install),
        Ok(output) => {
            let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            if version.starts_with(CLIENT) {
                return Finding::ok("client", format!("lmcache {version}"));
            }
            Finding::warn("client", format!("lmcache {version}, tested is {CLIENT}6"), install)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        assert_eq!(selected("always advise [never] deny\n"), Some("never"));
        assert_eq!(selected(""), None);
        assert!(can_collapse("6.1.0-rc1") && can_collapse("10.0") && !can_collapse("5.15.0-97-generic"));
    }
}
