//! The file format of recordings: the requests of a server, to be replayed by a simulation.
//!
//! A recording is a JSON lines file. The first line is a [`Header`], all others are [`Line`]s. Times are
//! milliseconds since the server started.
//!
//! ```json
//! {"larder_recording":1,"chunk_tokens":256}
//! {"op":"model","at":3,"model":"m","world_size":1,"chunk_bytes":33554432}
//! {"op":"lookup","at":10,"request":"a","model":"m","tokens":700,"new":["e1…","5c…"]}
//! {"op":"store","at":90,"request":"a","model":"m","start":0,"end":2,"after":"5c…"}
//! {"op":"end","at":95,"request":"a","hit":0}
//! {"op":"lookup","at":99,"request":"b","model":"m","tokens":800,"after":"5c…","new":["07…"]}
//! ```
//!
//! The hashes of a prompt are chained, so the last one identifies all before it. A prompt is written as its
//! last hash that the file already contains (`after`) and the hashes that follow (`new`), so a hash is
//! written once however often prompts with it recur. [`Writer`] and [`Reader`] convert between prompts and
//! this form.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use larder_types::object::ChunkHash;

/// Version of the format.
pub const VERSION: u32 = 1;

/// Most hashes that a [`Writer`] remembers as written, at about 40 bytes each. When there are more, it
/// forgets all of them and writes them again when they recur.
pub const CHUNKS_REMEMBERED_MAX: usize = 1 << 20;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`VERSION`].
    pub larder_recording: u32,
    /// Tokens per chunk.
    pub chunk_tokens: u32,
}

/// The chunks of a prompt, from its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// The last hash that an earlier line contains; the prompt starts with it and its predecessors.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "hex::optional")]
    pub after: Option<ChunkHash>,
    /// The hashes that follow.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "hex::many")]
    pub new: Vec<ChunkHash>,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Line {
    /// Workers registered a model.
    Model {
        /// Time in milliseconds.
        at: u64,
        /// Name of the model.
        model: Arc<str>,
        /// KV ranks that one chunk is split into.
        world_size: u32,
        /// Bytes of one chunk over all KV ranks.
        chunk_bytes: u64,
    },
    /// A prompt was looked up.
    Lookup {
        /// Time in milliseconds.
        at: u64,
        /// Id of the request.
        request: Arc<str>,
        /// Name of the model.
        model: Arc<str>,
        /// Cache salt of the tenant.
        #[serde(default, skip_serializing_if = "str::is_empty")]
        salt: Arc<str>,
        /// Length of the prompt in tokens.
        tokens: u64,
        /// Whole chunks of the prompt.
        #[serde(flatten)]
        chain: Chain,
    },
    /// Chunks of a prompt were stored. Only the first worker of a model is recorded; the others store the
    /// same.
    Store {
        /// Time in milliseconds.
        at: u64,
        /// Id of the request.
        request: Arc<str>,
        /// Name of the model.
        model: Arc<str>,
        /// Cache salt of the tenant.
        #[serde(default, skip_serializing_if = "str::is_empty")]
        salt: Arc<str>,
        /// Index of the first chunk.
        start: u32,
        /// Index after the last chunk.
        end: u32,
        /// The prompt up to `end`.
        #[serde(flatten)]
        chain: Chain,
    },
    /// Chunks of a request's hit were read. Only the first worker of a model is recorded.
    Retrieve {
        /// Time in milliseconds.
        at: u64,
        /// Id of the request.
        request: Arc<str>,
        /// Index of the first chunk.
        start: u32,
        /// Index after the last chunk.
        end: u32,
    },
    /// A request ended.
    End {
        /// Time in milliseconds.
        at: u64,
        /// Id of the request.
        request: Arc<str>,
        /// Hit of its last lookup in chunks.
        hit: u32,
    },
    /// Lines are missing here because the disk was too slow.
    Dropped {
        /// Time in milliseconds at which the loss was detected.
        at: u64,
        /// Number of missing lines.
        lines: u64,
    },
}

/// Converts prompts to [`Chain`]s.
#[derive(Debug, Default)]
pub struct Writer {
    written: HashSet<ChunkHash>,
}

impl Writer {
    /// A writer for an empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// The chain of a prompt. Remembers its hashes as written.
    pub fn chain(&mut self, hashes: &[ChunkHash]) -> Chain {
        // A written hash implies that all before it are written.
        let known = hashes.partition_point(|hash| self.written.contains(hash));
        if self.written.len() + hashes.len() - known > CHUNKS_REMEMBERED_MAX {
            self.written.clear();
            self.written.extend(&hashes[..hashes.len().min(CHUNKS_REMEMBERED_MAX)]);
            return Chain { after: None, new: hashes.to_vec() };
        }
        let (known, new) = hashes.split_at(known);
        self.written.extend(new);
        Chain { after: known.last().copied(), new: new.to_vec() }
    }
}

