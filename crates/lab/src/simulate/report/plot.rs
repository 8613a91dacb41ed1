//! Draws miss-ratio curves as SVG: for each trace, hit rates and L2 reads over the size of L1.
//!
//! Each combination of policies has one curve, in the same colour in every panel; the Belady bound is dashed.
//! The axis of the size of L1 is logarithmic.

use super::belady_token_hit_rate;
use super::svg::{Anchor, Svg};
use crate::simulate::model::{L2Size, Setup, ratio};
use crate::simulate::sweep::Outcome;

const PANEL_WIDTH: f64 = 430.0;
const PANEL_HEIGHT: f64 = 300.0;
const MARGIN_LEFT: f64 = 62.0;
const MARGIN_TOP: f64 = 64.0;
const MARGIN_BOTTOM: f64 = 50.0;
const GAP: f64 = 74.0;
const LEGEND_LINE: f64 = 20.0;

/// Colours for all kinds of colour vision (Okabe and Ito), without yellow, which is faint on white.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555"];
const BOUND_COLOUR: &str = "#999999";

const STYLES: &str = "text{font-family:system-ui,'Segoe UI',Helvetica,Arial,sans-serif;fill:#222}\
    .title{font-size:17px;font-weight:600}.panel{font-size:13px;font-weight:600}\
    .tick{font-size:11px;fill:#555}.axis{font-size:12px;fill:#555}.name{font-size:12px}\
    .grid{stroke:#e4e4e4}.frame{stroke:#888}.curve{fill:none;stroke-width:2;stroke-linejoin:round}";

/// The value that a panel shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    TokenHitRate,
    L1Hits,
    L2Reads,
}

impl Measure {
    fn title(self) -> &'static str {
        match self {
            Self::TokenHitRate => "Tokens that need no computing",
            Self::L1Hits => "Chunks served from L1",
            Self::L2Reads => "Chunks read from L2 (less is better)",
        }
    }

    fn of(self, outcome: &Outcome<'_>) -> f64 {
        let counts = &outcome.counts;
        match self {
            Self::TokenHitRate => counts.token_hit_rate(outcome.job.trace.chunk_tokens),
            Self::L1Hits => ratio(counts.l1_hits, counts.chunk_accesses),
            Self::L2Reads => ratio(counts.l2_reads, counts.chunk_accesses),
        }
    }

    fn bound(self, outcome: &Outcome<'_>) -> Option<f64> {
        let part = |chunks: u64| ratio(chunks, outcome.counts.chunk_accesses);
        match self {
            Self::TokenHitRate => Some(belady_token_hit_rate(outcome)),
            Self::L1Hits => Some(part(outcome.bound.l1_hits)),
            Self::L2Reads => outcome.bound.l2_reads.map(part),
        }
    }
}

/// A curve: a setup without the size of L1.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Line {
    setup: Setup,
}

impl Line {
    fn of(outcome: &Outcome<'_>) -> Self {
        Self { setup: Setup { l1_chunks: 0, ..outcome.job.setup } }
    }

    /// Name for the legend: the parts of the setup in which it differs from other curves.
    fn name(&self, all: &[Self]) -> String {
        let setup = &self.setup;
        let l2 = |l2: L2Size| match l2 {
            L2Size::Unbounded => "unbounded L2".to_owned(),
            L2Size::Chunks(chunks) => format!("L2 of {chunks}"),
            L2Size::None => "no L2".to_owned(),
        };
        let parts = [
            (setup.prefetch.name().to_owned(), all.iter().any(|a| a.setup.prefetch != setup.prefetch)),
            (setup.eviction.name().to_owned(), all.iter().any(|a| a.setup.eviction != setup.eviction)),
            (format!("store {}", setup.store.name()), all.iter().any(|a| a.setup.store != setup.store)),
            (l2(setup.l2), all.iter().any(|a| a.setup.l2 != setup.l2)),
        ];
        let differing: Vec<String> =
            parts.iter().filter(|(_, differs)| *differs).map(|(name, _)| name.clone()).collect();
        if differing.is_empty() { format!("{}, {}", parts[0].0, parts[1].0) } else { differing.join(", ") }
    }
}

