//! The configuration as JSON with the fields of LMCache's `GET /config`.
//!
//! Tools read it (the Python SDK needs `mp.chunk_size` and `mp.shm_name`), so every field of LMCache is present with
//! its type; features that this server does not have are at the value for "off".

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::secret::{REDACTED, redact};
use super::{Config, EvictionConfig, GIB, L2AdapterConfig, OtlpConfig};

impl Config {
    /// The configuration with LMCache's fields, secrets replaced by `***`.
    pub fn to_reference_json(&self) -> Value {
        let mut value = json!({
            "mp": self.mp(),
            "storage_manager": self.storage_manager(),
            "observability": self.observability(),
            "http": {
                "http_host": self.http.host,
                "http_port": self.http.port,
                "auth_token": self.http.auth_token.as_ref().map(|_| REDACTED),
                "auth_reads": self.http.auth_reads,
                "allowed_hosts": self.http.allowed_hosts,
                "uds": self.http.uds.as_ref().map(|path| path.to_string_lossy()),
                "debug_endpoints": self.http.debug_endpoints,
                "access_log": self.http.access_log,
            },
            "coordinator": {
                "url": self.coordinator.url.as_deref().unwrap_or_default(),
                "advertise_ip": self.coordinator.advertise_ip.as_deref().unwrap_or_default(),
                "heartbeat_interval": self.coordinator.heartbeat_interval.as_secs_f64(),
                "event_reporting": self.coordinator.event_reporting,
                "event_flush_interval": self.coordinator.event_flush_interval.as_secs_f64(),
                "event_sink_config": {},
                "blend_timeout": 1.0,
                "blend_match_concurrency": 8,
            },
        });
        redact(&mut value);
        value
    }

    fn mp(&self) -> Value {
        json!({
            "transport": self.rpc.transport.name(),
            "grpc_max_message_mb": self.rpc.grpc_message_bytes_max >> 20,
            "host": self.rpc.host,
            "port": self.rpc.port,
            "listen": self.rpc.listen,
            "chunk_size": self.chunk_tokens,
            "max_workers": self.rpc.worker_threads.base,
            "max_gpu_workers": self.rpc.worker_threads.gpu,
            "max_cpu_workers": self.rpc.worker_threads.cpu,
            "grpc_server_workers": 32,
            "hash_algorithm": self.hash_algorithm.name(),
            "engine_type": "default",
            "separate_object_groups": self.separate_object_groups,
            "enable_segmented_prefix": false,
            "enable_dedup_content": false,
            "enable_blend_reorder": false,
            "supported_transfer_mode": self.rpc.transfer_mode.name(),
            "isolated_ipc": false,
            "runtime_plugin_config": { "locations": [], "extra_config": {} },
            "p2p_config": {
                "advertise_url": "",
                "listen_url": "",
                "lookup_timeout": 30.0,
                "load_timeout": 30.0,
                "transfer_engine": "nixl",
            },
            "shm_name": self.l1.shm_name.as_deref().unwrap_or_default(),
            "script_allowed_imports": [],
            "run_script_api_enabled": false,
            "instance_id": self.instance_id,
            "worker_reap_timeout_seconds":
                self.liveness.worker_reap_timeout.map_or(0.0, |timeout| timeout.as_secs_f64()),
            "session_ttl_seconds": self.liveness.session_ttl.as_secs_f64(),
            "worker_registration_grace_seconds": self.liveness.worker_registration_grace.as_secs_f64(),
            "worker_disconnect_grace_seconds":
                self.liveness.worker_disconnect_grace.map_or(0.0, |grace| grace.as_secs_f64()),
            "late_write_timeout_seconds": self.liveness.late_write_timeout.as_secs_f64(),
            "enable": [],
            "kv_event_log_size": self.kv_event_log_records,
            "null_block_id": self.null_block_id,
            "server_modules": [],
            "state_dir": self.state_dir.as_ref().map(|dir| dir.to_string_lossy()),
            "shutdown_timeout_seconds": self.shutdown_timeout.as_secs_f64(),
            "exit_when_idle_seconds": self.exit_when_idle.map(|idle| idle.as_secs_f64()),
        })
    }

