//! Parses the sizes of command-line options: `64GiB`, `2000` (chunks) or `2.5%` (of a trace's distinct
//! chunks), and ranges: `0.5%..40%`.

use std::fmt;
use std::str::FromStr;

use super::trace::Trace;

/// Number of sizes in a range that does not specify it.
const CURVE_POINTS: usize = 25;
/// Most sizes in a range.
const CURVE_POINTS_MAX: usize = 1000;

/// The size of a tier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Size {
    /// In bytes.
    Bytes(f64),
    /// In chunks.
    Chunks(f64),
    /// As a percentage of the distinct chunks of a trace.
    Percent(f64),
}

/// An invalid size, or one that does not apply to a trace.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SizeError {
    /// The text is not a size.
    #[error("'{0}' is no size: give bytes (64GiB), chunks (2000) or per cent of the distinct chunks (2.5%)")]
    NoSize(String),
    /// The text is not a range of sizes.
    #[error(
        "'{0}' is no range of sizes: give two of one unit, the smaller one first, and how many sizes \
         (0.5%..40% or 0.5%..40%/25)"
    )]
    NoRange(String),
    /// A size in bytes for a trace whose chunk size in bytes is unknown.
    #[error("sizes in bytes need --chunk-bytes for this trace, it does not tell how large a chunk is")]
    NoChunkBytes,
    /// The size is less than one chunk.
    #[error("{0} is less than one chunk")]
    TooSmall(Size),
}

const UNITS: [(&str, f64); 9] = [
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("TiB", 1_099_511_627_776.0),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("TB", 1e12),
    ("B", 1.0),
];

impl Size {
    fn amount(self) -> f64 {
        let (Self::Bytes(amount) | Self::Chunks(amount) | Self::Percent(amount)) = self;
        amount
    }

    fn with(self, amount: f64) -> Self {
        match self {
            Self::Bytes(_) => Self::Bytes(amount),
            Self::Chunks(_) => Self::Chunks(amount),
            Self::Percent(_) => Self::Percent(amount),
        }
    }

    /// Whether it is none at all.
    pub fn is_zero(self) -> bool {
        self.amount() == 0.0
    }

    /// Converts to whole chunks of a trace, rounded down.
    ///
    /// # Errors
    /// [`SizeError::NoChunkBytes`] and [`SizeError::TooSmall`].
    pub fn chunks(self, trace: &Trace) -> Result<u64, SizeError> {
        let chunks = match self {
            Self::Chunks(chunks) => chunks,
            Self::Percent(percent) => trace.unique_chunks() as f64 * percent / 100.0,
            Self::Bytes(bytes) => bytes / trace.chunk_bytes.ok_or(SizeError::NoChunkBytes)? as f64,
        };
        // Without this, a floating-point error can turn a whole number of chunks into one less.
        let chunks = (chunks * (1.0 + 4.0 * f64::EPSILON)) as u64;
        if chunks == 0 { Err(SizeError::TooSmall(self)) } else { Ok(chunks) }
    }

