//! What operators and coordinators do with the cache: look through it, remove from it, warm it up, ask what
//! another one would do.

pub(super) mod checksums;
pub(super) mod clear;
pub(super) mod objects;
pub(super) mod prefetches;
pub(super) mod whatif;

/// The most tokens in one request.
const TOKENS_MAX: usize = 1_000_000;

/// Room for a body of that many.
pub(super) const BODY_BYTES_MAX: usize = 16 << 20;
