//! The operations of LMCache 0.5.6 by id and name.

use std::fmt;

use bytes::Bytes;

use crate::for_each_operation;
use crate::msgpack::{Kind, Reader, Writer};
use crate::ops::{self, OperationSpec};

/// The id that LMCache 0.5.3 and 0.5.4 give to [`Operation::GetExperimental`].
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

macro_rules! operation {
    ($($module:ident::$name:ident),+ $(,)?) => {
        /// An operation a client can ask for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Operation {
            $(
                #[doc = concat!("See [`", stringify!($name), "`](crate::ops::", stringify!($name), ").")]
                $name,
            )+
        }

        impl Operation {
            /// Every operation, in the order of the protocol's table.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name on the wire, also the label in logs and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => ops::$name::NAME,)+ }
            }

            /// The frozen integer id; `None` for operations that only have a name.
            pub const fn id(self) -> Option<u8> {
                match self { $(Self::$name => ops::$name::ID,)+ }
            }

            /// Finds an operation by its id on the wire, old ids included.
            pub const fn from_id(id: u32) -> Option<Self> {
                $(if let Some(own) = ops::$name::ID && own as u32 == id {
                    return Some(Self::$name);
                })+
                if id == GET_EXPERIMENTAL_OLD_ID {
                    return Some(Self::GetExperimental);
                }
                None
            }

            /// Finds an operation by its name.
            pub fn from_name(name: &str) -> Option<Self> {
                $(if name == ops::$name::NAME {
                    return Some(Self::$name);
                })+
                None
            }
        }
    };
}

for_each_operation!(operation);

impl Operation {
    /// Decodes the operation frame: an integer of any width or a name.
    ///
    /// # Errors
    /// The frame is neither, or names no operation.
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
    fn finds_every_operation_by_frame_and_by_name() {
        for &operation in Operation::ALL {
            assert_eq!(Operation::decode(&operation.encode()), Ok(operation));
            let mut writer = Writer::new();
            writer.str(operation.name());
            assert_eq!(Operation::decode(&writer.into_bytes()), Ok(operation));
        }
        assert!(Operation::ALL.len() >= 35);
    }

    #[test]
    fn reads_ids_of_any_width() {
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
    fn id_40_of_older_clients_means_get_experimental() {
        assert_eq!(Operation::decode(&[40]), Ok(Operation::GetExperimental));
    }

    #[test]
    fn refuses_frames_that_name_no_operation() {
        assert_eq!(Operation::decode(&[11]), Err(OperationError::Unknown("11".to_owned())));
        assert_eq!(Operation::decode(&[0xff]), Err(OperationError::Unknown("-1".to_owned())));
        assert_eq!(Operation::decode(b"\xa1x"), Err(OperationError::Unknown("x".to_owned())));
        for frame in [&b""[..], b"\xc0", b"\xc3", b"\x18\x00", b"\xcb\x40\x38\0\0\0\0\0\0", b"\xcd\x00"] {
            assert_eq!(Operation::decode(frame), Err(OperationError::Malformed), "{frame:x?}");
        }
    }
}
