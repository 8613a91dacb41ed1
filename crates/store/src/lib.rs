//! The storage core.
