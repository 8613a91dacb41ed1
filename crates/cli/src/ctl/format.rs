//! Responses as text. Fields that the response does not have, such as one of an older server, are left out.

use serde_json::Value;

/// Lines of a name and a value.
#[derive(Debug, Default)]
struct Lines(Vec<(String, String)>);

impl Lines {
    fn add(&mut self, name: impl Into<String>, value: Option<String>) {
        self.0.extend(value.map(|value| (name.into(), value)));
    }

    fn text(self) -> String {
        let width = self.0.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        self.0.iter().map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
    }
}

/// The response of `/status`.
pub(super) fn status(report: &Value) -> String {
    let mut lines = Lines::default();
    lines.add("healthy", report["is_healthy"].as_bool().map(|yes| if yes { "yes" } else { "NO" }.to_owned()));
    lines.add("L1", l1(&report["storage_manager"]["l1_manager"]));
    for adapter in list(&report["storage_manager"]["l2_adapters"]) {
        lines.add(format!("L2 {}", kind(adapter)), Some(l2(adapter)));
    }
    let hits = &report["hit_stats"];
    lines.add("hit rate", hits["hit_rate"].as_f64().zip(hits["total_tokens"].as_u64()).map(hit_rate));
    lines.add("sessions", number(&report["active_sessions"]));
    lines.add("prefetches", number(&report["active_prefetch_jobs"]));
    let pending = &report["storage_manager"]["store_controller"]["pending_keys_count"];
    lines.add("pending writes", number(pending).map(|n| format!("{n} objects")));
    lines.add("workers", number(&report["worker_liveness"]["tracked_instances"]));
    lines.text()
}

/// The responses of `/version`, `/config` and `/status` in one object.
pub(super) fn description(url: &str, whole: &Value) -> String {
    let (status, mp) = (&whole["status"], &whole["config"]["mp"]);
    let (manager, storage) = (&status["storage_manager"], &whole["config"]["storage_manager"]);
    let mut lines = Lines::default();
    lines.add("server", Some(url.to_owned()));
    lines.add("version", text(&whole["version"]));
    lines.add("instance", text(&mp["instance_id"]));
    let host = text(&mp["host"]);
    lines.add("requests", host.zip(number(&mp["port"])).map(|(host, port)| format!("tcp://{host}:{port}")));
    lines.add(
        "shared memory",
        text(&mp["shm_name"]).map(|name| match &*name {
            "" => "none: bytes travel through the socket".to_owned(),
            name => format!("/dev/shm/lmcache_l1_pool_{name}"),
        }),
    );
    lines.add("chunks", number(&status["chunk_size"]).map(|n| format!("{n} tokens")));
    lines.add("hashes", text(&status["hash_algorithm"]));
    lines.add("L1", l1(&manager["l1_manager"]));
    lines.add("eviction", text(&manager["l1_eviction_controller"]["eviction_policy"]));
    lines.add("prefetch policy", text(&storage["prefetch_policy"]));
    lines.add("store policy", text(&storage["store_policy"]));
    for adapter in list(&manager["l2_adapters"]) {
        let path = adapter["base_path"].as_str().map(|path| format!("{path}, ")).unwrap_or_default();
        lines.add(format!("L2 {}", kind(adapter)), Some(format!("{path}{}", l2(adapter))));
    }
    for (instance, worker) in status["cache_context_meta"].as_object().into_iter().flatten() {
        lines.add(format!("worker {instance}"), Some(self::worker(worker)));
    }
    lines.text()
}

