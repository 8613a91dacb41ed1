//! IsolatedLRU: least recently used first, with a quota for each cache salt.
//!
//! Named after LMCache's policy, which keeps one LRU list for each salt and trims each by itself.
//! Here the lists share one memory, so there is an order across them too:
//!
//! 1. Salts that hold more than their quota (see [`quota`](crate::quota)) pay first, each the same
//!    part of its excess, its coldest chunks first, until none is over its quota or has anything
//!    left to give.
//! 2. Then everyone: plain LRU across all salts.
//!
//! A salt at its quota is asked for [its own coldest chunks](EvictionPolicy::coldest_of) before it
//! may grow, which is the rule that isolates tenants; the order above decides only who gives when
//! somebody within its quota needs room.
//!
//! Keeps: one list over all chunks in the order, and one for each salt. Cost: O(1) for each
//! operation and each chunk named; while salts are over their quota, naming one costs O(those
//! salts). Memory: 20 bytes for each chunk id, 12 for each salt.
//!
//! Guarantee: a prompt is evicted from its end, as under LRU; all chunks of one prompt are of one
//! salt.

use hashbrown::HashSet;

use super::{ChunkMeta, EvictDecision, EvictionPolicy, Visit};
use crate::lru::{LruLinks, LruList};
use crate::quota::{QuotaUsage, TenantId};
use larder_types::ids::ChunkId;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct IsolatedLru {
    all: LruList,
    all_links: LruLinks,
    /// By salt.
    own: Vec<LruList>,
    own_links: LruLinks,
    /// By chunk.
    salts: Vec<TenantId>,
}

/// A salt over its quota, while victims are named.
struct Debtor {
    excess: u64,
    paid: u64,
    next: u32,
}

impl Debtor {
    /// Whether it has paid a smaller part of what it owed than `other`; of equals, the one that owes
    /// more is first.
    fn pays_before(&self, other: &Self) -> bool {
        let part = |a: &Self, b: &Self| u128::from(a.paid) * u128::from(b.paid.saturating_add(b.excess));
        let (own, others) = (part(self, other), part(other, self));
        own < others || (own == others && self.excess > other.excess)
    }
}

impl IsolatedLru {
    fn salt(&self, chunk: ChunkId) -> TenantId {
        self.salts[chunk.0 as usize]
    }

    fn own(&mut self, salt: TenantId) -> (&mut LruLinks, &mut LruList) {
        (&mut self.own_links, &mut self.own[salt.0 as usize])
    }

    fn coldest(&self, salt: TenantId) -> Option<u32> {
        self.own.get(salt.0 as usize).and_then(LruList::coldest)
    }

    fn debtors(&self, ledger: &QuotaUsage) -> Vec<Debtor> {
        let over = ledger.over_limit().filter_map(|salt| {
            let next = self.coldest(salt)?;
            Some(Debtor { excess: ledger.excess(salt, 0), paid: ledger.evicted_while_over(salt), next })
        });
        over.collect()
    }

    /// Names chunks of salts over their quota, and notes them in `named`. Says whether to go on.
    fn debtors_first(&self, ledger: &QuotaUsage, named: &mut HashSet<u32>, visit: Visit<'_>) -> bool {
        let mut debtors = self.debtors(ledger);
        while !debtors.is_empty() {
            let first = (1..debtors.len())
                .fold(0, |best, i| if debtors[i].pays_before(&debtors[best]) { i } else { best });
            let debtor = &mut debtors[first];
            let n = debtor.next;
            named.insert(n);
            match visit(ChunkId(n)) {
                EvictDecision::Done => return false,
                EvictDecision::Skip => {}
                EvictDecision::Evict(bytes) => {
                    debtor.paid = debtor.paid.saturating_add(bytes.min(debtor.excess));
                    debtor.excess = debtor.excess.saturating_sub(bytes);
                }
            }
            match self.own_links.newer(n).filter(|_| debtor.excess > 0) {
                Some(next) => debtor.next = next,
                None => drop(debtors.remove(first)),
            }
        }
        true
    }
}

impl EvictionPolicy for IsolatedLru {
    fn insert(&mut self, chunk: ChunkId, about: &ChunkMeta<'_>) {
        let (at, salt_at) = (chunk.0 as usize, about.tenant.0 as usize);
        if self.salts.len() <= at {
            self.salts.resize(at + 1, TenantId(u32::MAX));
        }
        if self.own.len() <= salt_at {
            self.own.resize(salt_at + 1, LruList::default());
        }
        self.salts[at] = about.tenant;
        self.all_links.push(&mut self.all, chunk.0);
        let (links, list) = self.own(about.tenant);
        links.push(list, chunk.0);
    }

    fn remove(&mut self, chunk: ChunkId) {
        self.all_links.remove(&mut self.all, chunk.0);
        let (links, list) = self.own(self.salt(chunk));
        links.remove(list, chunk.0);
    }

    fn on_access(&mut self, chunk: ChunkId, _: &ChunkMeta<'_>) {
        self.all_links.move_to_newest(&mut self.all, chunk.0);
        let (links, list) = self.own(self.salt(chunk));
        links.move_to_newest(list, chunk.0);
    }

    fn visit_victims(&self, ledger: &QuotaUsage, visit: Visit<'_>) {
        let mut named = HashSet::new();
        if !self.debtors_first(ledger, &mut named, visit) {
            return;
        }
        for n in self.all_links.iter(&self.all).filter(|n| !named.contains(n)) {
            if visit(ChunkId(n)) == EvictDecision::Done {
                return;
            }
        }
    }

