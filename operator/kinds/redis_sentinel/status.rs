//! Renders the status: phase, members, Sentinels, endpoints, conditions. Pure; decides nothing.

use std::collections::BTreeSet;

use super::certificates::holdings;
use super::view::{Member, View};
use super::{Observed, network_name};
use super::{recovery, sentinels};
use crate::api::conditions::{no, set, yes};
use crate::api::endpoints::{Endpoint, EndpointRole, EndpointSet, EndpointState};
use crate::api::placement::Network;
use crate::api::postgres_status::ClusterPhase;
use crate::api::redis_backup::RedisBackupStatus;
use crate::api::redis_sentinel::{
    RedisDecisions, RedisEndpoints, RedisMemberStatus, RedisRole, RedisSentinelStatus, RedisStage, RedisState,
    SentinelStatus,
};
use crate::engine::ContainerState;
use crate::kinds::certificates::due;
use crate::kinds::containers;
use crate::kinds::redis_places::{self, PLACEMENT, UNENCRYPTED};
use crate::kinds::redis_reports::absent_state;
use crate::supervisor::redis::wire::{Report, Role, Server};

/// The condition of members whose reports break a bound.
const REFUSED: &str = "ReportRefused";
/// The condition of certificates with a problem.
const CERTIFICATES: &str = "CertificateProblem";
/// The condition of a store that cannot be opened.
const STORE: &str = "BackupStoreProblem";
/// The condition about a spec that is accepted and unwise.
const WARNING: &str = "Warning";

