//! Opening of the configured adapters.

use std::sync::Arc;

use larder_l2::{Adapter, ErrorKind, L2Error, OpenContext, TenantLimits};
use larder_types::ids::AdapterId;

use super::eviction_listener::{CoreEvictionListener, CoreSlot};
use crate::config::L2AdapterConfig;

/// An adapter could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("--l2-adapter #{number} ({type_name}): {}", error.explained())]
pub struct OpenError {
    /// Its position, counted from 1.
    number: usize,
    type_name: &'static str,
    error: L2Error,
}

impl OpenError {
    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }
}

/// Opens the adapters in order. Those that enforce quotas start with `tenant_limits`. Objects that they remove on
/// their own are reported to `core`.
///
/// # Errors
/// The first adapter that cannot be opened.
pub fn open(
    configs: &[L2AdapterConfig],
    tenant_limits: &TenantLimits,
    core: &Arc<CoreSlot>,
) -> Result<Vec<Arc<dyn Adapter>>, OpenError> {
    let open_one = |(i, config): (usize, &L2AdapterConfig)| {
        let listener = Arc::new(CoreEvictionListener::new(core.clone(), AdapterId(i as u32)));
        let context = OpenContext { tenant_limits: tenant_limits.clone(), listener: Some(listener) };
        config.open(&context).map_err(|error| OpenError {
            number: i + 1,
            type_name: config.backend.type_name(),
            error,
        })
    };
    configs.iter().enumerate().map(open_one).collect()
}
