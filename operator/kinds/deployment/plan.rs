//! What to do about a Deployment: one pure, total function from the object, what was observed and now to a plan.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::pods::{self, Next};
use super::revisions::{self, Pace};
use super::rollout::{self, Standing};
use super::{Observed, Step, annotation, blueprint, placement, status};
use crate::api::deployment::{Decisions, Deployment, DeploymentStatus, EVICT_ANNOTATION, Pod};
use crate::api::labels;
use crate::api::object::Object as _;
use crate::api::pod::PodSeen;
use crate::kinds::containers::Work;
use crate::kinds::network_spec;
use crate::runtime::companions::due;
use crate::runtime::{Plan, Want};

/// A decision was recorded: what follows from it may be due already.
const AT_ONCE: Duration = Duration::from_millis(20);
/// Pods that are made in one cycle: more would keep the others waiting.
const AT_A_TIME: usize = 24;

/// The plan of a Deployment.
pub fn plan(object: &Deployment, observed: &Observed, want: Want, now: Timestamp) -> Plan<Step, DeploymentStatus> {
    let before = object.status.clone().unwrap_or_default();
    let mut d = before.decisions.clone().unwrap_or_default();
    let deleting = want == Want::Absent;
    if want == Want::Paused {
        let status = status::render(object, observed, &before, d, Vec::new(), status::Rollout::Halted, now);
        return Plan { status, steps: Vec::new(), requeue: None, finished: false };
    }
    note_silence(observed, &mut d, now);
    d.pods.retain(|pod| observed.hosts.contains_key(&pod.host));
    revisions::choose(object, observed, &mut d, now);
    let images = if deleting { Vec::new() } else { revisions::resolve(observed, &mut d) };
    let standing = standings(object, observed, &before, &mut d, now);
    let Some(spec) = revisions::of(&d, &d.target).map(blueprint::pod_spec) else {
        return Plan { status: before, steps: Vec::new(), requeue: None, finished: deleting };
    };
    let limits = rollout::limits(object, &spec);
    let rollout = progress(object, &standing, limits.replicas, &mut d, now);
    evict(object, &mut d, now);
    rollout::adjust(object, observed, &standing, limits, &mut d, now);

    let (mut seen, nexts) = advance(object, observed, &before, &mut d, now);
    let mut again = nexts.iter().filter_map(|(_, next)| next.again).min();
    if d.pods.iter().any(|pod| pod.ready_since.is_some()) && object.spec.min_ready_seconds.unwrap_or_default() > 0 {
        again = Some(again.map_or(Duration::from_secs(1), |again| again.min(Duration::from_secs(1))));
    }
    let mut steps = prepare(object, &d, &nexts);
    steps.extend(orphans(observed, &d));
    let mut making = BTreeSet::new();
    for (pod, next) in &nexts {
        let makes = next.steps.iter().any(|step| matches!(step, Step::Create { .. }));
        if makes && (making.len() >= AT_A_TIME) {
            again = Some(AT_ONCE);
            continue;
        }
        if makes {
            making.insert(pod.clone());
        }
        steps.extend(next.steps.iter().cloned());
    }
    // Those come last: what cannot be had must not keep anything else waiting.
    steps.extend(images);
    steps.extend(fetch(observed, &d));
    let gone: BTreeSet<&String> = nexts.iter().filter(|(_, next)| next.gone).map(|(pod, _)| pod).collect();
    d.pods.retain(|pod| !gone.contains(&pod.name));
    seen.retain(|pod| !gone.contains(&pod.name));
    let finished = deleting && d.pods.is_empty() && orphans(observed, &d).is_empty();
    if finished {
        steps.extend(leave(object, observed));
    }
    if !gone.is_empty() {
        again = Some(AT_ONCE);
    }
    if let status::Rollout::Within(left) = rollout {
        again = Some(again.map_or(left, |again| again.min(left)));
    }
    let status = status::render(object, observed, &before, d, seen, rollout, now);
    let changing = status.decisions != before.decisions && steps.is_empty();
    let requeue = if changing { Some(AT_ONCE) } else { again };
    Plan { status, steps, requeue, finished }
}

