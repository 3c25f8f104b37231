//! Companions: the background tasks of an object, such as work that takes longer than a reconcile (a pull, a stop with
//! grace), links and probes. A companion is started once, wakes its object when it has news, and ends when the object
//! is deleted. No companion survives the operator: after a restart the next plan starts again what it still needs.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::clock;
use crate::api::failure::Failure;
use crate::api::labels::Owner;
use crate::api::sync::lock;

/// First and longest delay before failed work may start again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Wakes objects: makes their reconcile due at once. Cheap to clone; background tasks get a clone.
#[derive(Clone)]
pub struct Wake(Arc<dyn Fn(&Owner) + Send + Sync>);

impl Wake {
    /// Creates one; `wake` is called with each object to wake.
    pub fn new(wake: impl Fn(&Owner) + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    /// Makes the object's reconcile due; the object need not exist.
    pub fn owner(&self, owner: &Owner) {
        (self.0)(owner);
    }
}

/// The state of a companion, as a planner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard<V> {
    /// The last value that it published.
    pub value: Option<V>,
    /// Milliseconds since it last published; 0 if it never did.
    pub silent_ms: u64,
    /// Whether it still runs.
    pub state: Standing,
}

/// Whether a companion runs, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It runs.
    Running,
    /// It ended with success.
    Done,
    /// It failed.
    Failed {
        /// The cause.
        why: String,
        /// Failures in a row.
        failures: u32,
        /// The delay after the failure has passed: the work may start again.
        retry: bool,
    },
}

impl<V> Heard<V> {
    /// The cause of its failure, if it failed.
    pub fn failure(&self) -> Option<&str> {
        match &self.state {
            Standing::Failed { why, .. } => Some(why),
            Standing::Running | Standing::Done => None,
        }
    }

    /// Whether it runs.
    pub fn runs(&self) -> bool {
        self.state == Standing::Running
    }
}

/// Whether to start work that must be done once: it does not run, is not done, and does not wait after a failure.
pub fn due_once<V>(heard: Option<&Heard<V>>) -> bool {
    match heard.map(|heard| &heard.state) {
        None => true,
        Some(Standing::Failed { retry, .. }) => *retry,
        Some(Standing::Running | Standing::Done) => false,
    }
}

/// Whether to start work (again): it does not run and does not wait after a failure.
pub fn due<V>(heard: Option<&Heard<V>>) -> bool {
    heard.is_some_and(|heard| heard.state == Standing::Done) || due_once(heard)
}

/// The companions of all objects of a kind. `Id` identifies a companion of an object, `V` is the value that
/// it publishes.
pub struct Companions<Id, V> {
    wake: Wake,
    all: Shared<Id, V>,
}

type Shared<Id, V> = Arc<Mutex<All<Id, V>>>;

struct All<Id, V> {
    of: BTreeMap<Owner, BTreeMap<Id, Companion<V>>>,
    /// Distinguishes a companion from its successor with the same id.
    started: u64,
}

struct Companion<V> {
    number: u64,
    value: Option<V>,
    heard: Option<Instant>,
    state: State,
    failures: u32,
    task: Option<AbortHandle>,
}

enum State {
    Running,
    Done,
    Failed(String, Instant),
}

impl<V> Drop for Companion<V> {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl<V: Clone> Companion<V> {
    fn seen(&self) -> Heard<V> {
        let state = match &self.state {
            State::Running => Standing::Running,
            State::Done => Standing::Done,
            State::Failed(why, at) => {
                let wait = RETRY.0.saturating_mul(2_u32.saturating_pow(self.failures.saturating_sub(1))).min(RETRY.1);
                Standing::Failed { why: why.clone(), failures: self.failures, retry: at.elapsed() >= wait }
            }
        };
        let silent_ms = self.heard.map(|at| at.elapsed().as_millis()).unwrap_or_default();
        Heard { value: self.value.clone(), silent_ms: u64::try_from(silent_ms).unwrap_or(u64::MAX), state }
    }
}

/// The handle by which a companion publishes its value.
pub struct Voice<Id, V> {
    owner: Owner,
    id: Id,
    number: u64,
    all: Shared<Id, V>,
    wake: Wake,
}

impl<Id: Ord + Clone, V> Voice<Id, V> {
    /// Changes the value; wakes the object if `change` returns true.
    pub fn tell(&self, change: impl FnOnce(&mut Option<V>) -> bool) {
        let news = self.with(|companion| {
            companion.heard = Some(clock::instant());
            change(&mut companion.value)
        });
        if news == Some(true) {
            self.wake();
        }
    }

    /// Changes the value without resetting `silent_ms`, and wakes the object.
    pub fn amend(&self, change: impl FnOnce(&mut Option<V>)) {
        if self.with(|companion| change(&mut companion.value)).is_some() {
            self.wake();
        }
    }

