//! Chunk hashes of the prompts of recent requests.
//!
//! Every call of a request carries its whole token list. Hashing is the most expensive part of serving it (chained
//! BLAKE3 of 32k tokens takes a quarter of a millisecond, comparing them takes four microseconds), so each prompt is
//! hashed once and then recognised by its tokens. A prompt that grows is hashed from where it grew. Tokens are
//! compared, never trusted: a request id that comes back with other tokens gets other hashes (LMCache keeps the old
//! ones).
//!
//! Memory is bounded by the bytes of the prompts kept; the least recently used prompt is dropped first.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use larder_types::TokenSlice;
use larder_types::hash::TokenHasher;
use larder_types::object::ChunkHash;
use larder_wire::token_buffer::TokenBuffer;

/// Bytes kept in all: 8 million tokens less their hashes, as many as 60 prompts of 128k tokens.
const BYTES_MAX: usize = 32 << 20;

/// What a prompt takes besides its tokens and hashes, with the id of its request, at most.
const PROMPT_BYTES: usize = 512;

/// Hashes of a prompt's whole chunks, in order.
pub type PrefixHashes = Arc<[ChunkHash]>;

/// Computes chunk hashes, and keeps the last ones of each request.
#[derive(Debug)]
pub struct PrefixHashCache {
    hasher: TokenHasher,
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    by_request: HashMap<Arc<str>, (u64, Arc<Prompt>)>,
    by_age: BTreeMap<u64, Arc<str>>,
    clock: u64,
    bytes: usize,
}

/// Whole chunks of tokens and their hashes.
#[derive(Debug)]
pub(crate) struct Prompt {
    tokens: TokenBuffer,
    pub(crate) chunk_hashes: PrefixHashes,
}

impl Prompt {
    pub(crate) fn tokens(&self) -> TokenSlice<'_> {
        TokenSlice::Numbers(&self.tokens)
    }

    fn bytes(&self) -> usize {
        PROMPT_BYTES + size_of_val(&*self.tokens) + size_of_val(&*self.chunk_hashes)
    }
}

impl PrefixHashCache {
    /// An empty cache.
    pub fn new(hasher: TokenHasher) -> Self {
        Self { hasher, recent: Mutex::default() }
    }

    /// Tokens per chunk.
    pub fn chunk_tokens(&self) -> usize {
        self.hasher.chunk_tokens()
    }

    /// The hashes of `tokens`, a whole number of chunks, for a request.
    pub fn prefix_hashes(&self, request_id: &Arc<str>, tokens: TokenSlice<'_>) -> PrefixHashes {
        if tokens.is_empty() {
            return PrefixHashes::default();
        }
        let known = self.lock().get(request_id);
        if let Some(prompt) = &known
            && tokens.is_start_of(prompt.tokens())
        {
            let chunks = tokens.len() / self.hasher.chunk_tokens();
            return match prompt.chunk_hashes.len() == chunks {
                true => prompt.chunk_hashes.clone(),
                false => prompt.chunk_hashes[..chunks].into(),
            };
        }
        let mut chunk_hashes = Vec::with_capacity(tokens.len() / self.hasher.chunk_tokens());
        let done = match &known {
            Some(prompt) if prompt.tokens().is_start_of(tokens) => {
                chunk_hashes.extend_from_slice(&prompt.chunk_hashes);
                prompt.tokens.len()
            }
            _ => 0,
        };
        self.hasher.extend(chunk_hashes.last().copied(), tokens.split_at(done).1, &mut chunk_hashes);
        let chunk_hashes: PrefixHashes = chunk_hashes.into();
        let prompt =
            Arc::new(Prompt { tokens: TokenBuffer::copy_of(tokens), chunk_hashes: chunk_hashes.clone() });
        self.lock().put(request_id, prompt);
        chunk_hashes
    }

    /// The hashes of the whole chunks of `tokens`, without keeping them.
    pub fn hash(&self, tokens: &[u32]) -> PrefixHashes {
        let whole = tokens.len() - tokens.len() % self.hasher.chunk_tokens();
        self.hasher.hash(&tokens[..whole]).into()
    }

    /// At most `limit` of the prompts kept, the least recently used first, each with the number of its last use. Only
    /// those used after number `used`; 0 is before all.
    pub(crate) fn used_after(&self, used: u64, limit: usize) -> Vec<(u64, Arc<Prompt>)> {
        let recent = self.lock();
        let uses = recent.by_age.range(used + 1..).take(limit);
        uses.filter_map(|(used, id)| Some((*used, recent.by_request.get(id)?.1.clone()))).collect()
    }

