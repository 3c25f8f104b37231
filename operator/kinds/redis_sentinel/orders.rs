//! The orders that follow from the decisions, for each supervisor that can be reached and has another one. Pure.

use super::decide::{NORMAL, priority};
use super::view::{Member, View};
use super::{Step, sentinels};
use crate::api::redis_sentinel::{ChangePhase, RedisDecisions, RedisStage};
use crate::supervisor::redis::state::CUT_S;
use crate::supervisor::redis::wire::{Config, Order, RedisSeen, Server, Task};

/// The steps that send credentials and orders. `credentials`: the hash of those in the Secrets.
pub fn orders(view: &View, decisions: &RedisDecisions, credentials: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for member in view.members.iter().chain(&view.sentinels) {
        let Some(report) = member.live().filter(|report| !report.terminating) else { continue };
        // Without credentials no server can start. A member that has some gets orders also while there are none to send.
        if credentials.is_empty() && report.credentials.is_none() {
            continue;
        }
        if !credentials.is_empty() && report.credentials.as_deref() != Some(credentials) {
            steps.push(Step::SendCredentials { member: member.name().to_owned() });
        }
        if let Some(seen) = &report.redis
            && let Some(order) = order(view, decisions, member)
            && seen.order.as_ref() != Some(&order)
        {
            steps.push(Step::Order { member: member.name().to_owned(), order: Box::new(order) });
        }
        if let Some(seen) = &report.sentinel
            && decisions.stage != RedisStage::New
            && let Some(watch) = sentinels::watch(view, decisions, member)
            && seen.watch.as_ref() != Some(&watch)
        {
            steps.push(Step::Watch { member: member.name().to_owned(), watch: Box::new(watch) });
        }
    }
    steps
}

/// The order of a data member; `None` before the first master is chosen.
fn order(view: &View, decisions: &RedisDecisions, member: &Member) -> Option<Order> {
    let report = member.live()?;
    if decisions.stage == RedisStage::New {
        return None;
    }
    let leader = view.member(decisions.master.as_deref()?)?;
    let change = decisions.change.as_ref();
    let leads = leader.name() == member.name();
    let task = match change {
        // Its death is proven: it must not start before a Sentinel has promoted another, or it has the newest data.
        Some(change) if leads && change.request.is_none() => Task::Wait,
        Some(change)
            if leads
                && matches!(change.phase, ChangePhase::Pausing | ChangePhase::Promoting | ChangePhase::Yielding) =>
        {
            Task::Lead { pause: change.request.clone() }
        }
        _ if leads => Task::Lead { pause: None },
        // Only the one with the newest data starts, so that a Sentinel can choose no other.
        Some(change) if change.phase == ChangePhase::Gathering && change.to != member.name() => Task::Wait,
        // One that has lost its memory of the offset, or has no data, must not become a candidate beside the others.
        Some(change) if change.request.is_none() && change.to != member.name() && report.server == Server::Stopped => {
            Task::Wait
        }
        _ => Task::Follow { master: leader.name().to_owned(), address: leader.address()? },
    };
    // Invariant: a server starts as master only in the run that was recorded for it.
    let run = if leads { decisions.run.clone().unwrap_or_default() } else { report.run.clone() };
    let spec = &view.object.spec;
    Some(Order {
        epoch: decisions.epoch,
        revision: decisions.revision,
        run,
        task,
        config: Config {
            announce: Some(member.address()?),
            directives: spec.directives(),
            priority: change.map_or(NORMAL, |change| priority(change, member.name())),
            username: spec.auth.username.clone(),
            tls: tls(view, leader, member),
        },
        sentinels: sentinels::common(view),
    })
}

/// Whether the member's port has TLS now. A change goes to the master first, then to one replica after the other.
///
/// A replica that changes connects to its master again. Invariant: the link of a replica is cut on purpose only while the
/// master listens in the new way and no other replica is without its link for the same reason.
fn tls(view: &View, leader: &Member, member: &Member) -> bool {
    let wanted = view.object.spec.tls.enabled;
    let told = |seen: &RedisSeen| seen.order.as_ref().map(|order| order.config.tls);
    let up = |seen: &RedisSeen| seen.link.as_ref().is_some_and(|link| link.up);
    let old = |one: &Member| one.serving().is_some_and(|seen| told(seen) == Some(!wanted) && up(seen));
    if leader.name() == member.name() || !old(member) {
        return wanted;
    }
    let master = leader.serving().is_some_and(|seen| told(seen) == Some(wanted) && !seen.config_pending);
    let connecting = |seen: &RedisSeen| seen.link.as_ref().is_some_and(|link| !link.up && link.down_s < CUT_S);
    let changing = |one: &Member| {
        one.serving().is_some_and(|seen| told(seen) == Some(wanted) && (seen.config_pending || connecting(seen)))
    };
    let others = || view.members.iter().filter(|one| one.name() != leader.name());
    let first = others().find(|one| old(one)).is_some_and(|one| one.name() == member.name());
    if master && first && !others().any(changing) { wanted } else { !wanted }
}