    /// Wakes the object.
    pub fn wake(&self) {
        self.wake.owner(&self.owner);
    }

    /// `None` if a successor has replaced this companion.
    fn with<R>(&self, change: impl FnOnce(&mut Companion<V>) -> R) -> Option<R> {
        let mut all = lock(&self.all);
        let companion = all.of.get_mut(&self.owner)?.get_mut(&self.id)?;
        (companion.number == self.number).then(|| change(companion))
    }

    fn end(&self, ended: Result<(), String>) {
        let ours = self.with(|companion| {
            companion.task = None;
            companion.state = match ended {
                Ok(()) => {
                    companion.failures = 0;
                    State::Done
                }
                Err(why) => {
                    companion.failures += 1;
                    State::Failed(why, clock::instant())
                }
            };
        });
        if ours.is_some() {
            self.wake();
        }
    }
}

impl<Id, V> Drop for Companions<Id, V> {
    /// Tasks hold a `Voice`, so the last reference would never be dropped; they are ended here.
    fn drop(&mut self) {
        lock(&self.all).of.clear();
    }
}

impl<Id: Ord + Clone + Send + 'static, V: Clone + Send + 'static> Companions<Id, V> {
    /// An empty set. `wake` is called with the object of each companion that has news.
    pub fn new(wake: Wake) -> Self {
        Self { wake, all: Arc::new(Mutex::new(All { of: BTreeMap::new(), started: 0 })) }
    }

    /// Starts the work unless it runs; its end wakes the object. Its result becomes the value.
    pub fn begin(&self, owner: &Owner, id: Id, work: impl Future<Output = Result<V, Failure>> + Send + 'static) {
        self.start(owner, id, |voice| async move {
            match work.await {
                Ok(value) => {
                    voice.with(|companion| companion.value = Some(value));
                    voice.end(Ok(()));
                }
                Err(failure) => voice.end(Err(failure.message)),
            }
        });
    }

    /// Starts a companion that publishes through its `Voice`, unless one with this id exists.
    pub fn ensure<F, Run>(&self, owner: &Owner, id: Id, run: F)
    where
        F: FnOnce(Voice<Id, V>) -> Run,
        Run: Future<Output = ()> + Send + 'static,
    {
        if !lock(&self.all).of.get(owner).is_some_and(|ours| ours.contains_key(&id)) {
            self.start(owner, id, run);
        }
    }

    fn start<F, Run>(&self, owner: &Owner, id: Id, run: F)
    where
        F: FnOnce(Voice<Id, V>) -> Run,
        Run: Future<Output = ()> + Send + 'static,
    {
        let mut all = lock(&self.all);
        all.started += 1;
        let number = all.started;
        let ours = all.of.entry(owner.clone()).or_default();
        let before = ours.get(&id);
        if before.is_some_and(|before| matches!(before.state, State::Running)) {
            return;
        }
        let (value, failures) = before.map(|before| (before.value.clone(), before.failures)).unwrap_or_default();
        let voice =
            Voice { owner: owner.clone(), id: id.clone(), number, all: self.all.clone(), wake: self.wake.clone() };
        // Spawned under the lock: the task cannot publish before its entry exists.
        let task = Some(tokio::spawn(run(voice)).abort_handle());
        ours.insert(id, Companion { number, value, heard: None, state: State::Running, failures, task });
    }

    /// Records a failure of an operation that was not done in the background: it is due again after a delay.
    pub fn failed(&self, owner: &Owner, id: Id, why: impl Into<String>) {
        let mut all = lock(&self.all);
        all.started += 1;
        let number = all.started;
        let ours = all.of.entry(owner.clone()).or_default();
        let failures = ours.get(&id).map(|before| before.failures).unwrap_or_default() + 1;
        let state = State::Failed(why.into(), clock::instant());
        ours.insert(id, Companion { number, value: None, heard: None, state, failures, task: None });
    }

    /// The companions of an object.
    pub fn heard(&self, owner: &Owner) -> BTreeMap<Id, Heard<V>> {
        let all = lock(&self.all);
        let ours = all.of.get(owner).into_iter().flatten();
        ours.map(|(id, companion)| (id.clone(), companion.seen())).collect()
    }

    /// Ends the companions of an object that `keep` rejects.
    pub fn retain(&self, owner: &Owner, keep: impl Fn(&Id) -> bool) {
        let mut all = lock(&self.all);
        if let Some(ours) = all.of.get_mut(owner) {
            ours.retain(|id, _| keep(id));
            if ours.is_empty() {
                all.of.remove(owner);
            }
        }
    }

