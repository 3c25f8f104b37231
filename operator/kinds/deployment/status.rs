//! Renders the status of a Deployment: counts, phase, conditions. Pure; decides nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodSpec;

use super::context::PlanContext;
use super::rollout::{self, Limits};
use super::{Holder, Step, blueprint, claims, context, hold, placement, refused, revisions};
use crate::api::conditions::{Verdict, no, set, unknown, yes};
use crate::api::deployment::{ClaimedVolume, Decisions, Deployment, DeploymentPhase, DeploymentStatus, MissingPath};
use crate::api::endpoints::{Endpoint, EndpointSet, EndpointState, PublishedPort};
use crate::api::failure::{Class, Failure};
use crate::api::load_balancer::ServerState;
use crate::api::object::Object as _;
use crate::api::pod::{PodPhase, PodSeen};
use crate::kinds::containers::DockerStep;
use crate::kinds::loss::{DRAIN_BLOCKED, Losses, MANY_SILENT};
use crate::kinds::network_of;

/// The condition of a Deployment with a claim that is not the namespace's own volume.
const FOREIGN: &str = "ForeignVolume";
/// The condition of a Deployment that a Backup or VolumeRestore lets have no pods.
const HELD: &str = "Held";
/// The condition of a Deployment with a `hostPath` that some hosts do not have.
const MISSING: &str = "HostPathMissing";

/// The state of the rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rollout {
    /// All pods are of the target revision and available.
    Done,
    /// As `Done`, except for pods that are being replaced.
    Healing,
    /// It progresses; the time left until its deadline.
    Within(Duration),
    /// It missed its progress deadline.
    Exceeded,
    /// It is paused by `spec.paused`.
    Paused,
    /// A Backup or VolumeRestore lets it have no pods now.
    Held,
    /// The annotation pauses the whole object; no steps are performed.
    Halted,
}

