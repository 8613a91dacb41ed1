//! The Larder server.

pub mod config;
