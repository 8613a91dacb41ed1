//! From configuration to adapters.

use std::sync::Arc;

use larder_l2::fault_inject::Faults;
use larder_l2::layers::{AdapterConfig, Backend, FaultConfig, FaultInjectConfig, LayersConfig, build};
use larder_l2::{Adapter, L2Error, fs, mock};

use crate::config::{L2AdapterConfig, l2};

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

/// Opens the adapters in their order.
///
/// # Errors
/// The first that cannot be opened.
pub fn open(configs: &[L2AdapterConfig]) -> Result<Vec<Arc<dyn Adapter>>, OpenError> {
    let open_one = |(i, config): (usize, &L2AdapterConfig)| {
        build(adapter(config)).map_err(|source| OpenError {
            number: i + 1,
            kind: config.backend.type_name(),
            source,
        })
    };
    configs.iter().enumerate().map(open_one).collect()
}

fn adapter(config: &L2AdapterConfig) -> AdapterConfig {
    let layers = LayersConfig { checksum: config.checksum, ..LayersConfig::default() };
    AdapterConfig { backend: backend(&config.backend), layers }
}

/// The adapter under a `fault_inject`, with the faults that lie beneath its layers.
fn faulty(config: &l2::FaultInjectConfig) -> AdapterConfig {
    let mut inner = adapter(&config.inner);
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

fn backend(backend: &l2::L2Backend) -> Backend {
    match backend {
        l2::L2Backend::Fs(config) => Backend::Fs(files(config)),
        l2::L2Backend::FsNative(config) => Backend::FsNative(fs::FsNativeConfig {
            fs: files(&config.fs),
            num_workers: config.num_workers,
            max_capacity_bytes: config.max_capacity_bytes,
        }),
        l2::L2Backend::Mock(config) => Backend::Mock(mock::MockConfig {
            max_size_bytes: config.max_size_bytes,
            bandwidth_bytes_per_second: config.bandwidth_bytes_per_second,
        }),
        l2::L2Backend::FaultInject(config) => Backend::FaultInject(Box::new(FaultInjectConfig {
            inner: faulty(config),
            faults: Faults {
                rate: config.rate,
                seed: config.seed,
                gap_indices: config.gap_indices.clone(),
                gap_tail_ratios: config.gap_tail_ratios.clone(),
            },
        })),
    }
}

fn files(config: &l2::FsConfig) -> fs::FsConfig {
    fs::FsConfig {
        base_path: config.base_path.clone(),
        relative_tmp_dir: config.relative_tmp_dir.clone(),
        read_ahead_bytes: config.read_ahead_bytes,
        use_odirect: config.use_odirect,
    }
}
