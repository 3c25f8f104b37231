//! The runs of the model checker in CI.

use std::collections::BTreeSet;

use stateright::{Checker, Model};

use super::actions::Fault;
use super::{Budget, Setting};
use crate::api::redis_sentinel::RedisStage;
use crate::kinds::redis_sentinel::world::{TURN_MS, World, is_sentinel};

pub const A: &str = "cache-1";
pub const B: &str = "cache-2";
pub const C: &str = "cache-3";

/// Three data members and three Sentinels that are well, and what the operator sends is in transit for a while.
pub fn settled(spec: &str) -> World {
    let mut world = World::new(spec);
    world.settle(200);
    world.turns(20);
    world.writers = false;
    world.posts = true;
    world.log.clear();
    world
}

/// The states of the next eight seconds, after each event that somebody would tell.
pub fn trail(mut world: World) -> Vec<World> {
    let mut trail = vec![world.clone()];
    let mut event = |world: &mut World, happen: &mut dyn FnMut(&mut World)| {
        world.log.clear();
        happen(world);
        if !world.log.is_empty() {
            trail.push(world.clone());
        }
    };
    for _ in 0..80 {
        world.ms += TURN_MS;
        let hello = world.ms.is_multiple_of(1_000);
        let names: Vec<String> = world.boxes.keys().cloned().collect();
        for name in &names {
            world.flow(name);
            if is_sentinel(name) {
                event(&mut world, &mut |world| world.run_sentinel(name, hello));
            }
            event(&mut world, &mut |world| world.supervise_one(name));
        }
        event(&mut world, &mut |world| drop(world.reconcile()));
        for (member, command) in std::mem::take(&mut world.letters) {
            world.deliver(&member, command);
        }
    }
    trail
}

/// One run of the checker.
struct Run {
    name: &'static str,
    starts: Vec<World>,
    faults: &'static [Fault],
    /// Number of faults, writes and leaps.
    budget: (u8, u8, u8),
    /// Number of events from each start.
    events: usize,
    /// Expected number of states; a change of the protocol or of the world changes it and must be reviewed.
    states: usize,
    /// Words of the outcomes that this run must reach.
    reaches: &'static [&'static str],
}

impl Run {
    /// Asserts that no invariant breaks, that the outcomes are reached, and that the number of states is as expected.
    /// EVENKEEL_MODEL_DEEPER=n goes n events deeper, with one fault more.
    fn check(self) {
        let deeper: usize = std::env::var("EVENKEEL_MODEL_DEEPER").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
        let (faults, writes, leaps) = self.budget;
        let budget = Budget { faults: faults + u8::from(deeper > 0), writes, leaps };
        let (starts, faults) = (self.starts.len(), self.faults.to_vec());
        let events = self.events + deeper;
        let setting = Setting { starts: self.starts, faults, budget, events, peace_in: 100, only: None };
        // One thread, and the first way to a state is the shortest, so that the states are the same each time.
        let checker = setting.checker().threads(1).spawn_bfs().join();
        let states = checker.unique_state_count();
        println!("{}: {states} states from {starts} starts, {events} events", self.name);
        let always: BTreeSet<&str> = super::properties::invariants().iter().map(|property| property.name).collect();
        let (broken, reached): (Vec<_>, Vec<_>) =
            checker.discoveries().into_iter().partition(|(name, _)| always.contains(name));
        if let Some((invariant, path)) = broken.into_iter().next() {
            let (end, events) = (path.last_state().clone(), path.into_actions());
            panic!("{}: {invariant}: {events:?}\n{end:?}", self.name);
        }
        let reached: Vec<&str> = reached.into_iter().map(|(name, _)| name).collect();
        for word in self.reaches {
            assert!(reached.iter().any(|name| name.contains(word)), "{}: {word} is not in {reached:?}", self.name);
        }
        if deeper == 0 {
            assert_eq!(states, self.states, "{}: the number of states changed", self.name);
        }
    }
}

const DEATHS: [Fault; 4] = [Fault::Server, Fault::Container, Fault::Host, Fault::MidPlan];
const NETWORK: [Fault; 4] = [Fault::Cut, Fault::Isolate, Fault::Lose, Fault::Sentinel];
const RESTORE: [Fault; 6] = [Fault::Container, Fault::Host, Fault::MidPlan, Fault::Cut, Fault::Lose, Fault::Isolate];
const ALL: [Fault; 12] = [
    Fault::Server,
    Fault::Container,
    Fault::Sentinel,
    Fault::Host,
    Fault::Pause,
    Fault::Unpause,
    Fault::Isolate,
    Fault::Cut,
    Fault::Join,
    Fault::Lose,
    Fault::MidPlan,
    Fault::Switchover,
];

/// The master's server died. `behind`: one replica did not get the last write.
fn died(behind: bool) -> World {
    let mut world = settled("");
    if behind {
        last_write_to_one(&mut world);
    }
    world.kill_server(A);
    world
}

/// C gets a write that B does not get.
pub fn last_write_to_one(world: &mut World) {
    world.slow.insert(B.to_owned());
    world.write_to(&world.container(A));
    world.flow(&world.container(C));
}

fn switched() -> World {
    let mut world = settled("");
    world.ask_switchover("");
    world
}

/// The master stands still for so long that the Sentinels promote another.
fn paused() -> World {
    let mut world = settled("");
    world.pause_container(A);
    world.pass(4_900, false);
    world
}

/// No Sentinel has reached the master for so long that they are about to promote another.
fn unwatched() -> World {
    let mut world = settled("");
    world.unwatch(A);
    world.pass(4_900, false);
    world
}

fn all_died() -> World {
    let mut world = settled("");
    world.reboot();
    world
}

/// Nothing runs yet, and the first data is in a store.
fn restoring() -> Vec<World> {
    let mut world = World::new("bootstrap: {recovery: {source: {backup: today}}}");
    world.archives.hash = Some("h".into());
    world.stored.writes = vec![1, 2, 3];
    world.writers = false;
    world.turns(2);
    world.posts = true;
    world.log.clear();
    let new = |world: &World| world.decisions().stage == RedisStage::New;
    trail(world).into_iter().filter(new).collect()
}

macro_rules! runs {
    ($($sentence:ident: $starts:expr, $faults:expr, $budget:expr, $events:expr, $states:expr, $reaches:expr;)*) => {
        $(#[test]
        fn $sentence() {
            let name = stringify!($sentence);
            let (starts, faults) = ($starts, &$faults);
            Run { name, starts, faults, budget: $budget, events: $events, states: $states, reaches: &$reaches }.check();
        })*
    };
}

runs! {
    deaths_in_a_failover: trail(died(false)), DEATHS, (1, 1, 1), 2, 2_168, ["on request"];
    a_bad_network_in_a_failover: trail(died(true)), NETWORK, (1, 0, 1), 2, 4_266, ["on request", "returns"];
    anything_in_a_switchover: trail(switched()), ALL, (1, 1, 1), 2, 7_402, [];
    anything_while_the_master_stands_still: trail(paused()), ALL, (1, 1, 1), 2, 1_589, ["adopted"];
    anything_while_no_sentinel_reaches_the_master: trail(unwatched()), ALL, (1, 1, 1), 2, 4_403, ["adopted"];
    anything_while_the_first_data_is_restored: restoring(), RESTORE, (1, 0, 1), 3, 3_012, [];
    anything_after_all_died: trail(all_died()), ALL, (1, 0, 1), 2, 3_866, ["all died"];
}
