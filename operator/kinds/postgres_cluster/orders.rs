//! Derives the order of every instance, and the renewal for the leader, from the decisions. Pure; decides nothing new.
//!
//! Invariant **I8** is kept here on the operator's side: an order opens a gate only in `Stage::Steady`, which begins
//! when it is recorded that the new quorum acknowledged.

use super::Step;
use super::protocol::STEP_DOWN;
use super::quorum::{commit_rule, confirm_rule, confirmations_needed};
use super::view::{ClusterView, LastLeader, Member};
use crate::api::postgres_cluster::{Decisions, MemberPlace, Network, Stage};
use crate::api::postgres_tls::ClientTls;
use crate::archive::target::Recovery;
use crate::supervisor::wire::{Access, Data, Follow, Init, Lead, Lineage, Order, Postgres, Report, Task};

/// The part of the decisions that orders follow from, besides the spec and what is observed.
pub fn basis(decisions: &Decisions) -> impl PartialEq + '_ {
    let Decisions { term, stage, leader, election, commit, next, archive, .. } = decisions;
    (term, stage, leader, election, commit, next, archive)
}

/// `after`, with a new revision if its orders differ.
pub fn revised(before: &Decisions, after: Decisions) -> Decisions {
    let others = basis(before) != basis(&after);
    Decisions { revision: before.revision + u64::from(others), ..after }
}

/// The order of every instance that can be reached, if it differs from the order that the instance has.
pub fn orders(view: &ClusterView, decisions: &Decisions, credentials: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for member in &view.members {
        let Some(report) = member.live() else { continue };
        if !credentials.is_empty() && report.credentials.as_deref() != Some(credentials) {
            steps.push(Step::SendCredentials { member: member.place.name.clone() });
        }
        let Some(task) = task(view, decisions, member, report) else { continue };
        let Decisions { term, revision, .. } = *decisions;
        let access = report.secures.then(|| access(view));
        let settings = view.object.spec.parameters.clone();
        let archive = decisions.archive.clone().filter(|_| report.archives);
        let order = Order { term, revision, task, settings, access, archive };
        // A new revision alone matters only in a leader's order.
        let same = |known: &Order| Order { revision: order.revision, ..known.clone() } == order;
        let told = match &order.task {
            Task::Lead(_) => report.order.as_ref() == Some(&order),
            _ => report.order.as_ref().is_some_and(same),
        };
        if !told {
            steps.push(Step::Order { member: member.place.name.clone(), order: Box::new(order) });
        }
    }
    // The leader first, because all others wait for it.
    steps.sort_by_key(|step| !matches!(step, Step::Order { order, .. } if matches!(order.task, Task::Lead(_))));
    steps
}

fn task(view: &ClusterView, decisions: &Decisions, member: &Member, report: &Report) -> Option<Task> {
    let name = member.place.name.as_str();
    let leads = decisions.is_leader(name);
    let led = leads || decisions.served.as_ref().is_some_and(|leader| leader.member == name);
    let votes = decisions.election.voters.iter().any(|voter| voter.member == name);
    match decisions.stage {
        Stage::New => None,
        Stage::Electing if !votes && (led || report.postgres == Postgres::Primary) => {
            Some(Task::Stop { graceful: leads && decisions.switchover.is_some() })
        }
        Stage::Electing => {
            // Receivers must stay until the stepping-down primary has shipped its last WAL.
            let waits = decisions.switchover.is_some()
                && LastLeader::of(view, decisions).steps_down
                && view.age(decisions.since) < STEP_DOWN;
            (votes && !waits).then_some(Task::Prepare)
        }
        Stage::Establishing | Stage::Steady if leads => Some(Task::Lead(lead(view, decisions, name))),
        Stage::Establishing | Stage::Steady => follow(view, decisions, member, report).map(Task::Follow),
    }
}

/// Who may connect over the network. A member that can replicate by TLS never does it with the password.
fn access(view: &ClusterView) -> Access {
    let plain = |member: &&Member| member.place.peer.is_none() && !member.secures();
    Access {
        secure: view.members.iter().filter_map(|member| member.place.peer).collect(),
        plain: view.members.iter().filter(plain).filter_map(|member| member.place.address).collect(),
        clients_use_tls: view.object.spec.tls.clients == ClientTls::Required,
        anywhere: view.before.network == Network::Host,
    }
}

