//! Scenarios: what happens to a Redis Cluster, told as sentences.

use super::world::{ALL, World};
use crate::api::redis_cluster::ClusterStage;

fn cluster(spec: &str) -> World {
    let mut world = World::new(spec);
    world.settle();
    world.fill();
    world.log.clear();
    world
}

fn roles(world: &World) -> String {
    let of = |(name, place): (&String, &super::world::Place)| match &place.up {
        None => format!("{name} down\n"),
        Some(redis) => match &redis.master {
            None => format!("{name} {} slots\n", redis.slots.len()),
            Some(id) => {
                let master = world.places.iter().find(|(_, place)| place.up.as_ref().is_some_and(|up| up.id == *id));
                format!("{name} of {}\n", master.map_or("?", |(name, _)| name))
            }
        },
    };
    world.places.iter().map(of).collect()
}

#[test]
fn a_new_cluster_spreads_the_slots_and_is_ready_when_every_replica_is_in_sync() {
    let mut world = World::new("");
    for _ in 0..6 {
        world.turn();
    }
    // A copy that does not begin keeps it from being ready.
    world.at(5).stalled = true;
    world.turns(40);
    assert_eq!(world.decisions.stage, ClusterStage::Creating);
    world.at(5).stalled = false;
    world.settle();
    expect_test::expect![[r#"
        c-1 5461 slots
        c-2 5461 slots
        c-3 5462 slots
        c-4 of c-1
        c-5 of c-2
        c-6 of c-3
    "#]]
    .assert_eq(&roles(&world));
}

/// Regression 447: a cluster was Ready as soon as its replicas had a copy. A master sends a replica nothing before that one's first
/// acknowledgement, up to a second later: 25 appends were acknowledged and lost when it was killed in that second.
#[test]
fn a_replica_that_its_master_sends_nothing_yet_is_not_in_sync_and_does_not_take_over() {
    let mut world = World::new("");
    for _ in 0..6 {
        world.turn();
    }
    world.at(5).unfed = true;
    world.turns(40);
    assert_eq!(world.decisions.stage, ClusterStage::Creating);
    world.at(5).unfed = false;
    world.settle();
    world.fill();
    world.wipe(5);
    world.at(5).unfed = true;
    world.turns(40);
    assert!(world.at(5).link_up, "{}", roles(&world));
    world.kill(2);
    world.turns(40);
    assert!(roles(&world).contains("c-5 of c-2"), "{}", roles(&world));
    world.at(5).unfed = false;
    world.settle();
    assert_eq!(world.reachable(), ALL, "{}", roles(&world));
}

#[test]
fn a_dead_master_is_replaced_by_its_replica_at_once_and_returns_as_a_replica() {
    let mut world = cluster("");
    world.kill(2);
    world.turn();
    assert_eq!(world.log[0], "c-5: take over from its dead master");
    assert!(world.at(2).up.is_none());
    world.settle();
    assert_eq!((world.reachable(), roles(&world).contains("c-2 of c-5")), (ALL, true), "{}", roles(&world));
}

/// Regression 393: a master without persistence that starts again after a crash is empty, and makes its replica empty (M11).
/// It must stay shut until the replica has taken over.
#[test]
fn an_empty_master_never_starts_before_its_replica_took_over() {
    for wiped in [false, true] {
        let mut world = cluster("persistence: none");
        world.durable = false;
        match wiped {
            true => world.wipe(2),
            false => world.kill(2),
        }
        world.settle();
        assert_eq!(world.reachable(), ALL, "{:?}", world.log);
    }
}

/// Regression 394: a replica that never had its copy was promoted by force, and 137 acknowledged keys were gone (M16). The
/// master that has its data comes back instead.
#[test]
fn a_replica_that_was_not_in_sync_never_takes_over() {
    let mut world = cluster("");
    // It was cut off, and its server started again: it has old data, or none.
    world.kill(5);
    world.at(5).disk.as_mut().unwrap().keys.clear();
    world.at(5).stalled = true;
    world.turns(4);
    world.kill(2);
    world.turns(20);
    assert!(!world.log.iter().any(|line| line.contains("take over")), "{:?}", world.log);
    world.at(5).stalled = false;
    world.settle();
    assert_eq!(world.reachable(), ALL);
}

/// Regression 395: with the data of the master gone and a replica that was not in sync, no rule is safe: nobody starts empty,
/// and a person is told.
#[test]
fn data_that_only_a_stale_replica_has_is_kept_and_told() {
    let mut world = cluster("");
    world.at(5).stalled = true;
    world.kill(5);
    world.turns(4);
    world.durable = false;
    world.kill(2);
    world.turns(10);
    assert!(world.at(2).up.is_none());
    assert!(world.log.iter().any(|line| line.starts_with("DataAtRisk: c-2 has slots and no data")), "{:?}", world.log);
}

/// Regression 440: when most masters had died without their data, no replica could be elected, and no master could start: the
/// cluster stayed down for ever. Their death is proved, so their replicas take over without a vote.
#[test]
fn replicas_of_most_masters_take_over_without_a_vote() {
    for wiped in [false, true] {
        let mut world = cluster("persistence: none");
        world.durable = false;
        for ordinal in [1, 2] {
            if wiped { world.wipe(ordinal) } else { world.kill(ordinal) }
        }
        world.settle();
        let taken = ["c-4", "c-5"].map(|heir| format!("{heir}: take over from its dead master without a vote"));
        assert!(taken.iter().all(|line| world.log.contains(line)), "{:?}", world.log);
        assert_eq!(world.reachable(), ALL, "{:?}", world.log);
    }
}

/// Regression 441: a failover that waited for the votes of silent masters said only that somebody does not answer. A silent
/// master may still serve: nobody takes over without a vote, and the masters that are needed are named.
#[test]
fn nobody_takes_over_without_a_vote_while_the_other_masters_may_live() {
    let mut world = cluster("");
    world.at(2).silent = true;
    world.kill(1);
    world.turn();
    assert_eq!(world.log[0], "c-4: take over from its dead master");
    expect_test::expect!["NoMajority: the replica of c-1 needs the votes of most masters, and 1 of 3 can vote: let the silent ones run again, or end their containers: c-2"].assert_eq(&world.log[1]);
    world.turns(10);
    assert!(!world.log.iter().any(|line| line.contains("without a vote")), "{:?}", world.log);
}

#[test]
fn all_members_killed_at_once_come_back_with_their_data() {
    let mut world = cluster("");
    (1..=6).for_each(|ordinal| world.kill(ordinal));
    world.settle();
    assert_eq!(world.reachable(), ALL);
    assert!(!world.log.iter().any(|line| line.contains("take over")), "{:?}", world.log);
}

/// Regression 396: nodes keep each other's old addresses in their files. After a restart of all with new addresses they never
/// met again (redis#4645).
#[test]
fn stale_addresses_are_healed_after_a_full_restart() {
    let mut world = cluster("");
    (1..=6).for_each(|ordinal| world.kill(ordinal));
    for place in world.places.values_mut() {
        let redis = place.disk.as_mut().unwrap();
        for known in redis.known.values_mut() {
            known.address = Some(super::world::address(200));
        }
    }
    world.settle();
    assert_eq!(world.reachable(), ALL);
    assert!(world.log.iter().any(|line| line.starts_with("c-1: meet")), "{:?}", world.log);
}

/// Regression 397: a node that lost its volume has a new id; the old id stayed known for ever, as a failed node.
#[test]
fn a_lost_node_is_replaced_and_forgotten_by_all_at_once() {
    for ordinal in [2, 5] {
        let mut world = cluster("");
        world.wipe(ordinal);
        world.settle();
        assert_eq!(world.reachable(), ALL, "{:?}", world.log);
        let forgets: Vec<usize> =
            world.log.iter().enumerate().filter(|(_, line)| line.contains(": forget")).map(|(at, _)| at).collect();
        assert!(forgets.len() >= 5 && forgets.windows(2).all(|pair| pair[1] - pair[0] <= 2), "{:?}", world.log);
        let ids = world.places.values().filter_map(|place| place.up.as_ref()).map(|redis| redis.known.len());
        assert_eq!(ids.collect::<Vec<_>>(), [5; 6]);
    }
}

#[test]
fn scaling_out_and_in_moves_slots_and_loses_no_key() {
    let mut world = cluster("");
    world.spec(|spec| spec.masters = 4);
    world.settle();
    assert_eq!(world.reachable(), ALL);
    expect_test::expect![[r#"
        c-1 4096 slots
        c-2 4096 slots
        c-3 4096 slots
        c-4 of c-1
        c-5 of c-2
        c-6 of c-3
        c-7 4096 slots
        c-8 of c-7
    "#]]
    .assert_eq(&roles(&world));
    world.spec(|spec| spec.masters = 3);
    world.settle();
    assert_eq!((world.reachable(), world.places.len()), (ALL, 6), "{}", roles(&world));
    assert!(world.places.values().all(|place| place.up.as_ref().unwrap().known.len() == 5));
}

/// Regression 398: a migration that ends between any two of its commands leaves a slot open at one or both sides. Every key is
/// reachable all the time, and the next reconcile goes on from there.
#[test]
fn a_migration_that_is_interrupted_at_any_step_goes_on() {
    for crash in 1..=7 {
        let mut world = cluster("");
        world.spec(|spec| spec.masters = 4);
        world.turns(8);
        world.crash = Some(crash);
        for _ in 0..12 {
            world.turn();
            assert_eq!(world.reachable(), ALL, "crash at {crash}: {:?}", world.log);
        }
        world.crash = None;
        world.settle();
        assert_eq!(world.reachable(), ALL, "crash at {crash}");
        let open = world.places.values().filter_map(|place| place.up.as_ref());
        assert!(open.into_iter().all(|redis| redis.importing.is_empty() && redis.migrating.is_empty()));
    }
}

/// Regression 399: a reshard with a node down, or with a slot open, loses keys when the next one dies. Nothing moves then.
#[test]
fn no_slot_moves_while_a_node_is_down() {
    let mut world = cluster("");
    world.at(6).silent = true;
    world.spec(|spec| spec.masters = 4);
    world.turns(40);
    assert!(!world.log.iter().any(|line| line.contains(": move")), "{:?}", world.log);
    world.at(6).silent = false;
    world.settle();
    assert_eq!(world.reachable(), ALL);
}

/// Regression 428: members of a larger spec that was taken back before they had met anybody were never met, because they leave,
/// and the others waited for ever until everybody knows them.
#[test]
fn members_that_nobody_has_met_leave_again() {
    let mut world = cluster("");
    world.spec(|spec| spec.masters = 5);
    world.turn();
    world.spec(|spec| spec.masters = 3);
    world.settle();
    assert_eq!((world.reachable(), world.places.len()), (ALL, 6), "{}", roles(&world));
    assert!(!world.log.iter().any(|line| line.contains("meet")), "{:?}", world.log);
}

#[test]
fn a_master_that_leaves_hands_over_first_and_more_replicas_are_spread() {
    let mut world = cluster("");
    // The replica c-6 is master now, and leaves with the others of its kind.
    world.kill(3);
    world.settle();
    world.fill();
    world.spec(|spec| spec.replicas_per_master = 0);
    world.settle();
    assert_eq!((world.reachable(), world.places.len()), (ALL, 3), "{}", roles(&world));
    assert!(world.log.iter().any(|line| line == "c-3: take over from its master"), "{:?}", world.log);
    world.spec(|spec| spec.replicas_per_master = 2);
    world.settle();
    let shown = roles(&world);
    for master in ["c-1", "c-2", "c-3"] {
        assert_eq!(shown.matches(&format!("of {master}\n")).count(), 2, "{shown}");
    }
}

/// A cluster over hosts, with data: the hosts of its members, in turn.
fn over(hosts: &[&'static str]) -> World {
    let mut world = World::new("");
    world.hosts = hosts.to_vec();
    world.settle();
    world.fill();
    world.log.clear();
    world
}

/// Each member with its host and its master's host.
fn hosts(world: &World) -> String {
    let host =
        |name: &str| world.decisions.members.iter().find(|place| place.name == name).map_or("?", |one| &one.host);
    let lines = roles(world);
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let of = words.iter().skip_while(|word| **word != "of").nth(1).map(|master| format!(" of {}", host(master)));
        format!("{} on {}{}\n", words[0], host(words[0]), of.unwrap_or_default())
    };
    lines.lines().map(line).collect()
}

/// Regression 366: each new replica took the master with the fewest replicas, so that the last one had only the master on its own
/// host left. It is chosen so that the others have one elsewhere, too.
#[test]
fn no_replica_is_on_its_masters_host_if_that_is_possible() {
    for order in [["a", "b", "c", "a", "b", "c"], ["a", "b", "c", "c", "b", "a"], ["a", "b", "c", "b", "a", "c"]] {
        let world = over(&order);
        let told = hosts(&world);
        assert!(!["a of a", "b of b", "c of c"].iter().any(|pair| told.contains(pair)), "{order:?}\n{told}");
    }
    expect_test::expect![[r#"
        c-1 on a
        c-2 on b
        c-3 on c
        c-4 on a of b
        c-5 on b of c
        c-6 on c of a
    "#]]
    .assert_eq(&hosts(&over(&["a", "b", "c"])));
    expect_test::expect![[r#"
        c-1 on a
        c-2 on b
        c-3 on a
        c-4 on b of a
        c-5 on a of b
        c-6 on b of a
    "#]]
    .assert_eq(&hosts(&over(&["a", "b"])));
}

#[test]
fn masters_leave_a_host_that_closes_and_spread_again_when_it_opens() {
    let mut world = over(&["a", "b", "c"]);
    world.closed.insert("a".into());
    world.turns(60);
    expect_test::expect![[r#"
        c-1 of c-6
        c-2 5461 slots
        c-3 5462 slots
        c-4 of c-2
        c-5 of c-3
        c-6 5461 slots
    "#]]
    .assert_eq(&roles(&world));
    world.closed.clear();
    world.settle();
    expect_test::expect![[r#"
        c-1 5461 slots
        c-2 5461 slots
        c-3 5462 slots
        c-4 of c-2
        c-5 of c-3
        c-6 of c-1
    "#]]
    .assert_eq(&roles(&world));
    assert_eq!(world.reachable(), ALL, "{}", roles(&world));
}

#[test]
fn a_successor_is_in_sync_before_the_member_that_it_replaces_leaves_whether_that_one_lives_or_not() {
    for dies in [false, true] {
        let mut world = over(&["a", "b", "c"]);
        world.hosts = vec!["d"];
        world.add(7);
        let cause = crate::api::placement::ReplacementCause::Drain;
        let replacement = crate::api::placement::Replacement { member: "c-1".into(), by: "c-7".into(), cause };
        world.decisions.replacement = Some(replacement);
        if dies {
            world.lost.insert("a".into());
            world.kill(1);
            world.at(1).silent = true;
        }
        world.turns(120);
        assert!(!world.decisions.members.iter().any(|place| place.name == "c-1"), "{dies}: {}", roles(&world));
        assert_eq!(world.reachable(), ALL, "{dies}: {}", roles(&world));
        let told = roles(&world);
        assert!(!told.contains("c-7 0 slots") && !told.contains("c-7 down"), "{dies}: {told}");
    }
}
