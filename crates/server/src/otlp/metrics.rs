//! The page of `/metrics` as OTLP has it.
//!
//! An instrument is called what LMCache calls it, so that a collector that turns it into Prometheus' form makes the
//! name that `/metrics` has: `lmcache_mp.l1_read` in `chunks`, a counter, is `lmcache_mp_l1_read_chunks_total`. All
//! counts are totals since the server started (cumulative), as a scrape's are.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum,
};

use super::{About, text};
use crate::metrics::families::{Distribution, Family, Labels, Series};
use crate::observe::traces::UnixTime;

/// How names begin on `/metrics`, and in OTLP.
const PREFIX: (&str, &str) = ("lmcache_mp_", "lmcache_mp.");

/// Groups of instruments that have a dot of their own.
const GROUPS: [(&str, &str); 2] = [("event_bus_", "event_bus."), ("kv_events_", "kv_events.")];

/// What a counter's name ends in on `/metrics`, and the unit that says so in OTLP.
const OF_COUNTERS: &[(&str, &str)] =
    &[("_chunks", "chunks"), ("_requests", "requests"), ("_tokens", "tokens"), ("_seconds", "s")];

/// Units that its name keeps, as LMCache's do.
const TOLD_TWICE: &[(&str, &str)] = &[("_keys", "keys"), ("_bytes", "By")];

/// What a histogram's name ends in. LMCache's gauges have no units.
const OF_HISTOGRAMS: &[(&str, &str)] = &[("_seconds", "s"), ("_GB_per_second", "GB/s")];

/// This is what a collector makes of the resource by itself.
const RESOURCE: &str = "target_info";

/// One push: what has been counted from the first time to the second.
pub(super) fn request(
    families: &[Family],
    about: &About,
    time: (UnixTime, UnixTime),
) -> ExportMetricsServiceRequest {
    let families = families.iter().filter(|family| family.name != RESOURCE);
    let scope_metrics = ScopeMetrics {
        scope: Some(about.scope.clone()),
        metrics: families.map(|family| metric(family, time)).collect(),
        ..ScopeMetrics::default()
    };
    let resource_metrics = ResourceMetrics {
        resource: Some(about.resource.clone()),
        scope_metrics: vec![scope_metrics],
        ..ResourceMetrics::default()
    };
    ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] }
}

fn metric(family: &Family, time: (UnixTime, UnixTime)) -> Metric {
    let (name, unit) = instrument(family);
    let cumulative = AggregationTemporality::Cumulative.into();
    let data = match &family.series {
        Series::Gauge(series) => {
            let point = |(labels, value): &_| number(labels, Value::AsDouble(*value), time);
            Data::Gauge(Gauge { data_points: series.iter().map(point).collect() })
        }
        Series::Counter(series) => {
            // Time is the one thing that is not counted in whole ones.
            let value = |value: f64| match unit {
                "s" => Value::AsDouble(value),
                _ => Value::AsInt(value as i64),
            };
            let points = series.iter().map(|(labels, count)| number(labels, value(*count), time));
            Data::Sum(Sum {
                data_points: points.collect(),
                aggregation_temporality: cumulative,
                is_monotonic: true,
            })
        }
        Series::Histogram(series) => {
            let points = series.iter().map(|(labels, distribution)| histogram(labels, distribution, time));
            Data::Histogram(Histogram { data_points: points.collect(), aggregation_temporality: cumulative })
        }
    };
    Metric {
        name,
        description: family.help.clone(),
        unit: unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

/// The name and the unit of what is scraped under a family's name.
fn instrument(family: &Family) -> (String, &'static str) {
    let name = family.name.as_str();
    let (scraped, units) = match family.series {
        Series::Counter(_) => (name.strip_suffix("_total").unwrap_or(name), OF_COUNTERS),
        Series::Histogram(_) => (name, OF_HISTOGRAMS),
        Series::Gauge(_) => (name, &[][..]),
    };
    let named = units.iter().find_map(|(ending, unit)| Some((scraped.strip_suffix(ending)?, *unit)));
    let (bare, unit) = match (named, &family.series) {
        (Some(named), _) => named,
        (None, Series::Counter(_)) => {
            let kept = TOLD_TWICE.iter().find(|(ending, _)| scraped.ends_with(ending));
            (scraped, kept.map_or("", |(_, unit)| *unit))
        }
        (None, _) => (scraped, ""),
    };
    let Some(rest) = bare.strip_prefix(PREFIX.0) else { return (bare.to_owned(), unit) };
    let group = GROUPS.iter().find_map(|(scraped, own)| Some((own, rest.strip_prefix(scraped)?)));
    let name = match group {
        Some((group, rest)) => format!("{}{group}{rest}", PREFIX.1),
        None => format!("{}{rest}", PREFIX.1),
    };
    (name, unit)
}

fn number(labels: &Labels, value: Value, (started, now): (UnixTime, UnixTime)) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: started.0,
        time_unix_nano: now.0,
        value: Some(value),
        ..NumberDataPoint::default()
    }
}

