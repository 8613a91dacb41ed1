//! Directories for targets that read files.

use std::path::PathBuf;

/// An empty directory for this process, in memory where the system offers that.
pub(crate) fn directory(name: &str) -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    let parent = if shm.is_dir() { shm } else { std::env::temp_dir() };
    let path = parent.join(format!("larder_fuzz_{name}_{}", std::process::id()));
    // A process of the same id may have left it.
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).expect("a directory for temporary files");
    path
}
