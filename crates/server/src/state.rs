//! What every request, every scrape and every background task shares.
//!
//! One lock guards the core. It is held for as long as the core computes (microseconds), never
//! across I/O, hashing, copying or a call into anything else.

use larder_types::Time;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use larder_arena::Arena;
use larder_core::Core;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::chains::Chains;
use crate::clock::Clock;
use crate::config::Config;
use crate::coordinator::Standing;
use crate::events::EventStreams;
use crate::l2::{self, L2, Waiting};
use crate::log_control::LogControl;
use crate::lookup_log::LookupLog;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::presence::Presence;
use crate::quota_file::QuotaFile;
use crate::recording::Recorder;
use crate::tasks::Tasks;
use crate::traces::Traces;
use crate::whatif::WhatIf;

/// What only a new process can mend.
pub const UNSOUND: &str = "the storage core has stopped after an internal error; restart the server";

/// The running server's state.
#[derive(Debug)]
pub struct State {
    /// What the operator meant.
    pub config: Config,
    /// The time.
    pub clock: Clock,
    /// L1's memory.
    pub arena: Arc<Arena>,
    /// Who commits it.
    pub memory: Arc<Memory>,
    /// Hashes of recent prompts.
    pub chains: Chains,
    /// The second tier.
    pub l2: L2,
    /// Clients that wait for a lookup to end.
    pub waiting: Waiting,
    /// Who follows what can be found, and how far they are told.
    pub events: EventStreams,
    /// How the reporting to a coordinator stands.
    pub reporting: Standing,
    /// Held by whoever changes a quota, first in its file, then in the core and then in L2.
    pub quota_changes: tokio::sync::Mutex<()>,
    /// Where quotas are kept; `None`: they end with the server.
    pub quota_file: Option<Arc<QuotaFile>>,
    /// Who writes down what is asked, for `larder simulate`.
    pub recorder: Option<Recorder>,
    /// Who writes lookups down as LMCache does.
    pub lookup_log: Option<LookupLog>,
    /// Who knows what other sizes and policies would do.
    pub whatif: Option<WhatIf>,
    /// What is counted besides the core's own counters.
    pub metrics: Metrics,
    /// Traces of requests; `None`: there are none.
    pub traces: Option<Arc<Traces>>,
    /// How the pushing to an OpenTelemetry collector stands.
    #[cfg(feature = "otel")]
    pub otlp: Arc<crate::otlp::Standing>,
    /// What goes on beside requests.
    pub tasks: Tasks,
    /// The level of what is logged, if the process lets it be changed.
    pub log: OnceLock<LogControl>,
    /// Who is connected.
    pub presence: Presence,
    core: Mutex<Core>,
    /// When the timekeeper wakes up next, in milliseconds of the clock.
    alarm: AtomicU64,
    earlier_alarm: Notify,
    written_back: Notify,
    runtime: Handle,
    this: Weak<State>,
}

/// What a state is made of.
#[derive(Debug)]
pub struct Parts {
    /// What the operator meant.
    pub config: Config,
    /// The storage core.
    pub core: Core,
    /// L1's memory.
    pub arena: Arc<Arena>,
    /// Who commits it.
    pub memory: Arc<Memory>,
    /// The second tier.
    pub l2: L2,
    /// Hashes of recent prompts.
    pub chains: Chains,
    /// Where quotas are kept.
    pub quota_file: Option<QuotaFile>,
    /// Who writes down what is asked.
    pub recorder: Option<Recorder>,
    /// Who writes lookups down as LMCache does.
    pub lookup_log: Option<LookupLog>,
}

