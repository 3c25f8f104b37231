//! Leadership on etcd: one leads, its writes are fenced, and silence ends it. Runs only with EVENKEEL_TEST_DOCKER=1.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use evenkeel::api::failure::{Class, Classify as _};
use evenkeel::runtime::clock::instant;
use evenkeel::store::{Candidate, Error, Expect, Key, Leader, Leadership, Leases as _, Store as _, revision_of};
use futures::FutureExt as _;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::etcd::{self, Bench, MEMBERS};

fn who(node: &str) -> Candidate {
    Candidate { node: node.to_owned(), address: format!("{node}:7443") }
}

fn key(name: &str) -> Key {
    Key::new("toys", "default", name)
}

fn object() -> Value {
    json!({"metadata": {}})
}

/// Leads as soon as nobody else does.
async fn lead(bench: &Bench, node: &str) -> Leadership {
    let leases = bench.store().await.leases();
    loop {
        if let Some(held) = leases.acquire(&who(node)).await.unwrap() {
            return held;
        }
        tokio::time::timeout(Duration::from_secs(20), leases.vacant()).await.expect("it becomes vacant").unwrap();
    }
}

#[tokio::test]
async fn of_candidates_at_once_one_leads_and_all_know_which() {
    let Some(bench) = etcd::shared("of_candidates_at_once").await else { return };
    let stores = join_all((0..4).map(|at| bench.store_at(at))).await;
    assert_eq!(stores[0].leases().leader().await.unwrap(), None);
    stores[0].leases().vacant().await.unwrap();
    let tries = stores.iter().enumerate().map(async |(at, store)| {
        let held = store.leases().acquire(&who(&format!("n{at}"))).await.unwrap();
        held.map(|held| (at, held))
    });
    let won: Vec<_> = join_all(tries).await.into_iter().flatten().collect();
    let [(at, held)] = won.as_slice() else { panic!("{won:?}") };
    let leader = Leader { who: who(&format!("n{at}")), epoch: held.tenure().epoch() };
    for store in &stores {
        assert_eq!(store.leases().leader().await.unwrap(), Some(leader.clone()));
    }
    assert!(held.tenure().leads() && held.ended().now_or_never().is_none(), "{held:?}");
}

#[tokio::test]
async fn a_release_hands_over_within_300_ms() {
    let Some(bench) = etcd::alone("a_release_hands_over").await else { return };
    let first = lead(&bench, "a").await;
    let epoch = first.tenure().epoch();
    let standby = bench.store_at(1).await.leases();
    let next = async {
        standby.vacant().await.unwrap();
        (standby.acquire(&who("b")).await.unwrap().expect("nobody else wants to lead"), instant())
    };
    let release = async {
        // The standby watches before the leader goes.
        for _ in 0..50 {
            tokio::task::spawn_blocking(crate::poll::pause).await.unwrap();
        }
        let began = instant();
        first.release().await.unwrap();
        began
    };
    let ((second, led), began) = tokio::join!(next, release);
    println!("handed over in {:?}", led - began);
    assert!(led - began < Duration::from_millis(300), "{:?}", led - began);
    assert!(second.tenure().epoch() > epoch && second.tenure().leads());
}

#[tokio::test]
async fn a_leader_renews_its_lease_longer_than_it_lasts() {
    let Some(bench) = etcd::shared("a_leader_renews").await else { return };
    let held = lead(&bench, "a").await;
    let other = bench.store_at(1).await.leases();
    assert!(tokio::time::timeout(Duration::from_secs(5), held.ended()).await.is_err(), "{held:?}");
    assert!(held.tenure().left() > Duration::from_millis(500) && other.acquire(&who("b")).await.unwrap().is_none());
    held.store().put(&key("a"), Expect::Absent, object()).await.unwrap();
}

