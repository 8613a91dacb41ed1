//! Names of the parties that hold things.

pub use larder_wire::registration::InstanceId;

/// One request connection, never reused within a server's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);
