//! Leadership among operators that share a store: who may act, until when, and the fence that refuses the writes of one
//! that does not lead any more.
//!
//! The use: `acquire` (or wait for `vacant` and try again), run the controllers over [`Leadership::store`], check
//! [`Tenure::leads`] before each step, stop everything when [`Leadership::ended`] returns, `release` at the end.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::generation::epoch;
use super::{Clock, Error, Store};

/// An operator that leads, or wants to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The name of its node.
    pub node: String,
    /// The address of its API.
    pub address: String,
}

/// The operator that leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Who it is.
    pub who: Candidate,
    /// Its epoch: each leadership has a greater one than those before.
    pub epoch: u64,
}

/// The way to leadership over one store.
#[async_trait::async_trait]
pub trait Leases: Send + Sync + 'static {
    /// Tries once to become the leader. `None`: another one leads.
    async fn acquire(&self, who: &Candidate) -> Result<Option<Leadership>, Error>;
    /// Who leads now. A lease that runs out is known here a moment later than its holder stops.
    async fn leader(&self) -> Result<Option<Leader>, Error>;
    /// Returns when nobody leads; somebody else may be faster to acquire then.
    async fn vacant(&self) -> Result<(), Error>;
}

/// How long an operator leads: a value to give to whatever has to check it before it acts. Cheap to clone.
#[derive(Clone)]
pub struct Tenure {
    epoch: u64,
    deadline: watch::Receiver<Duration>,
    clock: Arc<dyn Clock>,
}

impl Tenure {
    /// The epoch, for commands to others: they refuse one that is lower than one they have seen. 0: there was never more than
    /// one operator.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How much longer the operator leads if the lease is not renewed any more. Nobody else leads before this is over.
    pub fn left(&self) -> Duration {
        self.deadline.borrow().saturating_sub(self.clock.boot())
    }

    /// Whether the operator leads now.
    pub fn leads(&self) -> bool {
        !self.left().is_zero()
    }

    /// Returns when the operator does not lead any more. After a suspend of the machine it may return late, while
    /// [`Tenure::leads`] is right at once.
    pub async fn ended(&self) {
        let mut deadline = self.deadline.clone();
        loop {
            let left = deadline.borrow_and_update().saturating_sub(self.clock.boot());
            if left.is_zero() {
                return;
            }
            tokio::select! {
                biased;
                changed = deadline.changed() => if changed.is_err() {
                    tokio::time::sleep(left).await;
                },
                // A sleep of tokio has a limit of some years.
                () = tokio::time::sleep(left.min(Duration::from_secs(3600))) => {}
            }
        }
    }
}

impl std::fmt::Debug for Tenure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tenure").field("epoch", &self.epoch).field("left", &self.left()).finish()
    }
}

/// A leadership that is held and renewed. Dropped, it ends here at once, and for the others when the lease runs out.
pub struct Leadership {
    tenure: Tenure,
    deadline: watch::Sender<Duration>,
    store: Arc<dyn Store>,
    release: Option<Release>,
    renewal: Option<AbortOnDropHandle<()>>,
}

/// What gives the lease back.
pub(super) type Release = Box<dyn FnOnce() -> BoxFuture<'static, Result<(), Error>> + Send + Sync>;

impl Leadership {
    /// A leadership until the deadline, a time of the boot clock. `renewal` moves the deadline; zero ends it.
    pub(super) fn new(
        epoch: u64,
        clock: Arc<dyn Clock>,
        deadline: watch::Sender<Duration>,
        store: Arc<dyn Store>,
        release: Release,
        renewal: Option<AbortOnDropHandle<()>>,
    ) -> Self {
        let tenure = Tenure { epoch, deadline: deadline.subscribe(), clock };
        Self { tenure, deadline, store, release: Some(release), renewal }
    }

    /// How long it lasts.
    pub fn tenure(&self) -> &Tenure {
        &self.tenure
    }

    /// Returns when it is over.
    pub async fn ended(&self) {
        self.tenure.ended().await;
    }

    /// The store for the leader's writes: etcd refuses them with [`Error::Deposed`] when the leadership is over.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Ends it, so that another operator can lead at once. An error means that the others wait for the end of the lease.
    pub async fn release(mut self) -> Result<(), Error> {
        self.end();
        match self.release.take() {
            Some(release) => release().await,
            None => Ok(()),
        }
    }

    fn end(&mut self) {
        self.renewal = None;
        self.deadline.send_replace(Duration::ZERO);
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        self.end();
    }
}

impl std::fmt::Debug for Leadership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leadership").field("tenure", &self.tenure).finish_non_exhaustive()
    }
}

