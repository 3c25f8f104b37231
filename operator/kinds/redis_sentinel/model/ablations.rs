//! Shows why each part of the protocol is needed: without it the model checker finds a counterexample, with it none.

use stateright::{Checker, Model};

use super::actions::Fault;
use super::checks::{A, B, C, last_write_to_one, settled};
use super::{Budget, Setting};
use crate::kinds::redis_sentinel::world::{Ablation, World};

/// Makes a start state.
type Start = fn(Option<Ablation>) -> World;

/// Asserts that from `start` the checker finds `invariant` broken without that part, and not with it.
fn check(part: Ablation, start: Start, faults: &[Fault], budget: (u8, u8, u8), events: usize, invariant: &'static str) {
    let (faults_left, writes, leaps) = budget;
    let run = |ablation: Option<Ablation>| {
        let mut start = start(ablation);
        start.ablation = ablation;
        let setting = Setting {
            starts: vec![start],
            faults: faults.to_vec(),
            budget: Budget { faults: faults_left, writes, leaps },
            events,
            peace_in: 0,
            only: Some(invariant),
        };
        let checker = setting.checker().threads(1).spawn_bfs().join();
        (checker.unique_state_count(), checker.discoveries().into_values().next())
    };
    let (states, found) = run(Some(part));
    let path = found.unwrap_or_else(|| panic!("{part:?}: no counterexample in {states} states"));
    let steps = path.into_actions();
    println!("{part:?}: {invariant} after {} of {states} states: {steps:?}", steps.len());
    let (states, found) = run(None);
    let found = found.map(|path| (path.last_state().clone(), path.into_actions()));
    assert!(found.is_none(), "{part:?}: broken even with it, {states} states: {found:?}");
}

/// Without persistence, the master's server died.
fn without_persistence(_: Option<Ablation>) -> World {
    let mut world = settled("persistence: none\n");
    world.kill_server(A);
    world
}

#[test]
fn without_the_start_rule_an_empty_master_leads() {
    check(Ablation::StartRule, without_persistence, &[], (0, 0, 1), 2, "I3");
}

/// The Sentinels have promoted another, and the old master, which needs no replica to take writes, does not hear of it.
fn replaced_and_apart(_: Option<Ablation>) -> World {
    let mut world = settled("minReplicasToWrite: 0\n");
    world.isolated.insert(A.to_owned());
    world.pass(4_900, false);
    world
}

#[test]
fn without_the_word_of_the_sentinels_two_masters_take_writes_for_ever() {
    check(Ablation::Authority, replaced_and_apart, &[], (0, 0, 3), 3, "I7");
}

/// All died, and then B lost its volume. It answers; nobody has reached the others for 9 s.
fn only_an_empty_one_answers(ablation: Option<Ablation>) -> World {
    let mut world = settled("");
    (world.ablation, world.posts) = (ablation, false);
    for member in [A, C] {
        world.kill_container(member);
        world.cut.insert(member.to_owned());
        world.isolated.insert(member.to_owned());
    }
    world.turns(2);
    world.wipe(B);
    world.turns(90);
    world.posts = true;
    world
}

#[test]
fn without_the_word_of_its_emptiness_an_empty_member_leads() {
    check(Ablation::EmptyMember, only_an_empty_one_answers, &[], (0, 0, 2), 3, "I3");
}

/// The Sentinels have just asked the replicas; then C got a write that B has not, and A died.
fn asked_before_the_last_write(_: Option<Ablation>) -> World {
    let mut world = settled("");
    world.posts = false;
    let young = |world: &World| {
        let mut sentinels = world.boxes.values().filter_map(|one| one.watcher.running());
        sentinels.all(|one| one.has_asked(world.ms, 300))
    };
    for _ in 0..200 {
        if young(&world) {
            break;
        }
        world.turn();
    }
    assert!(young(&world));
    world.posts = true;
    last_write_to_one(&mut world);
    world.kill_server(A);
    world.hear_all();
    world.decide(usize::MAX);
    // The replicas have their priorities, and a Sentinel is asked.
    world.pass(500, false);
    world.decide(usize::MAX);
    world
}

#[test]
fn without_old_information_the_sentinel_promotes_one_that_has_less() {
    check(Ablation::FreshInfo, asked_before_the_last_write, &[], (0, 0, 0), 4, "I8");
}

fn switchover_asked(_: Option<Ablation>) -> World {
    let mut world = settled("");
    world.ask_switchover("");
    world.hear_all();
    world.decide(usize::MAX);
    world
}

#[test]
fn without_the_pause_a_switchover_replaces_a_master_that_takes_writes() {
    check(Ablation::PausedWrites, switchover_asked, &[], (0, 0, 0), 6, "I5");
}

/// The master died, and a Sentinel was asked to fail over and does.
fn one_was_asked(_: Option<Ablation>) -> World {
    let mut world = settled("");
    world.kill_server(A);
    world.hear_all();
    world.decide(usize::MAX);
    world.deliver_all();
    world.supervise();
    world.hear_all();
    world
}

#[test]
fn without_patience_two_sentinels_fail_over_at_once() {
    check(Ablation::OneAtATime, one_was_asked, &[], (0, 0, 1), 2, "I4");
}

/// A replica has left, and a Sentinel has forgotten everybody, so as to forget that one.
fn one_has_forgotten(_: Option<Ablation>) -> World {
    let mut world = settled("replicas: 4\n");
    world.change_spec(|spec| spec.replicas = 3);
    world.posts = false;
    for _ in 0..600 {
        world.turn();
        if world.commands.iter().any(|one| one.ends_with("SENTINEL RESET")) {
            break;
        }
    }
    world.posts = true;
    world.log.clear();
    world
}

#[test]
fn without_the_conditions_of_a_reset_two_sentinels_forget_at_once() {
    check(Ablation::ResetConditions, one_has_forgotten, &[], (0, 0, 1), 2, "I6");
}
