//! The process as the kernel sees it, under the names that Prometheus clients agree on. Values that cannot be read
//! are left out.

use std::fs;

use super::family::{Families, Labels};

/// Ticks of the times in `/proc/*/stat` per second: part of Linux's interface on every machine we run on.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) fn collect(out: &mut Families) {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (status, stat) = (read("/proc/self/status"), read("/proc/self/stat"));
    // The process's name comes in parentheses and may hold anything; numbers follow.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|n| n.parse::<f64>().ok()).map(|n| n / TICKS_PER_SECOND);
    let bytes = |name| field(&status, name).map(|kilobytes| kilobytes * 1024.0);
    let boot = || field(&read("/proc/stat"), "btime");
    let files = || Some(fs::read_dir("/proc/self/fd").ok()?.count() as f64);
    let mut gauge = |name, help, value: Option<f64>| {
        out.gauges(name, help, value.map(|value| (Labels::new(), value)));
    };
    gauge("process_virtual_memory_bytes", "Virtual memory", bytes("VmSize:"));
    gauge("process_resident_memory_bytes", "Resident memory, L1's included", bytes("VmRSS:"));
    let started = ticks(19).zip(boot()).map(|(ticks, boot)| ticks + boot);
    gauge("process_start_time_seconds", "Start of the process, in seconds since 1970", started);
    gauge("process_open_fds", "Open files and sockets", files());
    let limit = field(&read("/proc/self/limits"), "Max open files");
    gauge("process_max_fds", "Limit of open files and sockets", limit);
    let seconds = ticks(11).zip(ticks(12)).map(|(user, system)| (Labels::new(), user + system));
    out.counters("process_cpu_seconds_total", "Processor time used", seconds);
}

/// The first number after `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}
