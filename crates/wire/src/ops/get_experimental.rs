//! `get_experimental`.

use crate::ops::{operation, samples};

/// Asks for the names of the optional features that the server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetExperimental;

operation!(GetExperimental = Some(32), "get_experimental", {} -> Vec<String>, failure: Some(Vec::new()));

samples!(GetExperimental: vec![Self] => vec![vec!["kv_event_stream".to_owned()]]);
