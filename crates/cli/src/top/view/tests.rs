use larder_server::overview::{
    Copies, Expert, L1, L2, L2Adapter, L2Traffic, Learned, Lookups, Operation, Overview, Policies, Worker,
};

use super::super::text;
use super::*;

fn traffic(batches: u64, bytes: u64, seconds: f64) -> L2Traffic {
    L2Traffic { batches, bytes, seconds, ..L2Traffic::default() }
}

fn operation(name: &str, buckets: [u64; 4]) -> Operation {
    Operation { name: name.to_owned(), failed: 0, buckets: buckets.to_vec() }
}

fn worker(instance_id: &str, model_name: &str, last_seen_seconds_ago: f64) -> Worker {
    Worker {
        instance_id: instance_id.to_owned(),
        model_name: model_name.to_owned(),
        world_size: 1,
        last_seen_seconds_ago,
    }
}

/// The overview of a server under constant load, `t` times 10 s after its start.
fn at(t: u64) -> Overview {
    let mib = 1 << 20;
    Overview {
        version: "0.1.0".to_owned(),
        instance_id: "one".to_owned(),
        uptime_seconds: 7_380.0 + 10.0 * t as f64,
        chunk_tokens: 256,
        lookups: Lookups {
            count: 70 * t,
            requested_tokens: 100_000 * (t + 1),
            hit_l1_tokens: 76_000 * (t + 1),
            hit_l2_tokens: 7_400 * (t + 1),
        },
        // Copies grow, so that the curves have a shape.
        stores: Copies { bytes: t * t * 24 * mib, ..Copies::default() },
        retrieves: Copies { bytes: t * t * 310 * mib, ..Copies::default() },
        l1: L1 {
            used_bytes: 18_600 * mib,
            capacity_bytes: 20_480 * mib,
            objects: 4_512,
            held_objects: 12,
            evicted_bytes: t * 40 * mib,
            ..L1::default()
        },
        l2: L2 {
            pending_objects: 17,
            adapters: vec![L2Adapter {
                type_name: "fs".to_owned(),
                base_path: Some("/data/kv".to_owned()),
                reads: "closed".to_owned(),
                writes: "closed".to_owned(),
                used_bytes: 120 << 30,
                capacity_bytes: Some(500 << 30),
                objects: 30_210,
                loads: traffic(20 * t, t * 210 * mib, 0.048 * 20.0 * t as f64),
                stores: traffic(5 * t, t * 24 * mib, 0.0156 * 5.0 * t as f64),
                ..L2Adapter::default()
            }],
            ..L2::default()
        },
        operations: vec![
            operation("commit_retrieve", [0, 60 * t, t, 0]),
            operation("lookup", [2 * t, 67 * t, t, 0]),
            operation("prepare_store", [0, 5 * t, 0, 0]),
        ],
        bucket_bounds_seconds: vec![1e-4, 5e-4, 1e-2],
        workers: vec![
            worker("11", "meta-llama/Llama-3.1-8B-Instruct", 3.0),
            worker("12", "Qwen/Qwen3-32B", 8.0),
        ],
        sessions: 3,
        connections: 4,
        policies: Policies {
            eviction: "adaptive".to_owned(),
            prefetch: "adaptive".to_owned(),
            store: "default".to_owned(),
            learned: Some(Learned {
                leader: "LRU+retain".to_owned(),
                experts: [("LRU+default", 2_536.0), ("LRU+retain", 1_444.0)]
                    .map(|(name, lost_chunks)| Expert { name: name.to_owned(), lost_chunks })
                    .to_vec(),
                ..Learned::default()
            }),
        },
        ..Overview::default()
    }
}

fn rates(change: impl Fn(u64, &mut Overview)) -> Rates {
    let mut rates = Rates::default();
    for t in 0..6 {
        let mut overview = at(t);
        change(t, &mut overview);
        rates.add(overview);
    }
    rates
}