/// Fills in the part of the status that no planner reads back.
pub fn render(
    view: &View,
    observed: &Observed,
    status: &mut RedisSentinelStatus,
    decisions: &RedisDecisions,
    blocker: Option<(&'static str, String)>,
    paused: bool,
) {
    let spec = &view.object.spec;
    let problem = containers::problem(&observed.work);
    status.observed_generation = view.object.metadata.generation.unwrap_or_default();
    status.epoch = decisions.epoch;
    status.config_epoch = decisions.config_epoch;
    status.master = decisions.master.clone();
    let master_offset = view.member(decisions.master.as_deref().unwrap_or_default()).and_then(Member::serving);
    let master_offset = master_offset.map(|seen| seen.offset);
    let before = std::mem::take(&mut status.members);
    status.members = view.members.iter().map(|one| member(view, decisions, one, master_offset, &before)).collect();
    status.sentinels = view.sentinels.iter().map(|member| sentinel(view, member)).collect();
    status.ready_replicas = count(status.members.iter().filter(|one| serves(one)).count());
    status.ready_sentinels = count(status.sentinels.iter().filter(|one| ready(one)).count());
    status.stale_members = sentinels::all_stale(view).iter().map(ToString::to_string).collect();
    status.endpoints = endpoints(view, status);
    status.endpoint_set = Some(endpoint_set(view, decisions, status));
    status.possible_loss = Some(possible_loss(view));
    recovery::render(view, status, decisions);
    let archive = spec.backup.as_ref().and_then(|backup| backup.archive(&view.object.metadata));
    status.backup = archive.map(|archive| RedisBackupStatus { archive });
    let serving = decisions.stage == RedisStage::Steady && !status.endpoints.master.is_empty();
    let whole = status.ready_replicas == spec.replicas
        && status.members.len() == spec.replicas as usize
        && status.ready_sentinels == spec.sentinels
        && status.sentinels.len() == spec.sentinels as usize;
    status.phase = if paused { ClusterPhase::Paused } else { phase(decisions, serving, whole) };
    let name = status.master.clone().unwrap_or_default();
    let ready = match (&blocker, serving) {
        (_, true) if whole => yes("Serving", format!("{name} takes writes; all members and Sentinels are ready")),
        (_, true) => no("MembersNotReady", not_ready(status)),
        (Some((reason, message)), false) => no(reason, message.clone()),
        (None, false) => match &problem {
            Some((reason, message)) => no(reason, message.clone()),
            None => {
                no(if decisions.stage == RedisStage::Steady { "NotWritable" } else { "Starting" }, not_writable(view))
            }
        },
    };
    let beside = match &problem {
        Some((reason, message)) => Some(no(reason, message.clone())),
        None => containers::progress(&observed.work).map(|(reason, message)| yes(reason, message)),
    };
    let waits = status.members.iter().find(|one| !one.pending_restart.is_empty());
    let progressing = match (&blocker, beside, waits) {
        _ if paused => no("Paused", "reconciliation is paused by annotation"),
        (Some((reason, message)), ..) => yes(reason, message.clone()),
        (_, Some(beside), _) => beside,
        _ if !whole => yes("MembersNotReady", not_ready(status)),
        (_, _, Some(one)) => {
            yes("PendingRestart", format!("{} waits for a restart: {}", one.name, one.pending_restart.join(", ")))
        }
        _ if !status.stale_members.is_empty() => yes("StaleMembers", stale(status)),
        _ => no("Settled", "everything is as declared"),
    };
    let starting = decisions.stage != RedisStage::Steady;
    let refused = view.members.iter().find_map(|one| {
        let refused = one.redis()?.config_errors.first()?.clone();
        Some(("DirectiveRefused", format!("{} refuses a directive and keeps the former value: {refused}", one.name())))
    });
    let degraded = problem
        .clone()
        .or_else(|| blocker.clone())
        .or_else(|| (!whole).then(|| ("MembersNotReady", not_ready(status))));
    let degraded = match degraded.filter(|_| !starting).or(refused) {
        Some((reason, message)) => yes(reason, message),
        None if !status.stale_members.is_empty() => yes("StaleMembers", stale(status)),
        None => no("Redundant", status.possible_loss.clone().unwrap_or_default()),
    };
    for (kind, condition) in [("Ready", ready), ("Progressing", progressing), ("Degraded", degraded)] {
        set(&mut status.conditions, kind, condition, status.observed_generation, view.now);
    }
    let (reason, message) = observed.archives.problem.clone().unwrap_or_default();
    tell(view, status, STORE, reason, message);
    let warnings = spec.warnings();
    tell(view, status, WARNING, "Unwise", warnings.join("; "));
    let told: Vec<String> = observed.refused.iter().map(|(member, why)| format!("{member}: {why}")).collect();
    let told = match told.is_empty() {
        true => String::new(),
        false => format!("a report is refused, and this member counts as not reachable: {}", told.join("; ")),
    };
    tell(view, status, REFUSED, "OutOfBounds", told);
    let Some(seen) = &observed.certificates else {
        status.certificates = None;
        return tell(view, status, CERTIFICATES, "", String::new());
    };
    status.certificates = due::status(view.object, seen).or(status.certificates.take());
    let (reason, message) = due::problem(&holdings(view), seen, view.now).unwrap_or_default();
    tell(view, status, CERTIFICATES, reason, message);
}

/// What is told about the places of the members, and how many losses are tolerated now. `problem`: why a member has no place, or
/// stays in one that it should leave.
pub fn places(view: &View, status: &mut RedisSentinelStatus, problem: Option<(&'static str, String)>) {
    let spec = &view.object.spec;
    let ready = |name: &str| status.members.iter().any(|one| one.name == name && serves(one));
    let data: Vec<&Member> = view.members.iter().filter(|one| ready(one.name())).collect();
    let watching = |name: &str| status.sentinels.iter().any(|one| one.name == name && one.quorum_ok);
    let watchers: Vec<&Member> = view.sentinels.iter().filter(|one| watching(one.name())).collect();
    // Enough data members for writes, and a majority of Sentinels that also is a quorum.
    let spare_data = count(data.len()).saturating_sub(1 + spec.min_replicas_to_write());
    let needed = (view.voters() / 2 + 1).max(spec.quorum() as usize);
    let spare_watchers = count(watchers.len().saturating_sub(needed));
    let groups = [(spare_data, on(&data)), (spare_watchers, on(&watchers))];
    status.tolerated_losses = Some(redis_places::tolerated(&groups));
    let on_hosts = view.before.network == Network::Host;
    let shared = || {
        let [(data, of_data), (watchers, of_watchers)] = &groups;
        let elections = redis_places::fateful(*watchers, of_watchers)
            .map(|(host, number)| format!("the loss of host {host} stops elections: it has {number} of the Sentinels"));
        let writes = redis_places::fateful(*data, of_data)
            .map(|(host, number)| format!("the loss of host {host} stops writes: it has {number} of the data members"));
        Some(("SharedFate", elections.or(writes)?))
    };
    let (reason, message) = problem.or_else(|| shared().filter(|_| on_hosts)).unwrap_or_default();
    tell(view, status, PLACEMENT, reason, message);
    let open = "data, passwords and the words of the Sentinels pass between hosts without encryption: from clients and replicas to \
                the data members, and between Sentinels and members; set spec.tls.enabled: true, or use a network that \
                nobody else reads";
    let open = if on_hosts && !spec.tls.enabled { open.to_owned() } else { String::new() };
    tell(view, status, UNENCRYPTED, "TlsOff", open);
}

/// The hosts of these members.
fn on<'a>(members: &[&Member<'a>]) -> Vec<&'a str> {
    members.iter().map(|one| one.place.host.as_str()).collect()
}

