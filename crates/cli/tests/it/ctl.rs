//! `larder ctl` against a real server: its answers for people and for programs, and its exit status.

use std::io::{Read, Write};
use std::net::TcpListener;

use larder_policy::eviction::EvictionKind;
use larder_server::config::Secret;
use larder_types::object::{KvRank, ObjectKey};
use serde_json::Value;

use crate::command::Place;
use crate::running::{CHUNK, Running, nobody};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Puts the objects of a prompt of two chunks into the server's L2, under `model`. Returns its tokens.
fn prompt_in_l2(server: &Running, model: &str) -> Vec<u32> {
    let bytes = server.register(model);
    let tokens: Vec<u32> = (0..2 * CHUNK).collect();
    for hash in server.state.chains.hash(&tokens).iter() {
        let key = ObjectKey::new(*hash, model, KvRank::new(1, 0), 0, "").expect("a key");
        let path = server.place.path("l2").join(key.file_name());
        std::fs::write(path, vec![7; bytes as usize]).expect("a file");
    }
    tokens
}

#[test]
fn ping_says_who_answers() {
    let server = Running::new();
    let said = server.said(&["ping"]);
    assert!(said.starts_with(&format!("{} is healthy (", server.url)), "{said}");
    assert!(server.said(&["ping", "--ready"]).contains(" is ready ("));
    assert_eq!(server.said(&["ping", "--json"]), "{\"status\":\"healthy\"}\n");
}

#[test]
fn nobody_there_is_one_line_and_exit_1() {
    let url = nobody();
    let ran = Place::new().larder(&["ctl", "ping", "--url", &url], &[]);
    assert_eq!((ran.status, &*ran.stdout), (Some(1), ""), "{ran:#?}");
    let expected = format!("error: {url}: connection refused: no server there (--url says where it is)\n");
    assert_eq!(ran.stderr, expected);
}

#[test]
fn a_server_that_does_not_answer_is_waited_for_and_no_longer() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let ran = Place::new().larder(&["ctl", "--url", &url, "--timeout", "0.05", "status"], &[]);
    assert_eq!((ran.status, ran.lines().len()), (Some(1), 1), "{ran:#?}");
    assert!(ran.stderr.contains("no answer within 0.05 s (--timeout)"), "{ran:#?}");
}

#[test]
fn another_server_at_that_port_is_told_apart() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", other.local_addr().unwrap());
    let page = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>").unwrap();
    });
    let ran = Place::new().larder(&["ctl", "--url", &url, "status"], &[]);
    page.join().unwrap();
    assert_eq!((ran.status, ran.lines().len()), (Some(1), 1), "{ran:#?}");
    assert!(ran.stderr.contains("/status is not answered in JSON"), "{ran:#?}");
}

#[test]
fn status_and_describe_tell_what_there_is() {
    let server = Running::with_files();
    server.register("org/model");
    let status = server.said(&["status"]);
    for part in ["healthy         yes\n", "L1 ", " of 1.0 MiB (0%), 0 objects", "L2 fs", "no lookups yet"] {
        assert!(status.contains(part), "{part}: {status}");
    }
    let report = json(&server.said(&["--json", "status"]));
    assert_eq!((&report["is_healthy"], &report["engine_type"]), (&true.into(), &"MPCacheServer".into()));
    let description = server.said(&["describe"]);
    let directory = server.place.path("l2");
    let parts = ["0.5.6-larder.", "16 tokens", "LRU", "worker 7", "org/model, world size 1", "1 layers"];
    for part in parts.into_iter().chain([directory.to_str().unwrap()]) {
        assert!(description.contains(part), "{part}: {description}");
    }
    let whole = json(&server.said(&["describe", "--json"]));
    assert_eq!(whole["config"]["mp"]["chunk_size"], CHUNK);
    assert_eq!(whole["status"]["chunk_size"], CHUNK);
}

#[test]
fn a_failing_tier_fails_readiness_and_says_which() {
    let server = Running::with_files();
    std::fs::remove_dir_all(server.place.path("l2")).unwrap();
    std::fs::write(server.place.path("l2"), "in the way").unwrap();
    server.register("m");
    server.place.write("tokens", &(0..CHUNK).map(|t| format!("{t} ")).collect::<String>());
    let _ = server.ctl(&["prefetch", "m", "tokens"]);
    let ran = server.ctl(&["ping", "--ready"]);
    assert_eq!((ran.status, &*ran.stdout, ran.lines().len()), (Some(1), "", 1), "{ran:#?}");
    assert!(ran.stderr.starts_with("error: the server refused (503): "), "{ran:#?}");
    // The answer itself is for programs.
    let ran = server.ctl(&["ping", "--ready", "--json"]);
    assert_eq!((ran.status, &json(&ran.stdout)["status"]), (Some(1), &"not ready".into()));
    assert!(server.said(&["status"]).contains("FAILING"));
}

