//! What this machine has to give, in numbers.

use std::os::unix::fs::MetadataExt;

use larder_server::config::l1::shm_path;

/// The numbers that the size of L1 depends on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Machine {
    /// Bytes this process could still use, by the kernel's estimate and the container's limit.
    pub(crate) memory_available: u64,
    /// Bytes free in `/dev/shm`, counting what an earlier run left under our own name.
    pub(crate) shm_free: u64,
    /// Free 2 MiB pages in the kernel's reserve.
    pub(crate) hugepages_free: u64,
}

impl Machine {
    /// Measures. What cannot be measured counts as absent, except for memory limits, which then do not exist.
    pub(crate) fn measure(shm_name: Option<&str>) -> Self {
        let memory = meminfo_available(&read("/proc/meminfo")).unwrap_or(0);
        let leftover = shm_name.map_or(0, |name| allocated_bytes(&shm_path(name)));
        // What an earlier run left counts as used memory, and will be ours again.
        let memory = memory.saturating_add(leftover);
        Self {
            memory_available: container_room()
                .map_or(memory, |room| room.saturating_add(leftover).min(memory)),
            shm_free: free_bytes("/dev/shm").saturating_add(leftover),
            hugepages_free: number(&read("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"))
                .unwrap_or(0),
        }
    }
}

/// What the container's limit leaves, cgroup v2 before v1; `None` without a limit.
fn container_room() -> Option<u64> {
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

/// The number that a file consists of; `None` for a word such as `max`.
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

/// Bytes that the file really takes; the kernel counts in units of 512.
fn allocated_bytes(path: &str) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        assert_eq!(meminfo_available("MemTotal: 9 kB\nMemAvailable:   24 kB\n"), Some(24 * 1024));
        assert_eq!(meminfo_available(""), None);
        assert_eq!((number("12\n"), number("max\n")), (Some(12), None));
    }

    #[test]
    fn this_machine_has_some_memory() {
        assert!(Machine::measure(None).memory_available > 0);
    }
}
