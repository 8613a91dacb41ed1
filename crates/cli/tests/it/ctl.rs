//! `larder ctl` against a real server: its output as text and as JSON, and its exit status.

use std::io::{Read, Write};
use std::net::TcpListener;

use larder_policy::eviction::EvictionKind;
use larder_server::config::Secret;
use larder_types::object::{KvRank, ObjectKey};
use serde_json::Value;

use crate::binary::TestDir;
use crate::server::{CHUNK, TestServer, unused_url};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Writes the objects of a prompt of two chunks of `model` to the server's L2. Returns its tokens.
fn prompt_in_l2(server: &TestServer, model: &str) -> Vec<u32> {
    let bytes = server.register(model);
    let tokens: Vec<u32> = (0..2 * CHUNK).collect();
    for hash in server.state.hashes.hash(&tokens).iter() {
        let key = ObjectKey::new(*hash, model, KvRank::new(1, 0), 0, "").expect("a key");
        let path = server.dir.path("l2").join(key.file_name());
        std::fs::write(path, vec![7; bytes as usize]).expect("a file");
    }
    tokens
}

#[test]
fn ping_prints_the_url() {
    let server = TestServer::new();
    let text = server.ctl_ok(&["ping"]);
    assert!(text.starts_with(&format!("{} is healthy (", server.url)), "{text}");
    assert!(server.ctl_ok(&["ping", "--ready"]).contains(" is ready ("));
    assert_eq!(server.ctl_ok(&["ping", "--json"]), "{\"status\":\"healthy\"}\n");
}

#[test]
fn refused_connection_is_one_line_and_exit_1() {
    let url = unused_url();
    let run = TestDir::new().larder(&["ctl", "ping", "--url", &url], &[]);
    assert_eq!((run.status, &*run.stdout), (Some(1), ""), "{run:#?}");
    let expected = format!("error: {url}: connection refused: no server at this address (set --url)\n");
    assert_eq!(run.stderr, expected);
}

#[test]
fn timeout_is_one_line_and_exit_1() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let run = TestDir::new().larder(&["ctl", "--url", &url, "--timeout", "0.05", "status"], &[]);
    assert_eq!((run.status, run.lines().len()), (Some(1), 1), "{run:#?}");
    assert!(run.stderr.contains("no response within 0.05 s (--timeout)"), "{run:#?}");
}

#[test]
fn response_that_is_not_json_is_an_error() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", other.local_addr().unwrap());
    let page = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>").unwrap();
    });
    let run = TestDir::new().larder(&["ctl", "--url", &url, "status"], &[]);
    page.join().unwrap();
    assert_eq!((run.status, run.lines().len()), (Some(1), 1), "{run:#?}");
    assert!(run.stderr.contains("the response of /status is not JSON"), "{run:#?}");
}

#[test]
fn status_and_describe_show_tiers_and_workers() {
    let server = TestServer::with_fs_l2();
    server.register("org/model");
    let status = server.ctl_ok(&["status"]);
    for part in ["healthy         yes\n", "L1 ", " of 1.0 MiB (0%), 0 objects", "L2 fs", "no lookups yet"] {
        assert!(status.contains(part), "{part}: {status}");
    }
    let report = json(&server.ctl_ok(&["--json", "status"]));
    assert_eq!((&report["is_healthy"], &report["engine_type"]), (&true.into(), &"MPCacheServer".into()));
    let description = server.ctl_ok(&["describe"]);
    let directory = server.dir.path("l2");
    let parts = ["0.5.6-larder.", "16 tokens", "LRU", "worker 7", "org/model, world size 1", "1 layers"];
    for part in parts.into_iter().chain([directory.to_str().unwrap()]) {
        assert!(description.contains(part), "{part}: {description}");
    }
    let whole = json(&server.ctl_ok(&["describe", "--json"]));
    assert_eq!(whole["config"]["mp"]["chunk_size"], CHUNK);
    assert_eq!(whole["status"]["chunk_size"], CHUNK);
}

