//! Detects the format of a trace file and reads it.
//!
//! The first bytes determine the compression and the first line the format; file extensions do not matter. An
//! incomplete line at the end of a file, as after a crash, is skipped and counted. Any other invalid line is
//! an error with its line number.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use serde::de::DeserializeOwned;

use super::{Trace, lookup_log, mooncake, recording};

/// Most bytes of one line, enough for a request of several hundred thousand chunks.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// Options for what a file does not contain, and for selecting requests.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// Tokens per chunk, for Mooncake files; detected if `None`.
    pub chunk_tokens: Option<u32>,
    /// Reads only lookups of this model, in formats that name models.
    pub model: Option<String>,
    /// Most requests to read.
    pub requests_max: Option<usize>,
}

/// Why a trace cannot be read. Messages are written to follow the file name.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Reading or decompressing failed.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A line is invalid.
    #[error("line {line}: {problem}")]
    Line {
        /// Line number, from 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// The lines are valid but do not make a trace.
    #[error("{0}")]
    Content(String),
}

/// Reads a trace file, or all `lookup_hashes_*.jsonl` files of a directory as one trace.
///
/// # Errors
/// See [`ReadError`].
pub fn read(path: &Path, options: &ReadOptions) -> Result<Trace, ReadError> {
    let name = name_of(path);
    let mut trace =
        if path.is_dir() { read_directory(path, &name, options)? } else { read_file(path, &name, options)? };
    if let Some(most) = options.requests_max {
        trace.keep_first(most);
    }
    if trace.requests().is_empty() {
        return Err(ReadError::Content("has no requests".to_owned()));
    }
    Ok(trace)
}

fn read_directory(path: &Path, name: &str, options: &ReadOptions) -> Result<Trace, ReadError> {
    let entries: Result<Vec<PathBuf>, io::Error> = path.read_dir()?.map(|entry| Ok(entry?.path())).collect();
    let mut files = entries?;
    files.retain(|file| {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or("");
        name.starts_with("lookup_hashes_") && name.contains(".jsonl")
    });
    files.sort();
    if files.is_empty() {
        return Err(ReadError::Content("is a directory without lookup_hashes_*.jsonl".to_owned()));
    }
    let (mut all, mut skipped) = (Vec::new(), 0);
    for file in files {
        lookup_log::read_lines(&mut Lines::open(&file)?, &mut all, &mut skipped)?;
    }
    lookup_log::trace(name, all, skipped, options.model.as_deref())
}

fn read_file(path: &Path, name: &str, options: &ReadOptions) -> Result<Trace, ReadError> {
    let mut lines = Lines::open(path)?;
    let Some(first) = lines.peek()? else { return Err(ReadError::Content("is empty".to_owned())) };
    let keys: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(first)
        .map_err(|error| ReadError::Line { line: 1, problem: format!("is not a JSON object: {error}") })?;
    if keys.contains_key(recording::HEADER_KEY) {
        recording::read(name, &mut lines, options.model.as_deref())
    } else if keys.contains_key("chunk_hashes") {
        let (mut all, mut skipped) = (Vec::new(), 0);
        lookup_log::read_lines(&mut lines, &mut all, &mut skipped)?;
        lookup_log::trace(name, all, skipped, options.model.as_deref())
    } else if keys.contains_key("hash_ids") {
        mooncake::read(name, &mut lines, options.chunk_tokens)
    } else {
        Err(ReadError::Content(
            "is no trace: its lines have neither hash_ids (Mooncake) nor chunk_hashes (LMCache's lookup log), \
             nor does it begin as a recording of larder"
                .to_owned(),
        ))
    }
}

/// The file name without `.jsonl` and the extension of a compression.
fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let name = [".zst", ".gz"].iter().fold(&*name, |name, end| name.strip_suffix(end).unwrap_or(name));
    name.strip_suffix(".jsonl").unwrap_or(name).to_owned()
}

/// Reads the non-empty lines of a file.
pub(super) struct Lines<R> {
    reader: R,
    line: Vec<u8>,
    number: u64,
    peeked: bool,
}

impl Lines<Box<dyn BufRead>> {
    /// Opens a plain, gzip or zstd file.
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = BufReader::with_capacity(1 << 16, File::open(path)?);
        let begins = file.fill_buf()?;
        let reader: Box<dyn BufRead> = if begins.starts_with(&[0x1f, 0x8b]) {
            Box::new(BufReader::with_capacity(1 << 16, flate2::bufread::MultiGzDecoder::new(file)))
        } else if begins.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            let decoder = StreamingDecoder::new(file).map_err(io::Error::other)?;
            Box::new(BufReader::with_capacity(1 << 16, Frames(Some(decoder))))
        } else {
            Box::new(file)
        };
        Ok(Self { reader, line: Vec::new(), number: 0, peeked: false })
    }
}

/// Reads all frames of a zstd file, as concatenated files have several.
struct Frames<R: BufRead>(Option<StreamingDecoder<R, FrameDecoder>>);

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(frame) = &mut self.0 {
            let read = frame.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let mut rest = self.0.take().expect("just seen").into_inner();
            if !rest.fill_buf()?.is_empty() {
                self.0 = Some(StreamingDecoder::new(rest).map_err(io::Error::other)?);
            }
        }
        Ok(0)
    }
}

impl<R: BufRead> Lines<R> {
    /// The next line, without consuming it.
    fn peek(&mut self) -> Result<Option<&[u8]>, ReadError> {
        if !self.peeked && !self.advance()? {
            return Ok(None);
        }
        self.peeked = true;
        Ok(Some(&self.line))
    }

    /// Reads the next non-empty line. Returns false at the end of the file.
    fn advance(&mut self) -> Result<bool, ReadError> {
        loop {
            self.line.clear();
            let read = self.reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut self.line)?;
            if read == 0 {
                return Ok(false);
            }
            self.number += 1;
            if read as u64 == LINE_BYTES_MAX {
                return Err(self.problem("is too long".to_owned()));
            }
            if !self.line.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }

    /// Parses the next line. An incomplete last line is skipped and added to `skipped`.
    pub(super) fn next_json<T: DeserializeOwned>(
        &mut self,
        skipped: &mut u64,
    ) -> Result<Option<T>, ReadError> {
        if !std::mem::take(&mut self.peeked) && !self.advance()? {
            return Ok(None);
        }
        match serde_json::from_slice(&self.line) {
            Ok(value) => Ok(Some(value)),
            Err(_) if !self.line.ends_with(b"\n") => {
                *skipped += 1;
                Ok(None)
            }
            Err(error) => Err(self.problem(error.to_string())),
        }
    }

    pub(super) fn problem(&self, problem: String) -> ReadError {
        ReadError::Line { line: self.number, problem }
    }
}
