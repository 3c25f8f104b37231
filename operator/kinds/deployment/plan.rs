//! Plans a Deployment: a total function of the object, what was observed, what users want, and the time. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodSpec;

use super::context::PlanContext;
use super::pods::{self, Next, View};
use super::revisions;
use super::rollout::{self, Standings};
use super::status::Rollout;
use super::{Observed, Step, blueprint, claims, hold, placement, published, refused, status};
use crate::api::deployment::{Decisions, Deployment, DeploymentStatus, EVICT_ANNOTATION, Pod};
use crate::api::labels;
use crate::api::object::Object as _;
use crate::api::pod::PodSeen;
use crate::kinds::containers::{DockerStep, Work};
use crate::kinds::loss::Losses;
use crate::kinds::{network_of, network_spec};
use crate::runtime::companions::due;
use crate::runtime::{Plan, Want, sooner};

/// Requeue after a decision was recorded: its next steps may be due already.
const AT_ONCE: Duration = Duration::from_millis(20);
/// Most pods created in one reconcile; more would delay the other pods.
const AT_A_TIME: usize = 24;

/// The plan of a Deployment.
pub fn plan(object: &Deployment, observed: &Observed, want: Want, now: Timestamp) -> Plan<Step, DeploymentStatus> {
    let before = object.status.clone().unwrap_or_default();
    let mut d = before.decisions.clone().unwrap_or_default();
    claims::decide(object, observed, &mut d);
    let decided = d.claims.clone().unwrap_or_default();
    let context = &PlanContext { object, observed, claims: &decided, before: &before, now };
    let deleting = want == Want::Absent;
    if want == Want::Paused {
        let status = status::render(context, d, Vec::new(), Rollout::Halted);
        return Plan { status, steps: Vec::new(), requeue: None, finished: false };
    }
    let losses = observed.losses();
    d.pods.retain(|pod| observed.hosts.contains_key(&pod.host));
    revisions::choose(object, observed, &mut d, now);
    let images = if deleting { Vec::new() } else { revisions::resolve(observed, &mut d) };
    let (standings, back) = standings(context, &losses, &mut d);
    let Some(spec) = revisions::of(&d, &d.target).map(blueprint::pod_spec) else {
        return Plan { status: before, steps: Vec::new(), requeue: None, finished: deleting };
    };
    let holder = hold::now(&observed.holders, &d, now).filter(|_| !deleting);
    let limits = rollout::limits(object, &spec).held(holder.is_some());
    remember_home(observed, &spec, &mut d);
    refused::forget(&mut d, &spec, &observed.waited);
    rollout::take_back(&standings, limits.replicas, &back, &mut d, now);
    let rollout = match holder {
        // Its deadline starts again afterwards.
        Some(_) => {
            (d.progressed_at, d.best) = (None, 0);
            Rollout::Held
        }
        None => progress(context, &standings, limits.replicas, &mut d),
    };
    evict(object, &mut d, now);
    let blocked = rollout::adjust(context, &standings, limits, &mut d);
    let ports = published::reserve(object, observed, &mut d);

    let (mut seen, nexts) = advance(context, &mut d);
    let mut again = nexts.iter().filter_map(|(_, next)| next.again).min();
    if d.pods.iter().any(|pod| pod.ready_since.is_some()) && object.spec.min_ready_seconds.unwrap_or_default() > 0 {
        again = sooner(again, Some(Duration::from_secs(1)));
    }
    if !ports.is_empty() {
        again = Some(AT_ONCE);
    }
    let mut steps = prepare(context, &d, &nexts);
    steps.extend(orphans(observed, &d));
    let mut making = 0;
    for (_, next) in &nexts {
        if next.makes() && making >= AT_A_TIME {
            again = Some(AT_ONCE);
            continue;
        }
        making += usize::from(next.makes());
        steps.extend(next.steps.iter().cloned());
    }
    // Images come last: an image that cannot be pulled must not delay the other steps.
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
    if let Rollout::Within(left) = rollout {
        again = sooner(again, Some(left));
    }
    let steps: Vec<Step> = ports.into_iter().chain(steps.into_iter().map(Step::Docker)).collect();
    let mut status = status::render(context, d, seen, rollout);
    status::tell_of_hold(context, holder, &mut status);
    again = sooner(again, holder.and_then(|holder| hold::left(holder, now)));
    status::tell_of_hosts(context, &losses, blocked, &mut status);
    let changing = status.decisions != before.decisions && steps.is_empty();
    let requeue = if changing { Some(AT_ONCE) } else { again };
    Plan { status, steps, requeue, finished }
}

