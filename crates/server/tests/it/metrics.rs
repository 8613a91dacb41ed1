//! `/metrics`: the names, types and labels that dashboards query, from the first scrape on, and the counts.

use larder_types::ConnectionId;
use larder_types::Time;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use larder_core::LookupSpec;
use larder_core::TransferSpec;
use larder_server::config::{EvictionPolicy, LookupHashLogConfig, OtlpConfig, PrefetchPolicy};
use larder_types::ids::InstanceId;
use larder_types::object::{ChunkHash, KvRank};
use larder_wire::ops;
use larder_wire::ops::prepare_retrieve::RetrievePlan;
use larder_wire::ops::prepare_store::StorePlan;

use crate::support::{Client, Directory, TestServer, config, fill, key, open_pool, with_files};

const W: InstanceId = InstanceId(7);

/// What LMCache's dashboards and alerts query: name, type, labels. Counters of objects have the label `cache_salt` too
/// if there is a salt.
const REQUIRED: &str = "
lmcache_mp_l1_read_chunks_total counter l1_tag
lmcache_mp_l1_write_chunks_total counter l1_tag
lmcache_mp_l1_evicted_chunks_total counter l1_tag
lmcache_mp_l1_eviction_loop_ticks_total counter
lmcache_mp_l1_eviction_loop_triggered_total counter
lmcache_mp_l1_memory_usage_bytes gauge backend,l1_tag
lmcache_mp_l1_usage_ratio gauge backend,l1_tag
lmcache_mp_l1_chunk_lifetime_seconds histogram l1_tag
lmcache_mp_l1_chunk_idle_before_evict_seconds histogram l1_tag
lmcache_mp_l1_chunk_reuse_gap_seconds histogram l1_tag
lmcache_mp_l1_chunk_evict_reuse_gap_seconds histogram l1_tag
lmcache_mp_l1_premature_eviction_chunks_total counter l1_tag
lmcache_mp_real_reuse_gap_seconds histogram cache_salt
lmcache_mp_real_reuse_gap_objects histogram cache_salt
lmcache_mp_real_reuse_gap_objects_chunks histogram cache_salt
lmcache_mp_event_bus_subscriber_exceptions_total counter
lmcache_mp_l1_staging_bytes gauge backend,l1_tag
lmcache_mp_l1_oldest_read_lock_seconds gauge l1_tag
lmcache_mp_l1_oldest_write_lock_seconds gauge l1_tag
lmcache_mp_l2_disk_free_bytes gauge adapter_index,l2_name
lmcache_mp_l2_disk_size_bytes gauge adapter_index,l2_name
lmcache_mp_l2_reread_chunks_total counter
lmcache_mp_l1_allocation_failure_chunks_total counter during,model_name
lmcache_mp_l1_read_failure_chunks_total counter during,model_name,reason
lmcache_mp_lookup_requested_tokens_total counter cache_salt,model_name
lmcache_mp_lookup_hit_tokens_total counter cache_salt,model_name
lmcache_mp_lookup_hit_l1_tokens_total counter cache_salt,model_name
lmcache_mp_lookup_hit_l2_tokens_total counter cache_salt,model_name
lmcache_mp_lookup_hit_l1_keys_total counter cache_salt,model_name
lmcache_mp_lookup_hit_l2_keys_total counter cache_salt,model_name
lmcache_mp_lookups_requests_total counter cache_salt,model_name
lmcache_mp_lookup_early_exit_requests_total counter cache_salt,model_name,reason
lmcache_mp_l2_store_submitted_requests_total counter
lmcache_mp_l2_store_submitted_objects_chunks_total counter
lmcache_mp_l2_store_completed_requests_total counter l2_name
lmcache_mp_l2_store_completed_objects_chunks_total counter
lmcache_mp_l2_prefetch_lookup_requests_total counter
lmcache_mp_l2_prefetch_lookup_objects_chunks_total counter
lmcache_mp_l2_prefetch_load_submitted_requests_total counter
lmcache_mp_l2_prefetch_load_submitted_objects_chunks_total counter
lmcache_mp_l2_prefetch_load_completed_chunks_total counter
lmcache_mp_l2_prefetch_failure_chunks_total counter model_name,reason
lmcache_mp_l2_load_completed_requests_total counter l2_name
lmcache_mp_l2_evicted_objects_chunks_total counter
lmcache_mp_l2_usage_bytes gauge l2_name
lmcache_mp_l2_store_throughput_GB_per_second histogram l2_name
lmcache_mp_l2_load_throughput_GB_per_second histogram l2_name
lmcache_mp_l2_store_adapters gauge l1_tag,state
lmcache_mp_l2_prefetch_adapters gauge state
lmcache_mp_num_inflight_l2_stores gauge adapter_index,l2_name
lmcache_mp_num_inflight_l2_loads gauge adapter_index,l2_name
lmcache_mp_inflight_load_memory_usage_bytes gauge adapter_index,l2_name
lmcache_mp_active_prefetch_jobs gauge
lmcache_mp_active_p2p_lookup_jobs gauge
lmcache_mp_num_submitted_stores_total counter device
lmcache_mp_num_finished_stores_total counter device
lmcache_mp_num_submitted_retrieves_total counter device
lmcache_mp_num_finished_retrieves_total counter device
lmcache_mp_num_chunks_loaded_total counter cache_salt,model_name,worker_id
lmcache_mp_l0_l1_store_throughput_GB_per_second histogram device,model_name
lmcache_mp_l0_l1_load_throughput_GB_per_second histogram device,model_name
lmcache_mp_kv_events_log_depth gauge
lmcache_mp_timeouts_total counter exception_type
lmcache_mp_event_bus_queue_depth gauge
lmcache_mp_event_bus_drain_lag_seconds gauge
lmcache_mp_event_bus_dropped_events_total counter
lmcache_mp_request_duration_seconds histogram operation,outcome
lmcache_mp_l2_store_failure_chunks_total counter l2_name,reason
lmcache_mp_l2_load_failure_chunks_total counter l2_name,reason
lmcache_mp_stored_bytes_total counter cache_salt,model_name
lmcache_mp_retrieved_bytes_total counter cache_salt,model_name
lmcache_mp_l1_capacity_bytes gauge backend,l1_tag
lmcache_mp_l2_capacity_bytes gauge l2_name
lmcache_mp_l1_objects gauge l1_tag
lmcache_mp_workers gauge
lmcache_mp_worker_silence_seconds gauge
lmcache_mp_workers_reaped_total counter
lmcache_mp_sessions gauge
lmcache_mp_build_info gauge commit,version
lmcache_mp_config_info gauge hash
target_info gauge service_instance_id,service_name
process_cpu_seconds_total counter
process_resident_memory_bytes gauge
process_virtual_memory_bytes gauge
process_start_time_seconds gauge
process_open_fds gauge
process_max_fds gauge
";

