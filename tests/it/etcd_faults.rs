//! The store on etcd while members die, freeze and lose their quorum. Runs only with EVENKEEL_TEST_DOCKER=1.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use evenkeel::api::failure::{Class, Classify as _};
use evenkeel::runtime::clock::instant;
use evenkeel::store::{Error, EtcdStore, Expect, Key, Store, Watch, revision_of};
use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::etcd::{self, Bench, MEMBERS};

fn key(name: &str) -> Key {
    Key::new("toys", "default", name)
}

fn object(text: &str) -> Value {
    json!({"metadata": {}, "text": text})
}

async fn create(store: &EtcdStore, name: &str) -> Result<u64, Error> {
    Ok(revision_of(&store.put(&key(name), Expect::Absent, object("x")).await?).unwrap())
}

/// Creates an object, again while the outcome is not known; `None`: it was written by a try whose answer did not come.
async fn create_surely(store: &EtcdStore, name: &str) -> Option<u64> {
    written_surely(store, name, &object("x")).await
}

async fn written_surely(store: &EtcdStore, name: &str, what: &Value) -> Option<u64> {
    for _ in 0..100 {
        match store.put(&key(name), Expect::Absent, what.clone()).await {
            Ok(written) => return revision_of(&written),
            Err(Error::AlreadyExists { .. }) => return None,
            Err(error) => assert_eq!(error.class(), Class::Transient, "{error}"),
        }
    }
    panic!("{name} could not be written");
}

/// The next changes as `revision name`, until the object of this name was told.
async fn told_until(watch: &mut Watch, last: &str) -> Vec<(u64, String)> {
    let mut told = Vec::new();
    while told.last().is_none_or(|(_, name)| name != last) {
        let change = tokio::time::timeout(Duration::from_secs(30), watch.next()).await;
        let change = change.expect("the watch says something in time").unwrap().unwrap();
        told.push((change.revision, change.key.name));
    }
    told
}

/// Every object that was written was told once, in order of revisions, at the revision that its writer was told.
fn assert_whole(told: &[(u64, String)], written: &[(String, Option<u64>)]) {
    assert!(told.is_sorted_by(|one, other| one.0 < other.0), "{told:?}");
    assert_eq!(told.len(), written.len(), "each object is told once");
    for (name, revision) in written {
        let seen = told.iter().find(|(_, seen)| seen == name).unwrap_or_else(|| panic!("{name} was not told"));
        assert!(revision.is_none_or(|revision| revision == seen.0), "{name}: {revision:?} {seen:?}");
    }
}

/// Writes 150 objects while `disturb` is done at the 50th, with a watch at the member `at`.
async fn writes_and_watch_survive(bench: &Bench, at: usize, disturb: impl AsyncFnOnce()) {
    let (writer, watcher) = (bench.store_at(at).await, bench.store_at(at).await);
    let since = watcher.revision().await.unwrap();
    let mut watch = watcher.watch("toys", None, since).await.unwrap();
    let writes = async {
        let mut written = Vec::new();
        let mut disturb = Some(disturb);
        for index in 0..150 {
            if index == 50 {
                disturb.take().unwrap()().await;
            }
            let name = format!("x{index:03}");
            written.push((name.clone(), create_surely(&writer, &name).await));
        }
        written
    };
    let (written, told) = tokio::join!(writes, told_until(&mut watch, "x149"));
    assert_whole(&told, &written);
    let acknowledged: Vec<_> = written.iter().filter_map(|(name, revision)| Some((name, (*revision)?))).collect();
    assert!(acknowledged.len() > 140, "{}", acknowledged.len());
    for (name, revision) in acknowledged {
        let found = writer.get(&key(name)).await.unwrap().expect("an acknowledged write is there");
        assert_eq!(revision_of(&found), Some(revision), "{name}");
    }
}

#[tokio::test]
async fn a_member_dies_during_writes_and_watches_and_nothing_is_lost_or_told_twice() {
    let Some(bench) = etcd::alone("a_member_dies").await else { return };
    let follower = (bench.leader().await + 1) % MEMBERS;
    writes_and_watch_survive(&bench, follower, async || bench.kill(follower)).await;
}

#[tokio::test]
async fn the_leader_of_etcd_dies_during_writes_and_watches_and_nothing_is_lost_or_told_twice() {
    let Some(bench) = etcd::alone("the_leader_of_etcd_dies").await else { return };
    let leader = bench.leader().await;
    writes_and_watch_survive(&bench, leader, async || bench.kill(leader)).await;
}

/// A frozen member keeps its connections: only its silence shows that it is gone.
#[tokio::test]
async fn a_member_freezes_and_its_watches_go_on_at_another_one() {
    let Some(bench) = etcd::alone("a_member_freezes").await else { return };
    let follower = (bench.leader().await + 1) % MEMBERS;
    writes_and_watch_survive(&bench, follower, async || bench.freeze(follower)).await;
}