/// Remembers the host of the volumes that only one pod may write, as long as that host is declared.
fn remember_home(observed: &Observed, spec: &PodSpec, d: &mut Decisions) {
    let first = d.pods.first().map(|pod| pod.host.clone()).filter(|_| blueprint::single_writer(spec));
    d.home = d.home.take().or(first).filter(|home| observed.hosts.contains_key(home));
}

/// The readiness of each pod, and the pods that were given up and whose hosts answer again.
fn standings(context: &PlanContext, losses: &Losses, d: &mut Decisions) -> (Standings, Vec<String>) {
    let (mut standings, mut back) = (Standings::new(), Vec::new());
    each_pod(context, d, |view, pod| {
        standings.insert(pod.name.clone(), view.standing(pod, losses.lost.contains(&pod.host)));
        if pod.given_up && view.answers() {
            back.push(pod.name.clone());
        }
    });
    (standings, back)
}

/// Calls `look` for each pod, one after the other.
fn each_pod(context: &PlanContext, d: &mut Decisions, mut look: impl FnMut(&View, &mut Pod)) {
    let mut pods = std::mem::take(&mut d.pods);
    for pod in &mut pods {
        if let Some(revision) = revisions::of(d, &pod.hash) {
            look(&pods::view(context, revision, pod), pod);
        }
    }
    d.pods = pods;
}

/// Records the progress of the rollout, and gives the revision up if its deadline passed.
fn progress(context: &PlanContext, standings: &Standings, replicas: usize, d: &mut Decisions) -> Rollout {
    let PlanContext { object, now, .. } = *context;
    let target = d.target.clone();
    let available = |pod: &&Pod| standings.get(&pod.name).is_some_and(|standing| standing.available);
    let new = d.pods.iter().filter(|pod| pod.stop.is_none() && pod.hash == target);
    let come = new.filter(available).count();
    let old = d.pods.iter().filter(|pod| pod.hash != target && !pod.given_up).count();
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
        return Rollout::Done;
    }
    // A revision that was complete once and only lost a pod is not in a rollout and has no deadline.
    if revisions::of(d, &target).is_some_and(|revision| revision.good) && old == 0 {
        return Rollout::Healing;
    }
    if object.spec.paused == Some(true) {
        // The deadline starts again when the rollout is resumed.
        d.progressed_at = None;
        return Rollout::Paused;
    }
    d.progressed_at = d.progressed_at.or(Some(now));
    let left = revisions::time_left(context, d);
    if !left.is_zero() {
        return Rollout::Within(left);
    }
    revisions::give_up(object, d);
    Rollout::Exceeded
}

/// Records the evictions that users requested.
fn evict(object: &Deployment, d: &mut Decisions, now: Timestamp) {
    let asked = object.annotation(EVICT_ANNOTATION).map(str::to_owned);
    if asked == d.evicted {
        return;
    }
    for name in asked.iter().flat_map(|names| names.split(',')) {
        rollout::stop(d, name.trim(), "evicted", now);
    }
    d.evicted = asked;
}

/// The next steps of each pod, and its status.
fn advance(context: &PlanContext, d: &mut Decisions) -> (Vec<PodSeen>, Vec<(String, Next)>) {
    let (mut seen, mut nexts) = (Vec::new(), Vec::new());
    each_pod(context, d, |view, pod| {
        let next = view.next(pod);
        seen.push(view.seen(pod, &next));
        nexts.push((pod.name.clone(), next));
    });
    (seen, nexts)
}