impl State {
    /// A server's state before the first request. Background work runs on `runtime`.
    pub fn new(parts: Parts, runtime: Handle) -> Arc<Self> {
        let Parts { config, core, arena, memory, l2, chains, quota_file, recorder, lookup_log } = parts;
        let names: Vec<&str> = l2.adapters().map(|(_, adapter)| adapter.kind()).collect();
        let records = if config.metrics.observability { config.kv_event_log_records } else { 0 };
        let metrics = Metrics::new(&names, &config);
        let traced = config.otlp.as_ref().is_some_and(|otlp| otlp.tracing);
        let traces = traced.then(|| Arc::new(Traces::new(config.chunk_tokens)));
        let whatif = config.whatif.then(|| WhatIf::start(!names.is_empty()));
        let pushes = cfg!(feature = "otel") && (traced || config.otlp.is_some() && config.metrics.enabled);
        let tasks = Tasks::new(config.coordinator.url.is_some(), pushes);
        Arc::new_cyclic(|this| Self {
            config,
            clock: Clock::start(),
            arena,
            memory,
            chains,
            l2,
            waiting: Waiting::default(),
            events: EventStreams::new(records),
            reporting: Standing::default(),
            quota_changes: tokio::sync::Mutex::default(),
            quota_file: quota_file.map(Arc::new),
            recorder,
            lookup_log,
            whatif,
            metrics,
            traces,
            #[cfg(feature = "otel")]
            otlp: Arc::default(),
            tasks,
            log: OnceLock::new(),
            presence: Presence::default(),
            core: Mutex::new(core),
            alarm: AtomicU64::new(u64::MAX),
            earlier_alarm: Notify::new(),
            written_back: Notify::new(),
            runtime,
            this: this.clone(),
        })
    }

    /// Runs something beside the requests.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(future);
    }

    /// The core, for one event.
    pub fn core(&self) -> CoreGuard<'_> {
        // The core's calls do not leave it half changed unless they find a bug in it (a failed
        // assertion). Serving on from such a state could serve wrong bytes, so the panic spreads.
        let core = self.core.lock().expect("the core has found a bug in itself; see the first panic");
        CoreGuard { core: Some(core), state: self }
    }

    /// The core, to look at, even if it has found a bug in itself.
    pub fn core_for_report(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the core still serves.
    pub fn is_sound(&self) -> bool {
        !self.core.is_poisoned()
    }

    /// What keeps the server from serving as it should, for people; nothing if it is ready.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.l2.problems();
        if !self.is_sound() {
            problems.push(UNSOUND.to_owned());
        }
        problems
    }

    /// Completes when everything that is to go to L2 is there, if it is not now.
    pub fn written_back(&self) -> Notified<'_> {
        self.written_back.notified()
    }

    /// Lets go of what runs out, when it runs out, for ever. Sleeps while nothing is held.
    pub async fn keep_time(&self) {
        let _running = self.tasks.timekeeper.begin();
        loop {
            let next = {
                let now = self.clock.now();
                self.tasks.timekeeper.woke(now);
                let mut core = self.core();
                core.advance(now);
                let next = core.next_deadline();
                self.alarm.store(next.map_or(u64::MAX, Time::as_millis), Ordering::Relaxed);
                next
            };
            let earlier = self.earlier_alarm.notified();
            match next {
                Some(time) => {
                    let at = tokio::time::Instant::from_std(self.clock.instant(time));
                    tokio::select! { () = tokio::time::sleep_until(at) => {} () = earlier => {} }
                }
                None => earlier.await,
            }
        }
    }
}

/// The locked core. When it is let go, what it wants of L2 is carried out, and the timekeeper learns of an
/// earlier deadline and event streams of something to tell.
#[derive(Debug)]
pub struct CoreGuard<'a> {
    /// Always there but for the end of `drop`.
    core: Option<MutexGuard<'a, Core>>,
    state: &'a State,
}

impl Deref for CoreGuard<'_> {
    type Target = Core;

    fn deref(&self) -> &Core {
        self.core.as_ref().expect("it is there until it is dropped")
    }
}

impl DerefMut for CoreGuard<'_> {
    fn deref_mut(&mut self) -> &mut Core {
        self.core.as_mut().expect("it is there until it is dropped")
    }
}

impl Drop for CoreGuard<'_> {
    fn drop(&mut self) {
        let Some(mut core) = self.core.take() else { return };
        if std::thread::panicking() {
            return;
        }
        let effects = core.take_effects();
        let next = core.next_deadline();
        self.state.events.watch(&core);
        let written_back = core.write_back_pending() == 0;
        drop(core);
        if written_back {
            self.state.written_back.notify_waiters();
        }
        if let Some(state) = self.state.this.upgrade().filter(|_| !effects.is_empty()) {
            l2::carry_out(&state, effects);
        }
        let Some(next) = next else { return };
        if next.as_millis() < self.state.alarm.load(Ordering::Relaxed) {
            self.state.alarm.store(next.as_millis(), Ordering::Relaxed);
            self.state.earlier_alarm.notify_one();
        }
    }
}
