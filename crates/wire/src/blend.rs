//! Structures of the blend operations, which reuse chunks at other positions (`protocol.md` 15).

use bytes::Bytes;

use crate::error::DecodeError;
use crate::msgpack::{Reader, Writer, required};

/// Matches of one call or answer.
pub const MATCHES_MAX: usize = 1 << 20;

/// A stretch of tokens found again elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchResult {
    /// First token in the sequence that was stored.
    pub old_start: i64,
    /// Token after the last there.
    pub old_end: i64,
    /// First token in the sequence that asks.
    pub current_start: i64,
    /// Token after the last there.
    pub current_end: i64,
    /// Hash under which the stretch was stored.
    pub hash: Bytes,
}

impl MatchResult {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (mut old_start, mut old_end, mut current_start, mut current_end, mut hash) =
            (None, None, None, None, None);
        reader.structure("match", |name, reader| {
            match name {
                b"old_st" => old_start = Some(reader.i64("old_st")?),
                b"old_ed" => old_end = Some(reader.i64("old_ed")?),
                b"cur_st" => current_start = Some(reader.i64("cur_st")?),
                b"cur_ed" => current_end = Some(reader.i64("cur_ed")?),
                b"hash" => hash = Some(Bytes::copy_from_slice(reader.bin("hash")?)),
                _ => reader.skip("match")?,
            }
            Ok(())
        })?;
        Ok(Self {
            old_start: required("old_st", old_start)?,
            old_end: required("old_ed", old_end)?,
            current_start: required("cur_st", current_start)?,
            current_end: required("cur_ed", current_end)?,
            hash: required("hash", hash)?,
        })
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.map(5);
        writer.str("old_st");
        writer.int(self.old_start);
        writer.str("old_ed");
        writer.int(self.old_end);
        writer.str("cur_st");
        writer.int(self.current_start);
        writer.str("cur_ed");
        writer.int(self.current_end);
        writer.str("hash");
        writer.bin(&self.hash);
    }
}

/// Reads a list of matches.
pub(crate) fn decode_matches(
    reader: &mut Reader<'_>,
    field: &'static str,
) -> Result<Vec<MatchResult>, DecodeError> {
    reader.list(field, MATCHES_MAX, MatchResult::decode)
}

/// Writes a list of matches.
pub(crate) fn encode_matches(matches: &[MatchResult], writer: &mut Writer) {
    writer.array(matches.len());
    matches.iter().for_each(|found| found.encode(writer));
}

/// Answer of `cb_unified_lookup`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnifiedLookup {
    /// Leading tokens that are cached.
    pub prefix_coverage_tokens: i64,
    /// Matches outside that prefix.
    pub non_prefix_segments: Vec<MatchResult>,
    /// Cached chunks after a gap, at their own positions.
    pub segmented_prefix_segments: Vec<MatchResult>,
}

impl UnifiedLookup {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (mut coverage, mut non_prefix, mut segmented) = (None, None, Vec::new());
        reader.structure("unified lookup", |name, reader| {
            match name {
                b"prefix_coverage_tokens" => coverage = Some(reader.i64("prefix_coverage_tokens")?),
                b"non_prefix_segments" => {
                    non_prefix = Some(decode_matches(reader, "non_prefix_segments")?);
                }
                b"segmented_prefix_segments" => {
                    segmented = decode_matches(reader, "segmented_prefix_segments")?;
                }
                _ => reader.skip("unified lookup")?,
            }
            Ok(())
        })?;
        Ok(Self {
            prefix_coverage_tokens: required("prefix_coverage_tokens", coverage)?,
            non_prefix_segments: required("non_prefix_segments", non_prefix)?,
            segmented_prefix_segments: segmented,
        })
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.map(3);
        writer.str("prefix_coverage_tokens");
        writer.int(self.prefix_coverage_tokens);
        writer.str("non_prefix_segments");
        encode_matches(&self.non_prefix_segments, writer);
        writer.str("segmented_prefix_segments");
        encode_matches(&self.segmented_prefix_segments, writer);
    }
}