    /// Parses one size, or a range into sizes with equal ratios between neighbours.
    ///
    /// # Errors
    /// [`SizeError::NoSize`] and [`SizeError::NoRange`].
    pub fn parse_many(text: &str) -> Result<Vec<Self>, SizeError> {
        let Some((first, rest)) = text.split_once("..") else { return Ok(vec![text.parse()?]) };
        let no_range = || SizeError::NoRange(text.to_owned());
        let (last, points) = match rest.split_once('/') {
            Some((last, points)) => (last, points.parse().map_err(|_| no_range())?),
            None => (rest, CURVE_POINTS),
        };
        let (first, last): (Self, Self) = (first.parse()?, last.parse()?);
        let same_unit = std::mem::discriminant(&first) == std::mem::discriminant(&last);
        let (low, high) = (first.amount(), last.amount());
        let rising = low > 0.0 && low < high;
        if !(same_unit && rising && (2..=CURVE_POINTS_MAX).contains(&points)) {
            return Err(no_range());
        }
        let step = (high / low).ln() / (points - 1) as f64;
        let inner = (1..points - 1).map(|i| first.with(low * (step * i as f64).exp()));
        Ok(std::iter::once(first).chain(inner).chain([last]).collect())
    }
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let number = |digits: &str| {
            let amount = digits.trim().parse::<f64>().ok();
            amount
                .filter(|n| n.is_finite() && *n >= 0.0 && !n.is_sign_negative())
                .ok_or_else(|| SizeError::NoSize(text.to_owned()))
        };
        if let Some(percent) = text.strip_suffix('%') {
            return Ok(Self::Percent(number(percent)?));
        }
        match UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, bytes))) {
            Some((digits, bytes)) => Ok(Self::Bytes(number(digits)? * bytes)),
            None => Ok(Self::Chunks(number(text)?)),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => {
                let (unit, size) =
                    UNITS[..4].iter().rev().find(|(_, size)| bytes >= size).unwrap_or(&UNITS[8]);
                write!(f, "{} {unit}", Short(bytes / size))
            }
            Self::Chunks(chunks) => write!(f, "{} chunks", Short(*chunks)),
            Self::Percent(percent) => write!(f, "{} %", Short(*percent)),
        }
    }
}

/// Displays a number with about three significant digits and no trailing zeros.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.0 >= 100.0 {
            0
        } else if self.0 >= 10.0 {
            1
        } else {
            2
        };
        let text = format!("{:.digits$}", self.0);
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        f.write_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_displays_sizes() {
        let cases = [
            ("64GiB", Size::Bytes(64.0 * 1_073_741_824.0), "64 GiB"),
            ("1.5MB", Size::Bytes(1.5e6), "1.43 MiB"),
            ("12B", Size::Bytes(12.0), "12 B"),
            ("2000", Size::Chunks(2000.0), "2000 chunks"),
            ("2.5%", Size::Percent(2.5), "2.5 %"),
            ("0", Size::Chunks(0.0), "0 chunks"),
        ];
        for (text, size, written) in cases {
            assert_eq!(text.parse(), Ok(size), "{text}");
            assert_eq!(size.to_string(), written);
        }
        for bad in ["", "%", "x", "-1", "-0", "1e999", "nan", "5gib", "GiB"] {
            assert_eq!(bad.parse::<Size>(), Err(SizeError::NoSize(bad.to_owned())));
        }
    }

    #[test]
    fn range_has_both_ends_and_equal_ratios() {
        let sizes = Size::parse_many("1%..100%/3").unwrap();
        assert_eq!((sizes[0], sizes[2], sizes.len()), (Size::Percent(1.0), Size::Percent(100.0), 3));
        assert!((sizes[1].amount() - 10.0).abs() < 1e-9);
        assert_eq!(Size::parse_many("1%..100%").unwrap().len(), CURVE_POINTS);
        assert_eq!(Size::parse_many("7").unwrap(), [Size::Chunks(7.0)]);
        for bad in ["1..10%", "2%..1%", "0%..1%", "1%..2%/1", "1%..2%/9999", "1%..2%/x", "1%..1%"] {
            assert!(matches!(Size::parse_many(bad), Err(SizeError::NoRange(_))), "{bad}");
        }
    }

    #[test]
    fn converts_sizes_to_chunks_of_a_trace() {
        let mut trace = Trace::from_chunks("t", 16, &[(0..1000).collect::<Vec<u64>>()]);
        assert_eq!(Size::Percent(2.5).chunks(&trace), Ok(25));
        assert_eq!(Size::Percent(0.29).chunks(&trace), Ok(2));
        assert_eq!(Size::Chunks(7.9).chunks(&trace), Ok(7));
        assert_eq!(Size::Percent(0.01).chunks(&trace), Err(SizeError::TooSmall(Size::Percent(0.01))));
        assert_eq!(Size::Bytes(1e6).chunks(&trace), Err(SizeError::NoChunkBytes));
        trace.chunk_bytes = Some(1000);
        assert_eq!(Size::Bytes(1e6).chunks(&trace), Ok(1000));
    }
}
