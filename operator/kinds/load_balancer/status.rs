//! Renders the status of a LoadBalancer: its pods, its servers as the balancers have them, conditions. Pure.

use std::collections::BTreeSet;

use super::context::PlanContext;
use super::names::static_name;
use super::places::Place;
use super::render::{BOOTSTRAP, dialect};
use super::routing::{Intent, Server};
use super::seen::{Admin, Answer, Health};
use super::{Balancer, published, text, workload};
use crate::api::conditions::{Status, Verdict, no, set, yes};
use crate::api::load_balancer::{
    BackendSeen, BalancerDecisions, BalancerPhase, LoadBalancerStatus, ServerSeen, ServerState, Target, split_address,
};
use crate::api::object::Object as _;
use crate::api::pod::{PodContainer, PodContainerState, PodPhase, PodSeen};
use crate::engine::{ContainerSeen, ContainerState};
use crate::kinds::containers;
use crate::kinds::loss::{DRAIN_BLOCKED, MANY_SILENT};
use crate::kinds::network_of;

/// Fills in the part of the status that no planner reads back.
/// `no_port`: by its balancer, why a host port is not to be had.
pub fn render(
    context: &PlanContext,
    status: &mut LoadBalancerStatus,
    d: &BalancerDecisions,
    no_port: &[(String, String)],
    busy: bool,
) {
    let object = context.object;
    let generation = object.metadata.generation.unwrap_or_default();
    status.observed_generation = generation;
    status.reloads = d.reloads;
    let answers = running(context).into_iter().flatten();
    status.old_processes = answers.map(|answer| answer.old.len() as u64).sum();
    status.config_hash = context.skeleton.as_deref().map(text::hash).unwrap_or_default();
    status.pods = context.places.iter().map(|place| pod(context, place)).collect();
    status.replicas = status.pods.iter().filter(|pod| pod.phase != PodPhase::Pending).count() as u32;
    status.ready_replicas = status.pods.iter().filter(|pod| pod.ready).count() as u32;
    status.backends = backends(context);
    let declared = [
        ("ConfigValid", valid(context)),
        ("BackendsResolved", resolved(context)),
        ("CertificatesValid", certificates(context)),
    ];
    let wrong = declared.iter().map(|(_, verdict)| verdict).find(|verdict| verdict.status == Status::False).cloned();
    let problem = containers::problem(&context.observed.work).map(|(reason, message)| no(reason, message));
    let lost = || {
        context.places.iter().find_map(|place| {
            let why = workload::lost(object, context.observed, place)?;
            Some(no("NetworkLost", format!("{}: {why}", place.member)))
        })
    };
    let nowhere = || context.decided.nowhere.iter().next().map(|(name, why)| no("NoHost", format!("{name}: {why}")));
    let taken = || no_port.first().map(|(name, why)| no("PortConflict", format!("{name}: {why}")));
    let unbound = || {
        let why = |place| published::ports(object, context.observed, place).err();
        let found = context.places.iter().filter(|place| place.host.is_some()).find_map(|one| Some((one, why(one)?)));
        found.map(|(place, why)| no("NoAddress", format!("{}: {why}", place.member)))
    };
    let wrong = wrong.or(problem).or_else(lost).or_else(taken).or_else(unbound).or_else(nowhere);
    let wanted = object.spec.replicas;
    let missing = format!("{} of {wanted} balancers balance", status.ready_replicas);
    let whole = status.ready_replicas == wanted;
    let ready = match (status.ready_replicas, whole) {
        (0, _) => no("NoBalancer", missing.clone()),
        (_, false) => no("BalancersNotReady", missing.clone()),
        (_, true) => yes("Balancing", format!("{wanted} of {wanted} balancers balance")),
    };
    let starting = !d.started && !whole;
    let degraded = match (&wrong, whole) {
        (Some(wrong), _) => yes(&wrong.reason, wrong.message.clone()),
        (None, false) if !starting => yes("BalancersNotReady", missing.clone()),
        _ => no("AsDeclared", "nothing is missing"),
    };
    let progressing = match (containers::progress(&context.observed.work), whole) {
        (Some((reason, message)), _) => yes(reason, message),
        (None, _) if busy => yes("Working", "something is being changed"),
        (None, false) => yes("BalancersNotReady", missing),
        (None, true) => no("Settled", "everything is as declared"),
    };
    status.phase = match (status.ready_replicas, whole, &wrong) {
        (0, _, _) if starting => BalancerPhase::Pending,
        (0, _, _) => BalancerPhase::Unavailable,
        (_, true, None) if busy => BalancerPhase::Progressing,
        (_, true, None) => BalancerPhase::Healthy,
        _ if starting => BalancerPhase::Progressing,
        _ => BalancerPhase::Degraded,
    };
    let judged = [("Ready", ready), ("Degraded", degraded), ("Progressing", progressing)];
    for (kind, verdict) in declared.into_iter().chain(judged) {
        set(&mut status.conditions, kind, verdict, generation, context.now);
    }
    // These conditions exist only while they hold.
    let brake = context.losses.brake().map(|why| yes("NothingReplaced", why));
    let blocked = context.decided.blocked.clone().map(|why| yes("NoOtherHost", why));
    for (kind, verdict) in [(MANY_SILENT, brake), (DRAIN_BLOCKED, blocked)] {
        match verdict {
            Some(verdict) => set(&mut status.conditions, kind, verdict, generation, context.now),
            None => status.conditions.retain(|condition| condition.type_ != kind),
        }
    }
}

