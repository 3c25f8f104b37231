//! The Kubernetes rules as a client sees them, over the memory store and a clock that stands still.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use evenkeel::runtime::clock::TestClock;
use evenkeel::store::events::{NewEvent, Severity};
use evenkeel::store::objects::{Deleted, Part, Preconditions};
use evenkeel::store::rules::{finalizers, is_deleting, uid_of};
use evenkeel::store::seal::new_key;
use evenkeel::store::{
    Clock, Error, Expect, Key, Listed, MemoryStore, Objects, Seal, SqliteStore, Store, Watch, revision_of,
};
use expect_test::expect;
use futures::future::join_all;
use serde_json::{Value, json};

fn setup() -> (Objects, Arc<TestClock>) {
    let clock = Arc::new(TestClock::still("2026-01-02T03:04:05.678Z".parse().unwrap()));
    (Objects::new(Arc::new(MemoryStore::new()), clock.clone()), clock)
}

fn key(resource: &str, name: &str) -> Key {
    Key { resource: resource.into(), namespace: "default".into(), name: name.into() }
}

fn cluster(spec: u32) -> Value {
    json!({"apiVersion": "v1", "kind": "Toy", "metadata": {}, "spec": spec, "status": "sent by the client"})
}

/// `value` with the field at a path such as `/metadata/labels` set.
fn with(mut value: Value, path: &str, to: Value) -> Value {
    let (parent, field) = path.rsplit_once('/').unwrap();
    value.pointer_mut(parent).unwrap()[field] = to;
    value
}

/// `generation`, resourceVersion, spec and status of an object.
fn short(value: &Value) -> String {
    let metadata = &value["metadata"];
    format!(
        "generation {} revision {} spec {} status {}",
        metadata["generation"],
        metadata["resourceVersion"].as_str().unwrap(),
        value["spec"],
        value["status"]
    )
}

