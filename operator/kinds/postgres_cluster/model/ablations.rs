//! Shows why each part of the protocol is needed: without it the model checker finds a counterexample, with it none.

use stateright::{Checker, Model};

use super::checks::{ASYNC, THREE, settled};
use super::{Budget, Fault, Setting};
use crate::kinds::postgres_cluster::world::{Ablation, World};

const A: &str = "db-1";
const B: &str = "db-2";
const C: &str = "db-3";

/// Asserts that from `start` the checker finds `invariant` broken without that part, and nothing broken with it.
fn check(
    part: Ablation,
    start: fn(Option<Ablation>) -> World,
    faults: &[Fault],
    budget: (u8, u8, u8),
    depth: usize,
    invariant: &'static str,
) {
    let (faults_left, writes, leaps) = budget;
    let run = |ablation: Option<Ablation>| {
        let mut world = start(ablation);
        world.ablation = ablation;
        let setting = Setting {
            starts: vec![world],
            fine: false,
            faults: faults.to_vec(),
            budget: Budget { faults: faults_left, writes, leaps },
            peace_in: 0,
            only: Some(invariant),
        };
        let name = super::properties::named(invariant);
        let checker = setting.checker().target_max_depth(depth).threads(1).spawn_bfs().join();
        (checker.unique_state_count(), checker.discovery(name))
    };
    let (states, found) = run(Some(part));
    let path = found.unwrap_or_else(|| panic!("{part:?}: no counterexample in {states} states"));
    let steps = path.into_actions();
    println!("{part:?}: {invariant} after {} of {states} states: {steps:?}", steps.len());
    let (states, found) = run(None);
    assert!(
        found.is_none(),
        "{part:?}: broken even with it, {states} states: {:?}",
        found.map(|path| path.into_actions())
    );
}

fn reconciled(world: &mut World) {
    world.hear_all(0);
    world.reconcile(0, 0);
}

/// A stays a primary that only its clients can reach for 3.5 s; an election begins, and A can be reached again.
fn given_up_and_back(_: Option<Ablation>) -> World {
    let mut world = settled(THREE);
    world.isolate(A);
    world.pass(3_500);
    reconciled(&mut world);
    world.join_all();
    world
}

#[test]
fn without_the_receivers_stop_a_promise_does_not_hold() {
    check(Ablation::ReceiverStop, given_up_and_back, &[], (0, 1, 0), 10, "I2");
}

#[test]
fn without_a_durable_promise_a_supervisor_forgets_it() {
    check(Ablation::DurablePromise, given_up_and_back, &[Fault::Container], (1, 0, 1), 6, "I3");
}

/// Only C has acknowledged a commit; then C dies and has been absent long enough to be dismissed.
fn acknowledged_by_one_that_died(_: Option<Ablation>) -> World {
    let mut world = settled(THREE);
    let (a, c) = (world.container(A), world.container(C));
    world.write_to(&a);
    world.ship(&c);
    world.reply(&c);
    world.acknowledge(&a);
    world.kill_container(C);
    world.cut(C, true);
    reconciled(&mut world);
    world.pass(10_500);
    world.hear_all(0);
    world
}

#[test]
fn without_the_reconfigurations_barrier_the_last_witness_is_let_go() {
    check(Ablation::ReconfigurationBarrier, acknowledged_by_one_that_died, &[Fault::Postmaster], (1, 0, 0), 12, "I2");
}

/// A's postmaster is dead, and B and C have promised.
fn promised(_: Option<Ablation>) -> World {
    let mut world = settled(THREE);
    world.kill_postgres(A);
    reconciled(&mut world);
    world.deliver_all();
    world.supervise();
    world.streams();
    world.supervise();
    reconciled(&mut world);
    world.deliver_all();
    world
}

#[test]
fn without_the_gate_a_commit_is_acknowledged_that_no_record_knows_of() {
    check(Ablation::Gate, promised, &[], (0, 1, 0), 7, "I8");
}

#[test]
fn without_the_end_of_sessions_a_commit_is_acknowledged_that_no_record_knows_of() {
    check(Ablation::SessionKill, promised, &[], (0, 1, 0), 7, "I8");
}

/// Only B has acknowledged a commit; then B lost its volume, and its new copy has not caught up.
fn acknowledged_by_one_that_lost_its_volume(ablation: Option<Ablation>) -> World {
    let mut world = World::new(THREE);
    world.ablation = ablation;
    world.settle(100);
    world.log = None;
    let (a, b) = (world.container(A), world.container(B));
    world.short_copies = true;
    world.write_to(&a);
    world.ship(&b);
    world.reply(&b);
    world.acknowledge(&a);
    world.wipe(B);
    for _ in 0..3 {
        reconciled(&mut world);
        world.deliver_all();
    }
    world.supervise();
    world
}

#[test]
fn without_the_incarnation_a_new_copy_speaks_for_the_old_one() {
    check(Ablation::Incarnation, acknowledged_by_one_that_lost_its_volume, &[Fault::Postmaster], (1, 0, 0), 10, "I2");
}

/// A died with WAL that no standby acknowledged; B leads and has acknowledged since. Then the record is lost.
fn record_lost_after_a_failover(_: Option<Ablation>) -> World {
    let mut world = settled(THREE);
    let backup = world.object.status.clone();
    let a = world.container(A);
    for _ in 0..9 {
        world.write_to(&a);
    }
    world.kill_container(A);
    while world.acknowledged.is_empty() {
        world.turn(0);
        world.write();
    }
    world.kill_container(A);
    world.object.status = backup;
    reconciled(&mut world);
    world
}

#[test]
fn without_the_order_of_timelines_a_dead_branch_wins() {
    check(Ablation::TimelineOrder, record_lost_after_a_failover, &[], (0, 0, 0), 11, "I2");
}

/// Asynchronous; A can reach no other member and no operator for longer than its lease.
fn alone_for_longer_than_the_lease(_: Option<Ablation>) -> World {
    let mut world = settled(ASYNC);
    world.isolate(A);
    world.pass(3_500);
    reconciled(&mut world);
    world.deliver_all();
    world.supervise();
    world
}

#[test]
fn without_an_immediate_fence_two_take_writes() {
    check(Ablation::ImmediateFence, alone_for_longer_than_the_lease, &[], (0, 0, 1), 9, "I11");
}
