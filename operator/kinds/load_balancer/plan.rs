//! Plans a LoadBalancer: a total function of the object, what was observed, what users want, and the time. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::context::{BalancerPlan, PlanContext};
use super::inputs::{Inputs, certificate_file, certificate_secrets};
use super::places::{self, Place};
use super::routing::{self, ResolvedBackend, Servers};
use super::seen::{Admin, Answer};
use super::{
    Balancer, LoadBalancer, LoadBalancerKind, Observed, Step, diff, published, render, stages, status, workload,
};
use crate::api::conditions;
use crate::api::load_balancer::{BalancerDecisions, BalancerPhase, LoadBalancerStatus};
use crate::engine::{ContainerState, File};
use crate::kinds::loss;
use crate::runtime::{Plan, Planned, Want, sooner};

/// Requeue after a step, to observe its effect.
const AT_ONCE: Duration = Duration::from_millis(50);
/// Requeue while waiting for a health check or a drain, which send no event.
const SOON: Duration = Duration::from_millis(200);
/// Requeue while something differs from the spec and is not urgent.
const DEGRADED: Duration = Duration::from_secs(1);
/// The plan of a LoadBalancer.
pub fn plan(object: &LoadBalancer, observed: &Observed, want: Want, now: Timestamp) -> Planned<LoadBalancerKind> {
    let mut status = object.status.clone().unwrap_or_default();
    if want == Want::Absent {
        return teardown(object, observed, status);
    }
    let paused = want == Want::Paused;
    let before = status.decisions.take().unwrap_or_default();
    let mut d = before.clone();
    let backends = routing::resolve(object, observed, &mut d, now);
    let certificates = certificates(object, observed, &mut d);
    let decided = places::decide(object, observed, &before, |member| serves(object, observed, &before, member));
    d.places = decided.places.clone();
    let places = places::members(object, &d.places);
    let password = observed.stats_password.as_ref().map(|password| password.0.as_str());
    let in_force = d.certificates.clone();
    let inputs = Inputs::new(object, &in_force, password);
    let waits = object.spec.stats.is_some() && password.is_none();
    let skeleton = (!waits).then(|| render::skeleton(&inputs));
    let files = files(observed, &inputs, &d);
    let last_reload = d.last_reload;
    let losses = loss::judge(&observed.declared, &observed.silent);
    let context = PlanContext {
        object,
        observed,
        inputs,
        places,
        decided,
        losses,
        backends,
        skeleton,
        files,
        certificates,
        last_reload,
        now,
    };
    let (mut steps, no_port) = published::reserve(object, observed, &context.places);
    if waits {
        steps.push(Step::EnsureStats);
    }
    let mut requeue = None;
    let mut told = Vec::new();
    let mut reloading = false;
    for place in &context.places {
        let at_work = observed.balancer(place).filter(|_| !observed.stopping(place));
        let Some(balancer) = at_work else { continue };
        let plan = balancer_plan(&context, &place.container, balancer);
        requeue = sooner(requeue, plan.again);
        reloading |= plan.reloading;
        told.extend(plan.steps);
    }
    let reloads = told.iter().filter(|step| matches!(step, Step::Reload { .. })).count();
    if reloads > 0 {
        d.reloads += reloads as u64;
        d.last_reload = Some(now);
    }
    // Running balancers come first, because creating a container takes time.
    steps.extend(told);
    steps.extend(workload::steps(object, observed, &context.places, |place| settled(&context, place)));
    d.started |= observed.balancers.values().any(status::balances);
    if paused {
        (d, steps) = (before, Vec::new());
    }
    status::render(&context, &mut status, &d, &no_port, reloading || !steps.is_empty());
    status.decisions = Some(d);
    if paused {
        status.phase = BalancerPhase::Paused;
        return Plan { status: conditions::paused(status, now), steps, requeue: None, finished: false };
    }
    if !steps.is_empty() {
        requeue = sooner(requeue, Some(AT_ONCE));
    }
    if status.phase != BalancerPhase::Healthy {
        requeue = sooner(requeue, Some(DEGRADED));
    }
    Plan { status, steps, requeue, finished: false }
}

