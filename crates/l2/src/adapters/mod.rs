//! The backends: one folder each, and one line in `registry!`.
//!
//! A new backend implements [`Backend`] for its settings and [`Adapter`] for the open adapter; parsing,
//! layers, `GET /config` and the list of types follow from its line. The conformance suite
//! (`crate::conformance`) tests it, and `docs/l2-adapters.md` describes its fields.

pub mod fault_inject;
pub mod fs;
pub mod mock;

use std::fmt::Debug;
use std::sync::Arc;

use serde_json::Value;

use crate::adapter::Adapter;
use crate::capacity::TenantLimits;
use crate::config::AdapterConfig;
use crate::error::L2Error;
use crate::eviction::EvictionListener;
use crate::spec::Fields;

/// Settings of one type of backend.
///
/// `config` is the adapter that the backend belongs to, for the settings common to all types.
pub trait Backend: Debug {
    /// Reads the settings. `None` if a required field is missing or wrong, which `fields` has recorded.
    fn parse(fields: &mut Fields<'_>) -> Option<Self>
    where
        Self: Sized;

    /// The settings in the form of the adapter's JSON.
    fn to_json(&self) -> Value;

    /// Opens the backend, without the layers around it.
    ///
    /// # Errors
    /// The backend cannot be opened.
    fn open(&self, config: &AdapterConfig, context: &OpenContext) -> Result<Arc<dyn Adapter>, L2Error>;

    /// Whether it enforces quotas of cache salts.
    fn enforces_quotas(&self, _config: &AdapterConfig) -> bool {
        false
    }

    /// Whether it keeps checksums of its objects, over restarts; if not, a layer can keep them in memory.
    fn keeps_checksums(&self) -> bool {
        false
    }

    /// Settings that are accepted and have no effect, one line each.
    fn warnings(&self, _config: &AdapterConfig) -> Vec<String> {
        Vec::new()
    }

    /// Further members of the adapter's entry in `GET /status`.
    fn status(&self) -> Value {
        Value::Null
    }
}

/// What the server supplies to open adapters.
#[derive(Clone, Debug, Default)]
pub struct OpenContext {
    /// Quotas of cache salts at start.
    pub tenant_limits: TenantLimits,
    /// Receives what the adapter removes on its own.
    pub listener: Option<Arc<dyn EvictionListener>>,
}

/// Declares the types of backends.
macro_rules! registry {
    ($($type_name:literal => $variant:ident($config:ty),)+) => {
        /// A backend and its settings.
        #[derive(Clone, Debug, PartialEq)]
        #[expect(missing_docs, reason = "the settings' types describe themselves")]
        pub enum BackendConfig {
            $($variant($config),)+
        }

        /// The types, as the `type` field of an adapter's JSON.
        pub const TYPES: &[&str] = &[$($type_name),+];

        impl BackendConfig {
            /// The `type` of this backend.
            pub const fn type_name(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $type_name,)+
                }
            }

            /// The settings.
            pub fn settings(&self) -> &dyn Backend {
                match self {
                    $(Self::$variant(config) => config,)+
                }
            }

            /// Reads the settings of the backend `type_name`, one of [`TYPES`].
            pub(crate) fn parse(type_name: &str, fields: &mut Fields<'_>) -> Option<Self> {
                match type_name {
                    $($type_name => <$config>::parse(fields).map(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

registry! {
    "fault_inject" => FaultInject(fault_inject::FaultInjectConfig),
    "fs" => Fs(fs::FsConfig),
    "fs_native" => FsNative(fs::FsNativeConfig),
    "mock" => Mock(mock::MockConfig),
}

const USE_FILES: &str = "use 'fs' or 'fs_native', on a network file system where servers share it";

/// Types of LMCache that this server does not have, with what to use instead.
pub(crate) const UNSERVED: &[(&str, &str)] = &[
    ("aerospike", USE_FILES),
    ("bigtable", USE_FILES),
    ("dax", "a larger --l1-size-gb uses memory, and 'fs_native' a file system on the device"),
    ("hf3fs", "use 'fs' on the mount point"),
    ("hfbucket", USE_FILES),
    ("mooncake_store", USE_FILES),
    ("native_plugin", "it loads a Python extension; use 'fs' or 'fs_native'"),
    ("nixl_native", "use 'fs_native' on the same file system"),
    ("nixl_store", "use 'fs_native' on the same file system"),
    ("nixl_store_dynamic", "use 'fs_native' on the same file system"),
    ("p2p", "let the servers share an 'fs' adapter on a network file system"),
    ("plugin", "it loads a Python class; use 'fs' or 'fs_native'"),
    ("raw_block", "use 'fs_native' on a file system on the device"),
    ("resp", USE_FILES),
    ("s3", USE_FILES),
    ("sagemaker-hyperpod", USE_FILES),
    ("valkey", USE_FILES),
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Map;

    const GUIDE: &str = include_str!("../../../../docs/l2-adapters.md");

    /// The tests of the command line hold this file equal to its help.
    const FLAGS: &str = include_str!("../../../../docs/configuration.md");

    #[test]
    fn guide_describes_all_types_and_fields() {
        let flag = FLAGS.lines().find(|line| line.starts_with("| `--l2-adapter`")).expect("the flag");
        for type_name in TYPES {
            assert!(flag.contains(type_name), "{type_name} is missing in the help of --l2-adapter");
            let map = Map::new();
            let mut fields = Fields::new("", &map);
            let _ = BackendConfig::parse(type_name, &mut fields);
            let rows = GUIDE.lines().filter(|line| line.contains(&format!("`{type_name}`")));
            let rows = rows.collect::<Vec<_>>().join("\n");
            assert!(!rows.is_empty(), "{type_name} is missing in docs/l2-adapters.md");
            for field in fields.known() {
                assert!(rows.contains(&format!("`{field}`")), "{field} of {type_name} is not described");
            }
        }
    }
}