/// Containers of pods that are not in the decisions: created by a call whose answer was lost, or renamed and relabelled
/// by hand.
fn orphans(observed: &Observed, d: &Decisions) -> Vec<DockerStep> {
    let mut steps = Vec::new();
    for (host, seen) in &observed.hosts {
        for container in seen.docker.containers.known().into_iter().flat_map(BTreeMap::values) {
            let pod = container.labels.get(labels::MEMBER).cloned().unwrap_or_default();
            if d.pods.iter().any(|known| known.name == pod && known.host == *host) {
                continue;
            }
            steps.push(DockerStep::remove(host, &pod, &container.name, None, "it belongs to no pod"));
        }
    }
    steps
}

/// The network of the namespace, on each host where it is missing or a container is created. A network that somebody
/// else made under its name is used as it is.
fn prepare(context: &PlanContext, d: &Decisions, nexts: &[(String, Next)]) -> Vec<DockerStep> {
    let spec = network_spec(context.object.namespace());
    let makes = |name: &str| nexts.iter().find(|(pod, _)| pod == name).is_some_and(|(_, next)| next.makes());
    let needs = |pod: &&Pod| {
        let known = context.observed.docker(&pod.host).and_then(|docker| docker.networks.known());
        match known.map(|networks| networks.get(&spec.name)) {
            Some(None) => pod.stop.is_none(),
            Some(Some(network)) => network.ours && makes(&pod.name),
            None => makes(&pod.name),
        }
    };
    let hosts: BTreeSet<&String> = d.pods.iter().filter(needs).map(|pod| &pod.host).collect();
    hosts.into_iter().map(|host| DockerStep::EnsureNetwork { host: host.clone(), spec: spec.clone() }).collect()
}

/// Gets images and Evenkeel's binary for hosts whose pods wait for them.
fn fetch(observed: &Observed, d: &Decisions) -> Vec<DockerStep> {
    let mut steps = Vec::new();
    let mut once = |step: DockerStep| {
        if !steps.contains(&step) {
            steps.push(step);
        }
    };
    for pod in d.pods.iter().filter(|pod| pod.stop.is_none()) {
        let revision = revisions::of(d, &pod.hash).filter(|revision| !revision.images.is_empty());
        let docker = observed.docker(&pod.host).filter(|docker| docker.silence().is_none());
        let (Some(revision), Some(docker)) = (revision, docker) else {
            continue;
        };
        let spec = blueprint::pod_spec(revision);
        for container in blueprint::containers(&spec) {
            let tag = container.image.as_deref().unwrap_or_default();
            let policy = container.image_pull_policy.as_deref();
            let Some(exact) = revision.images.get(&container.name) else { continue };
            let there = docker.has_image(exact) == Some(true)
                || placement::unobtainable(observed, &pod.host, exact, tag, policy).is_some();
            let image = placement::wanted_image(exact, tag).to_owned();
            if !there && due(placement::pull(&observed.work, &pod.host, &image, &revision.hash)) {
                let (host, logins) = (pod.host.clone(), placement::logins(&spec));
                once(DockerStep::GetImage { host, image, revision: revision.hash.clone(), logins });
            }
        }
        let first = spec.containers.first().and_then(|container| revision.images.get(&container.name));
        let image = first.filter(|image| docker.has_image(image) == Some(true));
        let binary = Work::Binary { host: pod.host.clone() };
        let wanted =
            blueprint::needs_binary(&spec, &pod.host) && docker.binary.is_none() && due(observed.work.get(&binary));
        if let Some(image) = image.filter(|_| wanted) {
            once(DockerStep::GetBinary { host: pod.host.clone(), image: image.clone() });
        }
    }
    steps
}

/// The end of the teardown: remaining volumes of pods, then the network if no other object uses it.
fn leave(object: &Deployment, observed: &Observed) -> Vec<DockerStep> {
    let mut steps = Vec::new();
    for (host, seen) in &observed.hosts {
        let Some(volumes) = seen.docker.volumes.known() else { continue };
        steps.extend(volumes.iter().map(|volume| DockerStep::remove_volume(host, "", volume, false)));
        let network = network_of(object.namespace());
        steps.push(DockerStep::RemoveNetwork { host: host.clone(), network, shared: true });
    }
    steps
}
