//! Leadership on etcd: one key under a lease, renewed often, with a deadline of its own that is earlier than etcd's.
//!
//! Only two things end a leadership: its deadline, and etcd's word that the lease or the key is gone. An error says nothing.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, PutOptions, Txn, TxnOp};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::failures::{Failure, Kind};
use super::feed::Feed;
use super::layout::{Span, next};
use super::members::{Members, Repeat, Services};
use super::{EtcdStore, Fence, apart, signed, unsigned};
use crate::store::generation::epoch;
use crate::store::leases::{Candidate, Leader, Leadership, Leases, Release};
use crate::store::{Clock, Error};

/// How long etcd keeps the lease of an operator that is silent, in seconds.
const TTL: i64 = 2;
/// How much earlier the operator itself stops.
const MARGIN: Duration = Duration::from_millis(300);
/// Pause before a renewal is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// Leadership over the store on etcd. Get it with [`EtcdStore::leases`].
#[derive(Clone)]
pub struct EtcdLeases {
    store: EtcdStore,
}

impl EtcdLeases {
    pub(super) fn new(store: EtcdStore) -> Self {
        Self { store }
    }

    fn members(&self) -> &Arc<Members> {
        &self.store.shared.members
    }

    fn clock(&self) -> &Arc<dyn Clock> {
        &self.store.shared.clock
    }

    /// The leader's key as it is now, and the revision of this look.
    async fn key(&self) -> Result<(Option<KeyValue>, u64), Error> {
        let key = self.store.shared.layout.leader();
        let request = |mut services: Services| {
            let key = key.clone();
            async move { services.kv.get(key, None).await }
        };
        let found = self.store.read("asking who leads", request).await?;
        let revision = found.header().map_or(0, |header| unsigned(header.revision()));
        Ok((found.kvs().first().cloned(), revision))
    }

    /// Writes the leader's key under this lease if there is none, and the key of the generation is as it was seen. Returns the
    /// revision, or `None`: another one was faster.
    async fn write(&self, lease: i64, who: &Candidate, seen: u64) -> Result<Option<u64>, Failure> {
        let key = self.store.shared.layout.leader();
        let value = serde_json::json!(who).to_string();
        let is_free = Compare::create_revision(key.clone(), CompareOp::Equal, 0);
        let write = TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)));
        let is_seen = Compare::mod_revision(self.store.shared.layout.generation(), CompareOp::Equal, signed(seen));
        let txn = Txn::new().when(vec![is_free, is_seen]).and_then(vec![write]);
        let request = |mut services: Services| {
            let txn = txn.clone();
            async move { services.kv.txn(txn).await }
        };
        let answer = self.members().call(Repeat::IfUnsent, request).await?;
        let revision = answer.header().map_or(0, |header| unsigned(header.revision()));
        Ok(answer.succeeded().then_some(revision))
    }
}

