//! Eviction policies and quotas in L1 and in the whole core.

mod policies;
mod quotas;
mod support;
