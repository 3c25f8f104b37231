//! What to do about a balancer: one pure, total function from the object, what was observed and now to a plan.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::render::{self, BOOTSTRAP, Config, Inputs};
use super::seen::Answer;
use super::wanted::{self, Admin, Route, Wanted};
use super::{Balancer, LoadBalancer, Observed, Step, diff, haproxy, nginx, status, text, workload};
use crate::api::conditions;
use crate::api::load_balancer::{Backend, BalancerDecisions, EngineKind, LoadBalancerStatus};
use crate::engine::{ContainerState, File};
use crate::runtime::{Plan, Want};

/// Something was told whose effect is to be seen.
const AT_ONCE: Duration = Duration::from_millis(50);
/// Something is under way whose end nobody announces: a check, a drain.
const SOON: Duration = Duration::from_millis(200);
/// Something is not as it should be, but not urgent.
const DEGRADED: Duration = Duration::from_secs(1);
/// Reloads of a balancer follow each other no faster, for each leaves a process behind.
const RELOAD_GAP: Duration = Duration::from_secs(1);

/// What was decided about the object, before anything about a single balancer.
pub struct Decided<'a> {
    /// The object.
    pub object: &'a LoadBalancer,
    /// What was observed.
    pub observed: &'a Observed,
    /// Its backends whose servers come and go.
    pub routes: Vec<Route<'a>>,
    /// The configuration that is wanted, without servers; `None` while it cannot be had.
    pub skeleton: Option<String>,
    /// What is wrong with certificates.
    pub certificates: Vec<String>,
    /// Now.
    pub now: Timestamp,
}

/// The plan of a balancer.
pub fn plan(object: &LoadBalancer, observed: &Observed, want: Want, now: Timestamp) -> Plan<Step, LoadBalancerStatus> {
    let mut status = object.status.clone().unwrap_or_default();
    if want == Want::Absent {
        return teardown(object, observed, status);
    }
    let paused = want == Want::Paused;
    let before = status.decisions.take().unwrap_or_default();
    let mut d = before.clone();
    let routes = wanted::routes(object, observed, &mut d, now);
    let certificates = certificates(object, observed, &mut d);
    let password = observed.stats_password.as_ref().map(|password| password.0.as_str());
    let in_force = d.certificates.clone();
    let inputs = Inputs::new(object, &in_force, password);
    let waits = object.spec.stats.is_some() && password.is_none();
    let skeleton = (!waits).then(|| render::skeleton(&inputs));
    let decided = Decided { object, observed, routes, skeleton, certificates, now };
    let mut steps = Vec::new();
    if waits {
        steps.push(Step::EnsureStats);
    }
    let mut requeue = None;
    let mut told = Vec::new();
    for (_, container) in workload::members(object) {
        let at_work = observed.balancers.get(&container).filter(|_| !observed.stopping(&container));
        let Some(balancer) = at_work else { continue };
        let turn = turn(&decided, &inputs, &d, &container, balancer);
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
    steps.extend(workload::steps(object, observed, |container| settled(&decided, container)));
    if paused {
        (d, steps) = (before, Vec::new());
    }
    status::render(&decided, &mut status, &d, !steps.is_empty());
    status.decisions = Some(d);
    if paused {
        status.phase = "Paused".into();
        return Plan { status: conditions::paused(status, now), steps, requeue: None, finished: false };
    }
    if !steps.is_empty() {
        requeue = sooner(requeue, Some(AT_ONCE));
    }
    if status.phase != "Healthy" {
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
struct Turn {
    steps: Vec<Step>,
    again: Option<Duration>,
}

fn turn(decided: &Decided, inputs: &Inputs, d: &BalancerDecisions, container: &str, balancer: &Balancer) -> Turn {
    let Some(answer) = balancer.answer.known() else { return Turn { again: Some(SOON), ..Default::default() } };
    let engine = inputs.spec.engine;
    let mut turn = Turn::default();
    let servers = servers(decided, engine, answer);
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
    let Some(config) = config(decided, inputs, balancer, &servers) else { return turn };
    let runs = answer.hash == config.hash;
    let written = balancer.file.known().is_some_and(|file| file.0 == config.text);
    let wait = d.last_reload.map_or(Duration::ZERO, |last| {
        let since = decided.now.duration_since(last);
        RELOAD_GAP.saturating_sub(if since.is_negative() { RELOAD_GAP } else { since.unsigned_abs() })
    });
    if !runs && !wait.is_zero() {
        turn.again = sooner(turn.again, Some(wait));
    } else if !runs || !written && balancer.file.known().is_some() {
        let files = if runs { Vec::new() } else { files(decided, inputs, d) };
        turn.steps.push(Step::Configure { container: container.to_owned(), config, files, reload: !runs });
    }
    turn
}

/// What each backend's servers are to be at a balancer.
fn servers(decided: &Decided, engine: EngineKind, answer: &Answer) -> BTreeMap<String, Vec<Wanted>> {
    let of = |route: &Route| (route.backend.name.clone(), wanted::at_balancer(route, engine, answer, decided.now));
    decided.routes.iter().map(of).collect()
}

/// Something goes on that ends by itself: a check, or the sessions of a server that leaves.
fn waits(servers: &BTreeMap<String, Vec<Wanted>>, answer: &Answer) -> bool {
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
    decided: &Decided,
    inputs: &Inputs,
    balancer: &Balancer,
    servers: &BTreeMap<String, Vec<Wanted>>,
) -> Option<Config> {
    let wanted = decided.skeleton.as_ref().map(|skeleton| render::assemble(inputs.spec, skeleton, servers));
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
fn files(decided: &Decided, inputs: &Inputs, d: &BalancerDecisions) -> Vec<File> {
    let file = |path: String, text: &str| File { path, mode: 0o600, owner: (0, 0), bytes: text.as_bytes().to_vec() };
    let good = decided.observed.certificates.values().filter_map(|one| one.as_ref().ok());
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
fn settled(decided: &Decided, container: &str) -> bool {
    let running = decided.observed.container(container);
    let running = running.is_some_and(|seen| seen.state == ContainerState::Running);
    let running = running && !decided.observed.stopping(container);
    running && decided.observed.balancers.get(container).is_some_and(status::balances)
}

fn teardown(
    object: &LoadBalancer,
    observed: &Observed,
    mut status: LoadBalancerStatus,
) -> Plan<Step, LoadBalancerStatus> {
    let (steps, finished) = workload::teardown(object, observed).unwrap_or_default();
    status.phase = "Deleting".into();
    Plan { status, steps, requeue: (!finished).then_some(DEGRADED), finished }
}