#[async_trait::async_trait]
impl Leases for EtcdLeases {
    async fn acquire(&self, who: &Candidate) -> Result<Option<Leadership>, Error> {
        if self.key().await?.0.is_some() {
            return Ok(None);
        }
        let (origin, seen) = self.store.origin().await?;
        let generation = origin.open()?;
        let asked = self.clock().boot();
        let request = |mut services: Services| async move { services.lease.grant(TTL, None).await };
        // A lease that nobody keeps is gone after two seconds.
        let granted = match self.members().call(Repeat::Harmless, request).await {
            Ok(granted) => granted,
            Err(failure) => return Err(self.store.explained("asking for the lease of the leader", failure).await),
        };
        let revision = match self.write(granted.id(), who, seen).await {
            Ok(Some(revision)) => revision,
            refused => {
                // The key may be written although the answer did not come.
                let given_back = revoke(self.members(), granted.id()).await;
                return match refused {
                    Err(failure) => Err(self.store.explained("becoming the leader", failure).await),
                    Ok(_) => given_back.map(|()| None).or(Ok(None)),
                };
            }
        };
        let deadline = watch::Sender::new(until(asked, granted.ttl()));
        let renewal = Renewal {
            members: self.members().clone(),
            clock: self.clock().clone(),
            lease: granted.id(),
            key: self.store.shared.layout.leader(),
            revision,
            seconds: granted.ttl(),
            deadline: deadline.clone(),
        };
        let (cluster, address) = (self.store.cluster(), who.address.clone());
        let renewal = AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::select! {
                biased;
                () = renewal.run() => {}
                () = apart::keep(&cluster, &address) => {}
            }
        }));
        let (members, lease) = (self.members().clone(), granted.id());
        let release: Release = Box::new(move || {
            Box::pin(async move {
                match revoke(&members, lease).await {
                    Ok(()) => Ok(()),
                    Err(failure) => Err(members.explained("giving the lease of the leader back", failure).await),
                }
            })
        });
        let epoch = epoch(generation, revision);
        let store = Arc::new(self.store.fenced(Fence { revision, epoch }));
        Ok(Some(Leadership::new(epoch, self.clock().clone(), deadline, store, release, Some(renewal))))
    }

    async fn leader(&self) -> Result<Option<Leader>, Error> {
        let Some(kv) = self.key().await?.0 else { return Ok(None) };
        let who = serde_json::from_slice(kv.value())
            .map_err(|source| Error::Backend { doing: "reading who leads", source: Box::new(source) })?;
        let (origin, _) = self.store.origin().await?;
        Ok(Some(Leader { who, epoch: epoch(origin.generation, unsigned(kv.create_revision())) }))
    }

    async fn vacant(&self) -> Result<(), Error> {
        loop {
            let (found, revision) = self.key().await?;
            let Some(found) = found else { return Ok(()) };
            let start = found.key().to_vec();
            let span = Span { end: next(&start), start };
            let mut feed = Feed::new(self.members().clone(), span, revision);
            loop {
                match feed.next().await {
                    Ok(event) if event.new.is_none() => return Ok(()),
                    Ok(_) => {}
                    // Look again.
                    Err(Error::Compacted { .. }) => break,
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

/// What keeps the lease of a leader.
struct Renewal {
    members: Arc<Members>,
    clock: Arc<dyn Clock>,
    lease: i64,
    /// The leader's key, and the revision that it was made at while this operator leads.
    key: Vec<u8>,
    revision: u64,
    /// How long etcd keeps it after a renewal.
    seconds: i64,
    deadline: watch::Sender<Duration>,
}

impl Renewal {
    /// Renews until the deadline is missed or the lease is gone. A deadline that was missed never comes back.
    async fn run(self) {
        let ttl = Duration::from_secs(self.seconds.unsigned_abs());
        loop {
            tokio::time::sleep(ttl / 4).await;
            loop {
                let sent = self.clock.boot();
                let left = self.deadline.borrow().saturating_sub(sent);
                if left.is_zero() {
                    return self.end("its deadline has passed").await;
                }
                match self.renew(left.min(ttl / 3)).await {
                    Ok(true) => {
                        // An answer after the deadline comes too late: somebody may have stopped already.
                        if self.clock.boot() < *self.deadline.borrow() {
                            self.deadline.send_replace(until(sent, self.seconds));
                        }
                        break;
                    }
                    Ok(false) => return self.end("etcd has ended it").await,
                    Err(failure) => {
                        tracing::debug!(error = %failure.cause, "the lease of the leader was not renewed; trying again");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    /// Asks one member to renew the lease, and whether the key is still this leader's. `false`: one of them is gone.
    async fn renew(&self, patience: Duration) -> Result<bool, Failure> {
        let (member, mut services, _) = self.members.streams();
        let asked = async {
            services.lease.keep_alive(self.lease).await?;
            // A leader of etcd that is cut off renews leases for two more seconds. It does not answer this read.
            services.kv.get(self.key.clone(), Some(GetOptions::new().with_keys_only())).await
        };
        let failure = match timeout(patience, asked).await {
            Ok(Ok(found)) => {
                return Ok(found.kvs().first().is_some_and(|kv| unsigned(kv.create_revision()) == self.revision));
            }
            Ok(Err(error)) => Failure::from(error),
            Err(_) => Failure::silence(),
        };
        if failure.kind == Kind::LeaseGone {
            return Ok(false);
        }
        self.members.leave(member).await;
        Err(failure)
    }

    async fn end(self, why: &str) {
        self.deadline.send_replace(Duration::ZERO);
        tracing::warn!("the lease of the leader is over: {why}");
        // The lease may live on a little; without it another operator leads at once.
        let _ = revoke(&self.members, self.lease).await;
    }
}

/// Gives a lease back; its keys are deleted.
async fn revoke(members: &Members, lease: i64) -> Result<(), Failure> {
    let request = |mut services: Services| async move { services.lease.revoke(lease).await };
    match members.call(Repeat::Harmless, request).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.kind == Kind::LeaseGone => Ok(()),
        Err(failure) => Err(failure),
    }
}

/// When an operator stops that asked for its lease at this time of the boot clock.
fn until(asked: Duration, seconds: i64) -> Duration {
    (asked + Duration::from_secs(seconds.unsigned_abs())).saturating_sub(MARGIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_stops_before_etcd_gives_its_lease_to_others() {
        assert_eq!(until(Duration::from_secs(10), 2), Duration::from_millis(11_700));
        assert_eq!(until(Duration::ZERO, 0), Duration::ZERO);
    }
}
