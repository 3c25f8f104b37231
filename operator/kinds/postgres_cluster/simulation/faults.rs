//! The faults of a seed: which exist, how they are drawn, and how each is applied to the world.

use super::chance::Chance;
use super::engine::start;
use super::gate::Fuse;
use super::pace::Pace;
use super::sim::{Away, State, Trouble};
use crate::api::postgres_cluster::PostgresClusterSpec;
use crate::engine::ContainerState;
use crate::kinds::postgres_cluster::world::World;

/// One fault, or one change by a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    KillPostgres(String),
    KillContainer(String),
    KillHost,
    Freeze(String),
    /// A person removes a container; its volume stays.
    Remove(String),
    /// Docker (or a person) starts a container that is down.
    StartedByDocker(String),
    /// The data volume of a standby is emptied.
    Wipe(String),
    /// The link to a member breaks: closed, or silent.
    Cut(String, bool),
    Part(String, String),
    PartBoth(String, String),
    Isolate(String),
    Away(Away),
    Blind,
    Deaf,
    Trouble(Trouble),
    /// Supervisors and streams run at another pace.
    Slow(Pace),
    /// The operator dies at one of its next effects.
    Crash(Fuse),
    /// The operator is restarted properly.
    Restart,
    /// A person runs `pg_ctl promote`.
    Promote(String),
    Switchover(String),
    Scale(u32),
    Image(String),
    Setting(String),
    /// All connections work again, and nothing is paused any more; everything else stays.
    Join,
    /// Everything that can be undone is undone.
    Calm,
}

/// Draws the next fault.
pub fn draw(chance: &mut Chance, spec: &PostgresClusterSpec, primary: &str) -> Fault {
    let (instances, least) = (u64::from(spec.instances), u64::from(spec.synchronous_replicas()) + 1);
    let one = |chance: &mut Chance| match chance.between(0, 2) {
        0 if !primary.is_empty() => primary.to_owned(),
        _ => format!("db-{}", chance.between(1, instances)),
    };
    let member = one(chance);
    let other = one(chance);
    match chance.between(0, 41) {
        0..=2 => Fault::KillPostgres(member),
        3..=5 => Fault::KillContainer(member),
        6 => Fault::KillHost,
        7..=8 => Fault::Freeze(member),
        9 => Fault::Remove(member),
        10 => Fault::StartedByDocker(member),
        11..=12 => Fault::Wipe(member),
        13..=14 => Fault::Cut(member, chance.one_in(2)),
        15 => Fault::Part(member, other),
        16 => Fault::PartBoth(member, other),
        17 | 39..=41 => Fault::Isolate(member),
        18..=19 => Fault::Away(*chance.pick(&[Away::Refuses, Away::Hangs])),
        20 => Fault::Deaf,
        21 => Fault::Trouble(Trouble {
            engine: chance.between(2, 10),
            store: chance.between(4, 20),
            meddler: chance.between(2, 10),
        }),
        22..=25 => Fault::Crash(Fuse { effects: chance.between(0, 12), performed: chance.one_in(2) }),
        26 => Fault::Restart,
        27 => Fault::Promote(member),
        28..=29 => Fault::Switchover(if chance.one_in(2) { String::new() } else { member }),
        30 => Fault::Scale(chance.between(least, least + 3) as u32),
        31 => Fault::Image(format!("postgres:{}", chance.between(15, 17))),
        32 => Fault::Setting(chance.between(1, 9).to_string()),
        33 => Fault::Blind,
        34..=36 => Fault::Slow(Pace::draw(chance)),
        _ => Fault::Calm,
    }
}

impl Fault {
    /// Whether the fault often ends just when the cluster has reacted to it.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Freeze(_) | Self::Cut(..) | Self::Part(..) | Self::PartBoth(..) | Self::Isolate(_))
    }

    /// Applies the fault, if it belongs to the world; `false`: the driver must apply it.
    pub fn strike(&self, state: &mut State) -> bool {
        let world = &mut state.world;
        match self {
            Self::KillPostgres(member) => world.kill_postgres(member),
            Self::KillContainer(member) => world.kill_container(member),
            Self::KillHost => world.kill_host(),
            Self::Freeze(member) => world.pause(member),
            Self::Remove(member) => world.forget(member),
            Self::StartedByDocker(member) => {
                let name = world.container(member);
                let ended = world.boxes.get(&name).is_some_and(|one| one.state == ContainerState::Exited);
                if ended {
                    world.perform_by_docker(&start(&name));
                }
            }
            Self::Wipe(member) => {
                // Otherwise it could be the last copy, and no operator can repair that loss.
                if world.status().phase == "Healthy" && world.primary() != *member {
                    world.wipe(member);
                }
            }
            Self::Cut(member, closed) => world.cut(member, *closed),
            Self::Part(member, other) => world.part(member, other),
            Self::PartBoth(member, other) => {
                world.part(member, other);
                world.part(other, member);
            }
            Self::Isolate(member) => world.isolate(member),
            Self::Away(away) => state.away = Some(*away),
            Self::Blind => state.blind = true,
            Self::Deaf => state.deaf = true,
            Self::Trouble(trouble) => state.trouble = *trouble,
            Self::Slow(pace) => state.pace = *pace,
            Self::Promote(member) => {
                world.promote_by_hand(member);
                // If its timeline then wins an election, no promise holds (docs/protocol.md).
                (state.by_hand, state.lossless) = (true, false);
            }
            Self::Join => join(state),
            Self::Calm => calm(state),
            Self::Crash(_)
            | Self::Restart
            | Self::Switchover(_)
            | Self::Scale(_)
            | Self::Image(_)
            | Self::Setting(_) => return false,
        }
        true
    }
}

fn join(state: &mut State) {
    let world = &mut state.world;
    world.join_all();
    let members: Vec<_> = world.boxes.keys().map(|name| World::member(name)).collect();
    members.iter().for_each(|member| world.unpause(member));
}

/// Undoes everything that can be undone.
pub fn calm(state: &mut State) {
    join(state);
    (state.trouble, state.pace) = (Trouble::default(), Pace::FAIR);
    let missed = state.deaf || state.away.is_some();
    (state.away, state.blind, state.deaf) = (None, false, false);
    // A stream of events that was lost is opened again and reports the gap. A stream that was never closed reports
    // nothing.
    if missed && state.chance.one_in(2) {
        state.tell(&None);
    }
}
