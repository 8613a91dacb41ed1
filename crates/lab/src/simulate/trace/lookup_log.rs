//! Reads LMCache's lookup-hash logs: one JSON object per lookup, with the hashes of its whole chunks.
//!
//! LMCache writes one `lookup_hashes_*.jsonl` file per process into a directory; a directory is read as one
//! log, sorted by time. `larder server` writes the same lines with an additional `cache_salt`.

use std::io::BufRead;

use larder_types::object::ChunkHash;
use serde::Deserialize;

use super::file::{Lines, ReadError};
use super::recording::salted;
use super::{Builder, Trace};

/// One lookup.
#[derive(Deserialize)]
pub(super) struct Line {
    #[serde(default)]
    timestamp: f64,
    #[serde(default)]
    model_name: String,
    /// Written by `larder server` only.
    #[serde(default)]
    cache_salt: String,
    chunk_size: u32,
    seq_len: u64,
    #[serde(default)]
    dtypes: Vec<String>,
    #[serde(default)]
    shapes: Vec<Vec<u64>>,
    chunk_hashes: Vec<String>,
}

impl Line {
    /// Bytes of one chunk over all tensors, if the line has valid shapes and dtypes.
    fn chunk_bytes(&self) -> Option<u64> {
        if self.shapes.is_empty() || self.shapes.len() != self.dtypes.len() {
            return None;
        }
        let mut bytes = 0_u64;
        for (shape, dtype) in self.shapes.iter().zip(&self.dtypes) {
            let dtype = larder_types::dtype::DType::from_name(dtype).ok()?;
            bytes = bytes.checked_add(larder_types::dtype::tensor_bytes(dtype, shape)?)?;
        }
        Some(bytes)
    }
}

/// Appends the lines of one file to `into`.
pub(super) fn read_lines(
    lines: &mut Lines<impl BufRead>,
    into: &mut Vec<Line>,
    skipped: &mut u64,
) -> Result<(), ReadError> {
    while let Some(line) = lines.next_json::<Line>(skipped)? {
        into.push(line);
    }
    Ok(())
}

/// Makes a trace of the lines of one or more files.
pub(super) fn trace(
    name: &str,
    mut all: Vec<Line>,
    skipped: u64,
    model: Option<&str>,
) -> Result<Trace, ReadError> {
    all.retain(|line| model.is_none_or(|model| line.model_name == model));
    all.sort_by(|a, b| a.timestamp.total_cmp(&b.timestamp));
    let chunk_tokens = all.first().map_or(256, |line| line.chunk_size);
    if chunk_tokens == 0 || all.iter().any(|line| line.chunk_size != chunk_tokens) {
        return Err(ReadError::Content("has lookups of several chunk sizes".to_owned()));
    }
    if all.iter().any(|line| line.model_name != all[0].model_name) {
        return Err(ReadError::Content("has lookups of several models: choose one with --model".to_owned()));
    }
    let start = all.first().map_or(0.0, |line| line.timestamp);
    let mut builder = Builder::new(name, chunk_tokens);
    builder.trace().chunk_bytes = all.iter().find_map(Line::chunk_bytes);
    for line in &all {
        let hashes: Option<Vec<ChunkHash>> = line.chunk_hashes.iter().map(|text| hash(text)).collect();
        let hashes = hashes.ok_or_else(|| ReadError::Content("has a chunk hash that is none".to_owned()))?;
        let hashes = salted(hashes, &line.cache_salt);
        // A log may contain the hash of a partial last chunk, which is never stored.
        let whole = (line.seq_len / u64::from(chunk_tokens)) as usize;
        let at_ms = ((line.timestamp - start) * 1000.0).max(0.0) as u64;
        builder.request(at_ms, line.seq_len, hashes.into_iter().take(whole), |hash| *hash);
    }
    builder.trace().skipped_lines = skipped;
    Ok(builder.finish())
}

/// Parses a hash as LMCache writes it: hexadecimal digits of bytes or of an integer, after `0x` or `-0x`.
fn hash(text: &str) -> Option<ChunkHash> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("-0x"))?;
    let padded = if digits.len().is_multiple_of(2) { digits.to_owned() } else { format!("0{digits}") };
    let byte = |i: usize| u8::from_str_radix(padded.get(i..i + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..padded.len()).step_by(2).map(byte).collect();
    let mut bytes = bytes?;
    if text.starts_with('-') {
        bytes.insert(0, b'-');
    }
    ChunkHash::new(&bytes)
}

#[cfg(test)]
mod tests {
    use super::hash;

    #[test]
    fn parses_hashes_of_bytes_and_of_integers() {
        assert_eq!(hash("0x00ff").unwrap().as_bytes(), [0, 255]);
        assert_eq!(hash("0xfff").unwrap().as_bytes(), [15, 255]);
        assert_ne!(hash("-0xff"), hash("0xff"));
        for bad in ["", "0x", "ff", "0xg0", "0x0\u{e9}", &format!("0x{}", "0".repeat(66))] {
            assert_eq!(hash(bad), None, "{bad}");
        }
    }
}
