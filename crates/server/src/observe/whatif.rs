//! What other sizes and policies would do with what this server is asked, for `GET /cache/whatif` and metrics.
//!
//! A request costs a comparison for each chunk and, for the few that are in the sample, a push into a bounded
//! buffer, outside the core's lock. When enough have come together a thread has the
//! [shadows](larder_lab::whatif) look at them; so does whoever wants to know, so a report is never behind.
//! What finds the buffer full is dropped and counted, never waited for. The thread sleeps when nobody asks
//! for anything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use larder_core::LookupSpec;
use larder_core::TransferSpec;
use larder_lab::whatif::{self, Prompt, Report, SAMPLE_CHUNKS, Sampled, Totals, sample};
use larder_types::Time;

use crate::observe::recorder::is_first;

/// Prompts that may wait for the shadows.
const PROMPTS_MAX: usize = 1 << 12;
/// Sampled chunks that they may have together: 1 MiB.
const SAMPLED_MAX: usize = 1 << 17;
/// So many of either are worth waking the thread for.
const PROMPTS_WORTH: usize = 64;
const SAMPLED_WORTH: usize = 1 << 12;

/// Takes what is asked and has it looked at. See the [module](self).
#[derive(Debug)]
pub struct WhatIf {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    /// Which chunks are in the sample.
    threshold: AtomicU64,
    dropped: AtomicU64,
    /// Taken before the next one, never after it.
    shadows: Mutex<Shadows>,
    waiting: Mutex<Waiting>,
    /// There is something worth looking at, or it is over.
    worth: Condvar,
}

/// What is looked at, and the emptied buffer.
#[derive(Debug)]
struct Shadows {
    whatif: whatif::WhatIf,
    spare: Waiting,
}

/// What nobody has looked at yet.
#[derive(Debug, Default)]
struct Waiting {
    /// What was asked for since the last prompt of these.
    totals: Totals,
    prompts: Vec<Waits>,
    /// The sampled chunks of all of them, one after the other.
    sampled: Vec<Sampled>,
    over: bool,
}

/// A prompt that waits.
#[derive(Clone, Copy, Debug)]
struct Waits {
    at: Time,
    l1_chunks: u64,
    threshold: u64,
    chunks: usize,
    /// What was asked for with it and since the one before it.
    totals: Totals,
    /// It was stored, not looked up, from this sampled chunk on.
    stored_from: Option<usize>,
}

impl WhatIf {
    /// Begins to watch, in front of an L2 or not. Without a thread only those look who want to know.
    pub fn start(l2: bool) -> Self {
        let whatif = whatif::WhatIf::new(l2, SAMPLE_CHUNKS);
        let shared = Arc::new(Shared {
            threshold: AtomicU64::new(whatif.threshold()),
            dropped: AtomicU64::new(0),
            shadows: Mutex::new(Shadows { whatif, spare: Waiting::default() }),
            waiting: Mutex::default(),
            worth: Condvar::new(),
        });
        let thread = std::thread::Builder::new().name("whatif".to_owned()).spawn({
            let shared = shared.clone();
            move || shared.run()
        });
        let thread = thread.inspect_err(|error| tracing::warn!(%error, "no thread for /cache/whatif")).ok();
        Self { shared, thread: Mutex::new(thread) }
    }

    /// A prompt of `tokens` is looked up, by an L1 with room for so many chunks.
    pub(crate) fn looked_up(&self, at: Time, spec: &LookupSpec<'_>, tokens: u64, l1_chunks: u64) {
        let threshold = self.shared.threshold.load(Ordering::Relaxed);
        let sampled: Vec<Sampled> = sample(threshold, (spec.model, spec.salt), spec.chunk_hashes).collect();
        let totals = Totals { requests: 1, tokens, chunks: spec.chunk_hashes.len() as u64 };
        let chunks = sampled.len();
        self.shared.push(Waits { at, l1_chunks, threshold, chunks, totals, stored_from: None }, &sampled);
    }

    /// A worker has stored a range. Only the first of a model's workers is heard: all store the same.
    pub(crate) fn stored(&self, at: Time, spec: &TransferSpec<'_>, l1_chunks: u64) {
        if !is_first(spec) {
            return;
        }
        let threshold = self.shared.threshold.load(Ordering::Relaxed);
        let part = |range| -> Vec<Sampled> { sample(threshold, (spec.model, spec.salt), range).collect() };
        let (start, end) = (spec.start as usize, spec.end as usize);
        let new = part(&spec.chunk_hashes[start..end]);
        if new.is_empty() {
            return;
        }
        let mut sampled = part(&spec.chunk_hashes[..start]);
        let stored_from = Some(sampled.len());
        sampled.extend(new);
        let chunks = sampled.len();
        let totals = Totals::default();
        self.shared.push(Waits { at, l1_chunks, threshold, chunks, totals, stored_from }, &sampled);
    }

    /// What is known by now.
    pub fn report(&self) -> Report {
        let mut shadows = self.shared.shadows();
        self.shared.look(&mut shadows);
        shadows.whatif.report()
    }

    /// Requests and stores that the shadows do not know of, as they could not keep up.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for WhatIf {
    fn drop(&mut self) {
        self.shared.waiting().over = true;
        self.shared.worth.notify_one();
        if let Some(thread) = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    // What is lost with a panic are estimates; requests go on.
    fn shadows(&self) -> MutexGuard<'_, Shadows> {
        self.shadows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, prompt: Waits, sampled: &[Sampled]) {
        let mut waiting = self.waiting();
        if waiting.prompts.len() >= PROMPTS_MAX || waiting.sampled.len() + sampled.len() > SAMPLED_MAX {
            drop(waiting);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.totals.add(prompt.totals);
        if sampled.is_empty() {
            return;
        }
        let totals = std::mem::take(&mut waiting.totals);
        waiting.prompts.push(Waits { totals, ..prompt });
        waiting.sampled.extend_from_slice(sampled);
        let worth = waiting.is_worth();
        drop(waiting);
        if worth {
            self.worth.notify_one();
        }
    }

    /// Has the shadows look at what waits.
    fn look(&self, shadows: &mut Shadows) {
        let Shadows { whatif, spare } = shadows;
        {
            let mut waiting = self.waiting();
            spare.over = waiting.over;
            std::mem::swap(&mut *waiting, spare);
        }
        let mut rest = &spare.sampled[..];
        for Waits { at, l1_chunks, threshold, chunks, totals, stored_from } in spare.prompts.drain(..) {
            let (sampled, after) = rest.split_at(chunks);
            rest = after;
            let prompt = Prompt { at, l1_chunks, threshold, sampled };
            match stored_from {
                None => whatif.looked_up(&prompt),
                Some(start) => whatif.stored(&prompt, start),
            }
            // Not before: it may have started over.
            whatif.count(totals);
        }
        whatif.count(std::mem::take(&mut spare.totals));
        spare.sampled.clear();
        self.threshold.store(whatif.threshold(), Ordering::Relaxed);
    }

    /// Looks at what waits whenever it is worth it, until it is over.
    fn run(&self) {
        loop {
            let waiting = self.waiting();
            let nothing = |waiting: &mut Waiting| !waiting.over && !waiting.is_worth();
            let waiting = self.worth.wait_while(waiting, nothing).unwrap_or_else(PoisonError::into_inner);
            if waiting.over {
                return;
            }
            drop(waiting);
            self.look(&mut self.shadows());
        }
    }
}

impl Waiting {
    fn is_worth(&self) -> bool {
        self.prompts.len() >= PROMPTS_WORTH || self.sampled.len() >= SAMPLED_WORTH
    }
}
