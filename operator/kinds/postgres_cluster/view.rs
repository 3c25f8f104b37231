//! The input of the protocol: the decisions before, the members, what is known of each, and the evidence about the
//! leader. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::LinkSeen;
use super::quorum::promises_needed;
use crate::api::lsn::Lsn;
use crate::api::postgres_cluster::{Decisions, DurabilityMode, MemberPlace, PostgresCluster, Stage, Voter};
use crate::engine::{ContainerSeen, ContainerState};
use crate::kinds::links::SUSPECT_MS;
use crate::kinds::waits::{self, Waited};
use crate::supervisor::wire::{Data, Leading, Order, Postgres, Report, Task};

/// A member and everything that was observed of it.
pub struct Member<'a> {
    /// Its name, host and address.
    pub place: &'a MemberPlace,
    /// Its container; `None` if it is known not to exist.
    pub container: Option<&'a ContainerSeen>,
    /// The containers of its host are known.
    pub container_known: bool,
    /// A person says that its host is out of service.
    pub out_of_service: bool,
    /// The link to its supervisor.
    pub link: Option<&'a LinkSeen>,
    /// Milliseconds since a new session last wrote to it, as far as heard.
    pub proven_ms: Option<u64>,
    /// The spec asks for fewer instances, and this one is removed.
    pub leaving: bool,
    /// Its container runs and is not on the cluster's network.
    pub lost: Option<Lost>,
}

/// A running container that is not on its network.
pub struct Lost {
    /// What is wrong, as text for people.
    pub why: String,
    /// Docker refused to connect it again.
    pub refused: bool,
}

impl<'a> Member<'a> {
    /// Its supervisor's report, if the supervisor can be reached now.
    pub fn live(&self) -> Option<&'a Report> {
        let link = self.link.filter(|link| link.live())?;
        let running = self.container.is_none_or(|container| container.state == ContainerState::Running);
        (running || !self.container_known).then_some(&link.report)
    }

    /// Whether its supervisor can replicate by TLS, as it last said.
    pub(super) fn secures(&self) -> bool {
        self.link.is_some_and(|link| link.report.secures)
    }

    pub(super) fn voter(&self) -> Option<Voter> {
        let incarnation = self.live()?.incarnation.clone()?;
        Some(Voter { member: self.place.name.clone(), incarnation })
    }

    /// Why none of its processes can run, as proven by Docker, or as a person says.
    pub(super) fn gone(&self) -> Option<String> {
        if !self.container_known {
            // The person's word counts only while nothing speaks against it.
            let gone = self.out_of_service && self.live().is_none();
            return gone.then(|| format!("host {} is out of service", self.place.host));
        }
        match self.container.map(|container| container.state) {
            None => Some("its container is gone".into()),
            Some(ContainerState::Exited | ContainerState::Dead) => Some("its container died".into()),
            Some(ContainerState::Created) => Some("its container was never started".into()),
            Some(ContainerState::Running | ContainerState::Paused | ContainerState::Restarting) => None,
        }
    }

    /// It is reachable and has another data directory, or none: this incarnation never comes back.
    pub(super) fn replaced(&self, voter: &Voter) -> bool {
        self.live().is_some_and(|report| {
            report.data == Data::None || report.incarnation.as_ref().is_some_and(|known| *known != voter.incarnation)
        })
    }

    /// It has this incarnation and could promise.
    pub(super) fn able(&self, voter: &Voter) -> bool {
        self.live().is_some_and(|report| {
            report.incarnation.as_ref() == Some(&voter.incarnation)
                && matches!(report.data, Data::Standby | Data::Primary)
                && !(report.terminating || report.cannot_promise)
        })
    }
}

