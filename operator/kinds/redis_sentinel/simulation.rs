//! A simulation of RedisSentinel: two faults at once, at moments that a seed decides; then everything is whole again and must heal.

use super::scenarios::{end, running};
use super::world::{Ablation, World};

/// A number generator for the simulation.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// One run: two faults at chosen times, then everything is whole again and must heal. `begun`: worlds with data, one of them
/// without persistence.
fn simulate(seed: u64, begun: &[World; 2], ablation: Option<Ablation>) -> World {
    let mut chance = Chance(seed.wrapping_mul(7_919).wrapping_add(1));
    let mut world = begun[usize::from(chance.below(4) == 0)].clone();
    world.ablation = ablation;
    for _ in 0..2 {
        let data = format!("cache-{}", 1 + chance.below(3));
        let sentinel = format!("cache-sentinel-{}", 1 + chance.below(3));
        match chance.below(12) {
            0 => world.kill_server(&data),
            1 => world.kill_container(&data),
            2 => world.crash_container(&data),
            3 => world.pause_container(&data),
            4 => drop(world.isolated.insert(data)),
            5 => world.away = true,
            6 => world.crash_container(&sentinel),
            7 => world.wipe(&sentinel),
            8 => world.ask_switchover(""),
            9 => drop(world.slow.insert(data)),
            10 => world.unwatch(&data),
            _ => drop(world.isolated.insert(sentinel)),
        }
        let pause = usize::try_from(chance.below(40)).unwrap_or(0);
        world.turns(pause);
    }
    let wait = usize::try_from(chance.below(100)).unwrap_or(0);
    world.turns(wait);
    world.undo_faults();
    if ablation.is_none() {
        world.settle(1_200);
    }
    world
}

fn begun() -> [World; 2] {
    ["", "persistence: none\n"].map(|spec| {
        let mut world = running(spec);
        world.log.clear();
        world
    })
}

#[test]
fn a_simulation_of_two_faults_at_once_always_heals_and_never_leads_with_nothing() {
    let begun = begun();
    for seed in 0..200 {
        let world = simulate(seed, &begun, None);
        assert!(world.broken.is_empty(), "seed {seed}: {:?}\n{}", world.broken, world.story(0));
        assert_eq!(world.masters().len(), 1, "seed {seed}");
        end(&world);
    }
}

/// That the simulation finds what it is for: without the start rule an empty master leads.
#[test]
fn a_simulation_without_the_start_rule_finds_a_master_that_leads_with_nothing() {
    let begun = begun();
    let broken = (0..200).any(|seed| !simulate(seed, &begun, Some(Ablation::StartRule)).broken.is_empty());
    assert!(broken);
}
