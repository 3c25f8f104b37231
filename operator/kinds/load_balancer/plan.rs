//! What to do about a balancer: one pure, total function from the object, what was observed and now to a plan.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::render::{self, BOOTSTRAP, Config, Inputs};
use super::routing::{self, DesiredServer, ResolvedBackend};
use super::seen::{Admin, Answer};
use super::{Balancer, LoadBalancer, Observed, Step, diff, haproxy, nginx, status, text, workload};
use crate::api::load_balancer::{Backend, BalancerDecisions, BalancerPhase, EngineKind, LoadBalancerStatus};
use crate::engine::{ContainerState, File};
use crate::runtime::Plan;

/// Something was told whose effect is to be seen.
const AT_ONCE: Duration = Duration::from_millis(50);
/// Something is under way whose end nobody announces: a check, a drain.
const SOON: Duration = Duration::from_millis(200);
/// Something is not as it should be, but not urgent.
const DEGRADED: Duration = Duration::from_secs(1);
/// Reloads of a balancer follow each other no faster, for each leaves a process behind.
const RELOAD_GAP: Duration = Duration::from_secs(1);

/// What holds for the whole object, before anything about a single balancer.
pub struct PlanContext<'a> {
    /// The object.
    pub object: &'a LoadBalancer,
    /// What was observed.
    pub observed: &'a Observed,
    /// Its backends that name an object.
    pub backends: Vec<ResolvedBackend<'a>>,
    /// The configuration that is wanted, without servers; `None` while it cannot be had.
    pub skeleton: Option<String>,
    /// What is wrong with certificates.
    pub certificates: Vec<String>,
    /// Now.
    pub now: Timestamp,
}

/// The plan of a balancer.
pub fn plan(object: &LoadBalancer, observed: &Observed, now: Timestamp) -> Plan<Step, LoadBalancerStatus> {
    let mut status = object.status.clone().unwrap_or_default();
    if object.metadata.deletion_timestamp.is_some() {
        return teardown(object, observed, status);
    }
    let mut d = status.decisions.take().unwrap_or_default();
    let backends = routing::resolve(object, observed, &mut d, now);
    let certificates = certificates(object, observed, &mut d);
    let password = observed.stats_password.as_ref().map(|password| password.0.as_str());
    let in_force = d.certificates.clone();
    let inputs = Inputs::new(object, &in_force, password);
    let waits = object.spec.stats.is_some() && password.is_none();
    let skeleton = (!waits).then(|| render::skeleton(&inputs));
    let context = PlanContext { object, observed, backends, skeleton, certificates, now };
    let mut steps = Vec::new();
    if waits {
        steps.push(Step::EnsureStats);
    }
    let mut requeue = None;
    let mut told = Vec::new();
    for (_, container) in workload::members(object) {
        let at_work = observed.balancers.get(&container).filter(|_| !observed.stopping.contains(&container));
        let Some(balancer) = at_work else { continue };
        let turn = turn(&context, &inputs, &d, &container, balancer);
        requeue = sooner(requeue, turn.again);
        told.extend(turn.steps);
    }
    let reloads = told.iter().filter(|step| matches!(step, Step::Configure { reload: true, .. })).count();
    if reloads > 0 {
        d.reloads += reloads as u64;
        d.last_reload = Some(now);
    }
    // What is at work comes first: a container takes its time.
    steps.extend(told);
    steps.extend(workload::steps(object, observed, |container| settled(&context, container)));
    status::render(&context, &mut status, &d, !steps.is_empty());
    status.decisions = Some(d);
    if !steps.is_empty() {
        requeue = sooner(requeue, Some(AT_ONCE));
    }
    if status.phase != BalancerPhase::Healthy {
        requeue = sooner(requeue, Some(DEGRADED));
    }
    Plan { status, steps, requeue, finished: false }
}

fn sooner(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    [one, other].into_iter().flatten().min()
}

/// The certificate in force of each Secret is the last good one. What is wrong with the others is said.
fn certificates(object: &LoadBalancer, observed: &Observed, d: &mut BalancerDecisions) -> Vec<String> {
    let named = render::certificate_secrets(&object.spec);
    d.certificates.retain(|secret, _| named.contains(secret.as_str()));
    let mut problems = Vec::new();
    for secret in named {
        match observed.certificates.get(secret) {
            Some(Ok(certificate)) => drop(d.certificates.insert(secret.into(), certificate.hash.clone())),
            Some(Err(problem)) => problems.push(problem.clone()),
            None => {}
        }
    }
    problems
}

/// What is to be done about one balancer.
#[derive(Default)]
struct BalancerPlan {
    steps: Vec<Step>,
    again: Option<Duration>,
}

