//! Memory that the control groups of this process leave it, of cgroup v2 and v1.
//!
//! The kernel enforces the limit of the process's own group and of each group above it: systemd's `MemoryMax=`, a slice,
//! a container, a pod. Of what a group uses, page cache does not count, as the kernel takes it back on demand; shared
//! memory does (`MemAvailable` of the node is computed in the same way).

use std::path::{Component, Path, PathBuf};

/// Bytes below the tightest limit on the way up from the own group; `None` without a limit.
pub(super) fn memory_available() -> Option<u64> {
    available(&read(Path::new("/proc/self/cgroup")), Path::new("/sys/fs/cgroup"))
}

/// The same for the groups that `membership`, the text of `/proc/self/cgroup`, names below `mount`.
fn available(membership: &str, mount: &Path) -> Option<u64> {
    let mut lines = membership.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let groups = lines.by_ref().filter_map(|(controllers, path)| match controllers {
        "" => Some((V2, mount.to_owned(), path)),
        names if names.split(',').any(|name| name == "memory") => Some((V1, mount.join("memory"), path)),
        _ => None,
    });
    let on_the_way = |(files, mount, path): (Files, PathBuf, &str)| {
        let own = own_group(&mount, path);
        let groups: Vec<PathBuf> =
            own.ancestors().take_while(|group| group.starts_with(&mount)).map(Path::to_owned).collect();
        groups.into_iter().filter_map(move |group| files.available(&group))
    };
    groups.flat_map(on_the_way).min()
}

/// The directory of the group `path`. In a container, the mount may begin at a group below the root that `path` begins
/// at, so leading parts of it are left out until a directory is found.
fn own_group(mount: &Path, path: &str) -> PathBuf {
    let is_name = |part: &Component<'_>| matches!(part, Component::Normal(_));
    let parts: Vec<_> = Path::new(path).components().filter(is_name).collect();
    let candidates =
        (0..=parts.len()).map(|from| parts[from..].iter().fold(mount.to_owned(), |dir, part| dir.join(part)));
    candidates.into_iter().find(|directory| directory.is_dir()).unwrap_or_else(|| mount.to_owned())
}

/// The files of a version, in the directory of each group.
#[derive(Clone, Copy)]
struct Files {
    /// Limits in bytes; `max` means none.
    limits: &'static [&'static str],
    /// Bytes in use.
    used: &'static str,
    /// Names in `memory.stat` of page cache that can be taken back, with that of groups below.
    page_cache: [&'static str; 2],
}

const V2: Files = Files {
    limits: &["memory.max", "memory.high"],
    used: "memory.current",
    page_cache: ["inactive_file", "active_file"],
};

const V1: Files = Files {
    limits: &["memory.limit_in_bytes"],
    used: "memory.usage_in_bytes",
    page_cache: ["total_inactive_file", "total_active_file"],
};

impl Files {
    /// Bytes below the limit of `group`; `None` without a limit.
    fn available(self, group: &Path) -> Option<u64> {
        let limit = self.limits.iter().filter_map(|file| number(&read(&group.join(file)))).min()?;
        let used = number(&read(&group.join(self.used))).unwrap_or(0);
        let stat = read(&group.join("memory.stat"));
        let page_cache: u64 = self.page_cache.iter().filter_map(|name| field(&stat, name)).sum();
        Some(limit.saturating_sub(used.saturating_sub(page_cache)))
    }
}

/// The number after `name` on a line of its own.
fn field(stat: &str, name: &str) -> Option<u64> {
    stat.lines().find_map(|line| number(line.strip_prefix(name)?.strip_prefix(' ')?))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Parses a file that holds one number; `None` for a word such as `max`.
fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const GIB: u64 = 1 << 30;

    /// A mount of control groups, made of files.
    struct Mount(PathBuf);

    impl Mount {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            Self(std::env::temp_dir().join(format!("larder_cgroup_{}_{n}", std::process::id())))
        }

        fn with(self, group: &str, files: &[(&str, String)]) -> Self {
            let directory = self.0.join(group);
            fs::create_dir_all(&directory).unwrap();
            files.iter().for_each(|(name, text)| fs::write(directory.join(name), text).unwrap());
            self
        }

        fn v2(self, group: &str, limit: &str, used: u64, cache: u64) -> Self {
            let stat = format!("anon 1\ninactive_file {}\nactive_file {}\nshmem 7\n", cache / 2, cache / 2);
            let files = [
                ("memory.max", format!("{limit}\n")),
                ("memory.high", "max\n".to_owned()),
                ("memory.current", format!("{used}\n")),
                ("memory.stat", stat),
            ];
            self.with(group, &files)
        }

        fn v1(self, group: &str, limit: u64, used: u64, cache: u64) -> Self {
            let stat = format!("inactive_file 0\ntotal_inactive_file {cache}\ntotal_active_file 0\n");
            let files = [
                ("memory.limit_in_bytes", format!("{limit}\n")),
                ("memory.usage_in_bytes", format!("{used}\n")),
                ("memory.stat", stat),
            ];
            self.with(&format!("memory/{group}"), &files)
        }

        fn available(&self, membership: &str) -> Option<u64> {
            available(membership, &self.0)
        }
    }

    impl Drop for Mount {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn tightest_limit_on_the_way_up_counts() {
        let sixteen = (16 * GIB).to_string();
        let four = (4 * GIB).to_string();
        let mount = Mount::new().v2("", "max", 0, 0).v2("a", &four, GIB, 0).v2("a/b", &sixteen, GIB, 0);
        assert_eq!(mount.available("0::/a/b\n"), Some(3 * GIB));
        assert_eq!(mount.available("0::/\n"), None);
        let mount = mount.v2("a/b/c", &GIB.to_string(), 0, 0);
        assert_eq!(mount.available("0::/a/b/c\n"), Some(GIB));
    }

    #[test]
    fn memory_high_is_a_limit_too() {
        let mount = Mount::new().v2("a", "max", GIB, 0).with("a", &[("memory.high", (3 * GIB).to_string())]);
        assert_eq!(mount.available("0::/a\n"), Some(2 * GIB));
    }

    #[test]
    fn page_cache_is_not_used_memory() {
        let mount = Mount::new().v2("", &(16 * GIB).to_string(), 15 * GIB, 14 * GIB);
        assert_eq!(mount.available("0::/\n"), Some(15 * GIB));
        let mount = Mount::new().v1("a", 16 * GIB, 15 * GIB, 14 * GIB);
        assert_eq!(mount.available("5:cpu:/\n4:memory:/a\n0::/\n"), Some(15 * GIB));
    }

    #[test]
    fn groups_outside_the_mount_are_left_out() {
        let mount = Mount::new().v1("", 8 * GIB, GIB, 0).v1("nested", 4 * GIB, GIB, 0);
        // docker --cgroupns=host: the mount begins at the container's group.
        assert_eq!(mount.available("4:memory:/docker/0123\n"), Some(7 * GIB));
        assert_eq!(mount.available("4:memory:/docker/0123/nested\n"), Some(3 * GIB));
        assert_eq!(mount.available("4:memory:/../../other\n"), Some(7 * GIB));
    }

    #[test]
    fn without_groups_there_is_no_limit() {
        let mount = Mount::new();
        assert_eq!(mount.available(""), None);
        assert_eq!(mount.available("nonsense\n0::/a\n4:memory:/a\n"), None);
    }
}
