//! `larder top` against a real server. In a real terminal it is tested by `tests/interop/test_top.py`.

use crate::binary::TestDir;
use crate::server::{TestServer, unused_url};

#[test]
fn once_prints_one_frame() {
    let server = TestServer::with_fs_l2();
    server.register("org/model");
    let run = server.dir.larder(&["top", "--once", "--url", &server.url, "--interval", "0.01"], &[]);
    assert_eq!((run.status, &*run.stderr), (Some(0), ""), "{run:#?}");
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(lines.len(), 24, "{}", run.stdout);
    assert!(lines[0].starts_with(&format!("larder  {}", server.url)), "{}", run.stdout);
    assert_eq!(lines[1], "HEALTHY  1 worker, 0 open sessions");
    for part in
        ["no lookups yet", "0 B of 1.0 MiB, 0 objects, 0 pinned", "L2 fs", "WORKERS 1", "org/model", "LRU"]
    {
        assert!(run.stdout.contains(part), "{part}: {}", run.stdout);
    }
    assert!(!run.stdout.contains('\u{1b}'), "a frame for scripts is plain text");
}

#[test]
fn refused_connection_is_one_line_and_exit_1() {
    let url = unused_url();
    let run = TestDir::new().larder(&["top", "--once", "--url", &url], &[]);
    assert_eq!((run.status, &*run.stdout, run.lines().len()), (Some(1), "", 1), "{run:#?}");
    assert!(run.stderr.contains("no server at this address (set --url)"), "{run:#?}");
}

#[test]
fn usage_errors_are_one_line_and_exit_2() {
    for args in [&["top"][..], &["top", "--interval", "0"], &["top", "--url", "ftp://x"], &["top", "--onec"]]
    {
        let run = TestDir::new().larder(args, &[]);
        assert_eq!((run.status, &*run.stdout, run.lines().len()), (Some(2), "", 1), "{args:?}: {run:#?}");
    }
}

#[test]
fn help_lists_the_keys() {
    let run = TestDir::new().larder(&["top", "--help"], &[]);
    assert_eq!(run.status, Some(0));
    assert!(run.stdout.contains("q, Esc or Ctrl-C quit") && run.stdout.contains("--once"), "{}", run.stdout);
}
