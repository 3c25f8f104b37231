//! Decides the next steps of one pod, and its status. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::blueprint::{Blueprint, Outside, Part, docker_name, grace_seconds, pod_spec};
use super::context::{PlanContext, wait_after};
use super::rollout::Standing;
use super::{Observed, blueprint, claims, placement, published};
use crate::api::deployment::{Pod, Restarts, Revision};
use crate::api::labels;
use crate::api::load_balancer::ServerState;
use crate::api::object::Object as _;
use crate::api::pod::{PodContainer, PodContainerState, PodPhase, PodSeen};
use crate::engine::log_bound::bounded;
use crate::engine::{ContainerSeen, ContainerState};
use crate::kinds::containers::converge::runs;
use crate::kinds::containers::networks::{self, Wrong};
use crate::kinds::containers::{DockerStep, Fill, PreStop, Work};
use crate::kinds::fact::Fact;
use crate::kinds::network_of;
use crate::runtime::companions::due;
use crate::runtime::sooner;

/// A container that ran this long does not count as one that keeps ending.
const GOOD: Duration = Duration::from_mins(10);
/// Seconds on top of the balancers' drain time; then a pod is stopped even if they do not report it drained.
const DRAIN_MARGIN_SECONDS: u64 = 10;

/// The existing containers of a pod, by their name in it.
type Containers<'a> = BTreeMap<String, &'a ContainerSeen>;

/// One pod and what was observed of it.
pub struct View<'a> {
    context: &'a PlanContext<'a>,
    revision: &'a Revision,
    spec: PodSpec,
    blueprint: Blueprint,
    /// Its containers by name in the pod; `None` if its host does not answer.
    seen: Option<Containers<'a>>,
    /// Containers with the pod's labels that are not part of it.
    strays: Vec<&'a ContainerSeen>,
    /// Its status before.
    before: Option<&'a PodSeen>,
    /// The host it is on.
    pod_host: String,
}

/// The result of planning one pod.
#[derive(Debug, Default)]
pub struct Next {
    /// Steps, all in the pod's lane.
    pub steps: Vec<DockerStep>,
    /// Requeue within this time.
    pub again: Option<Duration>,
    /// Nothing of the pod is left.
    pub gone: bool,
    /// What is wrong, or what the pod waits for.
    pub note: Option<Note>,
}

impl Next {
    /// Whether it creates a container.
    pub fn makes(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, DockerStep::Create { .. }))
    }

    /// Requeues within this time.
    fn look_within(&mut self, wait: Duration) {
        self.again = sooner(self.again, Some(wait));
    }
}

/// What is wrong with a pod, or what it waits for.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// The phase that the pod shows meanwhile.
    pub phase: PodPhase,
    /// The problem, or what the pod waits for, as text for people.
    pub message: String,
}

/// Collects what was observed of a pod.
pub fn view<'a>(context: &'a PlanContext<'a>, revision: &'a Revision, pod: &Pod) -> View<'a> {
    let PlanContext { object, observed, .. } = *context;
    let (spec, docker) = (pod_spec(revision), observed.docker(&pod.host));
    let networks = networks_on(observed, &pod.host, observed.inputs.networks(&spec));
    let binary = docker.and_then(|docker| docker.binary.as_deref());
    let exact = claims::exact(observed, context.claims, &pod.host);
    let blueprint =
        blueprint::blueprint(object, pod, revision, &Outside { networks: &networks, exact: &exact, binary });
    let known: BTreeSet<String> = blueprint.parts().map(|part| part.name.clone()).collect();
    let mut strays = Vec::new();
    let seen = docker.and_then(|docker| docker.containers.known()).map(|all| {
        let mut seen = BTreeMap::new();
        for container in all.values().filter(|one| one.labels.get(labels::MEMBER) == Some(&pod.name)) {
            let name = container.labels.get(labels::CONTAINER).cloned().unwrap_or_default();
            if known.contains(&name) && container.name == docker_name(object, &pod.name, &name) {
                seen.insert(name, container);
            } else {
                strays.push(container);
            }
        }
        seen
    });
    let before = context.before.pods.iter().find(|known| known.name == pod.name);
    View { context, revision, spec, blueprint, seen, strays, before, pod_host: pod.host.clone() }
}

