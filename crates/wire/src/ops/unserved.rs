//! Operations of optional features that the server does not have. Their payloads are counted but not
//! decoded, and their only response says "no".

use bytes::Bytes;

use crate::codec::{Payloads, RawValue};
use crate::error::DecodeError;
use crate::ops::store::Copied;
use crate::ops::{OperationSpec, payload_count};

macro_rules! unserved {
    ($($(#[$doc:meta])* $name:ident = $id:expr, $wire:literal, $count:literal => $response:ty: $failure:expr;)+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, Eq)]
            pub struct $name {
                /// The payload frames, not decoded.
                pub payloads: Vec<Bytes>,
            }

            impl Payloads for $name {
                const COUNT: usize = $count;

                fn decode(frames: &[Bytes]) -> Result<Self, DecodeError> {
                    match frames.len() {
                        $count => Ok(Self { payloads: frames.to_vec() }),
                        found => Err(payload_count::<Self>(found)),
                    }
                }

                fn encode(&self) -> Vec<Bytes> {
                    self.payloads.clone()
                }
            }

            impl OperationSpec for $name {
                const ID: Option<u8> = $id;
                const NAME: &'static str = $wire;
                type Response = $response;

                fn failure() -> Option<Self::Response> {
                    Some($failure)
                }
            }

            #[cfg(test)]
            impl super::tests::Samples for $name {
                fn requests() -> Vec<Self> {
                    vec![Self { payloads: vec![Bytes::from_static(b"\xc0"); $count] }]
                }

                fn responses() -> Vec<Self::Response> {
                    vec![$failure]
                }
            }
        )+
    };
}

unserved! {
    /// Withdraws the registration of query tensors.
    UnregisterQCache = Some(4), "unregister_q_cache", 1 => (): ();
    /// Stores query tensors.
    StoreQ = Some(5), "store_q", 4 => Copied: Copied::default();
    /// Blend: registers rotary tables. The response is the one of a server that took them, as there is no
    /// other.
    CbRegisterRope = Some(25), "cb_register_rope", 8 => (): ();
    /// Blend: withdraws the registration of rotary tables.
    CbUnregisterRope = Some(26), "cb_unregister_rope", 1 => (): ();
    /// Blend: copies matched chunks into the engine's blocks.
    CbRetrievePreComputed = Some(27), "cb_retrieve_pre_computed", 5 => Copied: Copied::default();
    /// Blend: looks up the prefix and matches elsewhere. The response is: no token covered, no segments.
    CbUnifiedLookup = Some(28), "cb_unified_lookup", 2 => RawValue: RawValue(Bytes::from_static(
        b"\x83\xb6prefix_coverage_tokens\x00\xb3non_prefix_segments\x90\xb9segmented_prefix_segments\x90",
    ));
    /// Blend: asks for the order in which to reuse segments. The response is an empty list.
    CbReorderPlan = None, "cb_reorder_plan", 3 => Vec<i64>: Vec::new();
    /// Calls a plugin of the server. The response has no success, no payload, and the reason.
    ServerModuleCall = None, "server_module_call", 1 => RawValue: no_modules();
    /// The same, in the order of the client's transfers. From 0.5.7 on.
    ServerModuleAffinityCall = None, "server_module_affinity_call", 1 => RawValue: no_modules();
}

fn no_modules() -> RawValue {
    RawValue(Bytes::from_static(
        b"\x83\xa7success\xc2\xa7payload\xc4\x00\xa5error\xbathis server has no modules",
    ))
}

#[cfg(test)]
mod tests {
    use rmpv::Value;

    use super::*;

    fn decoded(raw: Option<RawValue>) -> Value {
        rmpv::decode::read_value(&mut &raw.expect("a failure").0[..]).expect("MessagePack")
    }

    #[test]
    fn raw_failures_have_the_fields_that_clients_read() {
        let nothing = Value::Map(vec![
            ("prefix_coverage_tokens".into(), 0.into()),
            ("non_prefix_segments".into(), Value::Array(vec![])),
            ("segmented_prefix_segments".into(), Value::Array(vec![])),
        ]);
        assert_eq!(decoded(CbUnifiedLookup::failure()), nothing);
        let refused = Value::Map(vec![
            ("success".into(), false.into()),
            ("payload".into(), Value::Binary(vec![])),
            ("error".into(), "this server has no modules".into()),
        ]);
        assert_eq!(decoded(ServerModuleCall::failure()), refused);
    }
}
