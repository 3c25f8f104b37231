//! A controller: the workers of one kind, and what happens after a reconcile. The reconcile itself is in
//! `reconcile.rs`.

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

/// Number of objects of a kind that are reconciled concurrently.
const WORKERS: usize = 4;
/// Time-out of a reconcile. Longer work (a pull, a stop with grace) runs in the background.
const RECONCILE: Duration = Duration::from_secs(60);
/// Grace at shutdown for reconciles under way.
const GRACE: Duration = Duration::from_secs(10);
/// A failure is logged as a warning from this number in a row on.
const WARN_FROM: u32 = 3;

/// Drives the objects of one kind: reconciles those that its inbox makes due.
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
    /// Reconciles due objects until `shutdown`; then lets reconciles under way finish, for 10 s at most.
    fn run(self: Arc<Self>, shutdown: CancellationToken) -> BoxFuture<'static, ()>;
    /// Observes and plans without recording and acting. `Err` is the reason why there is no plan.
    fn preview(&self, object: Value) -> BoxFuture<'_, Result<Value, String>>;
    /// Number of entries in memory about objects.
    fn kept(&self) -> usize;
}

impl<K: Kind> Drive for Controller<K> {
    fn run(self: Arc<Self>, shutdown: CancellationToken) -> BoxFuture<'static, ()> {
        async move {
            let (recorder, recording) = Recorder::new(self.objects.clone());
            // Dropped with this future, so the task cannot outlive it.
            let mut recording = JoinSet::from_iter([recording]);
            let mut workers = JoinSet::new();
            for _ in 0..WORKERS {
                workers.spawn(Arc::clone(&self).work(recorder.clone(), shutdown.clone()));
            }
            drop(recorder);
            tracing::info!(kind = K::NAME, "controller started");
            while workers.join_next().await.is_some() {}
            // Writes the last Events; a slow store does not delay the shutdown.
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
            let outlook = self.kind.outlook(&object).await.map_err(|failure| failure.message)?;
            Ok(json!({"status": plan.status, "steps": steps, "requeueSeconds": requeue, "outlook": outlook}))
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

    /// One reconcile, and the schedule of the next one.
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

    /// The reconcile; a panic or a time-out becomes a failure.
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

/// Ends when the grace for reconciles under way at shutdown is over.
async fn grace(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    sleep(GRACE).await;
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
