//! The classic Prometheus text format.

use std::fmt::Write as _;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use super::INSTANCE_LABEL;
use super::core_metrics::{Kind, Metric, labels};
use super::life::{Distribution, Series};

/// The registry's metrics and those read from the core.
///
/// The encoder speaks OpenMetrics, whose counters are announced without their `_total` suffix and
/// which ends in a marker. LMCache serves the older text format, in which a name is announced as it
/// is written, and so do we.
/// With an `instance`, each series of the core says so, as those of the registry do by themselves.
pub(super) fn render(
    registry: &Registry,
    metrics: &[Metric],
    distributions: &[Distribution],
    instance: Option<&str>,
) -> String {
    let instance = instance.map(|id| labels(&[(INSTANCE_LABEL, id)]));
    let mut open = String::new();
    // Writing into a string cannot fail; a scrape of what was written is better than none.
    let _ = encode(&mut open, registry);
    let mut text = String::with_capacity(open.len() + 4096);
    let mut counter = None;
    let mut help: Option<&str> = None;
    for line in open.lines() {
        if line.starts_with("# EOF") {
            continue;
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest);
            continue;
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, text_of_help)) = help.take().and_then(|h| h.split_once(' ')) {
                let _ = writeln!(text, "# HELP {name}{suffix} {text_of_help}");
            }
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
            counter = (kind == "counter").then_some(name);
            continue;
        }
        debug_assert!(counter.is_none_or(|c| line.starts_with(c)), "sample outside its family: {line}");
        text.push_str(line);
        text.push('\n');
    }
    for metric in metrics {
        write(&mut text, metric, instance.as_deref());
    }
    for distribution in distributions {
        write_distribution(&mut text, distribution, instance.as_deref());
    }
    text
}

fn write(text: &mut String, metric: &Metric, instance: Option<&str>) {
    let Metric { name, help, kind, samples } = metric;
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
    };
    let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {kind}");
    for (labels, value) in samples {
        // One metric is about the instance in any case.
        let instance = instance.filter(|_| !labels.contains(INSTANCE_LABEL));
        sample(text, name, &[instance.unwrap_or_default(), labels], *value);
    }
}

fn write_distribution(text: &mut String, distribution: &Distribution, instance: Option<&str>) {
    let Distribution { name, help, series } = distribution;
    let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} histogram");
    let instance = instance.unwrap_or_default();
    for Series { labels, buckets, sum, count } in series {
        let bounds = buckets.iter().map(|(bound, count)| (bound.to_string(), *count));
        for (bound, count) in bounds.chain([("+Inf".to_owned(), *count)]) {
            let bound = format!("le=\"{bound}\"");
            sample(text, &format!("{name}_bucket"), &[instance, labels, &bound], count as f64);
        }
        sample(text, &format!("{name}_sum"), &[instance, labels], *sum);
        sample(text, &format!("{name}_count"), &[instance, labels], *count as f64);
    }
}

/// One line; empty labels are left out.
fn sample(text: &mut String, name: &str, labels: &[&str], value: f64) {
    let labels: Vec<&str> = labels.iter().copied().filter(|label| !label.is_empty()).collect();
    let _ = match &*labels {
        [] => writeln!(text, "{name} {value}"),
        _ => writeln!(text, "{name}{{{}}} {value}", labels.join(",")),
    };
}
