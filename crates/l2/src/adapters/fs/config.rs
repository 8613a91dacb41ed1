//! Settings of `fs` and `fs_native`.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use larder_policy::eviction::EvictionKind;
use serde_json::{Value, json};

use super::Fs;
use super::access::FileMode;
use super::file::Mode;
use super::file_system::FileSystem;
use super::object_dir::Place;
use super::sync_policy::SyncPolicy;
use crate::adapter::Adapter;
use crate::adapters::{Backend, OpenContext};
use crate::capacity::CapacityLimits;
use crate::config::{AdapterConfig, ChecksumMode};
use crate::error::L2Error;
use crate::spec::path::{home, path_error};
use crate::spec::{Fields, gib_from_bytes};

/// Worker threads of `fs`.
const FS_WORKERS: usize = 8;

/// Worker threads of `fs_native` unless configured, as in LMCache.
const NATIVE_WORKERS: usize = 4;

/// Settings of the `fs` adapter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsConfig {
    /// The directory of the files. Created when missing.
    pub base_path: PathBuf,
    /// Directory of unfinished files, relative to [`FsConfig::base_path`] and on the same file system; `None`:
    /// beside the finished ones.
    pub relative_tmp_dir: Option<PathBuf>,
    /// Size of a first small read of a large object, before the rest is read; `None`: 16 KiB.
    pub read_ahead_bytes: Option<u64>,
    /// Whether to bypass the page cache where sizes allow it.
    pub use_odirect: bool,
    /// Maximum bytes of the files; 0: no limit.
    pub max_capacity_bytes: u64,
    /// Who may read and write the files.
    pub mode: FileMode,
    /// When stored objects are durable.
    pub sync: SyncPolicy,
    /// What is done with checksums. From [`AdapterConfig::checksum`] when a configuration is opened.
    pub checksums: ChecksumMode,
}

/// Settings of the `fs_native` adapter: the same files, padded to whole blocks under `use_odirect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsNativeConfig {
    /// The files.
    pub fs: FsConfig,
    /// Concurrent file operations. At least 1.
    pub num_workers: usize,
}

impl FsConfig {
    /// Files in `base_path`, with the defaults of all other settings.
    pub fn new(base_path: impl Into<PathBuf>) -> Self {
        Self { base_path: base_path.into(), ..Self::default() }
    }

    /// Directory of unfinished files.
    pub(super) fn temporary(&self) -> Result<PathBuf, &'static str> {
        match &self.relative_tmp_dir {
            Some(path) if escapes(path) => {
                Err("relative_tmp_dir must stay inside base_path: relative, and without '..'")
            }
            Some(path) => Ok(self.base_path.join(path)),
            None => Ok(self.base_path.clone()),
        }
    }

    /// Where and how objects are kept.
    pub(super) fn place(&self, mode: Mode, files: Arc<dyn FileSystem>) -> Result<Place, &'static str> {
        let (base, temporary) = (self.base_path.clone(), self.temporary()?);
        Ok(Place { base, temporary, mode, sync: self.sync, checksums: self.checksums, files })
    }

    /// How files are read and written, without padding.
    pub(super) fn io_mode(&self) -> Mode {
        Mode { direct: self.use_odirect, pad: false, read_ahead: self.read_ahead_bytes, access: self.mode }
    }

    /// The same settings with the checksums of `config`.
    fn for_adapter(&self, config: &AdapterConfig) -> Self {
        Self { checksums: config.checksum, ..self.clone() }
    }

    fn limits(&self, config: &AdapterConfig, context: &OpenContext) -> CapacityLimits {
        let limits =
            CapacityLimits::new(self.max_capacity_bytes, config.eviction.as_ref(), &context.tenant_limits);
        CapacityLimits { own_objects_only: config.shared, ..limits }
    }
}

