//! Quotas: how many bytes each cache salt (tenant) may hold, and how many it holds.
//!
//! [`Quotas`] are the limits that an operator sets. [`QuotaUsage`] is what each tenant uses: every byte of memory that
//! an object owns, from its reservation until it is free again, is added to its tenant, whether the object is being
//! written, readable, pinned, or no longer found. So the usages add up to the bytes used, exactly and at any time.
//!
//! # Tenants without a quota
//!
//! They have the *default limit*:
//!
//! - `None`, the default: no limit. A quota for one tenant does not affect the others, and choosing the policy
//!   removes nothing.
//! - `Some(0)`, LMCache's meaning: the quotas are an allow-list. A tenant without a quota stores nothing. (LMCache
//!   stores first and removes at the next tick; here the store is refused.)
//! - `Some(bytes)`: the same limit for each of them.
//!
//! # Enforcement
//!
//! The eviction policy `IsolatedLRU` enforces quotas. Under any other policy they are kept but have no effect.
//!
//! - A tenant at its limit gets space for a new object by evicting its own chunks, least recently used first. If
//!   that is not enough, the object is refused and nothing is evicted. So a tenant over its quota never evicts another
//!   tenant's chunk.
//! - A limit that is set below what its tenant holds takes effect at once. Pinned objects stay, over the quota, and
//!   are evicted first when space is needed.
//!
//! Limits: [`QUOTAS_MAX`] quotas. A tenant is known as long as it owns memory, so there are no more tenants than objects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;
use slab::Slab;

/// The most quotas that can be set.
pub const QUOTAS_MAX: usize = 65_536;

/// There are [`QUOTAS_MAX`] quotas already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{QUOTAS_MAX} quotas are set already: delete one first")]
pub struct TooManyQuotas;

/// Byte limits by tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    limits: BTreeMap<Arc<str>, u64>,
    default_limit: Option<u64>,
}

impl Quotas {
    /// No quotas; tenants without one have `default_limit` (see the [module](self)).
    pub fn new(default_limit: Option<u64>) -> Self {
        Self { limits: BTreeMap::new(), default_limit }
    }

    /// Only tenants with a quota may store, as in LMCache.
    pub fn allow_list() -> Self {
        Self::new(Some(0))
    }

    /// Sets the quota of a tenant, in bytes. Returns the previous one.
    ///
    /// # Errors
    /// [`TooManyQuotas`] if it had none and no more can be set.
    pub fn set(&mut self, salt: &Arc<str>, limit: u64) -> Result<Option<u64>, TooManyQuotas> {
        if self.limits.len() >= QUOTAS_MAX && !self.limits.contains_key(salt) {
            return Err(TooManyQuotas);
        }
        Ok(self.limits.insert(salt.clone(), limit))
    }

    /// The quota that was set for a tenant.
    pub fn get(&self, salt: &str) -> Option<u64> {
        self.limits.get(salt).copied()
    }

    /// Removes the quota of a tenant and returns it. The default limit applies from now on.
    pub fn delete(&mut self, salt: &str) -> Option<u64> {
        self.limits.remove(salt)
    }

    /// All quotas, sorted by salt.
    pub fn list(&self) -> impl Iterator<Item = (&Arc<str>, u64)> {
        self.limits.iter().map(|(salt, limit)| (salt, *limit))
    }

    /// The limit of tenants without a quota.
    pub fn default_limit(&self) -> Option<u64> {
        self.default_limit
    }

    /// Sets the limit of tenants without a quota.
    pub fn set_default_limit(&mut self, limit: Option<u64>) {
        self.default_limit = limit;
    }

    /// The limit of a tenant; `None` is unlimited.
    pub fn limit_of(&self, salt: &str) -> Option<u64> {
        self.get(salt).or(self.default_limit)
    }
}

/// A tenant that owns memory. Valid as long as it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub u32);

/// Usage and limit of one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tenant {
    salt: Arc<str>,
    objects: u64,
    used: u64,
    /// `u64::MAX` is unlimited.
    limit: u64,
    /// Bytes evicted since it last went over its limit.
    evicted: u64,
}

/// Usage and limit of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantUsage {
    /// Bytes of memory that its objects own, each object rounded up to the alignment.
    pub used_bytes: u64,
    /// Bytes it may own; `None` is unlimited.
    pub limit_bytes: Option<u64>,
}

