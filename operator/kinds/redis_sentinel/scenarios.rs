//! Scenarios of RedisSentinel in the test world, as sentences.

#![allow(clippy::unwrap_used)]

use expect_test::{Expect, expect};

use super::world::{Ablation, World};

mod hosts;
mod losses;
mod restores;
mod switchovers;

/// A RedisSentinel that is healthy and has data.
pub fn running(spec: &str) -> World {
    let mut world = World::new(spec);
    world.settle(200);
    world.turns(30);
    world
}

/// What must hold in every scenario, at its end.
pub fn end(world: &World) {
    assert_eq!(world.broken.iter().collect::<Vec<_>>(), Vec::<&String>::new(), "{}", world.story(0));
    // Only a Sentinel makes a replica a master, and nobody removes the master from a Sentinel.
    let wrong = world
        .commands
        .iter()
        .find(|one| one.contains("NO ONE") && !one.starts_with("Sentinel ") || one.contains("REMOVE"));
    assert_eq!(wrong, None);
}

/// The roles and the data of all members.
fn shown(world: &World) -> String {
    let mut text = String::new();
    for member in world.status().members {
        let keys = world.redis(&world.container(&member.name)).map(|server| server.writes.len());
        text += &format!("{} {} {} {keys:?}\n", member.name, member.role, member.state);
    }
    text
}

/// The course of the last failover.
fn failover(world: &World) -> String {
    let Some(last) = world.status().last_failover else { return "none\n".to_owned() };
    let steps: Vec<String> = last.steps.iter().map(|step| format!("  {}\n", step.step)).collect();
    let loss = last.loss.unwrap_or_default();
    format!("{}: {} to {}\n{}  loss: {loss}\n", last.cause, last.from, last.to, steps.concat())
}

fn compare(world: &World, text: &str, expected: &Expect) {
    expected.assert_eq(text);
    end(world);
}

