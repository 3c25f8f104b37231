//! Renders the status of a cluster: phase, instances, endpoints, conditions. Pure; decides nothing.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use jiff::Timestamp;

use super::certificates::holdings;
use super::collations::WOULD_CHANGE;
use super::decided::Blocker;
use super::quorum::promises_needed;
use super::routing;
use super::view::{ClusterView, Member};
use crate::api::conditions::{no, set, yes};
use crate::api::object::Object as _;
use crate::api::postgres_cluster::{
    ClusterPhase, Decisions, DurabilityMode, Endpoints, InstanceRole, InstanceState, InstanceStatus, MemberPlace,
    Network, PostgresClusterStatus, Quorum, Stage, ToleratedLosses,
};
use crate::api::postgres_tls::ClientTls;
use crate::engine::ContainerState;
use crate::kinds::certificates::due::{self, CertificatesSeen};
use crate::kinds::containers::{self, WorkSeen, networks};
use crate::supervisor::wire::{JobKind, Notice, Postgres, Report};

/// The reason if the primary's gate is open and no new client can write.
const NOT_WRITABLE: &str = "NotWritable";
/// The condition of members whose reports break a bound.
const REFUSED: &str = "ReportRefused";

/// Fills in the part of the status that no planner reads back.
pub fn render(
    view: &ClusterView,
    status: &mut PostgresClusterStatus,
    decisions: &Decisions,
    blocker: Option<Blocker>,
    paused: bool,
    work: &WorkSeen,
) {
    let problem = containers::problem(work);
    status.observed_generation = view.object.metadata.generation.unwrap_or_default();
    status.term = decisions.term;
    status.primary = decisions.leader_name().map(str::to_owned);
    status.instances = view.members.iter().map(|member| instance(view, decisions, member)).collect();
    status.ready_instances = status.instances.iter().filter(|instance| serves(view, instance)).count() as u32;
    let leader_report = decisions.leader_name().and_then(|name| view.member(name)?.live());
    status.timeline = leader_report.and_then(|report| report.timeline).or(status.timeline);
    status.endpoints = endpoints(view, decisions);
    let hosts = decisions.members.iter().map(|place| place.host.as_str());
    status.tolerated_losses = Some(ToleratedLosses::of(tolerated(view, decisions), hosts));
    status.endpoint_set = Some(routing::endpoint_set(view.object, decisions, &status.instances));
    let wanted = view.object.spec.instances;
    let serving = decisions.stage == Stage::Steady && !status.endpoints.read_write.is_empty();
    let whole = status.ready_instances >= wanted && status.instances.len() == wanted as usize;
    let not_writable = leader_report.filter(|_| serving).and_then(|report| not_writable(view, report));
    status.phase =
        if paused { ClusterPhase::Paused } else { phase(decisions, serving, whole && not_writable.is_none(), status) };
    let ready = match (&blocker, serving) {
        (Some(blocker), _) if !serving || blocker.reason == "CommitsWait" => {
            no(blocker.reason, blocker.message.clone())
        }
        (_, false) => match &problem {
            Some((reason, message)) => no(reason, message.clone()),
            None => no("Starting", "nothing takes writes yet"),
        },
        (_, true) if not_writable.is_some() => no(NOT_WRITABLE, not_writable.clone().unwrap_or_default()),
        (_, true) if !whole => no("InstancesNotReady", not_ready(view, status)),
        _ => yes(
            "Serving",
            format!("{} takes writes; all instances are ready", status.primary.as_deref().unwrap_or_default()),
        ),
    };
    let beside = match &problem {
        Some((reason, message)) => Some(no(reason, message.clone())),
        None => containers::progress(work).map(|(reason, message)| yes(reason, message)),
    };
    let restarts = status.instances.iter().find(|instance| !instance.pending_restart.is_empty());
    let progressing = match (&blocker, beside, restarts) {
        _ if paused => no("Paused", "reconciliation is paused by annotation"),
        (Some(blocker), ..) if !serving => yes(blocker.reason, blocker.message.clone()),
        (Some(blocker), ..) if blocker.reason == WOULD_CHANGE => no(blocker.reason, blocker.message.clone()),
        (_, Some(beside), _) => beside,
        _ if !whole => yes("InstancesNotReady", not_ready(view, status)),
        (_, None, Some(instance)) => {
            let settings = instance.pending_restart.join(", ");
            yes("PendingRestart", format!("{} waits for a restart: {settings}", instance.name))
        }
        (_, None, None) => no("Settled", "everything is as declared"),
    };
    let not_writable = not_writable.map(|message| (NOT_WRITABLE, message));
    let degraded = match problem.or(not_writable).or_else(|| degraded(view, decisions, status, blocker.as_ref(), whole))
    {
        Some((reason, message)) => yes(reason, message),
        None => no("Redundant", redundancy(view, decisions)),
    };
    for (kind, condition) in [("Ready", ready), ("Progressing", progressing), ("Degraded", degraded)] {
        set(&mut status.conditions, kind, condition, status.observed_generation, view.now);
    }
    notices(view, status);
}

