//! Deterministic simulation of the storage core.
