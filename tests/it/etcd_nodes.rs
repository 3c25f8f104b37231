//! The nodes of several operators over a real etcd: their names, and the members as they are shown. Runs only with
//! EVENKEEL_TEST_DOCKER=1.
#![allow(clippy::unwrap_used)]

use evenkeel::api::cluster::{NodeInfo, Role, verdict};
use evenkeel::store::etcd::{AnnounceError, ChangeError};

use crate::etcd::{self, MEMBERS, until};

fn node(name: &str, address: &str) -> NodeInfo {
    NodeInfo { name: name.into(), address: address.into(), version: "1".into(), started: String::new() }
}

/// Regression 489: a joining node's name was compared with the leader's and with that of the node it asked. A third node got the
/// name of one that did neither, and two operators wrote as one. Every running operator has its name as a key.
#[tokio::test]
async fn a_name_belongs_to_one_operator_of_all_and_its_own_restart_keeps_it() {
    let Some(bench) = etcd::shared("a_name_belongs_to_one_operator").await else { return };
    let (one, other) = (bench.store().await.nodes(), bench.store_at(1).await.nodes());
    one.announce(&node("a", "10.0.0.1:7443")).await.unwrap();
    other.announce(&node("b", "10.0.0.2:7443")).await.unwrap();
    // Killed and started again, long before its lease is over.
    let lease = one.announce(&node("a", "10.0.0.1:7443")).await.unwrap();
    let names = |list: Vec<NodeInfo>| list.into_iter().map(|node| node.name).collect::<Vec<_>>().join(" ");
    assert_eq!(names(other.list().await.unwrap()), "a b");
    // It is renewed beside the other's attempts, which last longer than the lease.
    let (me, same) = (node("a", "10.0.0.1:7443"), node("a", "10.0.0.9:7443"));
    let refused = tokio::select! {
        error = one.keep(&me, Some(lease)) => panic!("{error}"),
        tried = other.announce(&same) => tried.unwrap_err(),
    };
    assert!(matches!(&refused, AnnounceError::Taken { other } if other.address == "10.0.0.1:7443"), "{refused}");
    assert!(refused.to_string().contains("--node"), "{refused}");
    one.leave(&me.name).await;
    other.announce(&same).await.unwrap();
}

#[tokio::test]
async fn members_are_surveyed_also_when_one_is_down_and_without_a_majority() {
    let Some(bench) = etcd::alone("members_are_surveyed").await else { return };
    let cluster = bench.store().await.cluster();
    let told = async || {
        let members = cluster.survey().await.unwrap();
        let count = |role| members.iter().filter(|member| member.role == role).count();
        let tolerates = verdict(&members.iter().collect::<Vec<_>>()).0;
        (count(Role::Leader), count(Role::Follower), count(Role::Down), tolerates)
    };
    until(async || told().await == (1, MEMBERS - 1, 0, 1)).await;
    bench.kill(2);
    until(async || told().await == (1, 1, 1, 0)).await;
    bench.kill(1);
    until(async || told().await == (0, 0, MEMBERS, 0)).await;
    let refused = cluster.admit("http://127.0.0.1:1").await.unwrap_err();
    assert!(matches!(refused, ChangeError::Store(_)), "{refused}");
}

/// Regression 497, found before its release: a node that was interrupted while it joined could not join again, because its member was
/// there already, and no other node either. A member that has never run is found again; others are told to wait.
#[tokio::test]
async fn a_member_that_never_ran_is_found_again_and_only_one_joins_at_a_time() {
    let Some(bench) = etcd::alone("a_member_that_never_ran").await else { return };
    let cluster = bench.store().await.cluster();
    let mut admitted = None;
    // etcd adds no member before it has heard of all others for five seconds.
    until(async || match cluster.admit("http://127.0.0.1:1").await {
        Err(ChangeError::Unsettled) => false,
        other => {
            admitted = Some(other.unwrap());
            true
        }
    })
    .await;
    let (id, members) = admitted.unwrap();
    assert_eq!(members.len(), MEMBERS + 1);
    assert_eq!(cluster.admit("http://127.0.0.1:1").await.unwrap().0, id);
    let busy = cluster.admit("http://127.0.0.1:2").await.unwrap_err();
    assert!(matches!(&busy, ChangeError::Busy { learner } if learner == "http://127.0.0.1:1"), "{busy}");
    assert!(!cluster.promote(&id).await.unwrap(), "it has nothing yet");
    let peer = members.iter().find(|member| member.id != id).unwrap().peer.clone();
    let taken = cluster.admit(&peer).await.unwrap_err();
    assert!(matches!(taken, ChangeError::Taken { .. }), "{taken}");
    cluster.remove(&id).await.unwrap();
    cluster.remove(&id).await.unwrap();
    assert_eq!(cluster.agreed().await.unwrap().len(), MEMBERS);
}
