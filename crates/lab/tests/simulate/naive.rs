//! A naive version of `simulate::model` with vectors, written from its documentation.

use larder_lab::simulate::model::{Counts, L2Size, Setup};
use larder_policy::{OffloadKind, PrefetchKind};

/// LRU in both tiers, fixed policies, one request at a time. Prompts have at most 32 chunks, so that one
/// batch of lookups in L2 is enough.
#[derive(Debug, Default)]
struct Naive {
    /// Unpinned chunks in L1, the least recently used first.
    order: Vec<u64>,
    /// Chunks in L1 that the request pins.
    held: Vec<u64>,
    /// Chunks in L2, the least recently used first.
    l2: Vec<u64>,
    counts: Counts,
}

impl Naive {
    fn in_l1(&self, chunk: u64) -> bool {
        self.order.contains(&chunk) || self.held.contains(&chunk)
    }

    fn touch(&mut self, chunks: &[u64]) {
        for chunk in chunks.iter().rev() {
            if self.order.contains(chunk) {
                self.order.retain(|c| c != chunk);
                self.order.push(*chunk);
            }
        }
    }

    fn hold(&mut self, chunk: u64) {
        self.order.retain(|c| *c != chunk);
        self.held.push(chunk);
    }

    fn release(&mut self, chunk: u64) {
        self.held.retain(|c| *c != chunk);
        self.order.push(chunk);
    }

    /// Ensures space for one more chunk by evicting one that is not in `kept`. Returns false if there is
    /// none.
    fn ensure_space(&mut self, capacity: u64, kept: &[u64]) -> bool {
        if ((self.order.len() + self.held.len()) as u64) < capacity {
            return true;
        }
        let Some(victim) = self.order.iter().position(|c| !kept.contains(c)) else { return false };
        self.order.remove(victim);
        self.counts.l1_evictions += 1;
        true
    }

    fn put_in_l2(&mut self, chunk: u64, size: L2Size) {
        self.l2.retain(|c| *c != chunk);
        self.l2.push(chunk);
        if let L2Size::Chunks(most) = size
            && self.l2.len() as u64 > most
        {
            self.l2.remove(0);
            self.counts.l2_evictions += 1;
        }
    }

    fn request(&mut self, chunks: &[u64], setup: &Setup) {
        self.counts.requests += 1;
        self.counts.tokens += chunks.len() as u64;
        self.counts.chunk_accesses += chunks.len() as u64;
        let resident: Vec<bool> = chunks.iter().map(|c| self.in_l1(*c)).collect();
        let mut hit = resident.iter().take_while(|there| **there).count();
        let has_l2 = setup.l2 != L2Size::None;
        let mut loaded = Vec::new();
        if has_l2 && hit < chunks.len() {
            let lacking = chunks.iter().zip(&resident).filter(|(_, there)| !**there);
            let found: Vec<u64> = lacking.map(|(c, _)| *c).filter(|c| self.l2.contains(c)).collect();
            for chunk in &found {
                self.l2.retain(|c| c != chunk);
                self.l2.push(*chunk);
            }
            chunks.iter().zip(&resident).filter(|(_, there)| **there).for_each(|(c, _)| self.hold(*c));
            hit = chunks.iter().take_while(|c| self.in_l1(**c) || found.contains(c)).count();
            for chunk in chunks[hit..].iter().rev() {
                if self.held.contains(chunk) {
                    self.release(*chunk);
                }
            }
            for i in 0..hit {
                if resident[i] {
                    continue;
                }
                if !self.ensure_space(setup.l1_chunks, &[]) {
                    self.counts.no_space += resident[i..hit].iter().filter(|there| !**there).count() as u64;
                    for chunk in chunks[i..hit].iter().rev() {
                        if self.held.contains(chunk) {
                            self.release(*chunk);
                        }
                    }
                    hit = i;
                    break;
                }
                self.held.push(chunks[i]);
                loaded.push(chunks[i]);
            }
        } else {
            chunks[..hit].iter().for_each(|c| self.hold(*c));
        }
        self.counts.l2_reads += loaded.len() as u64;
        self.counts.l2_hits += loaded.len() as u64;
        self.counts.l1_hits += (hit - loaded.len()) as u64;
        self.store(chunks, hit, setup);
        for chunk in chunks[..hit].iter().rev() {
            self.release(*chunk);
            if loaded.contains(chunk) && setup.prefetch == PrefetchKind::Default {
                self.order.retain(|c| c != chunk);
            }
        }
        self.touch(&chunks[..hit]);
    }

    fn store(&mut self, chunks: &[u64], hit: usize, setup: &Setup) {
        if hit == chunks.len() {
            return;
        }
        self.touch(chunks);
        let mut stored = Vec::new();
        for chunk in &chunks[hit..] {
            if self.in_l1(*chunk) {
                continue;
            }
            if !self.ensure_space(setup.l1_chunks, chunks) {
                break;
            }
            self.held.push(*chunk);
            stored.push(*chunk);
        }
        stored.iter().rev().for_each(|c| self.release(*c));
        if !stored.is_empty() {
            self.touch(chunks);
        }
        if setup.l2 != L2Size::None {
            for chunk in &stored {
                self.put_in_l2(*chunk, setup.l2);
                self.counts.l2_writes += 1;
                if setup.store == OffloadKind::SkipL1 {
                    self.order.retain(|c| c != chunk);
                }
            }
        }
    }
}

/// Counts of the naive model.
pub(crate) fn run(requests: &[Vec<u64>], setup: &Setup) -> Counts {
    let mut naive = Naive::default();
    requests.iter().for_each(|request| naive.request(request, setup));
    naive.counts
}
