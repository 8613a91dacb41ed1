//! The tokens of chunk hashes.
//!
//! The core knows chunks by their hashes; subscribers want the tokens. Requests bring both, and each chunk's are kept
//! when a request may make it visible. Bounded by tokens: the least recently bound are dropped first.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use larder_policy::eviction::digest;
use larder_policy::linear_table::LinearTable;
use larder_types::TokenSlice;
use larder_types::object::ChunkHash;

use crate::observe::bus::Subscriber;
use crate::observe::event::RequestEvent;

/// Tokens kept in all, 4 bytes each.
const TOKENS_MAX: usize = 16 << 20;

/// The tokens of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binding {
    hash: ChunkHash,
    /// The chunk before it; `None` for the first of a prompt.
    pub(super) parent: Option<ChunkHash>,
    /// Its tokens.
    pub(super) tokens: Box<[u32]>,
    /// Number of the last binding of it.
    place: u64,
}

/// Binds the tokens that requests bring, while there are subscribers.
#[derive(Debug)]
pub struct TokenBindings {
    chunk_tokens: usize,
    is_on: AtomicBool,
    bindings: Mutex<Bindings>,
}

impl TokenBindings {
    /// Nothing is bound until `set_on`.
    pub fn new(chunk_tokens: usize) -> Self {
        Self { chunk_tokens, is_on: AtomicBool::new(false), bindings: Mutex::default() }
    }

    /// Begins to bind, or stops and drops what is bound. Returns whether it was on before.
    pub(super) fn set_on(&self, is_on: bool) -> bool {
        let was_on = self.is_on.swap(is_on, Ordering::Relaxed);
        if was_on && !is_on {
            let dropped = self.lock().clear();
            // Not under the lock, as there may be many.
            drop(dropped);
        }
        was_on
    }

    pub(super) fn chunk_tokens(&self) -> usize {
        self.chunk_tokens
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Bindings> {
        // Chunks that a panic has left half bound are passed over.
        self.bindings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber for TokenBindings {
    fn on_event(&self, event: &RequestEvent<'_>) {
        if let RequestEvent::Hashed { chunk_hashes, tokens, first } = event
            && self.is_on.load(Ordering::Relaxed)
        {
            self.lock().bind(chunk_hashes, *tokens, self.chunk_tokens, *first);
        }
    }
}

fn digest_of(hash: &ChunkHash) -> u64 {
    digest(0, hash.as_bytes())
}

/// The chunks bound lately.
#[derive(Debug, Default)]
pub(super) struct Bindings {
    by_hash: LinearTable<Binding>,
    by_place: BTreeMap<u64, ChunkHash>,
    next_place: u64,
    tokens: usize,
}

impl Bindings {
    /// Binds the last chunks of `chain`, those from `start` on, to their tokens; `tokens` are those of the whole
    /// chain. A chunk that is bound counts as bound just now.
    pub(super) fn bind<'a>(
        &mut self,
        chain: &[ChunkHash],
        tokens: impl Into<TokenSlice<'a>>,
        chunk_tokens: usize,
        start: usize,
    ) {
        for (i, (hash, tokens)) in
            chain.iter().zip(tokens.into().chunks_exact(chunk_tokens)).enumerate().skip(start)
        {
            let place = self.next_place;
            self.next_place += 1;
            self.by_place.insert(place, *hash);
            let digest = digest_of(hash);
            if let Some(known) = self.by_hash.find_mut(digest, |binding| binding.hash == *hash) {
                self.by_place.remove(&std::mem::replace(&mut known.place, place));
                continue;
            }
            self.tokens += tokens.len();
            let parent = i.checked_sub(1).map(|before| chain[before]);
            let binding = Binding { hash: *hash, parent, tokens: tokens.to_vec().into(), place };
            self.by_hash.insert_unique(digest, binding, |binding| digest_of(&binding.hash));
        }
        while self.tokens > TOKENS_MAX
            && let Some((_, oldest)) = self.by_place.pop_first()
            && let Some(binding) = self.by_hash.remove(digest_of(&oldest), |binding| binding.hash == oldest)
        {
            self.tokens -= binding.tokens.len();
        }
    }

    /// The tokens of a hash, if they are kept.
    pub(super) fn get(&self, hash: &ChunkHash) -> Option<&Binding> {
        self.by_hash.find(digest_of(hash), |binding| binding.hash == *hash)
    }

    /// A number for a chunk, larger for those bound later.
    pub(super) fn place(&self, hash: &ChunkHash) -> Option<u64> {
        self.get(hash).map(|binding| binding.place)
    }

    /// Takes everything out.
    fn clear(&mut self) -> Self {
        let next_place = self.next_place;
        std::mem::replace(self, Self { next_place, ..Self::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(i: u8) -> ChunkHash {
        ChunkHash::new(&[i]).expect("one byte")
    }

    #[test]
    fn binds_chunks_to_tokens_and_parents() {
        let mut bindings = Bindings::default();
        bindings.bind(&[hash(1), hash(2)], &[10, 11, 20, 21, 99], 2, 1);
        assert_eq!(bindings.get(&hash(1)), None, "before the range");
        let second = bindings.get(&hash(2)).expect("bound");
        assert_eq!((second.parent, &*second.tokens), (Some(hash(1)), &[20, 21][..]));
        bindings.bind(&[hash(1)], &[10, 11], 2, 0);
        assert_eq!(bindings.get(&hash(1)).expect("bound").parent, None);
        assert!(bindings.place(&hash(1)) > bindings.place(&hash(2)));
    }

    #[test]
    fn drops_least_recently_bound_chunks_beyond_the_limit() {
        let mut bindings = Bindings::default();
        let chunk = TOKENS_MAX / 4;
        let tokens = vec![7; chunk];
        for i in [1, 2, 3, 4, 1, 5] {
            bindings.bind(&[hash(i)], &tokens, chunk, 0);
        }
        let kept: Vec<bool> = (1..=5).map(|i| bindings.get(&hash(i)).is_some()).collect();
        assert_eq!(kept, [true, false, true, true, true], "1 was bound again");
        assert_eq!(bindings.tokens, TOKENS_MAX);
        assert_eq!(bindings.by_hash.len(), bindings.by_place.len());
    }
}
