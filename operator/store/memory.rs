//! The store in memory: plain maps under one lock. For tests and simulation; nothing survives the process.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use futures::stream;
use serde_json::Value;
use tokio::sync::Notify;

use super::{Change, Error, Expect, Key, Store, WINDOW, Watch, revision_of, rules, stamp};
use crate::api::sync::lock;

/// A [`Store`] in memory.
#[derive(Debug)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    window: u64,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Signals a new revision; the changes are read from the state. It wakes waiters in their order; a watch channel
    /// wakes them in random order, and then a simulation could not be repeated.
    written: Notify,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Key, Value>,
    /// Owner's uid and the key of the owned object, one entry per owner reference of `objects`.
    owners: BTreeSet<(String, Key)>,
    changes: VecDeque<Change>,
    revision: u64,
    compacted: u64,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::with_window(WINDOW)
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that keeps only the last `window` changes.
    pub fn with_window(window: u64) -> Self {
        let shared = Shared { state: Mutex::default(), written: Notify::new() };
        Self { shared: Arc::new(shared), window }
    }

    /// Records the change from `old` to `new` and wakes the watches.
    fn commit(&self, state: &mut State, key: &Key, old: Option<Value>, new: Option<Value>) {
        state.revision += 1;
        for uid in old.iter().flat_map(rules::owners) {
            state.owners.remove(&(uid.to_owned(), key.clone()));
        }
        for uid in new.iter().flat_map(rules::owners) {
            state.owners.insert((uid.to_owned(), key.clone()));
        }
        match &new {
            Some(value) => state.objects.insert(key.clone(), value.clone()),
            None => state.objects.remove(key),
        };
        state.changes.push_back(Change { key: key.clone(), revision: state.revision, old, new });
        state.forget(state.revision.saturating_sub(self.window));
        self.shared.written.notify_waiters();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    fn forget(&mut self, through: u64) {
        while self.changes.front().is_some_and(|change| change.revision <= through) {
            self.changes.pop_front();
        }
        self.compacted = self.compacted.max(through);
    }

    fn check_since(&self, since: u64) -> Result<(), Error> {
        if since < self.compacted {
            return Err(Error::Compacted { since, oldest: self.compacted });
        }
        if since > self.revision {
            return Err(Error::Future { since, newest: self.revision });
        }
        Ok(())
    }

    /// The object at `key` if it is at `revision`.
    fn at(&self, key: &Key, revision: u64) -> Result<Value, Error> {
        let Some(value) = self.objects.get(key) else {
            return Err(Error::NotFound { key: key.clone() });
        };
        let found = revision_of(value);
        if found != Some(revision) {
            return Err(Error::Conflict { key: key.clone(), expected: revision, found });
        }
        Ok(value.clone())
    }
}

#[async_trait::async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &Key) -> Result<Option<Value>, Error> {
        Ok(self.shared.lock().objects.get(key).cloned())
    }

    async fn list_of(&self, resources: &[&str], namespace: Option<&str>) -> Result<(Vec<(Key, Value)>, u64), Error> {
        let state = self.shared.lock();
        let wanted = state.objects.iter().filter(|(key, _)| concerns(key, resources, namespace));
        Ok((wanted.map(|(key, value)| (key.clone(), value.clone())).collect(), state.revision))
    }

    async fn owned_by(&self, uid: &str) -> Result<Vec<(Key, Value)>, Error> {
        let state = self.shared.lock();
        let first = (uid.to_owned(), Key { resource: String::new(), namespace: String::new(), name: String::new() });
        let owned = state.owners.range(first..).take_while(|(owner, _)| owner == uid);
        Ok(owned.filter_map(|(_, key)| Some((key.clone(), state.objects.get(key)?.clone()))).collect())
    }

    async fn put(&self, key: &Key, expect: Expect, value: Value) -> Result<Value, Error> {
        let mut state = self.shared.lock();
        let value = stamp(key, value, state.revision + 1)?;
        let old = match expect {
            Expect::Revision(revision) => Some(state.at(key, revision)?),
            Expect::Absent if state.objects.contains_key(key) => {
                return Err(Error::AlreadyExists { key: key.clone() });
            }
            Expect::Absent => None,
        };
        self.commit(&mut state, key, old, Some(value.clone()));
        Ok(value)
    }

    async fn delete(&self, key: &Key, revision: u64) -> Result<Value, Error> {
        let mut state = self.shared.lock();
        let old = state.at(key, revision)?;
        self.commit(&mut state, key, Some(old.clone()), None);
        stamp(key, old, state.revision)
    }

    async fn watch_of(&self, resources: &[&str], namespace: Option<&str>, since: u64) -> Result<Watch, Error> {
        self.shared.lock().check_since(since)?;
        let tail = Tail {
            shared: Arc::clone(&self.shared),
            resources: resources.iter().map(|&resource| resource.to_owned()).collect(),
            namespace: namespace.map(str::to_owned),
            at: since,
        };
        Ok(Box::pin(stream::unfold(Some(tail), |tail| async {
            let mut tail = tail?;
            match tail.next().await {
                Ok(change) => Some((Ok(change), Some(tail))),
                Err(error) => Some((Err(error), None)),
            }
        })))
    }

    async fn revision(&self) -> Result<u64, Error> {
        Ok(self.shared.lock().revision)
    }

    async fn all(&self) -> Result<Vec<(Key, Value)>, Error> {
        let state = self.shared.lock();
        Ok(state.objects.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    async fn compact(&self, through: u64) -> Result<(), Error> {
        let mut state = self.shared.lock();
        let through = through.min(state.revision);
        state.forget(through);
        Ok(())
    }
}

/// One watch: it reads the next change from the window.
struct Tail {
    shared: Arc<Shared>,
    resources: Vec<String>,
    namespace: Option<String>,
    at: u64,
}

impl Tail {
    /// The next change.
    async fn next(&mut self) -> Result<Change, Error> {
        let shared = Arc::clone(&self.shared);
        loop {
            // Before the read, so that no write is missed.
            let written = shared.written.notified();
            if let Some(change) = self.look()? {
                return Ok(change);
            }
            written.await;
        }
    }

    fn look(&mut self) -> Result<Option<Change>, Error> {
        let state = self.shared.lock();
        state.check_since(self.at)?;
        let first = state.changes.partition_point(|change| change.revision <= self.at);
        for change in state.changes.range(first..) {
            self.at = change.revision;
            if concerns(&change.key, &self.resources, self.namespace.as_deref()) {
                return Ok(Some(change.clone()));
            }
        }
        Ok(None)
    }
}

/// Whether a list or watch of these resources (in `namespace`) includes this key.
pub(super) fn concerns(key: &Key, resources: &[impl AsRef<str>], namespace: Option<&str>) -> bool {
    resources.iter().any(|resource| key.resource == resource.as_ref())
        && namespace.is_none_or(|namespace| key.namespace == namespace)
}