fn turn(
    context: &PlanContext,
    inputs: &Inputs,
    d: &BalancerDecisions,
    container: &str,
    balancer: &Balancer,
) -> BalancerPlan {
    let Some(answer) = balancer.answer.known() else { return BalancerPlan { again: Some(SOON), ..Default::default() } };
    let engine = inputs.spec.engine;
    let mut turn = BalancerPlan::default();
    let servers = servers(context, engine, answer);
    if engine == EngineKind::Haproxy {
        let commands = diff::commands(inputs, answer, &servers);
        if !commands.is_empty() {
            let (container, old) = (container.to_owned(), answer.old.clone());
            turn.steps.push(Step::Tell { container, commands, old });
        }
        if waits(&servers, answer) {
            turn.again = Some(SOON);
        }
    } else if !answer.old.is_empty() {
        turn.again = Some(SOON);
    }
    let Some(config) = config(context, inputs, balancer, &servers) else { return turn };
    let runs = answer.hash == config.hash;
    let written = balancer.file.known().is_some_and(|file| file.0 == config.text);
    let wait = d.last_reload.map_or(Duration::ZERO, |last| {
        let since = context.now.duration_since(last);
        RELOAD_GAP.saturating_sub(if since.is_negative() { RELOAD_GAP } else { since.unsigned_abs() })
    });
    if !runs && !wait.is_zero() {
        turn.again = sooner(turn.again, Some(wait));
    } else if !runs || !written && balancer.file.known().is_some() {
        let files = if runs { Vec::new() } else { files(context, inputs, d) };
        turn.steps.push(Step::Configure { container: container.to_owned(), config, files, reload: !runs });
    }
    turn
}

/// What each backend's servers are to be at a balancer.
fn servers(context: &PlanContext, engine: EngineKind, answer: &Answer) -> BTreeMap<String, Vec<DesiredServer>> {
    let of = |route: &ResolvedBackend| {
        (route.backend.name.clone(), routing::at_balancer(route, engine, answer, context.now))
    };
    context.backends.iter().map(of).collect()
}

/// Something goes on that ends by itself: a check, or the sessions of a server that leaves.
fn waits(servers: &BTreeMap<String, Vec<DesiredServer>>, answer: &Answer) -> bool {
    servers.iter().any(|(backend, servers)| {
        servers.iter().any(|server| {
            let seen = answer.server(backend, &server.name);
            server.admin == Admin::Drain || seen.is_some_and(|seen| seen.admin != server.admin)
        })
    })
}

/// The configuration that a balancer is to have: the wanted one, or, if its engine refused that, the last good one with
/// the servers of now.
fn config(
    context: &PlanContext,
    inputs: &Inputs,
    balancer: &Balancer,
    servers: &BTreeMap<String, Vec<DesiredServer>>,
) -> Option<Config> {
    let wanted = context.skeleton.as_ref().map(|skeleton| render::assemble(inputs.spec, skeleton, servers));
    match wanted {
        Some(config) if balancer.refused.as_ref().is_none_or(|(refused, _)| *refused != config.skeleton) => {
            Some(config)
        }
        _ => {
            let file = &balancer.file.known()?.0;
            let last = text::skeleton(file)?;
            // The first one listens to nobody, and has no servers.
            (text::hash_in(file) != Some(BOOTSTRAP))
                .then(|| Config { last_good: true, ..render::assemble(inputs.spec, &last, servers) })
        }
    }
}

/// The files that a configuration refers to.
fn files(context: &PlanContext, inputs: &Inputs, d: &BalancerDecisions) -> Vec<File> {
    let file = |path: String, text: &str| File { path, mode: 0o600, owner: (0, 0), bytes: text.as_bytes().to_vec() };
    let good = context.observed.certificates.values().filter_map(|one| one.as_ref().ok());
    let used = good.filter(|one| d.certificates.values().any(|hash| *hash == one.hash));
    let mut files: Vec<File> = used.map(|one| file(render::certificate_file(&one.hash), &one.pem.0)).collect();
    match inputs.spec.engine {
        EngineKind::Haproxy if inputs.spec.backends.iter().any(Backend::one_writer) => {
            files.push(file("hold.lua".into(), haproxy::HOLD));
        }
        EngineKind::Haproxy => {}
        EngineKind::Nginx => {
            files.extend(inputs.stats_password.map(|one| file("stats.htpasswd".into(), &nginx::htpasswd(one))));
        }
    }
    files
}

/// It balances, by the configuration that is wanted unless its engine refused that.
fn settled(context: &PlanContext, container: &str) -> bool {
    let running = context.observed.containers.known().and_then(|all| all.get(container));
    let running = running.is_some_and(|seen| seen.state == ContainerState::Running);
    let running = running && !context.observed.stopping.contains(container);
    running && context.observed.balancers.get(container).is_some_and(status::balances)
}

fn teardown(
    object: &LoadBalancer,
    observed: &Observed,
    mut status: LoadBalancerStatus,
) -> Plan<Step, LoadBalancerStatus> {
    let steps = workload::teardown(object, observed);
    let finished = steps.as_ref().is_some_and(Vec::is_empty);
    status.phase = BalancerPhase::Deleting;
    Plan { status, steps: steps.unwrap_or_default(), requeue: (!finished).then_some(DEGRADED), finished }
}
