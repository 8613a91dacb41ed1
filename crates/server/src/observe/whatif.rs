//! Estimates what other sizes and policies would do with this server's requests, for `GET /cache/whatif` and metrics.
//!
//! A request costs a comparison for each chunk and, for the few that are in the sample, a push into a bounded
//! buffer, outside the core's lock. When enough prompts wait, a thread replays them on
//! [shadow caches](larder_lab::whatif); a report replays what waits first, so it is up to date. Prompts that find
//! the buffer full are dropped and counted. The thread sleeps while there are no requests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use larder_lab::whatif::{self, Prompt, Report, SAMPLE_CHUNKS, Sampled, Totals, sample};
use larder_types::Time;

use super::bus::Subscriber;
use super::event::{Looked, RequestEvent};
use super::recorder::is_first_worker;
use larder_core::TransferSpec;

/// Prompts that may wait for the replay.
const PROMPTS_MAX: usize = 1 << 12;
/// Sampled chunks that they may have together: 1 MiB.
const SAMPLED_MAX: usize = 1 << 17;
/// The thread is woken for so many of either.
const PROMPTS_BATCH: usize = 64;
const SAMPLED_BATCH: usize = 1 << 12;

/// Collects a sample of requests and replays it. See the [module](self).
#[derive(Debug)]
pub struct WhatIf {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    /// Upper bound of the hashes in the sample.
    threshold: AtomicU64,
    dropped: AtomicU64,
    /// Taken before the next one, never after it.
    shadows: Mutex<Shadows>,
    waiting: Mutex<Backlog>,
    /// Enough prompts wait, or the thread shall end.
    wake: Condvar,
}

/// The shadow caches, and an empty buffer to swap with.
#[derive(Debug)]
struct Shadows {
    whatif: whatif::WhatIf,
    spare: Backlog,
}

/// Prompts to be replayed.
#[derive(Debug, Default)]
struct Backlog {
    /// Totals since the last of the prompts.
    totals: Totals,
    prompts: Vec<WaitingPrompt>,
    /// The sampled chunks of all of them, one after the other.
    sampled: Vec<Sampled>,
    is_over: bool,
}

/// One prompt to be replayed.
#[derive(Clone, Copy, Debug)]
struct WaitingPrompt {
    at: Time,
    l1_chunks: u64,
    threshold: u64,
    chunks: usize,
    /// Totals of this prompt and of those since the one before it.
    totals: Totals,
    /// Stored, not looked up, from this sampled chunk on.
    stored_from: Option<usize>,
}

impl WhatIf {
    /// Starts the thread. If that fails, only reports replay what waits.
    pub fn start(l2: bool) -> Self {
        let whatif = whatif::WhatIf::new(l2, SAMPLE_CHUNKS);
        let shared = Arc::new(Shared {
            threshold: AtomicU64::new(whatif.threshold()),
            dropped: AtomicU64::new(0),
            shadows: Mutex::new(Shadows { whatif, spare: Backlog::default() }),
            waiting: Mutex::default(),
            wake: Condvar::new(),
        });
        let thread = std::thread::Builder::new().name("whatif".to_owned()).spawn({
            let shared = shared.clone();
            move || shared.run()
        });
        let thread = thread.inspect_err(|error| tracing::warn!(%error, "no thread for /cache/whatif: prompts are replayed by reports only")).ok();
        Self { shared, thread: Mutex::new(thread) }
    }

    fn looked_up(&self, looked: &Looked<'_>) {
        let (spec, at, l1_chunks) = (looked.spec, looked.now, looked.l1_chunks);
        let threshold = self.shared.threshold.load(Ordering::Relaxed);
        let sampled: Vec<Sampled> = sample(threshold, (spec.model, spec.salt), spec.chunk_hashes).collect();
        let totals =
            Totals { requests: 1, tokens: looked.prompt_tokens, chunks: spec.chunk_hashes.len() as u64 };
        let chunks = sampled.len();
        self.shared
            .push(WaitingPrompt { at, l1_chunks, threshold, chunks, totals, stored_from: None }, &sampled);
    }

    fn stored(&self, at: Time, spec: &TransferSpec<'_>, l1_chunks: u64) {
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
        self.shared.push(WaitingPrompt { at, l1_chunks, threshold, chunks, totals, stored_from }, &sampled);
    }

    /// The estimates, after a replay of what waits.
    pub fn report(&self) -> Report {
        let mut shadows = self.shared.shadows();
        self.shared.replay(&mut shadows);
        shadows.whatif.report()
    }

    /// Requests and stores that were dropped because the shadow caches could not keep up.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

impl Subscriber for WhatIf {
    fn on_event(&self, event: &RequestEvent<'_>) {
        match event {
            RequestEvent::Looked(looked) if looked.is_served => self.looked_up(looked),
            RequestEvent::Stored { now, spec, l1_chunks, .. } if is_first_worker(spec) => {
                self.stored(*now, spec, *l1_chunks);
            }
            _ => {}
        }
    }
}

impl Drop for WhatIf {
    fn drop(&mut self) {
        self.shared.waiting().is_over = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    // A panic costs estimates only; requests go on.
    fn shadows(&self) -> MutexGuard<'_, Shadows> {
        self.shadows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Backlog> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, prompt: WaitingPrompt, sampled: &[Sampled]) {
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
        waiting.prompts.push(WaitingPrompt { totals, ..prompt });
        waiting.sampled.extend_from_slice(sampled);
        let is_batch = waiting.is_batch();
        drop(waiting);
        if is_batch {
            self.wake.notify_one();
        }
    }

    /// Replays what waits.
    fn replay(&self, shadows: &mut Shadows) {
        let Shadows { whatif, spare } = shadows;
        {
            let mut waiting = self.waiting();
            spare.is_over = waiting.is_over;
            std::mem::swap(&mut *waiting, spare);
        }
        let mut rest = &spare.sampled[..];
        for WaitingPrompt { at, l1_chunks, threshold, chunks, totals, stored_from } in spare.prompts.drain(..)
        {
            let (sampled, after) = rest.split_at(chunks);
            rest = after;
            let prompt = Prompt { at, l1_chunks, threshold, sampled };
            match stored_from {
                None => whatif.looked_up(&prompt),
                Some(start) => whatif.stored(&prompt, start),
            }
            // After the replay, which may start the estimates over.
            whatif.count(totals);
        }
        whatif.count(std::mem::take(&mut spare.totals));
        spare.sampled.clear();
        self.threshold.store(whatif.threshold(), Ordering::Relaxed);
    }

    /// Replays what waits whenever enough does, until the end.
    fn run(&self) {
        loop {
            let waiting = self.waiting();
            let nothing = |waiting: &mut Backlog| !waiting.is_over && !waiting.is_batch();
            let waiting = self.wake.wait_while(waiting, nothing).unwrap_or_else(PoisonError::into_inner);
            if waiting.is_over {
                return;
            }
            drop(waiting);
            self.replay(&mut self.shadows());
        }
    }
}

impl Backlog {
    fn is_batch(&self) -> bool {
        self.prompts.len() >= PROMPTS_BATCH || self.sampled.len() >= SAMPLED_BATCH
    }
}
