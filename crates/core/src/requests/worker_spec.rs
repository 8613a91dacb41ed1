//! What a worker registers with.

use std::sync::Arc;

use larder_policy::prefix_scan::AttentionWindow;
use larder_types::object::ObjectGroup;
use larder_types::{InstanceId, Layout};

/// Layers that are stored together: one object per chunk and rank.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    /// Its number.
    pub id: ObjectGroup,
    /// How much of a prefix its layers attend to.
    pub window: AttentionWindow,
    /// The layout of its objects.
    pub layout: Layout,
}

/// What a worker registers with.
#[derive(Clone, Debug)]
pub struct WorkerSpec {
    /// Its id.
    pub instance: InstanceId,
    /// Model as the engine names it.
    pub model: Arc<str>,
    /// Pieces one chunk's KV is split into.
    pub world_size: u32,
    /// Tokens per block of the engine's own cache, for reports; `None` if unknown.
    pub block_tokens: Option<u32>,
    /// Object groups, at least one, in the order of their numbers.
    pub groups: Vec<Group>,
}

impl WorkerSpec {
    /// Groups besides the first.
    pub(crate) fn more_groups(&self) -> usize {
        self.groups.len().saturating_sub(1)
    }
}
