//! Token hashing: from tokens to the hashes of their chunks (`docs/protocol.md`, "Keys and hashes").
//!
//! A chunk's hash depends on every token before it: `h[0] = H(none, chunk 0)`,
//! `h[i] = H(h[i - 1], chunk i)`. A trailing partial chunk has no hash.

use sha2::{Digest, Sha256};

use crate::object::{ChunkHash, HASH_BYTES_MAX};
use crate::tokens::TokenSlice;

/// The text hashed into the start value of `sha256_cbor` when `PYTHONHASHSEED` is not set.
const SEED_DEFAULT: &str = "vllm-none-hash";

/// A hash algorithm that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashAlgorithmError {
    /// Python's own hash of tuples.
    #[error(
        "hash algorithm \"builtin\" depends on the Python interpreter of each client and cannot be matched; \
         use \"blake3\" on the server and its clients"
    )]
    Builtin,
    /// An unknown name. The reference would fall back to the built-in hash without an error.
    #[error("hash algorithm {0:?} is not known; use \"blake3\" or \"sha256_cbor\"")]
    Unknown(String),
}

/// The hash function of chunks. Server and clients have to use the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HashAlgorithm {
    /// BLAKE3-256 of the prefix and the tokens as big-endian u32; the default.
    #[default]
    Blake3,
    /// SHA-256 of a canonical CBOR array of prefix, tokens and null, as in vLLM.
    Sha256Cbor {
        /// The value of the environment variable `PYTHONHASHSEED` of the clients.
        python_hash_seed: Option<String>,
    },
}

impl HashAlgorithm {
    /// Finds an algorithm by the name its command line flag takes. `python_hash_seed` is the value of
    /// the environment variable `PYTHONHASHSEED`, which only `sha256_cbor` looks at.
    pub fn parse(name: &str, python_hash_seed: Option<&str>) -> Result<Self, HashAlgorithmError> {
        match name {
            "blake3" => Ok(Self::Blake3),
            // The second is the name of the same function in older releases of vLLM.
            "sha256_cbor" | "sha256_cbor_64bit" => {
                Ok(Self::Sha256Cbor { python_hash_seed: python_hash_seed.map(str::to_owned) })
            }
            "builtin" => Err(HashAlgorithmError::Builtin),
            _ => Err(HashAlgorithmError::Unknown(name.to_owned())),
        }
    }

    /// The name its command line flag takes.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Sha256Cbor { .. } => "sha256_cbor",
        }
    }

    /// The start value, used as the prefix of the first chunk.
    pub fn none_hash(&self) -> ChunkHash {
        match self {
            // The prefix 0 as eight bytes and one token 0.
            Self::Blake3 => ChunkHash::from_digest(*blake3::hash(&[0; 12]).as_bytes()),
            Self::Sha256Cbor { python_hash_seed } => {
                let seed = python_hash_seed.as_deref().unwrap_or(SEED_DEFAULT);
                let mut text = Vec::with_capacity(seed.len() + CBOR_HEAD_BYTES_MAX);
                cbor_head(&mut text, CBOR_TEXT, seed.len() as u64);
                text.extend_from_slice(seed.as_bytes());
                ChunkHash::from_digest(Sha256::digest(&text).into())
            }
        }
    }
}

/// Hashes the chunks of token lists.
#[derive(Clone, Debug)]
pub struct TokenHasher {
    algorithm: HashAlgorithm,
    chunk_tokens: usize,
    none_hash: ChunkHash,
}

impl TokenHasher {
    /// A hasher for chunks of `chunk_tokens` tokens; `None` if that is 0.
    pub fn new(algorithm: HashAlgorithm, chunk_tokens: usize) -> Option<Self> {
        let none_hash = algorithm.none_hash();
        (chunk_tokens > 0).then_some(Self { algorithm, chunk_tokens, none_hash })
    }

    /// Tokens per chunk.
    pub const fn chunk_tokens(&self) -> usize {
        self.chunk_tokens
    }

    /// The algorithm.
    pub const fn algorithm(&self) -> &HashAlgorithm {
        &self.algorithm
    }

    /// The start value.
    pub const fn none_hash(&self) -> ChunkHash {
        self.none_hash
    }

