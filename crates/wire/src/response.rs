//! The result frame of a response.

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

macro_rules! failure {
    ($($module:ident::$name:ident),+ $(,)?) => {
        impl Operation {
            /// [`OperationSpec::failure`], encoded.
            pub fn failure(self) -> Option<ResultFrame> {
                match self {
                    $(Self::$name => ops::$name::failure().as_ref().map(ResultFrame::encode),)+
                }
            }
        }
    };
}

for_each_operation!(failure);
