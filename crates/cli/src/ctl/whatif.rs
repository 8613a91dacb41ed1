//! The estimates for other L1 sizes and policies, as a table.

use serde_json::Value;

use super::format::bytes;

/// Two tables, hit rates and bytes read from L2: a row for each pair of policies, a column for each size.
pub(super) fn table(response: &Value) -> String {
    let estimates = response["estimates"].as_array().map_or(&[][..], Vec::as_slice);
    let mut text = heading(response);
    let hit_rates =
        |estimate: &Value| estimate["token_hit_rate"].as_f64().map(|rate| format!("{:.1}%", rate * 100.0));
    text.push_str(&by_size("tokens served", response, estimates, &hit_rates));
    // Without an L2 there is no prefetch policy.
    if !response["configured"]["prefetch_policy"].is_null() {
        text.push('\n');
        let reads = |estimate: &Value| estimate["l2_read_bytes"].as_u64().map(bytes);
        text.push_str(&by_size("read from L2", response, estimates, &reads));
    }
    text
}

/// The number of requests and the sampling rate.
fn heading(response: &Value) -> String {
    let requests = response["requests"].as_u64().unwrap_or(0);
    let minutes = response["since_seconds_ago"].as_f64().unwrap_or(0.0) / 60.0;
    let one_in = response["sampling_rate"].as_f64().filter(|rate| *rate > 0.0).map_or(1.0, f64::recip);
    let l1 = bytes(response["l1_bytes"].as_u64().unwrap_or(0));
    let dropped = match response["dropped"].as_u64() {
        None | Some(0) => String::new(),
        Some(dropped) => format!(", {dropped} dropped"),
    };
    format!(
        "{requests} requests in {minutes:.1} minutes{dropped}; 1 in {one_in} chunks sampled; L1 is {l1}\n\n"
    )
}

/// One table. A star marks the configured policies.
fn by_size(
    title: &str,
    response: &Value,
    estimates: &[Value],
    cell: &dyn Fn(&Value) -> Option<String>,
) -> String {
    let mut rows: Vec<(String, Vec<String>)> = vec![(title.to_owned(), Vec::new())];
    for estimate in estimates {
        let name = policies(estimate);
        let star = if name == policies(&response["configured"]) { "*" } else { " " };
        let name = format!("{star} {name}");
        if rows.last().is_none_or(|(last, _)| *last != name) {
            rows.push((name, Vec::new()));
        }
        let cells = rows.len();
        if cells == 2
            && let Some(factor) = estimate["l1_factor"].as_f64()
        {
            rows[0].1.push(format!("{factor} x L1"));
        }
        rows[cells - 1].1.push(cell(estimate).unwrap_or_default());
    }
    let name_width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let width = rows.iter().flat_map(|(_, cells)| cells).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let line = |(name, cells): &(String, Vec<String>)| {
        let cells: String = cells.iter().map(|cell| format!("  {cell:>width$}")).collect();
        format!("{name:<name_width$}{cells}\n")
    };
    rows.iter().map(line).collect()
}

/// The names of the policies, as in `larder simulate`.
fn policies(of: &Value) -> String {
    let eviction = of["eviction_policy"].as_str().unwrap_or("?");
    match of["prefetch_policy"].as_str() {
        Some(prefetch) => format!("{prefetch} + {eviction}"),
        None => eviction.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn response(prefetch: &Value) -> Value {
        let estimate = |eviction: &str, factor: f64, rate: f64| {
            json!({"prefetch_policy": prefetch, "eviction_policy": eviction, "l1_factor": factor,
                "token_hit_rate": rate, "l2_read_bytes": 1536})
        };
        json!({"since_seconds_ago": 90.0, "requests": 7, "sampling_rate": 0.125, "dropped": 0,
            "l1_bytes": 20u64 << 30,
            "configured": {"prefetch_policy": prefetch, "eviction_policy": "ARC"},
            "estimates": [estimate("LRU", 0.5, 0.25), estimate("LRU", 8.0, 1.0), estimate("ARC", 0.5, 0.0),
                estimate("ARC", 8.0, 0.5)]})
    }

    #[test]
    fn policies_are_rows_and_sizes_are_columns() {
        let heading = "7 requests in 1.5 minutes; 1 in 8 chunks sampled; L1 is 20.0 GiB\n\n";
        let expected = "\
tokens served  0.5 x L1  8 x L1
  LRU             25.0%  100.0%
* ARC              0.0%   50.0%
";
        let expected = expected
            .replace("8 x L1", "  8 x L1")
            .replace("%  100", "%    100")
            .replace("%   50", "%     50");
        assert_eq!(table(&response(&Value::Null)), format!("{heading}{expected}"));
        let with_l2 = table(&response(&json!("retain")));
        assert!(with_l2.contains("\n\nread from L2"), "{with_l2}");
        assert!(with_l2.contains("\n* retain + ARC   1.5 KiB   1.5 KiB\n"), "{with_l2}");
    }

    #[test]
    fn accepts_an_empty_response() {
        assert!(table(&json!({})).starts_with("0 requests"));
    }
}
