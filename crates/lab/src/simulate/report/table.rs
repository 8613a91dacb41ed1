//! Human-readable tables, one for each trace.

use std::fmt::Write;

use super::belady_token_hit_rate;
use crate::simulate::model::{L2Size, ratio};
use crate::simulate::sweep::Outcome;

/// Rows of cells; the first row is the header.
type Rows = Vec<Vec<String>>;

/// Number of text columns; the columns after them are numbers.
const TEXT_COLUMNS: usize = 5;

/// One table for each trace, separated by empty lines.
pub fn table(outcomes: &[Outcome<'_>]) -> String {
    let mut text = String::new();
    for of_trace in outcomes.chunk_by(|a, b| std::ptr::eq(a.job.trace, b.job.trace)) {
        if !text.is_empty() {
            text.push('\n');
        }
        text += &heading(&of_trace[0]);
        text += &aligned(&rows(of_trace));
    }
    text
}

fn heading(outcome: &Outcome<'_>) -> String {
    let (trace, warmup) = (outcome.job.trace, outcome.job.setup.warmup);
    let mut text = format!(
        "{}: {} requests, {} chunk accesses, {} distinct chunks of {} tokens",
        trace.name,
        trace.requests().len(),
        trace.chunk_accesses(),
        trace.unique_chunks(),
        trace.chunk_tokens,
    );
    if warmup > 0.0 {
        let _ = write!(text, "; the first {:.0} % not counted", warmup * 100.0);
    }
    if trace.skipped_lines > 0 {
        let _ = write!(text, "; {} lines skipped", trace.skipped_lines);
    }
    text + "\n\n"
}

fn rows(outcomes: &[Outcome<'_>]) -> Rows {
    let names = [
        "L1",
        "L2",
        "prefetch",
        "eviction",
        "store",
        "token hit rate",
        "(best)",
        "L1 hits",
        "L2 reads",
        "(fewest)",
        "misses",
        "L2 writes",
        "evictions",
    ];
    let mut rows = vec![names.map(str::to_owned).to_vec()];
    for outcome in outcomes {
        let (setup, counts) = (&outcome.job.setup, &outcome.counts);
        let percent = |rate: f64| format!("{:.1} %", rate * 100.0);
        let part = |chunks: u64| percent(ratio(chunks, counts.chunk_accesses));
        let l2 = match setup.l2 {
            L2Size::Unbounded => "all".to_owned(),
            L2Size::Chunks(chunks) => chunks.to_string(),
            L2Size::None => "none".to_owned(),
        };
        rows.push(vec![
            outcome.job.l1.to_string(),
            l2,
            setup.prefetch.name().to_owned(),
            setup.eviction.name().to_owned(),
            setup.store.name().to_owned(),
            percent(counts.token_hit_rate(outcome.job.trace.chunk_tokens)),
            percent(belady_token_hit_rate(outcome)),
            part(counts.l1_hits),
            part(counts.l2_reads),
            outcome.bound.l2_reads.map_or_else(String::new, part),
            part(counts.misses()),
            part(counts.l2_writes),
            counts.l1_evictions.to_string(),
        ]);
    }
    rows
}

/// Pads cells to aligned columns: text to the left, L1 sizes and numbers to the right.
fn aligned(rows: &Rows) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widest = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(widest).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(i, (cell, width))| match i {
                0 => format!("{cell:>width$}"),
                i if i < TEXT_COLUMNS => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}
