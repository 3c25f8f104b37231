//! Scenarios of switchovers: what is promised for one that succeeds, is refused, is given up, or ends in a failover.

use expect_test::expect;

use super::{commands, compare, end, failover, running, shown};
use crate::kinds::redis_sentinel::world::World;

#[test]
fn a_switchover_loses_nothing() {
    let mut world = running("");
    let since = world.ms;
    world.ask_switchover("cache-3");
    world.settle(300);
    compare(
        &world,
        &format!("{}{}", commands(&world, since), switchover(&world)),
        &expect![[r#"
         10800 ask cache-sentinel-1 to promote a replica of 172.30.0.11:6379
         11100   cache-sentinel-1: REPLICAOF NO ONE to cache-3
        cache-1 to cache-3
          the Sentinels learn which replica is preferred
          pause writes until the replicas have everything
          ask a Sentinel to promote
          cache-3 promoted
          a new client can write
          loss: nothing: the new master has everything that the old one had
    "#]],
    );
    assert_eq!(world.lost(), Vec::<u64>::new());
}

#[test]
fn a_switchover_to_any_member_does_not_wait_for_priorities() {
    let mut world = running("");
    world.ask_switchover("");
    assert!(world.settle(100) < 60);
    compare(
        &world,
        &switchover(&world),
        &expect![[r#"
        cache-1 to cache-2
          pause writes until the replicas have everything
          ask a Sentinel to promote
          cache-2 promoted
          a new client can write
          loss: nothing: the new master has everything that the old one had
    "#]],
    );
    assert_eq!(world.lost(), Vec::<u64>::new());
}

/// Regression 457: a master that only its replicas did not reach took no writes for as long as that lasted: for the Sentinels it
/// was up, and `evenkeel get` said no more than that no new client could write.
#[test]
fn a_master_that_is_cut_off_from_its_replicas_alone_is_switched_over_if_nothing_is_lost() {
    let mut world = running("");
    world.writers = false;
    world.turns(5);
    world.sever("cache-1");
    world.turns(80);
    compare(
        &world,
        &format!("{}{}", shown(&world), switchover(&world)),
        &expect![[r#"
        cache-1 replica disconnected Some(51)
        cache-2 master running Some(51)
        cache-3 replica in sync Some(51)
        cache-1 to cache-2
          pause writes until the replicas have everything
          ask a Sentinel to promote
          cache-2 promoted
          a new client can write
          loss: nothing: the new master has everything that the old one had
    "#]],
    );
    assert_eq!(world.lost(), Vec::<u64>::new());
    world.severed.clear();
    world.settle(100);
}

#[test]
fn a_master_that_is_cut_off_with_writes_that_nobody_else_has_is_left_to_people() {
    let mut world = running("");
    world.sever("cache-1");
    world.turns(200);
    let ready = world.status().conditions.into_iter().find(|one| one.type_ == "Ready");
    let told = ready.map(|one| format!("{}: {}\n", one.reason, one.message)).unwrap_or_default();
    compare(
        &world,
        &format!("{}{told}{}", shown(&world), switchover(&world)),
        &expect![[r#"
        cache-1 master read-only Some(90)
        cache-2 replica in sync Some(51)
        cache-3 replica in sync Some(51)
        CutOff: cache-1 takes no writes: no replica acknowledges, although the operator reaches them, so the network between them is cut. Mend it, or stop the container of cache-1: then cache-2 becomes master without the last 390 bytes of the replication stream
        refused: the replicas did not receive everything within 5 s; writes go on at the old master
        cache-1 to cache-1
          loss: nothing: the master stayed the same
    "#]],
    );
    world.severed.clear();
    world.settle(100);
    assert_eq!((world.master(), world.lost()), ("cache-1".to_owned(), Vec::<u64>::new()));
}

fn switchover(world: &World) -> String {
    let Some(last) = world.status().last_switchover else { return "none\n".to_owned() };
    let refused = last.refused.map(|why| format!("refused: {why}\n")).unwrap_or_default();
    let result = last.result.map(|result| {
        let steps: Vec<String> = result.steps.iter().map(|step| format!("  {}\n", step.step)).collect();
        format!("{} to {}\n{}  loss: {}\n", result.from, result.to, steps.concat(), result.loss.unwrap_or_default())
    });
    refused + &result.unwrap_or_default()
}

#[test]
fn a_switchover_that_is_not_possible_is_refused_with_the_reason() {
    let mut told = String::new();
    for (to, fault) in [("cache-1", ""), ("cache-9", ""), ("cache-2", "cache-2"), ("", "sentinels")] {
        let mut world = running("");
        match fault {
            "" => {}
            "sentinels" => {
                world.isolated.extend(["cache-sentinel-1", "cache-sentinel-2"].map(String::from));
                world.turns(80);
            }
            member => drop(world.isolated.insert(member.into())),
        }
        world.turns(5);
        world.ask_switchover(to);
        world.turns(5);
        told += &switchover(&world);
        end(&world);
    }
    expect![[r#"
        refused: cache-1 is the master already
        refused: there is no member cache-9
        refused: cache-2 is not in sync with the master, or is being removed
        refused: no majority of the Sentinels agrees on the master
    "#]]
    .assert_eq(&told);
}

#[test]
fn a_switchover_that_is_given_up_resumes_writes_at_the_old_master() {
    let mut world = running("");
    world.slow.insert("cache-2".into());
    world.slow.insert("cache-3".into());
    world.turns(3);
    world.ask_switchover("");
    world.turns(100);
    world.slow.clear();
    world.settle(200);
    compare(
        &world,
        &switchover(&world),
        &expect![[r#"
        refused: the replicas did not receive everything within 5 s; writes go on at the old master
        cache-1 to cache-1
          a new client can write
          loss: nothing: the master stayed the same
    "#]],
    );
    assert_eq!(world.masters(), ["cache-1"]);
    assert_eq!(world.lost(), Vec::<u64>::new());
}

/// Regression 422: requests to Sentinels had the id of an earlier one of the same epoch. The Sentinel had done that one, so it
/// did nothing, and writes waited for it for 10 s.
#[test]
fn a_failover_after_a_switchover_that_was_given_up_is_another_request() {
    let mut world = running("");
    world.ask_switchover("");
    while world.decisions().change.is_none_or(|change| change.attempt == 0) {
        world.turn();
    }
    let replicas = ["cache-2", "cache-3"].map(String::from);
    world.isolated.extend(replicas.clone());
    world.turns(150);
    assert!(switchover(&world).starts_with("refused: "), "{}", switchover(&world));
    world.isolated.clear();
    world.settle(600);
    assert_eq!((world.master().as_str(), world.decisions().epoch), ("cache-1", 1), "{}", world.story(3_000));
    world.kill_server("cache-1");
    world.turns(20);
    assert_ne!(world.master(), "cache-1");
    end(&world);
}

/// Regression 425: a master that died before its switchover was done is replaced in a failover, but the steps of that were
/// added to those of the failover before, and the switchover ended without a word.
#[test]
fn a_failover_out_of_a_switchover_is_told_as_a_failover_that_begins_then() {
    let mut world = running("");
    world.kill_server("cache-1");
    world.settle(100);
    world.turns(10);
    let master = world.master();
    world.ask_switchover("cache-3");
    world.turns(10);
    world.kill_server(&master);
    world.settle(300);
    compare(
        &world,
        &format!("{}{}", switchover(&world), failover(&world)),
        &expect![[r#"
        refused: cache-2 died before another was promoted: a failover follows
        cache-2 to 
          loss: 
        cache-2: its server ended: cache-2 to cache-1
          ask a Sentinel to promote
          cache-1 promoted
          a new client can write
          loss: nothing of what the old master had when it was last heard, and what it acknowledged in the 1 ms after that and had not sent to the new master
    "#]],
    );
}

/// Regression 305: when the Sentinels promoted by themselves during a switchover, the switchover was told as done, and
/// `lastFailover` still told of the failover before, with its loss.
#[test]
fn a_switchover_that_the_sentinels_overtake_is_refused_and_told_as_a_failover() {
    let mut world = running("downAfter: 1s\n");
    world.slow.extend(["cache-2".to_owned(), "cache-3".to_owned()]);
    world.turns(2);
    world.ask_switchover("");
    world.turns(2);
    world.isolated.insert("cache-1".into());
    world.turns(40);
    world.undo_faults();
    world.settle(200);
    compare(
        &world,
        &format!("{}{}", switchover(&world), failover(&world)),
        &expect![[r#"
            refused: the Sentinels chose a new master by themselves before one was asked: see lastFailover
            cache-1 to 
              loss: 
            cache-1: the Sentinels agreed that it is down; the Sentinels chose a new master: cache-1 to cache-2
              cache-2 promoted
              a new client can write
              loss: what was acknowledged in the last 40 bytes of the old master's replication stream
        "#]],
    );
}
