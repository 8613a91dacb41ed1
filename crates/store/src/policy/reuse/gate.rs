//! What goes to L2 at once and what waits for its second use.
//!
//! A chunk that waits is lost if it leaves L1 before anybody asks for it again and then somebody does.
//! How likely that is follows from its class and from how long chunks stay in L1. Those with the least
//! chance wait: as many as may be without losing more than [`BUDGET`] of all chunks asked for, which is
//! measured, not predicted. The threshold rises slowly while losses are below that and falls fast when
//! they are above.

/// Chunks that may be lost, as a part of all that are asked for. Leaves room below the two points of token
/// hit rate that users are promised.
const BUDGET: f64 = 0.0125;
/// After each request the past counts so much of what it did.
const FADE: f64 = 0.999;
/// How the threshold moves with each request while losses are within the budget, and beyond.
const RISE: f64 = 1.002;
const FALL: f64 = 0.95;
const THRESHOLD_MIN: f64 = 0.001;
/// Nothing waits before so many requests have been learned from.
const LEARNING_REQUESTS: u64 = 256;

/// See the [module](self).
#[derive(Clone, Copy, Debug)]
pub(super) struct Gate {
    /// What is as likely as this to be asked for after it has left L1 goes to L2 at once.
    pub(super) threshold: f64,
    lost: f64,
    asked: f64,
    requests: u64,
}

impl Default for Gate {
    fn default() -> Self {
        Self { threshold: 0.1, lost: 0.0, asked: 0.0, requests: 0 }
    }
}

impl Gate {
    /// Of `asked` chunks `lost` had been known and were nowhere any more.
    pub(super) fn answered(&mut self, lost: u32, asked: u32) {
        self.requests += 1;
        self.lost = self.lost * FADE + f64::from(lost);
        self.asked = self.asked * FADE + f64::from(asked);
        let change = if self.lost > BUDGET * self.asked { FALL } else { RISE };
        self.threshold = (self.threshold * change).clamp(THRESHOLD_MIN, 1.0);
    }

    /// Whether a chunk that is that likely to be lost may wait.
    pub(super) fn lets_wait(&self, chance: f64) -> bool {
        self.requests > LEARNING_REQUESTS && chance < self.threshold
    }

    /// The part of the chunks asked for that was lost lately.
    pub(super) fn loss(&self) -> f64 {
        if self.asked > 0.0 { self.lost / self.asked } else { 0.0 }
    }
}