/// The whole input of a decision.
pub struct ClusterView<'a> {
    /// The object.
    pub object: &'a PostgresCluster,
    /// The decisions before this reconcile.
    pub before: &'a Decisions,
    /// Its members, by ordinal.
    pub members: Vec<Member<'a>>,
    /// How long this operator has known of the recorded moments.
    pub waited: &'a Waited,
    /// Now.
    pub now: Timestamp,
}

/// What is known of the leader.
pub(super) enum Health<'a> {
    Live(&'a Report),
    Dead(String),
    Silent,
}

impl<'a> ClusterView<'a> {
    pub(super) fn member(&self, name: &str) -> Option<&Member<'a>> {
        self.members.iter().find(|member| member.place.name == name)
    }

    pub(super) fn w(&self) -> u32 {
        self.object.spec.synchronous_replicas()
    }

    pub(super) fn preferred(&self) -> bool {
        self.object.spec.durability.mode == DurabilityMode::Preferred
    }

    /// How long this operator has known that something is so since then. Never a difference of two clocks (I11).
    pub(super) fn age(&self, since: Timestamp) -> Duration {
        waits::waited(self.waited, since)
    }

    /// The leader's member and its health.
    pub(super) fn leader(&self) -> Option<(&Member<'a>, Health<'a>)> {
        let leader = self.before.leader.as_ref()?;
        let member = self.member(&leader.member)?;
        if let Some(cause) = member.gone() {
            return Some((member, Health::Dead(cause)));
        }
        let Some(report) = member.live() else { return Some((member, Health::Silent)) };
        let settled = self.before.system_identifier.is_some();
        let granted = |order: &Order| order.term == self.before.term && matches!(order.task, Task::Lead(_));
        let ordered = report.order.as_ref().is_some_and(granted);
        let idle = !report.start_pending && report.job.as_ref().is_none_or(|job| !job.running);
        let down = report.postgres == Postgres::Stopped && idle;
        let health = match report.data {
            Data::None | Data::Broken if settled && idle => Health::Dead("its data directory is gone".into()),
            Data::Primary | Data::Standby if report.incarnation.as_ref() != Some(&leader.incarnation) && settled => {
                Health::Dead("its data directory was replaced".into())
            }
            Data::Primary if down && ordered => Health::Dead("its postmaster ended".into()),
            // A restarted supervisor without an order of this term: its primary is down and stays down.
            Data::Primary if down && self.before.stage == Stage::Steady => Health::Dead("its postmaster ended".into()),
            _ => Health::Live(report),
        };
        Some((member, health))
    }

    /// When a new session last wrote to the leader, as far as heard.
    pub(super) fn last_write(&self) -> Option<Timestamp> {
        let proven_ms = self.member(self.before.leader_name()?)?.proven_ms?;
        self.now.checked_sub(SignedDuration::from_millis(i64::try_from(proven_ms).ok()?)).ok()
    }

    /// Whether this leader hangs, and an election can succeed without it. A slow server is never given up for that.
    pub(super) fn hung_but_replaceable(&self, report: &Report) -> bool {
        let election = &self.before.election;
        report.proof.as_ref().is_some_and(|proof| proof.hung)
            && !election.voters.is_empty()
            && self.able().len() >= promises_needed(election)
    }

    /// Voters of E that could promise now.
    pub(super) fn able(&self) -> Vec<&'a Voter> {
        let able = |voter: &&Voter| self.member(&voter.member).is_some_and(|member| member.able(voter));
        self.before.election.voters.iter().filter(able).collect()
    }

    /// For how long every voter that could promise has received nothing from the leader, as they say. One whose receiver has
    /// ended has given the leader up. Asynchronous clusters go by what the operator itself has heard.
    pub(super) fn voters_quiet_ms(&self) -> u64 {
        let quiet = |voter: &Voter| {
            let report = self.member(&voter.member)?.live().filter(|report| report.postgres == Postgres::Standby)?;
            Some(report.receiver.as_ref().map_or(u64::MAX, |receiver| receiver.quiet_ms))
        };
        let all = self.able().into_iter().map(|voter| quiet(voter).unwrap_or(0));
        all.min().filter(|_| self.before.election.w > 0).unwrap_or(0)
    }

    /// A voter still receives WAL from the leader: the leader lives, although the operator cannot reach it.
    pub(super) fn voters_progress(&self) -> bool {
        let receiver = |voter: &Voter| self.member(&voter.member)?.live()?.receiver.as_ref();
        let mut receivers = self.able().into_iter().filter_map(receiver);
        receivers.any(|receiver| receiver.streaming && receiver.quiet_ms < SUSPECT_MS)
    }

    /// Whether this voter runs as a standby and receives nothing.
    pub(super) fn cut_off(&self, voter: &Voter) -> bool {
        self.member(&voter.member).and_then(Member::live).is_some_and(|report| {
            report.postgres == Postgres::Standby && !report.receiver.as_ref().is_some_and(|receiver| receiver.streaming)
        })
    }

    /// Members whose incarnation streams from the leader, as the leader reports.
    pub(super) fn streaming(&self, leading: &Leading) -> Vec<Voter> {
        let streams =
            |voter: &Voter| leading.replicas.iter().any(|r| r.streaming && r.incarnation == voter.incarnation);
        self.members.iter().filter_map(Member::voter).filter(streams).collect()
    }
}

