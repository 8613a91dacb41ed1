//! Settings of `fault_inject`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{FaultInject, Faults};
use crate::adapter::Adapter;
use crate::adapters::{Backend, OpenContext};
use crate::config::AdapterConfig;
use crate::error::L2Error;
use crate::layers::FaultConfig;
use crate::spec::Fields;

/// Settings of the `fault_inject` adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultInjectConfig {
    /// The adapter that does the work.
    pub inner: Box<AdapterConfig>,
    /// Which of its loads fail, as in LMCache.
    pub faults: Faults,
    /// Faults next to the backend, below the layers of `inner` (not in LMCache).
    pub backend_faults: FaultConfig,
}

impl Backend for FaultInjectConfig {
    fn parse(fields: &mut Fields<'_>) -> Option<Self> {
        let faults = Faults {
            rate: fields.fraction("rate").unwrap_or(0.0),
            seed: fields.integer("seed", 0),
            gap_indices: fields.list("gap_indices", "a list of non-negative integers", |value| {
                value.as_u64().map(|n| n as usize)
            }),
            gap_tail_ratios: fields.list("gap_tail_ratios", "a list of numbers from 0 to 1", |value| {
                value.as_f64().filter(|ratio| (0.0..=1.0).contains(ratio))
            }),
        };
        let backend_faults = parse_backend_faults(fields, faults.seed.cast_unsigned());
        let Some(inner) = fields.object("inner") else {
            fields.conflict("inner must be the JSON object of another adapter");
            return None;
        };
        match AdapterConfig::parse(&format!("{} inner", fields.subject()), inner) {
            Ok(inner) => Some(Self { inner: Box::new(inner), faults, backend_faults }),
            Err(errors) => {
                fields.add_errors(errors);
                None
            }
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "inner": self.inner.to_json(),
            "rate": self.faults.rate,
            "seed": self.faults.seed,
            "gap_indices": self.faults.gap_indices,
            "gap_tail_ratios": self.faults.gap_tail_ratios,
        })
    }

    fn open(&self, _: &AdapterConfig, context: &OpenContext) -> Result<Arc<dyn Adapter>, L2Error> {
        let inner = self.inner.open_with_faults(context, Some(self.backend_faults.clone()))?;
        let adapter = Arc::new(FaultInject::new(inner, self.faults.clone()));
        Ok(adapter)
    }

    fn enforces_quotas(&self, _: &AdapterConfig) -> bool {
        self.inner.enforces_quotas()
    }

    fn warnings(&self, config: &AdapterConfig) -> Vec<String> {
        let ignored = config.eviction.is_some() || !config.persist;
        let line = "eviction and persist_enabled are ignored here: they go into 'inner'".to_owned();
        let inner = self.inner.warnings().into_iter().map(|line| format!("inner: {line}"));
        ignored.then_some(line).into_iter().chain(inner).collect()
    }

    fn status(&self) -> Value {
        self.inner.backend.settings().status()
    }
}

fn parse_backend_faults(fields: &mut Fields<'_>, seed: u64) -> FaultConfig {
    let mut rate = |field| fields.fraction(field).unwrap_or(0.0);
    FaultConfig {
        seed,
        error: rate("error_rate"),
        hang: rate("hang_rate"),
        short_read: rate("short_read_rate"),
        bit_flip: rate("bit_flip_rate"),
        torn_write: rate("torn_write_rate"),
        hang_time: Duration::from_secs(fields.positive("hang_seconds").unwrap_or(60)),
        ..FaultConfig::default()
    }
}
