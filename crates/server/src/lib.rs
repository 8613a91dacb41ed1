//! The Larder server.