fn frame(rates: &Rates, error: Option<&str>, width: u16, height: u16) -> String {
    let view = View { url: "http://127.0.0.1:8080", rates, error, palette: Palette::Plain };
    text(&view, Rect { x: 0, y: 0, width, height })
}

/// Compares with a file beside this one; `LARDER_WRITE_FRAMES=1` rewrites the file.
fn assert_frame(name: &str, frame: &str) {
    let path = format!("{}/src/top/view/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    if env::var_os("LARDER_WRITE_FRAMES").is_some() {
        std::fs::write(&path, frame).expect("a file");
    }
    let expected = std::fs::read_to_string(&path).expect("the expected frame");
    assert_eq!(frame, expected, "{name}: now\n{frame}\nbefore\n{expected}");
}

#[test]
fn draws_80_columns() {
    assert_frame("80x24", &frame(&rates(|_, _| {}), None, 80, 24));
}

#[test]
fn draws_140_columns() {
    assert_frame("140x40", &frame(&rates(|_, _| {}), None, 140, 40));
}

#[test]
fn draws_in_any_size() {
    let rates = rates(|_, _| {});
    for (width, height) in [(0, 0), (1, 1), (20, 5), (79, 12), (500, 3)] {
        let frame = frame(&rates, None, width, height);
        assert_eq!(frame.lines().count(), usize::from(height));
    }
}

#[test]
fn shows_problems_first() {
    let failing = rates(|_, overview| overview.problems = vec!["L2 adapter #1 (fs): writes fail".to_owned()]);
    let shown = frame(&failing, None, 80, 24);
    assert_eq!(shown.lines().nth(1), Some("NOT READY  L2 adapter #1 (fs): writes fail"));
    let busy = rates(|t, overview| {
        overview.l1.refused_objects = 3 * t;
        overview.workers[1].last_seen_seconds_ago = 95.0;
    });
    let shown: Vec<String> = frame(&busy, None, 80, 24).lines().map(str::to_owned).collect();
    assert_eq!(shown[1], "WARNING  L1 was full for 15 objects in the last minute");
    assert_eq!(shown[2], "         1 worker silent for a minute or more");
}

#[test]
fn keeps_the_last_values_when_the_server_does_not_answer() {
    let gone = frame(&rates(|_, _| {}), Some("connection refused"), 80, 24);
    assert!(gone.lines().nth(1).is_some_and(|line| line == "NO ANSWER  connection refused"), "{gone}");
    assert!(gone.contains("retrying") && gone.contains("83.4%"), "{gone}");
    let never = frame(&Rates::default(), Some("connection refused"), 80, 24);
    assert_eq!(never.lines().nth(1), Some("NO ANSWER  connection refused"));
    assert!(frame(&Rates::default(), None, 80, 24).contains("CONNECTING"));
}

#[test]
fn shows_an_open_circuit_at_its_adapter() {
    let open = rates(|_, overview| overview.l2.adapters[0].reads = "open".to_owned());
    assert!(frame(&open, None, 140, 40).contains("reads OPEN"));
}

#[test]
fn plain_palette_has_no_colours() {
    let rates = rates(|_, _| {});
    let colours = |palette| {
        let view = View { url: "", rates: &rates, error: Some("gone"), palette };
        let area = Rect { x: 0, y: 0, width: 120, height: 30 };
        let mut buffer = Buffer::empty(area);
        view.render(area, &mut buffer);
        buffer.content.iter().filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count()
    };
    assert_eq!(colours(Palette::Plain), 0);
    assert!(colours(Palette::Colored) > 0);
}

#[test]
fn formats_times() {
    assert_eq!([4.2e-5, 9.96e-4, 0.0156, 1.0].map(duration), ["42 µs", "996 µs", "16 ms", "1.0 s"]);
    assert_eq!([0.9, 75.0, 7_400.0, 90_000.0].map(span), ["0 s", "1 min", "2 h 3 m", "1 d 1 h"]);
}