/// What each tenant uses of its quota.
#[derive(Debug, Default)]
pub struct QuotaUsage {
    quotas: Quotas,
    ids: HashMap<Arc<str>, TenantId>,
    records: Slab<Tenant>,
    /// Tenants over their limit.
    over: BTreeSet<TenantId>,
}

impl QuotaUsage {
    /// The quotas.
    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// Every tenant that owns memory.
    pub fn usage(&self) -> impl Iterator<Item = (&Arc<str>, TenantUsage)> {
        self.records.iter().map(|(_, a)| {
            let limit_bytes = Some(a.limit).filter(|l| *l < u64::MAX);
            (&a.salt, TenantUsage { used_bytes: a.used, limit_bytes })
        })
    }

    /// The tenant of a salt, if it owns memory.
    pub fn tenant(&self, salt: &str) -> Option<TenantId> {
        self.ids.get(salt).copied()
    }

    /// The tenant of a salt, added if it is unknown. [`add_object`](Self::add_object) must follow.
    pub fn tenant_or_insert(&mut self, salt: &Arc<str>) -> TenantId {
        self.tenant(salt).unwrap_or_else(|| {
            let limit = self.quotas.limit_of(salt).unwrap_or(u64::MAX);
            let tenant = Tenant { salt: salt.clone(), objects: 0, used: 0, limit, evicted: 0 };
            let id = TenantId(self.records.insert(tenant) as u32);
            self.ids.insert(salt.clone(), id);
            id
        })
    }

    /// Adds an object without bytes. It keeps the tenant known while space for the object is found, even if
    /// everything else of the tenant is evicted for it.
    pub fn add_object(&mut self, id: TenantId) {
        self.records[id.0 as usize].objects += 1;
    }

    /// An added object owns `bytes` now.
    pub fn add_bytes(&mut self, id: TenantId, bytes: u64) {
        let tenant = &mut self.records[id.0 as usize];
        tenant.used += bytes;
        if tenant.used > tenant.limit {
            self.over.insert(id);
        }
    }

    /// Removes an object that owned `bytes`. A tenant without objects is forgotten.
    pub fn remove_object(&mut self, id: TenantId, bytes: u64) {
        let tenant = &mut self.records[id.0 as usize];
        tenant.objects -= 1;
        tenant.used -= bytes;
        let last = tenant.objects == 0;
        if (last || tenant.used <= tenant.limit) && !self.over.is_empty() {
            self.over.remove(&id);
            tenant.evicted = 0;
        }
        if last {
            let tenant = self.records.remove(id.0 as usize);
            self.ids.remove(&tenant.salt);
        }
    }

    /// `bytes` of a tenant are about to be evicted. Counted only while it is over its limit.
    pub fn record_eviction(&mut self, id: TenantId, bytes: u64) {
        if self.over.contains(&id) {
            self.records[id.0 as usize].evicted += bytes;
        }
    }

