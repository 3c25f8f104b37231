//! The promotion protocol: which stage follows from what is seen, and the standing order of every instance. Pure.
//!
//! Stages: `New` (is there data already?) -> `Electing` (promises of a new term are gathered) -> `Establishing` (the
//! leader is promoted behind a shut gate, until its new quorum acknowledges) -> `Steady`. A decision is recorded before
//! the orders that follow from it are given; every term is entered by one such record.
//!
//! Invariants kept here: **I1** one leader a term (a leader is chosen only in the one step `Electing` -> `Establishing`).
//! **I2** a leader holds every acknowledged commit (it is the furthest of re promises of E, or the last leader itself, or
//! not behind the last leader's clean end). **I4** `quorum.rs`. **I10** a supervisor that knows a higher term than the
//! record means that the record is old: everybody with data is asked. **I12** nothing here accepts a loss that the spec
//! did not allow.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::loss;
use super::quorum::{Sets, promises_needed, reconfigure};
use super::scene::{Health, Member, SUSPECT_MS, Scene, Trouble};
use crate::api::lsn::Lsn;
use crate::api::postgres_cluster::{
    Decisions, FailoverStatus, PostgresClusterStatus, Quorum, Stage, SwitchoverDecision, SwitchoverStatus, TimedStep,
    Voter,
};
use crate::engine::ContainerState;
use crate::supervisor::wire::{CONFIRMATION_MS, Data, Leading, Postgres, Promise, Report, Rule};

/// A voter that does not stream for this long leaves the quorum, if the quorum can do without it.
const DISMISS_AFTER: Duration = Duration::from_secs(10);
/// Commits that wait for this long although the voters can be reached: the primary is cut from them.
const QUORUM_LOST: Duration = Duration::from_secs(30);
/// Voters that could promise but have not yet are waited for this long where the choice would be better with them.
const STRAGGLERS: Duration = Duration::from_secs(2);
/// A leader that no voter confirms has stopped by itself after this long (1.5 times the confirmation's life).
const LEASE_OVER: Duration = Duration::from_millis(CONFIRMATION_MS * 3 / 2);
/// A step-down that takes longer is no longer waited for.
pub(super) const STEP_DOWN: Duration = Duration::from_secs(60);

/// The first decisions of a cluster.
pub fn begin(now: Timestamp) -> Decisions {
    Decisions {
        term: 0,
        revision: 0,
        stage: Stage::New,
        members: Vec::new(),
        system_identifier: None,
        leader: None,
        served: None,
        election: Quorum::default(),
        commit: Quorum::default(),
        next: None,
        history: Vec::new(),
        absent: Default::default(),
        switchover: None,
        unsettled: None,
        since: now,
    }
}

/// The rule that a quorum means on the leader: with w = 0 it names nobody.
pub fn rule(quorum: &Quorum) -> Rule {
    let mut names: Vec<_> = quorum.voters.iter().map(|voter| voter.incarnation.clone()).collect();
    names.sort();
    if quorum.w == 0 { Rule::default() } else { Rule { names, count: quorum.w } }
}

/// One transition at most; what stands in the way otherwise.
pub fn advance(scene: &Scene, status: &mut PostgresClusterStatus, d: &mut Decisions) -> Option<Trouble> {
    let known = scene.members.iter().filter_map(|m| Some(m.live()?.promised)).max().unwrap_or(0);
    if d.stage != Stage::New && (known > d.term || known == d.term && newest_order(scene, d.term) > d.revision) {
        return adopt(scene, status, d, known, "a supervisor knows newer decisions than the record: the record is old");
    }
    match d.stage {
        Stage::New => new(scene, status, d, known),
        Stage::Electing => electing(scene, status, d),
        Stage::Establishing => establishing(scene, status, d),
        Stage::Steady => steady(scene, status, d),
    }
}

/// The latest revision of this term that a supervisor has an order of.
fn newest_order(scene: &Scene, term: u64) -> u64 {
    let orders = scene.members.iter().filter_map(|member| member.live()?.order.as_ref());
    orders.filter(|order| order.term == term).map(|order| order.revision).max().unwrap_or(0)
}