/// The networks of databases that a pod joins on this host. With several hosts a database may be on another one, and its network
/// with it: the pod reaches it by the addresses in its Secret.
fn networks_on(observed: &Observed, host: &str, networks: BTreeSet<String>) -> BTreeSet<String> {
    let known = observed.docker(host).and_then(|docker| docker.networks.known()).filter(|_| observed.hosts.len() > 1);
    let there = |network: &String| known.is_none_or(|known| known.contains_key(network));
    networks.into_iter().filter(there).collect()
}

impl Blueprint {
    fn parts(&self) -> impl DoubleEndedIterator<Item = &Part> {
        self.sandbox.iter().chain(&self.init).chain(&self.main)
    }
}

impl View<'_> {
    fn state(&self, part: &Part) -> Option<ContainerState> {
        self.seen.as_ref()?.get(&part.name).map(|seen| seen.state)
    }

    fn template(&self, part: &Part) -> Option<&Container> {
        self.spec.containers.iter().find(|container| container.name == part.name)
    }

    /// Whether the container runs, has started and is ready. While a probe has no result yet, the last status counts.
    fn part_ready(&self, part: &Part) -> bool {
        let Some(seen) = self.seen.as_ref().and_then(|seen| seen.get(&part.name)) else { return false };
        let Some(template) = self.template(part) else { return false };
        if seen.state != ContainerState::Running {
            return false;
        }
        if template.startup_probe.is_none() && template.readiness_probe.is_none() {
            return true;
        }
        let same = |known: &&PodContainer| known.name == part.name && known.id.as_ref() == Some(&seen.id);
        let was = self.before.and_then(|before| before.containers.iter().find(same)).is_some_and(|known| known.ready);
        let probed = self.context.observed.probes.get(&seen.id);
        let answer = |verdict: Option<bool>| verdict.unwrap_or(was);
        probed.map_or(was, |probed| answer(probed.started) && answer(probed.ready))
    }

    /// The container that holds the pod's network, if it exists, and what is wrong with its connections.
    fn wrong(&self) -> Option<(&ContainerSeen, Vec<Wrong>)> {
        let holder = self.blueprint.sandbox.as_ref().or(self.blueprint.main.first())?;
        let container = *self.seen.as_ref()?.get(&holder.name)?;
        let networks = self.context.observed.docker(&self.pod_host)?.networks.known()?;
        Some((container, networks::wrong(container, &holder.spec, networks)))
    }

    /// Why the running pod cannot be reached, if its container is not on a network.
    fn away(&self) -> Option<String> {
        let (container, wrong) = self.wrong()?;
        let wrong = wrong.into_iter().find(|one| one.away && runs(container))?;
        Some(networks::in_words(&wrong.why, self.context.object.want()))
    }

    /// Whether all containers of the pod are ready.
    fn ready(&self) -> bool {
        if self.seen.is_none() {
            // No answer from the host does not mean that the pod is gone: keep the last status.
            return self.before.is_some_and(|before| before.ready);
        }
        let runs = |part: &Part| self.state(part) == Some(ContainerState::Running);
        if self.away().is_some() {
            return false;
        }
        self.blueprint.sandbox.as_ref().is_none_or(runs) && self.blueprint.main.iter().all(|part| self.part_ready(part))
    }

    fn address(&self) -> Option<std::net::Ipv4Addr> {
        let Some(seen) = &self.seen else { return self.before.and_then(|before| before.address) };
        let holder = self.blueprint.sandbox.as_ref().or(self.blueprint.main.first())?;
        seen.get(&holder.name)?.address(&network_of(self.context.object.namespace()))
    }

    /// Whether its host answers.
    pub fn answers(&self) -> bool {
        self.seen.is_some()
    }

    /// Why it cannot stay where it is, if so.
    fn moves(&self, pod: &Pod) -> Option<String> {
        let published = published::moves(self.context.observed, pod);
        published.or_else(|| placement::lacks(self.context, &pod.host, &self.spec))
    }

    /// Its readiness; records since when it is ready, and whether it is given up. `lost`: its host is lost.
    pub fn standing(&self, pod: &mut Pod, lost: bool) -> Standing {
        let now = self.context.now;
        // Only a person can say that the one writer of a volume does not write any more.
        let certain = !blueprint::single_writer(&self.spec) || self.context.observed.certified(&pod.host);
        pod.given_up |= lost && certain;
        let ready = self.ready() && pod.stop.is_none() && !pod.given_up;
        pod.ready_since = if ready { pod.ready_since.or(Some(now)) } else { None };
        pod.proven = pod.ready_since.is_some_and(|since| pod.proven || self.context.proven(since));
        Standing {
            ready,
            available: self.context.available(&pod.name, pod.proven),
            lost: pod.given_up,
            moves: self.moves(pod),
            restarts: pod.restarts.values().map(|restarts| restarts.count).sum(),
        }
    }

    /// The next steps.
    pub fn next(&self, pod: &mut Pod) -> Next {
        let mut next = Next::default();
        let Some(seen) = &self.seen else { return next };
        for stray in &self.strays {
            next.steps.push(self.remove(pod, &stray.name, "nothing of that name belongs to the pod"));
        }
        if pod.stop.is_some() {
            self.leave(pod, seen, &mut next);
        } else {
            self.live(pod, seen, &mut next);
        }
        next
    }

    fn remove(&self, pod: &Pod, container: &str, why: &str) -> DockerStep {
        DockerStep::remove(&pod.host, &pod.name, container, None, why)
    }

    /// Terminates the pod: wait until the balancers have drained it, stop its containers, remove them.
    fn leave(&self, pod: &mut Pod, seen: &Containers, next: &mut Next) {
        if !self.free(pod) {
            next.again = Some(Duration::from_secs(1));
            return;
        }
        let Some(stop) = &mut pod.stop else { return };
        stop.drained_at = stop.drained_at.or(Some(self.context.now));
        let why = stop.why.clone();
        let runs = |part: &&Part| seen.get(&part.name).is_some_and(|container| runs(container));
        let running: Vec<_> = self.blueprint.init.iter().chain(&self.blueprint.main).filter(runs).collect();
        if running.is_empty() {
            // Containers that join a network are removed before the container that holds it.
            let containers = self.blueprint.parts().rev().filter_map(|part| seen.get(&part.name));
            let steps: Vec<_> = containers.map(|container| self.remove(pod, &container.name, &why)).collect();
            next.gone = steps.is_empty() && self.strays.is_empty();
            next.steps.extend(steps);
            let volume = |volume: &String| DockerStep::remove_volume(&pod.host, &pod.name, volume, false);
            if !next.gone {
                next.steps.extend(self.blueprint.volumes.iter().map(volume));
            }
            return;
        }
        for part in &running {
            if self.state(part) == Some(ContainerState::Paused) {
                next.steps.push(self.unpause(pod, part));
            }
        }
        if self.stop_is_due(pod, &pod.name) {
            let containers = running.iter().map(|part| (part.spec.name.clone(), part.pre_stop.clone()));
            next.steps.push(self.stop(pod, pod.name.clone(), containers.collect(), why));
        }
        next.again = Some(Duration::from_secs(2));
    }

    /// Whether to start a stop of this subject: no stop of it runs or waits.
    fn stop_is_due(&self, pod: &Pod, subject: &str) -> bool {
        let (host, subject) = (pod.host.clone(), subject.to_owned());
        due(self.context.observed.work.get(&Work::Stop { host, subject }))
    }

    fn stop(&self, pod: &Pod, subject: String, containers: Vec<(String, PreStop)>, why: String) -> DockerStep {
        let grace = u64::try_from(grace_seconds(&self.spec)).unwrap_or_default();
        DockerStep::Stop { host: pod.host.clone(), member: pod.name.clone(), subject, containers, grace, why }
    }

    fn unpause(&self, pod: &Pod, part: &Part) -> DockerStep {
        DockerStep::Unpause { host: pod.host.clone(), member: pod.name.clone(), container: part.spec.name.clone() }
    }

    /// Whether no running balancer sends it anything any more, or the drain time is over.
    fn free(&self, pod: &Pod) -> bool {
        let Some(stop) = &pod.stop else { return false };
        let waited = stop.since.map(|since| self.context.waited(since)).unwrap_or_default();
        self.context.observed.balancers.iter().all(|balancer| {
            let patience = Duration::from_secs(balancer.drain_seconds + DRAIN_MARGIN_SECONDS);
            let drained = balancer.servers.get(&pod.name).is_some_and(|state| *state == ServerState::Drained);
            // A paused balancer drains nothing, however long one waits.
            drained || balancer.paused || waited >= patience
        })
    }

    /// Brings a pod up, or keeps it running.
    fn live(&self, pod: &mut Pod, seen: &Containers, next: &mut Next) {
        let broken = self.broken(seen);
        // A running pod needs nothing: an image whose tag moved, or a Secret that was deleted, matters only to the next
        // container.
        if let Some(note) = self.not_yet(pod).filter(|_| broken.is_some() || self.lacks(pod, seen)) {
            next.again = Some(Duration::from_secs(5));
            next.note = Some(note);
            if seen.is_empty() {
                return;
            }
        }
        let lacks = next.note.is_some();
        if let Some(why) = broken {
            for part in self.blueprint.parts() {
                if let Some(container) = seen.get(&part.name) {
                    next.steps.push(self.remove(pod, &container.name, why));
                }
            }
            // The pod is created again after the removals, unless something that it needs is missing.
            pod.made = false;
            if !lacks {
                self.make_up(pod, &BTreeMap::new(), Some(why), next);
            }
        } else {
            if let Some((container, wrong)) = self.wrong() {
                let work = &self.context.observed.work;
                next.steps.extend(networks::connect(work, &pod.host, &pod.name, &container.name, wrong));
            }
            pod.made |= self.blueprint.main.iter().all(|part| seen.contains_key(&part.name));
            let again = pod.made.then_some("it was removed by somebody else");
            self.make_up(pod, seen, again.filter(|_| !lacks), next);
        }
    }

    /// Whether a container of the pod must be created.
    fn lacks(&self, pod: &Pod, seen: &Containers) -> bool {
        let absent = |part: &Part| !seen.contains_key(&part.name);
        let prepared = pod.made || !self.blueprint.main.iter().all(absent);
        self.blueprint.sandbox.iter().chain(&self.blueprint.main).any(absent)
            || !prepared && self.blueprint.init.iter().any(absent)
    }

    /// What is missing before a container of the pod can be created.
    fn not_yet(&self, pod: &Pod) -> Option<Note> {
        let note = |phase, message| Note { phase, message };
        if let Some(missing) = self.context.observed.inputs.missing(&self.revision.template) {
            return Some(note(PodPhase::CreateContainerConfigError, missing));
        }
        let docker = self.context.observed.docker(&pod.host)?;
        let PlanContext { object, observed, .. } = self.context;
        let named = published::unreserved(object, observed, pod, &self.spec);
        if let Some(port) = named.or_else(|| published::lacking(observed, pod).first().copied()) {
            let message = pod.no_port.clone().unwrap_or_else(|| format!("reserving a port of {} for {port}", pod.host));
            return Some(note(PodPhase::ContainerCreating, message));
        }
        for container in blueprint::containers(&self.spec) {
            let tag = container.image.as_deref().unwrap_or_default();
            let exact = self.revision.images.get(&container.name).map_or(tag, String::as_str);
            if docker.has_image(exact) != Some(true) {
                let asked = placement::wanted_image(exact, tag);
                let pull = placement::pull(&self.context.observed.work, &pod.host, asked, &self.revision.hash);
                let policy = container.image_pull_policy.as_deref();
                let failed = pull.and_then(|pull| pull.failure()).map(str::to_owned);
                let other = || placement::unobtainable(self.context.observed, &pod.host, exact, tag, policy);
                return Some(match failed.or_else(other) {
                    Some(why) => note(PodPhase::ImagePullBackOff, why),
                    None => note(PodPhase::ContainerCreating, format!("getting image {tag}")),
                });
            }
        }
        for container in blueprint::containers(&self.spec) {
            let exact = self.revision.images.get(&container.name);
            let image = docker.images.known().and_then(|images| images.get(exact?));
            let user = image.map(|image| image.user.as_str()).unwrap_or_default();
            if let Some(why) = blueprint::breaks_non_root(&self.spec, container, user) {
                let message = format!("container {}: {why}", container.name);
                return Some(note(PodPhase::CreateContainerConfigError, message));
            }
        }
        if let Some(claim) = claims::of(&self.spec).find(|claim| !self.context.claims.contains_key(*claim)) {
            let message = format!("asking the hosts whether they have a volume {claim}");
            return Some(note(PodPhase::ContainerCreating, message));
        }
        if docker.daemon.is_none() {
            return Some(note(PodPhase::ContainerCreating, format!("asking host {} about its engine", pod.host)));
        }
        if !blueprint::needs_binary(&self.spec, &pod.host) || docker.binary.is_some() {
            return None;
        }
        let binary = self.context.observed.work.get(&Work::Binary { host: pod.host.clone() });
        let why = binary.and_then(|binary| binary.failure()).unwrap_or("putting evenkeel on the host");
        Some(note(PodPhase::ContainerCreating, why.to_owned()))
    }

    /// Why all containers of the pod must be recreated, if so.
    fn broken(&self, seen: &Containers) -> Option<&'static str> {
        let holder = self.blueprint.sandbox.as_ref().or(self.blueprint.main.first())?;
        let Some(container) = seen.get(&holder.name) else {
            let orphans = self.blueprint.sandbox.is_some() && !seen.is_empty();
            return orphans.then_some("its sandbox is gone");
        };
        if self.blueprint.sandbox.is_some() && matches!(container.state, ContainerState::Exited | ContainerState::Dead)
        {
            return Some("its sandbox ended");
        }
        let (work, wrong) = (&self.context.observed.work, self.wrong().map(|(_, wrong)| wrong).unwrap_or_default());
        let refused = |one: &Wrong| networks::refused(work, &self.pod_host, &container.name, &one.to).is_some();
        wrong.iter().any(refused).then_some("it was disconnected from its network, and cannot be connected again")
    }

    /// Creates and starts the containers that are missing or do not run, in order. `again`: why containers that existed
    /// are missing.
    fn make_up(&self, pod: &mut Pod, seen: &Containers, again: Option<&str>, next: &mut Next) {
        let state = |part: &Part| seen.get(&part.name).map(|container| container.state);
        let lacks = next.note.is_some();
        if let Some(sandbox) = &self.blueprint.sandbox {
            match state(sandbox) {
                None if lacks => return,
                None => self.make(pod, sandbox, again, next),
                Some(ContainerState::Created) => self.fill_and_start(pod, sandbox, None, next),
                Some(ContainerState::Paused) => next.steps.push(self.unpause(pod, sandbox)),
                // It is unknown whether its volumes were filled before an interruption, so fill them again.
                Some(_) if seen.len() == 1 => next.steps.extend(self.fills(pod, sandbox)),
                Some(_) => {}
            }
        }
        let prepared = pod.made || self.blueprint.main.iter().any(|part| seen.contains_key(&part.name));
        for part in self.blueprint.init.iter().filter(|_| !prepared) {
            let ended_well = seen
                .get(&part.name)
                .is_some_and(|container| container.state == ContainerState::Exited && container.exit_code == Some(0));
            if !ended_well {
                let done =
                    self.blueprint.init.iter().filter(|part| state(part) == Some(ContainerState::Exited)).count();
                next.note.get_or_insert(Note {
                    phase: PodPhase::Init,
                    message: format!("init container {} of {} is at work", done + 1, self.blueprint.init.len()),
                });
                self.keep(pod, part, seen, again, next);
                return;
            }
        }
        for part in &self.blueprint.main {
            self.keep(pod, part, seen, again, next);
        }
    }

    /// Keeps one container running.
    fn keep(&self, pod: &mut Pod, part: &Part, seen: &Containers, again: Option<&str>, next: &mut Next) {
        let lacks = next.note.as_ref().is_some_and(|note| note.phase != PodPhase::Init);
        match seen.get(&part.name).map(|container| (container.state, *container)) {
            None if lacks => {}
            None => self.make(pod, part, again, next),
            Some((ContainerState::Created, _)) => {
                match pod.restarts.get(&part.name).and_then(|restarts| self.context.until_next_try(restarts)) {
                    Some(wait) => next.look_within(wait),
                    None => self.fill_and_start(pod, part, None, next),
                }
            }
            Some((ContainerState::Running, container)) => self.judge(pod, part, container, next),
            Some((ContainerState::Restarting, _)) => {}
            Some((ContainerState::Paused, _)) => next.steps.push(self.unpause(pod, part)),
            Some((ContainerState::Dead, container)) => {
                next.steps.push(self.remove(pod, &container.name, "Docker has half removed it"));
            }
            Some((ContainerState::Exited, container)) => self.ended(pod, part, container, next),
        }
    }

    /// A running container: it is stopped if its liveness or startup probe failed.
    fn judge(&self, pod: &mut Pod, part: &Part, container: &ContainerSeen, next: &mut Next) {
        if let Some(restarts) = pod.restarts.get_mut(&part.name) {
            restarts.stuck = false;
        }
        let Some(probed) = self.context.observed.probes.get(&container.id) else { return };
        let which = match (probed.started, probed.alive) {
            (Some(false), _) => "startup",
            (_, Some(false)) => "liveness",
            _ => return,
        };
        if self.stop_is_due(pod, &container.name) {
            let said = probed.said.as_deref().unwrap_or("it does not hold");
            let why = format!("{which} probe failed: {said}");
            let containers = vec![(container.name.clone(), part.pre_stop.clone())];
            next.steps.push(self.stop(pod, container.name.clone(), containers, why));
        }
        next.again = Some(Duration::from_secs(1));
    }

    /// A container that ended: it is restarted, after a longer wait each time it ends again.
    fn ended(&self, pod: &mut Pod, part: &Part, container: &ContainerSeen, next: &mut Next) {
        let now = self.context.now;
        let restarts = pod.restarts.entry(part.name.clone()).or_default();
        if restarts.next_try.is_none() {
            if restarts.last.is_none_or(|last| self.context.waited(last) >= GOOD) {
                restarts.failures = 0;
            }
            restarts.next_try = Some(now.saturating_add(wait_after(restarts.failures)).unwrap_or(now));
            restarts.failures += 1;
            restarts.why = Some(ended_in_words(container.exit_code));
        }
        if let Some(wait) = self.context.until_next_try(restarts) {
            return next.look_within(wait);
        }
        *restarts = Restarts { count: restarts.count + 1, last: Some(now), next_try: None, ..restarts.clone() };
        let (why, stuck) = (restarts.why.clone().unwrap_or_default(), restarts.stuck);
        if stuck {
            next.steps.push(self.remove(pod, &container.name, &why));
            self.make(pod, part, Some(&why), next);
        } else {
            next.steps.push(DockerStep::start(&pod.host, &pod.name, &container.name, Some(&why)));
        }
    }

    fn make(&self, pod: &Pod, part: &Part, again: Option<&str>, next: &mut Next) {
        let daemon = self.context.observed.docker(&pod.host).and_then(|docker| docker.daemon.as_ref());
        let spec = daemon.map_or_else(|| part.spec.clone(), |daemon| bounded(&part.spec, daemon));
        next.steps.push(DockerStep::create(&pod.host, &pod.name, &spec, &part.env, again));
        self.fill_and_start(pod, part, again, next);
    }

    fn fills(&self, pod: &Pod, part: &Part) -> Vec<DockerStep> {
        let fill =
            |fill: &Fill| DockerStep::Fill { host: pod.host.clone(), member: pod.name.clone(), fill: fill.clone() };
        part.fills.iter().map(fill).collect()
    }

    /// In-memory volumes can be filled only while the sandbox runs; all others are filled before their container
    /// starts.
    fn fill_and_start(&self, pod: &Pod, part: &Part, again: Option<&str>, next: &mut Next) {
        let start = DockerStep::start(&pod.host, &pod.name, &part.spec.name, again);
        if part.name.is_empty() {
            next.steps.push(start);
            next.steps.extend(self.fills(pod, part));
        } else {
            next.steps.extend(self.fills(pod, part));
            next.steps.push(start);
        }
    }

    /// Its status, for users and other kinds.
    pub fn seen(&self, pod: &Pod, next: &Next) -> PodSeen {
        let init = self.blueprint.init.iter().map(|part| self.container(pod, part, true));
        let main = self.blueprint.main.iter().map(|part| self.container(pod, part, false));
        let containers: Vec<_> = init.chain(main).collect();
        let unknown = match self.context.observed.docker(&pod.host).map(|docker| &docker.containers) {
            Some(Fact::Known(_)) => None,
            Some(Fact::Unknown(why)) => Some(why.clone()),
            None => Some(format!("there is no DockerHost {}", pod.host)),
        };
        let waiting = pod
            .restarts
            .values()
            .filter_map(|restarts| Some((self.context.until_next_try(restarts)?, restarts.next_try?, restarts)));
        let waiting = waiting.min_by_key(|(left, _, _)| *left);
        let ready = self.ready() && pod.stop.is_none() && !pod.given_up;
        let (phase, message) = if let Some(why) = unknown {
            (PodPhase::Unknown, Some(why))
        } else if let Some(stop) = &pod.stop {
            let paused = self.context.paused_without(&pod.name, ServerState::Drained).map(|balancer| {
                format!("; LoadBalancer {balancer} is paused and does not drain it: connections from there break")
            });
            (PodPhase::Terminating, Some(stop.why.clone() + &paused.unwrap_or_default()))
        } else if let Some(note) = &next.note {
            (note.phase, Some(note.message.clone()))
        } else if let Some((_, at, restarts)) = &waiting {
            let why = restarts.why.as_deref().unwrap_or_default();
            (PodPhase::CrashLoopBackOff, Some(format!("{why}; next try at {at}")))
        } else if containers.iter().any(|container| container.state == PodContainerState::Running) {
            (PodPhase::Running, self.away().or_else(|| self.unready()).or_else(|| self.unrouted(pod)))
        } else {
            (PodPhase::ContainerCreating, None)
        };
        PodSeen {
            name: pod.name.clone(),
            host: pod.host.clone(),
            address: self.address(),
            phase,
            ready,
            terminating: pod.stop.is_some(),
            revision: self.revision.revision,
            created_at: pod.created_at,
            ready_since: pod.ready_since,
            restarts: pod.restarts.values().map(|restarts| restarts.count).sum(),
            next_try: waiting.map(|(_, at, _)| at),
            message,
            containers: if self.seen.is_none() {
                self.before.map(|before| before.containers.clone()).unwrap_or_default()
            } else {
                containers
            },
        }
    }

    /// Why it runs but is not ready, in the words of the probe.
    fn unready(&self) -> Option<String> {
        let parts = self.blueprint.main.iter().filter(|part| !self.part_ready(part));
        let mut said = parts.filter_map(|part| {
            let id = &self.seen.as_ref()?.get(&part.name)?.id;
            let said = self.context.observed.probes.get(id)?.said.clone()?;
            Some(format!("{} is not ready: {said}", part.name))
        });
        said.next()
    }

    /// Why it is ready but not available, if a paused balancer is the reason.
    fn unrouted(&self, pod: &Pod) -> Option<String> {
        let balancer = self.context.paused_without(&pod.name, ServerState::Ready)?;
        Some(format!("LoadBalancer {balancer} is paused and gives it no connections, so it does not become available"))
    }

    fn container(&self, pod: &Pod, part: &Part, init: bool) -> PodContainer {
        let seen = self.seen.as_ref().and_then(|seen| seen.get(&part.name));
        let restarts = pod.restarts.get(&part.name);
        let backing_off = restarts.is_some_and(|restarts| restarts.next_try.is_some());
        let (state, reason) = match seen.map(|seen| seen.state) {
            None | Some(ContainerState::Created) => (PodContainerState::Waiting, Some("ContainerCreating")),
            Some(ContainerState::Running) => (PodContainerState::Running, None),
            Some(ContainerState::Paused) => (PodContainerState::Running, Some("Paused")),
            Some(_) if backing_off => (PodContainerState::Waiting, Some("CrashLoopBackOff")),
            Some(_) if seen.and_then(|seen| seen.exit_code) == Some(0) => {
                (PodContainerState::Terminated, Some("Completed"))
            }
            Some(_) => (PodContainerState::Terminated, Some("Error")),
        };
        PodContainer {
            name: part.name.clone(),
            container: part.spec.name.clone(),
            id: seen.map(|seen| seen.id.clone()),
            image: part.spec.image.clone(),
            state,
            reason: reason.map(str::to_owned),
            exit_code: seen.and_then(|seen| seen.exit_code),
            ready: !init && self.part_ready(part),
            init,
            restarts: restarts.map(|restarts| restarts.count).unwrap_or_default(),
        }
    }
}

fn ended_in_words(code: Option<i64>) -> String {
    match code {
        Some(0) => "it ended by itself".into(),
        Some(137) => "it was killed (exit code 137)".into(),
        Some(code) => format!("it ended with exit code {code}"),
        None => "it ended".into(),
    }
}
