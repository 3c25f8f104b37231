//! The registry's views, such as Pods, over a store: objects that are computed from the status of others and
//! are read-only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use serde_json::Value;

use super::objects::key_of;
use super::{Change, Error, Expect, Key, Listed, Store, Watch, rules};
use crate::api::registry;
use crate::api::resource::View;

/// A [`Store`] with the registry's views added to `inner`.
pub struct Views {
    inner: Arc<dyn Store>,
}

impl Views {
    /// The views over the objects of this store.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner }
    }

    /// The objects of the view in this snapshot of its sources, ordered by key.
    async fn shown(
        &self,
        resource: &str,
        view: &View,
        namespace: Option<&str>,
        at: Option<u64>,
    ) -> Result<Listed, Error> {
        let (sources, revision) = self.inner.list_at(&view.resources(), namespace, at).await?;
        let each = sources.iter().flat_map(|(key, source)| entries(resource, view, &key.resource, Some(source)));
        // Two owners may show the same name for a short time; then only one is returned.
        Ok((each.collect::<BTreeMap<_, _>>().into_iter().collect(), revision))
    }

    /// The source that shows the object at `key`, and the object.
    async fn source(&self, key: &Key, view: &View) -> Result<(Key, Arc<Value>, Arc<Value>), Error> {
        let (sources, _) = self.inner.list_of(&view.resources(), Some(&key.namespace)).await?;
        let shown = |(of, source): (Key, Arc<Value>)| {
            let value = entries(&key.resource, view, &of.resource, Some(&source)).remove(key)?;
            Some((of, source, value))
        };
        sources.into_iter().find_map(shown).ok_or_else(|| Error::NotFound { key: key.clone() })
    }

    /// Changes the source of the object at `key` as the object was changed; refused if that would change it otherwise.
    async fn accept(&self, key: &Key, view: &View, expect: Expect, value: &Value) -> Result<Value, Error> {
        let refused = || Error::View { key: key.clone(), instead: view.instead };
        let Expect::Revision(revision) = expect else { return Err(refused()) };
        let (of, source, _) = self.source(key, view).await?;
        let accept = view.source(&of.resource).and_then(|source| source.accept).ok_or_else(refused)?;
        let mut source = Value::clone(&source);
        accept(&mut source, value);
        let shown = |source: &Value| {
            let shown = entries(&key.resource, view, &of.resource, Some(source)).remove(key);
            shown.map(|value| Value::clone(&value)).ok_or_else(|| Error::NotFound { key: key.clone() })
        };
        if !same_but_for_writer(&shown(&source)?, value) {
            return Err(refused());
        }
        shown(&self.inner.put(&of, Expect::Revision(revision), source).await?)
    }

    /// Evicts the object at `key`: asks its source by annotation to replace it. Returns it with a `deletionTimestamp`.
    async fn evict(&self, key: &Key, view: &View, revision: u64) -> Result<Value, Error> {
        let shown = |of: &Key, source: &Value| entries(&key.resource, view, &of.resource, Some(source)).remove(key);
        let (of, source, value) = self.source(key, view).await?;
        let annotation =
            view.source(&of.resource).and_then(|source| source.evict.as_ref()).map(|evict| evict.annotation);
        let Some(annotation) = annotation else {
            return Err(Error::View { key: key.clone(), instead: view.instead });
        };
        if rules::is_deleting(&value) {
            return Ok(Value::clone(&value));
        }
        let mut source = Value::clone(&source);
        // Earlier evictions that are not finished; a pod that came back under its old name is not evicted again.
        let shows = entries(&key.resource, view, &of.resource, Some(&source));
        let going = |name: &&str| shows.iter().any(|(key, value)| key.name == **name && rules::is_deleting(value));
        let before = source["metadata"]["annotations"][annotation].as_str().unwrap_or_default().to_owned();
        let asked = before.split(',').filter(going).chain([key.name.as_str()]);
        let mut asked = asked.collect::<Vec<_>>().join(",");
        if asked == before {
            asked.push(','); // an unchanged annotation would not change the object
        }
        source["metadata"]["annotations"][annotation] = asked.into();
        let source = self.inner.put(&of, Expect::Revision(revision), source).await?;
        shown(&of, &source).map(|value| Value::clone(&value)).ok_or_else(|| Error::NotFound { key: key.clone() })
    }
}

#[async_trait::async_trait]
impl Store for Views {
    fn replica(&self) -> Option<(Arc<dyn Store>, Duration)> {
        let (inner, age) = self.inner.replica()?;
        Some((Arc::new(Self::new(inner)), age))
    }

    async fn generation(&self) -> Result<u64, Error> {
        self.inner.generation().await
    }

    async fn get(&self, key: &Key) -> Result<Option<Value>, Error> {
        let Some(view) = view(&key.resource) else { return self.inner.get(key).await };
        let (shown, _) = self.shown(&key.resource, view, Some(&key.namespace), None).await?;
        Ok(shown.into_iter().find(|(found, _)| found == key).map(|(_, value)| Value::clone(&value)))
    }

