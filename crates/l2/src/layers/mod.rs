//! What is common to all backends, each in a layer that wraps any adapter and is one itself.
//!
//! [`build`] stacks them. From the caller inwards:
//!
//! 1. [`breaker`]: outermost, because it must see what a caller sees. A backend that hangs shows only
//!    in the answers of the deadline, so the breaker cannot lie within it. While it is open nothing
//!    below is bothered.
//! 2. [`deadline`]: around retries and queues, so that its time is the caller's time.
//! 3. [`retry`]: outside the limit, so that a pause between two tries takes no place from others.
//! 4. [`limit`]: around everything that holds memory or the disk.
//! 5. [`checksum`]: sees the very bytes of the backend. What is corrupt is not tried again.
//! 6. [`fault`]: for tests, next to the backend, so that everything above has to cope with it.

pub mod breaker;
pub mod checksum;
pub mod deadline;
pub mod fault;
pub mod limit;
pub mod retry;

mod build;

pub use self::breaker::{Breaker, BreakerConfig};
pub use self::build::{AdapterConfig, Backend, FaultInjectConfig, LayersConfig, build, build_with_listener};
pub use self::checksum::Checksum;
pub use self::deadline::{Deadline, DeadlineConfig};
pub use self::fault::{Fault, FaultConfig};
pub use self::limit::{Limit, LimitConfig};
pub use self::retry::{RetryConfig, Retrying};
