//! The classic Prometheus text format, in which a counter is announced with its `_total`, as LMCache serves it.

use std::fmt::{Display, Write as _};

use super::family::{Distribution, Family, Labels, Series};

/// The page of `/metrics`.
pub(super) fn encode(families: &[Family]) -> String {
    let mut text = String::with_capacity(64 << 10);
    for Family { name, help, series } in families {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {}", series.kind());
        match series {
            Series::Counter(series) | Series::Gauge(series) => {
                series.iter().for_each(|(labels, value)| sample(&mut text, name, "", labels, None, value));
            }
            Series::Histogram(series) => {
                series.iter().for_each(|(labels, values)| histogram(&mut text, name, labels, values));
            }
        }
    }
    text
}

fn histogram(text: &mut String, name: &str, labels: &Labels, values: &Distribution) {
    let Distribution { buckets, sum, count } = values;
    let whole = buckets.iter().all(|(bound, _)| bound.fract() == 0.0);
    for (bound, count) in buckets {
        // 1 among whole numbers and 1.0 among fractions: label values must not change between versions.
        let bound = if whole || bound.fract() > 0.0 { format!("{bound}") } else { format!("{bound:.1}") };
        sample(text, name, "_bucket", labels, Some(&bound), count);
    }
    sample(text, name, "_bucket", labels, Some("+Inf"), count);
    sample(text, name, "_sum", labels, None, sum);
    sample(text, name, "_count", labels, None, count);
}

/// One line.
fn sample(
    text: &mut String,
    name: &str,
    suffix: &str,
    labels: &Labels,
    bound: Option<&str>,
    value: impl Display,
) {
    let labels = labels.iter().map(|(name, value)| (*name, value.as_str()));
    let mut separator = '{';
    text.push_str(name);
    text.push_str(suffix);
    for (name, value) in labels.chain(bound.map(|bound| ("le", bound))) {
        let _ = write!(text, "{separator}{name}=\"{}\"", escape(value));
        separator = ',';
    }
    let end = if separator == ',' { "}" } else { "" };
    let _ = writeln!(text, "{end} {value}");
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::family::{Families, owned};

    #[test]
    fn encodes_each_type_and_escapes_label_values() {
        let mut families = Families::default();
        families.counter("a_total", "Of a", &[("cache_salt", "a \"b\" \\ \n d"), ("l1_tag", "t")], 3);
        families.gauge("g", "G", &[], 0.5);
        let values = |buckets| Distribution { buckets, sum: 2.5, count: 3 };
        let whole = (owned(&[("x", "1")]), values(vec![(1.0, 1), (2.0, 2)]));
        families.histograms("h", "H", [whole, (Labels::new(), values(vec![(0.5, 1), (1.0, 2)]))]);
        let text = encode(&families.into_vec(None));
        assert_eq!(
            text,
            "# HELP a_total Of a.\n# TYPE a_total counter\na_total{cache_salt=\"a \\\"b\\\" \\\\ \\n d\",l1_tag=\"t\"} 3\n\
             # HELP g G.\n# TYPE g gauge\ng 0.5\n\
             # HELP h H.\n# TYPE h histogram\n\
             h_bucket{x=\"1\",le=\"1\"} 1\nh_bucket{x=\"1\",le=\"2\"} 2\nh_bucket{x=\"1\",le=\"+Inf\"} 3\n\
             h_sum{x=\"1\"} 2.5\nh_count{x=\"1\"} 3\n\
             h_bucket{le=\"0.5\"} 1\nh_bucket{le=\"1.0\"} 2\nh_bucket{le=\"+Inf\"} 3\nh_sum 2.5\nh_count 3\n"
        );
    }
}
