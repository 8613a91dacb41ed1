//! Quotas as L1 enforces them.

use super::Index;
use larder_policy::quota::{QuotaUsage, Quotas};

impl Index {
    /// The quotas in force, and what each salt owns.
    pub fn ledger(&self) -> &QuotaUsage {
        &self.ledger
    }

    /// Changes the quotas. If they are enforced, salts that are now over theirs lose their coldest
    /// chunks at once, as many as it takes or may be evicted.
    pub fn change_quotas<T>(&mut self, change: impl FnOnce(&mut Quotas) -> T) -> T {
        let out = self.ledger.update_quotas(change);
        if self.quotas_enforced() {
            self.begin();
            for salt in self.ledger.over_limit().collect::<Vec<_>>() {
                let excess = self.ledger.excess(salt, 0);
                let (chunks, _) = self.coldest_of(salt, excess);
                chunks.into_iter().for_each(|chunk| self.evict(chunk));
            }
        }
        out
    }
}
