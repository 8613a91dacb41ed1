//! Enumerations that travel as one of a fixed set of texts.

/// Defines an enumeration with its texts, `from_name` and `name`.
macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The text on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The value of a text.
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($text => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }

        impl $crate::codec::Value for $name {
            fn decode(
                reader: &mut $crate::msgpack::Reader<'_>,
                field: &'static str,
            ) -> Result<Self, $crate::error::DecodeError> {
                let name = reader.str(field)?;
                Self::from_name(name).ok_or_else(|| $crate::error::DecodeError::unknown_name(field, name))
            }

            fn encode(&self, writer: &mut $crate::msgpack::Writer) {
                writer.str(self.name());
            }
        }
    };
}

pub(crate) use text_enum;