/// The probe finds a dead member, also for a store that reads and writes nothing.
#[tokio::test]
async fn a_watch_of_an_idle_store_leaves_a_frozen_member_within_ten_seconds() {
    let Some(bench) = etcd::alone("a_watch_of_an_idle_store").await else { return };
    let follower = (bench.leader().await + 1) % MEMBERS;
    let idle = bench.store_at(follower).await;
    let mut watch = idle.watch("toys", None, idle.revision().await.unwrap()).await.unwrap();
    let other = bench.store_at((follower + 1) % MEMBERS).await;
    create(&other, "before").await.unwrap();
    assert_eq!(told_until(&mut watch, "before").await.len(), 1);
    bench.freeze(follower);
    create(&other, "after").await.unwrap();
    let began = instant();
    assert_eq!(told_until(&mut watch, "after").await.len(), 1);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

/// Regression 498: a read of what the last member has found none on a busy machine. It asked the members in turn, by the place that
/// all calls share and that every failed call turns on; now it asks all members at once.
#[tokio::test]
async fn without_a_quorum_every_call_says_so_within_two_seconds_and_all_goes_on_afterwards() {
    let Some(bench) = etcd::alone("without_a_quorum").await else { return };
    let store = bench.store().await;
    let mut watch = store.watch("toys", None, store.revision().await.unwrap()).await.unwrap();
    let first = create(&store, "first").await.unwrap();
    bench.kill(1);
    bench.kill(2);
    // The member that is left finds out that it is alone.
    etcd::until(async || matches!(store.revision().await, Err(Error::NoQuorum { .. }))).await;
    for call in ["get", "list", "put", "delete", "watch", "revision", "owned_by"] {
        let began = instant();
        let error = match call {
            "get" => store.get(&key("first")).await.err(),
            "list" => store.list("toys", None).await.err(),
            "put" => create(&store, "second").await.err(),
            "delete" => store.delete(&key("first"), first).await.err(),
            "watch" => store.watch("toys", None, first).await.err(),
            "revision" => store.revision().await.err(),
            _ => store.owned_by("uid").await.err(),
        };
        let (error, took) = (error.expect(call), began.elapsed());
        // And a second for a busy machine.
        assert!(took < Duration::from_secs(3), "{call}: {took:?}");
        assert_eq!(error.class(), Class::Transient, "{call}");
        let text = error.to_string();
        assert!(text.starts_with("the store has no quorum: "), "{call}: {text}");
    }
    // On a busy machine the last member may be late with its own answer.
    let told = "the store has no quorum: 1 of 3 members of etcd can be reached";
    etcd::until(async || store.revision().await.is_err_and(|error| error.to_string().starts_with(told))).await;
    // A person can look at what the last member has; nobody can write there.
    let (replica, age) = store.replica().unwrap();
    assert_eq!(replica.get(&key("first")).await.unwrap().as_ref().and_then(revision_of), Some(first));
    assert_eq!(replica.list("toys", None).await.unwrap().0.len(), 1);
    assert!(age > Duration::from_secs(1) && replica.delete(&key("first"), first).await.is_err(), "{age:?}");
    bench.kill(0);
    let text = store.get(&key("first")).await.unwrap_err().to_string();
    assert!(text.starts_with("the store has no quorum: no member of etcd answers here (http://127.0.0.1:"), "{text}");
    bench.heal().await;
    let mut names = vec!["first".to_owned()];
    if create_surely(&store, "second").await.is_some() || store.get(&key("second")).await.unwrap().is_some() {
        names.push("second".to_owned());
    }
    create_surely(&store, "third").await;
    names.push("third".to_owned());
    let told = told_until(&mut watch, "third").await;
    assert_eq!(told.into_iter().map(|(_, name)| name).collect::<Vec<_>>(), names);
}

#[tokio::test]
async fn an_object_that_is_too_large_is_refused_at_the_door_and_a_large_one_goes_through() {
    let Some(bench) = etcd::shared("an_object_that_is_too_large").await else { return };
    let store = bench.store().await;
    let since = store.revision().await.unwrap();
    let mut watch = store.watch("toys", None, since).await.unwrap();
    let error = store.put(&key("huge"), Expect::Absent, object(&"x".repeat(1_500_000))).await.unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
    assert!(error.to_string().ends_with("the store holds objects of up to 1500000 bytes"), "{error}");
    // As large as they may be: more than one answer of etcd may have. A busy disk may need longer than a call waits.
    let large = object(&"x".repeat(1_499_900));
    for index in 0..46 {
        written_surely(&store, &format!("large{index}"), &large).await;
    }
    let first = store.get(&key("large0")).await.unwrap().as_ref().and_then(revision_of).unwrap();
    store.put(&key("large0"), Expect::Revision(first), large.clone()).await.unwrap();
    create_surely(&store, "last").await;
    assert_eq!(store.list("toys", None).await.unwrap().0.len(), 47);
    assert_eq!(told_until(&mut watch, "last").await.len(), 48);
}
