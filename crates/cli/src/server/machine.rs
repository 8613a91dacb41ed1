//! Measures the memory that is available on this machine.

use std::os::unix::fs::MetadataExt;

use larder_server::config::l1::shm_path;

/// Memory available for L1, in bytes unless said otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Machine {
    /// Memory that this process can use, by the kernel's estimate and the container's limit.
    pub(crate) memory_available: u64,
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
        Self {
            memory_available: container_available()
                .map_or(memory, |available| available.saturating_add(leftover).min(memory)),
            shm_free: free_bytes("/dev/shm").saturating_add(leftover),
            hugepages_free: number(&read("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"))
                .unwrap_or(0),
        }
    }
}

/// Bytes below the container's memory limit, from cgroup v2 or v1; `None` without a limit.
fn container_available() -> Option<u64> {
    let files = [
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ];
    files.iter().find_map(|(limit, used)| {
        let limit = number(&read(limit))?;
        Some(limit.saturating_sub(number(&read(used)).unwrap_or(0)))
    })
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

fn free_bytes(directory: &str) -> u64 {
    rustix::fs::statvfs(directory).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
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
