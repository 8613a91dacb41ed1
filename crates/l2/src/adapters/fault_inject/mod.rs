//! LMCache's `fault_inject`: loads of some keys fail, always the same ones.
//!
//! The [`fault`](crate::layers::fault) layer is another thing: it has more kinds of faults.

mod config;

use std::sync::Arc;

use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest};
use larder_types::object::ObjectKey;

use crate::adapter::{Adapter, BoxFuture, Capabilities, Results, Transfer};
use crate::error::{ErrorKind, L2Error};
use crate::layers::forward;

pub use self::config::FaultInjectConfig;

/// Number of buckets that keys are hashed into.
const BUCKETS: u64 = 1_000_000;

/// Which loads fail.
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// Fraction of keys whose loads fail, in [0, 1].
    pub rate: f64,
    /// Selects these keys.
    pub seed: i64,
    /// Positions in a load that always fail.
    pub gap_indices: Vec<usize>,
    /// For each ratio `r` the position `round((1 - r) x (n - 1))` of a load of `n` fails, in [0, 1].
    pub gap_tail_ratios: Vec<f64>,
}

/// The `fault_inject` adapter: another adapter whose loads fail by [`Faults`].
#[derive(Debug)]
pub struct FaultInject {
    inner: Arc<dyn Adapter>,
    faults: Faults,
}

impl FaultInject {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Adapter>, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

impl Faults {
    /// For each key of a load, whether it fails.
    pub fn dropped<'a>(&self, keys: impl ExactSizeIterator<Item = &'a ObjectKey>) -> Vec<bool> {
        let last = keys.len().saturating_sub(1);
        let threshold = (self.rate * BUCKETS as f64) as u64;
        let mut dropped: Vec<bool> = keys.map(|key| bucket(self.seed, key) < threshold).collect();
        // Halves round to the even neighbour, as in LMCache.
        let tails = self
            .gap_tail_ratios
            .iter()
            .map(|r| ((1.0 - r) * last as f64).round_ties_even().max(0.0) as usize);
        for position in self.gap_indices.iter().copied().chain(tails) {
            if let Some(drop) = dropped.get_mut(position) {
                *drop = true;
            }
        }
        dropped
    }
}

/// The bucket of a key.
fn bucket(seed: i64, key: &ObjectKey) -> u64 {
    let ObjectKey { chunk_hash, model_name, kv_rank, object_group, cache_salt, layout: _ } = key;
    let text = format!("{seed}:{chunk_hash}:{model_name}:{}:{object_group}:{cache_salt}", kv_rank.0);
    let digest: [u8; 8] = Blake2b::<U8>::digest(text).into();
    u64::from_be_bytes(digest) % BUCKETS
}

impl Adapter for FaultInject {
    forward!(inner: lookup, store, delete, list, usage, usage_by_salt, set_quota, health, failures, close);

    fn kind(&self) -> &'static str {
        "fault_inject"
    }

    fn capabilities(&self) -> Capabilities {
        // Faults depend on positions in the batch.
        Capabilities { batched: true, ..self.inner.capabilities() }
    }

    fn load(&self, transfers: Vec<Transfer>) -> BoxFuture<'_, Results<()>> {
        Box::pin(async move {
            let dropped = self.faults.dropped(transfers.iter().map(|transfer| &transfer.key));
            let kept = transfers.into_iter().zip(&dropped).filter(|(_, dropped)| !**dropped);
            let mut loaded = self.inner.load(kept.map(|(transfer, _)| transfer).collect()).await.into_iter();
            let fault = || L2Error::permanent(ErrorKind::NotFound, "dropped by fault_inject");
            let result = |dropped: &bool| match dropped {
                true => Err(fault()),
                false => loaded.next().unwrap_or_else(|| Err(fault())),
            };
            dropped.iter().map(result).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::mock::{Mock, MockConfig};
    use crate::testing::{TestArena, key};
    use larder_types::object::{ChunkHash, KvRank};

    fn faults(rate: f64, seed: i64) -> Faults {
        Faults { rate, seed, gap_indices: Vec::new(), gap_tail_ratios: Vec::new() }
    }

    #[test]
    fn golden_buckets() {
        let first: Vec<u8> = (0..16).map(|n| n * 0x11).collect();
        let first = ChunkHash::new(&first).unwrap();
        let first = ObjectKey::new(first, "meta-llama/Llama-3.1-8B", KvRank(0x0100_0100), 0, "").unwrap();
        let second = ChunkHash::new(&[0xde, 0xad, 0xbe, 0xef]).unwrap();
        let second = ObjectKey::new(second, "org/a-SEP-b c", KvRank(0x0805_0805), 17, "tenant:42").unwrap();
        assert_eq!(bucket(0, &first), 525_436);
        assert_eq!(bucket(7, &second), 569_777);
        assert_eq!(faults(0.525_436, 0).dropped([&first].into_iter()), [false]);
        assert_eq!(faults(0.525_437, 0).dropped([&first].into_iter()), [true]);
    }

    #[test]
    fn positions_fail_for_every_key() {
        let keys: Vec<_> = (0..8).map(key).collect();
        let faults =
            Faults { gap_indices: vec![1, 99], gap_tail_ratios: vec![0.0, 0.5, 1.0], ..faults(0.0, 0) };
        let dropped = faults.dropped(keys.iter());
        let positions: Vec<_> = (0..8).filter(|at| dropped[*at]).collect();
        assert_eq!(positions, [0, 1, 4, 7], "3.5 rounds to 4");
        assert!(faults.dropped([].into_iter()).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_seed_drops_the_same_keys_and_nothing_else() {
        let arena = TestArena::new(1 << 20);
        let mock = Mock::new(&MockConfig { max_size_bytes: 1 << 20, bandwidth_bytes_per_second: 1 << 30 });
        let adapter = FaultInject::new(Arc::new(mock), faults(0.5, 3));
        adapter.store((0..64).map(|n| arena.object(n, 64)).collect()).await;
        let load = || adapter.load((0..64).map(|n| arena.blank(n, 64)).collect());
        let (first, second) = (load().await, load().await);
        let failed = |results: &Results<()>| -> Vec<bool> { results.iter().map(Result::is_err).collect() };
        assert_eq!(failed(&first), failed(&second));
        let count = failed(&first).iter().filter(|failed| **failed).count();
        assert!((16..=48).contains(&count), "{count} of 64 failed");
    }
}
