//! A controller: what wakes it, its workers, and what follows a reconcile. The reconcile itself is in `reconcile.rs`.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{join_all, pending};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::Kind;
use super::backoff::Backoff;
use super::clock::{self, Clock};
use super::metrics::Metrics;
use super::queue::{Queue, Reason};
use super::reconcile::{Done, Reconciler};
use super::recorder::Recorder;
use super::reflector::{self, Event};
use crate::api::failure::{Class, Failure};
use crate::store::{Change, Key, Objects, objects};

/// Look at everything at least this often, whatever was or was not heard.
const RESYNC: Duration = Duration::from_secs(10);
/// Objects of a kind reconciled at once.
const WORKERS: usize = 4;
/// The longest a reconcile may take: a first pull of a large image on a slow line is within it.
const RECONCILE: Duration = Duration::from_secs(900);
/// How long a reconcile under way may go on after shutdown was asked for.
const GRACE: Duration = Duration::from_secs(10);
/// The wait before the store is asked again for all keys.
const RELIST: Duration = Duration::from_secs(1);
/// From this failure in a row on, people are told.
const WARN_FROM: u32 = 3;

/// A hint from outside the store: whom to look at. What happened is not said, for it would not be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// One object; it need not exist.
    Object {
        /// Its namespace; empty for cluster-scoped kinds.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// All of them: hints may have been missed.
    All,
}

type Map = Box<dyn Fn(&Change) -> Option<Trigger> + Send + Sync>;

/// Drives one kind. Made with [`Controller::new`], started with [`Controller::run`].
pub struct Controller<K: Kind> {
    shared: Shared<K>,
    workers: usize,
    related: Vec<(&'static str, Map)>,
}

struct Shared<K: Kind> {
    kind: Arc<K>,
    objects: Objects,
    clock: Arc<dyn Clock>,
    resync: Duration,
    queue: Queue<Key>,
    backoff: Mutex<Backoff<Key>>,
    metrics: Arc<Metrics>,
}

impl<K: Kind> Controller<K> {
    /// A controller of `kind` over `objects`.
    pub fn new(kind: Arc<K>, objects: Objects, clock: Arc<dyn Clock>) -> Self {
        let shared = Shared {
            kind,
            objects,
            clock,
            resync: RESYNC,
            queue: Queue::default(),
            backoff: Mutex::default(),
            metrics: Arc::default(),
        };
        Self { shared, workers: WORKERS, related: Vec::new() }
    }

    /// How many objects are reconciled at once; 4 unless said otherwise. One object never twice at once.
    pub fn workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }

    /// How often a settled object is looked at; 10 s unless said otherwise.
    pub fn resync(mut self, resync: Duration) -> Self {
        self.shared.resync = resync;
        self
    }

    /// Also follows another resource; `map` says whom one of its changes concerns.
    pub fn also_watch(
        mut self,
        resource: &'static str,
        map: impl Fn(&Change) -> Option<Trigger> + Send + Sync + 'static,
    ) -> Self {
        self.related.push((resource, Box::new(map)));
        self
    }

    /// The counters; they go on counting while the controller runs.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.shared.metrics)
    }

    /// Reconciles until `shutdown`; then lets what is under way finish, for 10 s at most.
    pub async fn run(self, triggers: mpsc::Receiver<Trigger>, shutdown: CancellationToken) {
        let shared = Arc::new(self.shared);
        let (recorder, recording) = Recorder::new(shared.objects.clone());
        let mut recording = tokio::spawn(recording);
        // Dropped with this future, so nothing outlives it.
        let mut tasks = JoinSet::new();
        for _ in 0..self.workers.max(1) {
            let worker = Arc::clone(&shared).work(recorder.clone(), shutdown.clone());
            tasks.spawn(worker);
        }
        drop(recorder);
        tracing::info!(kind = K::NAME, "controller started");
        let workers = async { while tasks.join_next().await.is_some() {} };
        tokio::select! {
            biased;
            () = shared.follow(&self.related) => {}
            () = shared.hear(triggers) => {}
            () = workers => {}
        }
        // The last Events; a store that does not take them in time keeps nobody.
        if timeout(GRACE, &mut recording).await.is_err() {
            recording.abort();
        }
        tracing::info!(kind = K::NAME, "controller stopped");
    }
}

impl<K: Kind> Shared<K> {
    /// Follows the kind's own objects and all related ones, for ever.
    async fn follow(&self, related: &[(&'static str, Map)]) {
        let own = reflector::follow(self.objects.clone(), K::RESOURCE, |told| match told {
            Event::Listed(keys) => keys.iter().for_each(|key| self.queue.add(key.clone(), Reason::Changed)),
            Event::Changed(change) if reflector::concerns_controller(change) => {
                self.queue.add(change.key.clone(), Reason::Changed);
            }
            Event::Changed(_) => {}
        });
        let (all, wanted) = mpsc::channel(1);
        let others = related.iter().map(|(resource, map)| {
            let all = all.clone();
            reflector::follow(self.objects.clone(), resource, move |told| {
                let trigger = match told {
                    Event::Listed(_) => Some(Trigger::All),
                    Event::Changed(change) => map(change),
                };
                match trigger {
                    Some(Trigger::Object { namespace, name }) => {
                        self.queue.add(key::<K>(namespace, name), Reason::Hint)
                    }
                    // Full: all are about to be looked at anyway.
                    Some(Trigger::All) => drop(all.try_send(Trigger::All)),
                    None => {}
                }
            })
        });
        tokio::join!(own, join_all(others), self.hear(wanted));
    }

    /// Turns hints into work, for ever.
    async fn hear(&self, mut triggers: mpsc::Receiver<Trigger>) {
        while let Some(trigger) = triggers.recv().await {
            match trigger {
                Trigger::Object { namespace, name } => self.queue.add(key::<K>(namespace, name), Reason::Hint),
                Trigger::All => self.add_all().await,
            }
        }
        pending().await
    }

    async fn add_all(&self) {
        loop {
            match self.objects.list::<Value>(K::RESOURCE, None).await {
                Ok((values, _)) => {
                    let keys = values.iter().map(|value| objects::key_of(K::RESOURCE, value));
                    return keys.for_each(|key| self.queue.add(key, Reason::Hint));
                }
                Err(error) => tracing::warn!(kind = K::NAME, %error, "cannot list what to look at; trying again"),
            }
            sleep(RELIST).await;
        }
    }

    /// One worker, until shutdown.
    async fn work(self: Arc<Self>, recorder: Recorder, shutdown: CancellationToken) {
        loop {
            let job = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                job = self.queue.next() => job,
            };
            self.metrics.queue_depth.set(self.queue.depth() as u64);
            tokio::select! {
                biased;
                () = self.process(&job.key, job.reason, &recorder) => {}
                () = grace(&shutdown) => {
                    tracing::warn!(object = %job.key, "its reconcile did not finish before shutdown; it will start anew");
                }
            }
        }
    }

    /// One reconcile and what follows from how it went.
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
        self.queue.add_at(key.clone(), clock::instant() + again.0, again.1);
    }

    /// The reconcile, with its panics and its endlessness turned into failures.
    async fn reconcile(&self, key: &Key, recorder: &Recorder) -> Result<Done, Failure> {
        let reconciler = Reconciler {
            kind: &*self.kind,
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

    /// Counts and logs the failure; returns how long to wait.
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
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key<K: Kind>(namespace: String, name: String) -> Key {
    Key { resource: K::RESOURCE.to_owned(), namespace, name }
}

/// Over when a reconcile under way has had its time after shutdown.
async fn grace(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    sleep(GRACE).await;
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
