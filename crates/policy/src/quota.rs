//! Quotas: how many bytes each cache salt (tenant) may hold, and how many it does.
//!
//! [`Quotas`] is what an operator sets. [`QuotaUsage`] is the book of who holds how much: every byte of
//! memory an object owns, from its reservation until it is free again, is on the account of its
//! salt, whether it is being written, readable, held, or no longer found. So the accounts add up to
//! the bytes used, exactly and at any time.
//!
//! # Salts without a quota
//!
//! What a salt may hold that nobody set a quota for is the *default limit*:
//!
//! - `None`, ours unless told otherwise: no limit of its own. Setting a quota for one tenant leaves
//!   the others as they are, and turning the policy on removes nothing.
//! - `Some(0)`, LMCache's meaning: the registry is an allow-list. Such a salt stores nothing. (There
//!   it stores first and is wiped at the next tick; here the store is refused.)
//! - `Some(bytes)`: the same limit for everyone not named.
//!
//! # Who enforces them
//!
//! The eviction policy `IsolatedLRU`; under any other one quotas are kept but have no effect
//! ([`L1::quotas_enforced`]). Enforced means:
//!
//! - A salt at its limit makes room for a new object among its own chunks, coldest first; if it
//!   cannot, the object is refused and nothing is evicted. So nobody who is over a quota ever costs
//!   another salt a chunk.
//! - A limit that is lowered below what its salt holds takes effect at once. What is held at that
//!   moment stays, over the quota, and is the first to go when anybody needs room.
//!
//! Limits: [`QUOTAS_MAX`] quotas; an account lives as long as its salt owns memory, so the number of
//! accounts is bounded by the number of objects.

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

/// Byte limits by salt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    limits: BTreeMap<Arc<str>, u64>,
    default_limit: Option<u64>,
}

impl Quotas {
    /// No quotas; salts without one have `default_limit` (see the [module](self)).
    pub fn new(default_limit: Option<u64>) -> Self {
        Self { limits: BTreeMap::new(), default_limit }
    }

    /// Only salts with a quota may store, as in LMCache.
    pub fn allow_list() -> Self {
        Self::new(Some(0))
    }

    /// Sets the quota of a salt, in bytes. Returns the one it had.
    ///
    /// # Errors
    /// [`TooManyQuotas`] if it had none and no more can be set.
    pub fn set(&mut self, salt: &Arc<str>, limit: u64) -> Result<Option<u64>, TooManyQuotas> {
        if self.limits.len() >= QUOTAS_MAX && !self.limits.contains_key(salt) {
            return Err(TooManyQuotas);
        }
        Ok(self.limits.insert(salt.clone(), limit))
    }

    /// The quota that was set for a salt.
    pub fn get(&self, salt: &str) -> Option<u64> {
        self.limits.get(salt).copied()
    }

    /// Removes the quota of a salt and returns it. The default limit holds from now on.
    pub fn delete(&mut self, salt: &str) -> Option<u64> {
        self.limits.remove(salt)
    }

    /// All quotas, in the order of their salts.
    pub fn list(&self) -> impl Iterator<Item = (&Arc<str>, u64)> {
        self.limits.iter().map(|(salt, limit)| (salt, *limit))
    }

    /// The limit of salts without a quota.
    pub fn default_limit(&self) -> Option<u64> {
        self.default_limit
    }

    /// Sets the limit of salts without a quota.
    pub fn set_default_limit(&mut self, limit: Option<u64>) {
        self.default_limit = limit;
    }

    /// What a salt may hold; `None` without limit.
    pub fn limit_of(&self, salt: &str) -> Option<u64> {
        self.get(salt).or(self.default_limit)
    }
}

/// A salt that owns memory; valid as long as it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub u32);

/// What one salt holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tenant {
    salt: Arc<str>,
    objects: u64,
    used: u64,
    /// `u64::MAX` without limit.
    limit: u64,
    /// Bytes evicted from it since it last went over its limit.
    paid: u64,
}

/// What a salt holds and may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantUsage {
    /// Bytes of memory its objects own, each object rounded up to the alignment.
    pub used_bytes: u64,
    /// Bytes it may own; `None` without limit.
    pub limit_bytes: Option<u64>,
}

/// Who holds how much.
#[derive(Debug, Default)]
pub struct QuotaUsage {
    quotas: Quotas,
    ids: HashMap<Arc<str>, TenantId>,
    accounts: Slab<Tenant>,
    /// Accounts above their limit.
    over: BTreeSet<TenantId>,
}

impl QuotaUsage {
    /// The quotas.
    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// Every salt that owns memory.
    pub fn usage(&self) -> impl Iterator<Item = (&Arc<str>, TenantUsage)> {
        self.accounts.iter().map(|(_, a)| {
            let limit_bytes = Some(a.limit).filter(|l| *l < u64::MAX);
            (&a.salt, TenantUsage { used_bytes: a.used, limit_bytes })
        })
    }

    /// The account of a salt, if it owns memory.
    pub fn tenant(&self, salt: &str) -> Option<TenantId> {
        self.ids.get(salt).copied()
    }

    /// The account of a salt, opened if there is none. It must be [joined](Self::join) next.
    pub fn tenant_or_insert(&mut self, salt: &Arc<str>) -> TenantId {
        self.tenant(salt).unwrap_or_else(|| {
            let limit = self.quotas.limit_of(salt).unwrap_or(u64::MAX);
            let account = Tenant { salt: salt.clone(), objects: 0, used: 0, limit, paid: 0 };
            let id = TenantId(self.accounts.insert(account) as u32);
            self.ids.insert(salt.clone(), id);
            id
        })
    }

