//! The work queue: a key is in it at most once, at its earliest due time, and is never given to two workers at once.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::clock;
use crate::api::sync::lock;

/// Why a key is reconciled. Only for logs; no decision depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The object changed.
    Changed,
    /// Another object, an engine or a background task woke it.
    Hint,
    /// The last plan requested it.
    Requeue,
    /// The last attempt failed.
    Retry,
    /// The resync period has passed.
    Resync,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Changed => "changed",
            Self::Hint => "hint",
            Self::Requeue => "requeue",
            Self::Retry => "retry",
            Self::Resync => "resync",
        })
    }
}

/// The keys to reconcile. Bounded by the number of objects.
#[derive(Debug)]
pub struct Queue<K: Ord> {
    state: Mutex<State<K>>,
    /// Wakes one worker to check the head again.
    changed: Notify,
}

#[derive(Debug)]
struct State<K: Ord> {
    /// Waiting keys by due time; a key is here at most once, and not while it runs.
    waiting: BTreeSet<(Instant, K)>,
    /// The due time of each waiting key, and of each running key that must run again.
    entries: HashMap<K, Entry>,
}

#[derive(Debug, Clone, Copy)]
enum Entry {
    Waiting(Due),
    Running(Option<Due>),
}

#[derive(Debug, Clone, Copy)]
struct Due {
    at: Instant,
    reason: Reason,
}

/// A key that a worker holds; it can be handed out again when this is dropped.
#[derive(Debug)]
pub struct Job<'a, K: Ord + Hash + Clone> {
    queue: &'a Queue<K>,
    /// The key.
    pub key: K,
    /// Why.
    pub reason: Reason,
}

impl<K: Ord> Default for Queue<K> {
    fn default() -> Self {
        let state = State { waiting: BTreeSet::new(), entries: HashMap::new() };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }
}

impl<K: Ord + Hash + Clone> Queue<K> {
    /// Makes `key` due now.
    pub fn add(&self, key: K, reason: Reason) {
        self.add_at(key, clock::instant(), reason);
    }

    /// Makes `key` due no later than `at`. A key that is running runs again afterwards.
    pub fn add_at(&self, key: K, at: Instant, reason: Reason) {
        let mut state = self.lock();
        let due = Due { at, reason };
        match state.entries.get(&key).copied() {
            Some(Entry::Running(None)) => state.set(key, Entry::Running(Some(due))),
            Some(Entry::Running(Some(before))) if at < before.at => state.set(key, Entry::Running(Some(due))),
            Some(Entry::Waiting(before)) if at < before.at => {
                state.waiting.remove(&(before.at, key.clone()));
                state.wait(key, due);
            }
            Some(Entry::Running(Some(_)) | Entry::Waiting(_)) => return,
            None => state.wait(key, due),
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Waits for the next due key. Safe to cancel.
    pub async fn next(&self) -> Job<'_, K> {
        loop {
            let head = match self.take_due() {
                Ok(job) => return job,
                Err(head) => head,
            };
            match head {
                Some(at) => tokio::select! {
                    biased;
                    () = self.changed.notified() => {}
                    () = sleep_until(at) => {}
                },
                None => self.changed.notified().await,
            }
        }
    }

    /// Number of keys that are due and wait for a worker.
    #[cfg(test)]
    fn depth(&self) -> usize {
        let now = clock::instant();
        self.lock().waiting.iter().take_while(|(at, _)| *at <= now).count()
    }

    /// Number of keys that wait, are due later, or are running.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether no key waits, is due later, or is running.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The job at the head if it is due, else the time when it will be.
    fn take_due(&self) -> Result<Job<'_, K>, Option<Instant>> {
        let mut state = self.lock();
        let head = state.waiting.first().map(|(at, _)| *at);
        if head.is_none_or(|at| at > clock::instant()) {
            return Err(head);
        }
        let Some((_, key)) = state.waiting.pop_first() else { return Err(None) };
        let Some(Entry::Waiting(due)) = state.entries.insert(key.clone(), Entry::Running(None)) else {
            unreachable!("a key in the order is a waiting one")
        };
        let more = !state.waiting.is_empty();
        drop(state);
        if more {
            self.changed.notify_one();
        }
        Ok(Job { queue: self, key, reason: due.reason })
    }