/// A new revision for decisions that orders follow from.
pub fn revise(before: &Decisions, d: &mut Decisions) {
    let decided =
        |d: &Decisions| (d.term, d.stage, d.leader.clone(), d.election.clone(), d.commit.clone(), d.next.clone());
    if decided(before) != decided(d) {
        d.revision += 1;
    }
}

fn enter(scene: &Scene, d: &mut Decisions, stage: Stage) {
    d.stage = stage;
    d.since = scene.now;
}

/// A new term: the only door into `Electing`.
fn elect(scene: &Scene, status: &mut PostgresClusterStatus, d: &mut Decisions, cause: String) {
    d.term += 1;
    d.next = None;
    enter(scene, d, Stage::Electing);
    let story = FailoverStatus {
        cause,
        from: d.leader.as_ref().map(|leader| leader.member.clone()).unwrap_or_default(),
        to: String::new(),
        detected_at: scene.now,
        steps: Vec::new(),
        outage: None,
        possible_loss_bytes: None,
        possible_loss: None,
    };
    match &d.switchover {
        Some(switchover) => {
            status.last_switchover =
                Some(SwitchoverStatus { request: switchover.request.clone(), refused: None, result: Some(story) });
        }
        None => status.last_failover = Some(story),
    }
}

/// The story of the promotion under way.
fn story<'s>(status: &'s mut PostgresClusterStatus, d: &Decisions) -> Option<&'s mut FailoverStatus> {
    match &d.switchover {
        Some(_) => status.last_switchover.as_mut()?.result.as_mut(),
        None => status.last_failover.as_mut(),
    }
}

