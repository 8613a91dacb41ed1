//! Which chunks that are evicted from L1 are written to L2, and which are dropped.
//!
//! A dropped chunk is lost if it is asked for again. The chance of that follows from its class and age. Those with the
//! smallest chance are dropped, as many as possible without losing more than [`BUDGET`] of all chunks asked for. Losses
//! come long after the drops, so the threshold follows the expected losses of what is dropped now, corrected by how
//! much was lost compared to what was expected before. (One lost chunk costs those behind it, too.)

/// Chunks that may be lost, as a fraction of all that are asked for. Below the two points of token hit rate that users
/// are promised.
const BUDGET: f64 = 0.0125;
/// After each request the past counts this fraction: for what is dropped now, and for how well that was predicted.
const FADE_NOW: f64 = 0.99;
const FADE_PAST: f64 = 0.9995;
/// How much the threshold moves with each request at most.
const STEP: f64 = 0.005;
const THRESHOLD_START: f64 = 0.02;
const THRESHOLD_MIN: f64 = 0.001;
/// A chunk that is more likely than this to be asked for is never dropped: that costs a miss nearly every time and saves
/// nothing, as it has to be written once it is computed again.
const THRESHOLD_MAX: f64 = 0.75;
/// Largest factor of the correction, up or down.
const CORRECTION_MAX: f64 = 8.0;
/// Nothing is dropped before this many requests.
const LEARNING_REQUESTS: u64 = 256;

/// Chunks that were asked for, and those that were or will be lost.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    asked: f64,
    expected: f64,
    lost: f64,
}

impl Window {
    fn add(&mut self, fade: f64, asked: u32, expected: f64, lost: u32) {
        self.asked = self.asked * fade + f64::from(asked);
        self.expected = self.expected * fade + expected;
        self.lost = self.lost * fade + f64::from(lost);
    }
}

/// See the [module](self).
#[derive(Clone, Copy, Debug)]
pub(super) struct AdmissionFilter {
    /// Chance of reuse from which on an evicted chunk is written to L2.
    pub(super) threshold: f64,
    now: Window,
    past: Window,
    /// Expected losses of what was dropped since the last request.
    expected: f64,
    requests: u64,
}

impl Default for AdmissionFilter {
    fn default() -> Self {
        let (now, past) = (Window::default(), Window::default());
        Self { threshold: THRESHOLD_START, now, past, expected: 0.0, requests: 0 }
    }
}

impl AdmissionFilter {
    /// A request asked for `asked` chunks, of which `lost` were known and in neither tier.
    pub(super) fn on_answer(&mut self, lost: u32, asked: u32) {
        self.requests += 1;
        let expected = std::mem::take(&mut self.expected);
        self.now.add(FADE_NOW, asked, expected, lost);
        self.past.add(FADE_PAST, asked, expected, lost);
        if !self.is_open() {
            return;
        }
        let part = self.now.expected * self.correction() / self.now.asked.max(1.0);
        let left = 1.0 - part.max(self.loss() - BUDGET) / BUDGET;
        self.threshold =
            (self.threshold * (1.0 + STEP * left.clamp(-1.0, 1.0))).clamp(THRESHOLD_MIN, THRESHOLD_MAX);
    }

    /// Losses by expected losses; 1 until there is enough data.
    fn correction(&self) -> f64 {
        let doubt = 0.25 * BUDGET * self.past.asked + 1.0;
        let ratio = (self.past.lost + doubt) / (self.past.expected + doubt);
        ratio.clamp(CORRECTION_MAX.recip(), CORRECTION_MAX)
    }

    /// Whether enough was learned to drop anything.
    pub(super) fn is_open(&self) -> bool {
        self.requests > LEARNING_REQUESTS
    }

    /// Whether a chunk with that chance of reuse is dropped.
    pub(super) fn drops(&self, chance: f64) -> bool {
        self.is_open() && chance < self.threshold
    }

    /// A chunk with that chance of reuse was dropped.
    pub(super) fn on_drop(&mut self, chance: f64) {
        self.expected += chance;
    }

    /// Recent losses, as a fraction of the chunks asked for.
    pub(super) fn loss(&self) -> f64 {
        if self.past.asked > 0.0 { self.past.lost / self.past.asked } else { 0.0 }
    }
}
