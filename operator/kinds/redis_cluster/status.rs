//! Renders the status: phase, members, endpoints, conditions. Pure; decides nothing.

use super::Observed;
use super::certificates::holdings;
use super::decide::{self, in_sync};
use super::view::{Member, View};
use crate::api::conditions::{no, set, yes};
use crate::api::placement::Network;
use crate::api::postgres_status::ClusterPhase;
use crate::api::redis_cluster::{ClusterDecisions, ClusterMemberStatus, ClusterStage, RedisClusterStatus};
use crate::api::redis_status::{RedisRole, RedisState};
use crate::engine::ContainerState;
use crate::kinds::certificates::due;
use crate::kinds::containers;
use crate::kinds::redis_places::{self, PLACEMENT, UNENCRYPTED};
use crate::kinds::redis_reports::absent_state;
use crate::supervisor::redis::cluster::wire::{SLOTS, short};
use crate::supervisor::redis::wire::Server;

/// Members come or go, and those that stay are well.
const CHANGING: &str = "members are being added or removed";

/// Fills in the part of the status that no planner reads back.
pub fn render(
    view: &View,
    observed: &Observed,
    status: &mut RedisClusterStatus,
    decisions: &ClusterDecisions,
    blocker: Option<(&'static str, String)>,
    paused: bool,
) {
    let spec = &view.object.spec;
    let problem = containers::problem(&observed.work);
    status.observed_generation = view.object.metadata.generation.unwrap_or_default();
    status.wanted_members = spec.members();
    let before = std::mem::take(&mut status.members);
    status.members = view.members.iter().map(|one| member(view, one, &before)).collect();
    // A master without slots has no task yet, or none any more.
    let ready = |one: &&ClusterMemberStatus| match one.state {
        RedisState::Running => one.slots > 0,
        state => state == RedisState::Synced,
    };
    status.ready_members = count(status.members.iter().filter(ready).count());
    let serving = view.members.iter().filter(|one| one.running().is_some());
    let served: usize = serving.filter_map(|one| one.id()).map(|id| view.slots.at(id).len()).sum();
    status.slots_served = count(served);
    status.stale_nodes = decide::stale(view).into_iter().map(str::to_owned).collect();
    status.migration = decisions.migration.clone();
    status.endpoints =
        view.members.iter().filter(|one| !one.leaving).filter_map(Member::address).map(|a| a.to_string()).collect();
    let all = served == usize::from(SLOTS);
    // Those that leave serve nothing that is missed.
    let staying = || status.members.iter().zip(&view.members).filter(|(_, one)| !one.leaving).map(|(shown, _)| shown);
    let whole = all
        && decisions.stage == ClusterStage::Steady
        && staying().all(|one| ready(&one))
        && staying().count() == spec.members() as usize;
    status.phase = match decisions.stage {
        _ if paused => ClusterPhase::Paused,
        ClusterStage::New => ClusterPhase::Pending,
        ClusterStage::Creating => ClusterPhase::Bootstrapping,
        ClusterStage::Steady if decisions.failover.is_some() => ClusterPhase::FailingOver,
        ClusterStage::Steady if whole => ClusterPhase::Healthy,
        ClusterStage::Steady if all => ClusterPhase::Degraded,
        ClusterStage::Steady => ClusterPhase::Unavailable,
    };
    let not_ready = || {
        let told = staying().filter(|one| !ready(one)).map(|one| match &one.message {
            Some(message) => format!("{} is {}: {message}", one.name, one.state),
            None => format!("{} is {}", one.name, one.state),
        });
        let told: Vec<String> = told.collect();
        if told.is_empty() { CHANGING.to_owned() } else { told.join("; ") }
    };
    let why = problem.clone().or(blocker.clone()).unwrap_or_else(|| ("MembersNotReady", not_ready()));
    let verdict = match whole {
        true => yes("Serving", "all slots are served; every replica is in sync"),
        false => no(why.0, why.1.clone()),
    };
    let progressing = match (&decisions.migration, containers::progress(&observed.work)) {
        _ if paused => no("Paused", "reconciliation is paused by annotation"),
        (Some(migration), _) => {
            yes("MovingSlots", format!("{} of {} slots are still to move", migration.left, migration.total))
        }
        (_, Some((reason, message))) => yes(reason, message),
        _ if !whole => yes(why.0, why.1.clone()),
        _ if view.members.iter().any(|one| one.leaving) => yes("MembersNotReady", CHANGING),
        _ => match (status.members.iter().zip(&view.members)).find_map(|(shown, one)| {
            let waits = &one.serving()?.pending_restart;
            (!waits.is_empty()).then(|| format!("{} waits for a restart: {}", shown.name, waits.join(", ")))
        }) {
            Some(waits) => yes("PendingRestart", waits),
            None => no("Settled", "everything is as declared"),
        },
    };
    let refused = view.members.iter().find_map(|one| {
        let refused = one.serving()?.config_errors.first()?;
        Some(format!("{} refuses a directive and keeps the former value: {refused}", one.name()))
    });
    let degraded = match refused {
        Some(message) => yes("DirectiveRefused", message),
        None if !whole && decisions.stage == ClusterStage::Steady => yes(why.0, why.1),
        None if !status.stale_nodes.is_empty() => {
            let ids: Vec<&str> = status.stale_nodes.iter().map(|id| short(id)).collect();
            yes("StaleNodes", format!("nodes still know {}, which no longer exist", ids.join(", ")))
        }
        None => no(
            "Redundant",
            match spec.replicas_per_master {
                0 => "no replicas: the loss of a member's volume loses its slots",
                _ => {
                    "replication is asynchronous: a failover can lose what was acknowledged and the replica had not received"
                }
            },
        ),
    };
    for (kind, condition) in [("Ready", verdict), ("Progressing", progressing), ("Degraded", degraded)] {
        set(&mut status.conditions, kind, condition, status.observed_generation, view.now);
    }
    status.certificates =
        observed.certificates.as_ref().and_then(|seen| due::status(view.object, seen).or(status.certificates.take()));
    let certificates = observed
        .certificates
        .as_ref()
        .and_then(|seen| due::problem(&holdings(view), seen, view.now))
        .unwrap_or_default();
    let told: Vec<String> = observed.refused.iter().map(|(member, why)| format!("{member}: {why}")).collect();
    for (kind, reason, message) in [
        ("Warning", "Unwise", spec.warnings().join("; ")),
        ("ReportRefused", "OutOfBounds", told.join("; ")),
        ("CertificateProblem", certificates.0, certificates.1),
    ] {
        match message.is_empty() {
            true => status.conditions.retain(|condition| condition.type_ != kind),
            false => set(&mut status.conditions, kind, yes(reason, message), status.observed_generation, view.now),
        }
    }
}

/// What is told about the places of the members, and how many losses are tolerated now. `problem`: why a member has no place, or
/// stays in one that it should leave.
pub fn places(view: &View, status: &mut RedisClusterStatus, problem: Option<(&'static str, String)>) {
    let masters: Vec<&Member> =
        view.slots.owners().filter_map(|id| view.by_id(id)).filter(|one| one.running().is_some()).collect();
    // A failover needs the votes of most masters, and a replica in sync.
    let spare = count(masters.len().saturating_sub(view.slots.owners().count() / 2 + 1));
    let mut groups = vec![(spare, on(&masters))];
    for id in view.slots.owners() {
        let copies = view.replicas(id).filter(|one| in_sync(view, one));
        let copies: Vec<&Member> =
            view.by_id(id).filter(|one| one.running().is_some()).into_iter().chain(copies).collect();
        groups.push((count(copies.len().saturating_sub(1)), on(&copies)));
    }
    status.tolerated_losses = Some(redis_places::tolerated(&groups));
    let on_hosts = view.before.network == Network::Host;
    let shared = || {
        let (of_masters, of_shards) = groups.split_first()?;
        let elections = redis_places::fateful(of_masters.0, &of_masters.1)
            .map(|(host, number)| format!("the loss of host {host} stops elections: it has {number} of the masters"));
        let copies = of_shards.iter().find_map(|(spare, hosts)| redis_places::fateful(*spare, hosts));
        let copies = copies.map(|(host, _)| format!("the loss of host {host} loses slots: it has every copy of some"));
        Some(("SharedFate", elections.or(copies)?))
    };
    let placement = problem.or_else(|| shared().filter(|_| on_hosts)).unwrap_or_default();
    let open = "data and passwords pass between hosts without encryption, from clients and between members; \
                spec.tls.enabled cannot be changed: make a new object with it, or use a network that nobody else reads";
    let open = if on_hosts && !view.object.spec.tls.enabled { open.to_owned() } else { String::new() };
    for (kind, reason, message) in [(PLACEMENT, placement.0, placement.1), (UNENCRYPTED, "TlsOff", open)] {
        match message.is_empty() {
            true => status.conditions.retain(|condition| condition.type_ != kind),
            false => set(&mut status.conditions, kind, yes(reason, message), status.observed_generation, view.now),
        }
    }
}

/// The hosts of these members.
fn on<'a>(members: &[&Member<'a>]) -> Vec<&'a str> {
    members.iter().map(|one| one.place.host.as_str()).collect()
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn member(view: &View, member: &Member, before: &[ClusterMemberStatus]) -> ClusterMemberStatus {
    let (report, node) = (member.live(), member.running());
    let role = match node {
        None => RedisRole::None,
        Some(node) if node.own.master.is_some() => RedisRole::Replica,
        Some(_) => RedisRole::Master,
    };
    let link = report.and_then(|report| report.link.as_ref());
    let state = match report.map(|report| report.server) {
        None => absent_state(member.container_known, member.container.map(|container| container.state)),
        Some(Server::Stopped | Server::Stopping) => RedisState::Stopped,
        Some(Server::Starting) => RedisState::Starting,
        Some(Server::Loading) => RedisState::Loading,
        Some(Server::Hung) => RedisState::Hung,
        Some(Server::Running) => match role {
            RedisRole::None => RedisState::Starting,
            // After its start a master takes nothing for two seconds, until it has heard of the others.
            RedisRole::Master if node.is_some_and(|node| !node.ok) => RedisState::ReadOnly,
            RedisRole::Master => RedisState::Running,
            RedisRole::Replica if in_sync(view, member) => RedisState::Synced,
            RedisRole::Replica if link.is_some_and(|link| link.syncing) => RedisState::Copying,
            RedisRole::Replica => RedisState::Disconnected,
        },
    };
    let last = before.iter().find(|one| one.name == member.name());
    let id = member.id();
    let paused = member.container.filter(|container| report.is_none() && container.state == ContainerState::Paused);
    ClusterMemberStatus {
        name: member.name().to_owned(),
        host: member.place.host.clone(),
        address: member.address().map(|address| address.to_string()),
        node: id.map(str::to_owned),
        role,
        master: member.master().map(|id| view.by_id(id).map_or(id, |one| one.name()).to_owned()),
        state,
        slots: id.map_or(0, |id| count(view.slots.at(id).len())),
        keys: report.map_or(last.map_or(0, |last| last.keys), |report| report.keys),
        offset: report.map_or(last.map_or(0, |last| last.offset), |report| report.offset),
        used_memory: report.map_or(0, |report| report.usage.memory),
        message: match paused {
            Some(container) => Some(format!("the container is paused: docker unpause {}", container.name)),
            None => report.and_then(|report| report.problem.clone()),
        },
    }
}
