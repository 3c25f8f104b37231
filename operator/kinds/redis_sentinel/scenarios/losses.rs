//! Scenarios about what a failover of a living master loses, and what the status says of it.

use expect_test::expect;

use super::{compare, end, failover, running};
use crate::api::redis_sentinel::RedisFailoverStatus;
use crate::kinds::redis_sentinel::world::{Ablation, TURN_MS, World};
use crate::supervisor::redis::wire::Role;

/// Bytes of a write.
const BYTES: usize = 10;

/// The Sentinels replace a master that they do not reach and that the operator does not reach either; clients do.
fn replaced() -> World {
    let mut world = running("minReplicasToWrite: 0\n");
    world.unwatch("cache-1");
    world.cut.insert("cache-1".into());
    until(&mut world, |world| world.master() != "cache-1");
    world
}

fn last(world: &World) -> RedisFailoverStatus {
    world.status().last_failover.unwrap_or_default()
}

/// Regression 470: the status said that "what it acknowledged in the 191 ms after that" was lost of a master that lived. It was
/// 587 appends: it went on until it was demoted, and where its data ended then was never read.
#[test]
fn when_the_old_master_is_heard_again_the_status_has_the_exact_loss() {
    let mut world = replaced();
    world.turns(10);
    let before = last(&world);
    assert!(!before.loss_measured && before.lost_bytes < Some((world.lost().len() * BYTES) as u64), "{before:?}");
    let told = failover(&world);
    world.cut.clear();
    world.settle(200);
    let (after, lost) = (last(&world), world.lost().len());
    assert!(lost > 10);
    assert_eq!((after.lost_bytes, after.loss_measured), (Some((lost * BYTES) as u64), true), "{after:?}");
    compare(
        &world,
        &format!("{told}{}", failover(&world)),
        &expect![[r#"
            cache-1: the Sentinels agreed that it is down; the Sentinels chose a new master: cache-1 to cache-2
              cache-2 promoted
              a new client can write
              loss: nothing of what the old master had when it was last heard; what it acknowledges until it follows is known when it is heard again
            cache-1: the Sentinels agreed that it is down; the Sentinels chose a new master: cache-1 to cache-2
              cache-2 promoted
              a new client can write
              loss: what was acknowledged in the last 220 bytes of the old master's replication stream
        "#]],
    );
}

/// Its own supervisor makes it a replica, because a majority of the Sentinels says so, or a Sentinel does.
#[test]
fn an_old_master_that_follows_without_an_operator_says_where_its_data_ended() {
    for away in [true, false] {
        let mut world = replaced();
        (world.away, world.unwatched) = (away, Default::default());
        world.turns(150);
        let role = world.redis("default.cache-1").map(|server| server.role);
        assert_eq!(role, Some(Role::Replica), "{}", world.story(0));
        world.undo_faults();
        world.settle(200);
        let (after, lost) = (last(&world), world.lost().len() as u64);
        assert_eq!((after.lost_bytes, after.loss_measured), (Some(lost * BYTES as u64), true), "{after:?}");
        end(&world);
    }
}

/// Offsets of another history are not compared: the old master died, and came back with nothing that belongs to the common one.
#[test]
fn an_old_master_that_died_before_it_was_heard_again_leaves_what_is_known() {
    let mut world = replaced();
    world.turns(10);
    world.kill_container("cache-1");
    world.undo_faults();
    world.settle(300);
    let (after, lost) = (last(&world), world.lost().len() as u64 * BYTES as u64);
    assert!(!after.loss_measured && after.lost_bytes <= Some(lost) && after.lost_bytes > Some(0), "{after:?} {lost}");
    assert!(after.loss.is_some_and(|loss| loss.contains("at least")));
    end(&world);
}

/// A master that the Sentinels do not reach, and that everybody else reaches.
fn unwatched(spec: &str) -> World {
    let mut world = running(spec);
    world.unwatch("cache-1");
    world
}

/// Until the operator has paused the writes of the master.
fn yielding(spec: &str) -> World {
    let mut world = unwatched(spec);
    until(&mut world, |world| world.decisions().change.is_some());
    world
}

fn until(world: &mut World, happens: fn(&World) -> bool) {
    while !happens(world) {
        world.turn();
        assert!(world.ms < 90_000, "{}", world.story(0));
    }
}

/// Sentinels that have tried to fail over just now do not try again for a while.
fn have_tried(world: &mut World) {
    let ms = world.ms;
    for one in world.boxes.values_mut() {
        if let Some(watched) = one.watcher.sentinel.as_mut().and_then(|one| one.master.as_mut()) {
            watched.tried_at = Some(ms);
        }
    }
}

/// Regression 471: a master that only the Sentinels did not reach went on to acknowledge after they had promoted another, until
/// it heard that: 140 and 154 appends were lost in two rounds.
#[test]
fn a_living_master_that_the_sentinels_replace_acknowledges_nothing_that_the_new_one_lacks() {
    for (ablation, expected) in [(None, 0..=1), (Some(Ablation::PausedWrites), 5..=20)] {
        let mut world = unwatched("minReplicasToWrite: 0\n");
        let since = world.ms;
        world.ablation = ablation;
        until(&mut world, |world| world.master() != "cache-1");
        world.turns(20);
        world.undo_faults();
        world.settle(300);
        // In this world a Sentinel promotes in the very turn in which the order to pause is on its way.
        let lost = world.lost();
        assert!(expected.contains(&lost.len()), "{lost:?}\n{}", world.story(since));
        assert_eq!(last(&world).lost_bytes, Some((lost.len() * BYTES) as u64), "{:?}", last(&world));
        assert!(last(&world).loss_measured);
        end(&world);
    }
}

/// Nobody is promoted: the Sentinels have tried just now.
#[test]
fn a_pause_for_a_promotion_that_does_not_come_is_lifted_and_not_tried_again_soon() {
    let mut world = unwatched("");
    have_tried(&mut world);
    let mut paused = 0;
    for _ in 0..190 {
        world.turn();
        let server = world.redis("default.cache-1").unwrap();
        paused += u64::from(server.paused.is_some()) * TURN_MS;
    }
    assert!((4_000..=6_000).contains(&paused), "{paused} ms:\n{}", world.story(0));
    let told = world.status().last_switchover.unwrap_or_default();
    assert!(told.request.starts_with("the Sentinels take cache-1 for down since "), "{told:?}");
    assert_eq!(told.refused.as_deref(), Some("the Sentinels promoted nobody; writes go on at the old master"));
    world.undo_faults();
    world.settle(300);
    assert_eq!((world.master(), world.lost()), ("cache-1".to_owned(), Vec::new()));
    end(&world);
}

#[test]
fn a_pause_ends_when_the_sentinels_reach_the_master_again() {
    let mut world = unwatched("");
    have_tried(&mut world);
    until(&mut world, |world| world.decisions().change.is_some());
    world.undo_faults();
    world.turns(5);
    let server = world.redis("default.cache-1").unwrap();
    assert_eq!((server.paused.clone(), world.decisions().change), (None, None), "{}", world.story(10_000));
    world.settle(300);
    assert_eq!((world.master(), world.lost()), ("cache-1".to_owned(), Vec::new()));
    end(&world);
}

/// Regression 446: writes stayed paused for 5 s, although the Sentinels that had lost the master were cut off themselves and could
/// promote nobody.
#[test]
fn a_pause_ends_when_the_sentinels_cannot_promote_any_more() {
    let mut world = unwatched("");
    have_tried(&mut world);
    until(&mut world, |world| world.decisions().change.is_some());
    for sentinel in ["cache-sentinel-2", "cache-sentinel-3"] {
        world.cut.insert(sentinel.into());
    }
    world.turns(40);
    let server = world.redis("default.cache-1").unwrap();
    assert_eq!((server.paused.clone(), world.decisions().change), (None, None), "{}", world.story(10_000));
    let told = world.status().last_switchover.unwrap_or_default();
    assert_eq!(told.refused.as_deref(), Some("the Sentinels cannot promote another; writes go on at the old master"));
    world.undo_faults();
    world.settle(300);
    end(&world);
}

#[test]
fn no_master_is_paused_for_sentinels_that_cannot_promote() {
    // One Sentinel of a quorum of three reaches the master; or none reaches a replica.
    let one: fn(&mut World) = |world| drop(world.unwatched.pop_first());
    let replicas: fn(&mut World) = |world| ["cache-2", "cache-3"].iter().for_each(|member| world.unwatch(member));
    for (spec, fault) in [("quorum: 3\n", one), ("", replicas)] {
        let mut world = unwatched(spec);
        fault(&mut world);
        for _ in 0..300 {
            world.turn();
            assert_eq!(world.redis("default.cache-1").unwrap().paused, None, "{}", world.story(5_000));
        }
        world.undo_faults();
        world.settle(300);
        assert_eq!((world.master(), world.lost()), ("cache-1".to_owned(), Vec::new()));
        end(&world);
    }
}

/// The operator goes away in the pause: the master asks the Sentinels, which it does not reach, and stays paused until somebody
/// tells it what became of it.
#[test]
fn a_paused_master_without_an_operator_stays_paused_until_it_hears_of_its_successor() {
    let mut world = yielding("minReplicasToWrite: 0\n");
    world.away = true;
    world.turns(100);
    let old = world.redis("default.cache-1").unwrap();
    assert!(old.role == Role::Master && old.paused.is_some(), "{}", world.story(10_000));
    world.unwatched.clear();
    world.turns(100);
    let old = world.redis("default.cache-1").unwrap();
    assert!(old.role == Role::Replica && old.paused.is_none(), "{}", world.story(10_000));
    world.away = false;
    world.settle(300);
    assert!(world.lost().len() <= 1, "{:?}", world.lost());
    end(&world);
}
