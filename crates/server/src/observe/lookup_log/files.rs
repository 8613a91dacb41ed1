//! The files of the log: rotation, names, and removal of the oldest. They are readable by this server's user only.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::config::LookupHashLogConfig;
use crate::observe::traces::UnixTime;
use crate::private_file;

/// Prefix and suffix of names, LMCache's.
const NAME: (&str, &str) = ("lookup_hashes_", ".jsonl");

/// Names that are tried for a new file: other processes may write there too.
const TRIES: u64 = 100;

/// The current file, and those before it.
#[derive(Debug)]
pub(super) struct Files {
    config: LookupHashLogConfig,
    current: Option<Current>,
    /// All files, the oldest first.
    known: VecDeque<PathBuf>,
    /// Files so far.
    count: u64,
}

#[derive(Debug)]
struct Current {
    file: File,
    bytes: u64,
    opened: UnixTime,
}

impl Files {
    /// Reads the directory, which is made if it is missing.
    pub(super) fn open(config: LookupHashLogConfig) -> io::Result<Self> {
        private_file::create_dir(&config.dir)?;
        let mut known: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&config.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let ours = name.to_str().is_some_and(|name| name.starts_with(NAME.0) && name.ends_with(NAME.1));
            if ours {
                let modified = entry.metadata().and_then(|meta| meta.modified());
                known.push((modified.unwrap_or(SystemTime::UNIX_EPOCH), entry.path()));
            }
        }
        known.sort();
        let count = known.len() as u64;
        let known = known.into_iter().map(|(_, path)| path).collect();
        Ok(Self { config, current: None, known, count })
    }

    /// Appends a line, to a new file if the current one is full or old.
    ///
    /// # Errors
    /// The line cannot be written. No part of it stays in the file, and the next line begins another file.
    pub(super) fn write(&mut self, now: UnixTime, line: &[u8]) -> io::Result<()> {
        let is_full = |current: &Current| {
            current.bytes >= self.config.rotation_max_bytes
                || now.since(current.opened) >= self.config.rotation_interval
        };
        let mut current = match self.current.take() {
            Some(current) if !is_full(&current) => current,
            _ => self.next(now)?,
        };
        if let Err(error) = current.file.write_all(line) {
            let _ = current.file.set_len(current.bytes);
            return Err(error);
        }
        current.bytes += line.len() as u64;
        self.current = Some(current);
        Ok(())
    }

    /// Checks that files can be made, by making one and removing it: a start without lookups removes no old file.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(super) fn check(&mut self, now: UnixTime) -> io::Result<()> {
        let (path, _) = self.create(now)?;
        fs::remove_file(path)
    }

    /// A new file. The oldest go, if there are too many.
    fn next(&mut self, now: UnixTime) -> io::Result<Current> {
        let (path, file) = self.create(now)?;
        self.known.push_back(path);
        while self.known.len() > self.config.max_files
            && let Some(oldest) = self.known.pop_front()
        {
            match fs::remove_file(&oldest) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    let file = oldest.display();
                    tracing::warn!(%file, %error, "--lookup-hash-log-dir: an old file cannot be deleted");
                }
                _ => {}
            }
        }
        Ok(Current { file, bytes: 0, opened: now })
    }

    fn create(&mut self, now: UnixTime) -> io::Result<(PathBuf, File)> {
        let mut taken = None;
        for _ in 0..TRIES {
            let name = format!("{}{}_{:06}{}", NAME.0, stamp(now), self.count, NAME.1);
            let path = self.config.dir.join(name);
            self.count += 1;
            match private_file::create_new(&path, true) {
                Ok(file) => return Ok((path, file)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => taken = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(taken.unwrap_or_else(|| ErrorKind::AlreadyExists.into()))
    }
}

/// `YYYYMMDD_HHMMSS`, in UTC.
fn stamp(at: UnixTime) -> String {
    let seconds = Duration::from_nanos(at.0).as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{day:02}_{hour:02}{minute:02}{second:02}")
}

/// Year, month and day of a day since 1970-01-01. Counts in years that begin in March, so that a leap day is the
/// last of its year, and in eras of 400 years, which are all alike.
fn date(days: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097;
    /// From 0000-03-01 to 1970-01-01.
    const BEFORE: u64 = 719_468;
    let days = days + BEFORE;
    let (era, day_of_era) = (days / ERA, days % ERA);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Five months from March on have 153 days, as do the next five.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = 400 * era + year_of_era;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A directory of its own, removed at the end.
    pub(crate) struct Directory(pub(crate) PathBuf);

    impl Directory {
        pub(crate) fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("larder_lookup_log_{}_{n}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        /// Its files, by name.
        pub(crate) fn files(&self) -> Vec<PathBuf> {
            let mut files: Vec<_> = fs::read_dir(&self.0).unwrap().map(|file| file.unwrap().path()).collect();
            files.sort();
            files
        }

        fn contents(&self) -> Vec<String> {
            self.files().iter().map(|file| fs::read_to_string(file).unwrap()).collect()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn files(dir: &Directory) -> Files {
        let config = LookupHashLogConfig {
            dir: dir.0.clone(),
            rotation_interval: Duration::from_secs(60),
            rotation_max_bytes: 10,
            max_files: 3,
        };
        Files::open(config).unwrap()
    }

    fn at(seconds: u64) -> UnixTime {
        UnixTime(seconds * 1_000_000_000)
    }

    #[test]
    fn rotates_by_age_and_size_and_removes_the_oldest() {
        let dir = Directory::new();
        let mut log = files(&dir);
        for (seconds, line) in [(0, "a\n"), (59, "b\n"), (60, "c234567890\n"), (61, "d\n"), (130, "e\n")] {
            log.write(at(seconds), line.as_bytes()).unwrap();
        }
        assert_eq!(dir.contents(), ["c234567890\n", "d\n", "e\n"]);
        let names: Vec<_> =
            dir.files().iter().map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect();
        assert_eq!(
            names,
            [
                "lookup_hashes_19700101_000100_000001.jsonl",
                "lookup_hashes_19700101_000101_000002.jsonl",
                "lookup_hashes_19700101_000210_000003.jsonl"
            ]
        );
    }

    #[test]
    fn counts_files_of_earlier_runs_and_never_appends_to_them() {
        let dir = Directory::new();
        fs::write(dir.0.join("notes.jsonl"), "mine\n").unwrap();
        for _ in 0..4 {
            let mut log = files(&dir);
            log.check(at(7)).unwrap();
            log.write(at(7), b"x\n").unwrap();
        }
        files(&dir).check(at(7)).unwrap();
        assert_eq!(dir.contents(), ["x\n", "x\n", "x\n", "mine\n"]);
    }

    #[test]
    fn failed_write_leaves_no_partial_line() {
        let dir = Directory::new();
        let mut log = files(&dir);
        let full = Current {
            file: File::options().append(true).open("/dev/full").unwrap(),
            bytes: 0,
            opened: at(1),
        };
        log.current = Some(full);
        assert!(log.write(at(2), b"lost\n").is_err());
        log.write(at(3), b"kept\n").unwrap();
        assert_eq!(dir.contents(), ["kept\n"]);
    }

    #[test]
    fn computes_calendar_dates() {
        for (seconds, text) in [
            (0, "19700101_000000"),
            (951_782_399, "20000228_235959"),
            (951_782_400, "20000229_000000"),
            (1_709_251_199, "20240229_235959"),
            (1_775_053_825, "20260401_143025"),
            (4_107_542_400, "21000301_000000"),
        ] {
            assert_eq!(stamp(at(seconds)), text);
        }
        // Every day is one later than the one before it.
        let mut last = (1970, 1, 1);
        for day in 1..200_000 {
            let next = date(day);
            let (year, month, date) = last;
            let follows = [(year, month, date + 1), (year, month + 1, 1), (year + 1, 1, 1)];
            assert!(follows.contains(&next) && next.1 <= 12 && next.2 <= 31, "{last:?} {next:?}");
            last = next;
        }
    }
}
