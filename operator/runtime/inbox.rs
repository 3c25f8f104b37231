//! The inbox of a kind: the queue of due objects, and the index that finds the objects which reference a
//! changed object.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};

use serde_json::Value;

use super::concern::{self, Concern, Wakes};
use super::queue::{Queue, Reason};
use super::reflector::Event;
use crate::api::sync::lock;
use crate::store::{Key, objects};

/// Receives everything that wakes objects of one kind.
pub(super) struct Inbox {
    /// The kind's resource.
    pub(super) resource: &'static str,
    /// The concerns of the kind: other resources that it reads.
    pub(super) concerns: Vec<Concern>,
    /// Objects that are due now or later.
    pub(super) queue: Queue<Key>,
    /// The keys that an object references; none if the object is invalid.
    references: fn(&Value) -> Vec<Key>,
    index: Mutex<Index>,
}

/// The existing objects, and which object references which.
#[derive(Debug, Default)]
struct Index {
    references: BTreeMap<Key, BTreeSet<Key>>,
    referencing: BTreeMap<Key, BTreeSet<Key>>,
}

impl Inbox {
    /// The inbox of a kind with this resource.
    pub(super) fn new(resource: &'static str, concerns: Vec<Concern>, references: fn(&Value) -> Vec<Key>) -> Self {
        Self { resource, concerns, queue: Queue::default(), references, index: Mutex::default() }
    }

    /// Handles an event of any resource that the kind follows.
    pub(super) fn event(&self, resource: &str, event: &Event<'_>) {
        if resource == self.resource {
            self.own(event);
        }
        for concern in self.concerns.iter().filter(|concern| concern.resource == resource) {
            match event {
                // Changes may have been missed.
                Event::Listed(_) => self.wake_all(),
                Event::Changed(change) => match concern.wakes(self.resource, change) {
                    Wakes::None => {}
                    Wakes::Referencing => self.wake(self.index().referencing(&change.key)),
                    Wakes::Keys(keys) => self.wake(keys),
                    Wakes::All => self.wake_all(),
                },
            }
        }
    }

    /// Makes these objects due.
    pub(super) fn wake(&self, keys: Vec<Key>) {
        keys.into_iter().for_each(|key| self.queue.add(key, Reason::Hint));
    }

    /// Makes the object with this name due; it need not exist.
    pub(super) fn wake_named(&self, namespace: &str, name: &str) {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        self.wake(vec![Key { resource: self.resource.to_owned(), namespace, name }]);
    }

    /// Makes all known objects due. Unknown ones become due when they are listed.
    pub(super) fn wake_all(&self) {
        let keys = self.index().references.keys().cloned().collect();
        self.wake(keys);
    }

    /// Number of known, referenced or due objects.
    pub(super) fn kept(&self) -> usize {
        let index = self.index();
        index.references.len() + index.referencing.len() + self.queue.len()
    }

    /// Handles an event of the kind's own resource.
    fn own(&self, event: &Event<'_>) {
        match event {
            Event::Listed(values) => {
                let listed: BTreeMap<Key, &Value> =
                    values.iter().map(|value| (objects::key_of(self.resource, value), &**value)).collect();
                // Objects that were deleted while the watch was down are due too: memory about them must be freed.
                let gone: Vec<Key> =
                    self.index().references.keys().filter(|key| !listed.contains_key(key)).cloned().collect();
                for key in gone {
                    self.index().remove(&key);
                    self.queue.add(key, Reason::Changed);
                }
                for (key, value) in listed {
                    self.index().set(&key, (self.references)(value));
                    self.queue.add(key, Reason::Changed);
                }
            }
            Event::Changed(change) => {
                match &change.new {
                    Some(value) => self.index().set(&change.key, (self.references)(value)),
                    None => self.index().remove(&change.key),
                }
                if concern::is_foreign(change) {
                    self.queue.add(change.key.clone(), Reason::Changed);
                }
            }
        }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }
}

impl Index {
    fn referencing(&self, key: &Key) -> Vec<Key> {
        self.referencing.get(key).into_iter().flatten().cloned().collect()
    }

    fn set(&mut self, key: &Key, references: Vec<Key>) {
        let references: BTreeSet<Key> = references.into_iter().collect();
        if self.references.get(key) == Some(&references) {
            return;
        }
        self.remove(key);
        for reference in &references {
            self.referencing.entry(reference.clone()).or_default().insert(key.clone());
        }
        self.references.insert(key.clone(), references);
    }

    fn remove(&mut self, key: &Key) {
        for reference in self.references.remove(key).into_iter().flatten() {
            if let Some(referencing) = self.referencing.get_mut(&reference) {
                referencing.remove(key);
                if referencing.is_empty() {
                    self.referencing.remove(&reference);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key { resource: "toys".into(), namespace: "default".into(), name: name.into() }
    }

    #[test]
    fn an_index_knows_who_references_whom_and_keeps_nothing_of_what_went() {
        let mut index = Index::default();
        index.set(&key("a"), vec![key("x"), key("y")]);
        index.set(&key("b"), vec![key("x")]);
        assert_eq!(index.referencing(&key("x")), [key("a"), key("b")]);
        index.set(&key("a"), vec![key("y")]);
        assert_eq!(index.referencing(&key("x")), [key("b")]);
        index.remove(&key("a"));
        index.remove(&key("b"));
        assert!(index.references.is_empty() && index.referencing.is_empty());
    }
}
