//! Draws one frame: status, tiers, traffic, then operations, workers and policies as far as they fit.

use std::env;

use larder_server::overview::{L2Adapter, Overview};
use ratatui::buffer::Buffer;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, RenderDirection, Row, Sparkline, Table, Widget};

use super::rates::{Rates, Sample};
use crate::ctl::bytes;

/// The width from which the lower part has three columns instead of two.
const WIDE_MIN: u16 = 110;

/// Messages shown.
const MESSAGES_MAX: usize = 3;

/// Adapters shown.
const ADAPTERS_MAX: usize = 4;

/// Time after which a worker counts as silent; it sends a ping every 10 s.
const SILENT_SECONDS: f64 = 60.0;

/// Widths of columns: a name, a bar, and a number after either.
const NAME: usize = 10;
const BAR: usize = 16;
const NUMBER: usize = 13;

#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) url: &'a str,
    pub(super) rates: &'a Rates,
    /// Why the last poll failed, if it did.
    pub(super) error: Option<&'a str>,
    pub(super) palette: Palette,
}

/// Whether to use colours; nothing is shown by colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Palette {
    Colored,
    Plain,
}

impl Palette {
    /// Plain if `NO_COLOR` is set (<https://no-color.org>).
    pub(super) fn from_environment() -> Self {
        let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if no_color { Self::Plain } else { Self::Colored }
    }

    fn style(self, color: Color) -> Style {
        match self {
            Self::Colored => Style::new().fg(color),
            Self::Plain => Style::new(),
        }
    }

    fn title(self) -> Style {
        self.style(Color::Cyan).bold()
    }
}

/// The state of the server in a word, with messages.
#[derive(Debug, PartialEq)]
struct Status {
    word: &'static str,
    color: Color,
    messages: Vec<String>,
}

impl Widget for &View<'_> {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        let status = self.status();
        let Some(overview) = self.rates.last() else {
            let [head, status_area] =
                Layout::vertical([Constraint::Length(1), Constraint::Length(MESSAGES_MAX as u16)])
                    .areas(area);
            self.head(None, head, buffer);
            self.draw_status(&status, status_area, buffer);
            return;
        };
        let status_rows = status.messages.len().clamp(1, MESSAGES_MAX) as u16;
        let tiers = 2 + overview.l2.adapters.len().min(ADAPTERS_MAX) as u16;
        let traffic = if overview.l2.adapters.is_empty() { 3 } else { 5 };
        let [head, status_area, tier_area, traffic_area, rest] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(status_rows + 1),
            Constraint::Length(tiers + 1),
            Constraint::Length(traffic + 1),
            Constraint::Fill(1),
        ])
        .areas(area);
        self.head(Some(overview), head, buffer);
        self.draw_status(&status, status_area, buffer);
        self.tiers(overview, tier_area, buffer);
        self.traffic(overview, traffic_area, buffer);
        self.lower_part(overview, rest, buffer);
    }
}

