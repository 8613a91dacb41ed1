//! `noop`.

use crate::codec::payloads;
use crate::ops::OperationSpec;

/// Does nothing; the result is `OK`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noop;

payloads!(Noop {});

impl OperationSpec for Noop {
    const ID: Option<u8> = Some(24);
    const NAME: &'static str = "noop";
    type Response = String;

    fn failure() -> Option<Self::Response> {
        None
    }
}

#[cfg(test)]
impl super::tests::Samples for Noop {
    fn requests() -> Vec<Self> {
        vec![Self]
    }

    fn responses() -> Vec<Self::Response> {
        vec!["OK".to_owned()]
    }
}
