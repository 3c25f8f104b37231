//! Production's store in memory behind one operator's gate: its writes are effects, and some fail at random.

use std::sync::Arc;

use serde_json::{Value, json};

use super::gate::Gate;
use super::sim::Sim;
use crate::kinds::postgres_cluster::RESOURCE;
use crate::store::events::EVENTS;
use crate::store::{Error, Expect, Key, Listed, MemoryStore, Store, Watch, revision_of};

/// Longest duration of a normal write, in milliseconds.
const WRITE_MS: u64 = 8;

/// The store as one operator (or a user) sees it.
pub struct SimStore {
    pub inner: Arc<MemoryStore>,
    pub sim: Arc<Sim>,
    pub gate: Arc<Gate>,
}

fn backend(doing: &'static str) -> Error {
    Error::Backend { doing, source: "chance".into() }
}

impl SimStore {
    /// Another writer changes the object, as a person with kubectl would.
    async fn meddle(&self, key: &Key) -> Result<(), Error> {
        let Some(mut value) = self.inner.get(key).await? else { return Ok(()) };
        let revision = revision_of(&value).unwrap_or_default();
        value["metadata"]["annotations"]["example.org/touched"] = json!(revision.to_string());
        self.inner.put(key, Expect::Revision(revision), value).await?;
        self.sim.note("somebody else writes the object");
        Ok(())
    }

    /// Counts a write as an effect; `Ok(true)`: it is performed but reported as failed.
    async fn write(&self, doing: &'static str, key: &Key) -> Result<bool, Error> {
        self.gate.open().await;
        self.sim.latency(WRITE_MS).await;
        self.gate.open().await;
        let (fails, meddles) = self.sim.change_quietly(|state| {
            let meddles = key.resource == RESOURCE && state.chance.one_in(state.trouble.meddler);
            let fails = state.chance.one_in(state.trouble.store).then(|| state.chance.one_in(2));
            (fails, meddles)
        });
        if meddles {
            self.meddle(key).await?;
        }
        match fails {
            Some(false) => Err(backend(doing)),
            Some(true) => Ok(true),
            None => Ok(false),
        }
    }

    async fn answer(
        &self,
        doing: &'static str,
        last: bool,
        lost: bool,
        done: Result<Value, Error>,
    ) -> Result<Value, Error> {
        self.sim.end(&self.gate, last).await;
        if lost && done.is_ok() { Err(backend(doing)) } else { done }
    }
}

#[async_trait::async_trait]
impl Store for SimStore {
    async fn get(&self, key: &Key) -> Result<Option<Value>, Error> {
        self.gate.open().await;
        self.inner.get(key).await
    }

    async fn list_at(&self, resources: &[&str], namespace: Option<&str>, at: Option<u64>) -> Result<Listed, Error> {
        self.gate.open().await;
        self.inner.list_at(resources, namespace, at).await
    }

    async fn owned_by(&self, uid: &str) -> Result<Vec<(Key, Value)>, Error> {
        self.gate.open().await;
        self.inner.owned_by(uid).await
    }

    async fn put(&self, key: &Key, expect: Expect, value: Value) -> Result<Value, Error> {
        let lost = self.write("write", key).await?;
        let last = self.sim.begin(&self.gate, &format!("write {key}"), key.resource == EVENTS).await;
        let done = self.inner.put(key, expect, value).await;
        match &done {
            Ok(value) if key.resource == RESOURCE => {
                let object = serde_json::from_value(value.clone());
                self.sim.change(|state| match object {
                    Ok(object) => state.mirror(object),
                    Err(error) => state.wrong.push(format!("an object that is none was written: {error}")),
                });
            }
            Ok(_) => {}
            Err(_) if key.resource == EVENTS => {}
            Err(error) => self.sim.note(format!("not written: {error}")),
        }
        self.answer("write", last, lost, done).await
    }

    async fn delete(&self, key: &Key, revision: u64) -> Result<Value, Error> {
        let lost = self.write("delete", key).await?;
        let last = self.sim.begin(&self.gate, &format!("delete {key}"), key.resource == EVENTS).await;
        let done = self.inner.delete(key, revision).await;
        self.answer("delete", last, lost, done).await
    }

    async fn watch_of(&self, resources: &[&str], namespace: Option<&str>, since: u64) -> Result<Watch, Error> {
        self.gate.open().await;
        self.inner.watch_of(resources, namespace, since).await
    }

    async fn revision(&self) -> Result<u64, Error> {
        self.inner.revision().await
    }

    async fn all(&self) -> Result<Vec<(Key, Arc<Value>)>, Error> {
        self.gate.open().await;
        self.inner.all().await
    }

    async fn compact(&self, through: u64) -> Result<(), Error> {
        self.inner.compact(through).await
    }
}
