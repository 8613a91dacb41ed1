//! What is common to all backends: layers that each wrap an adapter and are one themselves.
//!
//! [`LayersConfig::wrap`] stacks them. From the caller inwards:
//!
//! 1. [`breaker`]: outermost, because it must see what a caller sees. A backend that hangs shows only
//!    in the answers of the deadline. While the breaker is open nothing below it is called.
//! 2. [`report`]: counts and logs what the backend did not do in the end. Calls that the breaker refuses did not reach
//!    the backend.
//! 3. [`deadline`]: around retries and queues, so that its time is the caller's time.
//! 4. [`retry`]: outside the limit, so that a pause between two attempts occupies no permit.
//! 5. [`limit`]: around everything that holds memory or the disk.
//! 6. [`checksum`]: sees exactly the bytes of the backend. Corrupt data is not retried. Backends that keep checksums
//!    themselves, as files do, need it only above injected faults.
//! 7. [`fault`]: for tests, next to the backend, so that everything above has to handle it.

/// Forwards methods of [`Adapter`](crate::Adapter) to the adapter in a field. The trait has no default methods, so
/// a layer that neither lists nor implements a method does not compile.
macro_rules! forward {
    ($($field:ident).+: $($method:ident),+) => {
        forward!(@each [$($field).+] $($method)+);
    };
    (@each $path:tt $($method:ident)+) => {
        $(forward!(@$method $path);)+
    };
    (@kind [$($field:ident).+]) => {
        fn kind(&self) -> &'static str {
            self.$($field).+.kind()
        }
    };
    (@capabilities [$($field:ident).+]) => {
        fn capabilities(&self) -> crate::Capabilities {
            self.$($field).+.capabilities()
        }
    };
    (@lookup [$($field:ident).+]) => {
        fn lookup(
            &self,
            keys: Vec<larder_types::object::ObjectKey>,
        ) -> crate::BoxFuture<'_, crate::Results<Option<u64>>> {
            self.$($field).+.lookup(keys)
        }
    };
    (@load [$($field:ident).+]) => {
        fn load(&self, transfers: Vec<crate::Transfer>) -> crate::BoxFuture<'_, crate::Results<()>> {
            self.$($field).+.load(transfers)
        }
    };
    (@store [$($field:ident).+]) => {
        fn store(
            &self,
            transfers: Vec<crate::Transfer>,
        ) -> crate::BoxFuture<'_, crate::Results<crate::Stored>> {
            self.$($field).+.store(transfers)
        }
    };
    (@delete [$($field:ident).+]) => {
        fn delete(
            &self,
            keys: Vec<larder_types::object::ObjectKey>,
        ) -> crate::BoxFuture<'_, crate::Results<bool>> {
            self.$($field).+.delete(keys)
        }
    };
    (@list [$($field:ident).+]) => {
        fn list(
            &self,
            cursor: Option<crate::Cursor>,
            limit: std::num::NonZeroUsize,
        ) -> crate::BoxFuture<'_, Result<crate::Page, crate::L2Error>> {
            self.$($field).+.list(cursor, limit)
        }
    };
    (@usage [$($field:ident).+]) => {
        fn usage(&self) -> crate::Usage {
            self.$($field).+.usage()
        }
    };
    (@usage_by_salt [$($field:ident).+]) => {
        fn usage_by_salt(&self) -> Vec<(std::sync::Arc<str>, u64)> {
            self.$($field).+.usage_by_salt()
        }
    };
    (@set_quota [$($field:ident).+]) => {
        fn set_quota(
            &self,
            salt: &std::sync::Arc<str>,
            limit_bytes: Option<u64>,
        ) -> crate::BoxFuture<'_, ()> {
            self.$($field).+.set_quota(salt, limit_bytes)
        }
    };
    (@health [$($field:ident).+]) => {
        fn health(&self) -> crate::Health {
            self.$($field).+.health()
        }
    };
    (@failures [$($field:ident).+]) => {
        fn failures(&self) -> crate::Failures {
            self.$($field).+.failures()
        }
    };
    (@close [$($field:ident).+]) => {
        fn close(&self) -> crate::BoxFuture<'_, ()> {
            self.$($field).+.close()
        }
    };
}
pub(crate) use forward;

pub mod breaker;
pub mod checksum;
pub mod deadline;
pub mod fault;
pub mod limit;
pub mod report;
pub mod retry;

use std::sync::Arc;

use crate::adapter::Adapter;
use crate::error::L2Error;

pub use self::breaker::{Breaker, BreakerConfig};
pub use self::checksum::Checksum;
pub use self::deadline::{Deadline, DeadlineConfig};
pub use self::fault::{Fault, FaultConfig};
pub use self::limit::{Limit, LimitConfig};
pub use self::report::Reporting;
pub use self::retry::{RetryConfig, Retrying};

/// The layers of an adapter; `None` leaves one out.
#[derive(Clone, Debug, PartialEq)]
pub struct LayersConfig {
    /// See [`breaker`].
    pub breaker: Option<BreakerConfig>,
    /// See [`deadline`].
    pub deadline: Option<DeadlineConfig>,
    /// See [`retry`].
    pub retry: Option<RetryConfig>,
    /// See [`limit`].
    pub limit: Option<LimitConfig>,
    /// See [`checksum`]. Not for backends that other servers write to, or that keep checksums themselves.
    pub checksum: bool,
    /// See [`fault`]. For tests.
    pub fault: Option<FaultConfig>,
}

impl Default for LayersConfig {
    fn default() -> Self {
        Self {
            breaker: Some(BreakerConfig::default()),
            deadline: Some(DeadlineConfig::default()),
            retry: Some(RetryConfig::default()),
            limit: Some(LimitConfig::default()),
            checksum: false,
            fault: None,
        }
    }
}

impl LayersConfig {
    /// Stacks the layers around `adapter`.
    ///
    /// # Errors
    /// The threads of a layer cannot be started.
    pub fn wrap(self, mut adapter: Arc<dyn Adapter>) -> Result<Arc<dyn Adapter>, L2Error> {
        if let Some(fault) = self.fault {
            adapter = Arc::new(Fault::new(adapter, fault));
        }
        if self.checksum {
            adapter = Arc::new(Checksum::new(adapter)?);
        }
        if let Some(limit) = self.limit {
            adapter = Arc::new(Limit::new(adapter, limit));
        }
        if let Some(retry) = self.retry {
            adapter = Arc::new(Retrying::new(adapter, retry));
        }
        if let Some(deadline) = self.deadline {
            adapter = Arc::new(Deadline::new(adapter, deadline));
        }
        adapter = Arc::new(Reporting::new(adapter));
        if let Some(breaker) = self.breaker {
            adapter = Arc::new(Breaker::new(adapter, breaker));
        }
        Ok(adapter)
    }
}
