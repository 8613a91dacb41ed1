//! The longest prefix that can be served when groups of layers have attention windows.
//!
//! Rows are (object group, KV rank) pairs, columns are chunks. A row with a window of `w` chunks needs only the last
//! `w` chunks of the prefix; a row with full attention needs all of it. A prefix of `L` chunks is *servable* if every
//! row has what it needs of it; a longer prefix may be servable although a shorter one is not. The hit is the longest
//! servable prefix.

use std::ops::Range;

/// Attention window of one row, in chunks. `None` is full attention.
pub type AttentionWindow = Option<u32>;

/// The chunks of a prefix of `prefix` chunks that a row needs. A window of zero is full attention.
pub fn required_range(prefix: u32, window: AttentionWindow) -> Range<u32> {
    window.filter(|w| *w > 0).map_or(0, |w| prefix.saturating_sub(w))..prefix
}

/// Finds the longest servable prefix, one column at a time.
///
/// Cost: O(rows) per column. Windows of zero chunks count as full attention, as in LMCache.
#[derive(Debug)]
pub struct PrefixScan {
    rows: Vec<Row>,
    columns: u32,
    hit: u32,
    open: bool,
}

#[derive(Debug)]
struct Row {
    window: AttentionWindow,
    /// Present chunks up to the last column, without a gap.
    run: u32,
}

impl PrefixScan {
    /// Starts with no columns. Without rows nothing is ever servable.
    pub fn new(windows: impl IntoIterator<Item = AttentionWindow>) -> Self {
        let rows: Vec<Row> =
            windows.into_iter().map(|w| Row { window: w.filter(|w| *w > 0), run: 0 }).collect();
        let open = !rows.is_empty();
        Self { rows, columns: 0, hit: 0, open }
    }

    /// Adds the next column; `present` is whether the chunk of a row, by index, is there. Returns false once no
    /// further column can lengthen the hit.
    pub fn push(&mut self, mut present: impl FnMut(usize) -> bool) -> bool {
        if !self.open {
            return false;
        }
        self.columns += 1;
        let mut servable = true;
        for (i, row) in self.rows.iter_mut().enumerate() {
            row.run = if present(i) { row.run + 1 } else { 0 };
            let needed = row.window.unwrap_or(self.columns).min(self.columns);
            servable &= row.run >= needed;
            // A gap under full attention ends every longer prefix.
            self.open &= row.window.is_some() || row.run == self.columns;
        }
        if servable {
            self.hit = self.columns;
        }
        self.open
    }

    /// Columns added so far.
    pub fn columns(&self) -> u32 {
        self.columns
    }

    /// The longest servable prefix so far, in chunks.
    pub fn hit(&self) -> u32 {
        self.hit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fold(windows: &[AttentionWindow], rows: &[Vec<bool>]) -> u32 {
        let mut fold = PrefixScan::new(windows.iter().copied());
        (0..rows.first().map_or(0, Vec::len)).all(|column| fold.push(|r| rows[r][column]));
        fold.hit()
    }

    /// By the definition.
    fn oracle(windows: &[AttentionWindow], rows: &[Vec<bool>]) -> u32 {
        let n = rows.first().map_or(0, Vec::len) as u32;
        let servable = |l: &u32| {
            windows.iter().zip(rows).all(|(w, row)| required_range(*l, *w).all(|i| row[i as usize]))
        };
        (0..=n).rev().find(servable).unwrap_or(0)
    }

    #[test]
    fn nothing_is_servable_without_rows() {
        assert_eq!(fold(&[], &[]), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn agrees_with_definition(
            windows in prop::collection::vec(prop::option::of(0u32..5), 1..4),
            cells in prop::collection::vec(prop::bool::weighted(0.8), 30),
            n in 0usize..10,
        ) {
            let rows: Vec<Vec<bool>> = (0..windows.len()).map(|r| cells[r * 10..][..n].to_vec()).collect();
            prop_assert_eq!(fold(&windows, &rows), oracle(&windows, &rows));
        }
    }
}
