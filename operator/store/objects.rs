//! Objects by the Kubernetes rules, over any store: both the server and the controllers write through this.

use std::sync::Arc;

use serde::Deserializer;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Clock, Error, Expect, Key, Leadership, Store, Tenure, Watch, clock, revision_of, rules};

/// Attempts of a write without a resourceVersion while others write the same object.
const ATTEMPTS: usize = 5;
/// Number of random characters at the end of a name from `generateName`.
const SUFFIX: usize = 5;

/// The objects, by the rules of [`rules`]. Cheap to clone.
#[derive(Clone)]
pub struct Objects {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    tenure: Option<Tenure>,
}

/// The part of an object that a write changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status.
    Main,
    /// The status alone.
    Status,
}

/// Preconditions of a deletion.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// The object's uid: another object of the same name is not deleted.
    pub uid: Option<String>,
    /// The object's revision: an object that has changed since is not deleted.
    pub revision: Option<u64>,
}

/// The result of a deletion.
#[derive(Debug, Clone, PartialEq)]
pub enum Deleted {
    /// The object is removed; this was its last state.
    Removed(Value),
    /// The object has a `deletionTimestamp` and stays until its finalizers are removed.
    Pending(Value),
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").finish_non_exhaustive()
    }
}

impl Objects {
    /// Objects in `store`, with times from `clock`.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, tenure: None }
    }

    /// Objects as the operator of this leadership sees and writes them: its writes are refused when that is over.
    pub fn led(leadership: &Leadership, clock: Arc<dyn Clock>) -> Self {
        let (store, tenure) = (leadership.store().clone(), Some(leadership.tenure().clone()));
        Self { store, clock, tenure }
    }

    /// How long the operator that uses them leads; `None`: it is the only one, or leads nobody.
    pub fn tenure(&self) -> Option<&Tenure> {
        self.tenure.as_ref()
    }

    /// The underlying store, for operations without rules: revisions, compaction.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The object at `key` as `T` (or as [`Value`]), read from the store. [`Error::Malformed`] if it is not a
    /// valid `T`.
    pub async fn get<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<T>, Error> {
        let value = self.store.get(key).await?;
        value.map(|value| typed(|| key.clone(), value)).transpose()
    }

    /// All objects of a resource as `T`, ordered by namespace and name, and the revision of this snapshot.
    pub async fn list<T: DeserializeOwned>(
        &self,
        resource: &str,
        namespace: Option<&str>,
    ) -> Result<(Vec<T>, u64), Error> {
        let (values, revision) = self.store.list(resource, namespace).await?;
        let typed = values.iter().map(|value| typed(|| key_of(resource, value), &**value));
        Ok((typed.collect::<Result<_, _>>()?, revision))
    }

    /// Every change of a resource strictly after `since`, like [`Store::watch`].
    pub async fn watch(&self, resource: &str, namespace: Option<&str>, since: u64) -> Result<Watch, Error> {
        self.store.watch(resource, namespace, since).await
    }

    /// Creates an object; one of that name that is there already is left as it is.
    pub async fn create_if_absent(&self, key: &Key, value: Value) -> Result<(), Error> {
        match self.create(key, value).await {
            Ok(_) | Err(Error::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Creates an object. If `key` has no name, the name is generated from `metadata.generateName`.
    pub async fn create(&self, key: &Key, value: Value) -> Result<Value, Error> {
        let prefix = value["metadata"]["generateName"].as_str().unwrap_or("").to_owned();
        if !key.name.is_empty() || prefix.is_empty() {
            return self.create_named(key, value).await;
        }
        let mut attempts = 0;
        loop {
            attempts += 1;
            let name = format!("{prefix}{}", clock::suffix(&*self.clock, SUFFIX));
            match self.create_named(&Key { name, ..key.clone() }, value.clone()).await {
                Err(Error::AlreadyExists { .. }) if attempts < ATTEMPTS => {}
                outcome => return outcome,
            }
        }
    }

    /// Replaces everything except the status and server-owned fields. Compare-and-set if `value` has a
    /// resourceVersion. Without a difference nothing is written. Removing the last finalizer of a deleted
    /// object removes the object.
    pub async fn update(&self, key: &Key, value: Value) -> Result<Value, Error> {
        self.replace(key, Part::Main, value).await
    }

    /// Replaces only the status, by the same rules as [`Objects::update`].
    pub async fn update_status(&self, key: &Key, value: Value) -> Result<Value, Error> {
        self.replace(key, Part::Status, value).await
    }

    /// Reads the object, computes the new one with `change`, and writes it; starts again if it was written meanwhile.
    /// If `change` sets another resourceVersion, the write is pinned to that one.
    pub async fn modify<E: From<Error>>(
        &self,
        key: &Key,
        part: Part,
        change: impl Fn(Value) -> Result<Value, E>,
    ) -> Result<Value, E> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let old = self.existing(key).await?;
            let new = change(old.clone())?;
            let pinned = rules::pinned(key, &new)?;
            let foreign = pinned.is_some() && pinned != revision_of(&old);
            match self.replace_old(key, part, old, new).await {
                Err(Error::Conflict { .. }) if attempts < ATTEMPTS && !foreign => {}
                outcome => return Ok(outcome?),
            }
        }
    }

    /// Deletes the object and what it owns; if it has finalizers, marks it as being deleted.
    pub async fn delete(&self, key: &Key, only_if: &Preconditions) -> Result<Deleted, Error> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.try_delete(key, only_if).await {
                Err(Error::Conflict { .. }) if attempts < ATTEMPTS && only_if.revision.is_none() => {}
                outcome => return outcome,
            }
        }
    }

    async fn create_named(&self, key: &Key, value: Value) -> Result<Value, Error> {
        let value = rules::created(key, value, clock::uid(&*self.clock), self.clock.now())?;
        self.store.put(key, Expect::Absent, value).await
    }

    async fn existing(&self, key: &Key) -> Result<Value, Error> {
        let found = self.store.get(key).await?;
        found.ok_or_else(|| Error::NotFound { key: key.clone() })
    }

    async fn replace(&self, key: &Key, part: Part, value: Value) -> Result<Value, Error> {
        let pinned = rules::pinned(key, &value)?;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let old = self.existing(key).await?;
            match self.replace_old(key, part, old, value.clone()).await {
                Err(Error::Conflict { .. }) if attempts < ATTEMPTS && pinned.is_none() => {}
                outcome => return outcome,
            }
        }
    }

    /// One attempt to replace `old` by `new`.
    async fn replace_old(&self, key: &Key, part: Part, old: Value, new: Value) -> Result<Value, Error> {
        check(key, &old, rules::uid_of(&new), rules::pinned(key, &new)?)?;
        let new = match part {
            Part::Main => rules::updated(key, &old, new)?,
            Part::Status => rules::status_updated(key, &old, &new)?,
        };
        if new == old {
            return Ok(old);
        }
        let revision = stored_revision(key, &old)?;
        if rules::is_deleting(&new) && rules::finalizers(&new).is_empty() {
            return self.remove(key, revision).await;
        }
        self.store.put(key, Expect::Revision(revision), new).await
    }

    async fn try_delete(&self, key: &Key, only_if: &Preconditions) -> Result<Deleted, Error> {
        let old = self.existing(key).await?;
        check(key, &old, only_if.uid.as_deref(), only_if.revision)?;
        let revision = stored_revision(key, &old)?;
        if rules::finalizers(&old).is_empty() {
            let removed = self.remove(key, revision).await?;
            // An object of a view is removed when its source no longer has it.
            return Ok(if rules::is_deleting(&removed) {
                Deleted::Pending(removed)
            } else {
                Deleted::Removed(removed)
            });
        }
        if rules::is_deleting(&old) {
            return Ok(Deleted::Pending(old));
        }
        let marked = rules::marked_deleting(key, &old, self.clock.now())?;
        Ok(Deleted::Pending(self.store.put(key, Expect::Revision(revision), marked).await?))
    }

    /// Removes the object from the store, then deletes what it owned.
    async fn remove(&self, key: &Key, revision: u64) -> Result<Value, Error> {
        let removed = self.store.delete(key, revision).await?;
        if let Some(uid) = rules::uid_of(&removed) {
            self.collect(key, uid).await;
        }
        Ok(removed)
    }
}

