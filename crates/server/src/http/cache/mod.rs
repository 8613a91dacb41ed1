//! Operations on the cache: list and delete objects, clear, prefetch, estimate other configurations.

pub(super) mod checksums;
pub(super) mod clear;
pub(super) mod objects;
pub(super) mod prefetches;
pub(super) mod whatif;

/// Limit of tokens in one request.
const TOKENS_MAX: usize = 1_000_000;

/// Limit of a request's body, enough for [`TOKENS_MAX`] tokens.
pub(super) const BODY_BYTES_MAX: usize = 16 << 20;
