//! When files are synced.

/// When a stored object is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncPolicy {
    /// Each object is synced, and its name after it, before it is stored.
    Always,
    /// The same, but the names of objects that are written at the same time are synced together.
    #[default]
    Batch,
    /// Nothing is synced: the kernel writes when it likes.
    None,
}

impl SyncPolicy {
    pub(super) const ALL: [Self; 3] = [Self::Always, Self::Batch, Self::None];

    /// The policy as the configuration writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Batch => "batch",
            Self::None => "none",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }
}