/// How many members may be lost, whichever they are, so that the others elect a primary by themselves and it takes writes.
fn tolerated(view: &ClusterView, decisions: &Decisions) -> u32 {
    let Quorum { voters, w } = &decisions.election;
    let voters = u32::try_from(voters.len()).unwrap_or(u32::MAX);
    match view.object.spec.durability.mode {
        _ if decisions.stage != Stage::Steady => 0,
        DurabilityMode::Required => (*w).min(voters.saturating_sub(*w)),
        DurabilityMode::Preferred if *w > 0 => *w,
        // The last primary is known to be gone, or silent for so long that its gate is shut; one standby is enough.
        DurabilityMode::Preferred | DurabilityMode::Async => voters,
    }
}

/// The condition of members whose place is a problem.
const PLACEMENT: &str = "PlacementProblem";
/// The condition of clients that may cross hosts without TLS.
const UNENCRYPTED: &str = "UnencryptedClients";

/// What is told about the places of the members.
pub fn places(view: &ClusterView, status: &mut PostgresClusterStatus, problem: Option<(&'static str, String)>) {
    let decisions = view.before;
    let on_hosts = decisions.network == Network::Host;
    let shared = || {
        let losses = status.tolerated_losses.filter(|losses| losses.members > 0 && losses.hosts == 0)?;
        let on = |host: &str| decisions.members.iter().filter(|place| place.host == host).count() as u32;
        let host = decisions.members.iter().map(|place| &place.host).find(|host| on(host) > losses.members)?;
        Some(("SharedFate", format!("the loss of host {host} stops elections: it has {} of the instances", on(host))))
    };
    let problem = problem.or_else(|| shared().filter(|_| on_hosts));
    let open = on_hosts && view.object.spec.tls.clients == ClientTls::Optional;
    let open = open.then(|| {
        let message = "clients on other hosts may connect without TLS; set spec.tls.clients: required";
        ("TlsOptional", message.to_owned())
    });
    for (kind, told) in [(PLACEMENT, problem), (UNENCRYPTED, open)] {
        match told {
            Some((reason, message)) => {
                set(&mut status.conditions, kind, yes(reason, message), status.observed_generation, view.now);
            }
            None => status.conditions.retain(|condition| condition.type_ != kind),
        }
    }
}

/// The condition of certificates with a problem.
const CERTIFICATES: &str = "CertificateProblem";

/// What is known of the certificates, and a condition for as long as there is a problem.
pub fn certificates(view: &ClusterView, status: &mut PostgresClusterStatus, seen: Option<&CertificatesSeen>) {
    let Some(seen) = seen else { return };
    status.certificates = due::status(view.object, seen).or(status.certificates.take());
    match due::problem(&holdings(view), seen, view.now) {
        Some((reason, message)) => {
            set(&mut status.conditions, CERTIFICATES, yes(reason, message), status.observed_generation, view.now);
        }
        None => status.conditions.retain(|condition| condition.type_ != CERTIFICATES),
    }
}

/// One condition for each type of notice, for as long as an instance has it.
fn notices(view: &ClusterView, status: &mut PostgresClusterStatus) {
    for kind in Notice::TYPES {
        let words = |member: &Member| {
            let mine = member.live()?.notices.iter().filter(|notice| notice.type_ == kind);
            let mine: Vec<_> = mine.map(|notice| notice.message.as_str()).collect();
            (!mine.is_empty()).then(|| format!("{}: {}", member.place.name, mine.join("; ")))
        };
        let told: Vec<String> = view.members.iter().filter_map(words).collect();
        if told.is_empty() {
            status.conditions.retain(|condition| condition.type_ != kind);
        } else {
            let condition = yes("Noticed", told.join("; "));
            set(&mut status.conditions, kind, condition, status.observed_generation, view.now);
        }
    }
}

/// One condition for the members whose reports are refused.
pub fn refusals(refused: &BTreeMap<String, String>, status: &mut PostgresClusterStatus, now: Timestamp) {
    let told: Vec<String> = refused.iter().map(|(member, why)| format!("{member}: {why}")).collect();
    if told.is_empty() {
        return status.conditions.retain(|condition| condition.type_ != REFUSED);
    }
    let message = format!("a report is refused, and this instance counts as not reachable: {}", told.join("; "));
    set(&mut status.conditions, REFUSED, yes("OutOfBounds", message), status.observed_generation, now);
}

fn phase(decisions: &Decisions, serving: bool, whole: bool, status: &PostgresClusterStatus) -> ClusterPhase {
    match decisions.stage {
        Stage::Steady if serving && whole => ClusterPhase::Healthy,
        Stage::Steady if serving => ClusterPhase::Degraded,
        Stage::Steady => ClusterPhase::Unavailable,
        Stage::New => ClusterPhase::Pending,
        _ if decisions.switchover.is_some() => ClusterPhase::SwitchingOver,
        Stage::Establishing if status.last_failover.is_none() => ClusterPhase::Bootstrapping,
        _ => ClusterPhase::FailingOver,
    }
}

/// Why no new client can write to this primary now, and why nothing more is done about it; `None` if one can, or if its
/// supervisor is of a version that does not try.
fn not_writable(view: &ClusterView, report: &Report) -> Option<String> {
    let proof = report.proof.as_ref()?;
    let name = view.before.leader_name().unwrap_or_default();
    let Some(failing) = &proof.failing else {
        return proof.proven_ms.is_none().then(|| format!("{name}: no new session has written yet"));
    };
    let (able, needed) = (view.able().len(), promises_needed(&view.before.election));
    let why = match proof.hung {
        false => "the server shows signs of life, so no failover is made for this".to_owned(),
        true if view.before.election.voters.is_empty() => "there is no standby that could take over".to_owned(),
        true => format!("{able} of the {needed} standbys that a failover needs can be reached"),
    };
    Some(format!("{name}: {failing}; {why}"))
}

/// Whether the instance takes writes, or streams, and is on its network.
fn serves(view: &ClusterView, instance: &InstanceStatus) -> bool {
    let connected = view.member(&instance.name).is_none_or(|member| member.lost.is_none());
    connected && matches!(instance.state, InstanceState::Running | InstanceState::Streaming)
}

/// The first running container that is not on its network.
fn network_lost(view: &ClusterView) -> Option<(&'static str, String)> {
    let member = view.members.iter().find(|member| member.lost.is_some())?;
    Some(("NetworkLost", format!("{}: {}", member.place.name, lost(view, member)?)))
}

/// What is wrong with the network of the member, and what is done about it.
fn lost(view: &ClusterView, member: &Member) -> Option<String> {
    Some(networks::in_words(&member.lost.as_ref()?.why, view.object.want()))
}

fn not_ready(view: &ClusterView, status: &PostgresClusterStatus) -> String {
    let words: Vec<_> = status
        .instances
        .iter()
        .filter(|instance| !serves(view, instance))
        .map(|instance| match &instance.message {
            Some(message) => format!("{} is {}: {message}", instance.name, instance.state),
            None => format!("{} is {}", instance.name, instance.state),
        })
        .collect();
    if words.is_empty() { "instances are being added or removed".into() } else { words.join("; ") }
}

fn degraded(
    view: &ClusterView,
    decisions: &Decisions,
    status: &PostgresClusterStatus,
    blocker: Option<&Blocker>,
    whole: bool,
) -> Option<(&'static str, String)> {
    let starting = decisions.stage == Stage::New
        || decisions.stage == Stage::Establishing && decisions.history.is_empty() && status.last_failover.is_none();
    let spec = &view.object.spec;
    match blocker {
        _ if starting => None,
        Some(blocker) => Some((blocker.reason, blocker.message.clone())),
        None if network_lost(view).is_some() => network_lost(view),
        None if !whole => Some(("InstancesNotReady", not_ready(view, status))),
        None if decisions.commit.w < spec.synchronous_replicas() => Some((
            "DurabilityReduced",
            format!(
                "commits wait for {} instead of {} standbys: a failover may lose acknowledged commits",
                decisions.commit.w,
                spec.synchronous_replicas()
            ),
        )),
        None => view.members.iter().find_map(|member| {
            let report = member.live()?;
            let refused = report.setting_errors.first()?;
            Some(("SettingRefused", format!("{} refuses a setting: {refused}", member.place.name)))
        }),
    }
}

/// The current durability promise of the cluster.
fn redundancy(view: &ClusterView, decisions: &Decisions) -> String {
    let spec = &view.object.spec;
    match spec.durability.mode {
        _ if spec.instances == 1 => "a single instance: no standby, no failover".into(),
        DurabilityMode::Async => "async: commits wait for no standby; a failover may lose the last ones".into(),
        _ => format!(
            "a commit is on disk at {} of {} standbys before it is acknowledged",
            decisions.commit.w,
            decisions.commit.voters.len()
        ),
    }
}

fn instance(view: &ClusterView, decisions: &Decisions, member: &Member) -> InstanceStatus {
    let name = member.place.name.clone();
    let leads = decisions.is_leader(&name);
    let report = member.live();
    let replica = report.and_then(|report| replica(view, decisions, report));
    let synchronous = decisions.commit.w > 0 && decisions.commit.voters.iter().any(|voter| voter.member == name);
    let (role, state) = match report {
        None => (InstanceRole::None, absent_state(member)),
        Some(report) => state(report, leads, replica.is_some_and(|(streaming, _)| streaming)),
    };
    let mib = |bytes: u64| bytes >> 20;
    InstanceStatus {
        name,
        host: member.place.host.clone(),
        role,
        state,
        address: member.place.address.map(|address| format!("{address}:{}", member.place.listens_on())),
        lag_mib: replica.filter(|_| !leads).map(|(_, lag)| mib(lag)),
        synchronous,
        pending_restart: report.map(|report| report.pending_restart.clone()).unwrap_or_default(),
        message: lost(view, member).or_else(|| message(member, report)),
    }
}

fn absent_state(member: &Member) -> InstanceState {
    match member.container.map(|container| container.state) {
        _ if !member.container_known => InstanceState::Unknown,
        None => InstanceState::Absent,
        Some(ContainerState::Paused) => InstanceState::Paused,
        Some(ContainerState::Running | ContainerState::Restarting) => InstanceState::Unknown,
        Some(ContainerState::Created) => InstanceState::Created,
        Some(ContainerState::Exited | ContainerState::Dead) => InstanceState::Stopped,
    }
}

fn state(report: &Report, leads: bool, streaming: bool) -> (InstanceRole, InstanceState) {
    let job = report.job.as_ref().filter(|job| job.running).map(|job| match job.kind {
        JobKind::Init => InstanceState::Initialising,
        JobKind::Clone => InstanceState::Cloning,
        JobKind::Recover => InstanceState::Recovering,
        JobKind::Rewind => InstanceState::Rewinding,
        JobKind::Restore => InstanceState::Restoring,
    });
    match (report.postgres, job) {
        (_, Some(job)) => (InstanceRole::None, job),
        (Postgres::Stopped, _) => (InstanceRole::None, InstanceState::Stopped),
        (Postgres::Starting, _) => (InstanceRole::None, InstanceState::Starting),
        (Postgres::Stopping, _) => (InstanceRole::None, InstanceState::Stopping),
        (Postgres::Primary, _) if leads && report.gate_open => (InstanceRole::Primary, InstanceState::Running),
        (Postgres::Primary, _) => (InstanceRole::Primary, InstanceState::Gated),
        (Postgres::Standby, _) if leads => (InstanceRole::Standby, InstanceState::Promoting),
        (Postgres::Standby, _) if streaming => (InstanceRole::Standby, InstanceState::Streaming),
        (Postgres::Standby, _) => (InstanceRole::Standby, InstanceState::CatchingUp),
    }
}

fn message(member: &Member, report: Option<&Report>) -> Option<String> {
    let Some(report) = report else {
        let paused = member.container.filter(|container| container.state == ContainerState::Paused);
        return paused.map(|container| format!("the container is paused: docker unpause {}", container.name));
    };
    let failed = report.job.as_ref().and_then(|job| job.error.clone());
    let refused = report.setting_errors.first().map(|error| format!("setting refused: {error}"));
    let waits = (report.secures && member.place.peer.is_none())
        .then(|| "it has no certificates yet, or is not on the network of the members: it does not replicate".into());
    failed.or_else(|| report.problem.clone()).or(refused).or(waits)
}

/// Whether the leader reports that this instance streams, and how many bytes it is behind.
fn replica(view: &ClusterView, decisions: &Decisions, report: &Report) -> Option<(bool, u64)> {
    let leading = view.member(decisions.leader_name()?)?.live()?.leading.as_ref()?;
    let replica = leading.replicas.iter().find(|replica| Some(&replica.incarnation) == report.incarnation.as_ref())?;
    Some((replica.streaming, replica.lag_bytes))
}

/// The address of a member from its Docker host: the published port, else its address on the network.
fn endpoint(view: &ClusterView, place: &MemberPlace) -> Option<String> {
    let bridged = view.object.spec.expose.as_ref().filter(|_| place.network == Network::Bridge);
    let Some(expose) = bridged else { return Some(format!("{}:{}", place.address?, place.listens_on())) };
    let address: IpAddr = expose.bind_address.parse().ok()?;
    let address = if address.is_unspecified() { IpAddr::from(Ipv4Addr::LOCALHOST) } else { address };
    Some(format!("{address}:{}", u32::from(expose.host_port) + place.ordinal - 1))
}

fn endpoints(view: &ClusterView, decisions: &Decisions) -> Endpoints {
    let mut endpoints = Endpoints::default();
    for member in &view.members {
        let (Some(report), Some(endpoint)) = (member.live(), endpoint(view, member.place)) else { continue };
        let leads = decisions.is_leader(&member.place.name);
        if leads && report.postgres == Postgres::Primary && report.gate_open {
            endpoints.read_write.push(endpoint);
        } else if !leads && replica(view, decisions, report).is_some_and(|(streaming, _)| streaming) {
            endpoints.read_only.push(endpoint);
        }
    }
    endpoints
}
