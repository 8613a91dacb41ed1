//! Runs the binary in a fresh directory and an empty environment.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// A new directory, removed when dropped.
pub(crate) struct TestDir {
    dir: PathBuf,
}

impl TestDir {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("larder-it-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&dir).expect("a fresh directory");
        Self { dir }
    }

    /// Adds a file.
    pub(crate) fn file(self, name: &str, text: &str) -> Self {
        self.write(name, text);
        self
    }

    /// The path of `name` in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes a file in the directory.
    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.join(name), text).expect("a file in it");
    }

    /// Reads a file in the directory.
    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name)).expect("the file is there")
    }

    /// Runs `larder` with these arguments and this environment.
    pub(crate) fn larder(&self, args: &[&str], variables: &[(&str, &str)]) -> Finished {
        let output = self.command(args).envs(variables.iter().copied()).output();
        Finished::new(output.expect("the binary runs"))
    }

    /// Runs `larder` with these arguments and `input` on stdin.
    pub(crate) fn larder_with_stdin(&self, args: &[&str], input: &str) -> Finished {
        self.write("stdin", input);
        let input = File::open(self.dir.join("stdin")).expect("the file just written");
        Finished::new(self.command(args).stdin(input).output().expect("the binary runs"))
    }

    /// The command `larder` with these arguments, in the directory and with an empty environment.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        // The test runner may ignore signals (under nohup, as a background job), which children inherit.
        let mut command = Command::new("/usr/bin/env");
        command
            .arg("--default-signal=HUP,INT,QUIT")
            .arg(env!("CARGO_BIN_EXE_larder"))
            .args(args)
            .current_dir(&self.dir)
            .env_clear();
        command
    }

    /// Runs `larder server --check-config`, with an L1 small enough for any `/dev/shm`.
    pub(crate) fn check(&self, args: &[&str], variables: &[(&str, &str)]) -> Finished {
        let sized = ["--l1-size-gb", "--l1-manager"]
            .iter()
            .any(|flag| args.iter().any(|word| word.starts_with(flag)))
            || variables.iter().any(|(name, _)| name.contains("L1_"));
        let size: &[&str] = if sized { &[] } else { &["--l1-size-gb=0.03125"] };
        self.larder(&[&["server", "--check-config"], size, args].concat(), variables)
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The exit status and output of a run.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    fn new(output: Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// The lines of stderr.
    pub(crate) fn lines(&self) -> Vec<&str> {
        self.stderr.lines().collect()
    }

    /// The value of `name` in the effective configuration, and its origin.
    pub(crate) fn effective(&self, name: &str) -> (&str, &str) {
        let found = self.stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
        let line = found.unwrap_or_else(|| panic!("no {name} in {self:#?}"));
        let (value, origin) = line.rsplit_once(" # ").expect("an origin");
        (value.trim_end(), origin)
    }
}

/// Runs `larder server --check-config` with these arguments.
pub(crate) fn check(args: &[&str]) -> Finished {
    TestDir::new().check(args, &[])
}