    async fn list_at(&self, resources: &[&str], namespace: Option<&str>, at: Option<u64>) -> Result<Listed, Error> {
        match resources {
            [resource] if let Some(view) = view(resource) => self.shown(resource, view, namespace, at).await,
            _ => self.inner.list_at(resources, namespace, at).await,
        }
    }

    async fn owned_by(&self, uid: &str) -> Result<Vec<(Key, Value)>, Error> {
        self.inner.owned_by(uid).await
    }

    async fn put(&self, key: &Key, expect: Expect, value: Value) -> Result<Value, Error> {
        match view(&key.resource) {
            Some(view) => self.accept(key, view, expect, &value).await,
            None => self.inner.put(key, expect, value).await,
        }
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

    async fn all(&self) -> Result<Vec<(Key, Arc<Value>)>, Error> {
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

/// The objects that `source` shows, by key.
fn entries(resource: &str, view: &View, source_resource: &str, source: Option<&Value>) -> BTreeMap<Key, Arc<Value>> {
    let shown = source.map(|source| view.of(source_resource, source)).unwrap_or_default();
    shown.into_iter().map(|value| (key_of(resource, &value), Arc::new(value))).collect()
}

/// A change of a source as changes of the objects that it shows, all at its revision.
fn changes(resource: &str, view: &View, change: &Change) -> Vec<Change> {
    let of = |side: &Option<Arc<Value>>| entries(resource, view, &change.key.resource, side.as_deref());
    let (mut old, mut new) = (of(&change.old), of(&change.new));
    let keys: Vec<Key> = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))).cloned().collect();
    let one = |key: Key| {
        let (old, new) = (old.remove(&key), new.remove(&key));
        let same = matches!((&old, &new), (Some(old), Some(new)) if unversioned(old) == unversioned(new));
        (!same).then_some(Change { key, revision: change.revision, old, new })
    };
    keys.into_iter().filter_map(one).collect()
}

/// Whether two states of an object differ only in what the store and the API write themselves.
fn same_but_for_writer(one: &Value, other: &Value) -> bool {
    let rest = |value: &Value| {
        let mut rest = unversioned(value);
        if let Some(metadata) = rest.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
            metadata.remove("generation");
        }
        rest
    };
    rest(one) == rest(other)
}