    /// Hashes every whole chunk of `tokens` and appends the hashes to `hashes`. `prefix` is the hash of
    /// the chunk before the first of them; `None` if they begin at token 0.
    pub fn extend<'a>(
        &self,
        prefix: Option<ChunkHash>,
        tokens: impl Into<TokenSlice<'a>>,
        hashes: &mut Vec<ChunkHash>,
    ) {
        let tokens = tokens.into();
        let mut prefix = prefix.unwrap_or(self.none_hash);
        hashes.reserve(tokens.len() / self.chunk_tokens);
        // One buffer for all chunks; a chunk's input is short enough to hash in one go.
        let mut input = Vec::with_capacity(self.input_bytes_max());
        for chunk in tokens.chunks_exact(self.chunk_tokens) {
            input.clear();
            prefix = match self.algorithm {
                HashAlgorithm::Blake3 => blake3_chunk(&mut input, prefix, chunk),
                HashAlgorithm::Sha256Cbor { .. } => sha256_cbor_chunk(&mut input, prefix, chunk),
            };
            hashes.push(prefix);
        }
    }

    /// The hashes of every whole chunk of `tokens`, which begin at token 0.
    pub fn hash<'a>(&self, tokens: impl Into<TokenSlice<'a>>) -> Vec<ChunkHash> {
        let mut hashes = Vec::new();
        self.extend(None, tokens, &mut hashes);
        hashes
    }

    fn input_bytes_max(&self) -> usize {
        let per_token = match self.algorithm {
            HashAlgorithm::Blake3 => size_of::<u32>(),
            HashAlgorithm::Sha256Cbor { .. } => CBOR_TOKEN_BYTES_MAX,
        };
        // Longer chunks than any token list have no input.
        let chunk = self.chunk_tokens.min(CHUNK_TOKENS_RESERVED);
        HASH_BYTES_MAX + 3 * CBOR_HEAD_BYTES_MAX + chunk * per_token
    }
}

/// Tokens per chunk up to which the hash input is reserved at once.
const CHUNK_TOKENS_RESERVED: usize = 1 << 16;

fn blake3_chunk(input: &mut Vec<u8>, prefix: ChunkHash, chunk: TokenSlice<'_>) -> ChunkHash {
    input.extend_from_slice(prefix.as_bytes());
    match chunk {
        TokenSlice::Numbers(tokens) => input.extend(tokens.iter().flat_map(|token| token.to_be_bytes())),
        TokenSlice::Packed(tokens) => input.extend_from_slice(tokens.as_flattened()),
    }
    ChunkHash::from_digest(*blake3::hash(input).as_bytes())
}

const CBOR_UINT: u8 = 0 << 5;
const CBOR_BYTES: u8 = 2 << 5;
const CBOR_TEXT: u8 = 3 << 5;
const CBOR_ARRAY: u8 = 4 << 5;
const CBOR_NULL: u8 = 0xf6;
const CBOR_HEAD_BYTES_MAX: usize = 9;
const CBOR_TOKEN_BYTES_MAX: usize = 5;

/// The head of a CBOR value in its shortest form: major type and number (RFC 8949, 4.2.1).
fn cbor_head(out: &mut Vec<u8>, major: u8, number: u64) {
    match number {
        0..=23 => out.push(major | number as u8),
        24..=0xff => out.extend_from_slice(&[major | 24, number as u8]),
        0x100..=0xffff => {
            out.push(major | 25);
            out.extend_from_slice(&(number as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(major | 26);
            out.extend_from_slice(&(number as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
}

fn sha256_cbor_chunk(input: &mut Vec<u8>, prefix: ChunkHash, chunk: TokenSlice<'_>) -> ChunkHash {
    cbor_head(input, CBOR_ARRAY, 3);
    cbor_head(input, CBOR_BYTES, prefix.as_bytes().len() as u64);
    input.extend_from_slice(prefix.as_bytes());
    cbor_head(input, CBOR_ARRAY, chunk.len() as u64);
    let mut number = |token: u32| cbor_head(input, CBOR_UINT, u64::from(token));
    match chunk {
        TokenSlice::Numbers(tokens) => tokens.iter().for_each(|token| number(*token)),
        TokenSlice::Packed(tokens) => tokens.iter().for_each(|token| number(u32::from_be_bytes(*token))),
    }
    input.push(CBOR_NULL);
    ChunkHash::from_digest(Sha256::digest(&input).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::TokenBytes;

    #[test]
    fn hashing_in_pieces_and_in_either_form_gives_the_same_hashes() {
        let tokens: Vec<u32> = (0..1000).map(|n| n * 7919).collect();
        for name in ["blake3", "sha256_cbor"] {
            let algorithm = HashAlgorithm::parse(name, None).expect("a known name");
            let hasher = TokenHasher::new(algorithm, 16).expect("chunks have tokens");
            let whole = hasher.hash(&tokens);
            assert_eq!(whole.len(), 62);
            let packed: Vec<TokenBytes> = tokens.iter().map(|token| token.to_be_bytes()).collect();
            for tokens in [TokenSlice::from(&tokens), TokenSlice::Packed(&packed)] {
                let (first, rest) = tokens.split_at(10 * 16);
                let mut pieces = hasher.hash(first);
                hasher.extend(pieces.last().copied(), rest, &mut pieces);
                assert_eq!(pieces, whole);
            }
        }
    }

    #[test]
    fn refuses_other_algorithms_with_a_reason() {
        let refused = |name| HashAlgorithm::parse(name, None).map_err(|error| error.to_string());
        assert!(refused("builtin").is_err_and(|text| text.contains("interpreter")));
        assert!(refused("md5").is_err_and(|text| text.contains("\"md5\"")));
        assert!(TokenHasher::new(HashAlgorithm::Blake3, 0).is_none());
    }
}
