//! The protocol of RedisSentinel in a model checker: production's `plan` and `next` in the test world, events in any order.
//!
//! From production: every decision of the operator and of both supervisors, the wire's messages, the report. Modelled: Redis,
//! Sentinel, Docker, the network, the store, clients, clocks (`world`). A budget limits faults, writes and passing time.

use std::hash::{DefaultHasher, Hash, Hasher};

use stateright::{Model, Property};

use super::world::World;

mod ablations;
mod actions;
mod checks;
mod properties;

use actions::{Action, Fault};

/// One setting of the model.
#[derive(Clone)]
struct Setting {
    /// The start states.
    starts: Vec<World>,
    /// Possible faults.
    faults: Vec<Fault>,
    /// Limits of a run.
    budget: Budget,
    /// Number of events from each start.
    events: usize,
    /// Peace is tried in one of this many states; never if 0.
    peace_in: u64,
    /// The only invariant to check; all properties if `None`.
    only: Option<&'static str>,
}

/// Limits of a run: faults, writes of clients, leaps in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Budget {
    faults: u8,
    writes: u8,
    leaps: u8,
}

/// A state: the world, the remaining budget, and the outcome of a time without faults.
#[derive(Clone)]
struct State {
    world: World,
    left: Budget,
    healed: Option<bool>,
    /// Events that are left. Not a part of its identity: the shortest way to a state comes first.
    events: usize,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.world, self.left, self.healed).hash(state);
    }
}

impl State {
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint() == other.fingerprint()
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let world = &self.world;
        write!(f, "{:?} {:#?}\n{}", world.broken, world.status().decisions, world.story(0))
    }
}

impl Model for Setting {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let (left, events) = (self.budget, self.events);
        self.starts.iter().map(|world| State { world: world.clone(), left, healed: None, events }).collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.healed.is_none() && state.world.broken.is_empty() {
            actions::possible(self, state, actions);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        actions::happen(&mut next, &action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        match self.only {
            Some(only) => vec![properties::named(only)],
            None => properties::invariants().into_iter().chain(properties::reached()).collect(),
        }
    }
}