/// Converts [`Chain`]s back to prompts.
#[derive(Debug, Default)]
pub struct Reader {
    /// The predecessor of each hash.
    before: HashMap<ChunkHash, Option<ChunkHash>>,
}

/// A line continues after a chunk that no line before it contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("goes on after chunk {0}, which no line before it has")]
pub struct UnknownChunk(pub ChunkHash);

impl Reader {
    /// A reader at the start of a file.
    pub fn new() -> Self {
        Self::default()
    }

    /// The hashes of a prompt from its start.
    ///
    /// # Errors
    /// [`UnknownChunk`] if a line before this one is missing.
    pub fn hashes(&mut self, chain: &Chain) -> Result<Vec<ChunkHash>, UnknownChunk> {
        let mut hashes = Vec::new();
        let mut next = chain.after;
        while let Some(hash) = next {
            hashes.push(hash);
            next = *self.before.get(&hash).ok_or(UnknownChunk(hash))?;
        }
        hashes.reverse();
        for hash in &chain.new {
            // Only the first line with a hash sets its predecessor, so that a corrupt file cannot form a
            // cycle.
            self.before.entry(*hash).or_insert_with(|| hashes.last().copied());
            hashes.push(*hash);
        }
        Ok(hashes)
    }
}

/// Serializes hashes as hexadecimal digits.
mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use larder_types::object::ChunkHash;

    fn parse<E: Error>(text: &str) -> Result<ChunkHash, E> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let byte = |pair: &[u8; 2]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
        let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
        let hash = bytes.filter(|_| rest.is_empty()).and_then(|bytes| ChunkHash::new(&bytes));
        hash.ok_or_else(|| E::custom(format_args!("'{text}' is no chunk hash")))
    }

    pub(super) mod optional {
        use super::*;

        pub(in super::super) fn serialize<S: Serializer>(
            hash: &Option<ChunkHash>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            match hash {
                Some(hash) => to.collect_str(hash),
                None => to.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<ChunkHash>, D::Error> {
            Option::<String>::deserialize(from)?.map(|text| parse(&text)).transpose()
        }
    }

    pub(super) mod many {
        use super::*;

        pub(in super::super) fn serialize<S: Serializer>(
            hashes: &[ChunkHash],
            to: S,
        ) -> Result<S::Ok, S::Error> {
            to.collect_seq(hashes.iter().map(ChunkHash::to_string))
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Vec<ChunkHash>, D::Error> {
            Vec::<String>::deserialize(from)?.iter().map(|text| parse(text)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hash(n: u64) -> ChunkHash {
        ChunkHash::new(&n.to_be_bytes()).unwrap()
    }

    #[test]
    fn lines_round_trip_through_json() {
        let chain = Chain { after: Some(hash(1)), new: vec![hash(2), hash(255)] };
        let lookup = Line::Lookup {
            at: 5,
            request: "r".into(),
            model: "m".into(),
            salt: "".into(),
            tokens: 700,
            chain,
        };
        let text = serde_json::to_string(&lookup).unwrap();
        let expected = r#"{"op":"lookup","at":5,"request":"r","model":"m","tokens":700,"after":"0000000000000001","new":["0000000000000002","00000000000000ff"]}"#;
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), lookup);
        let end = Line::End { at: 6, request: "r".into(), hit: 2 };
        assert_eq!(serde_json::to_string(&end).unwrap(), r#"{"op":"end","at":6,"request":"r","hit":2}"#);
        for bad in
            [r#"{"op":"lookup"}"#, r#"{"op":"fly"}"#, &text.replace("ff", "f"), &text.replace("ff", "zz")]
        {
            assert!(serde_json::from_str::<Line>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reader_rejects_chain_after_unknown_chunk() {
        let chain = Chain { after: Some(hash(1)), new: vec![] };
        assert_eq!(Reader::new().hashes(&chain), Err(UnknownChunk(hash(1))));
    }

    proptest! {
        /// Prompts with common prefixes; each hash is written once.
        #[test]
        fn prompts_round_trip(prompts in prop::collection::vec(prop::collection::vec(0u64..3, 0..8), 0..20)) {
            let (mut writer, mut reader) = (Writer::new(), Reader::new());
            let mut written = Vec::new();
            for prompt in prompts {
                let chain = |n: &[u64]| hash(n.iter().fold(1, |sum, n| sum * 4 + n + 1));
                let hashes: Vec<_> = (1..=prompt.len()).map(|n| chain(&prompt[..n])).collect();
                let line = writer.chain(&hashes);
                written.extend(line.new.clone());
                prop_assert_eq!(reader.hashes(&line), Ok(hashes));
            }
            let all = written.len();
            written.sort();
            written.dedup();
            prop_assert_eq!(written.len(), all);
        }
    }
}