    /// The number of the last use of any prompt.
    pub(crate) fn last_use(&self) -> u64 {
        self.lock().clock
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Recent> {
        // A panic costs at most one entry.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recent {
    fn get(&mut self, request_id: &Arc<str>) -> Option<Arc<Prompt>> {
        self.clock += 1;
        let (age, prompt) = self.by_request.get_mut(request_id)?;
        self.by_age.remove(age);
        *age = self.clock;
        self.by_age.insert(self.clock, request_id.clone());
        Some(prompt.clone())
    }

    fn put(&mut self, request_id: &Arc<str>, prompt: Arc<Prompt>) {
        self.clock += 1;
        self.bytes += prompt.bytes();
        if let Some((age, old)) = self.by_request.insert(request_id.clone(), (self.clock, prompt)) {
            self.by_age.remove(&age);
            self.bytes -= old.bytes();
        }
        self.by_age.insert(self.clock, request_id.clone());
        while self.bytes > BYTES_MAX
            && let Some((_, oldest)) = self.by_age.pop_first()
            && let Some((_, prompt)) = self.by_request.remove(&oldest)
        {
            self.bytes -= prompt.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_types::hash::HashAlgorithm;
    use larder_types::tokens::TokenBytes;

    fn cache(chunk_tokens: usize) -> PrefixHashCache {
        PrefixHashCache::new(TokenHasher::new(HashAlgorithm::Blake3, chunk_tokens).unwrap())
    }

    #[test]
    fn cached_hashes_equal_computed_ones() {
        let cache = cache(4);
        let hasher = TokenHasher::new(HashAlgorithm::Blake3, 4).unwrap();
        let id: Arc<str> = "r".into();
        let a: Vec<u32> = (0..40).collect();
        let b: Vec<u32> = (100..140).collect();
        let mixed: Vec<u32> = a[..20].iter().chain(&b[20..]).copied().collect();
        // Grows, shrinks, forks, and comes back as another prompt under the same id.
        for tokens in [&a[..8], &a[..40], &a[..16], &mixed[..], &b[..12], &b[..], &a[..4], &[]] {
            assert_eq!(cache.prefix_hashes(&id, tokens.into())[..], hasher.hash(tokens)[..], "{tokens:?}");
        }
    }

    #[test]
    fn prompts_are_recognised_in_either_form() {
        let cache = cache(4);
        let id: Arc<str> = "r".into();
        let numbers: Vec<u32> = (0..40).map(|n: u32| n * 0x0100_0001).collect();
        let bytes: Vec<TokenBytes> = numbers.iter().map(|n| n.to_be_bytes()).collect();
        let (numbers, bytes) = (TokenSlice::from(&numbers), TokenSlice::Packed(&bytes));
        let first = cache.prefix_hashes(&id, numbers.split_at(20).0);
        let grown = cache.prefix_hashes(&id, bytes);
        assert_eq!(first[..], grown[..5], "goes on from what is known");
        assert!(Arc::ptr_eq(&grown, &cache.prefix_hashes(&id, numbers)), "nothing is hashed again");
        assert!(Arc::ptr_eq(&grown, &cache.prefix_hashes(&id, bytes)));
        assert_eq!(grown[..], *cache.prefix_hashes(&"other".into(), numbers));
    }

    #[test]
    fn drops_least_recently_used_prompts_beyond_the_limit() {
        let cache = cache(1 << 20);
        let tokens = vec![7; 2 << 20];
        for i in 0..6 {
            cache.prefix_hashes(&format!("r{i}").into(), (&tokens).into());
        }
        let recent = cache.lock();
        assert!(recent.bytes <= BYTES_MAX, "{} bytes kept", recent.bytes);
        assert_eq!(recent.by_request.len(), recent.by_age.len());
        assert!(recent.by_request.contains_key("r5") && !recent.by_request.contains_key("r0"));
    }

    #[test]
    fn short_prompts_under_many_ids_are_bounded_too() {
        let cache = cache(1);
        for i in 0..BYTES_MAX / PROMPT_BYTES + 10 {
            cache.prefix_hashes(&i.to_string().into(), TokenSlice::Numbers(&[7]));
        }
        assert!(cache.lock().by_request.len() < BYTES_MAX / PROMPT_BYTES);
    }
}
