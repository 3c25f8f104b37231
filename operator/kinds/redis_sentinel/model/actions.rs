//! The events of the model: which are possible in a state, and what each does to the world.

use super::{Setting, State};
use crate::engine::ContainerState;
use crate::kinds::redis_sentinel::world::{Box, World, is_sentinel};

/// The kinds of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// kill -9 of a server.
    Server,
    /// A container of a data member dies.
    Container,
    /// The container of a Sentinel dies, and Docker starts it again.
    Sentinel,
    /// All containers die, and Docker starts them again.
    Host,
    /// docker pause of a data member.
    Pause,
    /// docker unpause.
    Unpause,
    /// A member is cut off from all other members.
    Isolate,
    /// The operator cannot reach a member.
    Cut,
    /// All connections work again.
    Join,
    /// A message of the operator is lost.
    Lose,
    /// The operator dies after its record and this many steps.
    MidPlan,
    /// A user requests a switchover.
    Switchover,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// The operator gets a member's report.
    Hear(String),
    /// The operator decides by what it has heard, records and sends.
    Decide,
    /// The n-th message in transit arrives.
    Deliver(usize),
    /// A supervisor acts until it waits.
    Act(String),
    /// A Sentinel asks, is heard, and decides.
    Sentinel(String),
    /// A replica receives what its master has.
    Flow(String),
    /// A client writes to a server.
    Write(String),
    /// Milliseconds pass: messages arrive, and everybody acts; the operator, too, if so.
    Leap(u64, bool),
    /// A fault of this member, message or step.
    Fault(Fault, String),
    /// All faults are undone, and no fault follows for a long time.
    Peace,
}

/// Leaps in milliseconds, each beyond a limit: `PREFER_FAILOVER` and `AGAIN`; suspicion, `ALONE_MS` and `downAfter`; `GATHER`
/// and `PROMOTE`. In the last one the operator decides every second; in the others it is busy elsewhere.
const LEAPS: [(u64, bool); 3] = [(500, false), (6_000, false), (11_000, true)];
/// Turns within which a world without faults must become healthy.
const PEACE_TURNS: usize = 1_500;

/// All events that are possible in this state.
pub fn possible(setting: &Setting, state: &State, actions: &mut Vec<Action>) {
    let world = &state.world;
    if setting.peace_in > 0 && state.fingerprint().is_multiple_of(setting.peace_in) {
        actions.push(Action::Peace);
    }
    if state.events == 0 {
        return;
    }
    actions.push(Action::Decide);
    actions.extend((0..world.letters.len()).map(Action::Deliver));
    for (name, one) in &world.boxes {
        if one.state != ContainerState::Running {
            continue;
        }
        if world.has_news(name) {
            actions.push(Action::Hear(name.clone()));
        }
        actions.push(Action::Act(name.clone()));
        if is_sentinel(name) {
            actions.push(Action::Sentinel(name.clone()));
            continue;
        }
        actions.push(Action::Flow(name.clone()));
        if state.left.writes > 0 && world.takes_writes(name) {
            actions.push(Action::Write(name.clone()));
        }
    }
    if state.left.leaps > 0 {
        actions.extend(LEAPS.map(|(ms, decides)| Action::Leap(ms, decides)));
    }
    if state.left.faults > 0 {
        setting.faults.iter().for_each(|fault| faults(*fault, world, actions));
    }
}

fn faults(fault: Fault, world: &World, actions: &mut Vec<Action>) {
    let each = |fits: &dyn Fn(&String, &Box) -> bool| -> Vec<String> {
        world.boxes.iter().filter(|(name, one)| fits(name, one)).map(|(name, _)| World::member(name)).collect()
    };
    let runs = |one: &Box| one.state == ContainerState::Running;
    let one = || vec![String::new()];
    let members = match fault {
        Fault::Server => each(&|_, one| runs(one) && one.data.server.is_some()),
        Fault::Container | Fault::Pause => each(&|name, one| runs(one) && !is_sentinel(name)),
        Fault::Sentinel => each(&|name, _| is_sentinel(name)),
        Fault::Unpause => each(&|_, one| one.state == ContainerState::Paused),
        Fault::Isolate | Fault::Cut => each(&|_, one| runs(one)),
        Fault::Join if world.cut.is_empty() && world.isolated.is_empty() && world.unwatched.is_empty() => Vec::new(),
        Fault::Switchover if world.object.metadata.annotations.is_some() => Vec::new(),
        Fault::Host | Fault::Join | Fault::Switchover => one(),
        Fault::Lose => (0..world.letters.len()).map(|at| at.to_string()).collect(),
        Fault::MidPlan => (0..2).map(|steps| steps.to_string()).collect(),
    };
    actions.extend(members.into_iter().map(|member| Action::Fault(fault, member)));
}

/// Applies an event to the state.
pub fn happen(state: &mut State, action: &Action) {
    let world = &mut state.world;
    (world.log, world.commands) = Default::default();
    state.events = state.events.saturating_sub(1);
    match action {
        Action::Hear(name) => world.hear(name),
        Action::Decide => drop(world.decide(usize::MAX)),
        Action::Deliver(at) => {
            let (member, command) = world.letters.remove(*at);
            world.deliver(&member, command);
            world.supervise_one(&world.container(&member));
        }
        Action::Act(name) => world.supervise_one(name),
        Action::Sentinel(name) => world.run_sentinel(name, true),
        Action::Flow(name) => world.flow(name),
        Action::Write(name) => {
            state.left.writes -= 1;
            world.write_to(name);
        }
        Action::Leap(ms, decides) => {
            state.left.leaps -= 1;
            world.pass(*ms, *decides);
        }
        Action::Fault(fault, member) => {
            state.left.faults -= 1;
            fail(world, *fault, member);
        }
        Action::Peace => {
            world.undo_faults();
            world.posts = false;
            world.deliver_all();
            state.healed = Some(world.heals(PEACE_TURNS).is_some());
            return;
        }
    }
    world.check();
}

fn fail(world: &mut World, fault: Fault, member: &str) {
    match fault {
        Fault::Server => world.kill_server(member),
        Fault::Container => world.kill_container(member),
        Fault::Sentinel => world.crash_container(member),
        Fault::Host => world.reboot(),
        Fault::Pause => world.pause_container(member),
        Fault::Unpause => world.unpause_container(member),
        Fault::Isolate => drop(world.isolated.insert(member.to_owned())),
        Fault::Cut => drop(world.cut.insert(member.to_owned())),
        Fault::Join => (world.cut, world.isolated, world.unwatched) = Default::default(),
        Fault::Lose => drop(world.letters.remove(member.parse().unwrap_or_default())),
        Fault::MidPlan => {
            world.hear_all();
            world.decide(member.parse().unwrap_or_default());
        }
        Fault::Switchover => world.ask_switchover(""),
    }
}