/// Whether it answers and runs another configuration than the bootstrap.
pub fn balances(balancer: &Balancer) -> bool {
    balancer.answer.known().is_some_and(|answer| answer.hash != BOOTSTRAP)
}

fn valid(context: &PlanContext) -> Verdict {
    let Some(skeleton) = &context.skeleton else {
        return yes("Waiting", "the password of the stats page is being made");
    };
    let hash = text::hash(skeleton);
    let refused = context.observed.balancers.iter().filter_map(|(container, balancer)| {
        let refused = balancer.files.known()?.refused.as_ref().filter(|refused| refused.skeleton == hash)?;
        let words = &refused.words;
        let goes_on =
            if balances(balancer) { "the last good configuration stays in use" } else { "it listens on no port" };
        Some(format!("{container} refuses the configuration, {goes_on}: {words}"))
    });
    match refused.reduce(|one, _| one) {
        Some(words) => no("ConfigRefused", words),
        None => yes("Checked", "no balancer refuses the configuration"),
    }
}

fn resolved(context: &PlanContext) -> Verdict {
    let problems: Vec<_> = context.backends.iter().filter_map(|backend| backend.problem.clone()).collect();
    match unreached(context) {
        _ if !problems.is_empty() => no("BackendNotFound", problems.join("; ")),
        Some(why) => no("BackendNotReached", why),
        None => yes("Resolved", "every backend exists"),
    }
}

/// The first server that serves and that a balancer does not reach, as text for people.
fn unreached(context: &PlanContext) -> Option<String> {
    let hosts: BTreeSet<&String> = context.places.iter().filter_map(|place| place.host.as_ref()).collect();
    let mut servers =
        context.backends.iter().flat_map(|one| one.servers.iter().flatten().map(move |server| (one, server)));
    servers.find_map(|(one, server)| {
        let own = server.host.as_ref().filter(|_| server.intent == Intent::Serve)?;
        let away = hosts.iter().find(|host| server.reached_from(host).2 == Intent::Out)?;
        let (server, backend) = (&server.name, &one.backend.name);
        Some(format!(
            "{server} of backend {backend} is on host {own} and has no address that other hosts reach, so the balancer on host \
             {away} sends it nothing; set spec.address of the DockerHosts"
        ))
    })
}

fn certificates(context: &PlanContext) -> Verdict {
    if context.certificates.is_empty() {
        return yes("Valid", "no certificate is missing");
    }
    let words = context.certificates.join("; ");
    no(
        "CertificateInvalid",
        format!("{words}; the last good certificate stays, a frontend that never had one is left out"),
    )
}

fn pod(context: &PlanContext, place: &Place) -> PodSeen {
    let (observed, member) = (context.observed, &place.member);
    let seen = observed.container(place);
    let balancer = observed.balancer(place);
    let runs = seen.is_some_and(|seen| seen.state == ContainerState::Running);
    let terminating = observed.stopping(place);
    let lost = workload::lost(context.object, observed, place);
    let ready = runs && !terminating && lost.is_none() && balancer.is_some_and(balances);
    let docker = observed.docker(place);
    let answers = place.host.is_none() || docker.is_some_and(|docker| docker.containers.known().is_some());
    let phase = match seen {
        _ if !answers => PodPhase::Unknown,
        None => PodPhase::Pending,
        Some(_) if terminating => PodPhase::Terminating,
        Some(seen) => phase(seen),
    };
    let answer = balancer.filter(|_| runs).and_then(|balancer| match &balancer.answer {
        super::Fact::Unknown(why) => Some(why.clone()),
        super::Fact::Known(answer) if answer.hash == BOOTSTRAP => Some("waits for its first configuration".into()),
        super::Fact::Known(_) => None,
    });
    let silence = || docker.filter(|_| !answers).and_then(|docker| docker.silence()).map(str::to_owned);
    let message = lost.or(answer).or_else(silence).or_else(|| context.decided.nowhere.get(member).cloned());
    PodSeen {
        name: member.clone(),
        host: place.host.clone().unwrap_or_default(),
        address: seen.and_then(|seen| seen.address(&network_of(context.object.namespace()))),
        phase,
        ready,
        terminating,
        message,
        containers: seen.map(|seen| part(context, seen, &place.container, runs, ready)).into_iter().collect(),
        ..Default::default()
    }
}