#[test]
fn quotas_are_set_listed_and_taken_away() {
    let server = Running::with(|config, place| {
        config.eviction.policy = EvictionKind::IsolatedLru;
        config.state_dir = Some(place.path("state"));
    });
    assert_eq!(server.said(&["quota", "list"]), "no quotas\n");
    assert_eq!(server.said(&["quota", "set", "team a", "1.5"]), "team a may hold 1.5 GiB\n");
    assert_eq!(server.said(&["quota", "set", "", "2"]), "_default may hold 2 GiB\n");
    assert_eq!(server.said(&["quota", "get", "team a"]), "team a: 1.5 GiB, 0.000 GiB used\n");
    assert_eq!(server.said(&["quota", "get", "nobody"]), "nobody: no quota, 0.000 GiB used\n");
    let expected = "\
SALT         LIMIT GiB      USED GiB
_default         2.000         0.000
team a           1.500         0.000
";
    assert_eq!(server.said(&["quota", "list"]), expected);
    assert_eq!(json(&server.said(&["quota", "list", "--json"]))["users"]["team a"]["limit_gb"], 1.5);
    assert_eq!(server.said(&["quota", "delete", "team a"]), "team a has no quota now\n");
    assert_eq!(server.said(&["quota", "delete", "team a"]), "team a had no quota\n");
    let ran = server.ctl(&["quota", "set", "a/b", "1"]);
    assert_eq!((ran.status, ran.lines().len()), (Some(1), 1), "{ran:#?}");
    assert!(ran.stderr.starts_with("error: the server refused (400): "), "{ran:#?}");
}

#[test]
fn quotas_that_nobody_enforces_are_set_with_a_warning() {
    let ran = Running::new().ctl(&["quota", "set", "a", "1"]);
    assert_eq!((ran.status, &*ran.stdout), (Some(0), "a may hold 1 GiB\n"));
    assert!(ran.stderr.starts_with("warning: no tier enforces quotas"), "{ran:#?}");
    assert!(ran.stderr.contains("\nnote: it ends with the server"), "{ran:#?}");
}

#[test]
fn a_prompt_is_loaded_listed_and_cleared() {
    let server = Running::with_files();
    let tokens = prompt_in_l2(&server, "org/model");
    server.place.write("tokens", &format!("{tokens:?}"));
    assert_eq!(server.said(&["prefetch", "org/model", "tokens"]), "found 2 of 2 objects\n");
    let done = json(&server.said(&["prefetch", "org/model", "tokens", "--json"]));
    assert_eq!((&done["status"], &done["found_keys"]), (&"completed".into(), &2.into()));
    // L1 comes first, then L2; each line is tier, bytes, key.
    let listed = server.said(&["objects", "list"]);
    let tiers: Vec<&str> = listed.lines().map(|line| line.split('\t').next().unwrap().trim()).collect();
    assert_eq!(tiers, ["l1", "l1", "fs", "fs"], "{listed}");
    assert!(listed.lines().all(|line| line.contains("\torg/model@01000100@0@")), "{listed}");
    assert_eq!(server.said(&["objects", "list", "--model", "other"]), "");
    // A page ends with its tier; the next follows, and a limit stops them.
    let ran = server.ctl(&["objects", "list", "--limit", "3"]);
    assert_eq!((ran.status, ran.stdout.lines().count()), (Some(0), 3), "{ran:#?}");
    assert!(ran.stderr.starts_with("note: there may be more than these 3"), "{ran:#?}");
    assert_eq!(server.said(&["clear"]), "removed 2 objects from L1\n");
    assert_eq!(server.said(&["objects", "list", "--tier", "l1"]), "");
    assert_eq!(server.said(&["clear", "--force"]), "removed 0 objects from L1\n");
}