/// The whole status.
pub fn render(context: &PlanContext, d: Decisions, pods: Vec<PodSeen>, rollout: Rollout) -> DeploymentStatus {
    let PlanContext { object, before, now, .. } = *context;
    let mut status = DeploymentStatus {
        observed_generation: object.metadata.generation.unwrap_or_default(),
        selector: selector(object),
        conditions: before.conditions.clone(),
        ..Default::default()
    };
    if rollout == Rollout::Halted {
        status.held_by = before.held_by.clone();
    }
    status.pods = if rollout == Rollout::Halted { before.pods.clone() } else { pods };
    status.endpoint_set = Some(endpoint_set(context, &d, &status.pods));
    let wanted = object.spec.replicas.unwrap_or(1);
    let given_up = given_up(&d);
    let staying = status.pods.iter().filter(|pod| !pod.terminating && !given_up.contains(pod.name.as_str()));
    let staying: Vec<_> = staying.collect();
    let count =
        |some: &dyn Fn(&&&PodSeen) -> bool| i32::try_from(staying.iter().filter(some).count()).unwrap_or(i32::MAX);
    let target = revisions::number(&d, &d.target);
    status.replicas = count(&|_| true);
    status.updated_replicas = count(&|pod| pod.revision == target);
    status.ready_replicas = count(&|pod| pod.ready);
    let proven = proven(&d);
    status.available_replicas =
        count(&|pod| pod.ready && context.available(&pod.name, proven.contains(pod.name.as_str())));
    status.unavailable_replicas = (wanted - status.available_replicas).max(0);
    let (away, generation) = (status.unavailable_replicas, status.observed_generation);
    let spec = revisions::of(&d, &d.target).map(blueprint::pod_spec).unwrap_or_default();
    status.volumes = volumes(context, &d, &spec);
    let limits = rollout::limits(object, &spec);
    let allowed = i32::try_from(limits.unavailable).unwrap_or(i32::MAX);
    let trouble = trouble(context, &d, &status.pods, &spec, rollout);
    status.phase = phase(object, &status, rollout, trouble.is_some());
    let available = if away <= allowed.min((wanted - 1).max(0)) || wanted == 0 {
        yes("MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        let message = format!("{} of {wanted} replicas are available", status.available_replicas);
        no("MinimumReplicasUnavailable", trouble.clone().map_or(message.clone(), |why| format!("{message}: {why}")))
    };
    let degraded = match (&trouble, &d.given_up) {
        (_, Some(hash)) => yes("RolledBack", rolled_back(&d, hash)),
        (Some(why), _) => yes("PodsNotReady", why.clone()),
        (None, None) if away > 0 && rollout != Rollout::Done => {
            yes("ReplicasUnavailable", format!("{away} replicas are not available"))
        }
        _ => no("AsDeclared", "every replica is available"),
    };
    for (kind, verdict) in [
        ("Available", available),
        ("Progressing", progressing(&status, &d, rollout, &limits, &spec)),
        ("Degraded", degraded),
    ] {
        set(&mut status.conditions, kind, verdict, generation, now);
    }
    // The condition exists only while there is such a claim.
    match claims::warning(object, context.observed, &d) {
        Some(why) => set(&mut status.conditions, FOREIGN, yes("DockerVolumeByName", why), generation, now),
        None => status.conditions.retain(|condition| condition.type_ != FOREIGN),
    }
    match refused::warning(&d) {
        Some(why) => set(&mut status.conditions, MISSING, yes("NotOnEveryHost", why), generation, now),
        None => status.conditions.retain(|condition| condition.type_ != MISSING),
    }
    status.decisions = Some(d);
    status
}

/// The endpoints of the pods. The object that routes to them names the port; no pod is the only writer.
fn endpoint_set(context: &PlanContext, d: &Decisions, pods: &[PodSeen]) -> EndpointSet {
    let (object, given_up, proven) = (context.object, given_up(d), proven(d));
    let available = |name: &str| context.available(name, proven.contains(name));
    let serves = |pod: &&PodSeen| pod.ready && !pod.terminating && available(&pod.name);
    let wanted = usize::try_from(object.spec.replicas.unwrap_or(1)).unwrap_or_default();
    let replaced = pods.iter().filter(serves).count() >= wanted;
    let published = |name: &str| -> Vec<PublishedPort> {
        let ports = d.pods.iter().filter(|pod| pod.name == name).flat_map(|pod| &pod.ports);
        ports.map(|(port, at)| PublishedPort { port: *port, address: *at.ip(), host_port: at.port() }).collect()
    };
    let endpoint = |pod: &PodSeen| Endpoint {
        name: pod.name.clone(),
        host: pod.host.clone(),
        address: pod.address,
        published: published(&pod.name),
        state: match pod.phase {
            _ if pod.terminating => EndpointState::Leaving,
            // Nobody knows what it does; its replacement serves.
            _ if replaced && given_up.contains(pod.name.as_str()) => EndpointState::Out,
            _ if pod.ready && pod.address.is_some() => EndpointState::Serving,
            PodPhase::Unknown => EndpointState::Unknown,
            _ => EndpointState::Out,
        },
        ..Default::default()
    };
    let network = network_of(object.namespace());
    EndpointSet { network, epoch: 0, endpoints: pods.iter().map(endpoint).collect() }
}

/// The names of the pods that were ready for `minReadySeconds`.
fn proven(d: &Decisions) -> BTreeSet<&str> {
    d.pods.iter().filter(|pod| pod.proven).map(|pod| pod.name.as_str()).collect()
}

/// The names of the pods that were given up.
fn given_up(d: &Decisions) -> BTreeSet<&str> {
    d.pods.iter().filter(|pod| pod.given_up).map(|pod| pod.name.as_str()).collect()
}

/// Sets what exists only while the Deployment is to have no pods.
pub fn tell_of_hold(context: &PlanContext, holder: Option<&Holder>, status: &mut DeploymentStatus) {
    status.held_by = holder.map(|holder| holder.by.clone());
    match holder {
        Some(holder) => {
            let verdict = yes(&holder.by.kind, hold::message(holder));
            set(&mut status.conditions, HELD, verdict, status.observed_generation, context.now);
        }
        None => status.conditions.retain(|condition| condition.type_ != HELD),
    }
}

/// The volumes of the claims that only one pod may write, once their host is known.
fn volumes(context: &PlanContext, d: &Decisions, spec: &PodSpec) -> Vec<ClaimedVolume> {
    let Some(host) = &d.home else { return Vec::new() };
    let exact = claims::exact(context.observed, context.claims, host);
    let claimed = spec.volumes.iter().flatten().filter_map(|volume| volume.persistent_volume_claim.as_ref());
    let claimed = claimed.filter(|claim| claim.read_only != Some(true)).map(|claim| &claim.claim_name);
    let volume = |claim: &String| ClaimedVolume {
        claim: claim.clone(),
        host: host.clone(),
        volume: match exact.contains(claim) {
            true => claim.clone(),
            false => claims::volume(context.object.namespace(), claim),
        },
    };
    claimed.map(volume).collect()
}

/// Sets the conditions that exist only while a host is silent or drained.
pub fn tell_of_hosts(context: &PlanContext, losses: &Losses, blocked: Option<String>, status: &mut DeploymentStatus) {
    let concerned = status.pods.iter().any(|pod| losses.many.contains(&pod.host));
    let brake = losses.brake().filter(|_| concerned).map(|why| yes("NothingReplaced", why));
    let blocked = blocked.map(|why| yes("NoOtherHost", why));
    for (kind, verdict) in [(MANY_SILENT, brake), (DRAIN_BLOCKED, blocked)] {
        match verdict {
            Some(verdict) => set(&mut status.conditions, kind, verdict, status.observed_generation, context.now),
            None => status.conditions.retain(|condition| condition.type_ != kind),
        }
    }
}

fn selector(object: &Deployment) -> String {
    let labels = object.spec.selector.match_labels.iter().flatten();
    labels.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

fn rolled_back(d: &Decisions, given_up: &str) -> String {
    let (bad, good) = (revisions::number(d, given_up), revisions::number(d, &d.target));
    format!("revision {bad} did not become available in time; revision {good} is back until the template changes")
}

/// The first problem.
fn trouble(context: &PlanContext, d: &Decisions, pods: &[PodSeen], spec: &PodSpec, rollout: Rollout) -> Option<String> {
    let (object, observed) = (context.object, context.observed);
    let given_up = given_up(d);
    let staying = || pods.iter().filter(|pod| !given_up.contains(pod.name.as_str()));
    let waiting = staying().filter(|pod| !pod.terminating && (!pod.ready || pod.phase == PodPhase::Unknown));
    // A pod that is still starting is no problem yet.
    let begins = |pod: &&PodSeen| match pod.phase {
        PodPhase::ContainerCreating | PodPhase::Init | PodPhase::Pending => true,
        PodPhase::Running => matches!(rollout, Rollout::Within(_)) && pod.restarts == 0,
        _ => false,
    };
    let mut told = waiting.filter(|pod| !begins(pod));
    let pod = told.find_map(|pod| Some(format!("{} {}: {}", pod.name, pod.phase, pod.message.as_ref()?)));
    let image = || revisions::image_trouble(observed, d);
    let wanted = usize::try_from(object.spec.replicas.unwrap_or(1)).unwrap_or_default();
    let fewer = pods.iter().all(|pod| !pod.terminating) && staying().count() < wanted;
    let place = || fewer.then(|| placement::choose(object, observed, d, spec).err()).flatten();
    let unrouted = || {
        let mut ready = pods.iter().filter(|pod| pod.ready && !pod.terminating);
        ready.find(|pod| context.paused_without(&pod.name, ServerState::Ready).is_some())
    };
    let route = || unrouted().and_then(|pod| Some(format!("{}: {}", pod.name, pod.message.as_ref()?)));
    pod.or_else(image).or_else(place).or_else(route)
}

fn phase(object: &Deployment, status: &DeploymentStatus, rollout: Rollout, troubled: bool) -> DeploymentPhase {
    if object.metadata.deletion_timestamp.is_some() {
        return DeploymentPhase::Deleting;
    }
    match rollout {
        Rollout::Halted => DeploymentPhase::Paused,
        Rollout::Exceeded => DeploymentPhase::Failed,
        Rollout::Held => DeploymentPhase::Held,
        Rollout::Paused => DeploymentPhase::RolloutPaused,
        _ if troubled => DeploymentPhase::Degraded,
        Rollout::Within(_) => DeploymentPhase::RollingOut,
        Rollout::Done | Rollout::Healing if status.unavailable_replicas > 0 => DeploymentPhase::Degraded,
        Rollout::Done | Rollout::Healing if status.replicas == 0 => DeploymentPhase::ScaledToZero,
        Rollout::Done | Rollout::Healing => DeploymentPhase::Healthy,
    }
}

/// Uses Kubernetes' reasons, so that `kubectl rollout status` understands them.
fn progressing(status: &DeploymentStatus, d: &Decisions, rollout: Rollout, limits: &Limits, spec: &PodSpec) -> Verdict {
    let target = revisions::number(d, &d.target);
    let so_far = format!("revision {target}: {} of {} updated replicas are available", d.best, limits.replicas);
    match rollout {
        Rollout::Halted => no("ReconcilePaused", "nothing is done while the annotation says paused"),
        Rollout::Held => unknown("Held", "it has no pods for a while; the condition Held says why"),
        Rollout::Paused => unknown("DeploymentPaused", "the rollout is paused"),
        Rollout::Exceeded => no("ProgressDeadlineExceeded", so_far),
        Rollout::Done | Rollout::Healing => yes("NewReplicaSetAvailable", so_far),
        Rollout::Within(_) => {
            let first = match blueprint::forbids_surge(spec) {
                Some(why) if status.replicas > 0 => format!("; old pods stop first because of {why}"),
                _ => String::new(),
            };
            yes("ReplicaSetUpdated", format!("{so_far}{first}"))
        }
    }
}

/// Records in the status that a step failed; a container that could not be started is retried later and recreated.
pub fn step_failed(mut status: DeploymentStatus, step: &Step, failure: &Failure, now: Timestamp) -> DeploymentStatus {
    let generation = status.observed_generation;
    if failure.class != Class::Conflict || matches!(step, Step::Docker(DockerStep::Start { .. })) {
        let why = refused::in_words(&failure.to_string());
        set(&mut status.conditions, "Degraded", yes("StepFailed", format!("{step}: {why}")), generation, now);
    }
    if let Step::Docker(DockerStep::Create { host, .. }) = step
        && let Some(path) = refused::missing_path(&failure.message)
        && let Some(d) = &mut status.decisions
    {
        d.missing.insert(host.clone(), MissingPath { path: path.to_owned(), since: Some(now) });
    }
    let Step::Docker(DockerStep::Start { member: pod, container, .. }) = step else { return status };
    // Docker did not answer, so it is unknown whether the container runs.
    if failure.class == Class::NotFound {
        return status;
    }
    let pods = status.decisions.iter_mut().flat_map(|d| d.pods.iter_mut());
    for known in pods.filter(|known| known.name == *pod) {
        let name = container.rsplit('.').next().unwrap_or_default().to_owned();
        let restarts = known.restarts.entry(name).or_default();
        restarts.next_try = now.saturating_add(context::wait_after(restarts.failures)).ok();
        restarts.failures += 1;
        restarts.stuck = true;
        restarts.why = Some(refused::in_words(&failure.to_string()));
        refused::give_way(known, &failure.message, now);
    }
    status
}
