//! The standing order of every instance, and the leader's confirmation: what follows from the decisions. Pure; decides nothing new.
//!
//! Invariant **I8** is kept here on the operator's side: a gate is ordered open only in `Stage::Steady`, which is entered
//! when the record says that the new quorum acknowledged.

use super::Step;
use super::protocol::{STEP_DOWN, last_leader, rule};
use super::quorum::confirmations_needed;
use super::scene::{Member, Scene};
use crate::api::postgres_cluster::{Decisions, MemberPlace, Quorum, Stage};
use crate::supervisor::wire::{Data, Follow, Init, Lead, Lineage, Order, Postgres, Report, Rule, Task};

/// The standing order of every instance that can be spoken to, where it differs from what it has.
pub fn orders(scene: &Scene, d: &Decisions, credentials: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for member in &scene.members {
        let Some(report) = member.live() else { continue };
        if !credentials.is_empty() && report.credentials.as_deref() != Some(credentials) {
            steps.push(Step::SendCredentials { member: member.place.name.clone() });
        }
        let Some(task) = task(scene, d, member, report) else { continue };
        let order = Order { term: d.term, revision: d.revision, task, settings: scene.object.spec.parameters.clone() };
        // Only a leader's order says something new with a new revision alone.
        let same = |known: &Order| Order { revision: order.revision, ..known.clone() } == order;
        let told = match &order.task {
            Task::Lead(_) => report.order.as_ref() == Some(&order),
            _ => report.order.as_ref().is_some_and(same),
        };
        if !told {
            steps.push(Step::Order { member: member.place.name.clone(), order: Box::new(order) });
        }
    }
    // The leader first: everybody else waits for it.
    steps.sort_by_key(|step| !matches!(step, Step::Order { order, .. } if matches!(order.task, Task::Lead(_))));
    steps
}

fn task(scene: &Scene, d: &Decisions, member: &Member, report: &Report) -> Option<Task> {
    let name = member.place.name.as_str();
    let leads = d.leader.as_ref().is_some_and(|leader| leader.member == name);
    let led = leads || d.served.as_ref().is_some_and(|leader| leader.member == name);
    let votes = d.election.voters.iter().any(|voter| voter.member == name);
    match d.stage {
        Stage::New => None,
        Stage::Electing if !votes && (led || report.postgres == Postgres::Primary) => {
            Some(Task::Stop { graceful: leads && d.switchover.is_some() })
        }
        Stage::Electing => {
            // Receivers must stay until the stepping-down primary has shipped its last WAL.
            let waits = d.switchover.is_some() && last_leader(scene, d).steps_down && scene.age(d.since) < STEP_DOWN;
            (votes && !waits).then_some(Task::Prepare)
        }
        Stage::Establishing | Stage::Steady if leads => Some(Task::Lead(lead(scene, d, name))),
        Stage::Establishing | Stage::Steady => follow(scene, d, member, report).map(Task::Follow),
    }
}

fn slot(place: &MemberPlace) -> String {
    format!("evenkeel_{}", place.ordinal)
}

/// The slots of everybody else.
fn slots(scene: &Scene, name: &str) -> Vec<String> {
    let mut slots: Vec<_> = scene.members.iter().filter(|m| m.place.name != name).map(|m| slot(m.place)).collect();
    slots.sort();
    slots
}

fn lead(scene: &Scene, d: &Decisions, name: &str) -> Lead {
    let initdb = &scene.object.spec.bootstrap.initdb;
    let init = d.system_identifier.is_none().then(|| Init {
        encoding: initdb.encoding.clone(),
        locale: initdb.locale.clone(),
        data_checksums: initdb.data_checksums,
    });
    let (commit, election) = match &d.next {
        Some(next) => (rule(next), next),
        None => (rule(&d.commit), &d.election),
    };
    Lead {
        init,
        commit,
        confirm: confirm(election),
        slots: slots(scene, name),
        database: initdb.database.clone(),
        owner: initdb.owner.clone(),
        // I8: never before the record says that the new quorum acknowledged.
        open: d.stage == Stage::Steady,
    }
}

fn follow(scene: &Scene, d: &Decisions, member: &Member, report: &Report) -> Option<Follow> {
    let leader = d.leader.as_ref()?;
    let leader_member = scene.member(&leader.member)?;
    let leading = leader_member.live().and_then(|report| {
        let leading = report.leading.as_ref()?;
        (leading.term == d.term).then_some((report.timeline?, leading))
    });
    let lineage = leading.map(|(timeline, leading)| Lineage { timeline, history: leading.history.clone() });
    let mut timeline_terms = leader_member.link.map(|link| link.report.timeline_terms.clone()).unwrap_or_default();
    if lineage.is_none() {
        timeline_terms.retain(|_, term| *term < d.term);
    }
    // Without the lineage only those follow whose reach was compared: they promised this very term.
    let promised = report.promised == d.term && report.data == Data::Standby;
    if lineage.is_none() && !(d.stage == Stage::Establishing && promised) {
        return None;
    }
    Some(Follow {
        leader: leader.member.clone(),
        address: leader_member.place.address?.to_string(),
        slot: slot(member.place),
        slots: slots(scene, &member.place.name),
        timeline_terms,
        lineage,
        rewindable: leading.is_some_and(|(_, leading)| leading.checkpointed),
    })
}

/// The leader's confirmation by us, where its voters cannot give it.
pub fn renewal(scene: &Scene, d: &Decisions) -> Option<Step> {
    let leader = d.leader.as_ref().filter(|_| d.stage == Stage::Steady)?;
    let report = scene.member(&leader.member)?.live()?;
    let leading = report.leading.as_ref().filter(|leading| leading.term == d.term)?;
    let fresh = scene.streaming(leading).iter().filter(|voter| d.election.voters.contains(voter)).count();
    (fresh < confirmations_needed(&d.election)).then(|| Step::Renew {
        member: leader.member.clone(),
        term: d.term,
        clock_ms: report.clock_ms,
    })
}

fn confirm(election: &Quorum) -> Rule {
    let mut names: Vec<_> = election.voters.iter().map(|voter| voter.incarnation.clone()).collect();
    names.sort();
    Rule { names, count: confirmations_needed(election) as u32 }
}