#[tokio::test]
async fn a_leader_leads_on_when_the_member_dies_that_renews_its_lease() {
    let Some(bench) = etcd::alone("a_leader_leads_on").await else { return };
    let follower = (bench.leader().await + 1) % MEMBERS;
    let held = bench.store_at(follower).await.leases().acquire(&who("a")).await.unwrap().unwrap();
    bench.kill(follower);
    assert!(tokio::time::timeout(Duration::from_secs(5), held.ended()).await.is_err(), "{held:?}");
}

/// A runtime that is not driven is a frozen process: it renews nothing and hears nothing. Frozen while it led, it must be over
/// before another one leads, and what it still wants to write when it wakes is refused.
#[tokio::test]
async fn a_frozen_leader_is_over_before_the_next_one_leads_and_its_late_writes_are_refused() {
    let Some(bench) = etcd::shared("a_frozen_leader").await else { return };
    let frozen = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (frozen, bench, old) = tokio::task::spawn_blocking(move || {
        let held = frozen.block_on(async {
            let held = lead(&bench, "a").await;
            held.store().put(&key("early"), Expect::Absent, object()).await.unwrap();
            held
        });
        (frozen, bench, held)
    })
    .await
    .unwrap();
    let began = instant();
    let new = lead(&bench, "b").await;
    println!("led {:?} after the silence began", began.elapsed());
    assert!(!old.tenure().leads(), "two lead at once: {old:?} {new:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let epoch = old.tenure().epoch();
    assert!(new.tenure().epoch() > epoch);
    new.store().put(&key("new"), Expect::Absent, object()).await.unwrap();
    let late = tokio::task::spawn_blocking(move || {
        let late = frozen.block_on(async {
            old.ended().await;
            let early = old.store().get(&key("early")).await.unwrap().unwrap();
            let revision = revision_of(&early).unwrap();
            [
                old.store().put(&key("late"), Expect::Absent, object()).await.unwrap_err(),
                old.store().put(&key("early"), Expect::Revision(revision), object()).await.unwrap_err(),
                old.store().delete(&key("early"), revision).await.unwrap_err(),
                // Also where the object itself would be refused.
                old.store().put(&key("new"), Expect::Absent, object()).await.unwrap_err(),
            ]
        });
        drop(frozen);
        late
    })
    .await
    .unwrap();
    for error in late {
        assert!(matches!(error, Error::Deposed { epoch: found } if found == epoch), "{error}");
        assert_eq!(error.class(), Class::Transient);
    }
    let store = bench.store().await;
    assert_eq!(store.get(&key("late")).await.unwrap(), None);
    assert!(store.get(&key("early")).await.unwrap().is_some() && new.tenure().leads());
}

/// A person, or a fault of ours, deletes the key under a leader.
#[tokio::test]
async fn a_leader_without_its_key_is_over() {
    let Some(bench) = etcd::shared("a_leader_without_its_key").await else { return };
    let held = lead(&bench, "a").await;
    bench.raw(0).await.delete(format!("{}/v1/!leader", bench.prefix()), None).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), held.ended()).await.expect("it notices at its next renewal");
    assert!(lead(&bench, "b").await.tenure().epoch() > held.tenure().epoch());
}

/// Regression 429: a member of etcd that was the leader, and was cut off, renewed the lease for two more seconds: the operator
/// beside it led for 2.6 s without a quorum. A renewal counts only with a read that needs the quorum.
#[tokio::test]
async fn without_a_quorum_a_leader_is_over_at_its_deadline_and_nobody_leads_until_it_is_back() {
    let Some(bench) = etcd::alone("without_a_quorum_a_leader").await else { return };
    let leader = bench.leader().await;
    let held = bench.store_at(leader).await.leases().acquire(&who("a")).await.unwrap().unwrap();
    let standby = bench.store_at(leader).await.leases();
    (1..MEMBERS).for_each(|next| bench.kill((leader + next) % MEMBERS));
    let began = instant();
    held.ended().await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    let error = standby.acquire(&who("b")).await.unwrap_err();
    assert!(matches!(error, Error::NoQuorum { .. }), "{error}");
    bench.heal().await;
    let next = lead(&bench, "b").await;
    assert!(next.tenure().epoch() > held.tenure().epoch() && !held.tenure().leads());
}
