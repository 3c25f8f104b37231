//! The promotion under a model checker: production's `plan` and `next` in the tests' world, whatever happens in whatever order.
//!
//! What is production's: every decision of operator and supervisor, the wire's messages, the report. What is modelled:
//! PostgreSQL, Docker, the network, the store, clients, clocks (`world`). A state is reached by single events; faults,
//! writes and passing time are bounded by a budget, everything else is free.

use std::hash::{DefaultHasher, Hash, Hasher};

use stateright::{Model, Property};

use super::world::World;
use crate::supervisor::state::Act;

mod ablations;
mod actions;
mod checks;
mod properties;

use actions::Action;

/// How much may happen.
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
    /// Where it begins: any of these.
    pub starts: Vec<World>,
    /// Single acts of a supervisor are told apart; else it acts until it waits.
    pub fine: bool,
    /// Faults that may happen.
    pub faults: Vec<Fault>,
    /// How much may happen.
    pub budget: Budget,
    /// Peace is tried in one of so many states; never if 0.
    pub peace_in: u64,
    /// The one invariant that is looked at; all if none.
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
    /// The operator cannot speak to a member; its stream closes.
    Cut,
    /// The operator cannot speak to a member; its stream stays silent.
    Mute,
    /// One way between two members carries nothing.
    Part,
    /// A member is cut from all other members and the operator.
    Isolate,
    /// All paths carry again.
    Join,
    /// A message is lost.
    Lose,
    /// A message arrives and will arrive once more.
    Repeat,
    /// The operator dies and begins anew.
    Operator,
    /// The operator dies between the record and its steps, or between two steps.
    MidPlan,
    /// The store is as it was in the beginning.
    Restore,
    /// Somebody runs pg_ctl promote.
    Human,
    /// Somebody asks for a switchover.
    Switchover,
    /// The object asks for one instance fewer.
    Shrink,
}

/// A state: the world, what is left of the budget, and how it went when all was left in peace.
#[derive(Clone)]
pub struct State {
    /// The world.
    pub world: World,
    /// What may still happen.
    pub left: Budget,
    /// Left in peace it became well again, or not.
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

/// Acts that nobody else sees are not told apart from the one that follows.
fn visible(act: &Act) -> bool {
    !matches!(
        act,
        Act::EnsureSlots(_) | Act::EnsureApp { .. } | Act::EndSessions | Act::Checkpoint | Act::CheckpointForStop
    )
}
