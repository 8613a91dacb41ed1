//! `p2p_unlock_objects`.

use larder_types::object::ObjectKey;

use crate::codec::payloads;
use crate::ops::OperationSpec;

/// Peer to peer: unlocks objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct P2pUnlockObjects {
    /// The objects.
    pub keys: Vec<ObjectKey>,
}

payloads!(P2pUnlockObjects { keys });

impl OperationSpec for P2pUnlockObjects {
    const ID: Option<u8> = Some(31);
    const NAME: &'static str = "p2p_unlock_objects";
    type Response = ();

    fn failure() -> Option<Self::Response> {
        Some(())
    }
}

#[cfg(test)]
impl super::tests::Samples for P2pUnlockObjects {
    fn requests() -> Vec<Self> {
        vec![Self { keys: Vec::new() }, Self { keys: vec![super::tests::object_key(0)] }]
    }

    fn responses() -> Vec<Self::Response> {
        vec![()]
    }
}
