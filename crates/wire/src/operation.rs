//! The operations of LMCache 0.5.6: their frozen integer ids, names and payload counts
//! (`protocol.md` 3).

use std::fmt;

use bytes::Bytes;

use crate::msgpack::{Kind, Reader, Writer};

/// The id that LMCache 0.5.3 and 0.5.4 give to [`Operation::GetExperimental`] (`protocol.md` 18).
const GET_EXPERIMENTAL_OLD_ID: u32 = 40;

/// A frame that names no operation. The reference never answers such requests.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    /// An id or name that is not in use; 11 is retired.
    #[error("unknown operation {0}")]
    Unknown(String),
    /// Neither an integer nor text, or more than one value.
    #[error("the operation frame holds no operation id or name")]
    Malformed,
}

/// Characters of an unknown operation name that an error message repeats.
const QUOTED_CHARS_MAX: usize = 64;

macro_rules! operations {
    ($($(#[$doc:meta])* $variant:ident = $id:expr, $name:literal, $payloads:literal;)+) => {
        /// An operation a client can ask for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Operation {
            $($(#[$doc])* $variant,)+
        }

        impl Operation {
            /// Every operation, in the order of the protocol's table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name on the wire, also the label in logs and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The frozen integer id; `None` for operations that only have a name.
            pub const fn id(self) -> Option<u8> {
                match self { $(Self::$variant => $id,)+ }
            }

            /// Payload frames the operation declares.
            pub const fn payload_count(self) -> usize {
                match self { $(Self::$variant => $payloads,)+ }
            }

            /// Finds an operation by its id on the wire, old ids included.
            pub const fn from_id(id: u32) -> Option<Self> {
                $(if let Some(own) = Self::$variant.id() && own as u32 == id {
                    return Some(Self::$variant);
                })+
                if id == GET_EXPERIMENTAL_OLD_ID {
                    return Some(Self::GetExperimental);
                }
                None
            }

            /// Finds an operation by its name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

operations! {
    /// Announces an engine's KV tensors that the server copies by itself.
    RegisterKvCache = Some(1), "register_kv_cache", 7;
    /// Takes that announcement back.
    UnregisterKvCache = Some(2), "unregister_kv_cache", 1;
    /// Announces a ring of query tensors.
    RegisterQCache = Some(3), "register_q_cache", 7;
    /// Takes that announcement back.
    UnregisterQCache = Some(4), "unregister_q_cache", 1;
    /// Stores query tensors.
    StoreQ = Some(5), "store_q", 4;
    /// Copies chunks out of the engine's blocks.
    Store = Some(6), "store", 4;
    /// Copies chunks into the engine's blocks.
    Retrieve = Some(7), "retrieve", 5;
    /// Starts to look for the prefix of a request.
    Lookup = Some(8), "lookup", 2;
    /// Asks for the result of a lookup.
    QueryPrefetchStatus = Some(9), "query_prefetch_status", 1;
    /// Waits for the result of a lookup.
    WaitPrefetchStatus = Some(10), "wait_prefetch_status", 2;
    /// Gives back read locks that a lookup took.
    FreeLookupLocks = Some(12), "free_lookup_locks", 2;
    /// Ends a request.
    EndSession = Some(13), "end_session", 1;
    /// Announces a worker that copies by itself.
    RegisterEngineDriven = Some(14), "register_kv_cache_engine_driven_context", 1;
    /// Takes that announcement back.
    UnregisterEngineDriven = Some(15), "unregister_kv_cache_engine_driven_context", 1;
    /// Asks for slots to write chunks to.
    PrepareStore = Some(16), "prepare_store", 2;
    /// Publishes written slots, or brings the chunks as a pickle.
    CommitStore = Some(17), "commit_store", 3;
    /// Asks for slots to read chunks from.
    PrepareRetrieve = Some(18), "prepare_retrieve", 2;
    /// Gives read slots back.
    CommitRetrieve = Some(19), "commit_retrieve", 2;
    /// Empties the memory tier.
    Clear = Some(20), "clear", 1;
    /// Asks for the tokens per chunk.
    GetChunkSize = Some(21), "get_chunk_size", 0;
    /// Sign of life of a worker, or a probe.
    Ping = Some(22), "ping", 1;
    /// Tells which blocks the engine gave to which request.
    ReportBlockAllocation = Some(23), "report_block_allocation", 3;
    /// Does nothing.
    Noop = Some(24), "noop", 0;
    /// Blend: announces rotary tables.
    CbRegisterRope = Some(25), "cb_register_rope", 8;
    /// Blend: takes that announcement back.
    CbUnregisterRope = Some(26), "cb_unregister_rope", 1;
    /// Blend: copies matched chunks into the engine's blocks.
    CbRetrievePreComputed = Some(27), "cb_retrieve_pre_computed", 5;
    /// Blend: looks for the prefix and for matches elsewhere.
    CbUnifiedLookup = Some(28), "cb_unified_lookup", 2;
    /// Peer to peer: looks objects up and locks them.
    P2pLookupAndLock = Some(29), "p2p_lookup_and_lock", 2;
    /// Peer to peer: asks where those objects lie.
    P2pQueryLookupResults = Some(30), "p2p_query_lookup_results", 1;
    /// Peer to peer: unlocks objects.
    P2pUnlockObjects = Some(31), "p2p_unlock_objects", 1;
    /// Asks for the names of optional features.
    GetExperimental = Some(32), "get_experimental", 0;
    /// Blend: compares protocol versions.
    CbProtocolHandshake = Some(33), "cb_protocol_handshake", 1;
    /// Blend: asks in which order to reuse segments.
    CbReorderPlan = None, "cb_reorder_plan", 3;
    /// Streams what was stored and removed.
    SubscribeKvEvents = None, "subscribe_kv_events", 4;
    /// Calls a plugin of the server.
    ServerModuleCall = None, "server_module_call", 1;
}

impl Operation {
    /// Decodes the operation frame: an integer of any width or a name.
    pub fn decode(frame: &[u8]) -> Result<Self, OperationError> {
        let mut reader = Reader::new(frame);
        let kind = reader.kind("operation").map_err(|_| OperationError::Malformed)?;
        let (found, unknown) = match kind {
            Kind::Int => {
                let id = reader.int("operation").map_err(|_| OperationError::Malformed)?;
                (u32::try_from(id).ok().and_then(Self::from_id), id.to_string())
            }
            Kind::Str => {
                let name = reader.str("operation").map_err(|_| OperationError::Malformed)?;
                (Self::from_name(name), name.chars().take(QUOTED_CHARS_MAX).collect())
            }
            _ => return Err(OperationError::Malformed),
        };
        reader.finish("operation").map_err(|_| OperationError::Malformed)?;
        found.ok_or(OperationError::Unknown(unknown))
    }

    /// Encodes the operation frame as stock clients do: the id if there is one, else the name.
    pub fn encode(self) -> Bytes {
        let mut writer = Writer::new();
        match self.id() {
            Some(id) => writer.uint(u64::from(id)),
            None => writer.str(self.name()),
        }
        writer.into_bytes()
    }

    /// Whether requests with that many payload frames are taken. `clear` may come without its payload,
    /// as clients before 0.5.6 send it.
    pub const fn accepts_payloads(self, count: usize) -> bool {
        count == self.payload_count() || (matches!(self, Self::Clear) && count == 0)
    }

    /// Whether requests of one client have to be executed in the order of their arrival, relative to
    /// the other operations for which this is true (`protocol.md` 2.2).
    pub const fn is_transfer(self) -> bool {
        matches!(
            self,
            Self::Store
                | Self::Retrieve
                | Self::PrepareStore
                | Self::CommitStore
                | Self::PrepareRetrieve
                | Self::CommitRetrieve
                | Self::StoreQ
                | Self::CbRetrievePreComputed
        )
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_found_by_its_frame_and_its_name() {
        for &operation in Operation::ALL {
            assert_eq!(Operation::decode(&operation.encode()), Ok(operation));
            let mut writer = Writer::new();
            writer.str(operation.name());
            assert_eq!(Operation::decode(&writer.into_bytes()), Ok(operation));
        }
        assert_eq!(Operation::ALL.len(), 35);
    }

    #[test]
    fn ids_of_any_width_are_read() {
        for frame in [
            &[24][..],
            &[0xcc, 24],
            &[0xcd, 0, 24],
            &[0xce, 0, 0, 0, 24],
            &[0xcf, 0, 0, 0, 0, 0, 0, 0, 24],
            &[0xd0, 24],
            &[0xd1, 0, 24],
            &[0xd2, 0, 0, 0, 24],
            &[0xd3, 0, 0, 0, 0, 0, 0, 0, 24],
        ] {
            assert_eq!(Operation::decode(frame), Ok(Operation::Noop), "{frame:x?}");
        }
    }

    #[test]
    fn the_id_of_older_clients_means_get_experimental() {
        assert_eq!(Operation::decode(&[40]), Ok(Operation::GetExperimental));
    }

    #[test]
    fn what_names_no_operation_is_refused() {
        assert_eq!(Operation::decode(&[11]), Err(OperationError::Unknown("11".to_owned())));
        assert_eq!(Operation::decode(&[0xff]), Err(OperationError::Unknown("-1".to_owned())));
        assert_eq!(Operation::decode(b"\xa1x"), Err(OperationError::Unknown("x".to_owned())));
        for frame in [&b""[..], b"\xc0", b"\xc3", b"\x18\x00", b"\xcb\x40\x38\0\0\0\0\0\0", b"\xcd\x00"] {
            assert_eq!(Operation::decode(frame), Err(OperationError::Malformed), "{frame:x?}");
        }
    }
}
