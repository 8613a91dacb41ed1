//! Wakes of a task by itself.
//!
//! `h2` wakes the task of a connection with each piece of an answer, also if the task itself sends it. Then it is to look
//! once more before it rests; to be scheduled again, perhaps on another thread, would take longer than the answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

/// Wakes a task, or if it is awake, has it look once more.
#[derive(Debug, Default)]
pub(super) struct TaskWaker {
    task: Mutex<Option<Waker>>,
    is_awake: AtomicBool,
    is_due: AtomicBool,
}

impl TaskWaker {
    /// The task is awake.
    pub(super) fn begin(&self, task: &Waker) {
        let mut known = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *known {
            Some(known) => known.clone_from(task),
            none => *none = Some(task.clone()),
        }
        drop(known);
        self.is_awake.store(true, Ordering::SeqCst);
    }

    /// The task looks at everything now.
    pub(super) fn look(&self) {
        self.is_due.store(false, Ordering::SeqCst);
    }

    /// The task is about to rest. False if it was woken since it looked.
    pub(super) fn rest(&self) -> bool {
        // In this order: a wake sees that the task rests, or the task sees the wake.
        self.is_awake.store(false, Ordering::SeqCst);
        let is_due = self.is_due.swap(false, Ordering::SeqCst);
        self.is_awake.store(is_due, Ordering::SeqCst);
        !is_due
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_due.store(true, Ordering::SeqCst);
        if !self.is_awake.load(Ordering::SeqCst) {
            let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
            task.inspect(Waker::wake_by_ref);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_wake_while_awake_is_a_look_and_else_a_wake() {
        let (task, waker) = (Arc::<Task>::default(), Arc::<TaskWaker>::default());
        waker.begin(&task.clone().into());
        waker.wake_by_ref();
        assert!(!waker.rest(), "it was woken");
        waker.look();
        assert!(waker.rest());
        assert_eq!(task.0.load(Ordering::Relaxed), 0);
        waker.wake_by_ref();
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
        waker.begin(&task.clone().into());
        waker.look();
        assert!(waker.rest());
    }
}
