//! The result of a request, and its frame in a response.

use bytes::Bytes;

use crate::codec::{Value, decode_only, encode_frame};
use crate::error::DecodeError;
use crate::for_each_operation;
use crate::operation::Operation;
use crate::ops::{self, OperationSpec};

/// The MessagePack form of nil.
const NIL: &[u8] = b"\xc0";

/// The encoded result of a response; `None` for nil, which travels as a response without this frame.
/// The type of the result is its operation's [`Response`](OperationSpec::Response).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultFrame(pub Option<Bytes>);

impl ResultFrame {
    /// Encodes a result.
    pub fn encode(result: &impl Value) -> Self {
        Self(Some(encode_frame(result)).filter(|frame| frame != NIL))
    }

    /// Decodes the result.
    ///
    /// # Errors
    /// The frame is missing although the type has no nil, or holds another type.
    pub fn decode<T: Value>(&self) -> Result<T, DecodeError> {
        let field = "result";
        let decode = |bytes| decode_only(bytes, field, |reader| T::decode(reader, field));
        match &self.0 {
            Some(frame) => decode(frame),
            None => decode(NIL).map_err(|_| DecodeError::Missing { field }),
        }
    }
}

macro_rules! response {
    ($($module:ident::$name:ident),+ $(,)?) => {
        /// The result of a request. Each variant is the operation of the same name.
        #[derive(Clone, Debug, PartialEq)]
        #[expect(missing_docs, reason = "each variant is the operation of the same name")]
        pub enum Response {
            $($name(<ops::$name as OperationSpec>::Response),)+
        }

        impl Response {
            /// The operation.
            pub const fn operation(&self) -> Operation {
                match self { $(Self::$name(_) => Operation::$name,)+ }
            }

            /// The frame that carries it.
            pub fn frame(&self) -> ResultFrame {
                match self { $(Self::$name(result) => ResultFrame::encode(result),)+ }
            }
        }

        impl Operation {
            /// [`OperationSpec::failure`].
            pub fn failure(self) -> Option<Response> {
                match self { $(Self::$name => ops::$name::failure().map(Response::$name),)+ }
            }
        }
    };
}

for_each_operation!(response);