    /// Returns the value under this id; `make` creates it if it does not exist. Such a companion has no task.
    pub fn keep(&self, owner: &Owner, id: Id, make: impl FnOnce() -> V) -> V {
        let mut all = lock(&self.all);
        all.started += 1;
        let number = all.started;
        let new = || Companion { number, value: None, heard: None, state: State::Done, failures: 0, task: None };
        let kept = all.of.entry(owner.clone()).or_default().entry(id).or_insert_with(new);
        kept.value.get_or_insert_with(make).clone()
    }
}

/// Keeps something in memory for objects.
pub trait Keeper {
    /// Ends and drops everything that is kept for an object that is gone.
    fn forget(&self, owner: &Owner);

    /// Number of kept entries of all objects.
    fn count(&self) -> usize;
}

impl<Id, V> Keeper for Companions<Id, V> {
    fn forget(&self, owner: &Owner) {
        lock(&self.all).of.remove(owner);
    }

    fn count(&self) -> usize {
        lock(&self.all).of.values().map(BTreeMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::api::failure::Class;

    fn owner() -> Owner {
        Owner { kind: "Deployment".into(), namespace: "default".into(), name: "web".into() }
    }

    fn companions() -> (Companions<&'static str, String>, mpsc::UnboundedReceiver<Owner>) {
        let (sender, woken) = mpsc::unbounded_channel();
        let wake = Wake::new(move |owner| drop(sender.send(owner.clone())));
        (Companions::new(wake), woken)
    }

    #[tokio::test(start_paused = true)]
    async fn work_starts_once_tells_its_end_and_waits_longer_after_each_failure() {
        let (work, mut woken) = companions();
        let fails = || async { Err(Failure::new(Class::Transient, "no")) };
        let seen = || work.heard(&owner()).get("a").map(|heard| (heard.state.clone(), heard.value.clone()));
        let failed = |failures, retry| Some((Standing::Failed { why: "no".into(), failures, retry }, None));
        for (failures, wait) in [(1, 1), (2, 2), (3, 4)] {
            work.begin(&owner(), "a", fails());
            work.begin(&owner(), "a", async { Ok("of another".to_owned()) });
            assert_eq!(seen(), Some((Standing::Running, None)));
            assert_eq!(woken.recv().await, Some(owner()));
            assert_eq!(seen(), failed(failures, false));
            tokio::time::advance(Duration::from_secs(wait)).await;
            assert_eq!(seen(), failed(failures, true));
        }
        work.begin(&owner(), "a", async { Ok("it".to_owned()) });
        woken.recv().await;
        assert_eq!(seen(), Some((Standing::Done, Some("it".into()))));
        work.forget(&owner());
        assert_eq!((seen(), work.count()), (None, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_conversation_starts_once_and_lives_until_it_is_no_longer_wanted() {
        let (talks, mut woken) = companions();
        let hello = |words: &'static str| {
            move |voice: Voice<&'static str, String>| async move {
                voice.tell(|value| value.replace(words.to_owned()).is_none());
                std::future::pending::<()>().await;
            }
        };
        talks.ensure(&owner(), "a", hello("one"));
        talks.ensure(&owner(), "b", hello("two"));
        woken.recv().await;
        woken.recv().await;
        talks.retain(&owner(), |id| *id == "b");
        talks.ensure(&owner(), "b", hello("three"));
        tokio::time::advance(Duration::from_millis(70)).await;
        let heard = Heard { value: Some("two".to_owned()), silent_ms: 70, state: Standing::Running };
        assert_eq!(talks.heard(&owner()), BTreeMap::from([("b", heard)]));
        talks.retain(&owner(), |_| false);
        assert_eq!(talks.count(), 0);
    }

    #[tokio::test]
    async fn what_is_kept_without_a_task_is_made_once_and_given_back() {
        let (kept, _) = companions();
        let keep = |made: &str| kept.keep(&owner(), "a", || made.to_owned());
        assert_eq!((keep("one"), keep("two")), ("one".into(), "one".into()));
        kept.retain(&owner(), |_| false);
        assert_eq!((keep("three"), kept.count()), ("three".into(), 1));
        kept.forget(&owner());
        assert_eq!(kept.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_ended_tells_nothing_to_its_successor() {
        let (work, mut woken) = companions();
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        work.begin(&owner(), "a", async move {
            let _ = gone.await;
            Ok("old".to_owned())
        });
        work.retain(&owner(), |_| false);
        work.begin(&owner(), "a", async { Ok("new".to_owned()) });
        drop(go);
        woken.recv().await;
        tokio::task::yield_now().await;
        assert_eq!(work.heard(&owner())["a"].value.as_deref(), Some("new"));
        work.failed(&owner(), "b", "no");
        assert_eq!(work.heard(&owner())["b"].failure(), Some("no"));
    }
}
