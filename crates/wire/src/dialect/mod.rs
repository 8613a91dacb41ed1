//! Versions of the LMCache client with different messages: which integers they give to operations, and what they
//! understand of the answers.
//!
//! Up to 0.5.2 the ids were positions in an enumeration, and so moved with it; from 0.5.3 on they are frozen
//! ([`Operation::id`]). A client does not name its version: [`Recognition`] finds it out.

mod recognition;

use std::fmt;

use crate::msgpack::{Kind, Reader};
use crate::operation::{Operation, OperationError};

pub use self::recognition::Recognition;

/// A range of client versions with the same messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dialect {
    /// 0.4.3 to 0.4.5: only servers that copy by themselves.
    V0_4_3,
    /// 0.4.6: workers that copy by themselves have another tensor layout and no shared memory.
    V0_4_6,
    /// 0.4.7: workers are known by their process id.
    V0_4_7,
    /// 0.5.0 to 0.5.2.
    V0_5_0,
    /// 0.5.3 to 0.5.6. Also what is not LMCache's client: tools and benchmarks.
    #[default]
    V0_5_3,
    /// 0.5.7 and later.
    V0_5_7,
}

use Operation as Op;

/// Operations by id, counted from 1. Those of blend and of peers, which follow, are not served.
const V0_4_3: &[Operation] = &[
    Op::RegisterKvCache,
    Op::UnregisterKvCache,
    Op::Store,
    Op::Retrieve,
    Op::Lookup,
    Op::QueryPrefetchStatus,
    Op::QueryPrefetchLookupHits,
    Op::FreeLookupLocks,
    Op::EndSession,
    Op::Clear,
    Op::GetChunkSize,
    Op::Ping,
    Op::ReportBlockAllocation,
    Op::Noop,
];

const V0_4_6: &[Operation] = &[
    Op::RegisterKvCache,
    Op::UnregisterKvCache,
    Op::Store,
    Op::Retrieve,
    Op::Lookup,
    Op::QueryPrefetchStatus,
    Op::QueryPrefetchLookupHits,
    Op::FreeLookupLocks,
    Op::EndSession,
    Op::RegisterEngineDriven,
    Op::PrepareStore,
    Op::CommitStore,
    Op::PrepareRetrieve,
    Op::CommitRetrieve,
    Op::Clear,
    Op::GetChunkSize,
    Op::Ping,
    Op::ReportBlockAllocation,
    Op::Noop,
];

const V0_4_7: &[Operation] = &[
    Op::RegisterKvCache,
    Op::UnregisterKvCache,
    Op::Store,
    Op::Retrieve,
    Op::Lookup,
    Op::QueryPrefetchStatus,
    Op::QueryPrefetchLookupHits,
    Op::FreeLookupLocks,
    Op::EndSession,
    Op::RegisterEngineDriven,
    Op::UnregisterEngineDriven,
    Op::PrepareStore,
    Op::CommitStore,
    Op::PrepareRetrieve,
    Op::CommitRetrieve,
    Op::Clear,
    Op::GetChunkSize,
    Op::Ping,
    Op::ReportBlockAllocation,
    Op::Noop,
];

const V0_5_0: &[Operation] = &[
    Op::RegisterKvCache,
    Op::UnregisterKvCache,
    Op::Store,
    Op::Retrieve,
    Op::Lookup,
    Op::QueryPrefetchStatus,
    Op::WaitPrefetchStatus,
    Op::QueryPrefetchLookupHits,
    Op::FreeLookupLocks,
    Op::EndSession,
    Op::RegisterEngineDriven,
    Op::UnregisterEngineDriven,
    Op::PrepareStore,
    Op::CommitStore,
    Op::PrepareRetrieve,
    Op::CommitRetrieve,
    Op::Clear,
    Op::GetChunkSize,
    Op::Ping,
    Op::ReportBlockAllocation,
    Op::Noop,
];

/// Characters of an unknown operation name that an error message repeats.
const QUOTED_CHARS_MAX: usize = 64;

impl Dialect {
    /// Every dialect, the oldest first.
    pub const ALL: [Self; 6] =
        [Self::V0_4_3, Self::V0_4_6, Self::V0_4_7, Self::V0_5_0, Self::V0_5_3, Self::V0_5_7];

    /// The newest version that was tested.
    pub const NEWEST: (u32, u32, u32) = (0, 5, 7);

    /// The dialect of a version; `None` for one that is older than all.
    pub fn of_version(version: (u32, u32, u32)) -> Option<Self> {
        Self::ALL.into_iter().rev().find(|dialect| dialect.first_version() <= version)
    }

