use super::{ChunkId, EvictionPolicy};

/// Least recently used first: a linked list through a table indexed by chunk.
#[derive(Debug)]
pub struct Lru {
    links: Vec<Link>,
}

/// Neighbours in the list. Entry 0 is the sentinel: its `newer` is the coldest chunk, its `older`
/// the warmest. Chunk `c` sits at entry `c + 1`.
#[derive(Clone, Copy, Debug)]
struct Link {
    older: u32,
    newer: u32,
}

const SENTINEL: u32 = 0;
const ABSENT: Link = Link { older: u32::MAX, newer: u32::MAX };

impl Default for Lru {
    fn default() -> Self {
        Self { links: vec![Link { older: SENTINEL, newer: SENTINEL }] }
    }
}

impl Lru {
    fn entry(chunk: ChunkId) -> u32 {
        chunk.0 + 1
    }

    fn at(&mut self, entry: u32) -> &mut Link {
        &mut self.links[entry as usize]
    }
}

impl EvictionPolicy for Lru {
    fn enter(&mut self, chunk: ChunkId) {
        let entry = Self::entry(chunk);
        if self.links.len() <= entry as usize {
            self.links.resize(entry as usize + 1, ABSENT);
        }
        debug_assert_eq!(self.at(entry).older, u32::MAX, "{chunk:?} is in the order already");
        let warmest = self.at(SENTINEL).older;
        *self.at(entry) = Link { older: warmest, newer: SENTINEL };
        self.at(warmest).newer = entry;
        self.at(SENTINEL).older = entry;
    }

    fn leave(&mut self, chunk: ChunkId) {
        let entry = Self::entry(chunk);
        let Link { older, newer } = *self.at(entry);
        debug_assert_ne!(older, u32::MAX, "{chunk:?} is not in the order");
        self.at(older).newer = newer;
        self.at(newer).older = older;
        *self.at(entry) = ABSENT;
    }

    fn used(&mut self, chunk: ChunkId) {
        self.leave(chunk);
        self.enter(chunk);
    }

    fn victim(&self) -> Option<ChunkId> {
        self.links[SENTINEL as usize].newer.checked_sub(1).map(ChunkId)
    }

    fn warmer(&self, chunk: ChunkId) -> Option<ChunkId> {
        self.links[Self::entry(chunk) as usize].newer.checked_sub(1).map(ChunkId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the naive model: a vector, coldest first.
        #[test]
        fn agrees_with_a_vector(ops in prop::collection::vec((0u8..4, 0u32..24), 1..300)) {
            let mut lru = Lru::default();
            let mut naive: Vec<u32> = Vec::new();
            for (op, c) in ops {
                let at = naive.iter().position(|x| *x == c);
                match (op, at) {
                    (0 | 1, None) => { lru.enter(ChunkId(c)); naive.push(c); }
                    (0 | 1, Some(i)) => { lru.used(ChunkId(c)); naive.remove(i); naive.push(c); }
                    (2, Some(i)) => { lru.leave(ChunkId(c)); naive.remove(i); }
                    (3, _) if !naive.is_empty() => {
                        let v = lru.victim().unwrap();
                        prop_assert_eq!(v.0, naive.remove(0));
                        lru.leave(v);
                    }
                    _ => {}
                }
                let order: Vec<u32> =
                    std::iter::successors(lru.victim(), |c| lru.warmer(*c)).map(|c| c.0).collect();
                prop_assert_eq!(&order, &naive);
            }
        }
    }
}