/// The key of an object that was read from `resource`.
pub fn key_of(resource: &str, value: &Value) -> Key {
    let field = |name: &str| value["metadata"][name].as_str().unwrap_or("").to_owned();
    Key { resource: resource.to_owned(), namespace: field("namespace"), name: field("name") }
}

fn typed<'a, T: DeserializeOwned>(
    key: impl Fn() -> Key,
    value: impl Deserializer<'a, Error = serde_json::Error>,
) -> Result<T, Error> {
    T::deserialize(value).map_err(|error| Error::Malformed { key: key(), problem: error.to_string() })
}

/// Refuses a write that was meant for another object or another revision of it.
fn check(key: &Key, old: &Value, uid: Option<&str>, revision: Option<u64>) -> Result<(), Error> {
    let found = rules::uid_of(old).unwrap_or("");
    if let Some(expected) = uid.filter(|uid| !uid.is_empty() && *uid != found) {
        return Err(Error::Replaced { key: key.clone(), expected: expected.to_owned(), found: found.to_owned() });
    }
    let found = revision_of(old);
    match revision {
        Some(expected) if found != Some(expected) => Err(Error::Conflict { key: key.clone(), expected, found }),
        _ => Ok(()),
    }
}

fn stored_revision(key: &Key, old: &Value) -> Result<u64, Error> {
    let problem = || "the stored object has no resourceVersion".to_owned();
    revision_of(old).ok_or_else(|| Error::Malformed { key: key.clone(), problem: problem() })
}
