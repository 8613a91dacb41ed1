//! A request with its decoded payloads, of whatever operation.

use bytes::Bytes;

use crate::codec::Payloads;
use crate::error::DecodeError;
use crate::for_each_operation;
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