#[test]
fn ping_ready_fails_with_a_failing_tier() {
    let server = TestServer::with_fs_l2();
    std::fs::remove_dir_all(server.dir.path("l2")).unwrap();
    std::fs::write(server.dir.path("l2"), "in the way").unwrap();
    server.register("m");
    server.dir.write("tokens", &(0..CHUNK).map(|t| format!("{t} ")).collect::<String>());
    let _ = server.ctl(&["prefetch", "m", "tokens"]);
    let run = server.ctl(&["ping", "--ready"]);
    assert_eq!((run.status, &*run.stdout, run.lines().len()), (Some(1), "", 1), "{run:#?}");
    assert!(run.stderr.starts_with("error: the server refused (503): "), "{run:#?}");
    // With --json the response is printed, too.
    let run = server.ctl(&["ping", "--ready", "--json"]);
    assert_eq!((run.status, &json(&run.stdout)["status"]), (Some(1), &"not ready".into()));
    assert!(server.ctl_ok(&["status"]).contains("FAILING"));
}

#[test]
fn quotas_are_set_listed_and_deleted() {
    let server = TestServer::with(|config, dir| {
        config.eviction.policy = EvictionKind::IsolatedLru;
        config.state_dir = Some(dir.path("state"));
    });
    assert_eq!(server.ctl_ok(&["quota", "list"]), "no quotas\n");
    assert_eq!(server.ctl_ok(&["quota", "set", "team a", "1.5"]), "team a has a quota of 1.5 GiB\n");
    assert_eq!(server.ctl_ok(&["quota", "set", "", "2"]), "_default has a quota of 2 GiB\n");
    assert_eq!(server.ctl_ok(&["quota", "get", "team a"]), "team a: 1.5 GiB, 0.000 GiB used\n");
    assert_eq!(server.ctl_ok(&["quota", "get", "other"]), "other: no quota, 0.000 GiB used\n");
    let with_default = TestServer::with(|config, _| {
        config.eviction.policy = EvictionKind::IsolatedLru;
        config.quota_default_bytes = Some(1 << 29);
    });
    let get = with_default.ctl_ok(&["quota", "get", "other"]);
    assert_eq!(get, "other: no quota, the default of 0.500 GiB applies, 0.000 GiB used\n");
    assert_eq!(with_default.ctl_ok(&["quota", "list"]), "no quotas\nall other salts: 0.500 GiB each\n");
    let expected = "\
SALT         LIMIT GiB      USED GiB
_default         2.000         0.000
team a           1.500         0.000
";
    assert_eq!(server.ctl_ok(&["quota", "list"]), expected);
    assert_eq!(json(&server.ctl_ok(&["quota", "list", "--json"]))["users"]["team a"]["limit_gb"], 1.5);
    assert_eq!(server.ctl_ok(&["quota", "delete", "team a"]), "deleted the quota of team a\n");
    assert_eq!(server.ctl_ok(&["quota", "delete", "team a"]), "team a had no quota\n");
    let run = server.ctl(&["quota", "set", "a/b", "1"]);
    assert_eq!((run.status, run.lines().len()), (Some(1), 1), "{run:#?}");
    assert!(run.stderr.starts_with("error: the server refused (400): "), "{run:#?}");
}

#[test]
fn quota_that_no_tier_enforces_is_set_with_a_warning() {
    let run = TestServer::new().ctl(&["quota", "set", "a", "1"]);
    assert_eq!((run.status, &*run.stdout), (Some(0), "a has a quota of 1 GiB\n"));
    assert!(run.stderr.starts_with("warning: no tier enforces quotas"), "{run:#?}");
    assert!(run.stderr.contains("\nnote: the quota ends with the server"), "{run:#?}");
}

