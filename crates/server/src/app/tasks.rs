//! The tasks beside requests, and whether they run.
//!
//! No task polls: each sleeps until there is something to do. LMCache's tools call them periodic threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use larder_types::Time;

/// How important a task is, in LMCache's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The server cannot do without it.
    Critical,
    /// Without it the server is slower.
    High,
    /// Requests do not depend on it.
    Medium,
    /// Nothing in the server depends on it.
    Low,
}

impl Level {
    /// Every level, the highest first.
    pub const ALL: [Self; 4] = [Self::Critical, Self::High, Self::Medium, Self::Low];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }
}

/// One task.
#[derive(Debug)]
pub struct Task {
    /// Its name.
    pub name: &'static str,
    /// How important it is.
    pub level: Level,
    running: AtomicBool,
    runs: AtomicU64,
    last_run: AtomicU64,
}

impl Task {
    const fn new(name: &'static str, level: Level) -> Self {
        let (running, runs, last_run) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        Self { name, level, running, runs, last_run }
    }

    /// Marks it as running until the result is dropped, by a panic too.
    pub fn begin(&self) -> Running<'_> {
        self.running.store(true, Ordering::Relaxed);
        Running(self)
    }

    /// Counts a run.
    pub fn woke(&self, now: Time) {
        self.runs.fetch_add(1, Ordering::Relaxed);
        self.last_run.store(now.as_millis(), Ordering::Relaxed);
    }

    /// Whether it is running.
    pub fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }

    /// The number of runs, and the time of the last.
    pub fn runs(&self) -> (u64, Option<Time>) {
        let runs = self.runs.load(Ordering::Relaxed);
        (runs, (runs > 0).then(|| Time::from_millis(self.last_run.load(Ordering::Relaxed))))
    }
}

/// Marks a task as running.
#[derive(Debug)]
pub struct Running<'a>(&'a Task);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Relaxed);
    }
}

/// All tasks of a server.
#[derive(Debug)]
pub struct Tasks {
    /// Ends what has expired.
    pub timekeeper: Task,
    /// Commits L1's memory ahead of its use.
    pub memory: Task,
    /// Sends KV events to subscribers.
    pub publisher: Task,
    /// Reports to a coordinator, if there is one.
    pub reporter: Option<Task>,
    /// Pushes metrics and traces to an OpenTelemetry collector, if there is one.
    pub pusher: Option<Task>,
}

impl Tasks {
    /// None of them runs yet.
    pub fn new(has_coordinator: bool, has_collector: bool) -> Self {
        Self {
            timekeeper: Task::new("timekeeper", Level::Critical),
            memory: Task::new("memory", Level::High),
            publisher: Task::new("publisher", Level::Medium),
            reporter: has_coordinator.then(|| Task::new("reporter", Level::Low)),
            pusher: has_collector.then(|| Task::new("pusher", Level::Low)),
        }
    }

    /// Each of them.
    pub fn all(&self) -> impl Iterator<Item = &Task> {
        let always = [&self.timekeeper, &self.memory, &self.publisher];
        always.into_iter().chain(&self.reporter).chain(&self.pusher)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_stops_running_when_it_ends_or_panics() {
        let task = Task::new("t", Level::Low);
        assert_eq!((task.is_running(), task.runs()), (false, (0, None)));
        let running = task.begin();
        task.woke(Time::from_millis(7));
        assert_eq!((task.is_running(), task.runs()), (true, (1, Some(Time::from_millis(7)))));
        drop(running);
        assert!(!task.is_running());
        let panicked = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let _running = task.begin();
                panic!("a bug in the task");
            });
            thread.join().is_err()
        });
        assert!(panicked && !task.is_running());
    }
}