/// Draws all outcomes as SVG, one row of panels for each trace.
pub fn plot(outcomes: &[Outcome<'_>]) -> String {
    let mut lines: Vec<Line> = Vec::new();
    for outcome in outcomes {
        let line = Line::of(outcome);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    let has_l2 = outcomes.iter().any(|outcome| outcome.job.setup.l2 != L2Size::None);
    let measures: &[Measure] = match has_l2 {
        true => &[Measure::L2Reads, Measure::TokenHitRate],
        false => &[Measure::TokenHitRate, Measure::L1Hits],
    };
    let traces: Vec<&[Outcome<'_>]> =
        outcomes.chunk_by(|a, b| std::ptr::eq(a.job.trace, b.job.trace)).collect();
    let columns = measures.len() as f64;
    let legend_width =
        30.0 + 7.0 * lines.iter().map(|l| l.name(&lines).len()).max().unwrap_or(0).max(24) as f64;
    let width = MARGIN_LEFT + columns * PANEL_WIDTH + (columns - 1.0) * GAP + 24.0 + legend_width;
    let row_height = MARGIN_TOP + PANEL_HEIGHT + MARGIN_BOTTOM;
    let mut svg = Svg::new(width, row_height * traces.len() as f64);
    for (row, of_trace) in traces.iter().enumerate() {
        let top = row as f64 * row_height;
        svg.text("title", (MARGIN_LEFT, top + 26.0), Anchor::Start, &of_trace[0].job.trace.name);
        for (column, measure) in measures.iter().enumerate() {
            let left = MARGIN_LEFT + column as f64 * (PANEL_WIDTH + GAP);
            Panel::new(left, top + MARGIN_TOP, of_trace, *measure).draw(&mut svg, of_trace, &lines);
        }
        legend(&mut svg, (width - legend_width, top + MARGIN_TOP + 8.0), &lines);
    }
    svg.finish(STYLES)
}

fn legend(svg: &mut Svg, (left, top): (f64, f64), lines: &[Line]) {
    let names = lines.iter().enumerate().map(|(i, line)| (colour(i), false, line.name(lines)));
    let bound = (BOUND_COLOUR, true, "Belady: the best possible".to_owned());
    for (i, (colour, dashed, name)) in names.chain([bound]).enumerate() {
        let y = top + i as f64 * LEGEND_LINE;
        svg.curve(colour, dashed, &[(left, y), (left + 22.0, y)]);
        svg.text("name", (left + 28.0, y + 4.0), Anchor::Start, name);
    }
}

fn colour(line: usize) -> &'static str {
    COLOURS[line % COLOURS.len()]
}

/// One chart: its position, and the values at its edges.
#[derive(Debug)]
struct Panel {
    left: f64,
    top: f64,
    measure: Measure,
    /// Smallest and largest size of L1, in per cent of the distinct chunks.
    sizes: (f64, f64),
    /// Value at the upper edge.
    most: f64,
}

impl Panel {
    fn new(left: f64, top: f64, outcomes: &[Outcome<'_>], measure: Measure) -> Self {
        let sizes = outcomes.iter().map(percent);
        let (low, high) = sizes.fold((f64::MAX, 0.0_f64), |(low, high), s| (low.min(s), high.max(s)));
        let (low, high) = if low < high { (low, high) } else { (low / 2.0, high * 2.0) };
        let values = outcomes.iter().map(|o| measure.of(o).max(measure.bound(o).unwrap_or(0.0)));
        let most = (values.fold(0.05, f64::max) * 10.0).ceil() / 10.0;
        Self { left, top, measure, sizes: (low, high), most }
    }

    fn place(&self, size: f64, value: f64) -> (f64, f64) {
        let (low, high) = self.sizes;
        let x = (size / low).ln() / (high / low).ln();
        (self.left + x * PANEL_WIDTH, self.top + (1.0 - value / self.most) * PANEL_HEIGHT)
    }

    fn draw(&self, svg: &mut Svg, outcomes: &[Outcome<'_>], lines: &[Line]) {
        self.axes(svg);
        for (i, line) in lines.iter().enumerate() {
            let mine = || outcomes.iter().filter(|outcome| Line::of(outcome) == *line);
            let mut points: Vec<_> = mine().map(|o| (percent(o), self.measure.of(o))).collect();
            let mut bounds: Vec<_> =
                mine().filter_map(|o| Some((percent(o), self.measure.bound(o)?))).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
            let places = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
                points.iter().map(|(size, value)| self.place(*size, *value)).collect()
            };
            // Curves with the same L2 have the same bound, which is drawn once.
            if lines[..i].iter().all(|before| before.setup.l2 != line.setup.l2) {
                svg.curve(BOUND_COLOUR, true, &places(&bounds));
            }
            svg.curve(colour(i), false, &places(&points));
            if points.len() <= 30 {
                places(&points).into_iter().for_each(|place| svg.dot(colour(i), place));
            }
        }
    }

    fn axes(&self, svg: &mut Svg) {
        let (left, right, bottom) = (self.left, self.left + PANEL_WIDTH, self.top + PANEL_HEIGHT);
        svg.text("panel", (left, self.top - 12.0), Anchor::Start, self.measure.title());
        let step = if self.most > 0.5 {
            0.2
        } else if self.most > 0.2 {
            0.1
        } else {
            0.05
        };
        for i in 0..=(self.most / step + 1e-9) as u32 {
            let value = f64::from(i) * step;
            let (_, y) = self.place(self.sizes.0, value);
            svg.line("grid", (left, y), (right, y));
            svg.text("tick", (left - 8.0, y + 4.0), Anchor::End, format_args!("{:.0} %", value * 100.0));
        }
        for size in ticks(self.sizes) {
            let (x, _) = self.place(size, 0.0);
            svg.line("grid", (x, self.top), (x, bottom));
            svg.text("tick", (x, bottom + 17.0), Anchor::Middle, format_args!("{size} %"));
        }
        svg.line("frame", (left, bottom), (right, bottom));
        svg.line("frame", (left, self.top), (left, bottom));
        let middle = (left + right) / 2.0;
        svg.text("axis", (middle, bottom + 36.0), Anchor::Middle, "size of L1, of all distinct chunks");
    }
}

/// Size of L1 as a percentage of the distinct chunks.
fn percent(outcome: &Outcome<'_>) -> f64 {
    100.0 * ratio(outcome.job.setup.l1_chunks, outcome.job.trace.unique_chunks())
}

/// Round sizes (1, 2 or 5 times a power of ten) within a range.
fn ticks((low, high): (f64, f64)) -> Vec<f64> {
    let decades = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
    // With a tolerance, since sizes are rounded to whole chunks and 0.5 % may be slightly less.
    let inside = |size: &f64| *size >= low * 0.97 && *size <= high * 1.03;
    let all = decades.flat_map(|e| [1.0, 2.0, 5.0].map(|digit| rounded(digit * 10_f64.powi(e))));
    all.filter(inside).collect()
}

/// Rounds away floating-point errors.
fn rounded(size: f64) -> f64 {
    format!("{size:.6}").parse().unwrap_or(size)
}
