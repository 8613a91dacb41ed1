//! The process as the kernel sees it, under the names that Prometheus clients agree on. What cannot be read
//! is left out.

use std::fs;

use super::core_metrics::{Metric, counter, gauge};

/// Ticks of the times in `/proc/*/stat` per second: part of Linux's interface on every machine we run on.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) fn metrics(out: &mut Vec<Metric>) {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (status, stat) = (read("/proc/self/status"), read("/proc/self/stat"));
    // The process's name comes in parentheses and may hold anything; what follows is numbers.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|n| n.parse::<f64>().ok()).map(|n| n / TICKS_PER_SECOND);
    let kilobytes = |name| field(&status, name).map(|kb| kb * 1024.0);
    let boot = || field(&read("/proc/stat"), "btime");
    let files = || Some(fs::read_dir("/proc/self/fd").ok()?.count() as f64);
    let gauges = [
        ("process_virtual_memory_bytes", "Virtual memory", kilobytes("VmSize:")),
        ("process_resident_memory_bytes", "Resident memory, L1's included", kilobytes("VmRSS:")),
        (
            "process_start_time_seconds",
            "When it started, since 1970",
            ticks(19).zip(boot()).map(|(t, b)| t + b),
        ),
        ("process_open_fds", "Open files and sockets", files()),
        ("process_max_fds", "How many there may be", field(&read("/proc/self/limits"), "Max open files")),
    ];
    let known = gauges.into_iter().filter_map(|(name, help, value)| Some(gauge(name, help, "", value?)));
    out.extend(known);
    if let Some(seconds) = ticks(11).zip(ticks(12)).map(|(user, system)| user + system) {
        let (name, help) = ("process_cpu_seconds_total", "Processor time used");
        out.push(Metric { samples: vec![(String::new(), seconds)], ..counter(name, help, "", 0) });
    }
}

/// The first number behind `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}
