//! `larder doctor`: a line for each matter, and exit 1 where one fails.

use crate::command::Place;

#[test]
fn each_matter_is_a_line_and_what_fails_says_what_to_change() {
    let place = Place::new();
    let ran = place.larder(&["doctor", "--l2", "missing", "--python", "/missing/python"], &[]);
    assert_eq!(ran.status, Some(1), "{ran:#?}");
    assert_eq!(ran.lines().len(), 1, "{ran:#?}");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 8, "{ran:#?}");
    assert!(lines[6].starts_with("fail  L2            missing cannot be written: "), "{ran:#?}");
    assert!(lines[7].starts_with("fail  client        /missing/python does not run: "), "{ran:#?}");
}

#[test]
fn a_directory_is_measured_and_left_as_it_was() {
    let place = Place::new();
    std::fs::create_dir(place.path("l2")).unwrap();
    let ran = place.larder(&["doctor", "--json", "--l2", "l2"], &[]);
    let last: serde_json::Value = serde_json::from_str(ran.stdout.lines().next_back().unwrap()).unwrap();
    assert_eq!(last["matter"], "L2");
    assert_ne!(last["verdict"], "fail", "{ran:#?}");
    assert_eq!(std::fs::read_dir(place.path("l2")).unwrap().count(), 0);
}

#[test]
fn a_port_that_is_taken_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ran = Place::new().larder(&["doctor", "--port", &port], &[]);
    let line =
        format!("warn  port          {port} is in use; unless by a server of ours, choose another --port");
    assert!(ran.stdout.lines().any(|said| said == line), "{ran:#?}");
}
