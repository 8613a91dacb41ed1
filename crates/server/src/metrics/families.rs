//! A scrape, read back: what is scraped and what is pushed are the same numbers under the same names.
//!
//! The registry can be asked for its text and nothing else, so the text is the one form that all metrics have.

/// What is announced under one name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Family {
    /// As it is scraped.
    pub(crate) name: String,
    pub(crate) help: String,
    pub(crate) series: Series,
}

/// The series of a name, by its type. Each has its labels.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Series {
    Counter(Vec<(Labels, f64)>),
    Gauge(Vec<(Labels, f64)>),
    Histogram(Vec<(Labels, Distribution)>),
}

/// Names and values, as they stand.
pub(crate) type Labels = Vec<(String, String)>;

/// One histogram.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Distribution {
    /// Upper bounds, without infinity, and how many observations are up to each.
    pub(crate) buckets: Vec<(f64, u64)>,
    pub(crate) sum: f64,
    pub(crate) count: u64,
}

/// The families of a scrape, in its order. What is not a scrape's is left out.
pub(crate) fn families(text: &str) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    let mut help = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            rest.split_once(' ').map_or("", |(_, help)| help).clone_into(&mut help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            let series = match kind {
                "counter" => Series::Counter(Vec::new()),
                "histogram" => Series::Histogram(Vec::new()),
                _ => Series::Gauge(Vec::new()),
            };
            families.push(Family { name: name.to_owned(), help: std::mem::take(&mut help), series });
        } else if let Some((family, (name, labels, value))) = families.last_mut().zip(sample(line)) {
            family.add(name, labels, value);
        }
    }
    families
}

impl Family {
    fn add(&mut self, name: &str, mut labels: Labels, value: f64) {
        match &mut self.series {
            Series::Counter(series) | Series::Gauge(series) => series.push((labels, value)),
            Series::Histogram(series) => {
                let bound = labels.iter().position(|(label, _)| label == "le").map(|at| labels.remove(at).1);
                // The lines of one histogram stand together.
                if series.last().is_none_or(|(last, _)| *last != labels) {
                    series.push((labels, Distribution::default()));
                }
                let Some((_, distribution)) = series.last_mut() else { return };
                match (name.strip_prefix(&self.name), bound.and_then(|bound| bound.parse::<f64>().ok())) {
                    (Some("_bucket"), Some(bound)) if bound.is_finite() => {
                        distribution.buckets.push((bound, value as u64));
                    }
                    (Some("_sum"), None) => distribution.sum = value,
                    (Some("_count"), None) => distribution.count = value as u64,
                    _ => {}
                }
            }
        }
    }
}

/// Name, labels and value of a line.
fn sample(line: &str) -> Option<(&str, Labels, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    match series.split_once('{') {
        None => Some((series, Labels::new(), value)),
        Some((name, labels)) => Some((name, parse_labels(labels.strip_suffix('}')?)?, value)),
    }
}

/// Labels without their braces.
fn parse_labels(mut rest: &str) -> Option<Labels> {
    let mut labels = Labels::new();
    while !rest.is_empty() {
        let (name, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.push((name.to_owned(), value));
        rest = &quoted[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_scrape_is_read_as_it_was_written() {
        let salt = "a \"b\", {c} \\ \n d";
        let written = crate::metrics::core_metrics::labels(&[("cache_salt", salt), ("l1_tag", "t")]);
        let text = format!(
            "# HELP a_total Of a.\n# TYPE a_total counter\na_total{{{written}}} 3\na_total 4\n\
             # HELP g G.\n# TYPE g gauge\ng 0.5\n\
             # HELP h H.\n# TYPE h histogram\n\
             h_sum{{x=\"1\"}} 2.5\nh_count{{x=\"1\"}} 3\nh_bucket{{le=\"1e-5\",x=\"1\"}} 1\n\
             h_bucket{{le=\"2\",x=\"1\"}} 2\nh_bucket{{le=\"+Inf\",x=\"1\"}} 3\n\
             h_bucket{{x=\"2\",le=\"+Inf\"}} 0\nh_sum{{x=\"2\"}} 0\nh_count{{x=\"2\"}} 0\n"
        );
        let read = families(&text);
        let names: Vec<_> = read.iter().map(|f| (f.name.as_str(), f.help.as_str())).collect();
        assert_eq!(names, [("a_total", "Of a."), ("g", "G."), ("h", "H.")]);
        let counter = vec![(labels(&[("cache_salt", salt), ("l1_tag", "t")]), 3.0), (Labels::new(), 4.0)];
        assert_eq!(read[0].series, Series::Counter(counter));
        assert_eq!(read[1].series, Series::Gauge(vec![(Labels::new(), 0.5)]));
        let full = Distribution { buckets: vec![(1e-5, 1), (2.0, 2)], sum: 2.5, count: 3 };
        let of = |x| labels(&[("x", x)]);
        assert_eq!(
            read[2].series,
            Series::Histogram(vec![(of("1"), full), (of("2"), Distribution::default())])
        );
    }

    #[test]
    fn what_is_no_scrape_is_left_out() {
        for text in ["", "a 1\n", "# TYPE a gauge\na{b=\"c} 1\na{b} 1\na{b=\"\\\na\n", "# TYPE\n"] {
            let read = families(text);
            assert!(read.iter().all(|f| f.series == Series::Gauge(Vec::new())), "{text}: {read:?}");
        }
    }
}
