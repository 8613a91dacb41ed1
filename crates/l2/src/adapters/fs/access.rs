//! Who may read and write the files of an adapter.
//!
//! They show what users have asked, so by default only the server's own user may read them. Modes are set
//! explicitly: the umask changes nothing.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// Permission bits of files. Directories have the same, and may be entered by those who may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(u32);

impl Default for FileMode {
    fn default() -> Self {
        Self(0o600)
    }
}

impl FileMode {
    /// What a setting must be.
    pub(super) const EXPECTED: &'static str = "an octal file mode that lets the owner read and write, without execution, such as \
         \"0600\" or \"0660\"";

    /// Reads octal digits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = (3..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        let bits = u32::from_str_radix(text, 8).ok().filter(|_| digits)?;
        (bits & 0o600 == 0o600 && bits & !0o666 == 0).then_some(Self(bits))
    }

    /// The setting.
    pub(super) fn octal(self) -> String {
        format!("{:04o}", self.0)
    }

    /// Permission bits of files.
    pub(super) fn of_files(self) -> u32 {
        self.0
    }

    /// Permission bits of directories. Where a group may read, new files belong to the directory's group.
    fn of_directories(self) -> u32 {
        let group = if self.0 & 0o060 == 0 { 0 } else { 0o2000 };
        self.0 | (self.0 & 0o444) >> 2 | group
    }

    /// Sets the mode of a new file, whose bits are `bits`, if the umask has changed it.
    pub(super) fn apply(self, file: &File, bits: u32) -> io::Result<()> {
        if bits & 0o777 == self.0 {
            return Ok(());
        }
        file.set_permissions(Permissions::from_mode(self.0))
    }

    /// Creates a directory and the missing ones above it.
    pub(super) fn create_directories(self, path: &Path) -> io::Result<()> {
        if path.as_os_str().is_empty() || path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.create_directories(parent)?;
        }
        let bits = self.of_directories();
        match DirBuilder::new().mode(bits & 0o777).create(path) {
            Ok(()) => fs::set_permissions(path, Permissions::from_mode(bits)),
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Warns if others may read or enter a directory that was there before. Its mode is left alone, because a person has
    /// chosen it.
    pub(super) fn warn_if_wider(self, directory: &Path) {
        let Ok(meta) = fs::metadata(directory) else { return };
        let bits = meta.mode() & 0o777;
        if bits & !self.of_directories() == 0 {
            return;
        }
        let (path, wanted) = (directory.display(), self.of_directories() & 0o777);
        tracing::warn!(
            %path,
            "other users may look into the L2 directory (mode {bits:04o}); close it with 'chmod {wanted:o} {path}', or allow it \
             with \"mode\" in --l2-adapter"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Directory;

    #[test]
    fn directories_may_be_entered_by_those_who_may_read() {
        let cases = [("0600", 0o700), ("640", 0o2750), ("0660", 0o2770), ("0666", 0o2777)];
        for (text, bits) in cases {
            assert_eq!(FileMode::parse(text).expect(text).of_directories(), bits, "{text}");
        }
        for text in ["", "0", "0400", "0700", "1600", "0o600", "rw", "00600", "+600", "0608"] {
            assert_eq!(FileMode::parse(text), None, "{text}");
        }
        assert_eq!(FileMode::default().octal(), "0600");
    }

    #[test]
    fn created_directories_have_the_mode_and_others_keep_theirs() {
        let directory = Directory::new("access");
        let before = fs::metadata(directory.path()).unwrap().mode();
        let nested = directory.path().join("a/b");
        FileMode::parse("0660").unwrap().create_directories(&nested).unwrap();
        FileMode::default().create_directories(&nested).unwrap();
        for path in [&nested, nested.parent().unwrap()] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o2770);
        }
        assert_eq!(fs::metadata(directory.path()).unwrap().mode(), before);
        fs::write(directory.path().join("file"), b"").unwrap();
        assert!(FileMode::default().create_directories(&directory.path().join("file/c")).is_err());
    }
}
