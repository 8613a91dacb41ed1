//! `noop`.

use crate::ops::{operation, samples};

/// Does nothing; the result is `OK`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noop;

operation!(Noop = Some(24), "noop", {} -> String, failure: None);

samples!(Noop: vec![Self] => vec!["OK".to_owned()]);
