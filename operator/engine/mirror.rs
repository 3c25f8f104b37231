//! The mirror of one host: its containers, volumes, networks and images in memory, for all owners. A reconcile of a
//! settled object therefore needs no request to the host. A mirror is an [`Engine`] around another one: reads are
//! answered from memory, every other call is forwarded.
//!
//! Memory is used only while a task follows the events of the host. An entry is removed from memory at once by an event
//! about its owner, by a change through the mirror, and by a new subscription. In addition the whole host is listed at
//! each new subscription, and when the engine was stirred (a volume, network or image came or went, whose events name no
//! owner; or the stream of events ended). The same few requests serve any number of owners. What no event told is found
//! by lists: of the containers every [`REFRESH`], more often while things happen there ([`BUSY`]), and of everything else
//! every [`REFRESH_ALL`]. So memory of containers is at most [`REFRESH`] and one list old, other memory [`REFRESH_ALL`];
//! when a list fails, all of it is removed.
//!
//! A read that has no answer within [`HANG`] fails, and from then on all reads of the host fail at once, for cached
//! entries too, until the host answers again. So a silent host delays each of the objects that read it once, by
//! [`HANG`], and no other. Its return is found in the background. A failed read means "unknown" and never "gone".
//!
//! A mirror may know the ID of its engine. While another engine answers, every call fails with [`Error::Stranger`], and
//! an answer that lacks all containers of an owner counts only if the engine has told its ID since.

mod state;
#[cfg(test)]
mod tests;
mod verbs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::OptionFuture;
use jiff::Timestamp;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use self::state::{Kept, Listed, Others, Picture, State};
use super::instant::instant;
use super::{Engine, Error, EventHint, Everything, HostInfo, Identity, Trouble, hash};
use crate::api::docker_host::DockerHost;
use crate::api::labels::Owner;
use crate::api::object::Object as _;
use crate::api::sync::lock;

/// Interval between two lists of all containers.
pub const REFRESH: Duration = Duration::from_secs(30);
/// The same while events come or changes are made: then some may be lost.
const BUSY: Duration = Duration::from_secs(10);
/// A host without events and changes for this time is settled.
const SETTLED: Duration = Duration::from_secs(60);
/// Every how many lists everything else is listed too.
const EVERY: u32 = 10;
/// Interval between two lists of everything.
pub const REFRESH_ALL: Duration = Duration::from_secs(30 * EVERY as u64);
/// A read without an answer after this time fails, and the host counts as silent.
pub const HANG: Duration = Duration::from_secs(1);
/// Interval between two attempts to reach a silent host.
const RETRY: Duration = Duration::from_secs(1);
/// The same after [`PATIENT`] of silence.
const RARELY: Duration = Duration::from_secs(4);
const PATIENT: Duration = Duration::from_secs(30);
/// Shortest time between two lists because the engine was stirred.
const CALM: Duration = Duration::from_secs(1);
/// How long an answer about the engine itself is used.
const INFO: Duration = Duration::from_secs(300);
/// An ID that the engine has told within this time needs no second question.
const SURE: Duration = Duration::from_secs(2);
/// Most hints that wait for a reader; more make the stream of events wait.
const QUEUE: usize = 256;

/// The mirror of one host.
#[derive(Clone)]
pub struct Mirror {
    inner: Arc<dyn Engine>,
    host: Arc<str>,
    state: Arc<Mutex<State>>,
    /// Notified when the host is found to hang.
    hangs: Arc<Notify>,
    /// Notified when a list is due at once: a new subscription had none in time, or another engine was accepted.
    late: Arc<Notify>,
    /// One question about the engine itself at a time.
    asking: Arc<tokio::sync::Mutex<()>>,
    /// Whether the engine may be changed; `None`: always.
    permit: Option<Permit>,
}

/// Says whether whoever has an engine may change something there now.
pub type Permit = Arc<dyn Fn() -> bool + Send + Sync>;

/// What is known of a host without asking it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Glance {
    /// Its last answer about itself.
    pub info: Option<HostInfo>,
    /// Why its last request had no answer.
    pub trouble: Option<Trouble>,
    /// How long ago it last answered.
    pub heard: Option<Duration>,
    /// Its clock when it was last read, and how long ago that was.
    pub clock: Option<(Timestamp, Duration)>,
    /// The ID of another engine that answers there.
    pub stranger: Option<String>,
    /// Number of managed containers by owner, in the last list.
    pub containers: Option<BTreeMap<Owner, usize>>,
}

impl Mirror {
    /// The mirror of this engine, whose host has the name `host`.
    pub fn new(host: &str, inner: Arc<dyn Engine>) -> Self {
        let (state, hangs, late, asking, permit) = Default::default();
        Self { inner, host: host.into(), state, hangs, late, asking, permit }
    }

