//! Settings of `mock`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Mock;
use crate::adapter::Adapter;
use crate::adapters::{Backend, OpenContext};
use crate::config::AdapterConfig;
use crate::error::L2Error;
use crate::spec::{Fields, gib_from_bytes};

/// Settings of the `mock` adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MockConfig {
    /// Maximum bytes. Above 0.
    pub max_size_bytes: u64,
    /// Bytes moved per second. Above 0.
    pub bandwidth_bytes_per_second: u64,
}

impl Backend for MockConfig {
    fn parse(fields: &mut Fields<'_>) -> Option<Self> {
        let (size, bandwidth) =
            (fields.required_gib("max_size_gb"), fields.required_gib("mock_bandwidth_gb"));
        Some(Self { max_size_bytes: size?, bandwidth_bytes_per_second: bandwidth? })
    }

    fn to_json(&self) -> Value {
        json!({
            "max_size_gb": gib_from_bytes(self.max_size_bytes),
            "mock_bandwidth_gb": gib_from_bytes(self.bandwidth_bytes_per_second),
        })
    }

    fn open(&self, _: &AdapterConfig, context: &OpenContext) -> Result<Arc<dyn Adapter>, L2Error> {
        let mock = Mock::with_listener(self, context.listener.clone());
        Ok(Arc::new(mock))
    }

    fn warnings(&self, config: &AdapterConfig) -> Vec<String> {
        let line = "eviction is ignored: 'mock' evicts at max_size_gb as LRU does";
        config.eviction.map(|_| line.to_owned()).into_iter().collect()
    }
}
