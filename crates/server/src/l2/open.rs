//! From configuration to adapters.

use std::sync::Arc;

use larder_l2::fault_inject::Faults;
use larder_l2::layers::{
    AdapterConfig, Backend, FaultConfig, FaultInjectConfig, LayersConfig, build_with_listener,
};
use larder_l2::{Adapter, CapacityLimits, L2Error, TenantLimits, Watermarks, fs, mock};
use larder_types::ids::AdapterId;

use super::eviction_listener::{Owner, Removals};
use crate::config::{EvictionConfig, EvictionPolicy, L2AdapterConfig, l2};

/// An adapter could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("--l2-adapter #{number} ({kind}): {source}")]
pub struct OpenError {
    /// Its place among the adapters, from 1.
    number: usize,
    /// Its type.
    kind: &'static str,
    /// Why.
    source: L2Error,
}

/// Opens the adapters in their order. Those that enforce quotas begin with `salts`. What they remove by
/// themselves is told to `owner`'s core.
///
/// # Errors
/// The first that cannot be opened.
pub fn open(
    configs: &[L2AdapterConfig],
    salts: &TenantLimits,
    owner: &Arc<Owner>,
) -> Result<Vec<Arc<dyn Adapter>>, OpenError> {
    let open_one = |(i, config): (usize, &L2AdapterConfig)| {
        let watch = Removals::new(owner.clone(), AdapterId(i as u32));
        build_with_listener(adapter(config, salts), Some(Arc::new(watch))).map_err(|source| OpenError {
            number: i + 1,
            kind: config.backend.type_name(),
            source,
        })
    };
    configs.iter().enumerate().map(open_one).collect()
}

fn adapter(config: &L2AdapterConfig, salts: &TenantLimits) -> AdapterConfig {
    let layers = LayersConfig { checksum: config.checksum, ..LayersConfig::default() };
    AdapterConfig { backend: backend(config, salts), layers }
}

/// The adapter under a `fault_inject`, with the faults that lie beneath its layers.
fn faulty(config: &l2::FaultInjectConfig, salts: &TenantLimits) -> AdapterConfig {
    let mut inner = adapter(&config.inner, salts);
    let faults = &config.beneath;
    inner.layers.fault = (*faults != l2::BackendFaults::default()).then(|| FaultConfig {
        seed: config.seed.cast_unsigned(),
        error: faults.error_rate,
        hang: faults.hang_rate,
        hang_time: faults.hang,
        short_read: faults.short_read_rate,
        bit_flip: faults.bit_flip_rate,
        torn_write: faults.torn_write_rate,
        ..FaultConfig::default()
    });
    inner
}

fn backend(config: &L2AdapterConfig, salts: &TenantLimits) -> Backend {
    let files = |files: &l2::FsConfig| fs::FsConfig {
        base_path: files.base_path.clone(),
        relative_tmp_dir: files.relative_tmp_dir.clone(),
        read_ahead_bytes: files.read_ahead_bytes,
        use_odirect: files.use_odirect,
        bounds: bounds(files.max_capacity_bytes, config.eviction.as_ref(), salts),
    };
    match &config.backend {
        l2::L2Backend::Fs(config) => Backend::Fs(files(config)),
        l2::L2Backend::FsNative(config) => {
            Backend::FsNative(fs::FsNativeConfig { fs: files(&config.fs), num_workers: config.num_workers })
        }
        l2::L2Backend::Mock(config) => Backend::Mock(mock::MockConfig {
            max_size_bytes: config.max_size_bytes,
            bandwidth_bytes_per_second: config.bandwidth_bytes_per_second,
        }),
        l2::L2Backend::FaultInject(config) => Backend::FaultInject(Box::new(FaultInjectConfig {
            inner: faulty(config, salts),
            faults: Faults {
                rate: config.rate,
                seed: config.seed,
                gap_indices: config.gap_indices.clone(),
                gap_tail_ratios: config.gap_tail_ratios.clone(),
            },
        })),
    }
}

/// A capacity holds with or without an `eviction` block, which says what leaves, and whether some of it
/// in advance.
fn bounds(capacity_bytes: u64, eviction: Option<&EvictionConfig>, salts: &TenantLimits) -> CapacityLimits {
    let bounds = CapacityLimits::capacity(capacity_bytes);
    let Some(eviction) = eviction else { return bounds };
    let share = |share: f64| (capacity_bytes as f64 * share.max(0.0)) as u64;
    let EvictionConfig { policy, trigger_watermark: above, ratio, background_trim } = *eviction;
    let evicts = policy != EvictionPolicy::Noop;
    let marks = Watermarks { high_bytes: share(above), low_bytes: share(above - ratio) };
    CapacityLimits {
        evicts,
        trim: (evicts && background_trim && capacity_bytes > 0).then_some(marks),
        quotas: (policy == EvictionPolicy::IsolatedLru).then(|| salts.clone()),
        ..bounds
    }
}
