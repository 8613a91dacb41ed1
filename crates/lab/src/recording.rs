//! The lines of a recording: what a server was asked, to be asked again elsewhere.
//!
//! A recording is JSON lines. The first is a [`Header`], every other a [`Line`]. Times are
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
//! The hashes of a prompt are chained, so the last one stands for all before it. A prompt is written
//! as the last hash of it that the file has already (`after`) and the hashes that follow (`new`):
//! each chunk costs its 64 characters once, however often a prompt comes back. [`Writer`] and
//! [`Reader`] keep the books for that.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use larder_types::object::ChunkHash;

/// The version of the format.
pub const VERSION: u32 = 1;

/// How many chunks a [`Writer`] remembers to have written, at about 40 bytes each. Of more it forgets
/// all, and writes them again when they come back.
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
    /// The last hash that an earlier line has; the prompt begins with all that lead to it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "hex::optional")]
    pub after: Option<ChunkHash>,
    /// The hashes that follow.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "hex::many")]
    pub new: Vec<ChunkHash>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Line {
    /// Workers serve a model.
    Model {
        /// When.
        at: u64,
        /// Its name.
        model: Arc<str>,
        /// Pieces that one chunk is split into.
        world_size: u32,
        /// Bytes of one chunk, all pieces together.
        chunk_bytes: u64,
    },
    /// A prompt was looked up.
    Lookup {
        /// When.
        at: u64,
        /// For which request.
        request: Arc<str>,
        /// Of which model.
        model: Arc<str>,
        /// In which isolation domain.
        #[serde(default, skip_serializing_if = "str::is_empty")]
        salt: Arc<str>,
        /// Its length in tokens.
        tokens: u64,
        /// Its whole chunks.
        #[serde(flatten)]
        chain: Chain,
    },
    /// The first worker of a model stored chunks of a prompt. The others store the same.
    Store {
        /// When.
        at: u64,
        /// For which request.
        request: Arc<str>,
        /// Of which model.
        model: Arc<str>,
        /// In which isolation domain.
        #[serde(default, skip_serializing_if = "str::is_empty")]
        salt: Arc<str>,
        /// The first chunk.
        start: u32,
        /// Behind the last chunk.
        end: u32,
        /// The prompt up to `end`.
        #[serde(flatten)]
        chain: Chain,
    },
    /// The first worker of a model has read chunks of a request's hit.
    Retrieve {
        /// When.
        at: u64,
        /// For which request.
        request: Arc<str>,
        /// The first chunk.
        start: u32,
        /// Behind the last chunk.
        end: u32,
    },
    /// A request ended.
    End {
        /// When.
        at: u64,
        /// Which.
        request: Arc<str>,
        /// The hit of its last lookup in chunks.
        hit: u32,
    },
    /// The disk was too slow: this many lines are missing here.
    Dropped {
        /// When that was noticed.
        at: u64,
        /// How many.
        lines: u64,
    },
}

/// Writes prompts as [`Chain`]s.
#[derive(Debug, Default)]
pub struct Writer {
    written: HashSet<ChunkHash>,
}

impl Writer {
    /// One that has written nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// A prompt's chunks, and remembers them as written.
    pub fn chain(&mut self, hashes: &[ChunkHash]) -> Chain {
        // Who has a hash has all before it.
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

/// Reads [`Chain`]s back.
#[derive(Debug, Default)]
pub struct Reader {
    /// Each chunk and the one before it.
    before: HashMap<ChunkHash, Option<ChunkHash>>,
}

/// A line builds on a chunk that no line before it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("goes on after chunk {0}, which no line before it has")]
pub struct UnknownChunk(pub ChunkHash);

impl Reader {
    /// One that has read nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The prompt's chunks from its start.
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
            // The first line that has a chunk says what is before it, so that no file leads in circles.
            self.before.entry(*hash).or_insert_with(|| hashes.last().copied());
            hashes.push(*hash);
        }
        Ok(hashes)
    }
}

/// Hashes as hexadecimal digits.
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
    fn a_line_reads_as_it_is_written() {
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
    fn a_line_that_builds_on_a_missing_one_is_known() {
        let chain = Chain { after: Some(hash(1)), new: vec![] };
        assert_eq!(Reader::new().hashes(&chain), Err(UnknownChunk(hash(1))));
    }

    proptest! {
        /// Prompts that share prefixes, written and read; each chunk is written once.
        #[test]
        fn prompts_come_back(prompts in prop::collection::vec(prop::collection::vec(0u64..3, 0..8), 0..20)) {
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
