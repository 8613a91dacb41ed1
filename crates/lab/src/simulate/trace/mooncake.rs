//! Reads Mooncake's format: one JSON object per request.
//!
//! `timestamp` is in milliseconds, `input_length` and `output_length` in tokens; `hash_ids` has one id per
//! chunk of the prompt. Equal ids mean equal content and equal prefix. Only the first
//! `input_length / chunk_tokens` ids are whole chunks; some files omit the id of a partial last chunk.

use std::io::BufRead;

use serde::Deserialize;

use super::file::{Lines, ReadError};
use super::{Builder, Trace, digest};

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    timestamp: f64,
    input_length: u64,
    hash_ids: Vec<u64>,
}

/// Detectable chunk sizes are powers of two in this range.
const CHUNK_TOKENS_MIN: u64 = 8;
const CHUNK_TOKENS_MAX: u64 = 1 << 16;

/// Reads a whole file. Without `chunk_tokens`, uses the only chunk size that fits all lengths.
pub(super) fn read(
    name: &str,
    lines: &mut Lines<impl BufRead>,
    chunk_tokens: Option<u32>,
) -> Result<Trace, ReadError> {
    let mut all: Vec<Line> = Vec::new();
    let mut skipped = 0;
    while let Some(line) = lines.next_json::<Line>(&mut skipped)? {
        all.push(line);
    }
    let fits = |tokens: u64| {
        all.iter().all(|line| {
            let ids = line.hash_ids.len() as u64;
            line.input_length / tokens <= ids && ids <= line.input_length.div_ceil(tokens)
        })
    };
    let tokens = match chunk_tokens {
        Some(tokens) if all.iter().all(|l| l.hash_ids.len() as u64 >= l.input_length / u64::from(tokens)) => {
            u64::from(tokens)
        }
        Some(tokens) => {
            return Err(ReadError::Content(format!(
                "has fewer ids than chunks of {tokens} tokens, so its chunks are larger: give --chunk-tokens"
            )));
        }
        None => {
            let sizes = std::iter::successors(Some(CHUNK_TOKENS_MIN), |n| Some(n * 2));
            let mut fitting = sizes.take_while(|n| *n <= CHUNK_TOKENS_MAX).filter(|n| fits(*n));
            match (fitting.next(), fitting.next()) {
                (Some(only), None) => only,
                _ => {
                    return Err(ReadError::Content(
                        "does not tell how long its chunks are: give --chunk-tokens".to_owned(),
                    ));
                }
            }
        }
    };
    let mut builder = Builder::new(name, tokens as u32);
    for line in all {
        let whole = (line.input_length / tokens) as usize;
        let ids = line.hash_ids.into_iter().take(whole);
        builder.request(line.timestamp.max(0.0) as u64, line.input_length, ids, digest);
    }
    builder.trace().skipped_lines = skipped;
    Ok(builder.finish())
}
