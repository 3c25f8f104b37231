//! Versioned objects: compare-and-set, list and watch. The only room with SQL for objects, and the only one with etcd.
//!
//! One revision grows with every write of every resource (on etcd also by other things); an object's
//! `metadata.resourceVersion` is the revision that wrote it. [`Store`] is the
//! raw contract (one suite, `tests/it/store_contract.rs`, runs on every
//! implementation); [`objects`] adds the Kubernetes rules on top.

pub mod clock;
pub mod etcd;
pub mod events;
mod garbage;
pub mod generation;
pub mod import;
pub mod keys;
pub mod leases;
pub mod memory;
pub mod objects;
mod patience;
pub mod private_file;
pub mod rules;
pub mod seal;
pub mod snapshots;
pub mod sqlite;
mod state;
pub mod views;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use serde_json::Value;

use crate::api::failure::{Class, Classify};
use crate::api::object::Object;

pub use clock::Clock;
pub use etcd::EtcdStore;
pub use keys::KeyFiles;
pub use leases::{Candidate, Leader, Leadership, Leases, SoleLeader, Tenure};
pub use memory::MemoryStore;
pub use objects::Objects;
pub use patience::patiently;
pub use seal::Seal;
pub use sqlite::SqliteStore;
pub use views::Views;

/// Default number of changes that are kept so that watches can resume: hours of a busy operator.
pub const WINDOW: u64 = 10_000;

/// Number of bytes of those changes, with the objects before and after. The oldest go first.
pub const WINDOW_BYTES: u64 = 256 << 20;

/// The key of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Lower-case plural with its group, as in a CRD's name: `postgresclusters.evenkeel.dev`, `secrets`.
    pub resource: String,
    /// Namespace; empty for cluster-scoped resources.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl Key {
    /// The key of an object in a namespace; that is empty for a cluster-scoped resource.
    pub fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Self { resource: resource.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The key of another object in the namespace of this one.
    pub fn beside(object: &impl Object, resource: &str, name: &str) -> Self {
        Self::new(resource, object.namespace(), name)
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.resource, self.name)
        } else {
            write!(f, "{}/{}/{}", self.resource, self.namespace, self.name)
        }
    }
}

/// What a write expects; otherwise it fails with [`Error::Conflict`] or [`Error::AlreadyExists`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// No object at this key.
    Absent,
    /// The object at exactly this revision.
    Revision(u64),
}

/// One change, in revision order. It has both sides because a selector may match only one of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The key that changed.
    pub key: Key,
    /// The revision of this change.
    pub revision: u64,
    /// The object before, at the revision it had then; `None` when it was created.
    pub old: Option<Arc<Value>>,
    /// The object after; `None` when it was deleted.
    pub new: Option<Arc<Value>>,
}

/// Objects of one snapshot, ordered by key, and its revision.
pub type Listed = (Vec<(Key, Arc<Value>)>, u64);

/// An endless stream of changes; ends with [`Error::Compacted`] if the reader falls behind the window.
pub type Watch = Pin<Box<dyn Stream<Item = Result<Change, Error>> + Send>>;