/// One family of a scrape.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    /// Each set of label names that occurs, without `le`.
    labels: BTreeSet<BTreeSet<String>>,
}

/// A parsed scrape.
#[derive(Debug, Default)]
struct Scrape {
    families: BTreeMap<String, Family>,
    /// Values by name and sorted labels.
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    async fn of(server: &TestServer) -> Self {
        let (status, text) = server.get("/metrics").await;
        assert_eq!(status, 200);
        Self::parse(&text)
    }

    fn parse(text: &str) -> Self {
        let mut scrape = Self::default();
        let (mut family, mut help) = (String::new(), String::new());
        for line in text.lines() {
            if let Some((_, text)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
                help = text.trim_end_matches('.').to_owned();
                continue;
            }
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
                family = name.to_owned();
                let help = std::mem::take(&mut help);
                let new = Family { kind: kind.to_owned(), help, ..Family::default() };
                assert!(scrape.families.insert(family.clone(), new).is_none(), "{name} is announced twice");
                continue;
            }
            let (series, value) = line.rsplit_once(' ').expect("a name and a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let labels = parse_labels(labels.strip_suffix('}').expect("labels end"));
            let entry = scrape.families.get_mut(&family).expect("announced");
            let of_family = match entry.kind.as_str() {
                "histogram" => {
                    name.strip_prefix(&*family).is_some_and(|s| ["_sum", "_count", "_bucket"].contains(&s))
                }
                _ => name == family,
            };
            assert!(of_family, "{line} under {family}");
            assert_eq!(entry.kind == "counter", family.ends_with("_total"), "{family}");
            entry.labels.insert(labels.keys().filter(|name| *name != "le").cloned().collect());
            let series = format!("{name}{labels:?}");
            let value: f64 = value.parse().expect("a number");
            assert!(scrape.samples.insert(series, value).is_none(), "{line} is there twice");
        }
        scrape
    }

    fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
        let series = format!("{name}{labels:?}");
        *self.samples.get(&series).unwrap_or_else(|| panic!("{series} in {self:#?}"))
    }
}

fn parse_labels(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(',').filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').expect("a label");
        (name.to_owned(), value.trim_matches('"').to_owned())
    };
    pairs.map(pair).collect()
}

fn set(names: &str) -> BTreeSet<String> {
    names
        .split(',')
        .map(|name| name.trim().trim_matches('`'))
        .filter(|n| !n.is_empty())
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn first_scrape_has_every_name_with_its_type_and_labels() {
    let directory = Directory::new();
    let server = TestServer::start(with_files(&directory)).await;
    let scrape = Scrape::of(&server).await;
    for row in REQUIRED.lines().filter(|row| !row.is_empty()) {
        let mut row = row.split(' ');
        let (name, kind, labels) = (row.next().unwrap(), row.next().unwrap(), row.next().unwrap_or(""));
        let family = scrape.families.get(name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(family.kind, kind, "{name}");
        assert_eq!(family.labels, BTreeSet::from([set(labels)]), "labels of {name}");
    }
    let counts = scrape.samples.iter().filter(|(name, _)| name.contains("_total") || name.contains("_count"));
    for (series, value) in counts.filter(|(series, _)| !series.starts_with("process_")) {
        assert_eq!(*value, 0.0, "{series}");
    }
    assert!(
        scrape.get("process_resident_memory_bytes", &[]) > 1e6 && scrape.get("process_open_fds", &[]) > 2.0
    );
    assert!(!scrape.samples.keys().any(|series| series.contains("\": \"\"")), "no label is empty");
    server.stop().await;
}

/// Stores four chunks, and reads them back in two steps of two.
async fn traffic(c: &mut Client) {
    let pool = open_pool(&c.register(7, "m").await);
    let stored = key("m", 1, 4, "store", Some(0));
    let plan = c.call(ops::PrepareStore::new(stored.clone(), W)).await;
    let StorePlan::Slots { slots, .. } = plan else { panic!("{plan:?}") };
    fill(&pool, &slots, 10);
    let commit = ops::CommitStore { key: stored, instance_id: W, data: Bytes::new() };
    assert!(c.call(commit).await);
    assert_eq!(c.hit(&key("m", 1, 4, "r", None)).await, 4);
    let worker = key("m", 1, 4, "r", Some(0));
    let plan = c.call(ops::PrepareRetrieve { key: worker.clone(), instance_id: W }).await;
    let RetrievePlan::Slots(_) = plan else { panic!("{plan:?}") };
    assert!(c.call(ops::CommitRetrieve { key: worker, instance_id: W }).await);
    let unknown = key("m", 2, 4, "r", Some(0));
    let plan = c.call(ops::PrepareRetrieve { key: unknown, instance_id: W }).await;
    assert_eq!(plan, RetrievePlan::Missing, "it was never stored");
    assert_eq!(c.hit(&key("unserved", 1, 4, "u", None)).await, 0);
    assert_eq!(c.hit(&key("m", 1, 0, "short", None)).await, 0);
}

/// Name, labels, value.
type Expected<'a> = (&'a str, &'a [(&'a str, &'a str)], f64);

#[tokio::test]
async fn second_scrape_counts_what_happened_since_the_first() {
    let directory = Directory::new();
    let server = TestServer::start(with_files(&directory)).await;
    let before = Scrape::of(&server).await;
    let mut c = server.client().await;
    traffic(&mut c).await;
    server
        .until("write-back ends", |state| state.core().read(|core, _| core.write_back_pending()) == 0)
        .await;
    let after = Scrape::of(&server).await;
    let gone: Vec<&String> = before.samples.keys().filter(|s| !after.samples.contains_key(*s)).collect();
    assert!(gone.is_empty(), "missing series: {gone:?}");
    let tenant = [("model_name", "m"), ("cache_salt", "")];
    let with = |label| [tenant[0], tenant[1], label];
    let others = |label| [("model_name", "(other)"), ("cache_salt", "(other)"), label];
    let (tag, device) = ([("l1_tag", "_default")], [("device", "cpu")]);
    let l2 = [("l2_name", "fs")];
    let expected: [Expected<'_>; 27] = [
        ("lmcache_mp_l1_write_chunks_total", &tag, 4.0),
        ("lmcache_mp_l1_read_chunks_total", &tag, 4.0),
        ("lmcache_mp_l1_objects", &tag, 4.0),
        ("lmcache_mp_l1_eviction_loop_ticks_total", &[], 4.0),
        ("lmcache_mp_l1_eviction_loop_triggered_total", &[], 0.0),
        ("lmcache_mp_lookups_requests_total", &tenant, 1.0),
        ("lmcache_mp_lookup_requested_tokens_total", &tenant, 64.0),
        ("lmcache_mp_lookup_hit_tokens_total", &tenant, 64.0),
        ("lmcache_mp_lookup_hit_l1_tokens_total", &tenant, 64.0),
        ("lmcache_mp_lookup_hit_l2_tokens_total", &tenant, 0.0),
        ("lmcache_mp_lookup_hit_l1_keys_total", &tenant, 4.0),
        ("lmcache_mp_lookup_early_exit_requests_total", &with(("reason", "empty_chunk_hashes")), 1.0),
        ("lmcache_mp_lookup_early_exit_requests_total", &others(("reason", "no_gpu_context")), 1.0),
        ("lmcache_mp_num_finished_stores_total", &device, 1.0),
        ("lmcache_mp_num_finished_retrieves_total", &device, 1.0),
        ("lmcache_mp_num_chunks_loaded_total", &with(("worker_id", "0")), 4.0),
        ("lmcache_mp_stored_bytes_total", &tenant, 4.0 * 768.0),
        ("lmcache_mp_retrieved_bytes_total", &tenant, 4.0 * 768.0),
        ("lmcache_mp_l0_l1_store_throughput_GB_per_second_count", &[device[0], tenant[0]], 1.0),
        ("lmcache_mp_l0_l1_load_throughput_GB_per_second_count", &[device[0], tenant[0]], 1.0),
        (
            "lmcache_mp_l1_read_failure_chunks_total",
            &[("during", "l1_retrieve"), ("reason", "not_found"), tenant[0]],
            4.0,
        ),
        ("lmcache_mp_l2_store_submitted_objects_chunks_total", &[], 4.0),
        ("lmcache_mp_l2_store_completed_objects_chunks_total", &[], 4.0),
        ("lmcache_mp_l2_usage_bytes", &l2, 4.0 * 768.0),
        ("lmcache_mp_l2_objects", &l2, 4.0),
        ("lmcache_mp_workers", &[], 1.0),
        (
            "lmcache_mp_request_duration_seconds_count",
            &[("operation", "prepare_retrieve"), ("outcome", "ok")],
            2.0,
        ),
    ];
    for (name, labels, value) in expected {
        assert_eq!(after.get(name, labels), value, "{name}{labels:?}");
    }
    let fastest = [("l2_name", "fs"), ("le", "100.0")];
    assert!(after.get("lmcache_mp_l2_store_throughput_GB_per_second_bucket", &fastest) > 0.0);
    let batches = after.get("lmcache_mp_l2_store_submitted_requests_total", &[]);
    assert_eq!(after.get("lmcache_mp_l2_store_completed_requests_total", &l2), batches);
    assert_eq!(after.get("lmcache_mp_l2_store_throughput_GB_per_second_count", &l2), batches);
    server.stop().await;
}

#[tokio::test]
async fn residency_histograms_count_evictions_and_reuse() {
    let mut config = config();
    // Enough for the four chunks of one prompt.
    config.l1.bytes = 4 * 4096;
    config.l1.client_share = 1.0;
    config.metrics.sample_rate = 1.0;
    let server = TestServer::start(config).await;
    let mut c = server.client().await;
    let pool = open_pool(&c.register(7, "m").await);
    for (seed, request) in [(1, "a"), (2, "b"), (1, "c")] {
        assert_eq!(c.hit(&key("m", seed, 4, request, None)).await, 0);
        let stored = key("m", seed, 4, request, Some(0));
        let plan = c.call(ops::PrepareStore::new(stored.clone(), W)).await;
        let StorePlan::Slots { slots, .. } = plan else { panic!("{plan:?}") };
        fill(&pool, &slots, 10);
        let commit = ops::CommitStore { key: stored, instance_id: W, data: Bytes::new() };
        assert!(c.call(commit).await);
    }
    assert_eq!(c.hit(&key("m", 1, 4, "d", None)).await, 4);
    let scrape = Scrape::of(&server).await;
    let (tag, salt) = ([("l1_tag", "_default")], [("cache_salt", "")]);
    let infinite = |labels: [(&'static str, &'static str); 1]| [labels[0], ("le", "+Inf")];
    for (name, labels, value) in [
        ("lmcache_mp_l1_premature_eviction_chunks_total", &tag[..], 4.0),
        ("lmcache_mp_l1_chunk_lifetime_seconds_count", &tag, 8.0),
        ("lmcache_mp_l1_chunk_lifetime_seconds_bucket", &infinite(tag), 8.0),
        ("lmcache_mp_l1_chunk_idle_before_evict_seconds_count", &tag, 8.0),
        ("lmcache_mp_l1_chunk_evict_reuse_gap_seconds_count", &tag, 4.0),
        ("lmcache_mp_l1_chunk_reuse_gap_seconds_count", &tag, 4.0),
        // The first prompt was looked up three times.
        ("lmcache_mp_real_reuse_gap_seconds_count", &salt, 8.0),
        ("lmcache_mp_real_reuse_gap_objects_count", &salt, 8.0),
        ("lmcache_mp_real_reuse_gap_objects_sum", &salt, 4.0 * 8.0 + 4.0 * 4.0),
        ("lmcache_mp_real_reuse_gap_objects_chunks_sum", &salt, 4.0 * 8.0 + 4.0 * 4.0),
    ] {
        assert_eq!(scrape.get(name, labels), value, "{name}{labels:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn instance_label_is_added_to_every_series() {
    let mut config = config();
    config.metrics.instance_label = true;
    config.instance_id = "node-3".to_owned();
    let server = TestServer::start(config).await;
    let (_, text) = server.get("/metrics").await;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert_eq!(line.matches("service_instance_id=\"node-3\"").count(), 1, "{line}");
    }
    Scrape::parse(&text);
    server.stop().await;
}

#[tokio::test]
async fn config_hash_depends_on_everything_but_the_instance_id() {
    let hash = async |change: fn(&mut larder_server::config::Config)| {
        let mut config = config();
        config.l1.shm_name = None;
        change(&mut config);
        let server = TestServer::start(config).await;
        let (_, text) = server.get("/metrics").await;
        server.stop().await;
        text.lines().find(|line| line.starts_with("lmcache_mp_config_info{")).map(str::to_owned)
    };
    let one = hash(|config| config.instance_id = "a".to_owned()).await;
    assert!(one.is_some());
    assert_eq!(one, hash(|config| config.instance_id = "b".to_owned()).await);
    assert_ne!(one, hash(|config| config.l1.bytes *= 2).await);
}

/// `docs/metrics.md` lists what a scrape has with everything enabled: names, types, labels and HELP texts.
#[tokio::test]
async fn docs_list_every_metric() {
    let directory = Directory::new();
    let mut config = with_files(&directory);
    config.eviction.policy = EvictionPolicy::Adaptive;
    config.l2.prefetch_policy = PrefetchPolicy::Adaptive;
    config.record = Some(directory.0.join("trace.jsonl"));
    config.lookup_hash_log = Some(LookupHashLogConfig {
        dir: directory.0.join("lookups"),
        rotation_interval: std::time::Duration::from_secs(3600),
        rotation_max_bytes: 1 << 20,
        max_files: 2,
    });
    // Nothing listens there.
    config.coordinator.url = Some("http://127.0.0.1:1".to_owned());
    let otlp = OtlpConfig::new("http://127.0.0.1:1".to_owned());
    config.otlp = cfg!(feature = "otel").then_some(OtlpConfig { tracing: true, ..otlp });
    let mut server = TestServer::start(config).await;
    server.expect_log("the coordinator cannot be reached");
    server.expect_log("OpenTelemetry collector is unreachable");
    traffic(&mut server.client().await).await;
    let scrape = Scrape::of(&server).await;
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let rows = docs.lines().filter_map(|line| line.strip_prefix("| `"));
    let documented: BTreeMap<String, (String, BTreeSet<String>, String)> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let name = cells[0].trim_end_matches('`').to_owned();
            // Only with a salt.
            let labels = cells[2].replace("[`cache_salt`]", "");
            (name, (cells[1].to_owned(), set(&labels), cells[3].to_owned()))
        })
        .collect();
    let served: BTreeMap<String, (String, BTreeSet<String>, String)> = scrape
        .families
        .into_iter()
        .map(|(name, Family { kind, help, labels })| {
            (name, (kind, labels.into_iter().flatten().collect(), help))
        })
        .collect();
    let other: Vec<_> = served.iter().filter(|(name, is)| documented.get(*name) != Some(*is)).collect();
    assert!(other.is_empty(), "docs/metrics.md differs from {other:#?}");
    let in_this_build = |name: &str| cfg!(feature = "otel") || !name.starts_with("lmcache_mp_otlp_");
    let unknown: Vec<&String> =
        documented.keys().filter(|name| in_this_build(name) && !served.contains_key(*name)).collect();
    assert!(unknown.is_empty(), "docs/metrics.md lists {unknown:?}");
    server.stop().await;
}

/// Prints how long a scrape and a status take with 100,000 objects and the maximum of sessions.
/// `cargo test -p larder-server --test it metrics::scrape_answers -- --nocapture`
#[tokio::test]
async fn scrape_answers_with_100_000_objects() {
    let mut config = config();
    config.l1.bytes = 1 << 30;
    let server = TestServer::start(config).await;
    let mut c = server.client().await;
    c.register(7, "m").await;
    fill_with_100_000_objects(&server);
    let gauges = server.state.core().read(|core, _| core.gauges());
    assert_eq!((gauges.l1.resident_objects, gauges.lookup_leases), (100_000, 65_500));
    let times = |of: &dyn Fn()| {
        let mut times: Vec<_> = (0..101)
            .map(|_| {
                let started = std::time::Instant::now();
                of();
                started.elapsed()
            })
            .collect();
        times.sort();
        times[50]
    };
    let gauges = times(&|| {
        std::hint::black_box(server.state.core().read(|core, _| core.gauges()));
    });
    let scrape = times(&|| drop(larder_server::metrics::scrape::exposition(&server.state)));
    println!("100,000 objects, 65,500 sessions: gauges {gauges:?}, scrape {scrape:?}");
    for path in ["/status", "/metrics"] {
        let mut times = Vec::new();
        for _ in 0..21 {
            let started = std::time::Instant::now();
            assert_eq!(server.get(path).await.0, 200);
            times.push(started.elapsed());
        }
        times.sort();
        println!("GET {path}, connection included: {:?} (worst {:?})", times[10], times[20]);
    }
    let (_, text) = server.get("/metrics").await;
    println!("{} bytes", text.len());
    assert_eq!(Scrape::parse(&text).get("lmcache_mp_lookup_leases", &[]), 65_500.0);
    server.stop().await;
}

/// Stores 100,000 objects and opens as many lookup leases as there may be.
fn fill_with_100_000_objects(server: &TestServer) {
    let (model, salt): (std::sync::Arc<str>, std::sync::Arc<str>) = ("m".into(), "".into());
    for prompt in 0..100u32 {
        let hash = |i: u32| ChunkHash::new(&[&prompt.to_le_bytes()[..], &i.to_le_bytes()[..]].concat());
        let chain: std::sync::Arc<[ChunkHash]> = (0..1000).map(|i| hash(i).expect("a hash")).collect();
        let store = format!("store{prompt}").into();
        let spec = TransferSpec {
            instance: W,
            connection: ConnectionId(1),
            request_id: &store,
            model: &model,
            rank: KvRank::new(1, 0),
            salt: &salt,
            chunk_hashes: &chain,
            start: 0,
            end: 1000,
        };
        server.state.core().with(|core, _| {
            core.prepare_store(Time::ZERO, &spec).expect("registered");
            core.commit_store(Time::ZERO, &spec);
            for request in 0..655 {
                let request_id = format!("r{prompt}.{request}").into();
                core.lookup(
                    Time::ZERO,
                    &LookupSpec {
                        request_id: &request_id,
                        connection: ConnectionId(1),
                        model: &model,
                        world_size: 1,
                        worker_id: None,
                        salt: &salt,
                        chunk_hashes: &chain[..2].into(),
                        start: 0,
                        readers: 1,
                    },
                );
            }
        });
    }
}
