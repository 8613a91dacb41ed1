//! Which entries belong to which owner, so that the end of an owner costs O(its entries).

use std::collections::BTreeSet;
use std::hash::Hash;

use hashbrown::HashMap;

/// Ids by owner.
#[derive(Debug)]
pub(crate) struct ByOwner<Owner, Id>(HashMap<Owner, BTreeSet<Id>>);

impl<Owner, Id> Default for ByOwner<Owner, Id> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<Owner: Eq + Hash + Copy, Id: Ord + Copy> ByOwner<Owner, Id> {
    pub(crate) fn insert(&mut self, owner: Owner, id: Id) {
        self.0.entry(owner).or_default().insert(id);
    }

    pub(crate) fn remove(&mut self, owner: Owner, id: Id) {
        if let Some(ids) = self.0.get_mut(&owner) {
            ids.remove(&id);
            if ids.is_empty() {
                self.0.remove(&owner);
            }
        }
    }

    /// The ids of an owner, the oldest first.
    pub(crate) fn of(&self, owner: Owner) -> Vec<Id> {
        self.0.get(&owner).map_or_else(Vec::new, |ids| ids.iter().copied().collect())
    }

    /// The ids of an owner that has at most `max`; none of one that has more.
    pub(crate) fn some_of(&self, owner: Owner, max: usize) -> impl Iterator<Item = Id> + '_ {
        self.0.get(&owner).filter(|ids| ids.len() <= max).into_iter().flatten().copied()
    }

    /// How many ids an owner has.
    pub(crate) fn count(&self, owner: Owner) -> usize {
        self.0.get(&owner).map_or(0, BTreeSet::len)
    }

    /// The oldest id of an owner.
    pub(crate) fn first(&self, owner: Owner) -> Option<Id> {
        self.0.get(&owner).and_then(BTreeSet::first).copied()
    }

    /// All ids. For tests.
    pub(crate) fn len(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }
}
