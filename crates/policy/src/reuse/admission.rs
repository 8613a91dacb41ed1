//! What of that which leaves L1 is to be in L2, and what is let go.
//!
//! A chunk that is let go is lost if somebody asks for it again. How likely that is follows from its class
//! and its age. Those with the least chance are let go: as many as may be without losing more than
//! [`BUDGET`] of all chunks asked for. Losses come long after what caused them, so the threshold follows
//! what is expected to be lost of that which is let go now, and what is expected is set right by how much
//! was lost of what had been expected before. (One lost chunk costs those behind it, too.)

/// Chunks that may be lost, as a part of all that are asked for. Leaves room below the two points of token
/// hit rate that users are promised.
const BUDGET: f64 = 0.0125;
/// After each request the past counts so much of what it did: for what is let go now, and for how well that
/// was foretold.
const FADE_NOW: f64 = 0.99;
const FADE_PAST: f64 = 0.9995;
/// How much the threshold moves with each request at most.
const STEP: f64 = 0.005;
const THRESHOLD_START: f64 = 0.02;
const THRESHOLD_MIN: f64 = 0.001;
/// What is more likely than this to be asked for is never let go, whatever may be lost: that costs a miss
/// nearly every time and saves nothing, as it has to be written when it has been computed again.
const THRESHOLD_MAX: f64 = 0.75;
/// How far expectations are set right at most, up or down.
const CORRECTION_MAX: f64 = 8.0;
/// Nothing is let go before so many requests have been learned from.
const LEARNING_REQUESTS: u64 = 256;

/// Chunks that were asked for, and those that were or will be in vain.
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
    /// What is as likely as this to be asked for after it has left L1 goes to L2.
    pub(super) threshold: f64,
    now: Window,
    past: Window,
    /// What is expected to be lost of that which was let go since the last request.
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
    /// Of `asked` chunks `lost` had been known and were nowhere any more.
    pub(super) fn answered(&mut self, lost: u32, asked: u32) {
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

    /// How much more is lost than was expected. Until there is enough to tell: as much.
    fn correction(&self) -> f64 {
        let doubt = 0.25 * BUDGET * self.past.asked + 1.0;
        let ratio = (self.past.lost + doubt) / (self.past.expected + doubt);
        ratio.clamp(CORRECTION_MAX.recip(), CORRECTION_MAX)
    }

    /// Whether enough has been learned to let anything go.
    pub(super) fn is_open(&self) -> bool {
        self.requests > LEARNING_REQUESTS
    }

    /// Whether a chunk may be lost that is asked for again with that chance.
    pub(super) fn lets_go(&self, chance: f64) -> bool {
        self.is_open() && chance < self.threshold
    }

    /// A chunk that is asked for again with that chance is nowhere any more.
    pub(super) fn let_go(&mut self, chance: f64) {
        self.expected += chance;
    }

    /// The part of the chunks asked for that was lost lately.
    pub(super) fn loss(&self) -> f64 {
        if self.past.asked > 0.0 { self.past.lost / self.past.asked } else { 0.0 }
    }
}