/// A condition for as long as there is something to tell.
fn tell(view: &View, status: &mut RedisSentinelStatus, kind: &str, reason: &str, message: String) {
    match message.is_empty() {
        true => status.conditions.retain(|condition| condition.type_ != kind),
        false => set(&mut status.conditions, kind, yes(reason, message), status.observed_generation, view.now),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn phase(decisions: &RedisDecisions, serving: bool, whole: bool) -> ClusterPhase {
    let change = decisions.change.as_ref();
    match decisions.stage {
        RedisStage::New if decisions.recovery.is_some() => ClusterPhase::Recovering,
        RedisStage::New => ClusterPhase::Pending,
        RedisStage::Founding => ClusterPhase::Bootstrapping,
        RedisStage::Steady if change.is_some_and(|change| change.request.is_some()) => ClusterPhase::SwitchingOver,
        RedisStage::Steady if change.is_some() => ClusterPhase::FailingOver,
        RedisStage::Steady if serving && whole => ClusterPhase::Healthy,
        RedisStage::Steady if serving => ClusterPhase::Degraded,
        RedisStage::Steady => ClusterPhase::Unavailable,
    }
}

fn serves(member: &RedisMemberStatus) -> bool {
    matches!(member.state, RedisState::Running | RedisState::Synced)
}

fn ready(sentinel: &SentinelStatus) -> bool {
    sentinel.state == RedisState::Running && sentinel.message.is_none()
}

fn not_ready(status: &RedisSentinelStatus) -> String {
    let told = |name: &str, state: RedisState, message: &Option<String>| match message {
        Some(message) => format!("{name} is {state}: {message}"),
        None => format!("{name} is {state}"),
    };
    let members = status.members.iter().filter(|one| !serves(one));
    let sentinels = status.sentinels.iter().filter(|one| !ready(one));
    let words: Vec<String> = members
        .map(|one| told(&one.name, one.state, &one.message))
        .chain(sentinels.map(|one| told(&one.name, one.state, &one.message)))
        .collect();
    if words.is_empty() { "members are being added or removed".into() } else { words.join("; ") }
}

/// Why no new client can write.
fn not_writable(view: &View) -> String {
    let Some(master) = view.master() else { return "no member is master yet".to_owned() };
    match master.serving() {
        None => format!("{} does not answer", master.name()),
        Some(seen) if seen.role != Some(Role::Master) => format!("{} is no master", master.name()),
        Some(_) => match master.live().and_then(|report| report.problem.clone()) {
            Some(problem) => format!("{}: {problem}", master.name()),
            None => format!("{}: no new client was seen to write", master.name()),
        },
    }
}

fn stale(status: &RedisSentinelStatus) -> String {
    let stale = status.stale_members.join(", ");
    format!(
        "the Sentinels still know {stale}, which no longer exist: they forget them one after the other, when all else is well"
    )
}

/// What a failover can lose now.
fn possible_loss(view: &View) -> String {
    let spec = &view.object.spec;
    let (least, lag) = (spec.min_replicas_to_write(), spec.min_replicas_max_lag);
    match least {
        _ if spec.replicas == 1 => "a single member: no replica, no failover".to_owned(),
        0 => "replication is asynchronous: a failover can lose what was acknowledged and no replica had received; nothing bounds it, because the master takes writes without replicas (minReplicasToWrite is 0)".to_owned(),
        _ => format!(
            "replication is asynchronous: a failover can lose what was acknowledged and the new master had not received; the master takes writes only while {least} replica acknowledged within {lag}"
        ),
    }
}

fn server_state(report: &Report) -> Option<RedisState> {
    Some(match report.server {
        Server::Running => return None,
        Server::Stopped | Server::Stopping => RedisState::Stopped,
        Server::Starting => RedisState::Starting,
        Server::Loading => RedisState::Loading,
        Server::Hung => RedisState::Hung,
    })
}

fn member(
    view: &View,
    decisions: &RedisDecisions,
    member: &Member,
    master_offset: Option<u64>,
    before: &[RedisMemberStatus],
) -> RedisMemberStatus {
    let (report, seen) = (member.live(), member.redis());
    let leads = decisions.master.as_deref() == Some(member.name());
    let role = match member.role() {
        Some(Role::Master) => RedisRole::Master,
        Some(Role::Replica) => RedisRole::Replica,
        None => RedisRole::None,
    };
    let link = seen.and_then(|seen| seen.link.as_ref());
    let state = match report {
        None => absent_state(member.container_known, member.container.map(|container| container.state)),
        Some(report) => server_state(report).unwrap_or_else(|| match (role, link) {
            (RedisRole::Master, _) if leads && seen.is_some_and(|seen| seen.writable == Some(true)) => {
                RedisState::Running
            }
            (RedisRole::Master, _) => RedisState::ReadOnly,
            (_, Some(link)) if link.syncing => RedisState::Copying,
            // In sync with a server that is not the master is not in sync.
            (_, Some(link))
                if link.up
                    && view.at(link.master).is_some_and(|one| decisions.master.as_deref() == Some(one.name())) =>
            {
                RedisState::Synced
            }
            _ => RedisState::Disconnected,
        }),
    };
    let last = before.iter().find(|one| one.name == member.name());
    let usage = seen.map(|seen| seen.usage.clone()).unwrap_or_default();
    let offset = seen.filter(|seen| seen.offset > 0).map(|seen| seen.offset);
    let offset = offset.or(last.map(|last| last.offset)).unwrap_or(0);
    RedisMemberStatus {
        name: member.name().to_owned(),
        host: member.place.host.clone(),
        address: member.address().map(|address| address.to_string()),
        role,
        state,
        offset,
        lag_bytes: master_offset.filter(|_| role == RedisRole::Replica).map(|master| master.saturating_sub(offset)),
        used_memory: usage.memory,
        max_memory: usage.max_memory,
        evicted_keys: usage.evicted,
        fragmentation: (usage.fragmentation_percent > 0).then(|| f64::from(usage.fragmentation_percent) / 100.0),
        pending_restart: seen.map(|seen| seen.pending_restart.clone()).unwrap_or_default(),
        message: message(member, report),
    }
}

fn message(member: &Member, report: Option<&Report>) -> Option<String> {
    let Some(report) = report else {
        let paused = member.container.filter(|container| container.state == ContainerState::Paused);
        return paused.map(|container| format!("the container is paused: docker unpause {}", container.name));
    };
    let refused = report.redis.as_ref().and_then(|seen| seen.config_errors.first());
    let alone = report.redis.as_ref().and_then(|seen| seen.alone.clone());
    report.problem.clone().or_else(|| refused.map(|error| format!("directive refused: {error}"))).or(alone)
}

fn sentinel(view: &View, member: &Member) -> SentinelStatus {
    let report = member.live();
    let state = match report {
        None => absent_state(member.container_known, member.container.map(|container| container.state)),
        Some(report) => server_state(report).unwrap_or(RedisState::Running),
    };
    let seen = member.sentinel();
    let master = seen.and_then(|seen| seen.master.as_ref());
    let problem = seen.and_then(|seen| {
        if seen.tilt {
            return Some("it takes no decision for 30 s, because its clock jumped".to_owned());
        }
        let Some(master) = &seen.master else { return Some("it does not know the master yet".to_owned()) };
        if view.at(master.address).map(|one| one.name()) != view.before.master.as_deref() {
            return Some(format!("it takes {} for the master", master.address));
        }
        if let Some(why) = &seen.no_quorum {
            return Some(why.clone());
        }
        (!sentinels::knows_all(view, seen))
            .then(|| "it does not know every member and Sentinel, or takes one for down".to_owned())
    });
    SentinelStatus {
        name: member.name().to_owned(),
        host: member.place.host.clone(),
        address: member.address().map(|address| address.to_string()),
        state,
        master: master.map(|master| master.address.to_string()),
        config_epoch: master.map_or(0, |master| master.config_epoch),
        known_replicas: seen.map_or(0, |seen| count(seen.replicas.len())),
        known_sentinels: seen.map_or(0, |seen| count(seen.sentinels.len())),
        quorum_ok: seen.is_some_and(|seen| seen.master.is_some() && seen.no_quorum.is_none()),
        message: message(member, report).or(problem),
    }
}

fn endpoints(view: &View, status: &RedisSentinelStatus) -> RedisEndpoints {
    let of = |state: RedisState| {
        let members = status.members.iter().filter(move |one| one.state == state);
        members.filter_map(|one| one.address.clone()).collect::<Vec<_>>()
    };
    let sentinels = view.sentinels.iter().filter(|one| !one.leaving).filter_map(Member::address);
    RedisEndpoints {
        sentinels: sentinels.map(|address| address.to_string()).collect(),
        master: of(RedisState::Running),
        replicas: of(RedisState::Synced),
    }
}

/// What load balancers read. The writer is the recorded master; there is none from a proven death until another is master.
fn endpoint_set(view: &View, decisions: &RedisDecisions, status: &RedisSentinelStatus) -> EndpointSet {
    let failing = decisions.change.as_ref().is_some_and(|change| change.request.is_none());
    let endpoint = |(member, shown): (&Member, &RedisMemberStatus)| {
        let leads = decisions.master.as_deref() == Some(member.name());
        let mut roles = BTreeSet::new();
        if leads && !failing {
            roles.insert(EndpointRole::Primary);
        }
        // Reads go to the master while no replica is in sync.
        if !leads || status.endpoints.replicas.is_empty() {
            roles.insert(EndpointRole::Replica);
        }
        // One that another takes the place of serves until that one does.
        let by = decisions.replacement.as_ref().filter(|one| one.member == member.name()).map(|one| &one.by);
        let needed = by.is_some_and(|by| !view.follows(by));
        let state = match shown.state {
            _ if member.leaving && !leads && !needed => EndpointState::Leaving,
            // A master that refuses writes for a moment stays the writer: its sessions are not cut for that.
            RedisState::Running | RedisState::ReadOnly if leads && !failing => EndpointState::Serving,
            RedisState::Synced if !leads => EndpointState::Serving,
            RedisState::Unknown | RedisState::Paused => EndpointState::Unknown,
            _ => EndpointState::Out,
        };
        Endpoint {
            published: Vec::new(),
            name: member.name().to_owned(),
            host: member.place.host.clone(),
            address: member.place.address,
            port: Some(member.place.port),
            roles,
            state,
        }
    };
    // Addresses of hosts are reached from everywhere. Members on a Docker network keep its name until the last has left it.
    let on_hosts = view.members.iter().all(|member| member.place.network == Network::Host);
    EndpointSet {
        network: if on_hosts { String::new() } else { network_name(view.object) },
        epoch: decisions.epoch,
        endpoints: view.members.iter().zip(&status.members).map(endpoint).collect(),
    }
}