#[tokio::test]
async fn a_new_object_gets_its_identity_and_no_status() {
    let (objects, _) = setup();
    let sent = with(cluster(1), "/metadata", json!({"labels": {"a": "b"}, "uid": "mine", "generation": 7}));
    let made = objects.create(&key("toys", "a"), sent).await.unwrap();
    let text = serde_json::to_string_pretty(&made).unwrap();
    expect![[r#"
        {
          "apiVersion": "v1",
          "kind": "Toy",
          "metadata": {
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "generation": 1,
            "labels": {
              "a": "b"
            },
            "name": "a",
            "namespace": "default",
            "resourceVersion": "1",
            "uid": "e220a839-7b1d-4daf-ae78-9e6aa1b965f4"
          },
          "spec": 1
        }"#]]
    .assert_eq(&text);
    assert_eq!(objects.get::<Value>(&key("toys", "a")).await.unwrap(), Some(made));
}

#[tokio::test]
async fn plain_data_has_no_generation_and_keeps_a_field_called_status() {
    let (objects, _) = setup();
    let made = objects.create(&key("configmaps", "a"), json!({"metadata": {}, "status": "mine"})).await.unwrap();
    assert_eq!((&made["status"], &made["metadata"]["generation"]), (&json!("mine"), &Value::Null));
    let error = objects.update_status(&key("configmaps", "a"), made).await.unwrap_err();
    assert_eq!(error.to_string(), "configmaps/default/a: this resource has no status");
}

#[tokio::test]
async fn a_name_can_be_made_and_cannot_be_contradicted() {
    let (objects, _) = setup();
    let sent = json!({"metadata": {"generateName": "toy-"}});
    let unnamed = key("toys", "");
    let (one, two) = tokio::join!(objects.create(&unnamed, sent.clone()), objects.create(&unnamed, sent));
    let name = |made: Result<Value, Error>| made.unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
    let (one, two) = (name(one), name(two));
    assert!(one != two && one.starts_with("toy-") && one.len() == 9, "{one} {two}");
    let error = objects.create(&key("toys", "a"), json!({"metadata": {"name": "b"}})).await.unwrap_err();
    assert_eq!(error.to_string(), r#"toys/default/a: metadata.name is "b", which is not what was addressed ("a")"#);
}

#[tokio::test]
async fn generation_counts_changes_of_what_people_decide() {
    let (objects, _) = setup();
    let toy = key("toys", "a");
    let made = objects.create(&toy, cluster(1)).await.unwrap();
    let same = objects.update(&toy, with(made.clone(), "/status", json!("ignored"))).await.unwrap();
    assert_eq!(short(&same), "generation 1 revision 1 spec 1 status null");
    let labelled = with(made.clone(), "/metadata/labels", json!({"a": "b"}));
    let labelled = objects.update(&toy, labelled).await.unwrap();
    assert_eq!(short(&labelled), "generation 1 revision 2 spec 1 status null");
    let changed = objects.update(&toy, with(labelled, "/spec", json!(2))).await.unwrap();
    assert_eq!(short(&changed), "generation 2 revision 3 spec 2 status null");
    let stated = objects.update_status(&toy, with(with(changed, "/spec", json!(9)), "/status", json!("fine"))).await;
    assert_eq!(short(&stated.unwrap()), "generation 2 revision 4 spec 2 status \"fine\"");
    let kept = objects.update(&toy, cluster(3)).await.unwrap();
    assert_eq!(short(&kept), "generation 3 revision 5 spec 3 status \"fine\"");
    assert_eq!(uid_of(&kept), uid_of(&made));
    assert_eq!(kept["metadata"]["creationTimestamp"], made["metadata"]["creationTimestamp"]);
    assert_eq!(kept["metadata"]["labels"], Value::Null);
}

#[tokio::test]
async fn a_write_of_an_outdated_state_is_a_conflict_and_one_without_a_state_is_not() {
    let (objects, _) = setup();
    let toy = key("toys", "a");
    let old = objects.create(&toy, cluster(1)).await.unwrap();
    objects.update(&toy, cluster(2)).await.unwrap();
    for outcome in [
        objects.update(&toy, with(old.clone(), "/spec", json!(3))).await,
        objects.update_status(&toy, with(old.clone(), "/status", json!("late"))).await,
    ] {
        assert!(matches!(outcome, Err(Error::Conflict { expected: 1, found: Some(2), .. })), "{outcome:?}");
    }
    let odd = with(old, "/metadata/resourceVersion", json!("x1"));
    assert!(matches!(objects.update(&toy, odd).await, Err(Error::Malformed { .. })));
}

#[tokio::test]
async fn writers_that_modify_all_get_their_turn() {
    let (objects, _) = setup();
    let toy = key("toys", "a");
    objects.create(&toy, cluster(0)).await.unwrap();
    let more = |old: Value| {
        let spec = old["spec"].as_u64().unwrap() + 1;
        Ok::<_, Error>(with(old, "/spec", json!(spec)))
    };
    let outcomes = join_all((0..4).map(|_| objects.modify(&toy, Part::Main, more))).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(objects.get::<Value>(&toy).await.unwrap().unwrap()["spec"], 4);
}

#[tokio::test]
async fn an_object_made_again_under_its_name_is_another() {
    let (objects, _) = setup();
    let toy = key("toys", "a");
    let first = objects.create(&toy, cluster(1)).await.unwrap();
    objects.delete(&toy, &Preconditions::default()).await.unwrap();
    objects.create(&toy, cluster(1)).await.unwrap();
    let uid = uid_of(&first).map(str::to_owned);
    let error = objects.delete(&toy, &Preconditions { uid, revision: None }).await.unwrap_err();
    assert!(matches!(error, Error::Replaced { .. }), "{error}");
    let unpinned = with(first, "/metadata/resourceVersion", Value::Null);
    assert!(matches!(objects.update(&toy, unpinned).await, Err(Error::Replaced { .. })));
}

#[tokio::test]
async fn a_deletion_waits_for_the_finalizers() {
    let (objects, clock) = setup();
    let toy = key("toys", "a");
    let held = with(cluster(1), "/metadata", json!({"finalizers": ["one", "two"]}));
    let made = objects.create(&toy, held).await.unwrap();
    let stale = Preconditions { revision: Some(99), ..Preconditions::default() };
    assert!(matches!(objects.delete(&toy, &stale).await, Err(Error::Conflict { .. })));

    let Deleted::Pending(marked) = objects.delete(&toy, &Preconditions::default()).await.unwrap() else { panic!() };
    assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-02T03:04:05Z");
    assert_eq!(marked["metadata"]["generation"], 2);
    clock.advance(Duration::from_secs(60));
    let again = objects.delete(&toy, &Preconditions::default()).await.unwrap();
    assert_eq!(again, Deleted::Pending(marked.clone()));

    let revived = with(made, "/metadata/resourceVersion", Value::Null);
    let still = objects.update(&toy, revived).await.unwrap();
    assert!(is_deleting(&still), "nobody but the server ends a deletion");
    let more = with(still.clone(), "/metadata/finalizers", json!(["one", "two", "three"]));
    assert!(matches!(objects.update(&toy, more).await, Err(Error::Malformed { .. })));

    let one = objects.update(&toy, with(still, "/metadata/finalizers", json!(["two"]))).await.unwrap();
    assert_eq!(finalizers(&one), ["two"]);
    objects.update(&toy, with(one, "/metadata/finalizers", json!([]))).await.unwrap();
    assert_eq!(objects.get::<Value>(&toy).await.unwrap(), None);
    assert!(matches!(objects.delete(&toy, &Preconditions::default()).await, Err(Error::NotFound { .. })));
}

async fn owned(objects: &Objects, resource: &str, name: &str, owners: &[&str]) {
    let owners: Vec<Value> = owners.iter().map(|uid| json!({"uid": uid})).collect();
    let value = json!({"metadata": {"ownerReferences": owners}});
    objects.create(&key(resource, name), value).await.unwrap();
}

async fn names(objects: &Objects) -> String {
    let all = objects.store().all().await.unwrap();
    all.iter().map(|(key, _)| key.name.as_str()).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn what_an_object_owns_goes_with_it() {
    let (objects, _) = setup();
    let mut uids = Vec::new();
    for name in ["a", "b"] {
        let made = objects.create(&key("toys", name), cluster(1)).await.unwrap();
        uids.push(uid_of(&made).unwrap().to_owned());
    }
    owned(&objects, "secrets", "of-a", &[&uids[0]]).await;
    owned(&objects, "secrets", "of-both", &[&uids[0], &uids[1]]).await;
    owned(&objects, "secrets", "of-b", &[&uids[1]]).await;
    let child = objects.get::<Value>(&key("secrets", "of-a")).await.unwrap().unwrap();
    owned(&objects, "configmaps", "of-of-a", &[uid_of(&child).unwrap()]).await;
    objects.delete(&key("toys", "a"), &Preconditions::default()).await.unwrap();
    assert_eq!(names(&objects).await, "of-b of-both b");
    objects.delete(&key("toys", "b"), &Preconditions::default()).await.unwrap();
    assert_eq!(names(&objects).await, "");
}

#[tokio::test]
async fn a_sweep_removes_what_a_crash_left_without_owner() {
    let (objects, _) = setup();
    let made = objects.create(&key("toys", "a"), cluster(1)).await.unwrap();
    owned(&objects, "secrets", "of-a", &[uid_of(&made).unwrap()]).await;
    assert_eq!(objects.sweep().await.unwrap(), 0);
    // Deleted in the store itself, as if the operator had died before it deleted the owned objects.
    objects.store().delete(&key("toys", "a"), revision_of(&made).unwrap()).await.unwrap();
    assert_eq!(objects.sweep().await.unwrap(), 1);
    assert_eq!(names(&objects).await, "");
}

fn new_event(clock: &TestClock, message: &str) -> NewEvent {
    NewEvent { severity: Severity::Normal, reason: "Promoted".into(), message: message.into(), at: clock.now() }
}

#[tokio::test]
async fn the_same_event_again_is_counted() {
    let (objects, clock) = setup();
    let about = objects.create(&key("toys", "a"), cluster(1)).await.unwrap();
    objects.record_event(&about, &new_event(&clock, "a-2 is primary")).await.unwrap();
    clock.advance(Duration::from_secs(10));
    objects.record_event(&about, &new_event(&clock, "a-3 is primary")).await.unwrap();
    let event = objects.record_event(&about, &new_event(&clock, "a-2 is primary")).await.unwrap();
    let text = serde_json::to_string_pretty(&event).unwrap();
    expect![[r#"
        {
          "apiVersion": "v1",
          "count": 2,
          "eventTime": "2026-01-02T03:04:15.678000Z",
          "firstTimestamp": "2026-01-02T03:04:05Z",
          "involvedObject": {
            "apiVersion": "v1",
            "kind": "Toy",
            "name": "a",
            "namespace": "default",
            "resourceVersion": "1",
            "uid": "e220a839-7b1d-4daf-ae78-9e6aa1b965f4"
          },
          "kind": "Event",
          "lastTimestamp": "2026-01-02T03:04:15Z",
          "message": "a-2 is primary",
          "metadata": {
            "creationTimestamp": "2026-01-02T03:04:05Z",
            "name": "a.002b25e9dd01e638",
            "namespace": "default",
            "resourceVersion": "4",
            "uid": "06c45d18-8009-454f-b88b-b8a8724c81ec"
          },
          "reason": "Promoted",
          "reportingComponent": "evenkeel",
          "reportingInstance": "",
          "source": {
            "component": "evenkeel"
          },
          "type": "Normal"
        }"#]]
    .assert_eq(&text);
    assert_eq!(objects.list::<Value>("events", None).await.unwrap().0.len(), 2);
}

#[tokio::test]
async fn events_recorded_at_once_are_all_counted() {
    let (objects, clock) = setup();
    let about = objects.create(&key("toys", "a"), cluster(1)).await.unwrap();
    let same = new_event(&clock, "a-2 is primary");
    let outcomes = join_all((0..4).map(|_| objects.record_event(&about, &same))).await;
    let counts: Vec<u64> = outcomes.into_iter().map(|event| event.unwrap()["count"].as_u64().unwrap()).collect();
    assert_eq!(counts.iter().max(), Some(&4), "{counts:?}");
}

#[tokio::test]
async fn an_event_is_kept_for_an_hour_after_it_last_happened() {
    let (objects, clock) = setup();
    let about = objects.create(&key("toys", "a"), cluster(1)).await.unwrap();
    objects.record_event(&about, &new_event(&clock, "once")).await.unwrap();
    objects.record_event(&about, &new_event(&clock, "twice")).await.unwrap();
    clock.advance(Duration::from_secs(1800));
    objects.record_event(&about, &new_event(&clock, "twice")).await.unwrap();
    clock.advance(Duration::from_secs(1801));
    assert_eq!(objects.sweep().await.unwrap(), 1);
    let (left, _) = objects.list::<Value>("events", None).await.unwrap();
    assert_eq!(left.iter().map(|event| event["message"].as_str().unwrap()).collect::<Vec<_>>(), ["twice"]);
}

#[tokio::test]
async fn a_listed_object_that_is_not_what_was_asked_for_is_named() {
    let (objects, _) = setup();
    objects.create(&key("toys", "a"), cluster(1)).await.unwrap();
    let error = objects.list::<Vec<u32>>("toys", None).await.unwrap_err();
    assert!(error.to_string().starts_with("toys/default/a: invalid type: map"), "{error}");
}

/// A store that counts the objects that it returns.
struct Counting {
    inner: Arc<dyn Store>,
    read: AtomicUsize,
}

impl Counting {
    fn count<T>(&self, objects: Vec<T>) -> Vec<T> {
        self.read.fetch_add(objects.len(), Ordering::Relaxed);
        objects
    }
}

#[async_trait::async_trait]
impl Store for Counting {
    async fn get(&self, key: &Key) -> Result<Option<Value>, Error> {
        let found = self.inner.get(key).await?;
        Ok(self.count(found.into_iter().collect()).pop())
    }

    async fn list_at(&self, resources: &[&str], namespace: Option<&str>, at: Option<u64>) -> Result<Listed, Error> {
        let (found, revision) = self.inner.list_at(resources, namespace, at).await?;
        Ok((self.count(found), revision))
    }

    async fn owned_by(&self, uid: &str) -> Result<Vec<(Key, Value)>, Error> {
        Ok(self.count(self.inner.owned_by(uid).await?))
    }

    async fn put(&self, key: &Key, expect: Expect, value: Value) -> Result<Value, Error> {
        self.inner.put(key, expect, value).await
    }

    async fn delete(&self, key: &Key, revision: u64) -> Result<Value, Error> {
        self.inner.delete(key, revision).await
    }

    async fn watch_of(&self, resources: &[&str], namespace: Option<&str>, since: u64) -> Result<Watch, Error> {
        self.inner.watch_of(resources, namespace, since).await
    }

    async fn revision(&self) -> Result<u64, Error> {
        self.inner.revision().await
    }

    async fn all(&self) -> Result<Vec<(Key, Arc<Value>)>, Error> {
        Ok(self.count(self.inner.all().await?))
    }

    async fn compact(&self, through: u64) -> Result<(), Error> {
        self.inner.compact(through).await
    }
}

/// Number of objects that a deletion of an owner with two owned objects reads, in a store with `others` more objects.
async fn read_by_a_deletion(inner: Arc<dyn Store>, others: usize) -> usize {
    let made = (0..others).map(|n| {
        let inner = &inner;
        async move {
            let value = json!({"metadata": {"uid": format!("uid-{n}")}});
            inner.put(&key("configmaps", &format!("other-{n}")), Expect::Absent, value).await.unwrap();
        }
    });
    join_all(made).await;
    let counting = Arc::new(Counting { inner, read: AtomicUsize::new(0) });
    let objects = Objects::new(counting.clone(), setup().1);
    let owner = objects.create(&key("toys", "owner"), cluster(1)).await.unwrap();
    for name in ["owned-1", "owned-2"] {
        let owned = with(cluster(1), "/metadata/ownerReferences", json!([{"uid": uid_of(&owner)}]));
        objects.create(&key("toys", name), owned).await.unwrap();
    }
    counting.read.store(0, Ordering::Relaxed);
    objects.delete(&key("toys", "owner"), &Preconditions::default()).await.unwrap();
    let read = counting.read.load(Ordering::Relaxed);
    assert!(counting.list("toys", None).await.unwrap().0.is_empty());
    read
}

/// Regression 29: a delete read and parsed every object of the store to find those that the deleted object owned: 57 ms
/// at 3,000 objects, 45 s for 1,000 deletions. Owners are an index of the store now.
#[tokio::test]
async fn a_delete_reads_the_same_however_much_the_store_holds() {
    let folder = tempfile::tempdir().unwrap();
    let seal = || Seal::parse(&new_key()).unwrap();
    let sqlite = async |name: &str| Arc::new(SqliteStore::open(folder.path().join(name), seal()).await.unwrap());
    let small = read_by_a_deletion(sqlite("small.db").await, 200).await;
    let large = read_by_a_deletion(sqlite("large.db").await, 6_000).await;
    assert_eq!(small, large);
    // The owner, and each owned object twice: once to find it and once to delete it.
    assert_eq!(read_by_a_deletion(Arc::new(MemoryStore::new()), 6_000).await, 5);
    assert_eq!(large, 5);
}
