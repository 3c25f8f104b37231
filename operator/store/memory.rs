//! The store in memory: plain maps under one lock. For tests and simulation; nothing survives the process.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use futures::stream;
use serde_json::Value;
use tokio::sync::Notify;

use super::state::{self, State, concerns};
use super::{Change, Error, Expect, Key, Listed, Store, WINDOW, Watch};
use crate::api::sync::lock;

/// A [`Store`] in memory.
#[derive(Debug)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    window: u64,
}

#[derive(Debug)]
struct Shared {
    kept: Mutex<Kept>,
    /// Signals a new revision; the changes are read from the state. It wakes waiters in their order; a watch channel
    /// wakes them in random order, and then a simulation could not be repeated.
    written: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    state: State,
    changes: VecDeque<Change>,
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
        let shared = Shared { kept: Mutex::default(), written: Notify::new() };
        Self { shared: Arc::new(shared), window }
    }

    /// Makes the change and wakes the watches.
    fn commit(&self, kept: &mut Kept, change: Change) {
        kept.state.apply(&change);
        kept.changes.push_back(change);
        kept.forget(kept.state.revision().saturating_sub(self.window));
        self.shared.written.notify_waiters();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        lock(&self.kept)
    }
}

impl Kept {
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
        let newest = self.state.revision();
        if since > newest { Err(Error::Future { since, newest }) } else { Ok(()) }
    }

    /// What each object that has changed since was at this revision.
    fn older(&self, at: u64, resources: &[&str], namespace: Option<&str>) -> Vec<(Key, Option<Arc<Value>>)> {
        let later = self.changes.iter().rev().take_while(|change| change.revision > at);
        let wanted = later.filter(|change| concerns(&change.key, resources, namespace));
        wanted.map(|change| (change.key.clone(), change.old.clone())).collect()
    }
}

#[async_trait::async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &Key) -> Result<Option<Value>, Error> {
        Ok(self.shared.lock().state.get(key).map(|value| Value::clone(value)))
    }

    async fn list_at(&self, resources: &[&str], namespace: Option<&str>, at: Option<u64>) -> Result<Listed, Error> {
        let kept = self.shared.lock();
        let found = kept.state.list(resources, namespace);
        let Some(at) = at else { return Ok((found, kept.state.revision())) };
        kept.check_since(at)?;
        Ok((state::undone(found, kept.older(at, resources, namespace)), at))
    }

    async fn owned_by(&self, uid: &str) -> Result<Vec<(Key, Value)>, Error> {
        Ok(self.shared.lock().state.owned_by(uid))
    }

    async fn put(&self, key: &Key, expect: Expect, value: Value) -> Result<Value, Error> {
        let mut kept = self.shared.lock();
        let change = state::put(key.clone(), expect, value, kept.state.get(key), kept.state.revision() + 1)?;
        let new = change.new.as_deref().cloned().unwrap_or_default();
        self.commit(&mut kept, change);
        Ok(new)
    }

    async fn delete(&self, key: &Key, revision: u64) -> Result<Value, Error> {
        let mut kept = self.shared.lock();
        let (change, last) = state::delete(key.clone(), revision, kept.state.get(key), kept.state.revision() + 1)?;
        self.commit(&mut kept, change);
        Ok(last)
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
        Ok(self.shared.lock().state.revision())
    }

    async fn all(&self) -> Result<Vec<(Key, Arc<Value>)>, Error> {
        Ok(self.shared.lock().state.all())
    }

    async fn compact(&self, through: u64) -> Result<(), Error> {
        let mut kept = self.shared.lock();
        let through = through.min(kept.state.revision());
        kept.forget(through);
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
        let kept = self.shared.lock();
        kept.check_since(self.at)?;
        let first = kept.changes.partition_point(|change| change.revision <= self.at);
        for change in kept.changes.range(first..) {
            self.at = change.revision;
            if concerns(&change.key, &self.resources, self.namespace.as_deref()) {
                return Ok(Some(change.clone()));
            }
        }
        Ok(None)
    }
}