#[test]
fn loads_lists_and_clears_a_prompt() {
    let server = TestServer::with_fs_l2();
    let tokens = prompt_in_l2(&server, "org/model");
    server.dir.write("tokens", &format!("{tokens:?}"));
    assert_eq!(server.ctl_ok(&["prefetch", "org/model", "tokens"]), "found 2 of 2 objects\n");
    let done = json(&server.ctl_ok(&["prefetch", "org/model", "tokens", "--json"]));
    assert_eq!((&done["status"], &done["found_keys"]), (&"completed".into(), &2.into()));
    // L1 comes first, then L2; each line is tier, bytes, key.
    let listed = server.ctl_ok(&["objects", "list"]);
    let tiers: Vec<&str> = listed.lines().map(|line| line.split('\t').next().unwrap().trim()).collect();
    assert_eq!(tiers, ["l1", "l1", "fs", "fs"], "{listed}");
    assert!(listed.lines().all(|line| line.contains("\torg/model@01000100@0@")), "{listed}");
    assert_eq!(server.ctl_ok(&["objects", "list", "--model", "other"]), "");
    // A page ends at the end of a tier; the next page follows up to the limit.
    let run = server.ctl(&["objects", "list", "--limit", "3"]);
    assert_eq!((run.status, run.stdout.lines().count()), (Some(0), 3), "{run:#?}");
    assert!(run.stderr.starts_with("note: there may be more than these 3"), "{run:#?}");
    assert_eq!(server.ctl_ok(&["clear"]), "removed 2 objects from L1\n");
    assert_eq!(server.ctl_ok(&["objects", "list", "--tier", "l1"]), "");
    assert_eq!(server.ctl_ok(&["clear", "--force"]), "removed 0 objects from L1\n");
}

#[test]
fn deletes_objects_by_the_keys_of_the_listing() {
    let server = TestServer::with_fs_l2();
    prompt_in_l2(&server, "m");
    let listed = server.ctl_ok(&["objects", "list", "--tier", "l2"]);
    let keys: Vec<&str> = listed.lines().map(|line| line.rsplit('\t').next().unwrap()).collect();
    assert_eq!(keys.len(), 2, "{listed}");
    let page = json(server.ctl_ok(&["objects", "list", "--json"]).lines().next_back().unwrap());
    assert_eq!(page["entries"].as_array().unwrap().len(), 2);
    assert_eq!(server.ctl_ok(&["objects", "delete", "--tier", "l2", keys[0]]), "removed 1 objects\n");
    // The output of the listing as input.
    let run = server.dir.larder_with_stdin(&["ctl", "--url", &server.url, "objects", "delete", "-"], &listed);
    assert_eq!((run.status, &*run.stdout), (Some(0), "removed 1 objects\n"), "{run:#?}");
    assert_eq!(server.ctl_ok(&["objects", "list"]), "");
}

#[test]
fn invalid_input_is_one_line() {
    let server = TestServer::new();
    server.dir.write("text", "1 2 three");
    let cases: &[(i32, &[&str], &str)] = &[
        (2, &["objects", "delete", "m@1"], "m@1: is not a key (MODEL@RANK@GROUP@HASH[@SALT[@LAYOUT]]): "),
        (2, &["prefetch", "m", "text"], "text: 'three' is not a token id"),
        (2, &["prefetch", "m", "missing"], "missing: cannot be read: No such file"),
        (1, &["objects", "list", "--tier", "l2"], "the server refused (503): no L2 adapters configured"),
    ];
    for (status, args, line) in cases {
        let run = server.ctl(args);
        assert_eq!((run.status, run.lines().len()), (Some(*status), 1), "{run:#?}");
        assert!(run.stderr.starts_with(&format!("error: {line}")), "{line}: {run:#?}");
    }
}

#[test]
fn unix_socket_needs_no_token() {
    let server = TestServer::with(|config, dir| {
        config.http.auth_token = Some(Secret::new("s3cret"));
        config.http.auth_reads = true;
        config.http.uds = Some(dir.path("admin.sock"));
    });
    let run = server.ctl(&["status"]);
    assert!(run.stderr.starts_with("error: the server refused (401): "), "{run:#?}");
    let url = "unix:admin.sock";
    let run = server.dir.larder(&["ctl", "--url", url, "clear"], &[]);
    assert_eq!((run.status, &*run.stdout), (Some(0), "removed 0 objects from L1\n"), "{run:#?}");
    let run = server.dir.larder(&["ctl", "--url", url, "ping"], &[]);
    assert!(run.stdout.starts_with("unix:admin.sock is healthy ("), "{run:#?}");
    let run = server.dir.larder(&["top", "--once", "--interval", "0.01", "--url", url], &[]);
    assert_eq!((run.status, &*run.stderr), (Some(0), ""), "{run:#?}");
    server.dir.write("token", "s3cret");
    let args = ["top", "--once", "--interval", "0.01", "--token-file", "token", "--url", &server.url];
    assert_eq!(server.dir.larder(&args, &[]).status, Some(0));
    let run = server.dir.larder(&["ctl", "--url", "unix:none.sock", "ping"], &[]);
    let expected = "error: unix:none.sock: no such socket: the server has it from --http-uds\n";
    assert_eq!((run.status, &*run.stderr), (Some(1), expected));
}

