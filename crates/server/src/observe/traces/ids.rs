//! Names of traces and spans.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// Makes names that differ, here and from other servers'. They guard nothing, so the standard library's
/// per-process hash keys are random enough.
#[derive(Debug, Default)]
pub(super) struct Ids {
    keys: RandomState,
    made: u64,
}

impl Ids {
    /// A trace's name: not all zeros, which would mean that there is none.
    pub(super) fn trace(&mut self) -> [u8; 16] {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.span());
        id[8..].copy_from_slice(&self.span());
        id
    }

    /// A span's name: not all zeros.
    pub(super) fn span(&mut self) -> [u8; 8] {
        self.made += 1;
        self.keys.hash_one(self.made).max(1).to_be_bytes()
    }
}
