//! The protocol in a model checker: production's `plan` and `next` in the test world, with events in any order.
//!
//! From production: every decision of operator and supervisor, the wire's messages, the report. Modelled: PostgreSQL,
//! Docker, the network, the store, clients, clocks (`world`). A state is reached by single events; a budget limits
//! faults, writes and passing time, everything else is free.

use std::hash::{DefaultHasher, Hash, Hasher};

use stateright::{Model, Property};

use super::world::World;
use crate::supervisor::state::Act;

mod ablations;
mod actions;
mod checks;
mod properties;

use actions::Action;

/// Limits of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Faults.
    pub faults: u8,
    /// Writes of clients.
    pub writes: u8,
    /// Leaps in time.
    pub leaps: u8,
}

/// One setting of the model.
#[derive(Clone)]
pub struct Setting {
    /// The start states.
    pub starts: Vec<World>,
    /// Each act of a supervisor is an event of its own; otherwise one event is all its acts until it waits.
    pub fine: bool,
    /// Possible faults.
    pub faults: Vec<Fault>,
    /// Limits of a run.
    pub budget: Budget,
    /// Peace is tried in one of this many states; never if 0.
    pub peace_in: u64,
    /// The only invariant to check; all if `None`.
    pub only: Option<&'static str>,
}

/// The kinds of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// kill -9 of a postmaster.
    Postmaster,
    /// A supervisor dies, and its container with it.
    Container,
    /// Everything on the host dies.
    Host,
    /// A volume is emptied.
    Wipe,
    /// docker pause.
    Pause,
    /// docker unpause.
    Unpause,
    /// The operator cannot reach a member; its stream closes.
    Cut,
    /// The operator cannot reach a member; its stream stays open and silent.
    Mute,
    /// No data passes in one direction between two members.
    Part,
    /// A member is cut off from all other members and the operator.
    Isolate,
    /// All connections work again.
    Join,
    /// A message is lost.
    Lose,
    /// A message arrives and will arrive once more.
    Repeat,
    /// The operator dies and another one starts.
    Operator,
    /// The operator dies between the record and its steps, or between two steps.
    MidPlan,
    /// The store is restored to its first state.
    Restore,
    /// A person runs pg_ctl promote.
    Human,
    /// A user requests a switchover.
    Switchover,
    /// The object asks for one instance fewer.
    Shrink,
}

/// A state: the world, the remaining budget, and the outcome of a time without faults.
#[derive(Clone)]
pub struct State {
    /// The world.
    pub world: World,
    /// The remaining budget.
    pub left: Budget,
    /// Whether it became healthy in a time without faults.
    pub healed: Option<bool>,
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
        write!(f, "{}", self.world.picture())
    }
}

impl Model for Setting {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        self.starts.iter().map(|world| State { world: world.clone(), left: self.budget, healed: None }).collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.healed.is_none() && state.world.broken.is_empty() {
            actions::possible(self, state, actions);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        actions::happen(self, &mut next, &action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
            .into_iter()
            .filter(|property| self.only.is_none_or(|only| property.name.split(' ').next() == Some(only)))
            .collect()
    }
}

/// Whether others can see this act; an invisible act and the next one are one event.
fn visible(act: &Act) -> bool {
    !matches!(
        act,
        Act::EnsureSlots(_) | Act::EnsureApp { .. } | Act::EndSessions | Act::Checkpoint | Act::CheckpointForStop
    )
}