/// The object without its resourceVersion, which is its source's; a new one alone is not a change.
fn unversioned(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    value
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::FutureExt as _;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::store::{MemoryStore, revision_of};

    const PODS: &str = "pods";

    /// An owner and its pods at that step; none if it is deleted.
    type Step = (u8, Option<Vec<(u8, bool)>>);

    fn owner(resource: &str, name: &str) -> Key {
        Key { resource: resource.into(), namespace: "n".into(), name: name.into() }
    }

    fn pod(name: &str) -> Key {
        owner(PODS, name)
    }

    /// A Deployment with these pods, some ready.
    fn deployment(name: &str, pods: &[(u8, bool)]) -> Value {
        let pods = pods.iter().map(|(ordinal, ready)| json!({"name": format!("{name}-{ordinal}"), "host": "local", "phase": "Running", "ready": ready}));
        json!({
            "metadata": {"name": name, "namespace": "n", "uid": name, "creationTimestamp": "2026-01-02T03:04:05Z"},
            "status": {"pods": pods.collect::<Vec<_>>(), "decisions": {}},
        })
    }

    async fn write(store: &dyn Store, key: &Key, value: Value) {
        let found = store.get(key).await.unwrap();
        let expect = found.and_then(|found| revision_of(&found)).map_or(Expect::Absent, Expect::Revision);
        store.put(key, expect, value).await.unwrap();
    }

    async fn ordinals(store: &Views) -> Vec<String> {
        let (pods, _) = store.list(PODS, Some("n")).await.unwrap();
        pods.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }

    #[tokio::test]
    async fn a_deleted_pod_is_asked_of_its_deployment_and_answered_as_going() {
        let store = Views::new(Arc::new(MemoryStore::new()));
        let web = owner("deployments.apps", "web");
        write(&store, &web, deployment("web", &[(1, true), (2, true)])).await;
        let asked =
            async || store.get(&web).await.unwrap().unwrap()["metadata"]["annotations"]["evenkeel.dev/evict"].clone();
        let delete = async |name: &str| {
            let revision = revision_of(&store.get(&pod(name)).await.unwrap().unwrap()).unwrap();
            store.delete(&pod(name), revision).await.unwrap()
        };
        assert!(rules::is_deleting(&delete("web-1").await));
        assert_eq!(asked().await, "web-1");
        delete("web-1").await;
        assert_eq!(asked().await, "web-1", "once is enough");
        delete("web-2").await;
        assert_eq!(asked().await, "web-1,web-2");
        // Both evictions were done, and a pod is back under the old name.
        let mut replaced = deployment("web", &[(1, true), (3, true)]);
        replaced["metadata"]["annotations"] = json!({"evenkeel.dev/evict": "web-1"});
        replaced["status"]["decisions"]["evicted"] = "web-1".into();
        write(&store, &web, replaced).await;
        assert!(!rules::is_deleting(&store.get(&pod("web-1")).await.unwrap().unwrap()));
        delete("web-1").await;
        assert_eq!(asked().await, "web-1,", "the same words again would be no news");
        assert_eq!(ordinals(&store).await, ["web-1", "web-3"]);
    }

    /// Regression 65: there were no Nodes: `kubectl get nodes` and `cordon` failed with "doesn't have a resource type".
    /// They are a view of the DockerHosts, and a change of a Node is one of its DockerHost.
    #[tokio::test]
    async fn a_node_is_cordoned_through_its_host_and_nothing_else_of_it_can_be_changed() {
        let store = Views::new(Arc::new(MemoryStore::new()));
        let host = Key::new("dockerhosts.evenkeel.dev", "", "a");
        write(&store, &host, json!({"metadata": {"name": "a"}, "spec": {"endpoint": "unix:///x"}})).await;
        let key = Key::new("nodes", "", "a");
        let mut node = store.get(&key).await.unwrap().unwrap();
        node["spec"]["unschedulable"] = true.into();
        let node = store.put(&key, Expect::Revision(1), node).await.unwrap();
        assert_eq!((&node["spec"]["unschedulable"], revision_of(&node)), (&json!(true), Some(2)));
        assert_eq!(store.get(&host).await.unwrap().unwrap()["spec"]["unschedulable"], true);
        let mut tainted = node.clone();
        tainted["spec"]["taints"] = json!([{"key": "x", "effect": "NoSchedule"}]);
        assert!(matches!(store.put(&key, Expect::Revision(2), tainted).await, Err(Error::View { .. })));
        assert!(matches!(store.put(&key, Expect::Revision(1), node).await, Err(Error::Conflict { .. })));
        let (_, revision) = store.list("nodes", None).await.unwrap();
        assert_eq!(revision, 2);
    }

    #[tokio::test]
    async fn what_cannot_be_asked_for_is_refused_with_words() {
        let store = Views::new(Arc::new(MemoryStore::new()));
        let cluster =
            json!({"metadata": {"name": "db", "namespace": "n"}, "status": {"instances": [{"name": "db-1"}]}});
        write(&store, &owner("postgresclusters.evenkeel.dev", "db"), cluster).await;
        assert!(matches!(store.delete(&pod("db-1"), 1).await, Err(Error::View { .. })));
        assert!(matches!(store.put(&pod("x"), Expect::Absent, json!({"metadata": {}})).await, Err(Error::View { .. })));
        assert!(matches!(store.delete(&pod("x"), 1).await, Err(Error::NotFound { .. })));
        assert_eq!(ordinals(&store).await, ["db-1"]);
    }

    #[tokio::test]
    async fn a_namespace_shows_its_own_alone() {
        let store = Views::new(Arc::new(MemoryStore::new()));
        let mut elsewhere = deployment("web", &[(1, true)]);
        elsewhere["metadata"]["namespace"] = "m".into();
        let key = Key { namespace: "m".into(), ..owner("deployments.apps", "web") };
        write(&store, &key, elsewhere).await;
        assert_eq!(ordinals(&store).await, Vec::<String>::new());
        assert_eq!(store.list(PODS, None).await.unwrap().0.len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_watch_from_any_revision_replays_to_what_a_list_shows(
            steps in prop::collection::vec((0..3u8, prop::option::of(prop::collection::vec((0..4u8, any::<bool>()), 0..4))), 1..16)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(replays(steps))?;
        }
    }

    /// A few owners are created, changed and deleted; a watch from any listed state must lead to the last state.
    async fn replays(steps: Vec<Step>) -> Result<(), TestCaseError> {
        let store = Views::new(Arc::new(MemoryStore::new()));
        let shown = async || {
            let (pods, revision) = store.list_of(&[PODS], None).await.unwrap();
            (pods.into_iter().map(|(key, pod)| (key, unversioned(&pod))).collect::<BTreeMap<_, _>>(), revision)
        };
        let mut states = vec![shown().await];
        for (which, pods) in steps {
            let key = owner("deployments.apps", &format!("d{which}"));
            match (pods, store.get(&key).await.unwrap()) {
                (Some(pods), _) => {
                    let unique: BTreeMap<u8, bool> = pods.into_iter().collect();
                    let pods: Vec<(u8, bool)> = unique.into_iter().collect();
                    write(&store, &key, deployment(&key.name, &pods)).await;
                }
                (None, Some(found)) => drop(store.delete(&key, revision_of(&found).unwrap()).await.unwrap()),
                (None, None) => {}
            }
            states.push(shown().await);
        }
        let (last, newest) = states.last().unwrap().clone();
        for (mut state, since) in states {
            let mut watch = store.watch(PODS, None, since).await.unwrap();
            while let Some(Some(change)) = watch.next().now_or_never() {
                let change = change.unwrap();
                prop_assert!(since < change.revision && change.revision <= newest);
                prop_assert_eq!(change.old.as_deref().map(unversioned), state.get(&change.key).cloned());
                match change.new {
                    Some(new) => drop(state.insert(change.key, unversioned(&new))),
                    None => drop(state.remove(&change.key)),
                }
            }
            prop_assert_eq!(&state, &last);
        }
        Ok(())
    }
}
