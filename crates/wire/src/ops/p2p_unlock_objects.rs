//! `p2p_unlock_objects`.

use larder_types::object::ObjectKey;

use crate::ops::{operation, samples};

/// Peer to peer: unlocks objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct P2pUnlockObjects {
    /// The objects.
    pub keys: Vec<ObjectKey>,
}

operation!(P2pUnlockObjects = Some(31), "p2p_unlock_objects", { keys } -> (), failure: Some(()));

samples!(P2pUnlockObjects: vec![Self { keys: Vec::new() }, Self { keys: vec![object_key(0)] }] => vec![()]);
