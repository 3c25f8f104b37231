//! The runs of the model checker in CI.

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

/// Every state on the way from a world to a healthy one, event by event, each once.
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

/// One run of the checker.
struct Run {
    name: &'static str,
    starts: Vec<World>,
    faults: &'static [Fault],
    /// Number of faults, writes and leaps.
    budget: (u8, u8, u8),
    /// Number of events from each start.
    depth: usize,
    /// Expected number of states; a change of the protocol or of the world changes it and must be reviewed.
    states: usize,
}

impl Run {
    /// Asserts that no invariant breaks and that the number of states is as expected. EVENKEEL_MODEL_DEEPER=n goes n
    /// events deeper, with one fault more, and treats each act of a supervisor as an event of its own.
    fn check(self) {
        let deeper: usize = std::env::var("EVENKEEL_MODEL_DEEPER").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
        let (faults, writes, leaps) = self.budget;
        let budget = Budget { faults: faults + u8::from(deeper > 0), writes, leaps };
        let (starts, faults) = (self.starts.len(), self.faults.to_vec());
        let setting = Setting { starts: self.starts, fine: deeper > 0, faults, budget, peace_in: 64, only: None };
        // One thread, so that the states are the same each time.
        let checker = setting.checker().target_max_depth(self.depth + 1 + deeper).threads(1).spawn_bfs().join();
        let states = checker.unique_state_count();
        println!("{}: {states} states from {starts} starts, depth {}", self.name, checker.max_depth() - 1);
        let found = checker.discoveries().into_iter().next();
        let found = found.map(|(invariant, path)| (invariant, path.last_state().clone(), path.into_actions()));
        if let Some((invariant, end, events)) = found {
            panic!("{}: {invariant}: {events:?}\n{end:?}", self.name);
        }
        if deeper == 0 {
            assert_eq!(states, self.states, "{}: the number of states changed", self.name);
        }
    }
}

const DEATHS: [Fault; 6] =
    [Fault::Postmaster, Fault::Container, Fault::Host, Fault::Wipe, Fault::Operator, Fault::MidPlan];
const NETWORK: [Fault; 7] =
    [Fault::Cut, Fault::Mute, Fault::Part, Fault::Isolate, Fault::Join, Fault::Lose, Fault::Repeat];
const OTHERS: [Fault; 6] =
    [Fault::Pause, Fault::Unpause, Fault::Restore, Fault::Human, Fault::Switchover, Fault::Shrink];
const ALL: [Fault; 19] = [
    Fault::Postmaster,
    Fault::Container,
    Fault::Host,
    Fault::Wipe,
    Fault::Operator,
    Fault::MidPlan,
    Fault::Cut,
    Fault::Mute,
    Fault::Part,
    Fault::Isolate,
    Fault::Join,
    Fault::Lose,
    Fault::Repeat,
    Fault::Pause,
    Fault::Unpause,
    Fault::Restore,
    Fault::Human,
    Fault::Switchover,
    Fault::Shrink,
];

const TWO: &str = "{image: 'postgres:15', instances: 2}";
const FIVE: &str = "{image: 'postgres:15', instances: 5, durability: {synchronousReplicas: 2}}";

fn ready(spec: &str) -> World {
    let mut world = settled(spec);
    world.short_copies = true;
    world
}

/// The states from the death of the primary's postmaster to a healthy cluster.
fn failover(spec: &str) -> Vec<World> {
    let mut world = ready(spec);
    world.kill_postgres("db-1");
    trail(world)
}

fn switchover(spec: &str) -> Vec<World> {
    let mut world = ready(spec);
    let request = "2029-11-24T05:00:00Z".to_owned();
    world.object.metadata.annotations = Some([("evenkeel.dev/switchover".to_owned(), request)].into());
    trail(world)
}

/// A voter is absent so long that it is dismissed; then it comes back. The record is the one without it.
fn voter_returns(spec: &str) -> Vec<World> {
    let mut world = ready(spec);
    world.pause("db-2");
    world.cut("db-2", false);
    for _ in 0..130 {
        world.turn(0);
    }
    world.join_all();
    world.unpause("db-2");
    trail(world)
}

/// The same, with a second operator that still has the first state in its memory.
fn with_two_operators(mut starts: Vec<World>) -> Vec<World> {
    let known = starts.first().map(|world| world.operators.clone()).unwrap_or_default();
    for world in &mut starts {
        world.operators.extend(known.clone());
    }
    starts
}

macro_rules! runs {
    ($($sentence:ident: $starts:expr, $faults:expr, $budget:expr, $depth:expr, $states:expr;)*) => {
        $(#[test]
        fn $sentence() {
            let name = stringify!($sentence);
            let (starts, faults) = ($starts, &$faults);
            Run { name, starts, faults, budget: $budget, depth: $depth, states: $states }.check();
        })*
    };
}

runs! {
    two_instances_and_one_death_to_the_very_end: vec![ready(TWO)], [Fault::Postmaster, Fault::Container], (1, 1, 0), 60, 6_759;
    deaths_in_a_failover: failover(THREE), DEATHS, (1, 1, 1), 3, 50_807;
    a_bad_network_in_a_failover: failover(THREE), NETWORK, (1, 1, 1), 3, 42_997;
    anything_else_in_a_failover: failover(THREE), OTHERS, (1, 1, 1), 3, 31_240;
    deaths_in_a_switchover: switchover(THREE), DEATHS, (1, 1, 1), 3, 45_130;
    a_bad_network_in_a_switchover: switchover(THREE), NETWORK, (1, 1, 1), 3, 37_531;
    anything_else_in_a_switchover: switchover(THREE), OTHERS, (1, 1, 1), 3, 26_731;
    two_faults_while_the_voters_change: voter_returns(THREE), ALL, (2, 1, 0), 3, 30_431;
    two_operators_in_a_failover: with_two_operators(failover(THREE)), [Fault::Postmaster, Fault::Container, Fault::Lose], (1, 1, 0), 3, 28_201;
    anything_in_a_failover_of_two: failover(TWO), ALL, (1, 1, 1), 3, 38_860;
    anything_in_an_asynchronous_failover: failover(ASYNC), ALL, (1, 1, 1), 3, 110_533;
    anything_in_a_failover_of_five: failover(FIVE), ALL, (1, 1, 0), 2, 38_604;
}