#[test]
fn objects_are_deleted_by_what_the_listing_says() {
    let server = Running::with_files();
    prompt_in_l2(&server, "m");
    let listed = server.said(&["objects", "list", "--tier", "l2"]);
    let keys: Vec<&str> = listed.lines().map(|line| line.rsplit('\t').next().unwrap()).collect();
    assert_eq!(keys.len(), 2, "{listed}");
    let page = json(server.said(&["objects", "list", "--json"]).lines().next_back().unwrap());
    assert_eq!(page["entries"].as_array().unwrap().len(), 2);
    assert_eq!(server.said(&["objects", "delete", "--tier", "l2", keys[0]]), "removed 1 objects\n");
    // The listing, piped in as it is.
    let ran = server.place.larder_reading(&["ctl", "--url", &server.url, "objects", "delete", "-"], &listed);
    assert_eq!((ran.status, &*ran.stdout), (Some(0), "removed 1 objects\n"), "{ran:#?}");
    assert_eq!(server.said(&["objects", "list"]), "");
}

#[test]
fn input_that_cannot_be_used_is_one_line() {
    let server = Running::new();
    server.place.write("words", "1 2 three");
    let cases: &[(i32, &[&str], &str)] = &[
        (2, &["objects", "delete", "m@1"], "m@1: is no key (MODEL@RANK@GROUP@HASH[@SALT]): "),
        (2, &["prefetch", "m", "words"], "words: 'three' is not a token id"),
        (2, &["prefetch", "m", "missing"], "missing: cannot be read: No such file"),
        (1, &["objects", "list", "--tier", "l2"], "the server refused (503): no L2 adapters configured"),
    ];
    for (status, words, line) in cases {
        let ran = server.ctl(words);
        assert_eq!((ran.status, ran.lines().len()), (Some(*status), 1), "{ran:#?}");
        assert!(ran.stderr.starts_with(&format!("error: {line}")), "{line}: {ran:#?}");
    }
}

#[test]
fn what_changes_something_takes_the_token_from_a_file() {
    let server = Running::with(|config, _| config.http.auth_token = Some(Secret::new("s3cret")));
    server.place.write("token", "s3cret\n");
    let ran = server.ctl(&["clear"]);
    assert_eq!((ran.status, ran.lines().len()), (Some(1), 1), "{ran:#?}");
    assert!(ran.stderr.starts_with("error: the server refused (401): "), "{ran:#?}");
    assert_eq!(server.said(&["clear", "--token-file", "token"]), "removed 0 objects from L1\n");
}

#[test]
fn mistakes_are_one_line_and_exit_2() {
    let place = Place::new();
    place.write("two", "a b");
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
        (&["ping", "--url", "https://a"], "invalid value 'https://a' for '--url <URL>': https is not spoken"),
        (
            &["ping", "--url", "http://"],
            "invalid value 'http://' for '--url <URL>': must be http://HOST:PORT",
        ),
        (&["ping", "--token-file", "missing"], "--token-file missing: cannot be read"),
        (&["ping", "--token-file", "two"], "--token-file two: must hold one token"),
    ];
    for (words, line) in cases {
        let ran = place.larder(&[&["ctl"], *words].concat(), &[]);
        assert_eq!((ran.status, ran.lines().len(), &*ran.stdout), (Some(2), 1, ""), "{words:?} {ran:#?}");
        assert!(ran.stderr.starts_with(&format!("error: {line}")), "{line}: {ran:#?}");
    }
}

#[test]
fn shells_learn_every_command_and_flag() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = Place::new().larder(&["completions", shell], &[]);
        assert_eq!((ran.status, &*ran.stderr), (Some(0), ""), "{ran:#?}");
        for word in ["prefetch", "token-file", "l1-size-gb", "l2-prefetch-policy", "chunk-tokens", "interval"]
        {
            assert!(ran.stdout.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn what_another_size_or_policy_would_do_is_a_table() {
    let server = Running::with_files();
    let said = server.said(&["whatif"]);
    assert!(
        said.starts_with("0 requests in 0.0 minutes; 1 in 1 chunks looked at; L1 is 1.0 MiB\n"),
        "{said}"
    );
    assert!(said.contains("\n* default + LRU") && said.contains("\nread from L2"), "{said}");
    let answer = json(&server.said(&["whatif", "--json"]));
    // Default, retain and adaptive by three evictions and five sizes.
    assert_eq!(answer["estimates"].as_array().map(Vec::len), Some(45), "{answer}");
    let server = Running::with(|config, _| config.whatif = false);
    let ran = server.ctl(&["whatif"]);
    assert_eq!((ran.status, ran.lines().len()), (Some(1), 1), "{ran:#?}");
    assert!(ran.stderr.contains("--disable-whatif"), "{ran:#?}");
}