    /// One more object, which has no bytes yet. It keeps the account open while its room is made,
    /// perhaps by evicting everything else that is on it.
    pub fn add_object(&mut self, id: TenantId) {
        self.accounts[id.0 as usize].objects += 1;
    }

    /// An object that has joined owns `bytes` now.
    pub fn add_bytes(&mut self, id: TenantId, bytes: u64) {
        let account = &mut self.accounts[id.0 as usize];
        account.used += bytes;
        if account.used > account.limit {
            self.over.insert(id);
        }
    }

    /// One object less, which owned `bytes`. An account without objects is closed.
    pub fn remove_object(&mut self, id: TenantId, bytes: u64) {
        let account = &mut self.accounts[id.0 as usize];
        account.objects -= 1;
        account.used -= bytes;
        let closed = account.objects == 0;
        if (closed || account.used <= account.limit) && !self.over.is_empty() {
            self.over.remove(&id);
            account.paid = 0;
        }
        if closed {
            let account = self.accounts.remove(id.0 as usize);
            self.ids.remove(&account.salt);
        }
    }

    /// `bytes` of it are about to be evicted. Only what a salt over its limit loses counts.
    pub fn record_eviction(&mut self, id: TenantId, bytes: u64) {
        if self.over.contains(&id) {
            self.accounts[id.0 as usize].paid += bytes;
        }
    }

    /// Every account.
    pub fn tenants(&self) -> impl Iterator<Item = TenantId> + '_ {
        self.accounts.iter().map(|(i, _)| TenantId(i as u32))
    }

    /// Accounts above their limit.
    pub fn over_limit(&self) -> impl Iterator<Item = TenantId> + '_ {
        self.over.iter().copied()
    }

    /// What an account may hold.
    pub fn limit(&self, id: TenantId) -> u64 {
        self.accounts[id.0 as usize].limit
    }

    /// Bytes above the limit that an account would have with `more`.
    pub fn excess(&self, id: TenantId, more: u64) -> u64 {
        let account = &self.accounts[id.0 as usize];
        account.used.saturating_add(more).saturating_sub(account.limit)
    }

    /// Bytes evicted from an account since it went over its limit.
    pub fn evicted_while_over(&self, id: TenantId) -> u64 {
        self.accounts[id.0 as usize].paid
    }

    /// Changes the quotas and brings the accounts in line with them.
    pub fn update_quotas<T>(&mut self, change: impl FnOnce(&mut Quotas) -> T) -> T {
        let out = change(&mut self.quotas);
        for (i, account) in &mut self.accounts {
            let limit = self.quotas.limit_of(&account.salt).unwrap_or(u64::MAX);
            if limit == account.limit {
                continue;
            }
            account.limit = limit;
            account.paid = 0;
            let id = TenantId(i as u32);
            if account.used > limit {
                self.over.insert(id)
            } else {
                self.over.remove(&id)
            };
        }
        out
    }

    /// Compares the accounts with the bytes in use by salt. For tests.
    ///
    /// # Panics
    /// If they differ.
    pub fn check(&self, used: &BTreeMap<TenantId, (u64, u64)>) {
        let books: BTreeMap<TenantId, (u64, u64)> =
            self.accounts.iter().map(|(i, a)| (TenantId(i as u32), (a.objects, a.used))).collect();
        assert_eq!(&books, used, "objects and bytes by salt");
        assert_eq!(self.ids.len(), self.accounts.len(), "one id per account");
        for (i, account) in &self.accounts {
            let id = TenantId(i as u32);
            assert_eq!(self.tenant(&account.salt), Some(id), "account is found by its salt");
            assert_eq!(account.limit, self.quotas.limit_of(&account.salt).unwrap_or(u64::MAX), "{account:?}");
            assert_eq!(
                self.over.contains(&id),
                account.used > account.limit,
                "{account:?} is over its limit"
            );
            assert!(account.paid == 0 || self.over.contains(&id), "{account:?} paid for nothing");
        }
        assert!(self.over.len() <= self.accounts.len(), "over the limit without an account");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_sets_gets_deletes_and_lists() {
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
    fn accounts_open_with_the_first_object_and_close_with_the_last() {
        let mut ledger = QuotaUsage::default();
        let salt: Arc<str> = "a".into();
        let id = ledger.tenant_or_insert(&salt);
        for bytes in [10, 5] {
            ledger.add_object(id);
            ledger.add_bytes(id, bytes);
        }
        ledger.check(&BTreeMap::from([(id, (2, 15))]));
        ledger.update_quotas(|q| q.set(&salt, 12)).unwrap();
        assert_eq!((ledger.excess(id, 0), ledger.excess(id, 4)), (3, 7));
        ledger.record_eviction(id, 5);
        assert_eq!(ledger.evicted_while_over(id), 5);
        ledger.remove_object(id, 5);
        assert_eq!(
            (ledger.over_limit().count(), ledger.evicted_while_over(id)),
            (0, 0),
            "within its quota again"
        );
        ledger.remove_object(id, 10);
        ledger.check(&BTreeMap::new());
        assert_eq!(ledger.tenant("a"), None);
    }
}