    /// Every tenant.
    pub fn tenants(&self) -> impl Iterator<Item = TenantId> + '_ {
        self.records.iter().map(|(i, _)| TenantId(i as u32))
    }

    /// Tenants over their limit.
    pub fn over_limit(&self) -> impl Iterator<Item = TenantId> + '_ {
        self.over.iter().copied()
    }

    /// The limit of a tenant in bytes; `u64::MAX` is unlimited.
    pub fn limit(&self, id: TenantId) -> u64 {
        self.records[id.0 as usize].limit
    }

    /// Objects of a tenant, including those without bytes yet.
    pub fn objects(&self, id: TenantId) -> u64 {
        self.records[id.0 as usize].objects
    }

    /// Bytes that a tenant uses.
    pub fn used_bytes(&self, id: TenantId) -> u64 {
        self.records[id.0 as usize].used
    }

    /// Bytes over its limit that a tenant would have with `more`.
    pub fn excess(&self, id: TenantId, more: u64) -> u64 {
        let tenant = &self.records[id.0 as usize];
        tenant.used.saturating_add(more).saturating_sub(tenant.limit)
    }

    /// Bytes evicted from a tenant since it went over its limit.
    pub fn evicted_while_over(&self, id: TenantId) -> u64 {
        self.records[id.0 as usize].evicted
    }

    /// Changes the quotas.
    pub fn update_quotas<T>(&mut self, change: impl FnOnce(&mut Quotas) -> T) -> T {
        let out = change(&mut self.quotas);
        for (i, tenant) in &mut self.records {
            let limit = self.quotas.limit_of(&tenant.salt).unwrap_or(u64::MAX);
            if limit == tenant.limit {
                continue;
            }
            tenant.limit = limit;
            tenant.evicted = 0;
            let id = TenantId(i as u32);
            if tenant.used > limit {
                self.over.insert(id)
            } else {
                self.over.remove(&id)
            };
        }
        out
    }

    /// Compares the usage with objects and bytes in use by tenant. For tests.
    ///
    /// # Panics
    /// If they differ.
    pub fn check(&self, used: &BTreeMap<TenantId, (u64, u64)>) {
        let ours: BTreeMap<TenantId, (u64, u64)> =
            self.records.iter().map(|(i, a)| (TenantId(i as u32), (a.objects, a.used))).collect();
        assert_eq!(&ours, used, "objects and bytes by tenant");
        assert_eq!(self.ids.len(), self.records.len(), "one id per tenant");
        for (i, tenant) in &self.records {
            let id = TenantId(i as u32);
            assert_eq!(self.tenant(&tenant.salt), Some(id), "tenant is found by its salt");
            assert_eq!(tenant.limit, self.quotas.limit_of(&tenant.salt).unwrap_or(u64::MAX), "{tenant:?}");
            assert_eq!(self.over.contains(&id), tenant.used > tenant.limit, "{tenant:?} is over its limit");
            assert!(
                tenant.evicted == 0 || self.over.contains(&id),
                "{tenant:?} counts evictions within its limit"
            );
        }
        assert!(self.over.len() <= self.records.len(), "over the limit and unknown");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_set_read_deleted_and_listed() {
        let mut quotas = Quotas::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        assert_eq!(quotas.set(&b, 7), Ok(None));
        assert_eq!(quotas.set(&a, 5), Ok(None));
        assert_eq!(quotas.set(&a, 6), Ok(Some(5)));
        assert_eq!(quotas.list().collect::<Vec<_>>(), [(&a, 6), (&b, 7)]);
        assert_eq!((quotas.get("a"), quotas.get("c")), (Some(6), None));
        assert_eq!((quotas.delete("a"), quotas.delete("a")), (Some(6), None));
    }

    #[test]
    fn tenants_without_a_quota_have_the_default_limit() {
        let mut quotas = Quotas::default();
        assert_eq!(quotas.limit_of("a"), None, "no limit");
        quotas.set_default_limit(Some(9));
        assert_eq!(quotas.limit_of("a"), Some(9));
        assert_eq!(Quotas::allow_list().limit_of("a"), Some(0));
        quotas.set(&"a".into(), 3).unwrap();
        assert_eq!(quotas.limit_of("a"), Some(3), "a quota of its own goes first");
    }

    #[test]
    fn quotas_are_bounded() {
        let mut quotas = Quotas::default();
        for i in 0..QUOTAS_MAX {
            quotas.set(&i.to_string().into(), 1).unwrap();
        }
        assert_eq!(quotas.set(&"one more".into(), 1), Err(TooManyQuotas));
        assert_eq!(quotas.set(&"7".into(), 2), Ok(Some(1)), "a change is not one more");
    }

    #[test]
    fn tenant_is_known_from_its_first_object_to_its_last() {
        let mut usage = QuotaUsage::default();
        let salt: Arc<str> = "a".into();
        let id = usage.tenant_or_insert(&salt);
        for bytes in [10, 5] {
            usage.add_object(id);
            usage.add_bytes(id, bytes);
        }
        usage.check(&BTreeMap::from([(id, (2, 15))]));
        usage.update_quotas(|q| q.set(&salt, 12)).unwrap();
        assert_eq!((usage.excess(id, 0), usage.excess(id, 4)), (3, 7));
        usage.record_eviction(id, 5);
        assert_eq!(usage.evicted_while_over(id), 5);
        usage.remove_object(id, 5);
        assert_eq!(
            (usage.over_limit().count(), usage.evicted_while_over(id)),
            (0, 0),
            "within its quota again"
        );
        usage.remove_object(id, 10);
        usage.check(&BTreeMap::new());
        assert_eq!(usage.tenant("a"), None);
    }
}
