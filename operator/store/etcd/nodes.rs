//! The operators that run, as each tells the others: a key for each node under a lease of its own.

use std::time::Duration;

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse};
use tokio::time::{sleep, timeout};

use super::EtcdStore;
use super::failures::{Failure, Kind};
use super::members::{Repeat, Services};
use crate::api::cluster::NodeInfo;
use crate::store::Error;

/// How long a node that is silent is still known, in seconds.
const TTL: i64 = 10;
/// Interval of renewals.
const RENEWAL: Duration = Duration::from_secs(3);
/// Limit of a renewal.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a name is waited for: longer than a killed operator keeps it.
const PATIENCE: Duration = Duration::from_secs(13);
/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// The operators that run. Get it with [`EtcdStore::nodes`].
#[derive(Clone)]
pub struct EtcdNodes {
    store: EtcdStore,
}

/// Why a node is not known to the others.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// Another operator has the name.
    #[error(
        "an operator runs on a node called {:?} already (its API is at {}); start this one with another --node",
        other.name,
        other.address
    )]
    Taken {
        /// That one.
        other: NodeInfo,
    },
    /// The store does not answer.
    #[error(transparent)]
    Store(#[from] Error),
}

impl EtcdStore {
    /// The operators that run over this store.
    pub fn nodes(&self) -> EtcdNodes {
        EtcdNodes { store: self.clone() }
    }
}

impl EtcdNodes {
    /// The operators that run, by name.
    pub async fn list(&self) -> Result<Vec<NodeInfo>, Error> {
        let (found, _) = self.store.range(&self.store.shared.layout.nodes(), None).await?;
        Ok(found.iter().filter_map(|kv| serde_json::from_slice(kv.value()).ok()).collect())
    }

    /// Takes the name of this node, and returns the lease that it is kept under. Waits for a moment if another operator has it,
    /// which may have just ended.
    pub async fn announce(&self, me: &NodeInfo) -> Result<i64, AnnounceError> {
        let clock = &self.store.shared.clock;
        let patience = clock.boot() + PATIENCE;
        loop {
            match self.claim(me).await? {
                Ok(lease) => return Ok(lease),
                Err(other) if clock.boot() >= patience => return Err(AnnounceError::Taken { other }),
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    /// Keeps the name for ever, also when the store was away for long. Ends only if another operator has it.
    pub async fn keep(&self, me: &NodeInfo, mut lease: Option<i64>) -> AnnounceError {
        loop {
            let held = match lease {
                Some(held) => held,
                None => match self.announce(me).await {
                    Ok(held) => held,
                    Err(AnnounceError::Store(error)) => {
                        tracing::debug!(%error, "the other operators do not know of this one; trying again");
                        sleep(RENEWAL).await;
                        continue;
                    }
                    Err(taken) => return taken,
                },
            };
            sleep(RENEWAL).await;
            lease = (!self.is_gone(held).await).then_some(held);
        }
    }

    /// Gives the name of a node back.
    pub async fn leave(&self, name: &str) {
        let key = self.store.shared.layout.node(name);
        let request = |mut services: Services| {
            let key = key.clone();
            async move { services.kv.delete(key, None).await }
        };
        // Without an answer it is forgotten after some seconds.
        let _ = timeout(ANSWER, self.store.shared.members.call(Repeat::Harmless, request)).await;
    }

    /// Renews a lease; whether etcd says that it is gone.
    async fn is_gone(&self, lease: i64) -> bool {
        let (_, mut services, _) = self.store.shared.members.streams();
        match timeout(ANSWER, services.lease.keep_alive(lease)).await {
            Ok(Err(error)) => Failure::from(error).kind == Kind::LeaseGone,
            Ok(Ok(_)) | Err(_) => false,
        }
    }

    /// Writes the key of this node if nobody else has it: the lease, or who has it.
    async fn claim(&self, me: &NodeInfo) -> Result<Result<i64, NodeInfo>, Error> {
        let (key, members) = (self.store.shared.layout.node(&me.name), &self.store.shared.members);
        let request = |mut services: Services| async move { services.lease.grant(TTL, None).await };
        let lease = match members.call(Repeat::Harmless, request).await {
            Ok(granted) => granted.id(),
            Err(failure) => return Err(self.store.explained("announcing this node", failure).await),
        };
        let mut seen = 0;
        loop {
            let write =
                TxnOp::put(key.clone(), serde_json::json!(me).to_string(), Some(PutOptions::new().with_lease(lease)));
            let as_seen = Compare::mod_revision(key.clone(), CompareOp::Equal, seen);
            let txn = Txn::new().when(vec![as_seen]).and_then(vec![write]).or_else(vec![TxnOp::get(key.clone(), None)]);
            let request = |mut services: Services| {
                let txn = txn.clone();
                async move { services.kv.txn(txn).await }
            };
            let answer = match members.call(Repeat::Harmless, request).await {
                Ok(answer) => answer,
                Err(failure) => return Err(self.store.explained("announcing this node", failure).await),
            };
            if answer.succeeded() {
                return Ok(Ok(lease));
            }
            let found = answer.op_responses().into_iter().find_map(|response| match response {
                TxnOpResponse::Get(found) => found.kvs().first().cloned(),
                _ => None,
            });
            let Some(found) = found else {
                seen = 0;
                continue;
            };
            // One at the same address was this operator itself, before it was killed. What nobody can read is replaced.
            match serde_json::from_slice::<NodeInfo>(found.value()) {
                Ok(other) if other.address != me.address => return Ok(Err(other)),
                _ => seen = found.mod_revision(),
            }
        }
    }
}
