//! A request with its decoded payloads, of whatever operation.

use bytes::Bytes;
use larder_types::InstanceId;

use crate::codec::Payloads;
use crate::error::DecodeError;
use crate::for_each_operation;
use crate::key::CacheKey;
use crate::operation::Operation;
use crate::ops;

macro_rules! request {
    ($($module:ident::$name:ident),+ $(,)?) => {
        /// A request with its decoded payloads. Each variant is the operation of the same name.
        #[derive(Clone, Debug, PartialEq)]
        #[expect(missing_docs, reason = "each variant is the operation of the same name")]
        pub enum Request {
            $($name(ops::$name),)+
        }

        impl Request {
            /// Decodes the payload frames of `operation`.
            ///
            /// Bulk bytes (`commit_store` data, event handles) are slices of the frames, not copies.
            ///
            /// # Errors
            /// As [`Payloads::decode`].
            pub fn decode(operation: Operation, payloads: &[Bytes]) -> Result<Self, DecodeError> {
                match operation {
                    $(Operation::$name => ops::$name::decode(payloads).map(Self::$name),)+
                }
            }

            /// The operation.
            pub const fn operation(&self) -> Operation {
                match self { $(Self::$name(_) => Operation::$name,)+ }
            }

            /// Encodes the payload frames as stock clients do.
            pub fn encode(&self) -> Vec<Bytes> {
                match self { $(Self::$name(payloads) => payloads.encode(),)+ }
            }
        }

        $(impl From<ops::$name> for Request {
            fn from(payloads: ops::$name) -> Self {
                Self::$name(payloads)
            }
        })+
    };
}

for_each_operation!(request);

impl Request {
    /// The cache key in it.
    pub const fn key(&self) -> Option<&CacheKey> {
        match self {
            Self::Lookup(ops::Lookup { key, .. })
            | Self::FreeLookupLocks(ops::FreeLookupLocks { key, .. })
            | Self::PrepareStore(ops::PrepareStore { key, .. })
            | Self::CommitStore(ops::CommitStore { key, .. })
            | Self::PrepareRetrieve(ops::PrepareRetrieve { key, .. })
            | Self::CommitRetrieve(ops::CommitRetrieve { key, .. })
            | Self::Store(ops::Store { key, .. })
            | Self::Retrieve(ops::Retrieve { key, .. }) => Some(key),
            _ => None,
        }
    }

    /// The worker that it is about.
    pub const fn instance_mut(&mut self) -> Option<&mut InstanceId> {
        match self {
            Self::RegisterEngineDriven(ops::RegisterEngineDriven { instance_id, .. })
            | Self::UnregisterEngineDriven(ops::UnregisterEngineDriven { instance_id })
            | Self::PrepareStore(ops::PrepareStore { instance_id, .. })
            | Self::CommitStore(ops::CommitStore { instance_id, .. })
            | Self::PrepareRetrieve(ops::PrepareRetrieve { instance_id, .. })
            | Self::CommitRetrieve(ops::CommitRetrieve { instance_id, .. })
            | Self::RegisterKvCache(ops::RegisterKvCache { instance_id, .. })
            | Self::UnregisterKvCache(ops::UnregisterKvCache { instance_id })
            | Self::Store(ops::Store { instance_id, .. })
            | Self::Retrieve(ops::Retrieve { instance_id, .. })
            | Self::ReportBlockAllocation(ops::ReportBlockAllocation { instance_id, .. }) => {
                Some(instance_id)
            }
            _ => None,
        }
    }
}
