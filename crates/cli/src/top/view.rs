//! One frame: the verdict first, then the tiers, traffic, and below what there is room for.

use std::env;

use larder_server::overview::{L2Adapter, Overview};
use ratatui::buffer::Buffer;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, RenderDirection, Row, Sparkline, Table, Widget};

use super::rates::{Moment, Rates};
use crate::ctl::bytes;

/// From this width on there are three columns below, and two if it is less.
const WIDE: u16 = 110;

/// Messages that are shown, the worst first.
const MESSAGES_MAX: usize = 3;

/// Adapters that are shown one by one.
const ADAPTERS_MAX: usize = 4;

/// A worker that has been silent for so long is worth a word: it sends a ping every 10 s.
const SILENT_SECONDS: f64 = 60.0;

/// Columns of a name, of a bar and of a number behind either.
const NAME: usize = 10;
const BAR: usize = 16;
const NUMBER: usize = 13;

/// What is drawn.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) url: &'a str,
    pub(super) rates: &'a Rates,
    /// Why the server did not answer when it was asked last.
    pub(super) trouble: Option<&'a str>,
    pub(super) palette: Palette,
}

/// Whether there are colours. Without, everything can still be told apart by its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Palette {
    Colored,
    Plain,
}

impl Palette {
    /// As the user wants it: <https://no-color.org>.
    pub(super) fn of_environment() -> Self {
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if unwanted { Self::Plain } else { Self::Colored }
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

/// What to say of a server, from the worst to the best.
#[derive(Debug, PartialEq)]
struct Verdict {
    word: &'static str,
    color: Color,
    messages: Vec<String>,
}

impl Widget for &View<'_> {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        let verdict = self.verdict();
        let Some(overview) = self.rates.last() else {
            let [head, said] =
                Layout::vertical([Constraint::Length(1), Constraint::Length(MESSAGES_MAX as u16)])
                    .areas(area);
            self.head(None, head, buffer);
            self.say(&verdict, said, buffer);
            return;
        };
        let said = verdict.messages.len().clamp(1, MESSAGES_MAX) as u16;
        let tiers = 2 + overview.l2.adapters.len().min(ADAPTERS_MAX) as u16;
        let traffic = if overview.l2.adapters.is_empty() { 3 } else { 5 };
        let [head, verdict_area, tier_area, traffic_area, rest] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(said + 1),
            Constraint::Length(tiers + 1),
            Constraint::Length(traffic + 1),
            Constraint::Fill(1),
        ])
        .areas(area);
        self.head(Some(overview), head, buffer);
        self.say(&verdict, verdict_area, buffer);
        self.tiers(overview, tier_area, buffer);
        self.traffic(overview, traffic_area, buffer);
        self.below(overview, rest, buffer);
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

    fn say(&self, verdict: &Verdict, area: Rect, buffer: &mut Buffer) {
        let width = verdict.word.len() + 2;
        let lines = verdict.messages.iter().take(MESSAGES_MAX).enumerate().map(|(i, message)| {
            let word = if i == 0 { verdict.word } else { "" };
            let word = Span::styled(format!("{word:<width$}"), self.palette.style(verdict.color).bold());
            Line::from_iter([word, message.as_str().into()])
        });
        Paragraph::new(lines.collect::<Vec<_>>()).render(area, buffer);
    }

    fn verdict(&self) -> Verdict {
        if let Some(why) = self.trouble {
            let mut messages = vec![why.to_owned(), "trying again; what is below was told before".to_owned()];
            messages.truncate(1 + usize::from(self.rates.last().is_some()));
            return Verdict { word: "NO ANSWER", color: Color::Red, messages };
        }
        let Some(overview) = self.rates.last() else {
            return Verdict { word: "ASKING", color: Color::Yellow, messages: vec!["the server".to_owned()] };
        };
        if !overview.problems.is_empty() {
            return Verdict { word: "NOT READY", color: Color::Red, messages: overview.problems.clone() };
        }
        let messages = self.notices(overview);
        if !messages.is_empty() {
            return Verdict { word: "TROUBLE", color: Color::Yellow, messages };
        }
        let doing = match overview.workers.len() {
            0 => "no worker is registered: no engine uses this server yet".to_owned(),
            workers => {
                format!("{}, {}", many(workers as u64, "worker"), many(overview.sessions, "open session"))
            }
        };
        Verdict { word: "HEALTHY", color: Color::Green, messages: vec![doing] }
    }

    /// What went wrong within the last minute although the server is ready.
    fn notices(&self, overview: &Overview) -> Vec<String> {
        type Count = fn(&Overview) -> u64;
        type Say = fn(u64) -> String;
        let counted: [(Count, Say); 6] = [
            (|o| o.l1.refused_objects, |n| format!("L1 had no room for {}", many(n, "object"))),
            (|o| l2(o, |a| a.loads.failed_objects), |n| format!("{} from L2 failed", many(n, "read"))),
            (|o| l2(o, |a| a.stores.failed_objects), |n| format!("{} to L2 failed", many(n, "write"))),
            (|o| o.l2.late_objects, |n| format!("L2 was too slow for {}", many(n, "object"))),
            (|o| l2(o, |a| a.dropped_objects), |n| format!("L2's full queue lost {}", many(n, "object"))),
            (|o| o.stores.failed + o.retrieves.failed, |n| format!("{n} of the workers' copies failed")),
        ];
        let recent = self.rates.recent();
        let gained = counted.iter().filter_map(|(count, say)| {
            let number = recent?.gained(count);
            (number > 0).then(|| format!("{} in the last minute", say(number)))
        });
        let silent = overview.workers.iter().filter(|w| w.last_seen_seconds_ago > SILENT_SECONDS).count();
        let silence =
            (silent > 0).then(|| format!("{} silent for a minute or more", many(silent as u64, "worker")));
        gained.chain(silence).collect()
    }

    fn tiers(&self, overview: &Overview, area: Rect, buffer: &mut Buffer) {
        let mut lines = vec![self.hits(overview)];
        let l1 = &overview.l1;
        let said = format!(
            "{} of {}, {}, {} held",
            bytes(l1.used_bytes),
            bytes(l1.capacity_bytes),
            many(l1.objects, "object"),
            l1.held_objects
        );
        lines.push(self.bar("L1", Some(part(l1.used_bytes, l1.capacity_bytes)), Color::Blue, said));
        for adapter in overview.l2.adapters.iter().take(ADAPTERS_MAX) {
            let fill = adapter.capacity_bytes.map(|capacity| part(adapter.used_bytes, capacity));
            let name = format!("L2 {}", adapter.type_name);
            lines.push(self.bar(&name, fill, Color::Blue, adapter_words(adapter)));
        }
        Paragraph::new(lines).render(area, buffer);
    }

    fn hits(&self, overview: &Overview) -> Line<'static> {
        let lookups = &overview.lookups;
        let found = lookups.hit_l1_tokens + lookups.hit_l2_tokens;
        let ever = match lookups.requested_tokens {
            0 => "no lookups yet".to_owned(),
            tokens => {
                format!("{} of {} since the start", percent(part(found, tokens)), many(tokens, "token"))
            }
        };
        let rate = self.rates.recent().and_then(|recent| recent.hit_rate());
        let said = match rate {
            Some(rate) => format!("{} in L1, {} in L2; {ever}", percent(rate.l1), percent(rate.l2)),
            None => ever,
        };
        self.bar("hit rate", rate.map(|rate| rate.all()), Color::Green, said)
    }

    /// A name, a bar if there is something to fill, its number, and what else there is to say.
    fn bar(&self, name: &str, fill: Option<f64>, color: Color, said: String) -> Line<'static> {
        let columns = fill.map_or(0, |fill| (fill.clamp(0.0, 1.0) * BAR as f64).round() as usize);
        let empty = if fill.is_some() { "░" } else { " " };
        let number = fill.map_or_else(|| "-".to_owned(), percent);
        Line::from_iter([
            Span::raw(format!("{name:<NAME$.NAME$} ")),
            Span::styled("█".repeat(columns), self.palette.style(color)),
            Span::raw(empty.repeat(BAR - columns)).dim(),
            Span::raw(format!("{number:>7}  ")).bold(),
            Span::raw(said),
        ])
    }

    fn traffic(&self, overview: &Overview, area: Rect, buffer: &mut Buffer) {
        let recent = self.rates.recent();
        let traffic = recent.map(|recent| recent.traffic()).unwrap_or_default();
        let time =
            |seconds: Option<f64>| seconds.map_or_else(String::new, |s| format!("{} a batch", duration(s)));
        let reads = recent.and_then(|recent| recent.l2_seconds(|a| &a.loads));
        let writes = recent.and_then(|recent| recent.l2_seconds(|a| &a.stores));
        type Read = fn(&Moment) -> f64;
        let row = |name, speed, read: Read, said| (name, speed, read, said);
        let mut rows = vec![
            row("retrieve", traffic.retrieved, |m| m.traffic.retrieved, String::new()),
            row("store", traffic.stored, |m| m.traffic.stored, String::new()),
        ];
        if !overview.l2.adapters.is_empty() {
            let waiting = overview.l2.pending_objects;
            let queue = if waiting > 0 { format!(", {waiting} waiting") } else { String::new() };
            rows.push(row("L2 read", traffic.l2_read, |m| m.traffic.l2_read, time(reads)));
            rows.push(row("L2 write", traffic.l2_written, |m| m.traffic.l2_written, time(writes) + &queue));
        }
        rows.push(row("evicted", traffic.evicted, |m| m.traffic.evicted, String::new()));
        for ((name, speed, read, said), area) in rows.into_iter().zip(area.rows()) {
            let words = [NAME + 1, NUMBER + 1].map(|columns| Constraint::Length(columns as u16));
            let [name_area, number_area, curve_area, said_area] =
                Layout::horizontal([words[0], words[1], Constraint::Fill(1), Constraint::Length(28)])
                    .areas(area);
            Paragraph::new(name).render(name_area, buffer);
            let number = format!("{:>NUMBER$}", self::speed(speed));
            Paragraph::new(number.bold()).render(number_area, buffer);
            Paragraph::new(format!("  {said}")).render(said_area, buffer);
            let values: Vec<u64> = self.rates.moments().map(|moment| read(moment) as u64).collect();
            // The newest is at the right, beside what it is.
            Sparkline::default()
                .data(values)
                .direction(RenderDirection::RightToLeft)
                .style(self.palette.style(Color::Blue))
                .render(curve_area, buffer);
        }
    }

    fn below(&self, overview: &Overview, area: Rect, buffer: &mut Buffer) {
        if area.width >= WIDE {
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
            rows.push(("rules".to_owned(), learned.leader.clone()));
            let experts = learned.experts.iter();
            rows.extend(experts.map(|e| (format!("  {}", e.name), format!("lost {:.0}", e.lost_chunks))));
        }
        let rows = rows.into_iter().map(|(name, value)| Row::new([Cell::new(name), Cell::new(right(value))]));
        let head = Row::new(["POLICIES"]).style(self.palette.title());
        let widths = [Constraint::Fill(1), Constraint::Length(14)];
        Widget::render(Table::new(rows, widths).header(head), area, buffer);
    }
}

/// What an adapter holds, and whether it works.
fn adapter_words(adapter: &L2Adapter) -> String {
    let capacity = adapter.capacity_bytes.map(|all| format!(" of {}", bytes(all))).unwrap_or_default();
    let mut said = format!("{}{capacity}, {}", bytes(adapter.used_bytes), many(adapter.objects, "object"));
    for (what, circuit) in [("reads", &adapter.reads), ("writes", &adapter.writes)] {
        if circuit != "closed" {
            said.push_str(&format!(", {what} {}", circuit.to_uppercase()));
        }
    }
    if adapter.recovering {
        said.push_str(", still counting");
    }
    said
}

fn l2(overview: &Overview, read: fn(&L2Adapter) -> u64) -> u64 {
    overview.l2.adapters.iter().map(read).sum()
}

fn right<'a>(text: impl Into<Line<'a>>) -> Line<'a> {
    text.into().right_aligned()
}

fn part(some: u64, all: u64) -> f64 {
    some as f64 / (all as f64).max(1.0)
}

fn percent(part: f64) -> String {
    format!("{:.1}%", part * 100.0)
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

/// How long something has lasted, in its two largest units.
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