/// Prometheus counts up to each bound; OTLP between two, and above the last.
fn histogram(
    labels: &Labels,
    distribution: &Distribution,
    (started, now): (UnixTime, UnixTime),
) -> HistogramDataPoint {
    let Distribution { buckets, sum, count } = distribution;
    let up_to = buckets.iter().map(|(_, count)| *count).chain([*count]);
    let bucket_counts =
        up_to.scan(0, |below, up_to| Some(up_to.saturating_sub(std::mem::replace(below, up_to))));
    HistogramDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: started.0,
        time_unix_nano: now.0,
        count: *count,
        sum: Some(*sum),
        bucket_counts: bucket_counts.collect(),
        explicit_bounds: buckets.iter().map(|(bound, _)| *bound).collect(),
        ..HistogramDataPoint::default()
    }
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    labels.iter().map(|(name, value)| text(name, value)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::metrics::families::families;

    /// LMCache 0.5.6's instruments that this server has too: name, unit and type, as its source creates them.
    const INSTRUMENTS: &str = include_str!("lmcache_instruments.txt");

    /// The page's name of an instrument, by the rules of a collector's Prometheus exporter: dots become underscores,
    /// the unit is added unless the name has it, and `_total` to counters.
    fn scraped(name: &str, unit: &str, kind: &str) -> String {
        let unit = match unit {
            "By" => "bytes",
            "s" => "seconds",
            "GB/s" => "GB_per_second",
            other if other.starts_with('{') => "",
            other => other,
        };
        let mut name = name.replace('.', "_");
        if !unit.is_empty() && !name.ends_with(unit) {
            name = format!("{name}_{unit}");
        }
        if kind == "counter" && !name.ends_with("_total") { format!("{name}_total") } else { name }
    }

    fn family(name: &str, kind: &str) -> Family {
        families(&format!("# TYPE {name} {kind}\n")).remove(0)
    }

    #[test]
    fn instruments_are_called_what_lmcache_calls_them() {
        for line in INSTRUMENTS.lines() {
            let [kind, name, unit] = line.split('|').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let family = family(&scraped(name, unit, kind), kind);
            assert_eq!(instrument(&family), (name.to_owned(), unit), "{line}");
        }
    }

    #[test]
    fn what_a_collector_makes_of_a_name_is_what_is_scraped() {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        let docs = std::fs::read_to_string(docs).expect("the list of metrics");
        let rows = docs.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
        let mut seen = HashSet::new();
        for (name, rest) in rows {
            let kind = rest.split(' ').next().unwrap_or_default();
            let (own, unit) = instrument(&family(name, kind));
            assert_eq!(scraped(&own, unit, kind), name);
            assert!(seen.insert(own), "{name}'s instrument is another's too");
        }
        assert!(seen.len() > 100, "{seen:?}");
    }

    #[test]
    fn counts_between_bounds_are_differences_of_counts_up_to_them() {
        let text = "# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"5\"} 2\nh_bucket{le=\"+Inf\"} 7\nh_sum 9.5\nh_count 7\n";
        let request = request(&families(text), &About::default(), (UnixTime(1), UnixTime(2)));
        let metric = &request.resource_metrics[0].scope_metrics[0].metrics[0];
        let Some(Data::Histogram(histogram)) = &metric.data else { panic!("{metric:?}") };
        let point = &histogram.data_points[0];
        assert_eq!((&point.bucket_counts[..], &point.explicit_bounds[..]), (&[2, 0, 5][..], &[1.0, 5.0][..]));
        assert_eq!((point.sum, point.count), (Some(9.5), 7));
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (1, 2));
    }

    #[test]
    fn times_are_fractions_and_other_counts_whole() {
        let text = "# TYPE a_seconds_total counter\na_seconds_total 0.5\n# TYPE b_total counter\nb_total 3\n\
                    # TYPE target_info gauge\ntarget_info 1\n";
        let request = request(&families(text), &About::default(), (UnixTime(1), UnixTime(2)));
        let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
        let values = metrics.iter().map(|metric| match &metric.data {
            Some(Data::Sum(sum)) => sum.data_points[0].value,
            other => panic!("{other:?}"),
        });
        let values: Vec<_> = values.collect();
        assert_eq!(values, [Some(Value::AsDouble(0.5)), Some(Value::AsInt(3))]);
    }
}
