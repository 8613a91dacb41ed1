//! Sets of shards of a lookup.

use std::fmt;

/// A set of shards. Rows are (object group, rank) pairs, columns are chunks.
///
/// Bits lie column by column, so that a prefix of the columns is a prefix of the bits.
#[derive(Clone, PartialEq, Eq)]
pub struct ShardBitmap {
    rows: u32,
    columns: u32,
    words: Vec<u64>,
}

impl ShardBitmap {
    /// The empty set.
    pub fn new(rows: u32, columns: u32) -> Self {
        let bits = rows as usize * columns as usize;
        Self { rows, columns, words: vec![0; bits.div_ceil(64)] }
    }

    /// The shards given row by row as column numbers.
    ///
    /// # Panics
    /// If a column is outside.
    pub fn from_rows(columns: u32, rows: &[&[u32]]) -> Self {
        let mut grid = Self::new(rows.len() as u32, columns);
        for (row, cells) in rows.iter().enumerate() {
            cells.iter().for_each(|column| grid.insert(row as u32, *column));
        }
        grid
    }

    /// Number of rows.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> u32 {
        self.columns
    }

    /// Extends it to at least `columns` columns.
    pub fn widen(&mut self, columns: u32) {
        self.columns = self.columns.max(columns);
        self.words.resize((self.rows as usize * self.columns as usize).div_ceil(64), 0);
    }

    /// The part of the set in the first `columns` columns.
    pub fn first(&self, columns: u32) -> Self {
        let mut grid = self.clone();
        let bits = self.rows as usize * columns as usize;
        grid.columns = columns;
        grid.words.resize(bits.div_ceil(64), 0);
        if let Some(last) = grid.words.last_mut().filter(|_| !bits.is_multiple_of(64)) {
            *last &= (1 << (bits % 64)) - 1;
        }
        grid
    }

    /// Whether a shard is in the set. Shards outside are not.
    pub fn contains(&self, row: u32, column: u32) -> bool {
        row < self.rows && column < self.columns && {
            let bit = self.bit(row, column);
            self.words[bit / 64] >> (bit % 64) & 1 == 1
        }
    }

    /// Adds a shard.
    ///
    /// # Panics
    /// If it is outside.
    pub fn insert(&mut self, row: u32, column: u32) {
        assert!(row < self.rows && column < self.columns, "({row}, {column}) is outside");
        let bit = self.bit(row, column);
        self.words[bit / 64] |= 1 << (bit % 64);
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|w| *w == 0)
    }

    /// Number of shards.
    pub fn len(&self) -> u64 {
        self.words.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    /// The shards as (row, column), column by column.
    pub fn cells(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let bits = (0..self.words.len()).flat_map(|i| {
            let mut word = self.words[i];
            std::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros())?;
                word &= word - 1;
                Some(i as u32 * 64 + bit)
            })
        });
        bits.map(|bit| (bit % self.rows, bit / self.rows))
    }

    /// The columns of one row.
    pub fn row(&self, row: u32) -> impl Iterator<Item = u32> + '_ {
        (0..self.columns).filter(move |column| self.contains(row, *column))
    }

    fn bit(&self, row: u32, column: u32) -> usize {
        column as usize * self.rows as usize + row as usize
    }
}

impl fmt::Debug for ShardBitmap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries((0..self.rows).map(|r| self.row(r).collect::<Vec<u32>>())).finish()
    }
}
