//! The events of the model: which are possible in a state, and what each does to the world.

use super::{Fault, Setting, State, visible};
use crate::engine::ContainerState;
use crate::kinds::postgres_cluster::world::{ACTS, Box, World};

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// The operator gets a member's report.
    Hear(usize, String),
    /// The operator observes, plans, records and sends.
    Reconcile(usize),
    /// One of several operators reads the object.
    Read(usize),
    /// The operator acts on what it read, perhaps much later.
    Decide(usize),
    /// The n-th message in transit arrives.
    Deliver(usize),
    /// A supervisor acts.
    Act(String),
    /// A stream connects, ships WAL, and the reply comes back.
    Flow(String),
    /// A receiver that was told to stop has stopped.
    ReceiverEnds(String),
    /// A stop that waited for sessions ends.
    StopEnds(String),
    /// A client writes to a server.
    Write(String),
    /// A client learns that its commit is acknowledged.
    Acknowledge(String),
    /// Milliseconds pass.
    Leap(u32),
    /// A fault, with these members.
    Fault(Fault, String, String),
    /// The operator dies after the record and this many steps.
    MidPlan(usize),
    /// All faults are undone, and no fault follows for a long time.
    Peace,
}

/// Leaps in milliseconds, each beyond a limit: suspicion, dismissal and a confirmation's life, the lease,
/// `QUORUM_LOST`.
const LEAPS: [u32; 4] = [3_500, 10_500, 15_500, 31_000];
/// Turns within which a world without faults must become healthy.
const PEACE_TURNS: usize = 500;

fn member(name: &str) -> String {
    World::member(name)
}

/// All events that are possible in this state.
pub fn possible(setting: &Setting, state: &State, actions: &mut Vec<Action>) {
    let world = &state.world;
    let names: Vec<&String> = world.boxes.keys().collect();
    for operator in 0..world.operators.len() {
        let news = names.iter().filter(|name| world.has_news(operator, &member(name)));
        actions.extend(news.map(|name| Action::Hear(operator, member(name))));
        if world.operators.len() == 1 {
            actions.push(Action::Reconcile(operator));
        } else if world.operators[operator].read.is_some() {
            actions.push(Action::Decide(operator));
        } else {
            actions.push(Action::Read(operator));
        }
    }
    actions.extend((0..world.letters.len()).map(Action::Deliver));
    for name in &names {
        let (one, name) = (&world.boxes[*name], (*name).clone());
        if !one.runs() {
            continue;
        }
        actions.push(Action::Act(name.clone()));
        if world.leaves(&name) {
            actions.push(Action::ReceiverEnds(name.clone()));
        }
        if one.process.postgres == crate::supervisor::wire::Postgres::Stopping {
            actions.push(Action::StopEnds(name.clone()));
        }
        if one.process.postgres == crate::supervisor::wire::Postgres::Standby {
            actions.push(Action::Flow(name.clone()));
        }
        if one.process.writable() && state.left.writes > 0 {
            actions.push(Action::Write(name.clone()));
        }
        if world.waits_at(&name) {
            actions.push(Action::Acknowledge(name));
        }
    }
    if state.left.leaps > 0 {
        actions.extend(LEAPS.map(Action::Leap));
    }
    if state.left.faults > 0 {
        for fault in &setting.faults {
            faults(*fault, world, actions);
        }
    }
    if setting.peace_in > 0 && state.fingerprint().is_multiple_of(setting.peace_in) {
        actions.push(Action::Peace);
    }
}

