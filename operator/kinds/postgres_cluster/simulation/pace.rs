//! The pace of everything except the operator: fair and at once, or random per event.

use super::chance::Chance;
use crate::kinds::postgres_cluster::world::{ACTS, World};

/// Each event happens once in this many moments; 1 means always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    act: u64,
    ship: u64,
    reply: u64,
    /// The end of a WAL receiver without upstream, and of a stop that waits for sessions.
    leave: u64,
    acknowledge: u64,
}

impl Pace {
    pub const FAIR: Self = Self { act: 1, ship: 1, reply: 1, leave: 1, acknowledge: 1 };

    pub fn draw(chance: &mut Chance) -> Self {
        let mut one = || *chance.pick(&[1, 1, 2, 4, 16]);
        Self { act: one(), ship: one(), reply: one(), leave: one(), acknowledge: one() }
    }
}

/// The events of one moment. `writes`: clients write too.
pub fn moment(world: &mut World, pace: Pace, chance: &mut Chance, writes: bool) {
    if pace == Pace::FAIR {
        world.supervise();
        world.streams();
        if writes {
            world.write();
        }
        world.streams();
        world.acknowledge_all();
        return world.supervise();
    }
    let mut names: Vec<_> = world.boxes.keys().cloned().collect();
    if !names.is_empty() {
        let by = chance.between(0, names.len() as u64 - 1) as usize;
        names.rotate_left(by);
    }
    for name in &names {
        let acts = if pace.act == 1 { ACTS as u64 } else { chance.between(0, 3) };
        for _ in 0..acts {
            if !chance.one_in(pace.act) || world.act(name).is_none() {
                break;
            }
        }
        if writes && chance.one_in(2) && world.writable().contains(name) {
            world.write_to(name);
        }
        if chance.one_in(pace.leave) {
            if world.leaves(name) {
                world.end_receiver(name);
            }
            world.end_stop(name);
        }
        world.connect(name);
        if chance.one_in(pace.ship) {
            world.ship(name);
        }
        if chance.one_in(pace.reply) {
            world.reply(name);
        }
        if chance.one_in(pace.acknowledge) {
            world.acknowledge(name);
        }
    }
}
