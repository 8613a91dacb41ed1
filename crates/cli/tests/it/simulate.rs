//! `larder simulate`: its output; every error is one line with exit status 2.

use crate::binary::{Finished, TestDir};

/// Two alternating prompts; the last line is incomplete.
const TRACE: &str = r#"{"timestamp": 0, "input_length": 1100, "output_length": 1, "hash_ids": [1, 2, 3]}
{"timestamp": 5, "input_length": 1100, "output_length": 1, "hash_ids": [4, 5, 6]}
{"timestamp": 9, "input_length": 1100, "output_length": 1, "hash_ids": [1, 2, 7]}
{"timestamp": 9, "input_le"#;

fn dir() -> TestDir {
    TestDir::new().file("t.jsonl", TRACE).file("other", "{}\n")
}

fn simulate(dir: &TestDir, args: &str) -> Finished {
    let args: Vec<&str> = std::iter::once("simulate").chain(args.split_whitespace()).collect();
    dir.larder(&args, &[])
}

#[test]
fn prints_one_json_line_for_each_combination() {
    let dir = dir();
    let run = simulate(
        &dir,
        "t.jsonl --l1 2,100% --l2-prefetch-policy default,retain --eviction-policy LRU,ARC --json",
    );
    assert_eq!((run.status, run.stdout.lines().count()), (Some(0), 8), "{run:#?}");
    let first = run.stdout.lines().next().unwrap_or_default();
    let expected = r#"{"trace":"t","chunk_tokens":512,"unique_chunks":4,"l1_chunks":2,"l2_chunks":null,"prefetch_policy":"default","eviction_policy":"LRU","store_policy":"default","concurrency":1,"warmup":0.0,"requests":3,"tokens":3300,"chunk_accesses":6,"l1_hits":0,"l2_reads":2,"misses":4,"no_room":0,"l2_writes":4,"token_hit_rate":0.310303,"l1_evictions":4,"#;
    assert!(first.starts_with(expected), "{first}");
    assert_eq!(run.stderr, "warning: t: skipped 1 invalid or incomplete lines\n");
}

#[test]
fn accepts_every_policy() {
    let dir = dir();
    let all = "--l2-prefetch-policy all --eviction-policy all --l2-store-policy all";
    let run = simulate(&dir, &format!("t.jsonl --l1 3 --json {all}"));
    use larder_policy::eviction::EvictionKind;
    use larder_policy::{OffloadKind, PrefetchKind};
    let combinations = PrefetchKind::ALL.len() * EvictionKind::ALL.len() * OffloadKind::ALL.len();
    assert_eq!((run.status, run.stdout.lines().count()), (Some(0), combinations), "{run:#?}");
}

#[test]
fn prints_a_table_and_writes_the_plot() {
    let dir = dir();
    let run = simulate(&dir, "t.jsonl --warmup 0.5 --plot curves.svg");
    assert_eq!(run.status, Some(2), "a quarter of a per cent of four chunks is none: {run:#?}");
    let run = simulate(&dir, "t.jsonl --l1 50%..100%/3 --warmup 0.5 --plot curves.svg");
    assert_eq!(run.status, Some(0), "{run:#?}");
    assert!(
        run.stdout.starts_with("t: 3 requests, 6 chunk accesses, 4 distinct chunks of 512 tokens"),
        "{run:#?}"
    );
    assert!(dir.read("curves.svg").starts_with("<svg"));
    let run = simulate(&dir, "t.jsonl --l1 2 --csv");
    assert!(run.stdout.starts_with("trace,chunk_tokens,unique_chunks,l1_chunks,"), "{run:#?}");
}

#[test]
fn each_error_is_one_line_that_names_the_flag() {
    let dir = dir();
    let cases = [
        ("", "<TRACE>... is missing", "larder simulate --help"),
        ("missing", "missing", "cannot be read"),
        ("other", "other", "is no trace"),
        ("t.jsonl --l1 5x", "--l1", "'5x' is no size"),
        ("t.jsonl --l1 0", "--l1", "0 is not allowed"),
        ("t.jsonl --l1 9%..1%", "--l1", "is no range of sizes"),
        ("t.jsonl --l1", "a value is required for '--l1", "none was supplied"),
        ("t.jsonl --l1 0.1%", "t.jsonl", "0.1 % is less than one chunk"),
        ("t.jsonl --l1 3GiB", "t.jsonl", "--chunk-bytes"),
        ("t.jsonl --chunk-bytes 5%", "--chunk-bytes", "not a size in bytes"),
        ("t.jsonl --l2 much", "--l2", "'much' is no size"),
        ("t.jsonl --l2-prefetch-policy retian", "--l2-prefetch-policy", "did you mean 'retain'?"),
        ("t.jsonl --eviction-policy lru", "--eviction-policy", "did you mean 'LRU'?"),
        ("t.jsonl --l2-store-policy x", "--l2-store-policy", "known: default"),
        ("t.jsonl --warmup 1", "--warmup", "from 0 to below 1"),
        ("t.jsonl --concurrency 0", "--concurrency", "whole number from 1"),
        ("t.jsonl --threads x", "--threads", "whole number from 1"),
        ("t.jsonl --chunk-tokens 64", "t.jsonl", "give --chunk-tokens"),
        ("t.jsonl --plot a.png", "--plot", "must end in .svg"),
        ("t.jsonl --l1 2 --plot no/such/folder.svg", "--plot no/such/folder.svg", "cannot be written"),
        ("t.jsonl --jsn", "--jsn", "did you mean '--json'?"),
        ("t.jsonl --json --csv", "--json", "cannot be used with --csv"),
    ];
    for (args, beginning, inside) in cases {
        let run = simulate(&dir, args);
        assert_eq!((run.status, run.stdout.as_str()), (Some(2), ""), "{args}: {run:#?}");
        let line = run.lines().into_iter().find(|line| line.starts_with("error: ")).unwrap_or_default();
        assert!(line.starts_with(&format!("error: {beginning}")), "{args}: {run:#?}");
        assert!(line.contains(inside), "{args}: {run:#?}");
        assert!(run.lines().iter().filter(|line| line.starts_with("error")).count() == 1, "{args}: {run:#?}");
    }
}