/// The certificate in use of each Secret is the last valid one. Returns the problems of the others.
fn certificates(object: &LoadBalancer, observed: &Observed, d: &mut BalancerDecisions) -> Vec<String> {
    let named = certificate_secrets(&object.spec);
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

fn balancer_plan(context: &PlanContext, container: &str, balancer: &Balancer) -> BalancerPlan {
    let Some(answer) = balancer.answer.known() else {
        return BalancerPlan { again: Some(SOON), ..Default::default() };
    };
    let live = render::dialect(context.inputs.spec.engine).live_servers;
    let servers = servers(context, &balancer.host, live, answer);
    let mut plan = stages::next(context, container, balancer, answer, &servers);
    if live {
        let commands = diff::commands(&context.inputs, answer, &servers);
        if !commands.is_empty() {
            let (container, old) = (container.to_owned(), answer.old.clone());
            plan.steps.insert(0, Step::Tell { container, commands, old });
        }
    }
    if if live { waits(&servers, answer) } else { drains(answer) } {
        plan.again = sooner(plan.again, Some(SOON));
    }
    plan
}

/// The desired servers of each backend at a balancer on this host.
fn servers(context: &PlanContext, host: &str, live: bool, answer: &Answer) -> Servers {
    let of = |one: &ResolvedBackend| (one.backend.name.clone(), routing::at_balancer(one, host, live, answer));
    context.backends.iter().map(of).collect()
}

/// Whether something runs that ends without a step: a health check, or the sessions of a leaving server.
fn waits(servers: &Servers, answer: &Answer) -> bool {
    servers.iter().any(|(backend, servers)| {
        servers.iter().any(|server| {
            let seen = answer.server(backend, &server.name);
            server.admin == Admin::Drain || seen.is_some_and(|seen| seen.admin != server.admin)
        })
    })
}

/// Whether an nginx has a server that gets nothing new and may still have sessions in an old process.
fn drains(answer: &Answer) -> bool {
    answer.servers.values().any(|seen| seen.admin != Admin::Ready && seen.sessions > 0)
}

/// The files that the configuration refers to.
fn files(observed: &Observed, inputs: &Inputs, d: &BalancerDecisions) -> Vec<File> {
    let file = |path: String, text: &str| File { path, mode: 0o600, owner: (0, 0), bytes: text.as_bytes().to_vec() };
    let good = observed.certificates.values().filter_map(|one| one.as_ref().ok());
    let used = good.filter(|one| d.certificates.values().any(|hash| *hash == one.hash));
    let certificates = used.map(|one| file(certificate_file(&one.hash), &one.pem.0));
    let others = (render::dialect(inputs.spec.engine).files)(inputs).into_iter();
    certificates.chain(others.map(|(path, text)| file(path.to_owned(), &text))).collect()
}

/// Whether it balances, with the desired configuration unless its engine refused that; or cannot be waited for.
fn settled(context: &PlanContext, place: &Place) -> bool {
    let away = place.host.as_ref().is_none_or(|host| context.losses.mute.contains(host));
    away || balances(context.observed, place)
}

fn balances(observed: &Observed, place: &Place) -> bool {
    let running = observed.container(place).is_some_and(|seen| seen.state == ContainerState::Running);
    running && !observed.stopping(place) && observed.balancer(place).is_some_and(status::balances)
}

/// Whether the balancer of this name balances at the place that was recorded.
fn serves(object: &LoadBalancer, observed: &Observed, before: &BalancerDecisions, member: &str) -> bool {
    places::members(object, &before.places).iter().any(|place| place.member == member && balances(observed, place))
}

fn teardown(object: &LoadBalancer, observed: &Observed, mut status: LoadBalancerStatus) -> Planned<LoadBalancerKind> {
    let recorded = status.decisions.as_ref().map(|d| d.places.clone()).unwrap_or_default();
    let places = places::members(object, &recorded);
    let (steps, finished) = workload::teardown(object, observed, &places);
    status.phase = BalancerPhase::Deleting;
    Plan { status, steps, requeue: (!finished).then_some(DEGRADED), finished }
}
