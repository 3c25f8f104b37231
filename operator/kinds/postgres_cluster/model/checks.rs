//! The runs of the checker that CI makes.

use stateright::{Checker, Model};

use super::{Budget, Fault, Setting};
use crate::kinds::postgres_cluster::world::World;

pub const THREE: &str = "{image: 'postgres:15', instances: 3}";

pub const ASYNC: &str = "{image: 'postgres:15', instances: 3, durability: {mode: async}}";

/// A settled cluster.
pub fn settled(spec: &str) -> World {
    let mut world = World::new(spec);
    world.settle(100);
    world.log = None;
    world
}

fn budget(faults: u8, writes: u8, leaps: u8) -> Budget {
    Budget { faults, writes, leaps }
}

#[test]
fn probe() {
    let var = |name: &str, or: usize| std::env::var(name).ok().and_then(|d| d.parse().ok()).unwrap_or(or);
    let spec = match var("N", 3) { 2 => "{image: 'postgres:15', instances: 2}", _ => THREE };
    let setting = Setting { starts: vec![settled(spec)], fine: var("FINE", 0) == 1, faults: vec![Fault::Postmaster, Fault::Container], budget: budget(var("F", 1) as u8, 1, var("L", 0) as u8), peace_in: 128, only: None };
    let begun = std::time::SystemTime::now();
    let checker = setting.checker().target_max_depth(var("DEPTH", 10)).spawn_bfs().join();
    println!("{} states {} unique depth {} in {:?}", checker.state_count(), checker.unique_state_count(), checker.max_depth(), begun.elapsed());
    for (name, path) in checker.discoveries() {
        println!("== {name}\n{path:?}");
    }
}
