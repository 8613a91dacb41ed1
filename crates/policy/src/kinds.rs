//! The table of the policies of one kind.

/// Makes the enum of one kind of policy from its table. A line of the table is one policy: a doc comment, the
/// variant, the name that flags and status reports use, the type, and `learns` if the policy reads the
/// [`ReusePredictor`](crate::reuse::ReusePredictor).
macro_rules! policy_kinds {
    (
        $(#[$enum_meta:meta])* $Kind:ident creates $Policy:ident;
        $($(#[$meta:meta])+ $kind:ident = $name:literal, $policy:ty $(, $learns:ident)?;)+
    ) => {
        $(#[$enum_meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $Kind {
            $($(#[$meta])+ $kind,)+
        }

        impl $Kind {
            /// Every policy of this kind.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)+];

            /// The name in flags and status reports.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)+
                }
            }

            /// The policy with that name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|kind| kind.name() == name)
            }

            /// Whether the policy reads the [`ReusePredictor`](crate::reuse::ReusePredictor).
            pub const fn learns(self) -> bool {
                match self {
                    $(Self::$kind => policy_kinds!(@learns $($learns)?),)+
                }
            }

            /// A new policy without state.
            pub fn create(self) -> Box<dyn $Policy> {
                match self {
                    $(Self::$kind => Box::<$policy>::default(),)+
                }
            }
        }

        impl std::fmt::Display for $Kind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
    (@learns learns) => { true };
    (@learns) => { false };
}

pub(crate) use policy_kinds;
