//! The invariants of `docs/redis.md` over the states of the model, and the outcomes that it must reach.

use stateright::Property;

use super::{Setting, State};
use crate::kinds::redis_sentinel::world::World;
use crate::supervisor::redis::wire::Role;

type Holds = fn(&Setting, &State) -> bool;

fn kept(state: &State, invariant: &str) -> bool {
    !state.world.broken.iter().any(|broken| broken.starts_with(invariant))
}

/// Every invariant with its name.
pub fn invariants() -> Vec<Property<Setting>> {
    let always: [(&'static str, Holds); 8] = [
        ("I3 a member without data never leads while another has data", |_, state| kept(state, "I3")),
        ("I4 one Sentinel at a time fails over on request", |_, state| kept(state, "I4")),
        ("I5 a switchover replaces no master that takes writes or has more", |_, state| kept(state, "I5")),
        ("I6 no Sentinel forgets while that is not safe", |_, state| kept(state, "I6")),
        ("I7 two masters take writes only until the Sentinels' word is heard", |_, state| kept(state, "I7")),
        ("I8 a failover on request loses nothing that a replica had", |_, state| kept(state, "I8")),
        ("I10 who leads a restored object has the data of the backup", |_, state| kept(state, "I10")),
        ("I9 left in peace it becomes well", |_, state| state.healed != Some(false)),
    ];
    always.into_iter().map(|(name, holds)| Property::always(name, holds)).collect()
}

/// One invariant.
pub fn named(short: &str) -> Property<Setting> {
    let mut found = invariants().into_iter().filter(|property| property.name.starts_with(short));
    found.next().unwrap_or_else(|| panic!("no invariant {short}"))
}

/// Outcomes that are reached, each by at least one state.
pub fn reached() -> Vec<Property<Setting>> {
    let sometimes: [(&'static str, Holds); 4] = [
        ("a failover on request succeeds", |_, state| well(state, "ask a Sentinel to promote")),
        ("a failover of the Sentinels is adopted", |_, state| well(state, "the Sentinels chose")),
        ("the old master returns as a replica", |_, state| returned(state)),
        ("all died, and the newest leads", |_, state| well(state, "the old master starts again")),
    ];
    sometimes.into_iter().map(|(name, holds)| Property::sometimes(name, holds)).collect()
}

/// Everything is well after a failover with this word in its course.
fn well(state: &State, word: &str) -> bool {
    let last = state.world.status().last_failover.filter(|last| last.outage.is_some());
    state.healed == Some(true)
        && last.is_some_and(|last| last.cause.contains(word) || last.steps.iter().any(|step| step.step.contains(word)))
}

fn returned(state: &State) -> bool {
    let follows = |world: &World, member: &str| {
        let server = world.redis(&world.container(member));
        server.is_some_and(|server| server.role == Role::Replica && server.link_up)
    };
    let last = state.world.status().last_failover.filter(|last| last.from != last.to);
    state.healed == Some(true) && last.is_some_and(|last| follows(&state.world, &last.from))
}
