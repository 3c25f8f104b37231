//! The promotion protocol: from what is observed to the next decisions. Pure and total; at most one transition per
//! reconcile.
//!
//! Stages: `New` (is there data already?) -> `Electing` (promises of a new term are collected) -> `Establishing` (the
//! leader is promoted with its gate shut, until its new quorum acknowledges) -> `Steady`. A decision is recorded before
//! its orders are sent; every term begins with one such record.
//!
//! Invariants kept here: **I1** one leader per term (a leader is chosen only in the one step `Electing` ->
//! `Establishing`). **I2** a leader holds every acknowledged commit (it is the furthest of re promises of E, or the
//! last leader itself, or not behind the last leader's clean end). **I4** `quorum.rs`. **I10** a supervisor that knows
//! a higher term than the record means that the record is old: every member with data is asked. **I12** no decision
//! here accepts a loss that the spec did not allow.

use std::time::Duration;

use jiff::Timestamp;

use super::decided::{Decided, Told};
use super::loss;
use super::view::ClusterView;
use crate::api::postgres_cluster::{Decisions, Stage, SwitchoverDecision};

mod electing;
mod establishing;
mod new;
mod sets;
mod steady;

/// A voter that does not stream for this long leaves the quorum, if the quorum is large enough without it.
const DISMISS_AFTER: Duration = Duration::from_secs(10);
/// Time-out of a step-down; then the election continues without it.
pub(super) const STEP_DOWN: Duration = Duration::from_secs(60);

/// The decisions of a new cluster: none yet.
pub fn begin(now: Timestamp) -> Decisions {
    Decisions { since: now, ..Decisions::default() }
}

/// The decisions that follow from what is observed now.
pub fn advance(view: &ClusterView) -> Decided {
    let before = view.before;
    let known = view.members.iter().filter_map(|member| Some(member.live()?.promised)).max().unwrap_or(0);
    let newer = known > before.term || known == before.term && newest_order(view) > before.revision;
    let decided = match before.stage {
        Stage::New => new::new(view, known),
        // I10: no decision follows from an old record.
        _ if newer => new::adopt(view, known, "a supervisor knows newer decisions than the record: the record is old"),
        Stage::Electing => electing::electing(view),
        Stage::Establishing => establishing::establishing(view),
        Stage::Steady => steady::steady(view),
    };
    let Some(settled) = loss::settle(view, &decided.decisions) else { return decided };
    Decided {
        decisions: Decisions { unsettled: None, ..decided.decisions },
        told: [decided.told, vec![settled]].concat(),
        ..decided
    }
}

/// The highest revision of this term of which a supervisor has an order.
fn newest_order(view: &ClusterView) -> u64 {
    let orders = view.members.iter().filter_map(|member| member.live()?.order.as_ref());
    orders.filter(|order| order.term == view.before.term).map(|order| order.revision).max().unwrap_or(0)
}

/// Whether the current switchover continues when an election begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Switchover {
    /// The election is part of the switchover.
    Keep,
    /// The switchover is over: this is a failover.
    Drop,
}

/// Begins a new term: the only entry into `Electing`.
fn elect(view: &ClusterView, cause: impl Into<String>, switchover: Switchover) -> Decided {
    let before = view.before;
    let switchover = before.switchover.clone().filter(|_| switchover == Switchover::Keep);
    let electing = enter(before, Stage::Electing, view.now);
    let decisions = Decisions { term: before.term + 1, next: None, switchover, ..electing };
    let told = Told::Began { cause: cause.into(), last_write: view.last_write() };
    Decided { decisions, told: vec![told], blocker: None }
}

/// The same decisions, in another stage that begins now.
fn enter(before: &Decisions, stage: Stage, now: Timestamp) -> Decisions {
    Decisions { stage, since: now, ..before.clone() }
}

/// Begins a planned switchover; the caller has checked that the cluster is steady.
pub fn switch_over(view: &ClusterView, decision: SwitchoverDecision) -> Decided {
    let cause = if decision.to.is_empty() { "switchover".into() } else { format!("switchover to {}", decision.to) };
    let elected = elect(view, cause, Switchover::Drop);
    Decided { decisions: Decisions { switchover: Some(decision), ..elected.decisions }, ..elected }
}

/// Why `to` cannot take over now; `None` if it can.
pub fn cannot_switch_to(view: &ClusterView, to: &str) -> Option<String> {
    let leader = view.before.leader_name();
    let leading = leader.and_then(|name| view.member(name)?.live()?.leading.as_ref());
    let Some(leading) = leading else { return Some("the primary cannot be reached".into()) };
    let streaming = view.streaming(leading).into_iter();
    let ready: Vec<_> = streaming.filter(|voter| view.before.election.voters.contains(voter)).collect();
    if to.is_empty() {
        return ready.is_empty().then(|| "no standby is streaming that could take over".into());
    }
    if Some(to) == leader {
        return Some(format!("{to} is the primary already"));
    }
    if view.member(to).is_none() {
        let names: Vec<_> = view.members.iter().map(|member| member.place.name.as_str()).collect();
        return Some(format!("there is no instance {to}; there are {}", names.join(", ")));
    }
    (!ready.iter().any(|voter| voter.member == to)).then(|| format!("{to} is not streaming from the primary"))
}
