//! The invariants of `docs/protocol.md` over the states of the model.

use stateright::Property;

use super::{Setting, State};
use crate::api::postgres_cluster::{Quorum, Stage, Voter};
use crate::kinds::postgres_cluster::quorum::promises_needed;
use crate::kinds::postgres_cluster::world::{World, grant};
use crate::supervisor::wire::Postgres;

type Holds = fn(&Setting, &State) -> bool;

/// Every invariant with its name.
pub fn all() -> Vec<Property<Setting>> {
    let always: [(&'static str, Holds); 10] = [
        ("I1 one leader a term", |_, state| one_leader(&state.world)),
        ("I2 whoever takes writes has what was acknowledged before", |_, state| nothing_lost(&state.world)),
        ("I3 promises are monotonic and durable", |_, state| !state.broken("I3")),
        ("I4 commit and election sets overlap", |_, state| overlap(&state.world)),
        ("I5 no read-write postmaster without a grant", |_, state| !state.broken("I5")),
        ("I6 a standby's WAL is a prefix of its leader's", |_, state| !state.broken("I6")),
        ("I8 nobody is told of a commit before the gate was opened", |_, state| !state.broken("I8")),
        ("I11 two never take writes", |_, state| !two_writable(&state.world)),
        ("I12 no loss is accepted where the spec forbids it", |_, state| no_lossy_step(&state.world)),
        ("I13 left in peace it becomes well", |_, state| state.healed != Some(false)),
    ];
    always.into_iter().map(|(name, holds)| Property::always(name, holds)).collect()
}

/// The full name of an invariant.
pub fn named(short: &str) -> &'static str {
    all()
        .into_iter()
        .map(|property| property.name)
        .find(|name| name.split(' ').next() == Some(short))
        .unwrap_or_default()
}

impl State {
    fn broken(&self, invariant: &str) -> bool {
        self.world.broken.iter().any(|name| name.starts_with(invariant))
    }
}

fn one_leader(world: &World) -> bool {
    let mut grants: Vec<u64> = world.disks.values().filter_map(|disk| Some(grant(&disk.durable)?.0)).collect();
    let all = grants.len();
    grants.sort_unstable();
    grants.dedup();
    grants.len() == all
}

fn lossless(world: &World) -> bool {
    world.object.spec.synchronous_replicas() > 0
}

/// The chosen leader, and every server whose gate is open, holds every commit that was acknowledged in an earlier term.
fn nothing_lost(world: &World) -> bool {
    let status = world.status();
    let chosen = status.decisions.as_ref().filter(|d| matches!(d.stage, Stage::Establishing | Stage::Steady));
    let chosen = chosen.and_then(|d| Some((d.leader.as_ref()?, d.term)));
    let holds = |name: &String, term: u64| world.missing(name, term).is_empty();
    let leads = |(leader, term): (&Voter, u64)| {
        let name = world.container(&leader.member);
        let same =
            world.disks.get(&name).is_some_and(|disk| disk.durable.incarnation.as_ref() == Some(&leader.incarnation));
        !same || holds(&name, term)
    };
    let serves = |name: &&String| {
        let one = &world.boxes[*name];
        one.runs() && one.process.postgres == Postgres::Primary && one.process.opened && one.process.gate_open()
    };
    let term = |name: &String| grant(&world.disks[name].durable).map_or(0, |grant| grant.0);
    !lossless(world)
        || chosen.is_none_or(leads) && world.boxes.keys().filter(serves).all(|name| holds(name, term(name)))
}

/// Every commit set of the rule that is in force meets every election set of the record.
fn overlap(world: &World) -> bool {
    let status = world.status();
    let Some(d) = status.decisions.filter(|d| d.stage == Stage::Steady && d.election.w > 0) else { return true };
    // A record that a supervisor knows to be old causes no decision (I10).
    let known = world.disks.values().filter_map(|disk| disk.durable.order.as_ref());
    if known.map(|order| (order.term, order.revision)).max() > Some((d.term, d.revision)) {
        return true;
    }
    let in_force = |name: &String| {
        let process = &world.boxes[name].process;
        let leads = grant(&world.disks[name].durable).is_some_and(|(term, _)| term == d.term);
        let rule =
            process.applied.as_ref().filter(|_| leads && process.postgres == Postgres::Primary && process.opened);
        rule.map(|applied| applied.commit.clone())
    };
    world.boxes.keys().filter_map(in_force).all(|rule| {
        let names: Vec<&str> = rule.names.iter().map(String::as_str).collect();
        meet(&names, rule.count as usize, &d.election)
    })
}

fn meet(names: &[&str], count: usize, election: &Quorum) -> bool {
    // A set of re voters without these `count` names exists if and only if enough other voters remain.
    let outside = |taken: usize| election.voters.len().saturating_sub(taken);
    let shared = election.voters.iter().filter(|voter: &&Voter| names.contains(&voter.incarnation.as_str())).count();
    let strangers = names.len() - shared;
    // The worst commit set consists first of voters outside of E.
    let taken = count.saturating_sub(strangers);
    outside(taken) < promises_needed(election)
}

/// Whether two primaries acknowledge commits with w = 0, which must never be. With w >= 1 an old primary may stay open
/// for a while, because it cannot acknowledge.
fn two_writable(world: &World) -> bool {
    let acknowledges = |name: &&String| {
        let commit =
            world.boxes[*name].process.applied.as_ref().map(|applied| applied.commit.clone()).unwrap_or_default();
        let replicas = world.replicas(name);
        let flushing =
            replicas.iter().filter(|replica| replica.streaming && commit.names.contains(&replica.incarnation));
        flushing.count() >= commit.count as usize
    };
    !lossless(world) && world.writable().iter().filter(acknowledges).count() > 1
}

fn no_lossy_step(world: &World) -> bool {
    let story = world.status().last_failover;
    !lossless(world) || story.is_none_or(|story| story.possible_loss.is_none())
}