impl View<'_> {
    fn head(&self, overview: Option<&Overview>, area: Rect, buffer: &mut Buffer) {
        let about = overview.map(|o| format!("  {}  up {}", o.version, span(o.uptime_seconds)));
        let name = Span::styled("larder", self.palette.title());
        let line = [name, format!("  {}", self.url).into(), about.unwrap_or_default().into()];
        Paragraph::new(Line::from_iter(line)).render(area, buffer);
        Paragraph::new("q quits".dim()).alignment(Alignment::Right).render(area, buffer);
    }

    fn draw_status(&self, status: &Status, area: Rect, buffer: &mut Buffer) {
        let width = status.word.len() + 2;
        let lines = status.messages.iter().take(MESSAGES_MAX).enumerate().map(|(i, message)| {
            let word = if i == 0 { status.word } else { "" };
            let word = Span::styled(format!("{word:<width$}"), self.palette.style(status.color).bold());
            Line::from_iter([word, message.as_str().into()])
        });
        Paragraph::new(lines.collect::<Vec<_>>()).render(area, buffer);
    }

    fn status(&self) -> Status {
        if let Some(error) = self.error {
            let mut messages =
                vec![error.to_owned(), "retrying; the values below are the last received".to_owned()];
            messages.truncate(1 + usize::from(self.rates.last().is_some()));
            return Status { word: "NO ANSWER", color: Color::Red, messages };
        }
        let Some(overview) = self.rates.last() else {
            return Status {
                word: "CONNECTING",
                color: Color::Yellow,
                messages: vec!["no response yet".to_owned()],
            };
        };
        if !overview.problems.is_empty() {
            return Status { word: "NOT READY", color: Color::Red, messages: overview.problems.clone() };
        }
        let messages = self.warnings(overview);
        if !messages.is_empty() {
            return Status { word: "WARNING", color: Color::Yellow, messages };
        }
        let message = match overview.workers.len() {
            0 => "no worker is registered: no engine uses this server yet".to_owned(),
            workers => {
                format!("{}, {}", many(workers as u64, "worker"), many(overview.sessions, "open session"))
            }
        };
        Status { word: "HEALTHY", color: Color::Green, messages: vec![message] }
    }

    /// Failures within the last minute of a server that is ready.
    fn warnings(&self, overview: &Overview) -> Vec<String> {
        type Count = fn(&Overview) -> u64;
        type Describe = fn(u64) -> String;
        let counters: [(Count, Describe); 6] = [
            (|o| o.l1.refused_objects, |n| format!("L1 was full for {}", many(n, "object"))),
            (|o| l2(o, |a| a.loads.failed_objects), |n| format!("{} from L2 failed", many(n, "read"))),
            (|o| l2(o, |a| a.stores.failed_objects), |n| format!("{} to L2 failed", many(n, "write"))),
            (|o| o.l2.late_objects, |n| format!("L2 was too slow for {}", many(n, "object"))),
            (
                |o| l2(o, |a| a.dropped_objects),
                |n| format!("the full L2 queue dropped {}", many(n, "object")),
            ),
            (|o| o.stores.failed + o.retrieves.failed, |n| format!("{n} copies by workers failed")),
        ];
        let recent = self.rates.recent();
        let failures = counters.iter().filter_map(|(count, describe)| {
            let number = recent?.increase(count);
            (number > 0).then(|| format!("{} in the last minute", describe(number)))
        });
        let silent = overview.workers.iter().filter(|w| w.last_seen_seconds_ago > SILENT_SECONDS).count();
        let silence =
            (silent > 0).then(|| format!("{} silent for a minute or more", many(silent as u64, "worker")));
        failures.chain(silence).collect()
    }

    fn tiers(&self, overview: &Overview, area: Rect, buffer: &mut Buffer) {
        let mut lines = vec![self.hits(overview)];
        let l1 = &overview.l1;
        let text = format!(
            "{} of {}, {}, {} pinned",
            bytes(l1.used_bytes),
            bytes(l1.capacity_bytes),
            many(l1.objects, "object"),
            l1.held_objects
        );
        lines.push(self.bar("L1", Some(fraction(l1.used_bytes, l1.capacity_bytes)), Color::Blue, text));
        for adapter in overview.l2.adapters.iter().take(ADAPTERS_MAX) {
            let fill = adapter.capacity_bytes.map(|capacity| fraction(adapter.used_bytes, capacity));
            let name = format!("L2 {}", adapter.type_name);
            lines.push(self.bar(&name, fill, Color::Blue, adapter_text(adapter)));
        }
        Paragraph::new(lines).render(area, buffer);
    }

    fn hits(&self, overview: &Overview) -> Line<'static> {
        let lookups = &overview.lookups;
        let found = lookups.hit_l1_tokens + lookups.hit_l2_tokens;
        let overall = match lookups.requested_tokens {
            0 => "no lookups yet".to_owned(),
            tokens => {
                format!("{} of {} since the start", percent(fraction(found, tokens)), many(tokens, "token"))
            }
        };
        let rate = self.rates.recent().and_then(|recent| recent.hit_rate());
        let text = match rate {
            Some(rate) => format!("{} in L1, {} in L2; {overall}", percent(rate.l1), percent(rate.l2)),
            None => overall,
        };
        self.bar("hit rate", rate.map(|rate| rate.total()), Color::Green, text)
    }

    /// A name, a bar and its number if `fill` is known, and a text.
    fn bar(&self, name: &str, fill: Option<f64>, color: Color, text: String) -> Line<'static> {
        let columns = fill.map_or(0, |fill| (fill.clamp(0.0, 1.0) * BAR as f64).round() as usize);
        let empty = if fill.is_some() { "░" } else { " " };
        let number = fill.map_or_else(|| "-".to_owned(), percent);
        Line::from_iter([
            Span::raw(format!("{name:<NAME$.NAME$} ")),
            Span::styled("█".repeat(columns), self.palette.style(color)),
            Span::raw(empty.repeat(BAR - columns)).dim(),
            Span::raw(format!("{number:>6}  ")).bold(),
            Span::raw(text),
        ])
    }

    fn traffic(&self, overview: &Overview, area: Rect, buffer: &mut Buffer) {
        let recent = self.rates.recent();
        let traffic = recent.map(|recent| recent.traffic()).unwrap_or_default();
        let time =
            |seconds: Option<f64>| seconds.map_or_else(String::new, |s| format!("{}/batch", duration(s)));
        let reads = recent.and_then(|recent| recent.l2_batch_seconds(|a| &a.loads));
        let writes = recent.and_then(|recent| recent.l2_batch_seconds(|a| &a.stores));
        type Read = fn(&Sample) -> f64;
        let row = |name, speed, read: Read, text| (name, speed, read, text);
        let mut rows = vec![
            row("retrieve", traffic.retrieved, |m| m.traffic.retrieved, String::new()),
            row("store", traffic.stored, |m| m.traffic.stored, String::new()),
        ];
        if !overview.l2.adapters.is_empty() {
            let pending = overview.l2.pending_objects;
            let queue = if pending > 0 { format!(", {pending} queued") } else { String::new() };
            rows.push(row("L2 read", traffic.l2_read, |m| m.traffic.l2_read, time(reads)));
            rows.push(row("L2 write", traffic.l2_written, |m| m.traffic.l2_written, time(writes) + &queue));
        }
        rows.push(row("evicted", traffic.evicted, |m| m.traffic.evicted, String::new()));
        for ((name, speed, read, text), area) in rows.into_iter().zip(area.rows()) {
            let widths = [NAME + 1, NUMBER + 1].map(|columns| Constraint::Length(columns as u16));
            let [name_area, number_area, curve_area, text_area] =
                Layout::horizontal([widths[0], widths[1], Constraint::Fill(1), Constraint::Length(28)])
                    .areas(area);
            Paragraph::new(name).render(name_area, buffer);
            let number = format!("{:>NUMBER$}", self::speed(speed));
            Paragraph::new(number.bold()).render(number_area, buffer);
            Paragraph::new(format!("  {text}")).render(text_area, buffer);
            let values: Vec<u64> = self.rates.samples().map(|sample| read(sample) as u64).collect();
            // The newest sample is at the right.
            Sparkline::default()
                .data(values)
                .direction(RenderDirection::RightToLeft)
                .style(self.palette.style(Color::Blue))
                .render(curve_area, buffer);
        }
    }

    fn lower_part(&self, overview: &Overview, area: Rect, buffer: &mut Buffer) {
        if area.width >= WIDE_MIN {
            let columns = [Constraint::Length(56), Constraint::Fill(1), Constraint::Length(34)];
            let [operations, workers, policies] = Layout::horizontal(columns).spacing(2).areas(area);
            self.operations(operations, buffer);
            self.workers(overview, workers, buffer);
            self.policies(overview, policies, buffer);
            return;
        }
        let columns = [Constraint::Length(52), Constraint::Fill(1)];
        let [operations, side] = Layout::horizontal(columns).spacing(2).areas(area);
        let policies = 4 + u16::from(overview.policies.learned.is_some());
        let [workers, policy_area] =
            Layout::vertical([Constraint::Fill(1), Constraint::Length(policies)]).areas(side);
        self.operations(operations, buffer);
        self.workers(overview, workers, buffer);
        self.policies(overview, policy_area, buffer);
    }

    fn operations(&self, area: Rect, buffer: &mut Buffer) {
        let operations = self.rates.recent().map(|recent| recent.operations()).unwrap_or_default();
        let rows = operations.iter().map(|operation| {
            let failed = Cell::new(right(operation.failed.to_string()));
            let bad = if operation.failed > 0 { self.palette.style(Color::Red).bold() } else { Style::new() };
            Row::new([
                Cell::new(operation.name),
                Cell::new(right(frequency(operation.per_second))),
                Cell::new(right(duration(operation.median))),
                Cell::new(right(duration(operation.p99))),
                failed.style(bad),
            ])
        });
        let head = ["/s", "median", "99th", "failed"].map(|name| Cell::new(right(name)));
        let head = Row::new(std::iter::once(Cell::new("OPERATIONS")).chain(head)).style(self.palette.title());
        let widths = [Constraint::Fill(1)].into_iter().chain([6, 7, 7, 6].map(Constraint::Length));
        Widget::render(Table::new(rows, widths).header(head), area, buffer);
    }

    fn workers(&self, overview: &Overview, area: Rect, buffer: &mut Buffer) {
        let mut workers: Vec<_> = overview.workers.iter().collect();
        workers.sort_by(|a, b| b.last_seen_seconds_ago.total_cmp(&a.last_seen_seconds_ago));
        let rows = workers.iter().map(|worker| {
            let silent = worker.last_seen_seconds_ago > SILENT_SECONDS;
            let style = if silent { self.palette.style(Color::Yellow).bold() } else { Style::new() };
            let seen = Cell::new(right(span(worker.last_seen_seconds_ago)));
            Row::new([Cell::new(worker.model_name.as_str()), seen.style(style)])
        });
        let head = Row::new([Cell::new(format!("WORKERS {}", workers.len())), Cell::new(right("seen"))]);
        let widths = [Constraint::Fill(1), Constraint::Length(9)];
        Widget::render(Table::new(rows, widths).header(head.style(self.palette.title())), area, buffer);
    }

    fn policies(&self, overview: &Overview, area: Rect, buffer: &mut Buffer) {
        let policies = &overview.policies;
        let mut rows = vec![
            ("eviction".to_owned(), policies.eviction.clone()),
            ("prefetch".to_owned(), policies.prefetch.clone()),
            ("store".to_owned(), policies.store.clone()),
        ];
        if let Some(learned) = &policies.learned {
            rows.push(("active".to_owned(), learned.leader.clone()));
            let experts = learned.experts.iter();
            rows.extend(experts.map(|e| (format!("  {}", e.name), format!("lost {:.0}", e.lost_chunks))));
        }
        let rows = rows.into_iter().map(|(name, value)| Row::new([Cell::new(name), Cell::new(right(value))]));
        let head = Row::new(["POLICIES"]).style(self.palette.title());
        let widths = [Constraint::Fill(1), Constraint::Length(14)];
        Widget::render(Table::new(rows, widths).header(head), area, buffer);
    }
}

