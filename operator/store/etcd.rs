//! The store on etcd: several operators over one cluster of members. Every read asks a majority, so that none is stale; only for
//! people who look while there is none, one member may answer ([`Store::replica`]).
//!
//! No cache: what an operator decides by must be true for the whole cluster, and only a linearizable read is. Lists that are asked
//! for at the same moment are read once (`together.rs`), and readers that watch the same objects share one watch of etcd
//! (`tails.rs`). `owned_by` reads marks (`!owners/UID/…`), which are written in the same transaction as the object that names the
//! owner.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;

use super::events::EVENTS;
use super::seal::{SEALED, key_id};
use super::{Clock, Error, Expect, Key, Listed, Seal, Store, Watch, revision_of, rules, stamp};
use crate::api::sync::lock;

mod administrator;
mod apart;
mod cluster;
mod compaction;
mod failures;
mod feed;
mod generation;
mod layout;
mod leadership;
mod members;
mod nodes;
mod passing;
mod reads;
mod tail;
mod tails;
mod together;
mod versions;

pub use administrator::{Administrator, EtcdAdministrator};
pub use cluster::{ChangeError, EtcdCluster, version_problem};
pub use compaction::Turn;
use failures::{Failure, Kind};
pub use generation::Closed;
use layout::{Layout, Span};
pub use leadership::EtcdLeases;
pub use members::EtcdTls;
use members::{Members, Repeat, Services};
pub use nodes::{AnnounceError, EtcdNodes};
use passing::Passing;
use tails::Tails;
use together::Together;

/// Largest object, as it is stored: a request to etcd may have 1.5 MiB, with the keys and conditions of the transaction.
const LARGEST: usize = 1_500_000;
/// Most owners of an object: a transaction of etcd may have 128 operations.
const OWNERS: usize = 100;
/// Owned objects that are read at once.
const AT_ONCE: usize = 16;

/// The address of a cluster of etcd, and how to speak with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EtcdConfig {
    /// Addresses of the members, such as `https://10.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// What all keys begin with; two installations in one etcd have different ones.
    pub prefix: String,
    /// Files of mutual TLS; `None`: plain connections, for loopback.
    pub tls: Option<EtcdTls>,
    /// Evenkeel manages it: the files of TLS are those of each node.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub managed: bool,
}

impl EtcdConfig {
    /// The prefix of an installation that has an etcd of its own.
    pub const PREFIX: &str = "/evenkeel";
}

/// A [`Store`] on etcd. Open it with [`EtcdStore::open`]. Cheap to clone.
#[derive(Clone)]
pub struct EtcdStore {
    shared: Arc<Shared>,
    /// The leadership that this value writes for.
    fence: Option<Fence>,
    /// Any member may answer a read by itself, with what it has. Then nothing is written.
    by_one: bool,
}

/// A leadership: the revision that the leader's key was made at, and its epoch.
#[derive(Debug, Clone, Copy)]
struct Fence {
    revision: u64,
    epoch: u64,
}