/// Whether `path`, taken relative to a directory, may lead out of it.
fn escapes(path: &Path) -> bool {
    !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

impl Backend for FsConfig {
    fn parse(fields: &mut Fields<'_>) -> Option<Self> {
        let base_path = fields.required_name("base_path");
        let home = home();
        if let Some(error) = base_path.and_then(|path| path_error(path, home.as_deref())) {
            fields.conflict(format!("base_path {error}"));
        }
        let config = Self {
            base_path: base_path.unwrap_or_default().into(),
            relative_tmp_dir: fields
                .text("relative_tmp_dir")
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            read_ahead_bytes: fields.positive("read_ahead_size"),
            use_odirect: fields.boolean("use_odirect", false),
            max_capacity_bytes: fields.gib("max_capacity_gb").unwrap_or(0),
            mode: fields.choice("mode", FileMode::EXPECTED, FileMode::parse).unwrap_or_default(),
            sync: fields
                .choice("sync", "'always', 'batch', or 'none'", SyncPolicy::from_name)
                .unwrap_or_default(),
            checksums: ChecksumMode::default(),
        };
        if let Err(error) = config.temporary() {
            fields.conflict(error);
        }
        base_path.map(|_| config)
    }

    fn to_json(&self) -> Value {
        json!({
            "base_path": self.base_path.to_string_lossy(),
            "relative_tmp_dir": self.relative_tmp_dir.as_ref().map(|dir| dir.to_string_lossy()),
            "read_ahead_size": self.read_ahead_bytes,
            "use_odirect": self.use_odirect,
            "sync": self.sync.name(),
            "max_capacity_gb": gib_from_bytes(self.max_capacity_bytes),
            "mode": self.mode.octal(),
        })
    }

    fn open(&self, config: &AdapterConfig, context: &OpenContext) -> Result<Arc<dyn Adapter>, L2Error> {
        let (limits, listener) = (self.limits(config, context), context.listener.clone());
        let fs = Fs::open(&self.for_adapter(config), FS_WORKERS, limits, listener)?;
        Ok(Arc::new(fs))
    }

    fn keeps_checksums(&self) -> bool {
        true
    }

    fn enforces_quotas(&self, config: &AdapterConfig) -> bool {
        config.eviction.is_some_and(|eviction| eviction.policy == EvictionKind::IsolatedLru)
    }

    fn warnings(&self, config: &AdapterConfig) -> Vec<String> {
        let mut lines = Vec::new();
        if self.base_path.is_relative() {
            let place = std::path::absolute(&self.base_path).unwrap_or_else(|_| self.base_path.clone());
            lines.push(format!(
                "base_path is relative to the working directory: files are in {}",
                place.display()
            ));
        }
        if !config.persist {
            lines.push("persist_enabled false is ignored: files stay, as LMCache leaves them".to_owned());
        }
        let Some(policy) = config.eviction.map(|eviction| eviction.policy) else { return lines };
        if self.max_capacity_bytes == 0 && policy != EvictionKind::IsolatedLru {
            lines.push("eviction limits nothing without max_capacity_gb".to_owned());
        }
        if matches!(policy, EvictionKind::Arc | EvictionKind::S3Fifo | EvictionKind::Adaptive) {
            lines.push(format!("eviction_policy {policy} is for L1; files are evicted as with LRU"));
        }
        lines
    }

    fn status(&self) -> Value {
        json!({
            "base_path": self.base_path.display().to_string(),
            "use_odirect": self.use_odirect,
            // LMCache runs an event loop for its files; here worker threads do the I/O.
            "event_loop_alive": true,
        })
    }
}

impl Backend for FsNativeConfig {
    fn parse(fields: &mut Fields<'_>) -> Option<Self> {
        let num_workers = fields.positive("num_workers").map_or(NATIVE_WORKERS, |workers| workers as usize);
        Some(Self { fs: FsConfig::parse(fields)?, num_workers })
    }

    fn to_json(&self) -> Value {
        let mut value = self.fs.to_json();
        value["num_workers"] = json!(self.num_workers);
        value
    }

    fn open(&self, config: &AdapterConfig, context: &OpenContext) -> Result<Arc<dyn Adapter>, L2Error> {
        let settings = Self { fs: self.fs.for_adapter(config), num_workers: self.num_workers };
        let fs = Fs::open_native(&settings, self.fs.limits(config, context), context.listener.clone())?;
        Ok(Arc::new(fs))
    }

    fn keeps_checksums(&self) -> bool {
        true
    }

    fn enforces_quotas(&self, config: &AdapterConfig) -> bool {
        self.fs.enforces_quotas(config)
    }

    fn warnings(&self, config: &AdapterConfig) -> Vec<String> {
        self.fs.warnings(config)
    }

    fn status(&self) -> Value {
        self.fs.status()
    }
}
