//! Files and directories that only this server's user may read, whatever the umask.
//!
//! What the server keeps (quotas, records of requests, hashes of prompts) shows what users have asked. Other users may be able to
//! write to the directory that it lies in, so no symbolic link is followed under a name that the server chooses: what a
//! link points to is not read, not written and not truncated. Directories and files that exist keep their permissions.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Makes a directory, with those above it, if it is missing.
pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|found| found.is_dir()) {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)?;
    // A umask may have taken the owner's rights.
    fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE))
}

/// Makes a new file to write.
///
/// # Errors
/// Something has this name already, be it a link.
pub(crate) fn create_new(path: &Path, append: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.write(true).append(append).create_new(true).mode(FILE_MODE).open(path)?;
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    Ok(file)
}

/// Opens a file to read.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let file = open_no_link(OpenOptions::new().read(true), path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a file")) }
}

/// Opens a file to lock it; its content is not touched.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    match create_new(path, false) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        created => return created,
    }
    let file = open_no_link(OpenOptions::new().write(true), path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("the lock is not a file")) }
}

/// Opens a file to append to it, or makes it.
///
/// # Errors
/// It is a link, or a file that another user could have put there to read what is appended, or to have it appended to
/// something else.
pub(crate) fn append(path: &Path) -> io::Result<File> {
    match create_new(path, true) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        created => return created,
    }
    let file = open_no_link(OpenOptions::new().append(true), path)?;
    let found = file.metadata()?;
    let user = rustix::process::geteuid().as_raw();
    if found.is_file() && (found.uid() != user && found.uid() != 0 || found.nlink() > 1) {
        let why = format!("the file belongs to user {} or has other names, which is not safe", found.uid());
        return Err(io::Error::other(why));
    }
    Ok(file)
}

/// Opens what is there, unless it is a symbolic link. Does not wait for the other end of a pipe.
fn open_no_link(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    options.custom_flags(flags.bits().cast_signed()).open(path).map_err(|error| {
        let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
        if is_link { io::Error::other(format!("{} is a symbolic link", path.display())) } else { error }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("larder_private_file_{}_{n}", std::process::id()));
            create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn what_is_made_is_for_the_owner_only() {
        let directory = Directory::new();
        let path = |name: &str| directory.0.join(name);
        create_dir(&path("a/b")).unwrap();
        create_new(&path("new"), false).unwrap();
        append(&path("appended")).unwrap();
        open_lock(&path("lock")).unwrap();
        assert_eq!([mode(&directory.0), mode(&path("a")), mode(&path("a/b"))], [0o700; 3]);
        assert_eq!(["new", "appended", "lock"].map(|name| mode(&path(name))), [0o600; 3]);
    }

    #[test]
    fn links_are_not_followed() {
        let directory = Directory::new();
        let (victim, link, dangling) =
            (directory.0.join("victim"), directory.0.join("link"), directory.0.join("dangling"));
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, &link).unwrap();
        symlink(directory.0.join("none"), &dangling).unwrap();
        for link in [&link, &dangling] {
            for opened in [create_new(link, false), open(link), open_lock(link), append(link)] {
                assert!(opened.is_err(), "{opened:?}");
            }
        }
        assert!(!directory.0.join("none").exists());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        fs::hard_link(&victim, directory.0.join("other name")).unwrap();
        assert!(append(&victim).is_err(), "what is appended would have another name");
        assert!(open_lock(&victim).is_ok());
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn appends_to_what_it_made() {
        use std::io::Write as _;
        let directory = Directory::new();
        let path = directory.0.join("file");
        for part in ["a", "b"] {
            append(&path).unwrap().write_all(part.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "ab");
        assert!(open(&directory.0).is_err(), "a directory is not a file");
    }
}