fn faults(fault: Fault, world: &World, actions: &mut Vec<Action>) {
    let each = |fits: &dyn Fn(&Box) -> bool| -> Vec<Action> {
        let fitting = world.boxes.values().filter(|one| fits(one));
        fitting.map(|one| Action::Fault(fault, member(&one.spec.name), String::new())).collect()
    };
    let alone = || vec![Action::Fault(fault, String::new(), String::new())];
    actions.extend(match fault {
        Fault::Postmaster => each(&|one| one.runs() && one.process.up()),
        Fault::Container | Fault::Wipe | Fault::Isolate => each(&|one| one.state != ContainerState::Created),
        Fault::Pause => each(&Box::runs),
        Fault::Unpause => each(&|one| one.state == ContainerState::Paused),
        Fault::Cut | Fault::Mute => each(&|one| one.runs() && !world.cut.contains_key(&member(&one.spec.name))),
        Fault::Human => each(&|one| one.runs() && one.process.postgres == crate::supervisor::wire::Postgres::Standby),
        Fault::Host | Fault::Operator | Fault::Restore | Fault::Shrink => alone(),
        Fault::Switchover if world.object.metadata.annotations.is_none() => alone(),
        Fault::Switchover => Vec::new(),
        Fault::Join if world.cut.is_empty() && world.parted.is_empty() => Vec::new(),
        Fault::Join => alone(),
        Fault::MidPlan => (0..3).map(Action::MidPlan).collect(),
        Fault::Lose | Fault::Repeat => {
            (0..world.letters.len()).map(|at| Action::Fault(fault, at.to_string(), String::new())).collect()
        }
        Fault::Part => {
            let names: Vec<_> = world.boxes.keys().map(|name| member(name)).collect();
            let pairs = names.iter().flat_map(|one| names.iter().map(move |other| (one.clone(), other.clone())));
            let pairs = pairs.filter(|(one, other)| one != other);
            pairs.map(|(one, other)| Action::Fault(fault, one, other)).collect()
        }
    });
}

/// Applies an event to the state.
pub fn happen(setting: &Setting, state: &mut State, action: &Action) {
    let world = &mut state.world;
    match action {
        Action::Hear(operator, member) => world.hear(*operator, member),
        Action::Reconcile(operator) => drop(world.reconcile(*operator, 0)),
        Action::Read(operator) => world.read(*operator),
        Action::Decide(operator) => drop(world.decide(*operator, |all| all)),
        Action::Deliver(at) => {
            let letter = world.letters.remove(*at);
            world.deliver(&letter);
            if !setting.fine {
                act(setting, world, &world.container(&letter.member));
            }
        }
        Action::Act(name) => act(setting, world, name),
        Action::Flow(name) => {
            world.connect(name);
            world.ship(name);
            world.reply(name);
        }
        Action::ReceiverEnds(name) => world.end_receiver(name),
        Action::StopEnds(name) => drop(world.end_stop(name)),
        Action::Write(name) => {
            state.left.writes -= 1;
            world.write_to(name);
        }
        Action::Acknowledge(name) => drop(world.acknowledge(name)),
        Action::Leap(ms) => {
            state.left.leaps -= 1;
            world.pass(*ms);
            // A supervisor polls several times a second.
            world.supervise();
        }
        Action::MidPlan(kept) => {
            state.left.faults -= 1;
            world.read(0);
            world.decide(0, |_| *kept);
            world.restart_operator(0);
        }
        Action::Fault(fault, one, other) => {
            state.left.faults -= 1;
            fail(setting, world, *fault, one, other);
        }
        Action::Peace => state.healed = Some(world.heals(PEACE_TURNS)),
    }
}

fn act(setting: &Setting, world: &mut World, name: &str) {
    for _ in 0..ACTS {
        match world.act(name) {
            None => break,
            Some(act) if setting.fine && visible(&act) => break,
            Some(_) => {}
        }
    }
}

fn fail(setting: &Setting, world: &mut World, fault: Fault, one: &str, other: &str) {
    match fault {
        Fault::Postmaster => world.kill_postgres(one),
        Fault::Container => world.kill_container(one),
        Fault::Host => world.kill_host(),
        Fault::Wipe => world.wipe(one),
        Fault::Pause => world.pause(one),
        Fault::Unpause => world.unpause(one),
        Fault::Cut => world.cut(one, true),
        Fault::Mute => world.cut(one, false),
        Fault::Part => world.part(one, other),
        Fault::Isolate => world.isolate(one),
        Fault::Join => world.join_all(),
        Fault::Lose => drop(world.letters.remove(one.parse().unwrap_or_default())),
        Fault::Repeat => {
            let letter = world.letters[one.parse::<usize>().unwrap_or_default()].clone();
            world.deliver(&letter);
        }
        Fault::Operator => world.restart_operator(0),
        Fault::MidPlan => {}
        Fault::Restore => {
            world.object.status.clone_from(&setting.starts[0].object.status);
            world.version += 1;
        }
        Fault::Human => world.promote_by_hand(one),
        Fault::Switchover => {
            let request = "2030-11-24T05:00:00Z".to_owned();
            world.object.metadata.annotations = Some([("evenkeel.dev/switchover".to_owned(), request)].into());
            world.version += 1;
        }
        Fault::Shrink => {
            world.object.spec.instances = world.object.spec.instances.saturating_sub(1).max(1);
            world.version += 1;
        }
    }
}
