//! A store that also shows what can be read from its objects: the registry's views, such as Pods. They are not stored and cannot be written.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt as _, stream};
use serde_json::Value;

use super::objects::key_of;
use super::{Change, Error, Expect, Key, Store, Watch, rules};
use crate::api::registry::{self, View};

/// A [`Store`] with the registry's views over `inner`.
pub struct Views {
    inner: Arc<dyn Store>,
}

impl Views {
    /// The views over the objects of this store.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner }
    }

    /// What the view shows of this snapshot of its sources, ordered by key.
    async fn shown(
        &self,
        resource: &str,
        view: &View,
        namespace: Option<&str>,
    ) -> Result<(Vec<(Key, Value)>, u64), Error> {
        let (sources, revision) = self.inner.list_of(&view.resources(), namespace).await?;
        let each = sources.iter().flat_map(|(key, source)| entries(resource, view, &key.resource, Some(source)));
        // Two owners cannot show the same name for long; of those that do, one is shown.
        Ok((each.collect::<BTreeMap<_, _>>().into_iter().collect(), revision))
    }

    /// Asks the source to replace what it shows at `key`, if it can be asked; answers with that marked as going.
    async fn evict(&self, key: &Key, view: &View, revision: u64) -> Result<Value, Error> {
        let (sources, _) = self.inner.list_of(&view.resources(), Some(&key.namespace)).await?;
        let shown = |of: &Key, source: &Value| entries(&key.resource, view, &of.resource, Some(source)).remove(key);
        let found = sources.into_iter().find_map(|(of, source)| shown(&of, &source).map(|value| (of, source, value)));
        let Some((of, mut source, value)) = found else { return Err(Error::NotFound { key: key.clone() }) };
        let annotation = view.source(&of.resource).and_then(|source| source.evict);
        let Some(annotation) = annotation else {
            return Err(Error::View { key: key.clone(), instead: view.instead });
        };
        if rules::is_deleting(&value) {
            return Ok(value);
        }
        // Those asked for before and still there; one that is back under its old name is not asked for again.
        let shows = entries(&key.resource, view, &of.resource, Some(&source));
        let going = |name: &&str| shows.iter().any(|(key, value)| key.name == **name && rules::is_deleting(value));
        let before = source["metadata"]["annotations"][annotation].as_str().unwrap_or_default().to_owned();
        let asked = before.split(',').filter(going).chain([key.name.as_str()]);
        let mut asked = asked.collect::<Vec<_>>().join(",");
        if asked == before {
            asked.push(','); // what does not change would be no news
        }
        source["metadata"]["annotations"][annotation] = asked.into();
        let source = self.inner.put(&of, Expect::Revision(revision), source).await?;
        shown(&of, &source).ok_or_else(|| Error::NotFound { key: key.clone() })
    }
}

#[async_trait::async_trait]
impl Store for Views {
    async fn get(&self, key: &Key) -> Result<Option<Value>, Error> {
        let Some(view) = view(&key.resource) else { return self.inner.get(key).await };
        let (shown, _) = self.shown(&key.resource, view, Some(&key.namespace)).await?;
        Ok(shown.into_iter().find(|(found, _)| found == key).map(|(_, value)| value))
    }

    async fn list_of(&self, resources: &[&str], namespace: Option<&str>) -> Result<(Vec<(Key, Value)>, u64), Error> {
        match resources {
            [resource] if let Some(view) = view(resource) => self.shown(resource, view, namespace).await,
            _ => self.inner.list_of(resources, namespace).await,
        }
    }

    async fn put(&self, key: &Key, expect: Expect, value: Value) -> Result<Value, Error> {
        writable(key)?;
        self.inner.put(key, expect, value).await
    }

    async fn delete(&self, key: &Key, revision: u64) -> Result<Value, Error> {
        match view(&key.resource) {
            Some(view) => self.evict(key, view, revision).await,
            None => self.inner.delete(key, revision).await,
        }
    }

    async fn watch_of(&self, resources: &[&str], namespace: Option<&str>, since: u64) -> Result<Watch, Error> {
        let (resource, view) = match resources {
            [resource] if let Some(view) = view(resource) => ((*resource).to_owned(), view),
            _ => return self.inner.watch_of(resources, namespace, since).await,
        };
        let sources = self.inner.watch_of(&view.resources(), namespace, since).await?;
        let changes = sources.flat_map(move |change| {
            stream::iter(match change {
                Ok(change) => changes(&resource, view, &change).into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            })
        });
        Ok(Box::pin(changes))
    }

    async fn revision(&self) -> Result<u64, Error> {
        self.inner.revision().await
    }

    async fn all(&self) -> Result<Vec<(Key, Value)>, Error> {
        self.inner.all().await
    }

    async fn compact(&self, through: u64) -> Result<(), Error> {
        self.inner.compact(through).await
    }
}

/// The view of this name, if it is one.
fn view(resource: &str) -> Option<&'static View> {
    registry::resources().iter().find(|r| r.view.is_some() && r.qualified() == resource)?.view.as_ref()
}

fn writable(key: &Key) -> Result<(), Error> {
    match view(&key.resource) {
        Some(view) => Err(Error::View { key: key.clone(), instead: view.instead }),
        None => Ok(()),
    }
}

/// What `source` shows, by key.
fn entries(resource: &str, view: &View, source_resource: &str, source: Option<&Value>) -> BTreeMap<Key, Value> {
    let shown = source.map(|source| view.of(source_resource, source)).unwrap_or_default();
    shown.into_iter().map(|value| (key_of(resource, &value), value)).collect()
}

/// A change of a source as changes of what it shows, all at its revision.
fn changes(resource: &str, view: &View, change: &Change) -> Vec<Change> {
    let of = |side: &Option<Value>| entries(resource, view, &change.key.resource, side.as_ref());
    let (mut old, mut new) = (of(&change.old), of(&change.new));
    let keys: Vec<Key> = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))).cloned().collect();
    let one = |key: Key| {
        let (old, new) = (old.remove(&key), new.remove(&key));
        let same = matches!((&old, &new), (Some(old), Some(new)) if unversioned(old) == unversioned(new));
        (!same).then_some(Change { key, revision: change.revision, old, new })
    };
    keys.into_iter().filter_map(one).collect()
}

/// The resourceVersion alone is no news: it is the source's.
fn unversioned(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    value
}
