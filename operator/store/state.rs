//! The objects as they are now, in memory, and the rules of a write: both stores read and decide here. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::{Change, Error, Expect, Key, revision_of, rules, stamp};

/// The current objects and the revision of the last change.
#[derive(Debug, Default)]
pub(super) struct State {
    objects: BTreeMap<Key, Arc<Value>>,
    /// Owner's uid and the key of the owned object, one entry per owner reference of `objects`.
    owners: BTreeSet<(String, Key)>,
    revision: u64,
}

impl State {
    /// The state with these objects, at this revision.
    pub(super) fn new(objects: BTreeMap<Key, Arc<Value>>, revision: u64) -> Self {
        let owned = |(key, value): (&Key, &Arc<Value>)| {
            rules::owners(value).into_iter().map(|uid| (uid.to_owned(), key.clone())).collect::<Vec<_>>()
        };
        let owners = objects.iter().flat_map(owned).collect();
        Self { objects, owners, revision }
    }

    /// The revision of the last change.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// The object at `key`.
    pub(super) fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// The objects of these resources (of one namespace, if given), ordered by key.
    pub(super) fn list(&self, resources: &[&str], namespace: Option<&str>) -> Vec<(Key, Arc<Value>)> {
        let resources: BTreeSet<&str> = resources.iter().copied().collect();
        let of = |resource: &'_ str| {
            let first = Key::new(resource, namespace.unwrap_or_default(), "");
            let wanted = [resource.to_owned()];
            self.objects.range(first..).take_while(move |(key, _)| concerns(key, &wanted, namespace))
        };
        resources.into_iter().flat_map(of).map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// The objects whose owner references contain this uid, ordered by key.
    pub(super) fn owned_by(&self, uid: &str) -> Vec<(Key, Value)> {
        let owned = self.owners.range((uid.to_owned(), Key::new("", "", ""))..).take_while(|(owner, _)| owner == uid);
        owned.filter_map(|(_, key)| Some((key.clone(), Value::clone(self.get(key)?)))).collect()
    }

    /// All objects, ordered by key.
    pub(super) fn all(&self) -> Vec<(Key, Arc<Value>)> {
        self.objects.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// Makes the change.
    pub(super) fn apply(&mut self, change: &Change) {
        let Change { key, revision, old, new } = change;
        self.revision = *revision;
        for uid in old.iter().flat_map(|old| rules::owners(old)) {
            self.owners.remove(&(uid.to_owned(), key.clone()));
        }
        for uid in new.iter().flat_map(|new| rules::owners(new)) {
            self.owners.insert((uid.to_owned(), key.clone()));
        }
        match new {
            Some(value) => self.objects.insert(key.clone(), value.clone()),
            None => self.objects.remove(key),
        };
    }
}

/// The change that writes `value` over `found`, the object at `key` now; or why it is refused.
pub(super) fn put(
    key: Key,
    expect: Expect,
    value: Value,
    found: Option<&Arc<Value>>,
    revision: u64,
) -> Result<Change, Error> {
    let new = stamp(&key, value, revision)?;
    let old = match (expect, found) {
        (Expect::Absent, None) => None,
        (Expect::Absent, Some(_)) => return Err(Error::AlreadyExists { key }),
        (Expect::Revision(expected), found) => Some(at(&key, expected, found)?),
    };
    Ok(Change { key, revision, old, new: Some(Arc::new(new)) })
}

/// The change that removes `found`, the object at `key` now, and the object's last value; or why it is refused.
pub(super) fn delete(
    key: Key,
    expected: u64,
    found: Option<&Arc<Value>>,
    revision: u64,
) -> Result<(Change, Value), Error> {
    let old = at(&key, expected, found)?;
    let last = stamp(&key, Value::clone(&old), revision)?;
    Ok((Change { key, revision, old: Some(old), new: None }, last))
}

/// The objects as they were before: with these older values (`None`: it did not exist).
pub(super) fn undone(found: Vec<(Key, Arc<Value>)>, older: Vec<(Key, Option<Arc<Value>>)>) -> Vec<(Key, Arc<Value>)> {
    let mut found: BTreeMap<_, _> = found.into_iter().collect();
    for (key, old) in older {
        match old {
            Some(old) => found.insert(key, old),
            None => found.remove(&key),
        };
    }
    found.into_iter().collect()
}

/// Whether a list or watch of these resources (in `namespace`) includes this key.
pub(super) fn concerns(key: &Key, resources: &[impl AsRef<str>], namespace: Option<&str>) -> bool {
    resources.iter().any(|resource| key.resource == resource.as_ref())
        && namespace.is_none_or(|namespace| key.namespace == namespace)
}

/// `found`, if it is at the expected revision.
fn at(key: &Key, expected: u64, found: Option<&Arc<Value>>) -> Result<Arc<Value>, Error> {
    let Some(value) = found else { return Err(Error::NotFound { key: key.clone() }) };
    match revision_of(value) {
        Some(found) if found == expected => Ok(value.clone()),
        found => Err(Error::Conflict { key: key.clone(), expected, found }),
    }
}
