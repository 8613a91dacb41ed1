//! Which tokens a chunk hash stands for.
//!
//! The core knows chunks by their hashes; subscribers want the tokens. Requests bring both, and each chunk is
//! remembered when a request may make it visible. Bounded by tokens: those bound longest ago go first.

use std::collections::{BTreeMap, HashMap};

use larder_types::object::ChunkHash;

/// Tokens kept in all, 4 bytes each.
const TOKENS_MAX: usize = 16 << 20;

/// What a chunk's hash stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binding {
    /// The chunk before it; `None` for the first of a prompt.
    pub(super) parent: Option<ChunkHash>,
    /// Its tokens.
    pub(super) tokens: Box<[u32]>,
    /// When it was bound last, counted in bindings.
    place: u64,
}

/// The chunks bound lately.
#[derive(Debug, Default)]
pub(super) struct Bindings {
    by_hash: HashMap<ChunkHash, Binding>,
    by_place: BTreeMap<u64, ChunkHash>,
    next_place: u64,
    tokens: usize,
}

impl Bindings {
    /// Binds the last chunks of `chain`, those from `start` on, to their tokens; `tokens` are those of the whole
    /// chain. A chunk that is bound counts as bound just now.
    pub(super) fn bind(&mut self, chain: &[ChunkHash], tokens: &[u32], chunk_tokens: usize, start: usize) {
        for (i, (hash, tokens)) in chain.iter().zip(tokens.chunks_exact(chunk_tokens)).enumerate().skip(start)
        {
            let place = self.next_place;
            self.next_place += 1;
            self.by_place.insert(place, *hash);
            if let Some(known) = self.by_hash.get_mut(hash) {
                self.by_place.remove(&std::mem::replace(&mut known.place, place));
                continue;
            }
            self.tokens += tokens.len();
            let parent = i.checked_sub(1).map(|before| chain[before]);
            self.by_hash.insert(*hash, Binding { parent, tokens: tokens.into(), place });
        }
        while self.tokens > TOKENS_MAX
            && let Some((_, oldest)) = self.by_place.pop_first()
            && let Some(binding) = self.by_hash.remove(&oldest)
        {
            self.tokens -= binding.tokens.len();
        }
    }

    /// What a hash stands for, if that is remembered.
    pub(super) fn get(&self, hash: &ChunkHash) -> Option<&Binding> {
        self.by_hash.get(hash)
    }

    /// For each chunk a number that is larger for what was bound later.
    pub(super) fn places(&self) -> HashMap<ChunkHash, u64> {
        self.by_hash.iter().map(|(hash, binding)| (*hash, binding.place)).collect()
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self { next_place: self.next_place, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(i: u8) -> ChunkHash {
        ChunkHash::new(&[i]).expect("one byte")
    }

    #[test]
    fn a_chunk_has_its_tokens_and_its_parent() {
        let mut bindings = Bindings::default();
        bindings.bind(&[hash(1), hash(2)], &[10, 11, 20, 21, 99], 2, 1);
        assert_eq!(bindings.get(&hash(1)), None, "before the range");
        let second = bindings.get(&hash(2)).expect("bound");
        assert_eq!((second.parent, &*second.tokens), (Some(hash(1)), &[20, 21][..]));
        bindings.bind(&[hash(1)], &[10, 11], 2, 0);
        assert_eq!(bindings.get(&hash(1)).expect("bound").parent, None);
        let places = bindings.places();
        assert!(places[&hash(1)] > places[&hash(2)]);
    }

    #[test]
    fn memory_is_bounded_by_forgetting_what_was_bound_longest_ago() {
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
