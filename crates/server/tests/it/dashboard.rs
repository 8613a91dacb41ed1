//! The Grafana dashboard in `deploy/grafana` queries only metrics and labels that `docs/metrics.md` lists. `metrics.rs`
//! lists what LMCache's dashboards query.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

const DASHBOARD: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/grafana/larder.json"));
const DOCS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md"));

/// Labels that Prometheus or histograms add.
const GIVEN: [&str; 3] = ["instance", "job", "le"];

/// Type and labels of each documented metric.
fn documented() -> BTreeMap<&'static str, (&'static str, BTreeSet<&'static str>)> {
    let rows = DOCS.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let labels = cells[2].split(['`', ',', '[', ']', ' ']).filter(|label| !label.is_empty());
        (cells[0].trim_end_matches('`'), (cells[1], labels.collect()))
    })
    .collect()
}

/// Every expression, with its legend.
fn expressions(panels: &Value) -> Vec<(String, String)> {
    let panels = panels.as_array().expect("panels");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let text = |target: &Value, name: &str| target[name].as_str().expect("text").to_owned();
    targets.map(|target| (text(target, "expr"), text(target, "legendFormat"))).collect()
}

/// Names of metrics in an expression.
fn names(expression: &str) -> BTreeSet<&str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("lmcache_") || word.starts_with("process_")).collect()
}

/// Labels that an expression sums by or selects.
fn labels(expression: &str) -> BTreeSet<&str> {
    let by = expression.split(" by (").skip(1).filter_map(|rest| rest.split_once(')'));
    let by = by.flat_map(|(labels, _)| labels.split(", "));
    let selectors = expression.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
    let selected = selectors.flat_map(|(selector, _)| selector.split(','));
    by.chain(selected.filter_map(|matcher| matcher.split(['=', '!']).next())).collect()
}

#[test]
fn every_panel_queries_documented_metrics() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let (documented, mut asked) = (documented(), BTreeSet::new());
    let expressions = expressions(&dashboard["panels"]);
    assert!(expressions.len() > 50, "only {}", expressions.len());
    for (expression, legend) in &expressions {
        let mut there: BTreeSet<&str> = GIVEN.into();
        let names = names(expression);
        assert!(!names.is_empty(), "{expression} asks for nothing");
        for name in names {
            let parts = ["_bucket", "_sum", "_count"];
            let histogram = parts.iter().find_map(|part| name.strip_suffix(part));
            let of = |name| documented.get(name).map(|known| (name, known));
            let known = of(name).or_else(|| of(histogram?).filter(|(_, (kind, _))| *kind == "histogram"));
            let (name, (_, labels)) = known.unwrap_or_else(|| panic!("{name} is in no documentation"));
            asked.insert(name);
            there.extend(labels);
        }
        for label in labels(expression) {
            assert!(there.contains(label), "{label} is no label of what {expression} asks for");
        }
        for part in legend.split("{{").skip(1) {
            let label = part.split_once("}}").expect("a label in a legend ends").0;
            assert!(labels(expression).contains(label), "{label} is lost in {expression}");
        }
    }
    // Hit rate, tiers, bandwidth, latency, failures, tenants, policies.
    for name in [
        "lmcache_mp_lookup_hit_tokens_total",
        "lmcache_mp_l1_memory_usage_bytes",
        "lmcache_mp_l2_usage_bytes",
        "lmcache_mp_retrieved_bytes_total",
        "lmcache_mp_request_duration_seconds",
        "lmcache_mp_l2_store_failure_chunks_total",
        "lmcache_mp_policy_leader",
    ] {
        assert!(asked.contains(name), "no panel shows {name}");
    }
}

#[test]
fn panels_have_unique_ids_and_do_not_overlap() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().expect("panels") {
        assert!(ids.insert(panel["id"].as_u64()), "{} twice", panel["id"]);
        let at = |side: &str| panel["gridPos"][side].as_u64().expect("a place");
        assert!(at("x") + at("w") <= 24, "{} is too wide", panel["title"]);
        for y in at("y")..at("y") + at("h") {
            for x in at("x")..at("x") + at("w") {
                assert!(taken.insert((x, y)), "{} lies on another", panel["title"]);
            }
        }
    }
}
