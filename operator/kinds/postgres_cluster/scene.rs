//! What a decision may rest on: the members, what is known of each, and the evidence about the leader. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::LinkSeen;
use crate::api::postgres_cluster::{Decisions, DurabilityMode, MemberPlace, PostgresCluster, Stage, Voter};
use crate::engine::{ContainerSeen, ContainerState};
use crate::supervisor::wire::{Data, Leading, Order, Postgres, Report, Task};

/// Without a word from the primary, and without WAL at its standbys, for this long, it is taken for dead.
pub const SUSPECT_MS: u64 = 3_000;

/// A member and everything seen of it.
pub struct Member<'a> {
    /// Where it lives.
    pub place: &'a MemberPlace,
    /// Its container: `None` if it is known that there is none.
    pub container: Option<&'a ContainerSeen>,
    /// The host could be asked for its containers.
    pub container_known: bool,
    /// Its supervisor's words.
    pub link: Option<&'a LinkSeen>,
    /// The spec has no room for it.
    pub leaving: bool,
}

impl<'a> Member<'a> {
    /// What its supervisor says, if it can be spoken to now.
    pub fn live(&self) -> Option<&'a Report> {
        let link = self.link.filter(|link| link.connected && link.silent_ms < SUSPECT_MS)?;
        let running = self.container.is_none_or(|container| container.state == ContainerState::Running);
        (running || !self.container_known).then_some(&link.report)
    }

    pub(super) fn voter(&self) -> Option<Voter> {
        let incarnation = self.live()?.incarnation.clone()?;
        Some(Voter { member: self.place.name.clone(), incarnation })
    }

    /// Nothing of it can run: the certificate that Docker gives.
    pub(super) fn gone(&self) -> Option<String> {
        if !self.container_known {
            return None;
        }
        match self.container.map(|container| container.state) {
            None => Some("its container is gone".into()),
            Some(ContainerState::Exited | ContainerState::Dead) => Some("its container died".into()),
            Some(ContainerState::Created) => Some("its container was never started".into()),
            Some(ContainerState::Running | ContainerState::Paused | ContainerState::Restarting) => None,
        }
    }

    /// Is there with another data directory, or with none: this incarnation never comes back.
    pub(super) fn replaced(&self, voter: &Voter) -> bool {
        self.live().is_some_and(|report| {
            report.data == Data::None || report.incarnation.as_ref().is_some_and(|known| *known != voter.incarnation)
        })
    }

    /// Carries this incarnation and could promise.
    pub(super) fn able(&self, voter: &Voter) -> bool {
        self.live().is_some_and(|report| {
            report.incarnation.as_ref() == Some(&voter.incarnation)
                && matches!(report.data, Data::Standby | Data::Primary)
                && !(report.terminating || report.cannot_promise)
        })
    }
}

/// Why the protocol does not go on, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// CamelCase, for the condition.
    pub reason: &'static str,
    /// What is the matter and what would help.
    pub message: String,
}

/// Everything that a decision may rest on.
pub struct Scene<'a> {
    /// The object.
    pub object: &'a PostgresCluster,
    /// Its members, by ordinal.
    pub members: Vec<Member<'a>>,
    /// Now.
    pub now: Timestamp,
}

/// What is known of the leader.
pub(super) enum Health<'a> {
    Live(&'a Report),
    Dead(String),
    Silent,
}

impl<'a> Scene<'a> {
    pub(super) fn member(&self, name: &str) -> Option<&Member<'a>> {
        self.members.iter().find(|member| member.place.name == name)
    }

    pub(super) fn w(&self) -> u32 {
        self.object.spec.synchronous_replicas()
    }

    pub(super) fn preferred(&self) -> bool {
        self.object.spec.durability.mode == DurabilityMode::Preferred
    }

    pub(super) fn age(&self, since: Timestamp) -> Duration {
        self.now.duration_since(since).unsigned_abs()
    }

    /// The leader of `d`, its member and how it is.
    pub(super) fn leader(&self, d: &Decisions) -> Option<(&Member<'a>, Health<'a>)> {
        let leader = d.leader.as_ref()?;
        let member = self.member(&leader.member)?;
        if let Some(cause) = member.gone() {
            return Some((member, Health::Dead(cause)));
        }
        let Some(report) = member.live() else { return Some((member, Health::Silent)) };
        let settled = d.system_identifier.is_some();
        let granted = |order: &Order| order.term == d.term && matches!(order.task, Task::Lead(_));
        let ordered = report.order.as_ref().is_some_and(granted);
        let idle = !report.start_pending && report.job.as_ref().is_none_or(|job| !job.running);
        let down = report.postgres == Postgres::Stopped && idle;
        let health = match report.data {
            Data::None | Data::Broken if settled && idle => Health::Dead("its data directory is gone".into()),
            Data::Primary | Data::Standby if report.incarnation.as_ref() != Some(&leader.incarnation) && settled => {
                Health::Dead("its data directory was replaced".into())
            }
            Data::Primary if down && ordered => Health::Dead("its postmaster ended".into()),
            // A supervisor that started anew and was told nothing in this term yet: its primary is down and stays down.
            Data::Primary if down && d.stage == Stage::Steady => Health::Dead("its postmaster ended".into()),
            _ => Health::Live(report),
        };
        Some((member, health))
    }

    /// Voters of E that could promise now.
    pub(super) fn able<'d>(&self, d: &'d Decisions) -> Vec<&'d Voter> {
        let able = |voter: &&Voter| self.member(&voter.member).is_some_and(|member| member.able(voter));
        d.election.voters.iter().filter(able).collect()
    }

    /// A voter still receives WAL from the leader: it lives, only we do not see it.
    pub(super) fn voters_progress(&self, d: &Decisions) -> bool {
        self.able(d)
            .iter()
            .filter_map(|voter| self.member(&voter.member)?.live()?.receiver.as_ref())
            .any(|receiver| receiver.streaming && receiver.quiet_ms < SUSPECT_MS)
    }

    /// Members whose incarnation streams from the leader, by its own account.
    pub(super) fn streaming(&self, leading: &Leading) -> Vec<Voter> {
        let streams =
            |voter: &Voter| leading.replicas.iter().any(|r| r.streaming && r.incarnation == voter.incarnation);
        self.members.iter().filter_map(Member::voter).filter(streams).collect()
    }
}
