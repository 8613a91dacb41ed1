//! Memory of token lists, kept for the next ones.
//!
//! A list of 128k tokens takes half a megabyte. Freed, it goes back to the system after some milliseconds, and the next
//! one has to be mapped again, page by page, which takes as long as decoding it. So a few are kept.

use std::ops::Deref;
use std::sync::{Mutex, PoisonError};

use larder_types::TokenSlice;

/// Lists of fewer tokens are left to the allocator.
const KEPT_TOKENS_MIN: usize = 16 * 1024;
/// Longer ones are rare.
const KEPT_TOKENS_MAX: usize = 512 * 1024;
/// Tokens in all lists that are kept: 4 MiB.
const TOTAL_TOKENS_MAX: usize = 1024 * 1024;

static KEPT: Mutex<Vec<Vec<u32>>> = Mutex::new(Vec::new());

/// A list of tokens. Its memory is used again.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct TokenBuffer(Vec<u32>);

impl TokenBuffer {
    /// An empty list with space for so many tokens.
    pub fn with_capacity(tokens: usize) -> Self {
        if !(KEPT_TOKENS_MIN..=KEPT_TOKENS_MAX).contains(&tokens) {
            return Self(Vec::with_capacity(tokens));
        }
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        // A list that is kept for long must not keep much more memory than it needs.
        let fits = |list: &Vec<u32>| (tokens..=tokens + tokens / 4).contains(&list.capacity());
        match kept.iter().position(fits) {
            Some(at) => Self(kept.swap_remove(at)),
            // Prompts grow: the next list is a little longer.
            None => Self(Vec::with_capacity((tokens + tokens / 8).min(KEPT_TOKENS_MAX))),
        }
    }

    /// A copy of tokens.
    pub fn copy_of<'a>(tokens: impl Into<TokenSlice<'a>>) -> Self {
        let tokens = tokens.into();
        let mut copy = Self::with_capacity(tokens.len());
        tokens.append_to(&mut copy.0);
        copy
    }

    /// The list, to add to.
    pub(crate) fn as_mut_vec(&mut self) -> &mut Vec<u32> {
        &mut self.0
    }
}

impl From<Vec<u32>> for TokenBuffer {
    fn from(tokens: Vec<u32>) -> Self {
        Self(tokens)
    }
}

impl Clone for TokenBuffer {
    fn clone(&self) -> Self {
        Self::copy_of(&self[..])
    }
}

impl Deref for TokenBuffer {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.0
    }
}

impl Drop for TokenBuffer {
    fn drop(&mut self) {
        if !(KEPT_TOKENS_MIN..=KEPT_TOKENS_MAX).contains(&self.0.capacity()) {
            return;
        }
        let mut list = std::mem::take(&mut self.0);
        list.clear();
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = kept.iter().map(Vec::capacity).sum();
        if total + list.capacity() <= TOTAL_TOKENS_MAX {
            kept.push(list);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_used_again_and_bounded() {
        let tokens: Vec<u32> = (0..131_072).collect();
        let lists: Vec<TokenBuffer> = (0..32).map(|n| TokenBuffer::copy_of(&tokens[n..])).collect();
        assert!((0..).zip(&lists).all(|(n, list)| **list == tokens[n..]), "no two share memory");
        drop(lists);
        let kept: usize = KEPT.lock().expect("no test panics with it").iter().map(Vec::capacity).sum();
        assert!((KEPT_TOKENS_MIN..=TOTAL_TOKENS_MAX).contains(&kept), "{kept} tokens are kept");
        assert!(TokenBuffer::with_capacity(20_000).0.capacity() <= 25_000, "not a much larger one");
        assert_eq!(TokenBuffer::with_capacity(100).0.capacity(), 100);
    }
}
