//! Sums of bytes over all connections of a router, and counts of what was refused to keep them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::driver::CloseReason;
use crate::limits::Limits;

/// Bytes that all connections hold together, with a limit.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_max: usize,
    used: AtomicUsize,
    /// Connections that need more and do not get it.
    waiting: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Budget {
        Budget { bytes_max, used: AtomicUsize::new(0), waiting: AtomicUsize::new(0) }
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether the limit is met, or a connection waits.
    pub(crate) fn is_tight(&self) -> bool {
        self.used() >= self.bytes_max || self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Takes `bytes` if they are left. A user that holds `held` bytes and is the only one may take any number: one
    /// message may be larger than the whole budget.
    pub(crate) fn take(&self, held: usize, bytes: usize) -> bool {
        let fits = |used: usize| {
            let sum = used.saturating_add(bytes);
            (sum <= self.bytes_max || used <= held).then_some(sum)
        };
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    /// Takes `bytes` unless the limit is met, so the last one to take may exceed it.
    pub(crate) fn take_if_any(&self, bytes: usize) -> bool {
        let fits = |used: usize| (used < self.bytes_max).then(|| used.saturating_add(bytes));
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    pub(crate) fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What one connection holds of a budget. It is given back when this is dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    held: usize,
    is_waiting: bool,
}

impl Share {
    pub(crate) fn new(budget: Arc<Budget>) -> Share {
        Share { budget, held: 0, is_waiting: false }
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Whether another connection waits for room, or none is left.
    #[must_use]
    pub fn is_tight(&self) -> bool {
        self.budget.is_tight()
    }

    /// Holds `bytes` from now on. False if there are not enough; then what was held is kept, and it waits for more.
    #[must_use]
    pub fn resize(&mut self, bytes: usize) -> bool {
        let fits = match bytes.checked_sub(self.held) {
            Some(0) => true,
            Some(more) => self.budget.take(self.held, more),
            None => {
                self.budget.give_back(self.held - bytes);
                true
            }
        };
        if fits {
            self.held = bytes;
        }
        self.set_waiting(!fits);
        fits
    }

    /// Holds at most `bytes` from now on.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        let bytes = bytes.min(self.held);
        let _ = self.resize(bytes);
    }

    fn set_waiting(&mut self, is_waiting: bool) {
        match (self.is_waiting, is_waiting) {
            (false, true) => self.budget.waiting.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.budget.waiting.fetch_sub(1, Ordering::Relaxed),
            _ => return,
        };
        self.is_waiting = is_waiting;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink_to(0);
        self.set_waiting(false);
    }
}

/// What an answer that waits to be sent counts in the sum of all. It is given back when this is dropped.
#[derive(Debug)]
pub struct Sending {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

macro_rules! usage {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// What the connections of a router hold together, and how many were closed or refused to keep the limits.
        #[derive(Debug)]
        pub struct Usage {
            pub(crate) receiving: Arc<Budget>,
            pub(crate) sending: Arc<Budget>,
            $(pub(crate) $name: AtomicU64,)+
        }

        impl Usage {
            pub(crate) fn new(limits: &Limits) -> Arc<Usage> {
                Arc::new(Usage {
                    receiving: Arc::new(Budget::new(limits.receive_bytes_max)),
                    sending: Arc::new(Budget::new(limits.send_bytes_max)),
                    $($name: AtomicU64::new(0),)+
                })
            }

            $($(#[doc = $doc])+
            #[must_use]
            pub fn $name(&self) -> u64 {
                self.$name.load(Ordering::Relaxed)
            })+
        }
    };
}

usage! {
    /// Connections closed within their handshake because too many were.
    half_open_closed,
    /// Peers closed because room was needed for another one.
    peers_displaced,
    /// Peers refused because too many are connected.
    peers_refused,
    /// Connections closed because a message did not get on.
    messages_stalled,
    /// Connections closed because there was no room for their message.
    messages_without_room,
    /// Answers dropped because too much waits to be sent, to their peer or to all.
    answers_refused,
}

impl Usage {
    /// Bytes of unfinished and unserved messages.
    #[must_use]
    pub fn receiving_bytes(&self) -> usize {
        self.receiving.used()
    }

    /// Bytes that wait to be sent.
    #[must_use]
    pub fn sending_bytes(&self) -> usize {
        self.sending.used()
    }

    /// Room for an answer that waits to be sent, unless too much waits already.
    #[must_use]
    pub fn take_to_send(&self, bytes: usize) -> Option<Sending> {
        if self.sending.take_if_any(bytes) {
            return Some(Sending { budget: self.sending.clone(), bytes });
        }
        self.answer_refused();
        None
    }

    /// Whether too much waits to be sent.
    #[must_use]
    pub fn is_sending_tight(&self) -> bool {
        self.sending.is_tight()
    }

    /// Counts an answer that was dropped because too much waits to be sent.
    pub fn answer_refused(&self) {
        Self::count(&self.answers_refused);
    }

    pub(crate) fn count_end(&self, reason: &CloseReason) {
        match reason {
            CloseReason::MessageStalled => Self::count(&self.messages_stalled),
            CloseReason::NoRoom => Self::count(&self.messages_without_room),
            _ => {}
        }
    }

    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_limit_and_are_given_back() {
        let budget = Arc::new(Budget::new(100));
        let (mut first, mut second) = (Share::new(budget.clone()), Share::new(budget.clone()));
        assert!(first.resize(60) && !second.resize(60) && second.resize(40));
        assert!(!first.resize(61), "what is held is kept");
        assert!(budget.is_tight());
        drop(second);
        assert_eq!(budget.used(), 60);
        assert!(first.resize(100));
        drop(first);
        assert_eq!(budget.used(), 0);
        assert!(!budget.is_tight());
    }

    #[test]
    fn one_message_may_be_larger_than_the_limit_if_it_is_alone() {
        let budget = Arc::new(Budget::new(100));
        let (mut first, mut second) = (Share::new(budget.clone()), Share::new(budget.clone()));
        assert!(first.resize(50) && first.resize(1000));
        assert!(!second.resize(1));
        first.shrink_to(0);
        assert!(second.resize(1) && !first.resize(1000));
    }
}