/// Since when hosts do not answer.
fn note_silence(observed: &Observed, d: &mut Decisions, now: Timestamp) {
    let silent = |host: &str| observed.hosts.get(host).is_some_and(|host| host.docker.containers.known().is_none());
    d.silent_hosts.retain(|host, _| silent(host));
    for host in observed.hosts.keys().filter(|host| silent(host)) {
        d.silent_hosts.entry(host.clone()).or_insert(now);
    }
}

fn standings(
    object: &Deployment,
    observed: &Observed,
    before: &DeploymentStatus,
    d: &mut Decisions,
    now: Timestamp,
) -> BTreeMap<String, Standing> {
    let mut standing = BTreeMap::new();
    let mut pods = std::mem::take(&mut d.pods);
    for pod in &mut pods {
        if let Some(revision) = revisions::of(d, &pod.hash) {
            let silent = d.silent_hosts.get(&pod.host).copied();
            let view = pods::view(object, observed, before, revision, pod);
            standing.insert(pod.name.clone(), view.standing(pod, silent, now));
        }
    }
    d.pods = pods;
    standing
}

/// Notes how far the rollout has come, and what follows when it has not got on in time.
fn progress(
    object: &Deployment,
    standing: &BTreeMap<String, Standing>,
    replicas: usize,
    d: &mut Decisions,
    now: Timestamp,
) -> status::Rollout {
    let target = d.target.clone();
    let available = |pod: &&Pod| standing.get(&pod.name).is_some_and(|standing| standing.available);
    let new = d.pods.iter().filter(|pod| pod.stop.is_none() && pod.hash == target);
    let come = new.filter(available).count();
    let old = d.pods.iter().filter(|pod| pod.hash != target).count();
    let best = u32::try_from(come).unwrap_or(u32::MAX);
    if best > d.best {
        d.best = best;
        d.progressed_at = Some(now);
    }
    if come >= replicas && old == 0 {
        if let Some(revision) =
            d.revisions.iter_mut().find(|revision| revision.hash == target && !revision.images.is_empty())
        {
            revision.good |= replicas > 0;
        }
        d.best = best;
        return status::Rollout::Done;
    }
    // What was whole once and has only lost a pod since is no rollout, and has no deadline.
    if revisions::of(d, &target).is_some_and(|revision| revision.good) && old == 0 {
        return status::Rollout::Healing;
    }
    if object.spec.paused == Some(true) {
        // The deadline begins anew when it goes on.
        d.progressed_at = None;
        return status::Rollout::Paused;
    }
    d.progressed_at = d.progressed_at.or(Some(now));
    match revisions::pace(object, d, now) {
        Pace::Within(left) => status::Rollout::Within(left),
        Pace::Exceeded => {
            revisions::give_up(object, d);
            status::Rollout::Exceeded
        }
    }
}

/// Takes up the evictions that were asked for.
fn evict(object: &Deployment, d: &mut Decisions, now: Timestamp) {
    let asked = annotation(object, EVICT_ANNOTATION).map(str::to_owned);
    if asked == d.evicted {
        return;
    }
    for name in asked.iter().flat_map(|names| names.split(',')) {
        rollout::stop(d, name.trim(), "evicted", now);
    }
    d.evicted = asked;
}

/// What is next for each pod, and how each is seen.
fn advance(
    object: &Deployment,
    observed: &Observed,
    before: &DeploymentStatus,
    d: &mut Decisions,
    now: Timestamp,
) -> (Vec<PodSeen>, Vec<(String, Next)>) {
    let (mut seen, mut nexts) = (Vec::new(), Vec::new());
    let mut pods = std::mem::take(&mut d.pods);
    for pod in &mut pods {
        let Some(revision) = revisions::of(d, &pod.hash) else { continue };
        let view = pods::view(object, observed, before, revision, pod);
        let next = view.next(pod, now);
        seen.push(view.seen(pod, &next, now));
        nexts.push((pod.name.clone(), next));
    }
    d.pods = pods;
    (seen, nexts)
}

