//! `larder top` against a real server. In a real terminal it is tested by `tests/interop/test_top.py`.

use crate::command::Place;
use crate::running::{Running, nobody};

#[test]
fn one_frame_tells_how_a_server_does() {
    let server = Running::with_files();
    server.register("org/model");
    let ran = server.place.larder(&["top", "--once", "--url", &server.url, "--interval", "0.01"], &[]);
    assert_eq!((ran.status, &*ran.stderr), (Some(0), ""), "{ran:#?}");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 24, "{}", ran.stdout);
    assert!(lines[0].starts_with(&format!("larder  {}", server.url)), "{}", ran.stdout);
    assert_eq!(lines[1], "HEALTHY  1 worker, 0 open sessions");
    for part in
        ["no lookups yet", "0 B of 1.0 MiB, 0 objects, 0 held", "L2 fs", "WORKERS 1", "org/model", "LRU"]
    {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    assert!(!ran.stdout.contains('\u{1b}'), "a frame for scripts is plain text");
}

#[test]
fn nobody_there_is_one_line_and_exit_1() {
    let url = nobody();
    let ran = Place::new().larder(&["top", "--once", "--url", &url], &[]);
    assert_eq!((ran.status, &*ran.stdout, ran.lines().len()), (Some(1), "", 1), "{ran:#?}");
    assert!(ran.stderr.contains("no server there (--url says where it is)"), "{ran:#?}");
}

#[test]
fn what_makes_no_sense_is_one_line_and_exit_2() {
    for words in [&["top"][..], &["top", "--interval", "0"], &["top", "--url", "ftp://x"], &["top", "--onec"]]
    {
        let ran = Place::new().larder(words, &[]);
        assert_eq!((ran.status, &*ran.stdout, ran.lines().len()), (Some(2), "", 1), "{words:?}: {ran:#?}");
    }
}

#[test]
fn help_names_the_keys() {
    let ran = Place::new().larder(&["top", "--help"], &[]);
    assert_eq!(ran.status, Some(0));
    assert!(ran.stdout.contains("q, Esc or Ctrl-C quit") && ran.stdout.contains("--once"), "{}", ran.stdout);
}
