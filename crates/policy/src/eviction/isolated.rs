//! IsolatedLRU: least recently used first, with a quota for each cache salt (tenant).
//!
//! Named after LMCache's policy, which keeps one LRU list for each tenant and trims each by itself. Here the lists
//! use the same memory, so there is an order across them too:
//!
//! 1. Tenants over their quota (see [`quota`](crate::quota)) are evicted from first, each by the same fraction of its
//!    excess, least recently used chunks first, until none is over its quota or has chunks left to evict.
//! 2. Then plain LRU across all tenants.
//!
//! A tenant at its quota has to evict [its own chunks](EvictionPolicy::visit_victims_of) before it may grow: that rule
//! isolates tenants. The order above only decides which tenant is evicted from when a tenant within its quota needs
//! space.
//!
//! Keeps: one list over all chunks in the order, and one for each tenant. Cost: O(1) for each operation and each
//! chunk visited; while tenants are over their quota, visiting one costs O(those tenants). Memory: 20 bytes for each
//! chunk id, 12 for each tenant.
//!
//! Guarantee: a prompt is evicted from its end, as under LRU; all chunks of one prompt have the same tenant.

use hashbrown::HashSet;

use super::{ChunkMeta, EvictDecision, EvictionPolicy, Visit};
use crate::lru::{LruLinks, LruList};
use crate::quota::{QuotaUsage, TenantId};
use crate::segmented::SegmentedVec;
use larder_types::ids::ChunkId;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct IsolatedLru {
    all: LruList,
    all_links: LruLinks,
    /// By tenant.
    own: Vec<LruList>,
    own_links: LruLinks,
    /// By chunk.
    tenants: SegmentedVec<TenantId>,
}

/// A tenant over its quota, while victims are visited.
struct OverQuota {
    excess: u64,
    evicted: u64,
    next: u32,
}

impl OverQuota {
    /// Whether a smaller fraction of its excess was evicted than of `other`'s; of equals, the one with more excess
    /// is first.
    fn goes_before(&self, other: &Self) -> bool {
        let part =
            |a: &Self, b: &Self| u128::from(a.evicted) * u128::from(b.evicted.saturating_add(b.excess));
        let (own, others) = (part(self, other), part(other, self));
        own < others || (own == others && self.excess > other.excess)
    }
}

impl IsolatedLru {
    fn tenant(&self, chunk: ChunkId) -> TenantId {
        self.tenants[chunk.0 as usize]
    }

    fn own(&mut self, tenant: TenantId) -> (&mut LruLinks, &mut LruList) {
        (&mut self.own_links, &mut self.own[tenant.0 as usize])
    }

    fn coldest(&self, tenant: TenantId) -> Option<u32> {
        self.own.get(tenant.0 as usize).and_then(LruList::coldest)
    }

    fn over_quota(&self, usage: &QuotaUsage) -> Vec<OverQuota> {
        let over = usage.over_limit().filter_map(|tenant| {
            let next = self.coldest(tenant)?;
            Some(OverQuota {
                excess: usage.excess(tenant, 0),
                evicted: usage.evicted_while_over(tenant),
                next,
            })
        });
        over.collect()
    }

    /// Visits chunks of tenants over their quota, and adds them to `visited`. Returns whether to go on.
    fn visit_over_quota(&self, usage: &QuotaUsage, visited: &mut HashSet<u32>, visit: Visit<'_>) -> bool {
        let mut over = self.over_quota(usage);
        while !over.is_empty() {
            let first =
                (1..over.len()).fold(0, |best, i| if over[i].goes_before(&over[best]) { i } else { best });
            let tenant = &mut over[first];
            let n = tenant.next;
            visited.insert(n);
            match visit(ChunkId(n)) {
                EvictDecision::Done => return false,
                EvictDecision::Skip => {}
                EvictDecision::Evict(bytes) => {
                    tenant.evicted = tenant.evicted.saturating_add(bytes.min(tenant.excess));
                    tenant.excess = tenant.excess.saturating_sub(bytes);
                }
            }
            match self.own_links.newer(n).filter(|_| tenant.excess > 0) {
                Some(next) => tenant.next = next,
                None => drop(over.remove(first)),
            }
        }
        true
    }
}