/// Containers of pods that nobody knows: made by a call whose answer was lost, or renamed and relabelled by hand.
fn orphans(observed: &Observed, d: &Decisions) -> Vec<Step> {
    let mut steps = Vec::new();
    for (host, seen) in &observed.hosts {
        for container in seen.docker.containers.known().into_iter().flat_map(BTreeMap::values) {
            let pod = container.labels.get(labels::MEMBER).cloned().unwrap_or_default();
            if d.pods.iter().any(|known| known.name == pod && known.host == *host) {
                continue;
            }
            let (host, container, why) = (host.clone(), container.name.clone(), "it belongs to no pod".to_owned());
            steps.push(Step::Remove { host, member: pod, container, grace: None, why });
        }
    }
    steps
}

/// What must be on a host before a container is made there.
fn prepare(object: &Deployment, d: &Decisions, nexts: &[(String, Next)]) -> Vec<Step> {
    let makes = |name: &str| {
        let next = nexts.iter().find(|(pod, _)| pod == name).map(|(_, next)| next);
        next.is_some_and(|next| next.steps.iter().any(|step| matches!(step, Step::Create { .. })))
    };
    let hosts: BTreeSet<&String> = d.pods.iter().filter(|pod| makes(&pod.name)).map(|pod| &pod.host).collect();
    let network = |host: &String| Step::EnsureNetwork { host: host.clone(), spec: network_spec(object.namespace()) };
    hosts.into_iter().map(network).collect()
}

/// Images and our binary, on hosts where pods wait for them.
fn fetch(observed: &Observed, d: &Decisions) -> Vec<Step> {
    let mut steps = Vec::new();
    for pod in d.pods.iter().filter(|pod| pod.stop.is_none()) {
        let revision = revisions::of(d, &pod.hash).filter(|revision| !revision.images.is_empty());
        let host = observed.hosts.get(&pod.host).map(|host| &host.docker);
        let (Some(revision), Some(docker)) = (revision, host.filter(|docker| docker.silence().is_none())) else {
            continue;
        };
        let spec = blueprint::pod_spec(revision);
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            let tag = container.image.as_deref().unwrap_or_default();
            let policy = container.image_pull_policy.as_deref();
            let Some(exact) = revision.images.get(&container.name) else { continue };
            let there = docker.has_image(exact) == Some(true)
                || placement::unobtainable(observed, &pod.host, exact, tag, policy).is_some();
            let image = placement::wanted_image(exact, tag).to_owned();
            if !there && due(placement::pull(&observed.work, &pod.host, &image, &revision.hash)) {
                let (host, logins) = (pod.host.clone(), placement::logins(&spec));
                let step = Step::GetImage { host, image, revision: revision.hash.clone(), logins };
                if !steps.contains(&step) {
                    steps.push(step);
                }
            }
        }
        let first = spec.containers.first().and_then(|container| revision.images.get(&container.name));
        let image = first.filter(|image| docker.has_image(image) == Some(true));
        let binary = Work::Binary { host: pod.host.clone() };
        let wanted = blueprint::needs_sandbox(&spec) && docker.binary.is_none() && due(observed.work.get(&binary));
        if let Some(image) = image.filter(|_| wanted) {
            let step = Step::GetBinary { host: pod.host.clone(), image: image.clone() };
            if !steps.contains(&step) {
                steps.push(step);
            }
        }
    }
    steps
}

/// The last that goes: volumes of pods that were left behind, and the network if nobody else is in it.
fn leave(object: &Deployment, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    for (host, seen) in &observed.hosts {
        let Some(volumes) = seen.docker.volumes.known() else { continue };
        steps.extend(volumes.iter().map(|volume| Step::RemoveVolume {
            host: host.clone(),
            member: String::new(),
            volume: volume.clone(),
            data: false,
        }));
        let network = network_spec(object.namespace()).name;
        steps.push(Step::RemoveNetwork { host: host.clone(), network, shared: true });
    }
    steps
}
