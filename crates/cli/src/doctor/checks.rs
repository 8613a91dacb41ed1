//! The checks. A value that cannot be read is a warning, not a guess.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::Instant;

use larder_server::config::{GIB, MIB};
use rustix::process::{Resource, getrlimit};

use super::Finding;
use crate::ctl::bytes;
use crate::server::Machine;

/// A smaller L1 is useless to any model.
const SHM_MIN: u64 = 256 * MIB;
/// Each engine and each L2 transfer needs a file descriptor.
const FILES_MIN: u64 = 4096;
/// Bytes written to measure a directory.
const PROBE_BYTES: u64 = 64 * MIB;
/// Loading from a slower directory is hardly faster than recomputing.
const L2_BYTES_PER_SECOND_MIN: f64 = 200e6;

pub(super) fn shared_memory() -> Finding {
    let check = "/dev/shm";
    let remedy = "start the container with a larger --shm-size, or mount a memory-backed emptyDir there";
    let Ok(stat) = rustix::fs::statvfs("/dev/shm") else {
        return Finding::fail(check, "does not exist", "mount a tmpfs there");
    };
    if stat.f_blocks == 0 {
        return Finding::ok(check, "no limit of its own");
    }
    let (size, free) = (stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize);
    let detail = format!("{} free of {}", bytes(free), bytes(size));
    match free {
        free if free < SHM_MIN => Finding::fail(check, detail, remedy),
        free if free < 4 * GIB => Finding::warn(check, detail, format!("L1 will be small: {remedy}")),
        _ => Finding::ok(check, detail),
    }
}

/// By default the server sizes L1 by this and `/dev/shm`.
pub(super) fn memory() -> Finding {
    let available = Machine::measure(None).memory_available;
    let detail = format!("{} available", bytes(available));
    if available < GIB {
        return Finding::fail(
            "memory",
            detail,
            "free some, or raise the limit of the container or control group",
        );
    }
    Finding::ok("memory", detail)
}

pub(super) fn open_files() -> Finding {
    match getrlimit(Resource::Nofile).current {
        None => Finding::ok("open files", "no limit"),
        Some(limit) if limit < FILES_MIN => {
            let remedy = "raise the limit: ulimit -n 65536, or LimitNOFILE=65536 in the systemd unit";
            Finding::warn("open files", format!("at most {limit}"), remedy)
        }
        Some(limit) => Finding::ok("open files", format!("at most {limit}")),
    }
}

pub(super) fn huge_pages() -> Finding {
    const FILE: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let check = "huge pages";
    let modes = fs::read_to_string(FILE).unwrap_or_default();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let remedy = format!("echo advise > {FILE}");
    let detail = |mode| format!("shmem_enabled is {mode}, Linux {}", release.trim());
    match (selected(&modes), can_collapse(&release)) {
        (None, _) => Finding::warn(check, "not supported by this kernel", "copies are a little slower"),
        (Some(mode @ ("always" | "within_size" | "advise" | "force")), _) => Finding::ok(check, detail(mode)),
        // The server collapses pages itself, which `never` permits and `deny` does not.
        (Some(mode @ "never"), true) => Finding::ok(check, format!("{}: collapsed on demand", detail(mode))),
        (Some(mode), _) => Finding::warn(check, detail(mode), remedy),
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

pub(super) fn port(check: &'static str, flag: &str, port: u16) -> Finding {
    match TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Finding::ok(check, format!("{port} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Finding::warn(
            check,
            format!("{port} is in use"),
            format!("unless a larder server uses it, choose another {flag}"),
        ),
        Err(error) => {
            Finding::fail(check, format!("{port} cannot be bound: {error}"), format!("choose another {flag}"))
        }
    }
}

pub(super) fn l2(directory: &Path) -> Finding {
    let detail = |text: String| format!("{} {text}", directory.display());
    match write_speed(directory) {
        Err(error) => Finding::fail(
            "L2",
            detail(format!("cannot be written: {error}")),
            "create it, or make it writable for this user",
        ),
        Ok(speed) => {
            let detail = detail(format!("writes {:.0} MB/s", speed / 1e6));
            if speed < L2_BYTES_PER_SECOND_MIN {
                return Finding::warn("L2", detail, "use a faster disk");
            }
            Finding::ok("L2", detail)
        }
    }
}

/// Bytes per second written and synced to a file in `directory`.
fn write_speed(directory: &Path) -> io::Result<f64> {
    let path = directory.join(format!(".larder-doctor-{}", std::process::id()));
    let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
    let measured = write_probe(file);
    fs::remove_file(&path)?;
    measured
}

fn write_probe(mut file: File) -> io::Result<f64> {
    // Not zeros, which some file systems do not store.
    let block: Vec<u8> = (0..MIB).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect();
    let began = Instant::now();
    for _ in 0..PROBE_BYTES / MIB {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    Ok(PROBE_BYTES as f64 / began.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_kernel_files() {
        assert_eq!(selected("always advise [never] deny\n"), Some("never"));
        assert_eq!(selected(""), None);
        assert!(can_collapse("6.1.0-rc1") && can_collapse("10.0") && !can_collapse("5.15.0-97-generic"));
    }
}
