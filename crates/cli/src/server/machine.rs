//! Measures the memory that is available on this machine.

use std::os::unix::fs::MetadataExt;

use larder_server::config::l1::shm_path;

use super::cgroup;

/// Memory available for L1, in bytes unless said otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Machine {
    /// Memory that this process can use, by the kernel's estimate and the limits of its control groups.
    pub(crate) memory_available: u64,
    /// Size of `/dev/shm`.
    pub(crate) shm_size: u64,
    /// Free space in `/dev/shm`, including the file that an earlier run left under the same name.
    pub(crate) shm_free: u64,
    /// Number of free 2 MiB pages in the kernel's reserve.
    pub(crate) hugepages_free: u64,
}

impl Machine {
    /// Measures the machine. A value that cannot be read is 0; a memory limit that cannot be read does not exist.
    pub(crate) fn measure(shm_name: Option<&str>) -> Self {
        let memory = meminfo_available(&read("/proc/meminfo")).unwrap_or(0);
        // The file of an earlier run counts as used memory, and will be replaced.
        let leftover = shm_name.map_or(0, |name| allocated_bytes(&shm_path(name)));
        let memory = memory.saturating_add(leftover);
        let (shm_size, shm_free) = size_and_free("/dev/shm");
        Self {
            memory_available: cgroup::memory_available()
                .map_or(memory, |available| available.saturating_add(leftover).min(memory)),
            shm_size,
            shm_free: shm_free.saturating_add(leftover).min(shm_size),
            hugepages_free: number(&read("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"))
                .unwrap_or(0),
        }
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Parses a file that holds one number; `None` for a word such as `max`.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The `MemAvailable` of `/proc/meminfo`, in bytes.
fn meminfo_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    number(line.trim().strip_suffix("kB")?).map(|kib| kib * 1024)
}

/// Size and free space of a file system. One without a limit of its own reports no blocks at all.
fn size_and_free(directory: &str) -> (u64, u64) {
    match rustix::fs::statvfs(directory) {
        Err(_) => (0, 0),
        Ok(stat) if stat.f_blocks == 0 => (u64::MAX, u64::MAX),
        Ok(stat) => {
            (stat.f_blocks.saturating_mul(stat.f_frsize), stat.f_bavail.saturating_mul(stat.f_frsize))
        }
    }
}

/// Whether the file at `path` is another user's, and this process may not replace it.
pub(crate) fn is_foreign(path: &str) -> bool {
    let user = rustix::process::geteuid();
    let owner = std::fs::symlink_metadata(path).map(|metadata| metadata.uid());
    !user.is_root() && owner.is_ok_and(|owner| owner != user.as_raw())
}

/// Bytes allocated to the file; the kernel counts blocks of 512.
fn allocated_bytes(path: &str) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_kernel_files() {
        assert_eq!(meminfo_available("MemTotal: 9 kB\nMemAvailable:   24 kB\n"), Some(24 * 1024));
        assert_eq!(meminfo_available(""), None);
        assert_eq!((number("12\n"), number("max\n")), (Some(12), None));
    }

    #[test]
    fn measures_some_memory() {
        assert!(Machine::measure(None).memory_available > 0);
    }
}