#[test]
fn three_members_and_three_sentinels_are_founded_around_one_master() {
    let world = running("");
    compare(
        &world,
        &format!("{}{:?}\n", shown(&world), world.masters()),
        &expect![[r#"
        cache-1 master running Some(51)
        cache-2 replica in sync Some(51)
        cache-3 replica in sync Some(51)
        ["cache-1"]
    "#]],
    );
    assert_eq!(world.lost(), Vec::<u64>::new());
}

/// Regression 445: the status said that nothing was lost, and two acknowledged appends were. What a server had at its last word,
/// some milliseconds before its end, was taken for all that it had.
#[test]
fn when_the_masters_server_dies_one_sentinel_is_asked_and_all_follow_the_new_one() {
    let mut world = running("");
    let since = world.ms;
    world.kill_server("cache-1");
    world.settle(100);
    compare(
        &world,
        &format!("{}{}", world.story(since), failover(&world)),
        &expect![[r#"
          5500 --- the server of cache-1 is killed
          5600 ask cache-sentinel-1 to promote a replica of 172.30.0.11:6379
          5600 order cache-1: stay shut in epoch 1
          5600 order cache-2: follow cache-1 in epoch 1
          5600 order cache-3: follow cache-1 in epoch 1
          5700   cache-sentinel-1 Perform(["SENTINEL", "FAILOVER", "mymaster"])
          5900   cache-sentinel-1: REPLICAOF NO ONE to cache-2
          5900 tell cache-sentinel-1 that 172.30.0.12:6379 is master
          5900 tell cache-sentinel-2 that 172.30.0.12:6379 is master
          5900 tell cache-sentinel-3 that 172.30.0.12:6379 is master
          5900 order cache-1: follow cache-2 in epoch 2
          5900 order cache-2: lead in epoch 2
          5900 order cache-3: follow cache-2 in epoch 2
          5900 write the Secrets
          6000   cache-1 Start(Some(Address { ip: 172.30.0.12, port: 6379 }))
          6000   cache-3 Follow(Address { ip: 172.30.0.12, port: 6379 })
          6000   cache-sentinel-1 Perform(["PUBLISH", "__sentinel__:hello", "172.30.0.24,26379,id10,1,mymaster,172.30.0.12,6379,1"])
          6000   cache-sentinel-2 Perform(["PUBLISH", "__sentinel__:hello", "172.30.0.23,26379,id8,1,mymaster,172.30.0.12,6379,1"])
          6000   cache-sentinel-3 Perform(["PUBLISH", "__sentinel__:hello", "172.30.0.23,26379,id8,1,mymaster,172.30.0.12,6379,1"])
        cache-1: its server ended: cache-1 to cache-2
          ask a Sentinel to promote
          cache-2 promoted
          a new client can write
          loss: nothing of what the old master had when it was last heard, and what it acknowledged in the 1 ms after that and had not sent to the new master
    "#]],
    );
    assert_eq!(world.lost(), Vec::<u64>::new());
}

#[test]
fn when_the_masters_container_dies_it_comes_back_as_a_replica_and_takes_no_write() {
    let mut world = running("");
    world.kill_container("cache-1");
    for _ in 0..100 {
        world.turn();
        let masters = world.masters();
        assert!(masters.len() <= 1 && (world.master() == "cache-1" || !masters.contains(&"cache-1".to_owned())));
    }
    world.settle(100);
    compare(
        &world,
        &shown(&world),
        &expect![[r#"
        cache-1 replica in sync Some(152)
        cache-2 master running Some(152)
        cache-3 replica in sync Some(152)
    "#]],
    );
    assert_eq!(world.lost(), Vec::<u64>::new());
}

#[test]
fn the_replica_with_more_data_is_preferred() {
    let mut world = running("");
    world.slow.insert("cache-2".into());
    world.turns(20);
    let since = world.ms;
    world.kill_server("cache-1");
    world.slow.clear();
    world.settle(100);
    compare(
        &world,
        &format!("{}{}", commands(&world, since), failover(&world)),
        &expect![[r#"
          7700 ask cache-sentinel-1 to promote a replica of 172.30.0.11:6379
          8000   cache-sentinel-1: REPLICAOF NO ONE to cache-3
        cache-1: its server ended: cache-1 to cache-3
          prefer the replica with the newest data
          ask a Sentinel to promote
          cache-3 promoted
          a new client can write
          loss: nothing of what the old master had when it was last heard, and what it acknowledged in the 1 ms after that and had not sent to the new master
    "#]],
    );
    assert_eq!(world.lost(), Vec::<u64>::new());
}

/// The acts of Sentinels and operator since a time.
fn commands(world: &World, since: u64) -> String {
    let told = world.story(since);
    told.lines()
        .filter(|line| line.contains("REPLICAOF") || line.contains("promote"))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// M11: a master without persistence that starts again at once comes back empty and wipes all replicas.
#[test]
fn a_master_without_persistence_that_crashes_wipes_nobody() {
    let mut world = running("persistence: none\n");
    let keys = world.next_write;
    assert!(keys > 20);
    world.crash_container("cache-1");
    world.settle(100);
    compare(
        &world,
        &failover(&world),
        &expect![[r#"
        cache-1: its server ended: cache-1 to cache-2
          ask a Sentinel to promote
          cache-2 promoted
          a new client can write
          loss: nothing of what the old master had when it was last heard, and what it acknowledged after that and had not sent to the new master
    "#]],
    );
    assert_eq!(world.lost(), Vec::<u64>::new());
}

/// What the scenario above shows without its guard: a server starts only by an order for its run.
#[test]
fn without_the_start_rule_a_master_without_persistence_wipes_everybody() {
    let mut world = running("persistence: none\n");
    world.ablation = Some(Ablation::StartRule);
    world.crash_container("cache-1");
    world.turns(20);
    assert!(world.broken.iter().any(|one| one.starts_with("I3 cache-1 is an empty master")), "{:?}", world.broken);
}

#[test]
fn when_all_members_die_the_one_with_the_newest_data_leads() {
    let mut world = running("");
    world.isolated.insert("cache-2".into());
    world.turns(40);
    world.isolated.clear();
    for member in ["cache-1", "cache-2", "cache-3"] {
        world.kill_server(member);
    }
    world.settle(400);
    compare(
        &world,
        &failover(&world),
        &expect![[r#"
        cache-1: its server ended: cache-1 to cache-1
          the old master starts again: nobody has newer data
          a new client can write
          loss: nothing, if only the server ended: its log has all writes; if the host lost power, the last second may be missing
    "#]],
    );
    assert_eq!(world.lost(), Vec::<u64>::new());
}

#[test]
fn when_the_host_reboots_the_data_is_there_again() {
    let mut world = running("");
    world.reboot();
    world.settle(400);
    compare(
        &world,
        &shown(&world),
        &expect![[r#"
        cache-1 master running Some(57)
        cache-2 replica in sync Some(57)
        cache-3 replica in sync Some(57)
    "#]],
    );
    assert_eq!(world.lost(), Vec::<u64>::new());
}

/// All members of an object without persistence die: all data is gone, and the object works again.
#[test]
fn when_all_members_without_persistence_die_the_object_heals_empty() {
    let mut world = running("persistence: none\n");
    world.writers = false;
    world.reboot();
    world.settle(400);
    end(&world);
    assert!(world.redis(&world.container(&world.master())).is_some());
}

#[test]
fn the_newest_of_two_old_volumes_leads_and_an_empty_one_never_does() {
    let mut world = World::new("");
    world.leave_volume(1, &[], 0, 0);
    world.leave_volume(2, &[1, 2, 3], 4, 30);
    world.leave_volume(3, &[1, 2], 4, 20);
    world.settle(200);
    compare(
        &world,
        &shown(&world),
        &expect![[r#"
        cache-1 replica in sync Some(24)
        cache-2 master running Some(24)
        cache-3 replica in sync Some(24)
    "#]],
    );
    assert!(world.redis("default.cache-2").is_some_and(|server| server.writes.starts_with(&[1, 2, 3])));
}

#[test]
fn a_volume_that_cannot_be_asked_blocks_the_founding() {
    let mut world = World::new("");
    world.leave_volume(3, &[1, 2, 3], 4, 30);
    world.cut.insert("cache-3".into());
    world.turns(200);
    assert_eq!(world.masters(), Vec::<String>::new());
    let ready = world.status().conditions.into_iter().find(|one| one.type_ == "Ready").map(|one| one.message);
    compare(
        &world,
        &format!("{}\n", ready.unwrap_or_default()),
        &expect![[r#"
        waiting for cache-3: the member with the newest data becomes master
    "#]],
    );
    world.cut.clear();
    world.settle(200);
    assert_eq!(world.master(), "cache-3");
}

/// A death that nobody can prove is decided by the Sentinels alone.
#[test]
fn while_the_master_is_paused_only_sentinels_decide_and_the_operator_follows() {
    let mut world = running("");
    let since = world.ms;
    world.pause_container("cache-1");
    world.turns(150);
    assert_ne!(world.master(), "cache-1");
    let asked = world.commands.iter().filter(|one| one.starts_with("operator: FAILOVER")).count();
    assert_eq!(asked, 0);
    world.unpause_container("cache-1");
    for _ in 0..50 {
        world.turn();
        assert!(!world.masters().contains(&"cache-1".to_owned()), "{}", world.story(since));
    }
    world.settle(200);
    compare(
        &world,
        &format!("{}{}", commands(&world, since), failover(&world)),
        &expect![[r#"
             10700   cache-sentinel-3: REPLICAOF NO ONE to cache-2
             11600   cache-sentinel-3: REPLICAOF 172.30.0.12 to cache-3
            cache-1: the Sentinels agreed that it is down; the Sentinels chose a new master: cache-1 to cache-2
              cache-2 promoted
              a new client can write
              loss: nothing: the new master has everything that the old one had
        "#]],
    );
}

#[test]
fn what_sentinels_decided_while_the_operator_was_away_is_adopted() {
    let mut world = running("");
    world.away = true;
    world.kill_container("cache-1");
    world.turns(150);
    world.away = false;
    world.settle(200);
    compare(
        &world,
        &format!("{}{}", shown(&world), failover(&world)),
        &expect![[r#"
        cache-1 replica in sync Some(149)
        cache-2 master running Some(149)
        cache-3 replica in sync Some(149)
        cache-1: its container died; the Sentinels chose a new master: cache-1 to cache-2
          cache-2 promoted
          a new client can write
          loss: nothing of what the old master had when it was last heard, and what it acknowledged in the 15100 ms after that and had not sent to the new master
    "#]],
    );
}

/// Regression 458: a master that died before the Sentinels had heard of its promotion was told to none of them any more. They
/// named the former one until its role had been wrong for 25 s, and nobody wrote for that long.
#[test]
fn a_new_master_that_dies_before_a_sentinel_has_heard_of_it_is_failed_over_too() {
    let mut world = running("");
    world.kill_server("cache-1");
    world.turn();
    // The operator does not hear in which epoch the Sentinel promotes.
    world.cut.insert("cache-sentinel-1".into());
    while world.master() == "cache-1" {
        world.turn();
    }
    assert_eq!(world.master(), "cache-2");
    world.kill_server("cache-2");
    world.cut.clear();
    let turns = world.settle(400);
    end(&world);
    assert_eq!((world.master(), world.lost()), ("cache-3".to_owned(), Vec::<u64>::new()));
    assert!(turns < 60, "{turns} turns:\n{}", world.story(0));
}

/// Regression 444: everything died a moment after a promotion. No Sentinel had it in its file, the operator started the promoted
/// one again, and the Sentinels led clients to the former master, a replica, for 26 s.
#[test]
fn a_promotion_that_all_sentinels_have_forgotten_is_done_again_if_it_matters() {
    // The former master has copied everything by then, or not.
    for (copied, leads) in [(true, "cache-1"), (false, "cache-2")] {
        let mut world = running("");
        let files = world.disks.clone();
        world.kill_server("cache-1");
        world.turn();
        // The operator does not hear in which epoch the Sentinel promotes.
        world.cut.insert("cache-sentinel-1".into());
        while world.master() == "cache-1" {
            world.turn();
        }
        if !copied {
            world.sever("cache-1");
        }
        world.turns(6);
        assert_eq!(world.decisions().leader.as_deref(), Some("cache-sentinel-1"));
        assert!(world.acknowledged.values().any(|(member, _)| member == "cache-2"));
        (world.cut, world.severed) = Default::default();
        world.reboot();
        for (name, disk) in files.into_iter().filter(|(name, _)| name.contains("-sentinel-")) {
            world.disks.get_mut(&name).unwrap().sentinel = disk.sentinel;
        }
        let turns = world.settle(400);
        end(&world);
        assert_eq!((world.master().as_str(), world.lost()), (leads, Vec::<u64>::new()), "{}", world.story(0));
        assert!(turns < 60, "{turns} turns:\n{}", world.story(0));
    }
}

#[test]
fn a_sentinel_that_lost_its_volume_is_known_again() {
    let mut world = running("");
    world.wipe("cache-sentinel-2");
    world.turns(10);
    world.settle(600);
    compare(
        &world,
        &knowledge(&world),
        &expect![[r#"
        cache-sentinel-1: 172.30.0.11:6379, 2 replicas, 2 Sentinels, quorum true
        cache-sentinel-2: 172.30.0.11:6379, 2 replicas, 2 Sentinels, quorum true
        cache-sentinel-3: 172.30.0.11:6379, 2 replicas, 2 Sentinels, quorum true
    "#]],
    );
}

/// What each Sentinel knows.
fn knowledge(world: &World) -> String {
    let lines = world.status().sentinels.into_iter().map(|one| {
        let (master, quorum) = (one.master.unwrap_or_default(), one.quorum_ok);
        format!(
            "{}: {master}, {} replicas, {} Sentinels, quorum {quorum}\n",
            one.name, one.known_replicas, one.known_sentinels
        )
    });
    lines.collect()
}

#[test]
fn data_members_and_sentinels_are_added_and_removed_one_at_a_time() {
    let mut world = running("");
    world.change_spec(|spec| (spec.replicas, spec.sentinels) = (5, 5));
    world.turns(10);
    world.settle(1200);
    let grown = knowledge(&world);
    world.change_spec(|spec| (spec.replicas, spec.sentinels) = (3, 3));
    world.turns(10);
    world.settle(3000);
    compare(
        &world,
        &format!("{grown}\n{}", knowledge(&world)),
        &expect![[r#"
        cache-sentinel-1: 172.30.0.11:6379, 4 replicas, 4 Sentinels, quorum true
        cache-sentinel-2: 172.30.0.11:6379, 4 replicas, 4 Sentinels, quorum true
        cache-sentinel-3: 172.30.0.11:6379, 4 replicas, 4 Sentinels, quorum true
        cache-sentinel-4: 172.30.0.11:6379, 4 replicas, 4 Sentinels, quorum true
        cache-sentinel-5: 172.30.0.11:6379, 4 replicas, 4 Sentinels, quorum true

        cache-sentinel-1: 172.30.0.11:6379, 2 replicas, 2 Sentinels, quorum true
        cache-sentinel-2: 172.30.0.11:6379, 2 replicas, 2 Sentinels, quorum true
        cache-sentinel-3: 172.30.0.11:6379, 2 replicas, 2 Sentinels, quorum true
    "#]],
    );
    assert_eq!(world.lost(), Vec::<u64>::new());
}

#[test]
fn a_network_that_was_made_again_with_other_addresses_begins_a_new_group() {
    let mut world = running("");
    world.remake_network(31);
    world.turns(10);
    world.settle(600);
    compare(
        &world,
        &knowledge(&world),
        &expect![[r#"
        cache-sentinel-1: 172.31.0.11:6379, 2 replicas, 2 Sentinels, quorum true
        cache-sentinel-2: 172.31.0.11:6379, 2 replicas, 2 Sentinels, quorum true
        cache-sentinel-3: 172.31.0.11:6379, 2 replicas, 2 Sentinels, quorum true
    "#]],
    );
    assert_eq!(world.lost(), Vec::<u64>::new());
}

#[test]
fn a_change_that_needs_a_restart_rolls_over_the_replicas_and_then_switches_over() {
    let mut world = running("");
    let since = world.ms;
    world.change_spec(|spec| drop(spec.config.insert("databases".into(), "32".into())));
    world.turns(10);
    world.settle(1500);
    let told = world.story(since);
    let lines = told.lines().filter(|line| line.contains("restart") || line.contains("to promote"));
    let lines: Vec<String> =
        lines.map(|line| format!("{}\n", line.trim_start().split_once(' ').unwrap_or_default().1)).collect();
    compare(
        &world,
        &lines.concat(),
        &expect![[r#"
        restart the server of cache-2: databases changed
        restart the server of cache-3: databases changed
          cache-1 Pause(Switchover("restart for generation 2"))
        ask cache-sentinel-1 to promote a replica of 172.30.0.11:6379
        restart the server of cache-1: databases changed
    "#]],
    );
    assert_eq!(world.lost(), Vec::<u64>::new());
}

/// Regression 459: all replicas connected anew in the same moment when TLS was switched off, some before the master listened in
/// the new way. With min-replicas-to-write 1 the master refused writes meanwhile.
#[test]
fn while_tls_is_switched_on_and_off_a_replica_is_always_connected() {
    let mut world = running("");
    for enabled in [true, false] {
        world.change_spec(|spec| spec.tls.enabled = enabled);
        let refused = (0..60).filter(|_| {
            world.turn();
            !world.takes_writes(&world.container("cache-1"))
        });
        assert_eq!(refused.count(), 0, "turns without a replica, TLS {enabled}:\n{}", world.story(0));
        let ports = world.object.status.iter().flat_map(|status| &status.members);
        let ports = ports.map(|member| world.redis(&world.container(&member.name)).map(|server| server.tls));
        assert_eq!(ports.collect::<Vec<_>>(), [Some(enabled); 3]);
        world.settle(100);
    }
}

/// Regression 420: while the member with the newest data was started to be promoted, the others were started beside it. With a
/// log on disk all of them say offset 0, so a Sentinel could choose one without data.
#[test]
fn a_member_without_data_is_not_started_beside_the_one_that_is_to_be_promoted() {
    let mut world = running("");
    world.writers = false;
    ["cache-1", "cache-2", "cache-3"].iter().for_each(|member| world.kill_server(member));
    world.wipe("cache-1");
    let empty = world.disks.get_mut("default.cache-3").unwrap();
    (empty.data.writes, empty.data.position) = (Vec::new(), None);
    while world.master() == "cache-1" {
        world.turn();
        assert!(world.redis("default.cache-3").is_none(), "{}", world.story(0));
        assert!(world.ms < 120_000, "{}", world.story(world.ms - 3_000));
    }
    world.settle(400);
    assert_eq!((world.master().as_str(), world.lost()), ("cache-2", Vec::new()));
    end(&world);
}

/// Regression 421: when the first master ended after a Sentinel had learned of it and before a majority had, nothing was done
/// any more: the choice could not be made anew, and no failover ran.
#[test]
fn a_master_that_ends_while_it_is_established_is_replaced_or_starts_again() {
    let mut world = World::new("");
    world.isolated.extend(["cache-sentinel-2", "cache-sentinel-3"].map(String::from));
    world.cut.extend(["cache-sentinel-2", "cache-sentinel-3"].map(String::from));
    world.turns(40);
    assert_eq!(world.decisions().stage, "Founding");
    world.kill_server("cache-1");
    world.turns(5);
    (world.isolated, world.cut) = Default::default();
    world.settle(600);
    end(&world);
}

/// Regression 424: when a Sentinel had forgotten and did not know the replicas again within 30 s, the next one was let forget
/// too. With a majority that knows no replica there is no failover.
#[test]
fn while_one_sentinel_does_not_know_the_replicas_no_other_one_forgets() {
    let mut world = running("replicas: 4\n");
    world.change_spec(|spec| spec.replicas = 3);
    let resets = |world: &World| world.commands.iter().filter(|one| one.ends_with("SENTINEL RESET")).count();
    for _ in 0..600 {
        world.turn();
        if resets(&world) == 1 {
            break;
        }
    }
    let told = world.commands.iter().find(|one| one.ends_with("SENTINEL RESET")).unwrap();
    let sentinel = world.container(told.trim_start_matches("supervisor of ").split(':').next().unwrap());
    for _ in 0..500 {
        world.forget_replicas(&sentinel);
        world.turn();
    }
    assert_eq!(resets(&world), 1, "{}", world.story(world.ms - 20_000));
    world.settle(1_200);
    assert_eq!(resets(&world), 3);
    end(&world);
}

#[test]
fn with_snapshots_the_death_of_all_loses_what_came_after_the_last_one() {
    let mut world = running("persistence: rdb\n");
    world.kill_server("cache-1");
    world.settle(100);
    assert_eq!(world.lost(), Vec::<u64>::new());
    world.turns(25);
    let died = world.ms;
    ["cache-1", "cache-2", "cache-3"].iter().for_each(|member| world.kill_server(member));
    world.settle(400);
    let lost = world.lost();
    assert!(!lost.is_empty() && lost.iter().all(|write| world.acknowledged[write].1 + 2_000 >= died), "{lost:?}");
    assert!(failover(&world).contains("loss: what was written after the last snapshot"), "{}", failover(&world));
    end(&world);
}

/// Regression 426: a failover that ended with the same master said nothing about what was lost.
#[test]
fn a_failover_that_ends_with_the_same_master_says_what_was_lost() {
    let mut told = String::new();
    for persistence in ["aof", "rdb", "none"] {
        let mut world = running(&format!("persistence: {persistence}\n"));
        world.writers = false;
        world.reboot();
        world.settle(400);
        told += &failover(&world);
        end(&world);
    }
    expect![[r#"
        cache-1: its server ended: cache-1 to cache-1
          the old master starts again: nobody has newer data
          a new client can write
          loss: nothing, if only the server ended: its log has all writes; if the host lost power, the last second may be missing
        cache-1: its server ended: cache-1 to cache-1
          the old master starts again: nobody has newer data
          a new client can write
          loss: what was written after the last snapshot
        cache-1: its server ended: cache-1 to cache-1
          the old master starts again: nobody has newer data
          a new client can write
          loss: everything: with persistence none nothing is on disk
    "#]].assert_eq(&told);
}

#[test]
fn a_paused_object_does_nothing_and_adopts_afterwards_what_happened() {
    let mut world = running("");
    let annotations = world.object.metadata.annotations.get_or_insert_default();
    annotations.insert(crate::api::object::RECONCILE_ANNOTATION.into(), "paused".into());
    world.kill_server("cache-1");
    world.ask_switchover("cache-3");
    world.change_spec(|spec| spec.replicas = 4);
    for _ in 0..100 {
        assert_eq!(world.turn(), Vec::<String>::new());
    }
    assert_eq!((world.master().as_str(), world.decisions().change), ("cache-1", None));
    world.object.metadata.annotations = None;
    world.settle(600);
    assert!(failover(&world).contains("the Sentinels chose a new master"), "{}", failover(&world));
    end(&world);
}

#[test]
fn a_changed_quorum_reaches_every_sentinel_and_nothing_restarts() {
    let mut world = running("");
    let since = world.ms;
    let quorum = |world: &World| {
        let views = world.boxes.values().filter_map(|one| one.watcher.running()?.master.as_ref());
        views.map(|master| master.quorum).collect::<Vec<_>>()
    };
    assert_eq!(quorum(&world), [2, 2, 2]);
    world.change_spec(|spec| spec.quorum = Some(3));
    world.turns(20);
    world.settle(300);
    assert_eq!(quorum(&world), [3, 3, 3]);
    assert_eq!((world.master().as_str(), commands(&world, since)), ("cache-1", String::new()));
    end(&world);
}

/// What a Sentinel of M5 answers: it refuses, because a failover runs, because no replica suits, or because it would not ask the
/// replicas again.
#[test]
fn after_a_refusal_another_sentinel_is_asked_and_never_two_at_once() {
    let mut told = String::new();
    for refusal in ["INPROG Failover already in progress", "NOGOODSLAVE No suitable replica to promote", "too fresh"] {
        let mut world = running("");
        world.refuses.insert("cache-sentinel-1".into(), refusal.into());
        world.kill_server("cache-1");
        world.settle(200);
        told += &format!("{refusal}\n{}", failover(&world));
        let asked = world.commands.iter().filter(|one| one.starts_with("operator: FAILOVER"));
        let asked: std::collections::BTreeSet<&String> = asked.collect();
        told += &format!("  {asked:?}\n");
        assert_eq!(world.lost(), Vec::<u64>::new());
        end(&world);
    }
    expect![[r#"
        INPROG Failover already in progress
        cache-1: its server ended: cache-1 to cache-2
          ask a Sentinel to promote
          ask a Sentinel to promote
          cache-2 promoted
          a new client can write
          loss: nothing of what the old master had when it was last heard, and what it acknowledged in the 1 ms after that and had not sent to the new master
          {"operator: FAILOVER to cache-sentinel-1", "operator: FAILOVER to cache-sentinel-2"}
        NOGOODSLAVE No suitable replica to promote
        cache-1: its server ended: cache-1 to cache-2
          ask a Sentinel to promote
          ask a Sentinel to promote
          cache-2 promoted
          a new client can write
          loss: nothing of what the old master had when it was last heard, and what it acknowledged in the 1 ms after that and had not sent to the new master
          {"operator: FAILOVER to cache-sentinel-1", "operator: FAILOVER to cache-sentinel-2"}
        too fresh
        cache-1: its server ended: cache-1 to cache-2
          ask a Sentinel to promote
          ask a Sentinel to promote
          cache-2 promoted
          a new client can write
          loss: nothing of what the old master had when it was last heard, and what it acknowledged in the 1 ms after that and had not sent to the new master
          {"operator: FAILOVER to cache-sentinel-1", "operator: FAILOVER to cache-sentinel-2"}
    "#]]
    .assert_eq(&told);
}

/// Regression 427: a master stood still, a Sentinel began to fail over by itself, and then the death was proven: the operator
/// asked another Sentinel, too. Both promote, perhaps two different replicas.
#[test]
fn while_a_sentinel_fails_over_by_itself_no_other_one_is_asked() {
    let mut world = running("");
    world.pause_container("cache-1");
    let runs = |world: &World| {
        let mut sentinels = world.boxes.values().filter_map(|one| one.watcher.running()?.master.as_ref());
        sentinels.any(|master| master.failover.is_some())
    };
    while !runs(&world) {
        world.turn();
        assert!(world.ms < 60_000, "{}", world.story(0));
    }
    world.kill_container("cache-1");
    world.settle(300);
    let asked = world.commands.iter().filter(|one| one.starts_with("operator: FAILOVER")).count();
    assert_eq!((asked, world.master() == "cache-1"), (0, false), "{}", world.story(10_000));
    end(&world);
}
/// Regression 303: a replica that lost its volume had never been in sync, and to Sentinels a link that never was up is not down
/// for long. While they reached neither the master nor the other replica they made it master, and both became as empty as it.
#[test]
fn a_replica_without_data_is_promoted_by_no_sentinel() {
    let mut world = running("");
    world.wipe("cache-2");
    world.pause_container("cache-1");
    world.isolated.insert("cache-3".into());
    world.turns(300);
    assert_eq!((world.master(), world.lost()), ("cache-1".to_owned(), Vec::<u64>::new()), "{}", world.story(0));
    world.undo_faults();
    world.settle(600);
    end(&world);
    assert_eq!(world.lost(), Vec::<u64>::new());
}
