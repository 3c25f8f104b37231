//! A simulation of resharding: a migration that is cut off anywhere, a node that dies, a node that is silent for a while, and
//! another request to scale, all in the middle of moving slots. A seed decides everything.

use std::collections::BTreeMap;

use super::world::{ALL, World};

/// Seeds of a run of the tests; `EVENKEEL_SEEDS` asks for more.
const SEEDS: u64 = 40;

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn number(&mut self, bound: u64) -> u32 {
        u32::try_from(self.below(bound)).unwrap_or(0)
    }
}

/// One run, from a cluster of three masters and three replicas with a key in every slot.
fn simulate(seed: u64, begun: &World) -> World {
    let mut chance = Chance(seed.wrapping_mul(7_919).wrapping_add(1));
    let mut world = begun.clone();
    world.spec(|spec| spec.masters = 4);
    let before = chance.number(14);
    world.turns(before);
    for _ in 0..3 {
        match chance.below(4) {
            // Whoever moves the slots dies after some of the steps; the operator goes on by what it sees.
            0 => {
                world.crash = Some(1 + chance.number(40));
                world.turns(1 + chance.number(3));
                world.crash = None;
            }
            1 => {
                let ordinals: Vec<u32> = world.decisions.members.iter().map(|place| place.ordinal).collect();
                let ordinal = ordinals[chance.number(ordinals.len() as u64) as usize];
                // What was acknowledged a moment ago is at the replica, and the nodes have told each other.
                world.tell_each_other();
                if world.at(ordinal).up.is_some() {
                    world.kill(ordinal);
                }
            }
            2 => {
                let masters = 3 + chance.number(3);
                world.spec(|spec| spec.masters = masters);
            }
            _ => {
                let ordinal = 1 + chance.number(6);
                if world.decisions.members.iter().any(|place| place.ordinal == ordinal) {
                    world.at(ordinal).silent = true;
                    world.turns(1 + chance.number(4));
                    world.places.values_mut().for_each(|place| place.silent = false);
                }
            }
        }
        world.turns(1 + chance.number(6));
    }
    world.settle();
    world
}

#[test]
fn resharding_with_crashes_deaths_and_other_wishes_in_the_middle_loses_no_key_and_ends() {
    let mut begun = World::new("");
    begun.settle();
    begun.fill();
    begun.log.clear();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("EVENKEEL_FIRST_SEED").unwrap_or(0);
    for seed in first..first + number("EVENKEEL_SEEDS").unwrap_or(SEEDS) {
        println!("seed {seed}");
        let world = simulate(seed, &begun);
        assert_eq!(world.reachable(), ALL, "seed {seed}: keys are lost: {:#?}", world.log);
        let mut owners: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
        let mut masters = 0;
        for redis in world.places.values().filter_map(|place| place.up.as_ref()) {
            assert!(redis.importing.is_empty() && redis.migrating.is_empty(), "seed {seed}: an open slot");
            redis.slots.iter().for_each(|slot| owners.entry(*slot).or_default().push(&redis.id));
            masters += u32::from(!redis.slots.is_empty());
        }
        let several = owners.iter().find(|(_, ids)| ids.len() != 1);
        assert_eq!((several, owners.len() as u32), (None, ALL), "seed {seed}: {:#?}", world.log);
        assert_eq!(masters, world.object.spec.masters, "seed {seed}: {:#?}", world.log);
    }
}