    const fn first_version(self) -> (u32, u32, u32) {
        match self {
            Self::V0_4_3 => (0, 4, 3),
            Self::V0_4_6 => (0, 4, 6),
            Self::V0_4_7 => (0, 4, 7),
            Self::V0_5_0 => (0, 5, 0),
            Self::V0_5_3 => (0, 5, 3),
            Self::V0_5_7 => (0, 5, 7),
        }
    }

    /// The versions that speak it, for people.
    pub const fn versions(self) -> &'static str {
        match self {
            Self::V0_4_3 => "0.4.3 to 0.4.5",
            Self::V0_4_6 => "0.4.6",
            Self::V0_4_7 => "0.4.7",
            Self::V0_5_0 => "0.5.0 to 0.5.2",
            Self::V0_5_3 => "0.5.3 to 0.5.6",
            Self::V0_5_7 => "0.5.7 or later",
        }
    }

    /// Whether its clients can use this server. The others get answers with which their engine runs uncached.
    pub const fn is_served(self) -> bool {
        !matches!(self, Self::V0_4_3 | Self::V0_4_6)
    }

    /// Whether workers are known by their process id, which workers in other containers may have too.
    pub const fn has_process_ids(self) -> bool {
        matches!(self, Self::V0_4_3 | Self::V0_4_6 | Self::V0_4_7)
    }

    /// Whether bytes that travel inside messages are a MessagePack map, not a pickle.
    pub const fn has_tensor_maps(self) -> bool {
        matches!(self, Self::V0_5_7)
    }

    /// The operation that it gives an id to.
    pub fn operation(self, id: u32) -> Option<Operation> {
        let ids = match self {
            Self::V0_4_3 => V0_4_3,
            Self::V0_4_6 => V0_4_6,
            Self::V0_4_7 => V0_4_7,
            Self::V0_5_0 => V0_5_0,
            Self::V0_5_3 | Self::V0_5_7 => return Operation::from_id(id),
        };
        ids.get(usize::try_from(id).ok()?.checked_sub(1)?).copied()
    }

    /// Decodes the operation frame: an integer of any width or a name.
    ///
    /// # Errors
    /// The frame is neither, or names no operation.
    pub fn decode(self, frame: &[u8]) -> Result<Operation, OperationError> {
        let mut reader = Reader::new(frame);
        let kind = reader.kind("operation").map_err(|_| OperationError::Malformed)?;
        let (found, unknown) = match kind {
            Kind::Int => {
                let id = reader.int("operation").map_err(|_| OperationError::Malformed)?;
                (u32::try_from(id).ok().and_then(|id| self.operation(id)), id.to_string())
            }
            Kind::Str => {
                let name = reader.str("operation").map_err(|_| OperationError::Malformed)?;
                (Operation::from_name(name), name.chars().take(QUOTED_CHARS_MAX).collect())
            }
            _ => return Err(OperationError::Malformed),
        };
        reader.finish("operation").map_err(|_| OperationError::Malformed)?;
        found.ok_or(OperationError::Unknown(unknown))
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.versions())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_enumerations() {
        let id = |dialect: Dialect, operation| (1..64).find(|id| dialect.operation(*id) == Some(operation));
        let chunk_size = Dialect::ALL.map(|dialect| id(dialect, Op::GetChunkSize));
        assert_eq!(chunk_size, [Some(11), Some(16), Some(17), Some(18), Some(21), Some(21)]);
        let prepare_store = Dialect::ALL.map(|dialect| id(dialect, Op::PrepareStore));
        assert_eq!(prepare_store, [None, Some(11), Some(12), Some(13), Some(16), Some(16)]);
        let noop = Dialect::ALL.map(|dialect| id(dialect, Op::Noop));
        assert_eq!(noop, [Some(14), Some(19), Some(20), Some(21), Some(24), Some(24)]);
        for dialect in Dialect::ALL {
            assert_eq!(dialect.operation(0), None);
            assert_eq!(dialect.operation(u32::MAX), None);
        }
    }

    #[test]
    fn names_are_the_same_in_all() {
        for dialect in Dialect::ALL {
            assert_eq!(dialect.decode(b"\xa4ping"), Ok(Op::Ping));
            assert_eq!(dialect.decode(b"\xa1x"), Err(OperationError::Unknown("x".to_owned())));
            assert_eq!(dialect.decode(b"\xc0"), Err(OperationError::Malformed));
        }
        assert_eq!(Dialect::V0_4_7.decode(&[0xcc, 18]), Ok(Op::Ping));
        assert_eq!(Dialect::V0_5_0.decode(&[0xcd, 0, 18]), Ok(Op::GetChunkSize));
        assert_eq!(Dialect::V0_5_0.decode(&[22]), Err(OperationError::Unknown("22".to_owned())));
    }
}
