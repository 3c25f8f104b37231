//! What people are told of a cluster: phase, instances, endpoints, conditions. Pure; decides nothing.

use std::net::{IpAddr, Ipv4Addr};

use super::routing;
use super::scene::{Member, Scene, Trouble};
use crate::api::conditions::{no, set, yes};
use crate::api::postgres_cluster::{
    ClusterPhase, Decisions, DurabilityMode, Endpoints, InstanceRole, InstanceState, InstanceStatus, MemberPlace,
    PostgresClusterStatus, Stage,
};
use crate::engine::ContainerState;
use crate::kinds::containers::{self, WorkSeen};
use crate::supervisor::wire::{self, JobKind, Postgres, Report};

/// Fills in all of the status that nobody reads back.
pub fn render(
    scene: &Scene,
    status: &mut PostgresClusterStatus,
    d: &Decisions,
    trouble: Option<Trouble>,
    paused: bool,
    work: &WorkSeen,
) {
    let problem = containers::problem(work);
    status.observed_generation = scene.object.metadata.generation.unwrap_or_default();
    status.term = d.term;
    status.primary = d.leader.as_ref().map(|leader| leader.member.clone());
    status.instances = scene.members.iter().map(|member| instance(scene, d, member)).collect();
    status.ready_instances = status.instances.iter().filter(|instance| serves(instance)).count() as u32;
    let leader = status.primary.as_ref().and_then(|name| scene.members.iter().find(|m| m.place.name == *name));
    let leader_report = leader.and_then(Member::live);
    status.timeline = leader_report.and_then(|report| report.timeline).or(status.timeline);
    status.endpoints = endpoints(scene, d);
    status.endpoint_set = Some(routing::endpoint_set(scene.object, d, &status.instances));
    let wanted = scene.object.spec.instances;
    let serving = d.stage == Stage::Steady && !status.endpoints.read_write.is_empty();
    let whole = status.ready_instances >= wanted && status.instances.len() == wanted as usize;
    status.phase = phase(d, serving, whole, paused, status);
    let ready = match (&trouble, serving) {
        (Some(trouble), _) if !serving || trouble.reason == "CommitsWait" => {
            no(trouble.reason, trouble.message.clone())
        }
        (_, false) => match &problem {
            Some((reason, message)) => no(reason, message.clone()),
            None => no("Starting", "nothing takes writes yet"),
        },
        (_, true) if !whole => no("InstancesNotReady", not_ready(status)),
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
    let progressing = match (&trouble, beside, restarts) {
        _ if paused => no("Paused", "reconciliation is paused by annotation"),
        (Some(trouble), ..) if !serving => yes(trouble.reason, trouble.message.clone()),
        (_, Some(beside), _) => beside,
        _ if !whole => yes("InstancesNotReady", not_ready(status)),
        (_, None, Some(instance)) => {
            let settings = instance.pending_restart.join(", ");
            yes("PendingRestart", format!("{} waits for a restart: {settings}", instance.name))
        }
        (_, None, None) => no("Settled", "everything is as declared"),
    };
    let degraded = problem.or_else(|| degraded(scene, d, status, trouble.as_ref(), whole));
    let degraded = match degraded {
        Some((reason, message)) => yes(reason, message),
        None => no("Redundant", redundancy(scene, d)),
    };
    for (kind, condition) in [("Ready", ready), ("Progressing", progressing), ("Degraded", degraded)] {
        set(&mut status.conditions, kind, condition, status.observed_generation, scene.now);
    }
}

fn phase(d: &Decisions, serving: bool, whole: bool, paused: bool, status: &PostgresClusterStatus) -> ClusterPhase {
    match d.stage {
        _ if paused => ClusterPhase::Paused,
        Stage::Steady if serving && whole => ClusterPhase::Healthy,
        Stage::Steady if serving => ClusterPhase::Degraded,
        Stage::Steady => ClusterPhase::Unavailable,
        Stage::New => ClusterPhase::Pending,
        Stage::Establishing if status.last_failover.is_none() && d.switchover.is_none() => ClusterPhase::Bootstrapping,
        _ if d.switchover.is_some() => ClusterPhase::SwitchingOver,
        _ => ClusterPhase::FailingOver,
    }
}

/// It takes writes, or streams.
fn serves(instance: &InstanceStatus) -> bool {
    matches!(instance.state, InstanceState::Running | InstanceState::Streaming)
}

fn not_ready(status: &PostgresClusterStatus) -> String {
    let words: Vec<_> = status
        .instances
        .iter()
        .filter(|instance| !serves(instance))
        .map(|instance| match &instance.message {
            Some(message) => format!("{} is {}: {message}", instance.name, instance.state),
            None => format!("{} is {}", instance.name, instance.state),
        })
        .collect();
    if words.is_empty() { "instances are being added or removed".into() } else { words.join("; ") }
}

fn degraded(
    scene: &Scene,
    d: &Decisions,
    status: &PostgresClusterStatus,
    trouble: Option<&Trouble>,
    whole: bool,
) -> Option<(&'static str, String)> {
    let starting = d.stage == Stage::New
        || d.stage == Stage::Establishing && d.history.is_empty() && status.last_failover.is_none();
    let spec = &scene.object.spec;
    match trouble {
        _ if starting => None,
        Some(trouble) => Some((trouble.reason, trouble.message.clone())),
        None if !whole => Some(("InstancesNotReady", not_ready(status))),
        None if d.commit.w < spec.synchronous_replicas() => Some((
            "DurabilityReduced",
            format!(
                "commits wait for {} instead of {} standbys: a failover may lose acknowledged commits",
                d.commit.w,
                spec.synchronous_replicas()
            ),
        )),
        None => scene.members.iter().find_map(|member| {
            let report = member.live()?;
            let refused = report.setting_errors.first()?;
            Some(("SettingRefused", format!("{} refuses a setting: {refused}", member.place.name)))
        }),
    }
}

/// What the cluster promises as it stands.
fn redundancy(scene: &Scene, d: &Decisions) -> String {
    let spec = &scene.object.spec;
    match spec.durability.mode {
        _ if spec.instances == 1 => "a single instance: no standby, no failover".into(),
        DurabilityMode::Async => "async: commits wait for nobody, a failover may lose the last ones".into(),
        _ => format!(
            "a commit is on disk at {} of {} standbys before it is acknowledged",
            d.commit.w,
            d.commit.voters.len()
        ),
    }
}

fn instance(scene: &Scene, d: &Decisions, member: &Member) -> InstanceStatus {
    let name = member.place.name.clone();
    let leads = d.leader.as_ref().is_some_and(|leader| leader.member == name);
    let report = member.live();
    let replica = report.and_then(|report| replica(scene, d, report));
    let synchronous = d.commit.w > 0 && d.commit.voters.iter().any(|voter| voter.member == name);
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
        address: member.place.address.map(|address| format!("{address}:{}", wire::PORT)),
        lag_mib: replica.filter(|_| !leads).map(|(_, lag)| mib(lag)),
        synchronous,
        pending_restart: report.map(|report| report.pending_restart.clone()).unwrap_or_default(),
        message: message(member, report),
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
    failed.or_else(|| report.problem.clone()).or(refused)
}

/// Whether the leader sees this instance stream, and how many bytes it lacks.
fn replica(scene: &Scene, d: &Decisions, report: &Report) -> Option<(bool, u64)> {
    let leader = d.leader.as_ref()?;
    let leading = scene.members.iter().find(|m| m.place.name == leader.member)?.live()?.leading.as_ref()?;
    let replica = leading.replicas.iter().find(|replica| Some(&replica.incarnation) == report.incarnation.as_ref())?;
    Some((replica.streaming, replica.lag_bytes))
}

/// Where a member is reached from its Docker host: the published port, else its address on the network.
fn endpoint(scene: &Scene, place: &MemberPlace) -> Option<String> {
    let Some(expose) = &scene.object.spec.expose else { return Some(format!("{}:{}", place.address?, wire::PORT)) };
    let address: IpAddr = expose.bind_address.parse().ok()?;
    let address = if address.is_unspecified() { IpAddr::from(Ipv4Addr::LOCALHOST) } else { address };
    Some(format!("{address}:{}", u32::from(expose.host_port) + place.ordinal - 1))
}

fn endpoints(scene: &Scene, d: &Decisions) -> Endpoints {
    let mut endpoints = Endpoints::default();
    for member in &scene.members {
        let (Some(report), Some(endpoint)) = (member.live(), endpoint(scene, member.place)) else { continue };
        let leads = d.leader.as_ref().is_some_and(|leader| leader.member == member.place.name);
        if leads && report.postgres == Postgres::Primary && report.gate_open {
            endpoints.read_write.push(endpoint);
        } else if !leads && replica(scene, d, report).is_some_and(|(streaming, _)| streaming) {
            endpoints.read_only.push(endpoint);
        }
    }
    endpoints
}
