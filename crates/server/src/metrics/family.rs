//! The one form of all metrics: what `/metrics` writes as text and the OTLP exporter pushes.

use larder_core::stats::Exposed;
use larder_core::stats::residency::Histogram;

/// The label value of everything above a limit. Its series exist from the start, so that the first scrape has every
/// name with its labels.
pub(super) const OTHERS: &str = "(other)";

/// The device that workers copy to and from.
pub(crate) const DEVICE: &str = "cpu";

/// A source of metrics.
pub(crate) trait Collect {
    /// Adds the current values to `out`.
    fn collect(&self, out: &mut Families);
}

/// Label names and values.
pub(crate) type Labels = Vec<(&'static str, String)>;

/// All series of one name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Family {
    pub(crate) name: &'static str,
    /// HELP text, without a full stop at its end.
    pub(crate) help: &'static str,
    pub(crate) series: Series,
}

/// The series of a family, by its type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Series {
    Counter(Vec<(Labels, f64)>),
    Gauge(Vec<(Labels, f64)>),
    Histogram(Vec<(Labels, Distribution)>),
}

impl Series {
    /// The type's name on `/metrics`.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Counter(_) => "counter",
            Self::Gauge(_) => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// The values of one histogram.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Distribution {
    /// Upper bounds without infinity, each with the count of observations up to it.
    pub(crate) buckets: Vec<(f64, u64)>,
    pub(crate) sum: f64,
    pub(crate) count: u64,
}

impl<const N: usize> From<&Histogram<N>> for Distribution {
    fn from(histogram: &Histogram<N>) -> Self {
        Self { buckets: histogram.cumulative().collect(), sum: histogram.sum(), count: histogram.count() }
    }
}

impl Distribution {
    /// Adds the observations of a histogram with the same bounds. A default distribution has no bounds and takes them.
    pub(super) fn merge(&mut self, other: &Self) {
        if self.buckets.is_empty() {
            self.buckets = other.buckets.iter().map(|(bound, _)| (*bound, 0)).collect();
        }
        for ((_, count), (_, more)) in self.buckets.iter_mut().zip(&other.buckets) {
            *count += more;
        }
        self.sum += other.sum;
        self.count += other.count;
    }
}

/// Families in the order in which they were collected.
#[derive(Debug, Default)]
pub(crate) struct Families(Vec<Family>);

impl Families {
    /// A counter with one series.
    pub(crate) fn counter(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        value: u64,
    ) {
        self.counters(name, help, [(owned(labels), value as f64)]);
    }

    /// A gauge with one series.
    pub(crate) fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, &str)],
        value: f64,
    ) {
        self.gauges(name, help, [(owned(labels), value)]);
    }

    /// A counter with a series for each set of labels.
    pub(crate) fn counters(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        self.0.push(Family { name, help, series: Series::Counter(samples.into_iter().collect()) });
    }

    /// A gauge with a series for each set of labels.
    pub(crate) fn gauges(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        self.0.push(Family { name, help, series: Series::Gauge(samples.into_iter().collect()) });
    }

    /// A histogram with a series for each set of labels.
    pub(crate) fn histograms(
        &mut self,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, Distribution)>,
    ) {
        self.0.push(Family { name, help, series: Series::Histogram(samples.into_iter().collect()) });
    }

    /// Every counter that `C` exposes, with a series for each of `counts`. `label` gives the values of fixed labels.
    pub(crate) fn exposed<'a, C: 'a>(
        &mut self,
        rows: &'static [Exposed<C>],
        label: impl Fn(&'static str) -> String,
        counts: impl Iterator<Item = (Labels, &'a C)> + Clone,
    ) {
        for row in rows {
            let fixed: Labels = row.labels.iter().map(|name| (*name, label(name))).collect();
            let sample = |(labels, counts): (Labels, &C)| {
                (fixed.iter().cloned().chain(labels).collect(), (row.read)(counts) as f64)
            };
            self.counters(row.name, row.help, counts.clone().map(sample));
        }
    }

    /// The families that have series. `common` is a label of every series that does not have it already.
    pub(crate) fn into_vec(mut self, common: Option<(&'static str, &str)>) -> Vec<Family> {
        self.0.retain(|family| match &family.series {
            Series::Counter(series) | Series::Gauge(series) => !series.is_empty(),
            Series::Histogram(series) => !series.is_empty(),
        });
        let Some((name, value)) = common else { return self.0 };
        let add = |labels: &mut Labels| {
            if labels.iter().all(|(present, _)| *present != name) {
                labels.insert(0, (name, value.to_owned()));
            }
        };
        for family in &mut self.0 {
            match &mut family.series {
                Series::Counter(series) | Series::Gauge(series) => {
                    series.iter_mut().for_each(|s| add(&mut s.0))
                }
                Series::Histogram(series) => series.iter_mut().for_each(|s| add(&mut s.0)),
            }
        }
        self.0
    }
}

/// Labels with owned values.
pub(crate) fn owned(labels: &[(&'static str, &str)]) -> Labels {
    labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_distributions_add_up_in_every_bucket() {
        let one = Distribution { buckets: vec![(1.0, 1), (2.0, 2)], sum: 2.5, count: 3 };
        let mut sum = Distribution::default();
        sum.merge(&one);
        assert_eq!(sum, one);
        sum.merge(&one);
        assert_eq!(sum, Distribution { buckets: vec![(1.0, 2), (2.0, 4)], sum: 5.0, count: 6 });
    }
}