impl EvictionPolicy for IsolatedLru {
    fn insert(&mut self, chunk: ChunkId, about: &ChunkMeta<'_>) {
        let (at, tenant_at) = (chunk.0 as usize, about.tenant.0 as usize);
        self.tenants.grow_to_hold(at, TenantId(u32::MAX));
        if self.own.len() <= tenant_at {
            self.own.resize(tenant_at + 1, LruList::default());
        }
        self.tenants[at] = about.tenant;
        self.all_links.push(&mut self.all, chunk.0);
        let (links, list) = self.own(about.tenant);
        links.push(list, chunk.0);
    }

    fn remove(&mut self, chunk: ChunkId) {
        self.all_links.remove(&mut self.all, chunk.0);
        let (links, list) = self.own(self.tenant(chunk));
        links.remove(list, chunk.0);
    }

    fn on_access(&mut self, chunk: ChunkId, _: &ChunkMeta<'_>) {
        self.all_links.move_to_newest(&mut self.all, chunk.0);
        let (links, list) = self.own(self.tenant(chunk));
        links.move_to_newest(list, chunk.0);
    }

    fn visit_victims(&self, usage: &QuotaUsage, visit: Visit<'_>) {
        let mut visited = HashSet::new();
        if !self.visit_over_quota(usage, &mut visited, visit) {
            return;
        }
        for n in self.all_links.iter(&self.all).filter(|n| !visited.contains(n)) {
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
        rig.usage.update_quotas(|quotas| {
            for (salt, limit) in SALTS.iter().zip(limits) {
                quotas.set(&(*salt).into(), limit).unwrap();
            }
        });
    }

    #[test]
    fn tenants_within_their_quotas_are_one_lru() {
        let mut rig = rig(0..9, [9, 9, 9]);
        rig.touch(0);
        assert_eq!(rig.order(), [1, 2, 3, 4, 5, 6, 7, 8, 0]);
    }

    #[test]
    fn evicts_from_tenants_over_quota_in_proportion_then_by_age() {
        // a: 4 over, b: 2 over, c: at its limit.
        let mut rig = rig(0..18, [2, 4, 6]);
        let expected = [0, 1, 3, 6, 4, 9, 2, 5, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17];
        assert_eq!(rig.order(), expected, "a, b, a, a, b, a; then by age");
        let left: Vec<u32> = (0..18).map(|_| rig.evict().unwrap()).collect();
        assert_eq!(left, expected, "one at a time as well");
    }

    #[test]
    fn pinned_chunks_of_a_tenant_over_quota_are_passed_over() {
        let mut rig = rig(0..9, [0, 1, 3]);
        [0, 3].iter().for_each(|k| rig.hold(*k));
        assert_eq!(rig.order(), [6, 1, 4, 2, 5, 7, 8]);
    }

    #[test]
    fn visits_own_chunks_of_a_tenant_coldest_first() {
        let mut rig = rig(0..9, [9, 9, 9]);
        rig.touch(1);
        let salt = rig.usage.tenant("b").unwrap();
        let mut own = Vec::new();
        rig.policy.visit_victims_of(salt, &mut |chunk| {
            own.push(chunk.0);
            EvictDecision::Evict(1)
        });
        assert_eq!(own, [4, 7, 1]);
    }

    /// By the rules: the tenant with the smallest evicted fraction of its excess; then the oldest chunk.
    fn naive_order(rig: &Rig, recency: &[u32]) -> Vec<u32> {
        let mut left = recency.to_vec();
        let mut accounts: Vec<(TenantId, &str)> =
            SALTS.iter().filter_map(|salt| Some((rig.usage.tenant(salt)?, *salt))).collect();
        accounts.sort_unstable();
        let debt = |(id, salt)| (salt, rig.usage.excess(id, 0), rig.usage.evicted_while_over(id));
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
