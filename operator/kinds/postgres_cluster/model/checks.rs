//! The runs of the checker that CI makes.

use stateright::{Checker, Model};

use super::{Budget, Fault, Setting};
use crate::kinds::postgres_cluster::world::{TURN_MS, World};

pub const THREE: &str = "{image: 'postgres:15', instances: 3}";

pub const ASYNC: &str = "{image: 'postgres:15', instances: 3, durability: {mode: async}}";

/// A settled cluster.
pub fn settled(spec: &str) -> World {
    let mut world = World::new(spec);
    world.settle(100);
    world.log = None;
    world
}

/// Everything on the way from a world to health, event by event, each once.
pub fn trail(mut world: World) -> Vec<World> {
    let mut trail = vec![world.clone()];
    let names: Vec<_> = world.boxes.keys().cloned().collect();
    for _ in 0..200 {
        world.pass(TURN_MS);
        for name in &names {
            if world.act(name).is_some() {
                trail.push(world.clone());
            }
            if world.leaves(name) {
                world.end_receiver(name);
                trail.push(world.clone());
            }
            if world.connect(name) | world.ship(name) | world.reply(name) {
                trail.push(world.clone());
            }
            world.acknowledge(name);
            let member = World::member(name);
            if world.has_news(0, &member) {
                world.hear(0, &member);
                trail.push(world.clone());
            }
        }
        let steps = world.reconcile(0, 0);
        trail.push(world.clone());
        for letter in std::mem::take(&mut world.letters) {
            world.deliver(&letter);
            trail.push(world.clone());
        }
        if steps.is_empty() && world.status().phase == "Healthy" {
            break;
        }
    }
    trail
}

fn run(name: &str, starts: Vec<World>, faults: &[Fault], (faults_left, writes, leaps): (u8, u8, u8), depth: usize) {
    let begun = std::time::SystemTime::now();
    let many = starts.len();
    let budget = Budget { faults: faults_left, writes, leaps };
    let setting = Setting { starts, fine: false, faults: faults.to_vec(), budget, peace_in: 64, only: None };
    let checker = setting.checker().target_max_depth(depth).threads(1).spawn_bfs().join();
    println!(
        "{name}: {many} starts {} states {} unique depth {} in {:?}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed()
    );
    for (invariant, path) in checker.discoveries() {
        println!("== {name} {invariant}\n{:?}\n{:?}", path.clone().into_actions(), path.last_state());
    }
}

const DEATHS: [Fault; 6] =
    [Fault::Postmaster, Fault::Container, Fault::Host, Fault::Wipe, Fault::Operator, Fault::MidPlan];
const NETWORK: [Fault; 7] =
    [Fault::Cut, Fault::Mute, Fault::Part, Fault::Isolate, Fault::Join, Fault::Lose, Fault::Repeat];
const OTHERS: [Fault; 6] =
    [Fault::Pause, Fault::Unpause, Fault::Restore, Fault::Human, Fault::Switchover, Fault::Shrink];

const TWO: &str = "{image: 'postgres:15', instances: 2}";
const FIVE: &str = "{image: 'postgres:15', instances: 5, durability: {synchronousReplicas: 2}}";

#[test]
fn probe() {
    let var = |name: &str, or: usize| std::env::var(name).ok().and_then(|d| d.parse().ok()).unwrap_or(or);
    let spec = match var("N", 3) {
        2 => TWO,
        0 => ASYNC,
        5 => FIVE,
        _ => THREE,
    };
    let mut world = settled(spec);
    world.short_copies = true;
    let mut failover = world.clone();
    failover.kill_postgres("db-1");
    let mut switch = world.clone();
    switch.object.metadata.annotations =
        Some([("evenkeel.dev/switchover".to_owned(), "2030-11-24T05:00:00Z".to_owned())].into());
    let mut voter_out = world.clone();
    voter_out.kill_container("db-2");
    let budget = (var("F", 1) as u8, var("W", 1) as u8, var("L", 1) as u8);
    for (name, start) in [("failover", failover), ("switchover", switch), ("standby", voter_out)] {
        let starts = trail(start);
        for (kind, faults) in [("deaths", &DEATHS[..]), ("network", &NETWORK), ("others", &OTHERS)] {
            run(&format!("{spec} {name} {kind}"), starts.clone(), faults, budget, var("DEPTH", 4));
        }
    }
}
