//! The same of a RedisSentinel.

use expect_test::expect;
use serde_json::json;

use super::World;
use crate::api::redis_sentinel::{RedisSentinel, RedisState};
use crate::kinds::backup::source::Cluster;
use crate::supervisor::wire::{BackupPhase, RdbState};

/// A RedisSentinel of three, cache-1 the master, and a Backup of it.
fn of_redis() -> World {
    let mut world = World::new("");
    world.object.spec = serde_saphyr::from_str("cluster: {kind: RedisSentinel, name: cache}").unwrap();
    let member =
        |ordinal: u32| json!({"name": format!("cache-{ordinal}"), "ordinal": ordinal, "host": "local", "port": 6379});
    let seen = |ordinal: u32, state: &str, lag: u64| json!({"name": format!("cache-{ordinal}"), "host": "local", "state": state, "lagBytes": lag});
    let value = json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "RedisSentinel",
        "metadata": {"name": "cache", "namespace": "default", "uid": "5f0c01aa-77de"},
        "spec": {"image": "redis:7", "backup": {"store": {"directory": {"path": "/srv/backups"}}, "maxRate": "50Mi"}},
        "status": {
            "members": [seen(1, "running", 0), seen(2, "in sync", 70), seen(3, "disconnected", 0)],
            "decisions": {
                "stage": "Steady", "epoch": 4, "revision": 9, "group": "g", "members": [member(1), member(2), member(3)],
                "sentinels": [], "master": "cache-1", "since": "2026-01-01T00:00:00Z",
            },
        },
    });
    world.observed.cluster = Some(Cluster::Redis(Box::new(serde_json::from_value(value).unwrap())));
    world.observed.links.clear();
    for member in ["cache-1", "cache-2", "cache-3"] {
        world.answer(member);
    }
    world
}

impl World {
    fn redis(&mut self) -> &mut RedisSentinel {
        match self.observed.cluster.as_mut() {
            Some(Cluster::Redis(redis)) => redis,
            _ => panic!("it is of a RedisSentinel"),
        }
    }
}

#[test]
fn a_snapshot_is_taken_of_a_replica_in_sync_and_moves_to_the_master_when_that_replica_is_promoted() {
    let mut world = of_redis();
    world.look(0).report("cache-2", BackupPhase::Running, 1 << 20).look(1);
    let decisions = world.redis().status.as_mut().unwrap().decisions.as_mut().unwrap();
    (decisions.master, decisions.epoch) = (Some("cache-2".into()), 5);
    world.look(1);
    let members = &mut world.redis().status.as_mut().unwrap().members;
    (members[0].state, members[1].state) = (RedisState::Synced, RedisState::Running);
    world.look(11).report("cache-1", BackupPhase::Completed, 400 << 20);
    let rdb = RdbState {
        server: "7.0.15".into(),
        replid: "r".into(),
        offset: 9,
        time: 1_790_000_000,
        keys: 5,
        ..RdbState::default()
    };
    world.link("cache-1").report.backup.as_mut().unwrap().rdb = Some(rdb);
    world.look(1);
    expect![[r#"
        0 Pending Starting: cache-2 is told to store a snapshot
          -> take backup 20260921T141320 of cache-2, attempt 1
        1 Running Running: reading cache-2: 0% of 400Mi, 1Mi/s
        2 Pending Retrying: attempt 1 of 3 on cache-2 failed: it became the master
          -> cut off backup 20260921T141320 of cache-2
        13 Pending Starting: cache-1 is told to store a snapshot
          -> take backup 20260921T141333 of cache-1, attempt 2
        14 Completed Completed: snapshot 20260921T141333 of cache-1 is complete: 400Mi, stored as 100Mi
    "#]]
    .assert_eq(&world.told);
    let status = world.object.status.unwrap();
    assert_eq!((status.archive.as_deref(), status.keys), (Some("default.cache/redis-5f0c01aa-77de"), Some(5)));
    assert_eq!((status.server_version.as_deref(), status.replication_offset), (Some("7.0.15"), Some(9)));
}

#[test]
fn what_a_snapshot_waits_for_is_said_in_the_words_of_redis() {
    let mut told = String::new();
    let mut say = |change: &dyn Fn(&mut World)| {
        let mut world = of_redis();
        change(&mut world);
        told += &world.look(10).told.replace("10 ", "");
    };
    say(&|world| world.observed.cluster = None);
    say(&|world| world.redis().spec.backup = None);
    say(&|world| world.redis().status = None);
    say(&|world| {
        let status = world.redis().status.as_mut().unwrap();
        (status.members[1].state, status.decisions.as_mut().unwrap().master) = (RedisState::Copying, None);
    });
    say(&|world| world.link("cache-2").report.archives = false);
    expect![[r#"
        Pending ClusterNotFound: RedisSentinel cache does not exist in this namespace
        Pending NoBackupStore: RedisSentinel cache has no spec.backup: say where backups go
        Pending ArchiveNotReady: RedisSentinel cache has no archive in its store yet
        Pending NoMember: no member can be read: the cluster has no master now
        Pending Starting: cache-1 is told to store a snapshot
          -> take backup 20260921T141330 of cache-1, attempt 1
    "#]]
    .assert_eq(&told);
}
