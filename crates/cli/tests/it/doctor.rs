//! `larder doctor`: a line for each check, and exit 1 if one fails.

use crate::binary::TestDir;

#[test]
fn each_check_is_a_line_and_failure_is_exit_1() {
    let dir = TestDir::new();
    let run = dir.larder(&["doctor", "--l2", "missing", "--python", "/missing/python"], &[]);
    assert_eq!(run.status, Some(1), "{run:#?}");
    assert_eq!(run.lines().len(), 1, "{run:#?}");
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(lines.len(), 8, "{run:#?}");
    assert!(lines[6].starts_with("fail  L2            missing cannot be written: "), "{run:#?}");
    assert!(lines[7].starts_with("fail  client        /missing/python does not run: "), "{run:#?}");
}

#[test]
fn measures_a_directory_and_leaves_it_empty() {
    let dir = TestDir::new();
    std::fs::create_dir(dir.path("l2")).unwrap();
    let run = dir.larder(&["doctor", "--json", "--l2", "l2"], &[]);
    let last: serde_json::Value = serde_json::from_str(run.stdout.lines().next_back().unwrap()).unwrap();
    assert_eq!(last["check"], "L2");
    assert_ne!(last["status"], "fail", "{run:#?}");
    assert_eq!(std::fs::read_dir(dir.path("l2")).unwrap().count(), 0);
}

#[test]
fn port_in_use_is_a_warning() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let run = TestDir::new().larder(&["doctor", "--port", &port], &[]);
    let line = format!(
        "warn  port          {port} is in use; unless a larder server uses it, choose another --port"
    );
    assert!(run.stdout.lines().any(|printed| printed == line), "{run:#?}");
}
