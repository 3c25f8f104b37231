//! A controller: the workers of one kind, and what follows a reconcile. The reconcile itself is in `reconcile.rs`.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::Kind;
use super::backoff::Backoff;
use super::clock::{self, Clock};
use super::inbox::Inbox;
use super::metrics::Metrics;
use super::queue::Reason;
use super::reconcile::{Done, Reconciler};
use super::recorder::Recorder;
use crate::api::failure::{Class, Failure};
use crate::api::labels::Owner;
use crate::api::object::Object as _;
use crate::api::sync::lock;
use crate::store::{Key, Objects};

/// Objects of a kind that are reconciled at once.
const WORKERS: usize = 4;
/// The longest a reconcile may take. What takes longer (a pull, a stop with grace) goes on beside the loop.
const RECONCILE: Duration = Duration::from_secs(60);
/// Time for a reconcile under way to finish after shutdown was asked for.
const GRACE: Duration = Duration::from_secs(10);
/// From this failure in a row on, it is logged as a warning.
const WARN_FROM: u32 = 3;

/// Drives the objects of one kind that its inbox says are due.
pub(super) struct Controller<K: Kind> {
    pub(super) kind: K,
    pub(super) inbox: Arc<Inbox>,
    pub(super) objects: Objects,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) resync: Duration,
    pub(super) backoff: Mutex<Backoff<Key>>,
    pub(super) metrics: Arc<Metrics>,
}

/// A controller of any kind.
pub(super) trait Drive: Send + Sync {
    /// Reconciles what is due until `shutdown`; then lets what is under way finish, for 10 s at most.
    fn run(self: Arc<Self>, shutdown: CancellationToken) -> BoxFuture<'static, ()>;
    /// Observes and plans without recording and acting. `Err` says why there is no plan.
    fn preview(&self, object: Value) -> BoxFuture<'_, Result<Value, String>>;
    /// How much is kept in memory about objects.
    fn kept(&self) -> usize;
}

impl<K: Kind> Drive for Controller<K> {
    fn run(self: Arc<Self>, shutdown: CancellationToken) -> BoxFuture<'static, ()> {
        async move {
            let (recorder, recording) = Recorder::new(self.objects.clone());
            // Dropped with this future, so nothing outlives it.
            let mut recording = JoinSet::from_iter([recording]);
            let mut workers = JoinSet::new();
            for _ in 0..WORKERS {
                workers.spawn(Arc::clone(&self).work(recorder.clone(), shutdown.clone()));
            }
            drop(recorder);
            tracing::info!(kind = K::NAME, "controller started");
            while workers.join_next().await.is_some() {}
            // The last Events; a store that does not take them in time delays no shutdown.
            let _ = timeout(GRACE, recording.join_next()).await;
            tracing::info!(kind = K::NAME, "controller stopped");
        }
        .boxed()
    }

    fn kept(&self) -> usize {
        self.kind.companions().iter().map(|one| one.count()).sum::<usize>() + self.inbox.kept() + self.backoff().len()
    }

    fn preview(&self, object: Value) -> BoxFuture<'_, Result<Value, String>> {
        async move {
            let object: K::Object =
                serde_json::from_value(object).map_err(|error| format!("not a {}: {error}", K::NAME))?;
            let observed = self.kind.observe(&object).await.map_err(|failure| failure.message)?;
            let plan = self.kind.plan(&object, &observed, object.want(), self.clock.now());
            let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
            let requeue = plan.requeue.map(|after| after.as_secs_f64());
            Ok(json!({"status": plan.status, "steps": steps, "requeueSeconds": requeue}))
        }
        .boxed()
    }
}

impl<K: Kind> Controller<K> {
    /// One worker, until shutdown.
    async fn work(self: Arc<Self>, recorder: Recorder, shutdown: CancellationToken) {
        loop {
            let job = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                job = self.inbox.queue.next() => job,
            };
            tokio::select! {
                biased;
                () = self.process(&job.key, job.reason, &recorder) => {}
                () = grace(&shutdown) => {
                    tracing::warn!(object = %job.key, "its reconcile did not finish before shutdown; it will start anew");
                }
            }
        }
    }

    /// One reconcile, and when the next one is due.
    async fn process(&self, key: &Key, reason: Reason, recorder: &Recorder) {
        let span = tracing::info_span!(
            "reconcile", kind = K::NAME, object = %format_args!("{}/{}", key.namespace, key.name),
            generation = tracing::field::Empty, %reason
        );
        let outcome = self.reconcile(key, recorder).instrument(span.clone()).await;
        let _entered = span.enter();
        let again = match outcome {
            Ok(Done::Gone) => {
                self.backoff().reset(key);
                let (kind, namespace, name) = (K::NAME.to_owned(), key.namespace.clone(), key.name.clone());
                let owner = Owner { kind, namespace, name };
                self.kind.companions().iter().for_each(|one| one.forget(&owner));
                return;
            }
            Ok(Done::Reconciled { requeue }) => {
                self.backoff().reset(key);
                match requeue.filter(|requeue| *requeue < self.resync) {
                    Some(requeue) => (requeue, Reason::Requeue),
                    None => (self.resync, Reason::Resync),
                }
            }
            Err(failure) => (self.failed(key, &failure), Reason::Retry),
        };
        self.inbox.queue.add_at(key.clone(), clock::instant() + again.0, again.1);
    }

    /// The reconcile, with a panic and an endless wait turned into failures.
    async fn reconcile(&self, key: &Key, recorder: &Recorder) -> Result<Done, Failure> {
        let reconciler = Reconciler {
            kind: &self.kind,
            objects: &self.objects,
            clock: &*self.clock,
            metrics: &self.metrics,
            recorder,
        };
        let guarded = AssertUnwindSafe(reconciler.reconcile(key)).catch_unwind();
        match timeout(RECONCILE, guarded).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => {
                self.metrics.panics.add();
                let message = format!("a bug: the reconcile panicked: {}", panic_message(&*panic));
                tracing::error!(object = %key, "{message}");
                Err(Failure::new(Class::Transient, message))
            }
            Err(_) => {
                let message = format!("the reconcile took longer than {RECONCILE:?} and was given up");
                Err(Failure::new(Class::Transient, message))
            }
        }
    }

    /// Counts and logs the failure; returns the delay before the next attempt.
    fn failed(&self, key: &Key, failure: &Failure) -> Duration {
        let (wait, failures) = {
            let mut backoff = self.backoff();
            (backoff.failed(key, failure.class, &*self.clock), backoff.failures(key))
        };
        match failure.class {
            Class::Conflict => self.metrics.conflicts.add(),
            _ => self.metrics.failed.add(),
        }
        match failure.class {
            Class::Terminal => tracing::error!(error = %failure, ?wait, "reconcile failed"),
            _ if failures >= WARN_FROM => tracing::warn!(error = %failure, failures, ?wait, "reconcile keeps failing"),
            _ => tracing::debug!(error = %failure, ?wait, "reconcile failed; trying again"),
        }
        wait
    }

    fn backoff(&self) -> MutexGuard<'_, Backoff<Key>> {
        lock(&self.backoff)
    }
}

/// Ends when a reconcile under way has had its time after shutdown.
async fn grace(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    sleep(GRACE).await;
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
