//! Golden vectors of the fold rule, captured from LMCache 0.5.6.

use larder_policy::prefix_scan::{AttentionWindow, PrefixScan, required_range};
use serde_json::Value;

fn window(value: &Value) -> AttentionWindow {
    value.as_i64().and_then(|w| u32::try_from(w).ok()).filter(|w| *w > 0)
}

fn windows(value: &Value) -> Vec<AttentionWindow> {
    value.as_array().expect("an array").iter().map(window).collect()
}

fn rows(value: &Value) -> Vec<Vec<bool>> {
    let bits = |row: &Value| row.as_str().expect("a string").bytes().map(|b| b == b'1').collect();
    value.as_array().expect("an array").iter().map(bits).collect()
}

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/fold.json")).expect("JSON")
}

#[test]
fn ranges_of_a_window() {
    let vectors = vectors();
    let cases = vectors["unfold_range"].as_array().unwrap();
    assert!(cases.len() > 20, "too few cases");
    for case in cases {
        let prefix = case["prefix"].as_i64().unwrap().max(0) as u32;
        let got = required_range(prefix, window(&case["window"]));
        let range: Vec<u32> =
            case["range"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
        assert_eq!([got.start, got.end], range[..], "{case}");
    }
}

#[test]
fn hits_and_required_ranges() {
    let vectors = vectors();
    let cases = vectors["vectors"].as_array().unwrap();
    assert!(cases.len() > 20, "too few cases");
    for case in cases {
        let (windows, found) = (windows(&case["windows"]), rows(&case["found"]));
        let columns = found.first().map_or(0, Vec::len);
        let mut fold = PrefixScan::new(windows.iter().copied());
        let served = case["servable"].as_str().map(str::as_bytes);
        (0..columns).for_each(|column| {
            let servable = served.map(|s| s[column] == b'1');
            let before = fold.hit();
            if !fold.push(|row| found[row][column]) && servable == Some(true) {
                assert_eq!(fold.hit(), column as u32 + 1, "stopped too early: {case}");
            }
            if let Some(servable) = servable {
                let expected = if servable { column as u32 + 1 } else { before };
                assert_eq!(fold.hit(), expected, "column {column} of {case}");
            }
        });
        let hit = fold.hit();
        assert_eq!(u64::from(hit), case["hit_chunks"].as_u64().unwrap(), "{case}");
        for (row, kept) in rows(&case["retain"]).iter().enumerate() {
            let needed = required_range(hit, windows[row]);
            for (column, kept) in kept.iter().enumerate() {
                assert_eq!(needed.contains(&(column as u32)), *kept, "row {row} of {case}");
            }
        }
    }
}