#[test]
fn clear_needs_the_token() {
    let server = TestServer::with(|config, _| config.http.auth_token = Some(Secret::new("s3cret")));
    server.dir.write("token", "s3cret\n");
    let run = server.ctl(&["clear"]);
    assert_eq!((run.status, run.lines().len()), (Some(1), 1), "{run:#?}");
    assert!(run.stderr.starts_with("error: the server refused (401): "), "{run:#?}");
    assert_eq!(server.ctl_ok(&["clear", "--token-file", "token"]), "removed 0 objects from L1\n");
}

#[test]
fn usage_errors_are_one_line_and_exit_2() {
    let dir = TestDir::new();
    dir.write("two", "a b");
    let cases: &[(&[&str], &str)] = &[
        (&[], "no command is given (larder ctl --help lists them)"),
        (&["quota"], "no command is given"),
        (&["pign"], "pign: no such command, did you mean 'ping'?"),
        (&["ping", "--redy"], "--redy: no such flag, did you mean '--ready'?"),
        (&["quota", "set", "a"], "<GIB> is missing"),
        (&["quota", "set", "a", "nan"], "invalid value 'nan' for '<GIB>': must be a number from 0"),
        (
            &["ping", "--timeout", "0"],
            "invalid value '0' for '--timeout <SECONDS>': must be a number above 0",
        ),
        (
            &["ping", "--url", "localhost:8080"],
            "invalid value 'localhost:8080' for '--url <URL>': must begin",
        ),
        (
            &["ping", "--url", "https://a"],
            "invalid value 'https://a' for '--url <URL>': https is not supported",
        ),
        (
            &["ping", "--url", "http://"],
            "invalid value 'http://' for '--url <URL>': must be http://HOST:PORT",
        ),
        (&["ping", "--token-file", "missing"], "--token-file missing: cannot be read"),
        (&["ping", "--token-file", "two"], "--token-file two: must hold one token"),
    ];
    for (args, line) in cases {
        let run = dir.larder(&[&["ctl"], *args].concat(), &[]);
        assert_eq!((run.status, run.lines().len(), &*run.stdout), (Some(2), 1, ""), "{args:?} {run:#?}");
        assert!(run.stderr.starts_with(&format!("error: {line}")), "{line}: {run:#?}");
    }
}

#[test]
fn completions_contain_commands_and_flags() {
    for shell in ["bash", "zsh", "fish"] {
        let run = TestDir::new().larder(&["completions", shell], &[]);
        assert_eq!((run.status, &*run.stderr), (Some(0), ""), "{run:#?}");
        for word in ["prefetch", "token-file", "l1-size-gb", "l2-prefetch-policy", "chunk-tokens", "interval"]
        {
            assert!(run.stdout.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn whatif_is_a_table() {
    let server = TestServer::with_fs_l2();
    let text = server.ctl_ok(&["whatif"]);
    assert!(text.starts_with("0 requests in 0.0 minutes; 1 in 1 chunks sampled; L1 is 1.0 MiB\n"), "{text}");
    assert!(text.contains("\n* default + LRU") && text.contains("\nread from L2"), "{text}");
    let answer = json(&server.ctl_ok(&["whatif", "--json"]));
    // Default, retain and adaptive by three evictions and five sizes.
    assert_eq!(answer["estimates"].as_array().map(Vec::len), Some(45), "{answer}");
    let server = TestServer::with(|config, _| config.whatif = false);
    let run = server.ctl(&["whatif"]);
    assert_eq!((run.status, run.lines().len()), (Some(1), 1), "{run:#?}");
    assert!(run.stderr.contains("--disable-whatif"), "{run:#?}");
}