/// Versioned objects with compare-and-set, list and watch. A write that returned `Ok` survives a crash.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// The object at `key`, if any.
    async fn get(&self, key: &Key) -> Result<Option<Value>, Error>;
    /// All objects of a resource (of one namespace, if given), ordered by namespace and name,
    /// and the revision of this snapshot.
    async fn list(&self, resource: &str, namespace: Option<&str>) -> Result<(Vec<Arc<Value>>, u64), Error> {
        let (found, revision) = self.list_of(&[resource], namespace).await?;
        Ok((found.into_iter().map(|(_, value)| value).collect(), revision))
    }
    /// Like [`Store::list`], for several resources in one snapshot, ordered by key.
    async fn list_of(&self, resources: &[&str], namespace: Option<&str>) -> Result<Listed, Error> {
        self.list_at(resources, namespace, None).await
    }
    /// Like [`Store::list_of`], as it was at this revision; `None`: now. [`Error::Compacted`] if the revision is older
    /// than the window.
    async fn list_at(&self, resources: &[&str], namespace: Option<&str>, at: Option<u64>) -> Result<Listed, Error>;
    /// The objects of every resource whose owner references contain this uid, ordered by key. The cost depends on the
    /// number found, not on the size of the store.
    async fn owned_by(&self, uid: &str) -> Result<Vec<(Key, Value)>, Error>;
    /// Writes `value` with the new revision as `metadata.resourceVersion`, if `expect` holds. Returns the new value.
    /// A failure that is not about the object ([`Error::NoQuorum`], [`Error::Backend`]) leaves open whether it is written.
    async fn put(&self, key: &Key, expect: Expect, value: Value) -> Result<Value, Error>;
    /// Removes the object if it is at `revision`. Returns the last value; its `resourceVersion` is the
    /// revision of the deletion.
    async fn delete(&self, key: &Key, revision: u64) -> Result<Value, Error>;
    /// Every change of a resource strictly after `since`. [`Error::Compacted`] if `since` is older than the window.
    async fn watch(&self, resource: &str, namespace: Option<&str>, since: u64) -> Result<Watch, Error> {
        self.watch_of(&[resource], namespace, since).await
    }
    /// Like [`Store::watch`], for several resources, ordered by revision.
    async fn watch_of(&self, resources: &[&str], namespace: Option<&str>, since: u64) -> Result<Watch, Error>;
    /// A revision that has every write that was answered before: that of the last write, or a later one. A new SQLite
    /// store is at 0.
    async fn revision(&self) -> Result<u64, Error>;
    /// Every object of every resource, ordered by key: for the sweep and for copies. The cost grows with the
    /// size of the store.
    async fn all(&self) -> Result<Vec<(Key, Arc<Value>)>, Error>;
    /// How often the objects went over into another store before they came into this one.
    async fn generation(&self) -> Result<u64, Error> {
        Ok(0)
    }
    /// Drops the changes up to and including `through`; a watch from an earlier revision then fails with
    /// [`Error::Compacted`].
    async fn compact(&self, through: u64) -> Result<(), Error>;
    /// The store as one of its replicas has it, and how long ago a majority was last heard from: for people who look while there
    /// is no majority. Never to decide by. `None`: there is one replica only.
    fn replica(&self) -> Option<(Arc<dyn Store>, Duration)> {
        None
    }
}

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object is not at the expected revision.
    #[error("{key} was changed by someone else (expected resourceVersion {expected}, found {})", found.map_or("none".to_owned(), |r| r.to_string()))]
    Conflict {
        /// The object.
        key: Key,
        /// The revision that the writer had read.
        expected: u64,
        /// The current revision, `None` if the object is gone.
        found: Option<u64>,
    },
    /// A create found an existing object.
    #[error("{key} already exists")]
    AlreadyExists {
        /// The object.
        key: Key,
    },
    /// An update or delete found no object.
    #[error("{key} not found")]
    NotFound {
        /// The object.
        key: Key,
    },
    /// The object with this name is another one: the intended one was deleted and created again.
    #[error("{key} is another object now (expected uid {expected}, found {found})")]
    Replaced {
        /// The object.
        key: Key,
        /// The expected uid.
        expected: String,
        /// The uid found.
        found: String,
    },
    /// The requested revision is older than the watch window.
    #[error("resourceVersion {since} is too old; the oldest that can be watched from is {oldest}")]
    Compacted {
        /// The requested revision.
        since: u64,
        /// The oldest revision that can be requested.
        oldest: u64,
    },
    /// The requested revision does not exist yet.
    #[error("resourceVersion {since} is in the future; the newest is {newest}")]
    Future {
        /// The requested revision.
        since: u64,
        /// The newest revision.
        newest: u64,
    },
    /// The value is not an object that this store can hold.
    #[error("{key}: {problem}")]
    Malformed {
        /// The object.
        key: Key,
        /// The problem.
        problem: String,
    },
    /// The resource is a view of other objects and cannot be written.
    #[error("{key} cannot be written: {instead}")]
    View {
        /// The object.
        key: Key,
        /// What to do instead.
        instead: &'static str,
    },
    /// Another process has this store open.
    #[error("{} is in use by another evenkeel operator; stop that one first or choose another data folder", path.display())]
    InUse {
        /// The store's file.
        path: PathBuf,
    },
    /// A Secret is sealed with a key that the operator does not have.
    #[error(
        "{key} is sealed with the key {id}, and the operator has only: {known}; add that key to the key file (--encryption-key-file, else pki/secrets.key in the data directory) from its backup"
    )]
    KeyMissing {
        /// The object, by name.
        key: String,
        /// The id of the missing key.
        id: String,
        /// The ids of the known keys.
        known: String,
    },
    /// A sealed Secret does not open with its key.
    #[error(
        "{key} does not open with its key: its row in the store was changed, or exchanged with another; restore store.db from a backup"
    )]
    Tampered {
        /// The object.
        key: Key,
    },
    /// A newer version has written the file.
    #[error(
        "a newer version of evenkeel has written it (tables of version {version}); start that version again, or see docs/operations.md for the way back"
    )]
    Newer {
        /// The version of its tables.
        version: i64,
    },
    /// A file is no store, or not a whole one.
    #[error("it is damaged, or no store of evenkeel's: {problem}")]
    Damaged {
        /// What is wrong with it.
        problem: String,
    },
    /// No connection to the database became free in time.
    #[error("the store is busy with other requests ({doing}); try again")]
    Busy {
        /// The operation that waited.
        doing: &'static str,
    },
    /// No majority of the store's members can be reached: nothing can be read or written, and nothing is known.
    #[error("the store has no quorum: {told}; nothing can be read or changed until a majority is back ({doing})")]
    NoQuorum {
        /// The failed operation.
        doing: &'static str,
        /// What was found when the members were asked.
        told: String,
    },
    /// The database is full and accepts no more writes.
    #[error(
        "the store is full: etcd has raised its alarm NOSPACE and accepts no writes; compact and defragment it, or raise its --quota-backend-bytes, then run: etcdctl alarm disarm"
    )]
    Full,
    /// Another operator leads: a write of a leadership that is over is not performed.
    #[error("this operator does not lead any more (epoch {epoch}); the write was not performed")]
    Deposed {
        /// The epoch of the leadership that is over.
        epoch: u64,
    },
    /// The operation needs that no operator leads, and one does.
    #[error("an operator leads over this store; stop all operators first")]
    Led,
    /// The store cannot be used as it is set up.
    #[error("the store cannot be used: {problem}")]
    Setup {
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The underlying database failed (disk full, file removed, I/O).
    #[error("store: {doing}")]
    Backend {
        /// The failed operation.
        doing: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::Conflict { .. } | Self::AlreadyExists { .. } | Self::Replaced { .. } => Class::Conflict,
            Self::NotFound { .. } => Class::NotFound,
            Self::Malformed { .. }
            | Self::View { .. }
            | Self::InUse { .. }
            | Self::KeyMissing { .. }
            | Self::Tampered { .. }
            | Self::Newer { .. }
            | Self::Damaged { .. }
            | Self::Setup { .. } => Class::Terminal,
            Self::Compacted { .. }
            | Self::Future { .. }
            | Self::Busy { .. }
            | Self::NoQuorum { .. }
            | Self::Full
            | Self::Deposed { .. }
            | Self::Led
            | Self::Backend { .. } => Class::Transient,
        }
    }
}

/// The revision that wrote an object; `None` if it has none.
pub fn revision_of(value: &Value) -> Option<u64> {
    value["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

/// Sets `metadata.resourceVersion`, or says why the value cannot be stored.
fn stamp(key: &Key, mut value: Value, revision: u64) -> Result<Value, Error> {
    let malformed = |problem: &str| Error::Malformed { key: key.clone(), problem: problem.to_owned() };
    if key.resource.is_empty() || key.name.is_empty() {
        return Err(malformed("an object needs a resource and a name"));
    }
    let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
    let metadata = metadata.ok_or_else(|| malformed("metadata is missing"))?;
    metadata.insert("resourceVersion".to_owned(), revision.to_string().into());
    Ok(value)
}
