//! Scenarios of several operators that lead one after the other, with clocks that differ.

use super::{ASYNC, THREE, heals, settled};
use crate::api::postgres_cluster::Stage;
use crate::kinds::postgres_cluster::world::World;

/// An hour.
const AHEAD_MS: i64 = 3_600_000;

fn stage(world: &World) -> Stage {
    world.status().decisions.unwrap_or_default().stage
}

/// The world passes, and this operator leads.
fn turn(world: &mut World, operator: usize) {
    world.turn_without_operator();
    world.hear_all(operator);
    world.reconcile(operator, 0);
    world.deliver_all();
}

/// Regression 473: the age of an election was the difference of two clocks. A new operator whose clock was 15 s ahead took the
/// old leader's lease for over at once, so that of an asynchronous cluster two primaries took writes.
#[test]
fn a_new_operator_waits_the_whole_lease_of_the_old_primary_whatever_its_clock_shows() {
    for ahead_ms in [AHEAD_MS, -AHEAD_MS] {
        let mut world = settled(ASYNC);
        world.operators.push(world.operators[0].clone());
        world.operators[1].ahead_ms = ahead_ms;
        world.isolate("db-1");
        while stage(&world) == Stage::Steady {
            turn(&mut world, 0);
        }
        assert_eq!(stage(&world), Stage::Electing);
        let began = world.ms;
        while stage(&world) == Stage::Electing {
            turn(&mut world, 1);
            assert!(world.ms - began < 60_000, "no election: {}", world.story());
        }
        assert!(world.ms - began > 15_000, "elected after {} ms", world.ms - began);
        assert_ne!(world.primary(), "db-1");
        world.operators.truncate(1);
        world.join_all();
        heals(&mut world);
    }
}

/// A new operator finds the primary's host silent: the standbys have known for long that nothing comes from there, so it does not
/// wait for three seconds of its own.
#[test]
fn a_new_operator_believes_the_standbys_of_a_silent_host() {
    let mut world = settled(THREE);
    world.isolate("db-1");
    for _ in 0..100 {
        world.turn_without_operator();
    }
    (world.operators[0], world.hidden) = (Default::default(), true);
    let began = world.ms;
    while stage(&world) == Stage::Steady {
        turn(&mut world, 0);
    }
    assert!(world.ms - began < 1_000, "given up after {} ms", world.ms - began);
}