fn tell(scene: &Scene, status: &mut PostgresClusterStatus, d: &Decisions, step: String) {
    let took = seconds(scene.age(d.since));
    if let Some(story) = story(status, d) {
        story.steps.push(TimedStep { step, took });
    }
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

/// Everybody with data is asked to promise; the furthest leads. For a record that is new, lost or old (I10).
fn adopt(
    scene: &Scene,
    status: &mut PostgresClusterStatus,
    d: &mut Decisions,
    known: u64,
    why: &str,
) -> Option<Trouble> {
    if let Some(trouble) = somebody_silent(scene) {
        return Some(trouble);
    }
    let with_data: Vec<Voter> = scene.members.iter().filter_map(Member::voter).collect();
    let nameless = |member: &&Member| {
        member.live().is_some_and(|report| report.data != Data::None && report.incarnation.is_none())
    };
    if let Some(member) = scene.members.iter().find(nameless) {
        let message = format!("the data volume of {} cannot be identified yet", member.place.name);
        return Some(Trouble { reason: "Starting", message });
    }
    let systems: BTreeSet<_> =
        scene.members.iter().filter_map(|member| member.live()?.system_identifier.clone()).collect();
    if systems.len() > 1 {
        return Some(Trouble {
            reason: "ForeignData",
            message: format!(
                "the data volumes belong to different clusters (system identifiers {}): remove the volumes that are not meant",
                systems.into_iter().collect::<Vec<_>>().join(", ")
            ),
        });
    }
    d.term = d.term.max(known);
    d.system_identifier = systems.into_iter().next();
    (d.leader, d.served) = (None, None);
    d.switchover = None;
    // w = 1 makes re = |E|: with the record unknown, nobody may be missing.
    d.election = Quorum { voters: with_data, w: 1 };
    d.commit = Quorum::default();
    elect(scene, status, d, why.to_owned());
    None
}

/// Before anything can be known of the data, every supervisor must have spoken.
fn somebody_silent(scene: &Scene) -> Option<Trouble> {
    let silent: Vec<_> = scene
        .members
        .iter()
        .filter(|member| member.live().is_none_or(|report| report.data == Data::Unknown))
        .map(|member| member.place.name.as_str())
        .collect();
    let message = format!("waiting for the supervisors of {}", silent.join(", "));
    (!silent.is_empty() || scene.members.is_empty()).then_some(Trouble { reason: "Starting", message })
}

fn new(scene: &Scene, status: &mut PostgresClusterStatus, d: &mut Decisions, known: u64) -> Option<Trouble> {
    if let Some(trouble) = somebody_silent(scene) {
        return Some(trouble);
    }
    if scene.members.iter().any(|member| member.live().is_some_and(|report| report.data != Data::None)) {
        return adopt(scene, status, d, known, "existing data volumes are taken over");
    }
    let first = scene.members.first()?;
    d.term = d.term.max(known) + 1;
    d.leader = Some(Voter { member: first.place.name.clone(), incarnation: String::new() });
    d.next = Some(Quorum { voters: Vec::new(), w: if scene.preferred() { 0 } else { scene.w() } });
    enter(scene, d, Stage::Establishing);
    None
}

fn electing(scene: &Scene, status: &mut PostgresClusterStatus, d: &mut Decisions) -> Option<Trouble> {
    let age = scene.age(d.since);
    let last = last_leader(scene, d);
    if d.switchover.is_some() && last.steps_down && age < STEP_DOWN {
        return Some(Trouble { reason: "SwitchingOver", message: "the primary is stepping down".into() });
    }
    let promises: Vec<(Voter, Promise)> = d
        .election
        .voters
        .iter()
        .filter_map(|voter| {
            let member = scene.member(&voter.member)?;
            let promise = member.live()?.promise?;
            (member.able(voter) && promise.term == d.term).then(|| (voter.clone(), promise))
        })
        .collect();
    let reach = |promise: &Promise| (promise.timeline, promise.lsn);
    let furthest = promises.iter().map(|(_, promise)| reach(promise)).max();
    let able = scene.able(d).len();
    let needed = promises_needed(&d.election);
    let stragglers = promises.len() < able && age < STRAGGLERS;
    let by_quorum = d.election.w > 0 && promises.len() >= needed;
    // The last leader's clean end is the end of everything: whoever has all of it needs no other witness.
    let by_clean_end =
        last.clean_end.as_ref().is_some_and(|(_, end)| furthest.is_some_and(|furthest| furthest >= *end));
    // w = 0 promised nothing about the unstreamed rest; but the last leader must be down, provably or by its own clock.
    let by_best = d.election.w == 0 && !promises.is_empty() && (last.fenced || age > LEASE_OVER) && !stragglers;
    let wanted = d.switchover.as_ref().map(|switchover| switchover.to.as_str()).filter(|to| !to.is_empty());
    let wanted_may_come = wanted.is_some_and(|to| promises.iter().all(|(voter, _)| voter.member != to)) && stragglers;
    if (by_quorum || by_clean_end || by_best) && !wanted_may_come {
        let best = promises
            .iter()
            .filter(|(_, promise)| Some(reach(promise)) == furthest)
            .max_by_key(|(voter, _)| (Some(voter.member.as_str()) == wanted, std::cmp::Reverse(voter.member.clone())));
        if let Some((candidate, _)) = best.cloned() {
            let who: Vec<_> = promises.iter().map(|(voter, _)| voter.member.as_str()).collect();
            tell(scene, status, d, format!("promises of {}", who.join(", ")));
            let followers = promises.into_iter().map(|(voter, _)| voter).filter(|voter| *voter != candidate);
            let returning = last.clean_end.map(|(leader, _)| leader);
            establish(scene, status, d, candidate.clone(), followers.chain(returning).collect());
            return None;
        }
    }
    // Too few can ever promise as things are, but the last leader itself is there with all that it acknowledged.
    if let Some(leader) = last.can_lead_again
        && able < needed
        && !stragglers
    {
        tell(scene, status, d, format!("{} itself leads again: too few standbys could be asked", leader.member));
        let followers = promises.into_iter().map(|(voter, _)| voter).collect();
        establish(scene, status, d, leader, followers);
        return None;
    }
    Some(quorum_unavailable(scene, d, promises.len(), needed))
}

fn quorum_unavailable(scene: &Scene, d: &Decisions, have: usize, needed: usize) -> Trouble {
    let missing: Vec<_> = d
        .election
        .voters
        .iter()
        .filter(|voter| !scene.member(&voter.member).is_some_and(|member| member.able(voter)))
        .map(|voter| voter.member.clone())
        .collect();
    if missing.is_empty() {
        let message = format!("gathering promises: {have} of {needed} so far");
        return Trouble { reason: "Electing", message };
    }
    Trouble {
        reason: "QuorumUnavailable",
        message: format!(
            "an election needs promises of {needed} of {}, has {have}, and can get none from {}: an acknowledged commit may be \
             only there, so nobody is promoted until {} back",
            d.election.voters.len(),
            missing.join(", "),
            if missing.len() == 1 { "it is" } else { "they are" }
        ),
    }
}

/// What is known of the leaders before this election: the one chosen last, and the one that clients were served by last.
/// Either holds all that was ever acknowledged.
pub(super) struct LastLeader {
    /// It is alive and has not ended its step-down yet.
    pub(super) steps_down: bool,
    /// Nothing of it can acknowledge: its container is dead, or it promised this term and its server is down.
    fenced: bool,
    /// Who stopped cleanly under this term, and where.
    pub(super) clean_end: Option<(Voter, (u32, Lsn))>,
    /// Who promised this term, is down, and still has its own data.
    can_lead_again: Option<Voter>,
    /// How far its WAL reached when last heard of.
    pub(super) lsn: Lsn,
}

/// There is none.
const NOBODY: LastLeader =
    LastLeader { steps_down: false, fenced: true, clean_end: None, can_lead_again: None, lsn: Lsn(0) };

pub(super) fn last_leader(scene: &Scene, d: &Decisions) -> LastLeader {
    let chosen = d.leader.as_ref().map(|leader| last(scene, d, leader));
    let served = d.served.as_ref().filter(|served| d.leader.as_ref() != Some(served));
    let served = served.map(|served| last(scene, d, served));
    let chosen = chosen.unwrap_or(NOBODY);
    match served {
        None => chosen,
        Some(served) => LastLeader {
            clean_end: chosen.clean_end.or(served.clean_end),
            can_lead_again: chosen.can_lead_again.or(served.can_lead_again),
            ..chosen
        },
    }
}

pub(super) fn last(scene: &Scene, d: &Decisions, leader: &Voter) -> LastLeader {
    let Some(member) = scene.member(&leader.member) else { return NOBODY };
    let lsn = member.link.and_then(|link| link.report.lsn).unwrap_or_default();
    let Some(report) = member.live() else { return LastLeader { fenced: member.gone().is_some(), lsn, ..NOBODY } };
    let same = report.incarnation.as_ref() == Some(&leader.incarnation);
    let down = report.promised == d.term && report.postgres == Postgres::Stopped;
    let end = report.timeline.zip(report.lsn).filter(|_| down && same && report.clean && report.data == Data::Primary);
    let whole = down && same && matches!(report.data, Data::Primary | Data::Standby);
    LastLeader {
        steps_down: same && !down && report.data == Data::Primary,
        fenced: down,
        clean_end: end.map(|end| (leader.clone(), end)),
        can_lead_again: whole.then(|| leader.clone()),
        lsn,
    }
}

/// The choice is made: the only place where a leader of a term is named (I1).
fn establish(
    scene: &Scene,
    status: &mut PostgresClusterStatus,
    d: &mut Decisions,
    leader: Voter,
    mut voters: Vec<Voter>,
) {
    let w = scene.w();
    voters.retain(|voter| *voter != leader && scene.member(&voter.member).is_some_and(|member| !member.leaving));
    if voters.len() < w as usize {
        // Voters that did not promise are kept as far as commits cannot do without them.
        let others = d.election.voters.iter().filter(|voter| **voter != leader && !voters.contains(voter));
        voters.extend(others.cloned().collect::<Vec<_>>());
    }
    voters.sort();
    let w = if scene.preferred() { w.min(voters.len() as u32) } else { w };
    loss::suspect(scene, status, d, &leader);
    if let Some(story) = story(status, d) {
        story.to.clone_from(&leader.member);
    }
    d.leader = Some(leader);
    d.next = Some(Quorum { voters, w });
    enter(scene, d, Stage::Establishing);
}

fn establishing(scene: &Scene, status: &mut PostgresClusterStatus, d: &mut Decisions) -> Option<Trouble> {
    let Some((member, health)) = scene.leader(d) else {
        elect(scene, status, d, "the new primary is no member any more".into());
        return None;
    };
    let name = member.place.name.clone();
    let report = match health {
        Health::Live(report) => report,
        Health::Dead(_) if d.system_identifier.is_none() => {
            // The very first primary, and nobody was ever let in: what it has left, if anything, is looked at anew.
            (d.leader, d.next, d.stage, d.since) = (None, None, Stage::New, scene.now);
            return None;
        }
        Health::Dead(cause) => {
            d.switchover = None;
            elect(scene, status, d, format!("{name}: {cause} before it was established"));
            return None;
        }
        Health::Silent => {
            let silent = member.link.is_none_or(|link| link.silent_ms >= SUSPECT_MS);
            if silent
                && scene.age(d.since) >= Duration::from_millis(SUSPECT_MS)
                && scene.able(d).len() >= promises_needed(&d.election)
            {
                d.switchover = None;
                elect(scene, status, d, format!("{name}: not a word before it was established"));
                return None;
            }
            return Some(Trouble { reason: "PrimaryUnreachable", message: format!("no word from {name}") });
        }
    };
    learn_identity(d, report);
    let next = d.next.clone().unwrap_or_default();
    let Some(leading) = report.leading.as_ref().filter(|leading| leading.term == d.term) else {
        return Some(job_trouble(&name, report));
    };
    if leading.barrier && leading.commit.as_ref() == Some(&rule(&next)) {
        let acknowledged = match next.w {
            0 => "nobody needs to acknowledge".to_owned(),
            w => format!("{w} of {} standbys acknowledged the new term", next.voters.len()),
        };
        tell(scene, status, d, format!("{name} promoted, {acknowledged}"));
        d.history.clone_from(&leading.history);
        d.commit = Quorum { voters: if next.w == 0 { Vec::new() } else { next.voters.clone() }, w: next.w };
        d.election = next;
        d.next = None;
        d.absent.clear();
        d.served.clone_from(&d.leader);
        enter(scene, d, Stage::Steady);
        return None;
    }
    // Nothing was acknowledged under `next` yet, so it may still change, to what the spec asks by now, too.
    let mut wider = next.clone();
    wider.w = wider.w.min(scene.w());
    for voter in scene.streaming(leading) {
        if !wider.voters.contains(&voter) && scene.member(&voter.member).is_some_and(|member| !member.leaving) {
            // A re-made directory replaces the old one of the same member.
            wider.voters.retain(|known| known.member != voter.member);
            wider.voters.push(voter);
        }
    }
    wider.voters.sort();
    if scene.preferred() && scene.age(d.since) > DISMISS_AFTER {
        wider.w = wider.w.min(scene.streaming(leading).len() as u32);
    }
    d.next = Some(wider);
    let waiting = next.w.saturating_sub(scene.streaming(leading).len() as u32);
    Some(match waiting {
        0 => Trouble {
            reason: "Establishing",
            message: format!("{name} waits for its standbys to acknowledge the new term"),
        },
        _ => Trouble {
            reason: "WaitingForStandbys",
            message: format!("{name} is up; commits need {} standbys, and {waiting} more must stream first", next.w),
        },
    })
}

fn learn_identity(d: &mut Decisions, report: &Report) {
    let Some(leader) = d.leader.as_mut().filter(|leader| leader.incarnation.is_empty()) else { return };
    if let (Some(incarnation), Some(system)) = (&report.incarnation, &report.system_identifier) {
        leader.incarnation.clone_from(incarnation);
        d.system_identifier = Some(system.clone());
    }
}

fn job_trouble(name: &str, report: &Report) -> Trouble {
    let failed = report.job.as_ref().and_then(|job| job.error.clone());
    match failed.or_else(|| report.problem.clone()) {
        Some(problem) => Trouble { reason: "PrimaryNotStarting", message: format!("{name}: {problem}") },
        None => Trouble { reason: "Promoting", message: format!("{name} is becoming primary") },
    }
}

fn steady(scene: &Scene, status: &mut PostgresClusterStatus, d: &mut Decisions) -> Option<Trouble> {
    let Some((member, health)) = scene.leader(d) else {
        elect(scene, status, d, "the primary is no member any more".into());
        return None;
    };
    let name = member.place.name.clone();
    match health {
        Health::Dead(cause) => {
            d.switchover = None;
            elect(scene, status, d, format!("{name}: {cause}"));
            None
        }
        Health::Silent => silent(scene, status, d, member),
        Health::Live(report) => {
            let leading = report.leading.as_ref().filter(|leading| leading.term == d.term);
            let Some(leading) = leading else {
                return Some(Trouble { reason: "PrimaryNotReady", message: format!("{name} is not serving yet") });
            };
            d.history.clone_from(&leading.history);
            serving(scene, status, d, report, leading)
        }
    }
}

/// No certificate, only silence: act when the standbys hear nothing either, and only if an election can succeed.
fn silent(scene: &Scene, status: &mut PostgresClusterStatus, d: &mut Decisions, member: &Member) -> Option<Trouble> {
    let name = &member.place.name;
    let silent_ms = member.link.map_or(u64::MAX, |link| link.silent_ms).min(scene.age(d.since).as_millis() as u64);
    let paused = member.container.is_some_and(|container| container.state == ContainerState::Paused);
    let (able, needed) = (scene.able(d).len(), promises_needed(&d.election));
    if lost_by_all(scene, d, member) && able >= needed {
        d.switchover = None;
        elect(scene, status, d, format!("{name}: its supervisor and its standbys lost it at the same moment"));
        return None;
    }
    let how = if paused { format!("{name} is paused") } else { format!("no word from {name}") };
    if silent_ms < SUSPECT_MS {
        return Some(Trouble { reason: "PrimaryUnreachable", message: how });
    }
    if scene.voters_progress(d) {
        let message = format!("{how}, but its standbys still receive WAL from it: nothing is done");
        return Some(Trouble { reason: "PrimaryUnreachableFromOperator", message });
    }
    if d.election.voters.is_empty() || able < needed {
        let message = format!("{how}, and only {able} of the {needed} standbys that an election needs can be reached");
        return Some(Trouble { reason: "QuorumUnavailable", message });
    }
    d.switchover = None;
    elect(scene, status, d, format!("{how} for {} s, and its standbys receive nothing from it", SUSPECT_MS / 1000));
    None
}

/// The conversation with its supervisor was closed, and so were the streams of all standbys that could vote: what a dying
/// process does, and no cut network. With w = 0 that is not enough, for there the proof of its end is the only safety.
fn lost_by_all(scene: &Scene, d: &Decisions, member: &Member) -> bool {
    let closed = member.link.is_some_and(|link| !link.connected);
    let lost = |voter: &&Voter| {
        scene.member(&voter.member).and_then(Member::live).is_some_and(|report| {
            report.postgres == Postgres::Standby && !report.receiver.as_ref().is_some_and(|receiver| receiver.streaming)
        })
    };
    let able = scene.able(d);
    d.election.w > 0 && closed && !able.is_empty() && able.iter().all(lost)
}

fn serving(
    scene: &Scene,
    status: &mut PostgresClusterStatus,
    d: &mut Decisions,
    report: &Report,
    leading: &Leading,
) -> Option<Trouble> {
    if report.gate_open && story(status, d).is_some_and(|story| story.outage.is_none()) {
        tell(scene, status, d, "gate opened".into());
        let outage = story(status, d).map(|story| seconds(scene.age(story.detected_at)));
        if let Some(story) = story(status, d) {
            story.outage = outage;
        }
        d.switchover = None;
    }
    let streaming = scene.streaming(leading);
    note_absent(scene, d, &streaming);
    let in_commit = streaming.iter().filter(|voter| d.commit.voters.contains(voter)).count();
    let blocked = in_commit < d.commit.w as usize;
    if blocked && quorum_lost(scene, d) {
        elect(
            scene,
            status,
            d,
            "commits wait, and the standbys can be reached but do not stream from the primary".into(),
        );
        return None;
    }
    let confirmed = leading.barrier && leading.commit.as_ref() == Some(&rule(&d.commit));
    let (voters, w) = wish(scene, d, &streaming);
    let sets = Sets { election: d.election.clone(), commit: d.commit.clone() };
    let next = reconfigure(&sets, &voters, w, confirmed);
    d.election = next.election;
    d.commit = next.commit;
    if confirmed {
        retire(scene, d);
    }
    blocked.then(|| Trouble {
        reason: "CommitsWait",
        message: format!("commits need {} standbys and {in_commit} stream: writes wait", d.commit.w),
    })
}

fn note_absent(scene: &Scene, d: &mut Decisions, streaming: &[Voter]) {
    let absent: Vec<_> = d.election.voters.iter().filter(|voter| !streaming.contains(voter)).cloned().collect();
    d.absent.retain(|incarnation, _| absent.iter().any(|voter| voter.incarnation == *incarnation));
    for voter in absent {
        d.absent.entry(voter.incarnation).or_insert(scene.now);
    }
}

/// Every voter that an election needs can be reached, receives nothing, and that for long.
fn quorum_lost(scene: &Scene, d: &Decisions) -> bool {
    let cut = scene.able(d).into_iter().filter(|voter| {
        let long = d.absent.get(&voter.incarnation).is_some_and(|since| scene.age(*since) >= QUORUM_LOST);
        let following = scene.member(&voter.member).and_then(Member::live).is_some_and(|report| {
            report.postgres == Postgres::Standby && !report.receiver.as_ref().is_some_and(|receiver| receiver.streaming)
        });
        long && following
    });
    !d.election.voters.is_empty() && cut.count() >= promises_needed(&d.election)
}

/// The voters and the w that are right for what streams now.
fn wish(scene: &Scene, d: &Decisions, streaming: &[Voter]) -> (Vec<Voter>, u32) {
    let leaves =
        |voter: &Voter| scene.member(&voter.member).is_none_or(|member| member.leaving || member.replaced(voter));
    let patient = |voter: &&Voter| {
        !streaming.contains(voter)
            && d.absent.get(&voter.incarnation).is_some_and(|since| scene.age(*since) < DISMISS_AFTER)
    };
    let mut voters: Vec<Voter> = streaming.iter().filter(|voter| !leaves(voter)).cloned().collect();
    voters.extend(d.election.voters.iter().filter(patient).filter(|voter| !leaves(voter)).cloned());
    let w = scene.w();
    if scene.preferred() {
        let able = w.min(voters.len() as u32);
        return (voters, able);
    }
    if voters.len() < w as usize {
        // Commits wait anyway; a voter that is let go now would only weaken the next election.
        let replaced = |voter: &Voter| scene.member(&voter.member).is_some_and(|member| member.replaced(voter));
        let others = d.election.voters.iter().filter(|voter| !voters.contains(voter) && !replaced(voter));
        let others: Vec<_> = others.cloned().collect();
        voters.extend(others);
    }
    (voters, w)
}

/// Members for which there is no room any more go when no set names them.
fn retire(scene: &Scene, d: &mut Decisions) {
    let named = |name: &str| d.election.voters.iter().chain(&d.commit.voters).any(|voter| voter.member == name);
    let gone: Vec<_> = scene
        .members
        .iter()
        .filter(|member| member.leaving && !named(&member.place.name))
        .map(|member| member.place.name.clone())
        .collect();
    d.members.retain(|place| !gone.contains(&place.name));
}

/// Begins a planned switchover; the caller made sure that the cluster is steady.
pub fn switch_over(scene: &Scene, status: &mut PostgresClusterStatus, d: &mut Decisions, decision: SwitchoverDecision) {
    let cause = if decision.to.is_empty() { "switchover".into() } else { format!("switchover to {}", decision.to) };
    d.switchover = Some(decision);
    elect(scene, status, d, cause);
}

/// Why `to` cannot take over now, or `None`.
pub fn cannot_switch_to(scene: &Scene, d: &Decisions, to: &str) -> Option<String> {
    let leader = d.leader.as_ref().map(|leader| leader.member.as_str());
    let leading = leader.and_then(|name| scene.member(name)?.live()?.leading.as_ref());
    let Some(leading) = leading else { return Some("the primary cannot be reached".into()) };
    let ready: Vec<_> =
        scene.streaming(leading).into_iter().filter(|voter| d.election.voters.contains(voter)).collect();
    if to.is_empty() {
        return ready.is_empty().then(|| "no standby is streaming that could take over".into());
    }
    if Some(to) == leader {
        return Some(format!("{to} is the primary already"));
    }
    if scene.member(to).is_none() {
        let names: Vec<_> = scene.members.iter().map(|member| member.place.name.as_str()).collect();
        return Some(format!("there is no instance {to}; there are {}", names.join(", ")));
    }
    (!ready.iter().any(|voter| voter.member == to)).then(|| format!("{to} is not streaming from the primary"))
}