struct Shared {
    members: Arc<Members>,
    layout: Layout,
    seal: Seal,
    clock: Arc<dyn Clock>,
    passing: Passing,
    together: Arc<Together>,
    tails: Tails,
    /// When a majority has last answered a read, by the boot clock.
    heard: Mutex<Duration>,
    /// The probe of the members, and compaction.
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl EtcdStore {
    /// Opens the store in a cluster. Secrets are sealed with these keys. It needs one member that answers, not a quorum.
    /// Refuses versions of etcd that lose writes.
    pub async fn open(config: &EtcdConfig, seal: Seal, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let members = Members::new(&config.endpoints, config.tls.clone()).await?;
        members.check_versions().await?;
        let layout = Layout::new(&config.prefix);
        let probe = Members::probe(Arc::downgrade(&members), layout.nothing().start);
        let compaction = compaction::run(Arc::downgrade(&members), layout.compaction());
        let tasks = [tokio::spawn(probe), tokio::spawn(compaction)].map(AbortOnDropHandle::new);
        let heard = Mutex::new(clock.boot());
        let (passing, together, tails) = (Passing::default(), Arc::default(), Tails::default());
        let shared = Shared { members, layout, seal, clock, passing, together, tails, heard, _tasks: tasks };
        Ok(Self { shared: Arc::new(shared), fence: None, by_one: false })
    }

    /// The way to leadership over this store.
    pub fn leases(&self) -> EtcdLeases {
        EtcdLeases::new(self.clone())
    }

    /// Takes a turn at compacting: forgets what is older than the turn before, unless another operator does. The store does
    /// it by itself every ten minutes.
    pub async fn take_turn(&self, last: Turn) -> Result<Turn, Error> {
        match compaction::take(&self.shared.members, &self.shared.layout.compaction(), last).await {
            Ok(turn) => Ok(turn),
            Err(failure) => Err(self.explained("compacting", failure).await),
        }
    }

    /// Seals everything with the first key that is not yet; returns how much that was. When all operators have this key, or none
    /// runs.
    pub async fn reseal(&self) -> Result<usize, Error> {
        let (prefix, mut sealed) = (self.shared.seal.prefix(), 0);
        for (key, kv) in self.sealable().await?.iter().filter(|(_, kv)| !kv.value().starts_with(prefix.as_bytes())) {
            let text = self.shared.seal.renewed(key, stored_text(key, kv)?)?;
            let is_same = Compare::mod_revision(kv.key(), CompareOp::Equal, kv.mod_revision());
            match self.transact(kv.key(), is_same, vec![TxnOp::put(kv.key(), text, None)]).await {
                // One that was written meanwhile is sealed by that.
                Ok(outcome) => sealed += usize::from(outcome.is_ok()),
                Err(Failed::Store(error)) => return Err(error),
                Err(Failed::Call(failure)) => return Err(self.explained("sealing a Secret", failure).await),
            }
        }
        Ok(sealed)
    }

    /// How many values each key seals, by its id; of those that are not sealed, the id is empty.
    pub async fn sealed(&self) -> Result<BTreeMap<String, u64>, Error> {
        let mut counts = BTreeMap::new();
        for (key, kv) in self.sealable().await? {
            *counts.entry(key_id(stored_text(&key, &kv)?).unwrap_or_default().to_owned()).or_default() += 1u64;
        }
        Ok(counts)
    }

    /// What is sealed, or should be, as it is stored: the Secrets, and the administrator's token.
    async fn sealable(&self) -> Result<Vec<(Key, KeyValue)>, Error> {
        let (secrets, _) = self.range(&self.shared.layout.of(SEALED, None), None).await?;
        let own = self.shared.layout.administrator();
        let (token, _) = self.range(&Span { end: layout::next(&own), start: own }, None).await?;
        let secrets = secrets.into_iter().filter_map(|kv| Some((self.shared.layout.parse(kv.key())?, kv)));
        Ok(secrets.chain(token.into_iter().map(|kv| (administrator::name(), kv))).collect())
    }

    /// The same store, whose writes are refused with [`Error::Deposed`] unless this leadership goes on.
    fn fenced(&self, fence: Fence) -> Self {
        Self { shared: self.shared.clone(), fence: Some(fence), by_one: false }
    }

    async fn explained(&self, doing: &'static str, failure: Failure) -> Error {
        self.shared.members.explained(doing, failure).await
    }

    /// Performs `writes` if the conditions and the fence hold. Returns the new revision, or, if they do not hold, the
    /// revision that the object has (`None`: it does not exist).
    async fn transact(
        &self,
        at: &[u8],
        condition: Compare,
        writes: Vec<TxnOp>,
    ) -> Result<Result<u64, Option<u64>>, Failed> {
        if self.by_one {
            return Err(Failed::Store(Error::Setup { problem: "what one member has is only to be read".to_owned() }));
        }
        let leader = self.shared.layout.leader();
        let mut conditions = vec![condition];
        conditions.extend(
            self.fence.map(|fence| Compare::create_revision(leader.clone(), CompareOp::Equal, signed(fence.revision))),
        );
        let look = |key: &[u8]| TxnOp::get(key, Some(GetOptions::new().with_keys_only()));
        let txn = Txn::new().when(conditions).and_then(writes).or_else(vec![look(at), look(&leader)]);
        let request = |mut services: Services| {
            let txn = txn.clone();
            async move { services.kv.txn(txn).await }
        };
        let answer = self.shared.members.call(Repeat::IfUnsent, request).await.map_err(Failed::Call)?;
        if answer.succeeded() {
            return Ok(Ok(answer.header().map_or(0, |header| unsigned(header.revision()))));
        }
        let mut seen = answer.op_responses().into_iter().map(|response| match response {
            TxnOpResponse::Get(found) => found.kvs().first().cloned(),
            _ => None,
        });
        let (object, leader) = (seen.next().flatten(), seen.next().flatten());
        if let Some(fence) = self.fence
            && leader.is_none_or(|leader| unsigned(leader.create_revision()) != fence.revision)
        {
            return Err(Failed::Store(Error::Deposed { epoch: fence.epoch }));
        }
        Ok(Err(object.map(|object| unsigned(object.mod_revision()))))
    }

    /// The operations that write a value and the marks of its owners.
    fn writes(&self, key: &Key, at: &[u8], text: String, owners: &[String], lease: Option<i64>) -> Vec<TxnOp> {
        let options = lease.map(|lease| PutOptions::new().with_lease(lease));
        let marks = owners.iter().map(|owner| {
            let mark = self.shared.layout.mark(owner, key);
            let options = lease.map(|lease| PutOptions::new().with_lease(lease));
            let is_new = Compare::create_revision(mark.clone(), CompareOp::Equal, 0);
            // Written once, and not with every write of the object.
            TxnOp::txn(Txn::new().when(vec![is_new]).and_then(vec![TxnOp::put(mark, "", options)]))
        });
        std::iter::once(TxnOp::put(at, text, options)).chain(marks).collect()
    }
}

/// Why a transaction was not performed.
enum Failed {
    Call(Failure),
    Store(Error),
}

impl Shared {
    /// The object in a key; `None`: the key has none.
    fn object(&self, kv: &KeyValue) -> Result<Option<(Key, Value)>, Error> {
        let Some(key) = self.layout.parse(kv.key()) else { return Ok(None) };
        let text = self.seal.open(&key, stored_text(&key, kv)?)?;
        let value = serde_json::from_str(&text).map_err(|error| unreadable(&key, &error))?;
        let value = stamp(&key, value, unsigned(kv.mod_revision()))?;
        Ok(Some((key, value)))
    }
}

#[async_trait::async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &Key) -> Result<Option<Value>, Error> {
        let at = self.shared.layout.object(key)?;
        let request = |mut services: Services| {
            let (at, options) = (at.clone(), self.options());
            async move { services.kv.get(at, Some(options)).await }
        };
        let found = self.read("reading", request).await?;
        let object = found.kvs().first().map(|kv| self.shared.object(kv)).transpose()?;
        Ok(object.flatten().map(|(_, value)| value))
    }

    async fn list_at(&self, resources: &[&str], namespace: Option<&str>, at: Option<u64>) -> Result<Listed, Error> {
        let mut resources: Vec<String> = resources.iter().map(|resource| (*resource).to_owned()).collect();
        resources.sort_unstable();
        resources.dedup();
        // An operator that leads waits for nobody else's list.
        if at.is_some() || self.by_one || self.fence.is_some() {
            return self.list_alone(&resources, namespace, at).await;
        }
        let asked = (resources, namespace.map(str::to_owned));
        let read = || {
            let (store, (resources, namespace)) = (self.clone(), asked.clone());
            async move { store.list_alone(&resources, namespace.as_deref(), None).await }
        };
        self.shared.together.list(asked.clone(), read).await
    }

    async fn owned_by(&self, uid: &str) -> Result<Vec<(Key, Value)>, Error> {
        let (marks, _) = self.range(&self.shared.layout.owned(uid), None).await?;
        let keys = marks.iter().filter_map(|mark| self.shared.layout.marked(uid, mark.key()));
        let read = |key: Key| async move { Ok::<_, Error>((self.get(&key).await?, key)) };
        let objects: Vec<_> = stream::iter(keys.collect::<Vec<_>>()).map(read).buffered(AT_ONCE).try_collect().await?;
        // The mark of an owner that is not named any more stays: the object itself says who its owners are.
        let owned = objects.into_iter().filter_map(|(value, key)| Some((key, value?)));
        let mut owned: Vec<_> = owned.filter(|(_, value)| rules::owners(value).contains(&uid)).collect();
        owned.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(owned)
    }

    async fn put(&self, key: &Key, expect: Expect, value: Value) -> Result<Value, Error> {
        let malformed = |problem: String| Error::Malformed { key: key.clone(), problem };
        // The revision is not known yet; it is added when the object is read.
        let mut value = stamp(key, value, 0)?;
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("resourceVersion");
        }
        let at = self.shared.layout.object(key)?;
        let text = self.shared.seal.seal(key, value.to_string());
        if text.len() > LARGEST {
            let problem = format!("it has {} bytes; the store holds objects of up to {LARGEST} bytes", text.len());
            return Err(malformed(problem));
        }
        let mut owners: Vec<String> = rules::owners(&value).into_iter().map(str::to_owned).collect();
        owners.sort_unstable();
        owners.dedup();
        if owners.len() > OWNERS {
            return Err(malformed(format!(
                "it has {} owners; the store holds objects with up to {OWNERS}",
                owners.len()
            )));
        }
        // To etcd a revision of 0 means that there is no such key.
        if expect == Expect::Revision(0) {
            return Err(refused(key, expect, self.get(key).await?.as_ref().and_then(revision_of)));
        }
        let mut attempts = 0;
        let outcome = loop {
            attempts += 1;
            let lease = match key.resource == EVENTS {
                true => Some(self.shared.passing.lease(&self.shared.members, &*self.shared.clock).await?),
                false => None,
            };
            let condition = match expect {
                Expect::Absent => Compare::create_revision(at.clone(), CompareOp::Equal, 0),
                Expect::Revision(expected) => Compare::mod_revision(at.clone(), CompareOp::Equal, signed(expected)),
            };
            let writes = self.writes(key, &at, text.clone(), &owners, lease);
            match self.transact(&at, condition, writes).await {
                Err(Failed::Call(failure)) if failure.kind == Kind::LeaseGone && attempts == 1 => {
                    self.shared.passing.forget();
                }
                outcome => break outcome,
            }
        };
        match outcome {
            Ok(Ok(revision)) => stamp(key, value, revision),
            Ok(Err(found)) => Err(refused(key, expect, found)),
            Err(Failed::Store(error)) => Err(error),
            Err(Failed::Call(failure)) if failure.kind == Kind::TooLarge => {
                Err(malformed("etcd refuses it as too large".to_owned()))
            }
            Err(Failed::Call(failure)) => Err(self.explained("writing", failure).await),
        }
    }

    async fn delete(&self, key: &Key, revision: u64) -> Result<Value, Error> {
        let expect = Expect::Revision(revision);
        let old = self.get(key).await?;
        let (at, found) = (self.shared.layout.object(key)?, old.as_ref().and_then(revision_of));
        let Some(old) = old.filter(|_| found == Some(revision)) else { return Err(refused(key, expect, found)) };
        let mut writes = vec![TxnOp::delete(at.clone(), None)];
        let mut marks: Vec<_> = rules::owners(&old).iter().map(|owner| self.shared.layout.mark(owner, key)).collect();
        marks.sort_unstable();
        marks.dedup();
        writes.extend(marks.into_iter().map(|mark| TxnOp::delete(mark, None)));
        let condition = Compare::mod_revision(at.clone(), CompareOp::Equal, signed(revision));
        match self.transact(&at, condition, writes).await {
            Ok(Ok(revision)) => stamp(key, old, revision),
            Ok(Err(found)) => Err(refused(key, expect, found)),
            Err(Failed::Store(error)) => Err(error),
            Err(Failed::Call(failure)) => Err(self.explained("deleting", failure).await),
        }
    }

    async fn watch_of(&self, resources: &[&str], namespace: Option<&str>, since: u64) -> Result<Watch, Error> {
        self.check_since(since).await?;
        let resources = resources.iter().map(|&resource| resource.to_owned()).collect();
        Ok(tails::start(&self.shared, (resources, namespace.map(str::to_owned)), since))
    }

    async fn revision(&self) -> Result<u64, Error> {
        let key = self.shared.layout.nothing().start;
        let request = |mut services: Services| {
            let (key, options) = (key.clone(), self.options());
            async move { services.kv.get(key, Some(options)).await }
        };
        let answer = self.read("reading the revision", request).await?;
        Ok(answer.header().map_or(0, |header| unsigned(header.revision())))
    }

    async fn all(&self) -> Result<Vec<(Key, Arc<Value>)>, Error> {
        let (found, _) = self.range(&self.shared.layout.objects(), None).await?;
        let mut objects = Vec::with_capacity(found.len());
        for kv in &found {
            objects.extend(self.shared.object(kv)?.map(|(key, value)| (key, Arc::new(value))));
        }
        objects.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(objects)
    }

    async fn generation(&self) -> Result<u64, Error> {
        self.origin().await?.0.open()
    }

    async fn compact(&self, through: u64) -> Result<(), Error> {
        let through = through.min(self.revision().await?);
        match compaction::compact(&self.shared.members, through).await {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.explained("compacting", failure).await),
        }
    }

    fn replica(&self) -> Option<(Arc<dyn Store>, Duration)> {
        let one = Self { shared: self.shared.clone(), fence: None, by_one: true };
        Some((Arc::new(one), self.shared.clock.boot().saturating_sub(*lock(&self.shared.heard))))
    }
}

fn stored_text<'a>(key: &Key, kv: &'a KeyValue) -> Result<&'a str, Error> {
    std::str::from_utf8(kv.value()).map_err(|error| unreadable(key, &error))
}

fn unreadable(key: &Key, error: &dyn std::error::Error) -> Error {
    Error::Backend { doing: "understanding a stored object", source: format!("{key}: {error}").into() }
}

/// Why a write was not performed whose condition did not hold.
fn refused(key: &Key, expect: Expect, found: Option<u64>) -> Error {
    let key = key.clone();
    match (expect, found) {
        (Expect::Absent, _) => Error::AlreadyExists { key },
        (Expect::Revision(_), None) => Error::NotFound { key },
        (Expect::Revision(expected), found) => Error::Conflict { key, expected, found },
    }
}

/// A revision in etcd's type; a larger one becomes the largest.
fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

/// A revision of etcd; they count up from 1.
fn unsigned(revision: i64) -> u64 {
    revision.unsigned_abs()
}
