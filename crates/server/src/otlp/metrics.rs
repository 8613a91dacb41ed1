//! The families of `/metrics` as OTLP metrics.
//!
//! Instruments have LMCache's names, from which a collector's Prometheus exporter makes the names of `/metrics`: `lmcache_mp.l1_read` in `chunks`, a counter, is `lmcache_mp_l1_read_chunks_total`. All
//! counts are totals since the server started (cumulative), as in a scrape.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum,
};

use super::{Identity, text};
use crate::metrics::family::{Distribution, Family, Labels, Series};
use crate::observe::traces::UnixTime;

/// The start of names on `/metrics` and in OTLP.
const PREFIX: (&str, &str) = ("lmcache_mp_", "lmcache_mp.");

/// Groups of instruments whose names have one more dot.
const GROUPS: [(&str, &str); 2] = [("event_bus_", "event_bus."), ("kv_events_", "kv_events.")];

/// Endings of counters' names on `/metrics` that are a unit in OTLP.
const COUNTER_UNITS: &[(&str, &str)] =
    &[("_chunks", "chunks"), ("_requests", "requests"), ("_tokens", "tokens"), ("_seconds", "s")];

/// Endings that are a unit in OTLP and stay in the name, as in LMCache.
const KEPT_COUNTER_UNITS: &[(&str, &str)] = &[("_keys", "keys"), ("_bytes", "By")];

/// The same for histograms. LMCache's gauges have no units.
const HISTOGRAM_UNITS: &[(&str, &str)] = &[("_seconds", "s"), ("_GB_per_second", "GB/s")];

/// A collector makes this family from the resource.
const RESOURCE: &str = "target_info";

/// The request that pushes `families`, counted from the first time to the second.
pub(super) fn request(
    families: &[Family],
    identity: &Identity,
    time: (UnixTime, UnixTime),
) -> ExportMetricsServiceRequest {
    let families = families.iter().filter(|family| family.name != RESOURCE);
    let scope_metrics = ScopeMetrics {
        scope: Some(identity.scope.clone()),
        metrics: families.map(|family| metric(family, time)).collect(),
        ..ScopeMetrics::default()
    };
    let resource_metrics = ResourceMetrics {
        resource: Some(identity.resource.clone()),
        scope_metrics: vec![scope_metrics],
        ..ResourceMetrics::default()
    };
    ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] }
}

fn metric(family: &Family, time: (UnixTime, UnixTime)) -> Metric {
    let (name, unit) = instrument(family.name, &family.series);
    let cumulative = AggregationTemporality::Cumulative.into();
    let data = match &family.series {
        Series::Gauge(series) => {
            let point = |(labels, value): &_| number(labels, Value::AsDouble(*value), time);
            Data::Gauge(Gauge { data_points: series.iter().map(point).collect() })
        }
        Series::Counter(series) => {
            // Only times are counted in fractions.
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
        description: format!("{}.", family.help),
        unit: unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

/// The name and the unit of the instrument for a family.
fn instrument(name: &str, series: &Series) -> (String, &'static str) {
    let (scraped, units) = match series {
        Series::Counter(_) => (name.strip_suffix("_total").unwrap_or(name), COUNTER_UNITS),
        Series::Histogram(_) => (name, HISTOGRAM_UNITS),
        Series::Gauge(_) => (name, &[][..]),
    };
    let named = units.iter().find_map(|(ending, unit)| Some((scraped.strip_suffix(ending)?, *unit)));
    let (bare, unit) = match (named, series) {
        (Some(named), _) => named,
        (None, Series::Counter(_)) => {
            let kept = KEPT_COUNTER_UNITS.iter().find(|(ending, _)| scraped.ends_with(ending));
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

/// Prometheus counts observations up to each bound; OTLP counts them between bounds and above the last.
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
    use crate::metrics::family::{Families, owned};

    /// LMCache 0.5.6's instruments that this server has too: name, unit and type, as its source creates them.
    const INSTRUMENTS: &str = include_str!("lmcache_instruments.txt");

    /// The name on `/metrics` of an instrument, by the rules of a collector's Prometheus exporter: dots become
    /// underscores, the unit is added unless the name has it, and `_total` to counters.
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

    fn series(kind: &str) -> Series {
        match kind {
            "counter" => Series::Counter(Vec::new()),
            "gauge" => Series::Gauge(Vec::new()),
            "histogram" => Series::Histogram(Vec::new()),
            other => panic!("{other}"),
        }
    }

    /// The metrics that are pushed for `families`.
    fn pushed(families: Families) -> Vec<Metric> {
        let families = families.into_vec(None);
        let mut request = request(&families, &Identity::default(), (UnixTime(1), UnixTime(2)));
        request.resource_metrics.remove(0).scope_metrics.remove(0).metrics
    }

    #[test]
    fn instruments_have_the_names_and_units_of_lmcache() {
        for line in INSTRUMENTS.lines() {
            let [kind, name, unit] = line.split('|').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let of = instrument(&scraped(name, unit, kind), &series(kind));
            assert_eq!(of, (name.to_owned(), unit), "{line}");
        }
    }

    #[test]
    fn collector_turns_instrument_names_back_into_names_of_metrics_page() {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        let docs = std::fs::read_to_string(docs).expect("the list of metrics");
        let rows = docs.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
        let mut seen = HashSet::new();
        for (name, rest) in rows {
            let kind = rest.split(' ').next().unwrap_or_default();
            let (own, unit) = instrument(name, &series(kind));
            assert_eq!(scraped(&own, unit, kind), name);
            assert!(seen.insert(own), "{name}'s instrument is another's too");
        }
        assert!(seen.len() > 100, "{seen:?}");
    }

    #[test]
    fn histogram_buckets_are_not_cumulative() {
        let mut families = Families::default();
        let values = Distribution { buckets: vec![(1.0, 2), (5.0, 2)], sum: 9.5, count: 7 };
        families.histograms("h", "H", [(Labels::new(), values)]);
        let metric = &pushed(families)[0];
        assert_eq!(metric.description, "H.");
        let Some(Data::Histogram(histogram)) = &metric.data else { panic!("{metric:?}") };
        let point = &histogram.data_points[0];
        assert_eq!((&point.bucket_counts[..], &point.explicit_bounds[..]), (&[2, 0, 5][..], &[1.0, 5.0][..]));
        assert_eq!((point.sum, point.count), (Some(9.5), 7));
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (1, 2));
    }

    #[test]
    fn only_times_are_pushed_as_fractions() {
        let mut families = Families::default();
        families.counters("a_seconds_total", "A", [(Labels::new(), 0.5)]);
        families.counter("b_total", "B", &[("x", "1")], 3);
        families.gauge("target_info", "T", &[], 1.0);
        let metrics = pushed(families);
        let Some(Data::Sum(sum)) = &metrics[1].data else { panic!("{metrics:?}") };
        assert_eq!(sum.data_points[0].attributes, attributes(&owned(&[("x", "1")])));
        let values = metrics.iter().map(|metric| match &metric.data {
            Some(Data::Sum(sum)) => sum.data_points[0].value,
            other => panic!("{other:?}"),
        });
        let values: Vec<_> = values.collect();
        assert_eq!(values, [Some(Value::AsDouble(0.5)), Some(Value::AsInt(3))]);
    }
}
