//! What other sizes of L1 and other policies would have done, as a table.

use serde_json::Value;

use super::report::bytes;

/// Two tables, what was served and what was read from L2: policies by sizes.
pub(super) fn table(answer: &Value) -> String {
    let estimates = answer["estimates"].as_array().map_or(&[][..], Vec::as_slice);
    let mut text = heading(answer);
    let shares =
        |estimate: &Value| estimate["token_hit_rate"].as_f64().map(|rate| format!("{:.1}%", rate * 100.0));
    text.push_str(&by_size("tokens served", answer, estimates, &shares));
    // Without an L2 nothing is read from one.
    if !answer["configured"]["prefetch_policy"].is_null() {
        text.push('\n');
        let reads = |estimate: &Value| estimate["l2_read_bytes"].as_u64().map(bytes);
        text.push_str(&by_size("read from L2", answer, estimates, &reads));
    }
    text
}

/// What was asked for, and how closely it was looked at.
fn heading(answer: &Value) -> String {
    let requests = answer["requests"].as_u64().unwrap_or(0);
    let minutes = answer["since_seconds_ago"].as_f64().unwrap_or(0.0) / 60.0;
    let one_in = answer["sampling_rate"].as_f64().filter(|rate| *rate > 0.0).map_or(1.0, f64::recip);
    let l1 = bytes(answer["l1_bytes"].as_u64().unwrap_or(0));
    let dropped = match answer["dropped"].as_u64() {
        None | Some(0) => String::new(),
        Some(dropped) => format!(", {dropped} left out"),
    };
    format!(
        "{requests} requests in {minutes:.1} minutes{dropped}; 1 in {one_in} chunks looked at; L1 is {l1}\n\n"
    )
}

/// One line for each pair of policies, one column for each size. A star is at what is configured.
fn by_size(
    title: &str,
    answer: &Value,
    estimates: &[Value],
    cell: &dyn Fn(&Value) -> Option<String>,
) -> String {
    let mut rows: Vec<(String, Vec<String>)> = vec![(title.to_owned(), Vec::new())];
    for estimate in estimates {
        let name = policies(estimate);
        let star = if name == policies(&answer["configured"]) { "*" } else { " " };
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

/// As `larder simulate` names them.
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

    fn answer(prefetch: &Value) -> Value {
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
    fn policies_are_lines_and_sizes_are_columns() {
        let heading = "7 requests in 1.5 minutes; 1 in 8 chunks looked at; L1 is 20.0 GiB\n\n";
        let expected = "\
tokens served  0.5 x L1  8 x L1
  LRU             25.0%  100.0%
* ARC              0.0%   50.0%
";
        let expected = expected
            .replace("8 x L1", "  8 x L1")
            .replace("%  100", "%    100")
            .replace("%   50", "%     50");
        assert_eq!(table(&answer(&Value::Null)), format!("{heading}{expected}"));
        let with_l2 = table(&answer(&json!("retain")));
        assert!(with_l2.contains("\n\nread from L2"), "{with_l2}");
        assert!(with_l2.contains("\n* retain + ARC   1.5 KiB   1.5 KiB\n"), "{with_l2}");
    }

    #[test]
    fn an_empty_answer_is_no_failure() {
        assert!(table(&json!({})).starts_with("0 requests"));
    }
}