/// All quotas, one per line.
pub(super) fn quotas(response: &Value) -> String {
    let users = response["users"].as_object();
    let default = response["default_limit_gb"].as_f64();
    let default = default.map_or_else(String::new, |gib| format!("all other salts: {gib:.3} GiB each\n"));
    let Some(users) = users.filter(|users| !users.is_empty()) else { return format!("no quotas\n{default}") };
    let width = users.keys().map(|salt| salt.chars().count()).max().unwrap_or(0).max(4);
    let mut text = format!("{:<width$}  {:>12}  {:>12}\n", "SALT", "LIMIT GiB", "USED GiB");
    for (salt, user) in users {
        let gib = |name: &str| user[name].as_f64().unwrap_or_default();
        let (limit, used) = (gib("limit_gb"), gib("current_usage_gb"));
        text.push_str(&format!("{salt:<width$}  {limit:>12.3}  {used:>12.3}\n"));
    }
    text.push_str(&default);
    text
}

fn l1(l1: &Value) -> Option<String> {
    let (used, total) = (l1["memory_used_bytes"].as_u64()?, l1["memory_total_bytes"].as_u64()?);
    let per_cent = 100.0 * used as f64 / (total as f64).max(1.0);
    let objects = number(&l1["total_object_count"]).unwrap_or_default();
    let pinned = number(&l1["read_locked_count"]).unwrap_or_default();
    Some(format!("{} of {} ({per_cent:.0}%), {objects} objects, {pinned} pinned", bytes(used), bytes(total)))
}

fn l2(adapter: &Value) -> String {
    let mut parts = Vec::new();
    if let Some(used) = adapter["current_size_bytes"].as_u64() {
        let capacity = adapter["max_capacity_bytes"].as_u64();
        parts.push(capacity.map_or_else(|| bytes(used), |all| format!("{} of {}", bytes(used), bytes(all))));
    }
    parts.extend(number(&adapter["stored_object_count"]).map(|n| format!("{n} objects")));
    match adapter["is_healthy"].as_bool() {
        Some(true) => parts.push("healthy".to_owned()),
        Some(false) => {
            let circuit = |name: &str| text(&adapter[name]).unwrap_or_else(|| "unknown".to_owned());
            parts.push(format!(
                "FAILING (circuits: reads {}, writes {})",
                circuit("reads"),
                circuit("writes")
            ));
        }
        None => {}
    }
    parts.join(", ")
}

fn kind(adapter: &Value) -> &str {
    adapter["type_name"].as_str().or_else(|| adapter["type"].as_str()).unwrap_or("adapter")
}

fn worker(worker: &Value) -> String {
    let layout = &worker["kv_cache_layout"];
    let parts = [
        text(&worker["model_name"]),
        number(&worker["world_size"]).map(|n| format!("world size {n}")),
        number(&layout["num_layers"]).map(|n| format!("{n} layers")),
        layout["cache_size_per_token"].as_u64().map(|n| format!("{} per token", bytes(n))),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn hit_rate((rate, tokens): (f64, u64)) -> String {
    match tokens {
        0 => "no lookups yet".to_owned(),
        tokens => format!("{:.1}% of {tokens} tokens", rate * 100.0),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn number(value: &Value) -> Option<String> {
    value.as_u64().map(|number| number.to_string())
}

/// Bytes with the largest unit below them.
pub(crate) fn bytes(bytes: u64) -> String {
    let mut size = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if size < 1024.0 {
            break;
        }
        (size, unit) = (size / 1024.0, larger);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{size:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bytes_have_the_largest_unit_below_them() {
        assert_eq!([0, 1023, 1536, 20 << 30].map(bytes), ["0 B", "1023 B", "1.5 KiB", "20.0 GiB"]);
    }

    #[test]
    fn failing_tier_is_in_capitals() {
        let adapter = json!({"type_name": "fs", "is_healthy": false, "reads": "closed", "writes": "open"});
        let report = json!({"is_healthy": false, "storage_manager": {"l2_adapters": [adapter]}});
        let expected = "healthy  NO\nL2 fs    FAILING (circuits: reads closed, writes open)\n";
        assert_eq!(status(&report), expected);
    }

    #[test]
    fn empty_report_is_empty_text() {
        assert_eq!(status(&json!({})), "");
        assert_eq!(quotas(&json!({})), "no quotas\n");
    }
}