    /// No code panics while it holds the lock, so the state is complete even if the lock is poisoned.
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        lock(&self.state)
    }
}

impl<K: Ord + Hash + Clone> State<K> {
    fn set(&mut self, key: K, entry: Entry) {
        self.entries.insert(key, entry);
    }

    fn wait(&mut self, key: K, due: Due) {
        self.waiting.insert((due.at, key.clone()));
        self.set(key, Entry::Waiting(due));
    }
}

impl<K: Ord + Hash + Clone> Drop for Job<'_, K> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        match state.entries.remove(&self.key) {
            Some(Entry::Running(Some(due))) => state.wait(self.key.clone(), due),
            Some(Entry::Running(None)) | None => return,
            Some(Entry::Waiting(_)) => unreachable!("a running key does not wait"),
        }
        drop(state);
        self.queue.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    fn now(queue: &Queue<&'static str>) -> Option<(&'static str, Reason)> {
        queue.next().now_or_never().map(|job| (job.key, job.reason))
    }

    fn after(millis: u64) -> Instant {
        clock::instant() + Duration::from_millis(millis)
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_many_times_is_handed_out_once() {
        let queue = Queue::default();
        queue.add("a", Reason::Changed);
        queue.add("b", Reason::Hint);
        queue.add("a", Reason::Hint);
        assert_eq!(queue.depth(), 2);
        assert_eq!(now(&queue), Some(("a", Reason::Changed)));
        assert_eq!(now(&queue), Some(("b", Reason::Hint)));
        assert_eq!(now(&queue), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_time_wins() {
        let queue = Queue::default();
        queue.add_at("a", after(1000), Reason::Resync);
        queue.add_at("a", after(100), Reason::Requeue);
        queue.add_at("a", after(500), Reason::Retry);
        assert_eq!((now(&queue), queue.depth()), (None, 0));
        let start = clock::instant();
        let job = queue.next().await;
        assert_eq!((job.key, job.reason, start.elapsed()), ("a", Reason::Requeue, Duration::from_millis(100)));
        drop(job);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(now(&queue), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_running_key_is_held_and_runs_again_if_it_was_added_meanwhile() {
        let queue = Queue::default();
        queue.add("a", Reason::Changed);
        let running = queue.next().await;
        queue.add_at("a", after(1000), Reason::Resync);
        queue.add("a", Reason::Hint);
        assert_eq!(now(&queue), None);
        drop(running);
        assert_eq!(now(&queue), Some(("a", Reason::Hint)));
        assert_eq!(now(&queue), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_waits_for_later_work_takes_what_comes_sooner() {
        let queue = Queue::default();
        queue.add_at("later", after(60_000), Reason::Resync);
        let start = clock::instant();
        let worker = async { queue.next().await.key };
        let producer = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            queue.add("sooner", Reason::Hint);
        };
        let (key, ()) = tokio::join!(worker, producer);
        assert_eq!((key, start.elapsed()), ("sooner", Duration::from_millis(5)));
    }

    #[tokio::test(start_paused = true)]
    async fn several_workers_share_what_is_due() {
        let queue = Queue::default();
        let workers = futures::future::join_all((0..3).map(|_| queue.next()));
        let producer = async {
            tokio::task::yield_now().await;
            for key in ["a", "b", "c"] {
                queue.add(key, Reason::Changed);
            }
        };
        let (jobs, ()) = tokio::join!(workers, producer);
        let mut keys: Vec<_> = jobs.iter().map(|job| job.key).collect();
        keys.sort();
        assert_eq!(keys, ["a", "b", "c"]);
    }
}
