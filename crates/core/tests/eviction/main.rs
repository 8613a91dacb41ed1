//! The eviction policies and quotas, as L1 and the whole core make use of them (`storage.md` 8.6).

mod policies;
mod quotas;
mod support;