    /// The same mirror for somebody who may change the engine only as long as the permit says so.
    pub fn permitted(&self, permit: Permit) -> Self {
        Self { permit: Some(permit), ..self.clone() }
    }

    /// Fails unless the engine may be changed now. It is asked right before each change: between a decision and its step a
    /// process may have stood still for a long time.
    pub(super) fn may_change(&self) -> Result<(), Error> {
        match &self.permit {
            Some(permit) if !permit() => {
                let why = "this operator does not lead any more";
                Err(Error::unreachable(&self.host, "changing something", why))
            }
            _ => Ok(()),
        }
    }

    /// Number of kept entries, for tests of the memory.
    pub fn kept(&self) -> usize {
        let state = lock(&self.state);
        state.owners.len() + state.networks.len() + state.images.len() + state.of.len()
    }

    /// From now on only the engine with this ID is read and changed. What another one said is forgotten.
    pub fn know(&self, engine_id: &str) {
        let mut state = lock(&self.state);
        if state.known.as_deref() != Some(engine_id) {
            let others = state.known.replace(engine_id.to_owned()).is_some();
            if others {
                (state.info, state.containers) = (None, None);
                state.outdate_all();
                self.late.notify_one();
            }
        }
    }

    /// What is known of the host; asks nothing.
    pub fn glance(&self) -> Glance {
        let state = lock(&self.state);
        Glance {
            info: state.info.as_ref().map(|(info, _)| info.clone()),
            trouble: state.silent.clone().or_else(|| state.trouble.clone()),
            heard: state.heard.map(|heard| heard.elapsed()),
            clock: self.inner.clock().map(|clock| (clock.time, clock.read.elapsed())),
            stranger: self.stranger(&state),
            containers: state.counts(),
        }
    }

    /// The ID of the engine that answers, if it is not the known one.
    fn stranger(&self, state: &State) -> Option<String> {
        match (self.inner.identity(), &state.known) {
            (Identity::Told(found), Some(known)) if found != *known => Some(found),
            _ => None,
        }
    }

    /// Whether reads are answered from memory: a task follows the events, and the host neither hangs nor is another one.
    fn holds(&self, state: &State) -> bool {
        state.followers > 0 && state.silent.is_none() && self.stranger(state).is_none()
    }

    /// Fails unless the engine is the known one; asks it if it has not told since it was last lost from sight.
    async fn recognise(&self) -> Result<(), Error> {
        let lost = self.inner.identity() == Identity::Lost && lock(&self.state).known.is_some();
        if lost {
            self.not_silent()?;
            self.ask_itself(|mirror| mirror.inner.identity() == Identity::Lost).await?;
        }
        let state = lock(&self.state);
        match (self.stranger(&state), &state.known) {
            (Some(found), Some(known)) => {
                Err(Error::Stranger { host: self.host.to_string(), known: known.clone(), found })
            }
            _ => Ok(()),
        }
    }

    /// Asks the engine about itself if that is still `due` when no other task asks.
    async fn ask_itself(&self, due: impl Fn(&Self) -> bool) -> Result<(), Error> {
        let _one = self.asking.lock().await;
        if !due(self) {
            return Ok(());
        }
        let info = self.watch(self.inner.info()).await?;
        let mut state = lock(&self.state);
        if state.known.is_none() && !info.engine_id.is_empty() {
            state.known = Some(info.engine_id.clone());
        }
        state.info = Some((info, instant()));
        Ok(())
    }

    /// Asks for the ID again, unless the engine has just told it: an engine that took the place of the known one has
    /// none of its containers.
    async fn make_sure(&self) -> Result<(), Error> {
        let fresh = |mirror: &Self| lock(&mirror.state).info.as_ref().is_some_and(|(_, at)| at.elapsed() < SURE);
        let known = lock(&self.state).known.is_some();
        if known && self.inner.identity() != Identity::Untold {
            self.ask_itself(|mirror| !fresh(mirror)).await?;
        }
        self.recognise().await
    }

    fn not_silent(&self) -> Result<(), Error> {
        match lock(&self.state).silent.clone() {
            Some(why) => Err(Error::trouble(&self.host, "reading what is there", why)),
            None => Ok(()),
        }
    }

    /// Reads from the host itself. After a read that hung, the next ones fail at once.
    async fn ask<T>(&self, read: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.not_silent()?;
        self.recognise().await?;
        self.watch(read).await
    }

    /// Waits for an answer, at most [`HANG`], and records whether the host hangs.
    async fn watch<T>(&self, read: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match timeout(HANG, read).await {
            Ok(outcome) => self.judged(outcome),
            Err(_) => Err(self.hung(HANG)),
        }
    }

