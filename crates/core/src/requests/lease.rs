//! Shares of objects, held by somebody until a deadline.
//!
//! A share is one reader's right to find an object's bytes where they are. It is not a lock
//! counter: each belongs to one holder (the lookup of a session, a retrieve, a peer), moves between
//! holders as a whole, and ends with its holder. Ending a holder twice
//! is impossible, and nobody can end another's share.

use crate::index::{Index, ObjectId, ShardKey};

/// Shares of one object in one holder's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The object.
    pub object: ObjectId,
    /// How many readers are still to come. Zero: all have been and gone.
    pub shares: u32,
}

impl Grant {
    /// Gives all shares back.
    pub fn release(&mut self, l1: &mut Index) {
        if self.shares > 0 {
            l1.unpin(self.object, self.shares);
            self.shares = 0;
        }
    }

    /// Gives one share back, if any is left.
    pub fn release_one(&mut self, l1: &mut Index) {
        if self.shares > 0 {
            l1.unpin(self.object, 1);
            self.shares -= 1;
        }
    }
}

/// The shares a lookup holds in one row of its grid: one cell of consecutive chunks.
#[derive(Clone, Debug)]
pub struct Row {
    /// Rank and group of the row.
    pub cell: ShardKey,
    /// Chunk index of the first grant.
    pub first: u32,
    /// One per chunk from `first` to the end of the hit.
    pub grants: Vec<Grant>,
}

impl Row {
    /// The grants of chunks `start..end`, as far as the row covers them.
    pub fn range(&mut self, start: u32, end: u32) -> &mut [Grant] {
        let len = self.grants.len() as u32;
        let from = start.saturating_sub(self.first).min(len);
        let to = end.saturating_sub(self.first).min(len).max(from);
        &mut self.grants[from as usize..to as usize]
    }
}