/// What is known of the leaders before an election: the one that was chosen last, and the one that served clients last.
/// Each of them holds every acknowledged commit.
pub struct LastLeader {
    /// It is alive and its step-down has not ended yet.
    pub steps_down: bool,
    /// It can acknowledge nothing: its container is dead, or it promised this term and its server is down.
    pub fenced: bool,
    /// The leader that stopped cleanly under this term, and its WAL end.
    pub clean_end: Option<(Voter, (u32, Lsn))>,
    /// The leader that promised this term, is down, and still has its own data.
    pub can_lead_again: Option<Voter>,
    /// Its last known WAL position.
    pub lsn: Lsn,
}

/// There is no such leader.
const NOBODY: LastLeader =
    LastLeader { steps_down: false, fenced: true, clean_end: None, can_lead_again: None, lsn: Lsn(0) };

impl LastLeader {
    /// For these decisions: the leader that was chosen last, with the clean end or the data of the one that served
    /// last.
    pub fn of(view: &ClusterView, decisions: &Decisions) -> Self {
        let asked = |leader: &Voter| Self::seen(view, decisions.term, leader);
        let chosen = decisions.leader.as_ref().map_or(NOBODY, asked);
        let served = decisions.served.as_ref().filter(|served| decisions.leader.as_ref() != Some(served));
        match served.map(asked) {
            None => chosen,
            Some(served) => Self {
                clean_end: chosen.clean_end.or(served.clean_end),
                can_lead_again: chosen.can_lead_again.or(served.can_lead_again),
                ..chosen
            },
        }
    }

    /// What is known of this leader in an election of this term.
    pub fn seen(view: &ClusterView, term: u64, leader: &Voter) -> Self {
        let Some(member) = view.member(&leader.member) else { return NOBODY };
        let lsn = member.link.and_then(|link| link.report.lsn).unwrap_or_default();
        let Some(report) = member.live() else { return Self { fenced: member.gone().is_some(), lsn, ..NOBODY } };
        let same = report.incarnation.as_ref() == Some(&leader.incarnation);
        let down = report.promised == term && report.postgres == Postgres::Stopped;
        let clean = down && same && report.clean && report.data == Data::Primary;
        let whole = down && same && matches!(report.data, Data::Primary | Data::Standby);
        Self {
            steps_down: same && !down && report.data == Data::Primary,
            fenced: down,
            clean_end: report.timeline.zip(report.lsn).filter(|_| clean).map(|end| (leader.clone(), end)),
            can_lead_again: whole.then(|| leader.clone()),
            lsn,
        }
    }
}