    /// Records whether the host has answered.
    fn judged<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        let mut state = lock(&self.state);
        match &outcome {
            Err(error @ Error::Unreachable { .. }) => {
                let told = state.trouble.replace(error.cause()).is_some();
                if !told {
                    self.hangs.notify_one();
                }
            }
            _ => {
                state.heard = Some(instant());
                (state.silent, state.trouble) = (None, None);
            }
        }
        drop(state);
        outcome
    }

    /// Records that the host hangs; returns the error of the read that found it.
    fn hung(&self, waited: Duration) -> Error {
        let message = format!("no answer within {} s", waited.as_secs_f64());
        let error = Error::unreachable(&self.host, "reading what is there", message);
        let mut state = lock(&self.state);
        state.trouble = Some(error.cause());
        if state.followers > 0 {
            state.silent.get_or_insert_with(|| error.cause());
        }
        self.hangs.notify_one();
        error
    }

    /// Asks whether the host answers; if not within this time, readers are not made to find that out.
    pub async fn greet(&self, limit: Duration) {
        if timeout(limit, self.inner.ping()).await.is_err() {
            self.hung(limit);
        }
    }

    /// A list of an owner's containers or volumes, from memory if known.
    async fn owned<T: Clone>(
        &self,
        owner: &Owner,
        list: fn(&mut Picture) -> &mut Option<Vec<T>>,
        name: fn(&T) -> &String,
        read: impl Future<Output = Result<Vec<T>, Error>>,
    ) -> Result<Vec<T>, Error> {
        let version = {
            let mut state = lock(&self.state);
            let holds = self.holds(&state);
            let picture = state.owners.entry(owner.clone()).or_default();
            picture.unused = 0;
            if let Some(known) = list(picture).clone().filter(|_| holds) {
                return Ok(known);
            }
            picture.version
        };
        let seen = self.ask(read).await?;
        let mut state = lock(&self.state);
        state.of.extend(seen.iter().map(|one| (name(one).clone(), owner.clone())));
        if let Some(picture) = state.owners.get_mut(owner).filter(|picture| picture.version == version) {
            *list(picture) = Some(seen.clone());
        }
        Ok(seen)
    }

    /// A network or image by its name, from memory if known.
    async fn named<T: Clone>(
        &self,
        name: &str,
        all: fn(&mut State) -> &mut BTreeMap<String, Kept<Option<T>>>,
        read: impl Future<Output = Result<Option<T>, Error>>,
    ) -> Result<Option<T>, Error> {
        let version = {
            let mut state = lock(&self.state);
            let holds = self.holds(&state);
            if let Some(kept) = all(&mut state).get_mut(name).filter(|_| holds) {
                kept.unused = 0;
                return Ok(kept.value.clone());
            }
            state.version
        };
        let seen = self.ask(read).await?;
        let mut state = lock(&self.state);
        if state.version == version {
            all(&mut state).insert(name.to_owned(), Kept { value: seen.clone(), unused: 0 });
        }
        Ok(seen)
    }

    /// Performs a change to an owner's containers or volumes. The owner's state is forgotten before and after, even if
    /// the caller is cancelled.
    async fn change<T>(
        &self,
        outdate: impl Fn(&mut State),
        deed: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.recognise().await?;
        self.may_change()?;
        outdate(&mut lock(&self.state));
        let _after = Outdates { state: &self.state, outdate };
        deed.await
    }

    /// Lists all containers, and with `all` everything else; returns the owners whose state differs from memory. With
    /// `fill`, owners that were never read are stored too. A long list is waited for while the host answers a ping.
    async fn refresh(&self, all: bool, fill: bool) -> Result<BTreeSet<Owner>, Error> {
        self.recognise().await?;
        let before = lock(&self.state).version;
        let mut list = std::pin::pin!(self.list(all));
        let outcome = tokio::select! {
            biased;
            outcome = &mut list => outcome,
            () = sleep(HANG) => match timeout(HANG, self.inner.ping()).await {
                Ok(Ok(())) => list.await,
                Ok(Err(error)) => Err(error),
                Err(_) => return Err(self.hung(HANG)),
            },
        };
        let listed = self.judged(outcome)?;
        if lock(&self.state).misses(&listed) {
            self.make_sure().await?;
        }
        self.recognise().await?;
        Ok(lock(&self.state).take_in(before, listed, fill))
    }

    async fn list(&self, all: bool) -> Result<Listed, Error> {
        if !all {
            return Ok(Listed { containers: self.inner.list_owned().await?, others: None });
        }
        let Everything { containers, volumes, networks, images } = self.inner.list_all().await?;
        Ok(Listed { containers, others: Some(Others { volumes, networks, images }) })
    }

    /// Asks the host from time to time, and tells who is concerned by what was found.
    async fn keep_fresh(self, hints: mpsc::Sender<EventHint>) {
        // The lists of many hosts are spread over the whole period.
        let share = u32::from(hash::spread(&self.host));
        let began = instant();
        let (mut listed, mut round) = (began, share % EVERY);
        let mut due = listed + REFRESH * share / 256;
        let busy = || lock(&self.state).active.is_some_and(|active| active.elapsed() < SETTLED);
        let stirs = self.inner.stirred();
        let own = Owner { kind: DockerHost::KIND.to_owned(), namespace: String::new(), name: self.host.to_string() };
        let mut told = None;
        loop {
            let unasked = |mirror: &Self| lock(&mirror.state).info.is_none();
            // An engine that tells no ID is asked only if somebody wants to know.
            if self.inner.identity() != Identity::Untold && unasked(&self) && self.not_silent().is_ok() {
                let _ = self.ask_itself(unasked).await;
            }
            // The host's own object tells people how it is.
            let face = Glance { heard: None, clock: None, ..self.glance() };
            if told.as_ref() != Some(&face) && hints.send(Some(own.clone())).await.is_err() {
                return;
            }
            told = Some(face);
            let silent = lock(&self.state).silent.is_some();
            let quiet = lock(&self.state).heard.map_or(began, |heard| heard.max(began)).elapsed();
            let retry = if quiet < PATIENT { RETRY } else { RARELY };
            let stirred = OptionFuture::from(stirs.as_ref().map(|stirs| stirs.notified()));
            let by_itself = tokio::select! {
                biased;
                () = self.hangs.notified(), if !silent => continue,
                Some(()) = stirred, if !silent => false,
                () = self.late.notified(), if !silent => false,
                () = sleep(if silent { retry } else { BUSY.min(due.saturating_duration_since(instant())) }) => true,
            };
            let early = by_itself && instant() < if busy() { due.min(listed + BUSY) } else { due };
            if early && !silent {
                continue;
            }
            if silent {
                if !matches!(timeout(HANG, self.inner.ping()).await, Ok(Ok(()))) {
                    continue;
                }
                lock(&self.state).outdate_all();
                if self.inner.identity() == Identity::Lost {
                    let _ = self.ask_itself(|_| true).await;
                }
            }
            listed = instant();
            (due, round) = (listed + REFRESH, (round + 1) % EVERY);
            // What nobody has read yet is stored too when all of memory is new.
            let refreshed = self.refresh(silent || !by_itself || round == 0, silent || !by_itself).await;
            let stale = lock(&self.state).info.as_ref().is_some_and(|(_, at)| at.elapsed() >= INFO);
            if stale {
                let _ = self.ask_itself(|_| true).await;
            }
            let concerned: Vec<EventHint> = match refreshed {
                Ok(_) if silent => vec![None],
                Ok(changed) => changed.into_iter().map(Some).collect(),
                // Without the list the age of memory is unknown.
                Err(error) => {
                    tracing::debug!(host = &*self.host, %error, "what is there could not be listed");
                    lock(&self.state).outdate_all();
                    Vec::new()
                }
            };
            for hint in concerned {
                if hints.send(hint).await.is_err() {
                    return;
                }
            }
            if !by_itself {
                sleep(CALM).await;
            }
        }
    }

    async fn pass_on(self, hints: mpsc::Sender<EventHint>) {
        let mut events = self.inner.events();
        while let Some(hint) = events.next().await {
            {
                let mut state = lock(&self.state);
                match &hint {
                    Some(owner) => state.outdate(owner),
                    None => state.outdate_all(),
                }
            }
            if hint.is_none() {
                // One list for all owners that will read now; if it is late, each of them lists for itself.
                if !matches!(timeout(HANG, self.refresh(true, true)).await, Ok(Ok(_))) {
                    self.late.notify_one();
                }
            }
            if hints.send(hint).await.is_err() {
                return;
            }
        }
    }
}

/// Calls its function again when it is dropped.
struct Outdates<'a, F: Fn(&mut State)> {
    state: &'a Mutex<State>,
    outdate: F,
}

impl<F: Fn(&mut State)> Drop for Outdates<'_, F> {
    fn drop(&mut self) {
        (self.outdate)(&mut lock(self.state));
    }
}

/// Counts as a follower of the events until it is dropped.
struct Follower(Arc<Mutex<State>>);

impl Follower {
    fn of(mirror: &Mirror) -> Self {
        lock(&mirror.state).followers += 1;
        Self(mirror.state.clone())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.followers -= 1;
        // Without events memory is not valid.
        state.outdate_all();
        state.silent = None;
    }
}