/// The leadership of the only operator of a store. SQLite's lock on its file lets no second one in.
pub struct SoleLeader {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    /// 0 over a store whose objects never came from another one: then nothing is said.
    epoch: u64,
    holder: watch::Sender<Option<Candidate>>,
}

impl SoleLeader {
    /// Leadership over a store of one process, of this generation.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, generation: u64) -> Self {
        Self { store, clock, epoch: epoch(generation, 0), holder: watch::Sender::new(None) }
    }
}

#[async_trait::async_trait]
impl Leases for SoleLeader {
    async fn acquire(&self, who: &Candidate) -> Result<Option<Leadership>, Error> {
        let is_free = self.holder.send_if_modified(|holder| {
            let is_free = holder.is_none();
            if is_free {
                *holder = Some(who.clone());
            }
            is_free
        });
        if !is_free {
            return Ok(None);
        }
        let holder = self.holder.clone();
        let release: Release = Box::new(move || {
            holder.send_replace(None);
            Box::pin(async { Ok(()) })
        });
        let deadline = watch::Sender::new(Duration::MAX);
        Ok(Some(Leadership::new(self.epoch, self.clock.clone(), deadline, self.store.clone(), release, None)))
    }

    async fn leader(&self) -> Result<Option<Leader>, Error> {
        Ok(self.holder.borrow().clone().map(|who| Leader { who, epoch: self.epoch }))
    }

    async fn vacant(&self) -> Result<(), Error> {
        // It cannot fail while this value has the sender.
        let _ = self.holder.subscribe().wait_for(Option::is_none).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::FutureExt as _;

    use super::*;
    use crate::store::MemoryStore;

    /// A boot clock that tests set.
    struct Hand(watch::Sender<Duration>);

    impl Clock for Hand {
        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }
        fn boot(&self) -> Duration {
            *self.0.borrow()
        }
        fn random(&self) -> u64 {
            0
        }
    }

    fn hand(seconds: u64) -> Arc<Hand> {
        Arc::new(Hand(watch::Sender::new(Duration::from_secs(seconds))))
    }

    fn who(node: &str) -> Candidate {
        Candidate { node: node.to_owned(), address: format!("{node}:7443") }
    }

    #[tokio::test]
    async fn the_only_operator_leads_until_it_releases() {
        let leases = SoleLeader::new(Arc::new(MemoryStore::new()), hand(0), 0);
        assert_eq!((leases.leader().await.unwrap(), leases.vacant().now_or_never().is_some()), (None, true));
        let held = leases.acquire(&who("a")).await.unwrap().unwrap();
        assert_eq!(leases.leader().await.unwrap(), Some(Leader { who: who("a"), epoch: 0 }));
        assert!(leases.acquire(&who("b")).await.unwrap().is_none());
        assert!(leases.vacant().now_or_never().is_none() && held.ended().now_or_never().is_none());
        let tenure = held.tenure().clone();
        assert!(tenure.leads());
        held.release().await.unwrap();
        assert!(!tenure.leads() && tenure.ended().now_or_never().is_some());
        leases.vacant().await.unwrap();
        assert!(leases.acquire(&who("b")).await.unwrap().is_some());
    }

    /// The clock jumps over the deadline, as after a suspend: the tenure is over before any timer fires.
    #[tokio::test(start_paused = true)]
    async fn a_tenure_is_over_at_its_deadline_by_the_boot_clock() {
        let clock = hand(10);
        let deadline = watch::Sender::new(Duration::from_secs(12));
        let tenure = Tenure { epoch: 7, deadline: deadline.subscribe(), clock: clock.clone() };
        assert_eq!((tenure.leads(), tenure.left()), (true, Duration::from_secs(2)));
        deadline.send_replace(Duration::from_secs(13));
        assert_eq!(tenure.left(), Duration::from_secs(3));
        clock.0.send_replace(Duration::from_secs(13));
        assert!(!tenure.leads());
        tenure.ended().await;
    }

    /// Regression 476: supervisors that had heard an operator over etcd refused a single one for ever: it had no epoch.
    #[tokio::test]
    async fn the_only_operator_has_an_epoch_when_its_objects_came_from_another_store() {
        let leases = SoleLeader::new(Arc::new(MemoryStore::new()), hand(0), 3);
        assert_eq!(leases.acquire(&who("a")).await.unwrap().unwrap().tenure().epoch(), epoch(3, 0));
    }

    #[tokio::test]
    async fn a_leadership_that_is_dropped_leads_no_more() {
        let leases = SoleLeader::new(Arc::new(MemoryStore::new()), hand(0), 0);
        let held = leases.acquire(&who("a")).await.unwrap().unwrap();
        let tenure = held.tenure().clone();
        drop(held);
        assert!(!tenure.leads());
    }
}
