//! Adapters with their layers, from configuration.

use std::path::PathBuf;
use std::sync::Arc;

use super::breaker::{Breaker, BreakerConfig};
use super::checksum::Checksum;
use super::deadline::{Deadline, DeadlineConfig};
use super::fault::{Fault, FaultConfig};
use super::limit::{Limit, LimitConfig};
use super::retry::{RetryConfig, Retrying};
use crate::adapter::Adapter;
use crate::error::L2Error;
use crate::eviction::EvictionListener;
use crate::fault_inject::{FaultInject, Faults};
use crate::fs::{Fs, FsConfig, FsNativeConfig};
use crate::mock::{Mock, MockConfig};

/// A backend and what wraps it.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// The backend.
    pub backend: Backend,
    /// What wraps it.
    pub layers: LayersConfig,
}

/// A backend and its settings.
#[derive(Clone, Debug, PartialEq)]
pub enum Backend {
    /// One file for each object.
    Fs(FsConfig),
    /// The same files, with a worker pool and a capacity.
    FsNative(FsNativeConfig),
    /// Memory with a simulated bandwidth.
    Mock(MockConfig),
    /// Another adapter, with layers of its own, whose loads fail on purpose.
    FaultInject(Box<FaultInjectConfig>),
}

/// Settings of the `fault_inject` adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultInjectConfig {
    /// The adapter that does the work.
    pub inner: AdapterConfig,
    /// Which of its loads fail.
    pub faults: Faults,
}

/// Which layers there are; `None` leaves one out.
#[derive(Clone, Debug, PartialEq)]
pub struct LayersConfig {
    /// See [`super::breaker`].
    pub breaker: Option<BreakerConfig>,
    /// See [`super::deadline`].
    pub deadline: Option<DeadlineConfig>,
    /// See [`super::retry`].
    pub retry: Option<RetryConfig>,
    /// See [`super::limit`].
    pub limit: Option<LimitConfig>,
    /// See [`super::checksum`]. Not for backends that others write to.
    pub checksum: bool,
    /// See [`super::fault`]. For tests.
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
    /// No layer at all.
    pub const fn none() -> Self {
        Self { breaker: None, deadline: None, retry: None, limit: None, checksum: false, fault: None }
    }
}

/// Opens the backend and stacks the layers in the order that the [module](super) explains.
///
/// # Errors
/// The backend cannot be opened, or its checksums cannot.
pub fn build(config: AdapterConfig) -> Result<Arc<dyn Adapter>, L2Error> {
    build_with_listener(config, None)
}

/// The same, with somebody who is told of what leaves the backend. Backends that remove nothing by
/// themselves tell nothing.
///
/// # Errors
/// As [`build`].
pub fn build_with_listener(
    config: AdapterConfig,
    watch: Option<Arc<dyn EvictionListener>>,
) -> Result<Arc<dyn Adapter>, L2Error> {
    let AdapterConfig { backend, layers } = config;
    let (mut adapter, directory) = open(backend, watch)?;
    if let Some(fault) = layers.fault {
        adapter = Arc::new(Fault::new(adapter, fault));
    }
    if layers.checksum {
        adapter = Arc::new(Checksum::new(adapter, directory.as_deref())?);
    }
    if let Some(limit) = layers.limit {
        adapter = Arc::new(Limit::new(adapter, limit));
    }
    if let Some(retry) = layers.retry {
        adapter = Arc::new(Retrying::new(adapter, retry));
    }
    if let Some(deadline) = layers.deadline {
        adapter = Arc::new(Deadline::new(adapter, deadline));
    }
    if let Some(breaker) = layers.breaker {
        adapter = Arc::new(Breaker::new(adapter, breaker));
    }
    Ok(adapter)
}

/// The backend, and the directory in which it keeps its objects.
fn open(
    backend: Backend,
    watch: Option<Arc<dyn EvictionListener>>,
) -> Result<(Arc<dyn Adapter>, Option<PathBuf>), L2Error> {
    let files = |fs: Fs, directory| -> (Arc<dyn Adapter>, _) {
        watch.iter().for_each(|watch| fs.watch(watch.clone()));
        (Arc::new(fs), Some(directory))
    };
    Ok(match backend {
        Backend::Fs(config) => {
            let directory = config.base_path.clone();
            files(Fs::open(config)?, directory)
        }
        Backend::FsNative(config) => {
            let directory = config.fs.base_path.clone();
            files(Fs::open_native(config)?, directory)
        }
        Backend::Mock(config) => {
            let mock = Mock::new(&config);
            watch.into_iter().for_each(|watch| mock.watch(watch));
            (Arc::new(mock), None)
        }
        Backend::FaultInject(config) => {
            let FaultInjectConfig { inner, faults } = *config;
            (Arc::new(FaultInject::new(build_with_listener(inner, watch)?, faults)), None)
        }
    })
}