fn slot(place: &MemberPlace) -> String {
    format!("evenkeel_{}", place.ordinal)
}

/// The replication slots for all other members.
fn slots(view: &ClusterView, name: &str) -> Vec<String> {
    let mut slots: Vec<_> = view.members.iter().filter(|m| m.place.name != name).map(|m| slot(m.place)).collect();
    slots.sort();
    slots
}

fn lead(view: &ClusterView, decisions: &Decisions, name: &str) -> Lead {
    let bootstrap = &view.object.spec.bootstrap;
    let initdb = bootstrap.initdb();
    let recovery = bootstrap.recovery.as_ref().map(|declared| {
        let verify = declared.verify;
        Recovery::try_from(&declared.target).map(|target| Recovery { verify, ..target })
    });
    let restores = view.member(name).and_then(Member::live).is_some_and(|report| report.archives);
    // Never a new, empty cluster in place of one that is to be recovered: not by a supervisor that would only run initdb, and not
    // for a target that is not understood.
    let may_begin = recovery.as_ref().is_none_or(|recovery| recovery.is_ok() && restores);
    let init = (decisions.system_identifier.is_none() && may_begin).then_some(Init {
        encoding: initdb.encoding,
        locale: initdb.locale,
        data_checksums: initdb.data_checksums,
    });
    let (commit, election) = match &decisions.next {
        Some(next) => (commit_rule(next), next),
        None => (commit_rule(&decisions.commit), &decisions.election),
    };
    Lead {
        recovery: recovery.and_then(Result::ok).filter(|_| init.is_some()),
        init,
        commit,
        confirm: confirm_rule(election),
        slots: slots(view, name),
        database: bootstrap.database().to_owned(),
        owner: bootstrap.owner().to_owned(),
        // I8: never before it is recorded that the new quorum acknowledged.
        open: decisions.stage == Stage::Steady,
    }
}

fn follow(view: &ClusterView, decisions: &Decisions, member: &Member, report: &Report) -> Option<Follow> {
    let leader = decisions.leader.as_ref()?;
    let leader_member = view.member(&leader.member)?;
    let leading = leader_member.live().and_then(|report| {
        let leading = report.leading.as_ref()?;
        (leading.term == decisions.term).then_some((report.timeline?, leading))
    });
    let lineage = leading.map(|(timeline, leading)| Lineage { timeline, history: leading.history.clone() });
    let mut timeline_terms = leader_member.link.map(|link| link.report.timeline_terms.clone()).unwrap_or_default();
    if lineage.is_none() {
        timeline_terms.retain(|_, term| *term < decisions.term);
    }
    // Without the lineage only standbys that promised this very term may follow, because their WAL was compared.
    let promised = report.promised == decisions.term && report.data == Data::Standby;
    if lineage.is_none() && !(decisions.stage == Stage::Establishing && promised) {
        return None;
    }
    let secure = leader_member.place.peer.filter(|_| member.place.peer.is_some() && report.secures);
    if secure.is_none() && report.secures && leader_member.secures() {
        // It waits for the certificates of both.
        return None;
    }
    Some(Follow {
        leader: leader.member.clone(),
        address: leader_member.place.address?.to_string(),
        port: leader_member.place.listens_on(),
        secure,
        slot: slot(member.place),
        slots: slots(view, &member.place.name),
        timeline_terms,
        lineage,
        rewindable: leading.is_some_and(|(_, leading)| leading.checkpointed),
    })
}

/// The operator's renewal for the leader, if too few of its voters can confirm it.
pub fn renewal(view: &ClusterView, decisions: &Decisions) -> Option<Step> {
    let leader = decisions.leader.as_ref().filter(|_| decisions.stage == Stage::Steady)?;
    let report = view.member(&leader.member)?.live()?;
    let leading = report.leading.as_ref().filter(|leading| leading.term == decisions.term)?;
    let fresh = view.streaming(leading).iter().filter(|voter| decisions.election.voters.contains(voter)).count();
    (fresh < confirmations_needed(&decisions.election)).then(|| Step::Renew {
        member: leader.member.clone(),
        term: decisions.term,
        clock_ms: report.clock_ms,
    })
}