fn part(context: &PlanContext, seen: &ContainerSeen, container: &str, runs: bool, ready: bool) -> PodContainer {
    PodContainer {
        name: dialect(context.object.spec.engine).name.into(),
        container: container.into(),
        id: Some(seen.id.clone()),
        image: seen.image.clone(),
        state: if runs { PodContainerState::Running } else { PodContainerState::Waiting },
        exit_code: seen.exit_code,
        ready,
        ..Default::default()
    }
}

fn phase(seen: &ContainerSeen) -> PodPhase {
    match seen.state {
        ContainerState::Running => PodPhase::Running,
        ContainerState::Paused => PodPhase::Paused,
        ContainerState::Restarting => PodPhase::CrashLoopBackOff,
        ContainerState::Created => PodPhase::Pending,
        ContainerState::Exited | ContainerState::Dead => PodPhase::Stopped,
    }
}

/// The answers of the running balancers; `None` for one that does not answer. One on a host that has been silent for long is
/// not asked any more.
fn running<'a>(context: &'a PlanContext) -> Vec<Option<&'a Answer>> {
    let observed = context.observed;
    // Also a balancer beyond `replicas`, as long as it runs.
    let of = |(container, balancer): (&'a String, &'a Balancer)| {
        let docker = observed.hosts.get(&balancer.host)?;
        let runs = docker.containers.known().is_some() && docker.container(container).is_some();
        runs.then_some(balancer.answer.known())
    };
    let silent = |place: &&Place| {
        let host = place.host.as_ref().filter(|host| observed.silent.contains_key(*host));
        host.is_some_and(|host| !context.losses.mute.contains(host))
    };
    let silent = context.places.iter().filter(silent).map(|_| None);
    observed.balancers.iter().filter_map(of).chain(silent).collect()
}

fn backends(context: &PlanContext) -> Vec<BackendSeen> {
    let balancers = running(context);
    let one = |backend: &crate::api::load_balancer::Backend| {
        let resolved = context.backends.iter().find(|one| one.backend.name == backend.name);
        let servers: Vec<Server> = match (resolved, backend.target()) {
            (Some(resolved), _) if resolved.servers.is_some() => resolved.servers.clone().unwrap_or_default(),
            (_, Some(Target::Servers(addresses))) => addresses.iter().filter_map(|one| fixed(one)).collect(),
            _ => as_they_are(&backend.name, &balancers),
        };
        let servers =
            servers.iter().map(|server| seen(&backend.name, server, &balancers, backend.is_database())).collect();
        let deployment = backend.deployment.as_ref().map(|to| to.name.clone());
        BackendSeen { name: backend.name.clone(), deployment, servers }
    };
    context.object.spec.backends.iter().map(one).collect()
}

fn fixed(address: &str) -> Option<Server> {
    let (host, port) = split_address(address)?;
    let (name, address) = (static_name(address), host.parse().ok());
    Some(Server { name, host: None, address, port, published: None, intent: Intent::Serve })
}

fn as_they_are(backend: &str, balancers: &[Option<&Answer>]) -> Vec<Server> {
    let mut servers = std::collections::BTreeMap::new();
    for answer in balancers.iter().flatten() {
        for (name, seen) in answer.of(backend) {
            let (address, port) = (seen.address, seen.port);
            let name = name.to_owned();
            let server = Server { name, host: None, address, port, published: None, intent: Intent::Keep };
            servers.entry(server.name.clone()).or_insert(server);
        }
    }
    servers.into_values().collect()
}

fn seen(backend: &str, server: &Server, balancers: &[Option<&Answer>], database: bool) -> ServerSeen {
    let known = || balancers.iter().flatten().filter_map(|answer| answer.server(backend, &server.name));
    let sessions = known().map(|seen| seen.sessions).sum::<u64>();
    ServerSeen {
        name: server.name.clone(),
        address: server.address.or_else(|| known().find_map(|seen| seen.address)),
        port: server.port,
        state: state(backend, server, balancers, database),
        sessions: (sessions > 0).then_some(sessions),
    }
}

/// The state of a server: only what was observed at every running balancer counts.
fn state(backend: &str, server: &Server, balancers: &[Option<&Answer>], database: bool) -> ServerState {
    if balancers.iter().any(Option::is_none) {
        return ServerState::Unknown;
    }
    let known: Vec<_> = balancers.iter().flatten().map(|answer| answer.server(backend, &server.name)).collect();
    let busy = known.iter().flatten().any(|seen| seen.admin == Admin::Ready || seen.sessions > 0);
    match server.intent {
        Intent::Leave { .. } if busy => ServerState::Draining,
        Intent::Leave { .. } => ServerState::Drained,
        _ if known.iter().flatten().any(|seen| seen.admin != Admin::Maint && seen.health == Health::Down) => {
            ServerState::Down
        }
        _ if !known.is_empty() && known.iter().all(|seen| seen.is_some_and(|seen| seen.admin == Admin::Ready)) => {
            ServerState::Ready
        }
        Intent::Out if busy => ServerState::Draining,
        Intent::Out if database => ServerState::Drained,
        Intent::Serve | Intent::Out | Intent::Keep => ServerState::Starting,
    }
}