/// The space that an adapter uses, and its state.
fn adapter_text(adapter: &L2Adapter) -> String {
    let capacity = adapter.capacity_bytes.map(|all| format!(" of {}", bytes(all))).unwrap_or_default();
    let mut text = format!("{}{capacity}, {}", bytes(adapter.used_bytes), many(adapter.objects, "object"));
    for (what, circuit) in [("reads", &adapter.reads), ("writes", &adapter.writes)] {
        if circuit != "closed" {
            text.push_str(&format!(", {what} {}", circuit.to_uppercase()));
        }
    }
    if adapter.recovering {
        text.push_str(", still counting");
    }
    text
}

fn l2(overview: &Overview, read: fn(&L2Adapter) -> u64) -> u64 {
    overview.l2.adapters.iter().map(read).sum()
}

fn right<'a>(text: impl Into<Line<'a>>) -> Line<'a> {
    text.into().right_aligned()
}

fn fraction(some: u64, all: u64) -> f64 {
    some as f64 / (all as f64).max(1.0)
}

fn percent(fraction: f64) -> String {
    format!("{:.1}%", fraction * 100.0)
}

fn speed(bytes_per_second: f64) -> String {
    format!("{}/s", bytes(bytes_per_second as u64))
}

/// `1 worker`, `2 workers`.
fn many(number: u64, what: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {what}{ending}")
}

fn frequency(per_second: f64) -> String {
    match per_second {
        f if f >= 100.0 => format!("{f:.0}"),
        f => format!("{f:.1}"),
    }
}

fn duration(seconds: f64) -> String {
    let (number, unit) = match seconds {
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    if number < 9.95 { format!("{number:.1} {unit}") } else { format!("{number:.0} {unit}") }
}

/// A time span in its two largest units.
fn span(seconds: f64) -> String {
    let seconds = seconds as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => format!("{hours} h {minutes} m"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests;