    fn visit_victims_of(&self, tenant: TenantId, visit: Visit<'_>) {
        let mut next = self.coldest(tenant);
        while let Some(n) = next {
            next = self.own_links.newer(n);
            if visit(ChunkId(n)) == EvictDecision::Done {
                return;
            }
        }
    }

    fn enforces_quotas(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Rig;
    use super::*;
    use crate::eviction::{EvictionKind, RemovalCause};
    use proptest::prelude::*;

    const SALTS: [&str; 3] = ["a", "b", "c"];

    fn salt_of(key: u32) -> &'static str {
        SALTS[key as usize % 3]
    }

    fn rig(keys: std::ops::Range<u32>, limits: [u64; 3]) -> Rig {
        let mut rig = Rig::new(EvictionKind::IsolatedLru);
        for key in keys {
            rig.load(key, salt_of(key));
            rig.release(key);
        }
        limit(&mut rig, limits);
        rig
    }

    fn limit(rig: &mut Rig, limits: [u64; 3]) {
        rig.ledger.update_quotas(|quotas| {
            for (salt, limit) in SALTS.iter().zip(limits) {
                quotas.set(&(*salt).into(), limit).unwrap();
            }
        });
    }

    #[test]
    fn within_their_quotas_salts_are_one_lru() {
        let mut rig = rig(0..9, [9, 9, 9]);
        rig.touch(0);
        assert_eq!(rig.order(), [1, 2, 3, 4, 5, 6, 7, 8, 0]);
    }

    #[test]
    fn salts_over_their_quota_pay_in_proportion_and_then_everyone() {
        // a: 4 over, b: 2 over, c: at its limit.
        let mut rig = rig(0..18, [2, 4, 6]);
        let expected = [0, 1, 3, 6, 4, 9, 2, 5, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17];
        assert_eq!(rig.order(), expected, "a, b, a, a, b, a; then by age");
        let left: Vec<u32> = (0..18).map(|_| rig.evict().unwrap()).collect();
        assert_eq!(left, expected, "one at a time as well");
    }

    #[test]
    fn held_chunks_of_a_debtor_do_not_stop_the_others() {
        let mut rig = rig(0..9, [0, 1, 3]);
        [0, 3].iter().for_each(|k| rig.hold(*k));
        assert_eq!(rig.order(), [6, 1, 4, 2, 5, 7, 8]);
    }

    #[test]
    fn a_salts_own_chunks_coldest_first() {
        let mut rig = rig(0..9, [9, 9, 9]);
        rig.touch(1);
        let salt = rig.ledger.tenant("b").unwrap();
        let mut own = Vec::new();
        rig.policy.visit_victims_of(salt, &mut |chunk| {
            own.push(chunk.0);
            EvictDecision::Evict(1)
        });
        assert_eq!(own, [4, 7, 1]);
    }

    /// By the rules: pays who has paid the smallest part of what it owed; then the oldest.
    fn naive_order(rig: &Rig, recency: &[u32]) -> Vec<u32> {
        let mut left = recency.to_vec();
        let mut accounts: Vec<(TenantId, &str)> =
            SALTS.iter().filter_map(|salt| Some((rig.ledger.tenant(salt)?, *salt))).collect();
        accounts.sort_unstable();
        let debt = |(id, salt)| (salt, rig.ledger.excess(id, 0), rig.ledger.evicted_while_over(id));
        let mut owes: Vec<(&str, u64, u64)> = accounts.into_iter().map(debt).collect();
        let mut order = Vec::new();
        loop {
            let part = |(_, excess, paid): &(&str, u64, u64)| *paid as f64 / (*excess + *paid) as f64;
            let payer = owes
                .iter_mut()
                .filter(|(salt, excess, _)| *excess > 0 && left.iter().any(|k| salt_of(*k) == *salt))
                .min_by(|a, b| part(a).total_cmp(&part(b)).then(b.1.cmp(&a.1)));
            let Some((salt, excess, paid)) = payer else { break };
            let at = left.iter().position(|k| salt_of(*k) == *salt).unwrap();
            order.push(left.remove(at));
            (*excess, *paid) = (*excess - 1, *paid + 1);
        }
        order.extend(left);
        order
    }

    proptest! {
        #[test]
        fn agrees_with_vectors(
            ops in prop::collection::vec((0u8..10, 0u32..24), 1..300),
            limits in prop::collection::vec([0u64..9, 0u64..9, 0u64..9], 1..5),
        ) {
            let mut rig = rig(0..0, limits[0]);
            let mut recency: Vec<u32> = Vec::new();
            for (i, (op, key)) in ops.into_iter().enumerate() {
                match (op, rig.id(key).is_some(), rig.listed(key)) {
                    (0..=4, false, _) => { rig.load(key, salt_of(key)); rig.release(key); recency.push(key); }
                    (0 | 1, _, true) => {
                        rig.touch(key);
                        recency.retain(|k| *k != key);
                        recency.push(key);
                    }
                    (2, _, true) => { rig.hold(key); recency.retain(|k| *k != key); }
                    (2..=4, true, false) => { rig.release(key); recency.push(key); }
                    (5, true, _) => { rig.end(key, RemovalCause::Removed); recency.retain(|k| *k != key); }
                    (6, ..) => limit(&mut rig, limits[i % limits.len()]),
                    (7.., ..) => {
                        let expected = naive_order(&rig, &recency).first().copied();
                        prop_assert_eq!(rig.evict(), expected);
                        recency.retain(|k| Some(*k) != expected);
                    }
                    _ => {}
                }
                prop_assert_eq!(rig.order(), naive_order(&rig, &recency));
            }
        }
    }
}