    fn storage_manager(&self) -> Value {
        let eviction = self.l1_eviction();
        let l1 = json!({
            "memory_config": {
                "size_in_bytes": self.l1.bytes,
                // Memory is committed as it is first used.
                "use_lazy": true,
                "init_size_in_bytes": 0,
                "align_bytes": self.l1.align_bytes,
                "shm_name": self.l1.shm_name.as_deref().unwrap_or_default(),
                "use_hugepages": self.l1.hugepages,
                "devdax_path": null,
                "devdax_size_in_bytes": 0,
            },
            "gds_l1_config": null,
            "write_ttl_seconds": self.l1.write_ttl.as_secs(),
            "read_ttl_seconds": self.l1.read_ttl.as_secs(),
            "client_share": self.l1.client_share,
            "tag": self.l1.tag,
            "eviction": eviction,
        });
        json!({
            "l1_manager_configs": [l1.clone()],
            "l1_manager_config": l1,
            "eviction_config": eviction,
            "quota_default_gb": self.quota_default_bytes.map(|bytes| bytes as f64 / GIB as f64),
            "l2_adapter_config": { "adapters": self.l2.adapters.iter().map(L2AdapterConfig::to_json).collect::<Vec<_>>() },
            "store_policy": self.l2.store_policy.name(),
            "prefetch_policy": self.l2.prefetch_policy.name(),
            "prefetch_max_in_flight": self.l2.prefetch_jobs_max,
            "periodic_notifier_interval_ms": 5,
        })
    }

    fn l1_eviction(&self) -> Value {
        let mut value = eviction(&self.eviction);
        value["extra_logging_enabled"] = json!(self.logging.extra_interval.is_some());
        value["extra_logging_interval"] = json!(self.extra_logging_interval_seconds());
        value
    }

    fn extra_logging_interval_seconds(&self) -> f64 {
        self.logging.extra_interval.map_or(10.0, |interval| interval.as_secs_f64())
    }

    fn observability(&self) -> Value {
        let hash_log = self.lookup_hash_log.as_ref();
        json!({
            "enabled": self.metrics.observability,
            "max_queue_size": 10_000,
            "metrics_enabled": self.metrics.enabled,
            "grpc_metrics_enabled": false,
            "logging_enabled": self.logging.requests,
            "log_level": self.logging.level.name(),
            "log_format": self.logging.format.name(),
            "tracing_enabled": self.otlp.as_ref().is_some_and(|otlp| otlp.tracing),
            "otlp_endpoint": self.otlp.as_ref().map(|otlp| &otlp.endpoint),
            "otlp_service_name": self.otlp.as_ref().map(OtlpConfig::service_name),
            // Without a port of their own, metrics are on the admin API's.
            "prometheus_port": self.metrics.prometheus_port.unwrap_or(self.http.port),
            "metrics_sample_rate": self.metrics.sample_rate,
            "metrics_instance_label": self.metrics.instance_label,
            "lookup_hash_log": {
                "output_dir": hash_log.map(|log| log.dir.to_string_lossy()).unwrap_or_default(),
                "rotation_interval_sec": hash_log.map_or(21_600, |log| log.rotation_interval.as_secs()),
                "rotation_max_size": hash_log.map_or(104_857_600, |log| log.rotation_max_bytes),
                "max_files": hash_log.map_or(100, |log| log.max_files),
            },
            "gc_monitor": { "enabled": false, "min_pause_ms": 1.0, "top_objects": 0 },
            "extra_logging_enabled": self.logging.extra_interval.is_some(),
            "extra_logging_interval": self.extra_logging_interval_seconds(),
            "trace_level": null,
            "trace_output": null,
            "service_instance_id": self.instance_id,
        })
    }
}

impl Serialize for Config {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_reference_json().serialize(serializer)
    }
}

fn eviction(eviction: &EvictionConfig) -> Value {
    json!({
        "eviction_policy": eviction.policy.name(),
        "trigger_watermark": eviction.trigger_watermark,
        "eviction_ratio": eviction.ratio,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Secret, l2};

    /// Every field of LMCache's response, with the type of its value.
    const SHAPE: &str = include_str!("reference_shape.txt");

    #[test]
    fn has_every_field_of_lmcache_with_its_type() {
        let mut config = Config::default();
        config.l2.adapters =
            vec![l2::parse_adapter(1, r#"{"type":"fs","base_path":"/data"}"#).expect("a valid adapter")];
        let value = config.to_reference_json();
        for line in SHAPE.lines() {
            let (pointer, types) = line.split_once(' ').expect("a pointer and a type");
            let found = value.pointer(pointer).unwrap_or_else(|| panic!("{pointer} is missing"));
            let found = match found {
                Value::Null => "null",
                Value::Bool(_) => "boolean",
                Value::Number(number) if number.is_f64() => "float",
                Value::Number(_) => "integer",
                Value::String(_) => "string",
                Value::Array(_) => "list",
                Value::Object(_) => "object",
            };
            assert_eq!(found, types, "{pointer}");
        }
    }

    #[test]
    fn secrets_are_redacted() {
        let mut config = Config::default();
        config.http.auth_token = Some(Secret::new("hunter2"));
        config.coordinator.url = Some("http://me:hunter2@coordinator:9300".to_owned());
        for text in [config.to_reference_json().to_string(), serde_json::to_string(&config).expect("JSON")] {
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}
