//! Brings a configuration into use, stage by stage: written, signalled, then taken up or refused. Pure. The stage
//! follows from the files in the volume, the balancer's answer and the time of the signal, so an operator that was
//! interrupted, or its successor, continues there.

use std::time::Duration;

use jiff::Timestamp;

use super::context::{BalancerPlan, PlanContext};
use super::render::{self, BOOTSTRAP, Config};
use super::routing::Servers;
use super::seen::Answer;
use super::{Balancer, ConfigFiles, Step, text};
use crate::kinds::waits;

/// Time-out of a reload: a balancer that does not answer with the new configuration by then has not taken it up.
const TAKE_UP: Duration = Duration::from_secs(10);
/// Requeue while a balancer takes up its configuration.
const LOOK: Duration = Duration::from_millis(50);
/// Shortest time between two reloads, because each leaves an old process behind.
const RELOAD_GAP: Duration = Duration::from_secs(1);
/// The same while a reload would end old processes, so that more changes go into one reload.
const CROWDED_GAP: Duration = Duration::from_secs(3);

/// The next steps for the configuration of a balancer with these servers.
pub fn next(
    context: &PlanContext,
    container: &str,
    balancer: &Balancer,
    answer: &Answer,
    servers: &Servers,
) -> BalancerPlan {
    let Some(files) = balancer.files.known() else { return BalancerPlan::default() };
    let Some(config) = config(context, files, servers) else { return BalancerPlan::default() };
    let now = |steps: Vec<Step>| BalancerPlan { steps, ..Default::default() };
    let later = |wait| BalancerPlan { again: Some(wait), reloading: true, ..Default::default() };
    let container = container.to_owned();
    let keep = |accepted| Step::Keep { container: container.clone(), accepted };
    let ending = ending(context, &container, answer);
    let gap = if ending.is_some() { CROWDED_GAP } else { RELOAD_GAP };
    let reload = || {
        let reload = Step::Reload { container: container.clone(), hash: config.hash.clone(), failed: answer.failed };
        ending.clone().into_iter().chain([reload]).collect()
    };
    let (runs, written) = (answer.hash == config.hash, files.current.0 == config.text);
    let kept = files.good.as_ref() == Some(&files.current);
    let signalled = balancer.signalled.as_ref().filter(|signalled| signalled.hash == config.hash);
    // A clock that was set back neither ends a wait nor makes it longer.
    let waited = signalled.map(|signalled| since(context, signalled.at).unwrap_or_default());
    let reloaded = context.last_reload.map(|last| waits::waited(&context.observed.waited, last));
    let gap = reloaded.map_or(Duration::ZERO, |since| gap.saturating_sub(since));
    match (written, runs) {
        (false, true) => now(vec![write(context, &container, config, true)]),
        (_, false) if waited.is_none() && !gap.is_zero() => later(gap),
        (false, false) => {
            // The file that will be overwritten is the running configuration: keep it as the last good one first.
            let proven = text::hash_in(&files.current.0) == Some(&answer.hash) && files.good.is_some() && !kept;
            let first = proven.then(|| keep(false));
            now(first.into_iter().chain([write(context, &container, config, false)]).collect())
        }
        (true, false) => match (signalled, waited) {
            (Some(signalled), Some(waited)) if answer.failed > signalled.failed || waited >= TAKE_UP => {
                // The old process continues; the next plan makes the last good one the file in use again.
                if config.last_good { now(reload()) } else { now(vec![refuse(&container, config)]) }
            }
            (Some(_), _) => later(LOOK),
            (None, _) => now(reload()),
        },
        // HAProxy's master process waits for a configuration that it can take.
        (true, true) if answer.failed > 0 && waited.is_none_or(|waited| waited >= TAKE_UP) => now(reload()),
        (true, true) => {
            let accepted = !config.last_good;
            let due = !kept && config.hash != BOOTSTRAP || accepted && files.refused.is_some();
            now(due.then(|| keep(accepted)).into_iter().collect())
        }
    }
}

/// The step that ends the oldest processes if a reload would leave more behind than the spec allows.
fn ending(context: &PlanContext, container: &str, answer: &Answer) -> Option<Step> {
    let spec = &context.object.spec;
    let (most, more) = (spec.old_processes(), render::dialect(spec.engine).left_by_reload);
    let excess = (answer.old.len() + more).saturating_sub(most).min(answer.old.len());
    let processes = answer.old[..excess].to_vec();
    (excess > 0).then(|| Step::End { container: container.to_owned(), processes, most })
}

fn since(context: &PlanContext, then: Timestamp) -> Option<Duration> {
    Duration::try_from(context.now.duration_since(then)).ok()
}

fn write(context: &PlanContext, container: &str, config: Config, runs: bool) -> Step {
    let files = if runs { Vec::new() } else { context.files.clone() };
    Step::Write { container: container.to_owned(), config, files, runs }
}

fn refuse(container: &str, config: Config) -> Step {
    Step::Refuse { container: container.to_owned(), hash: config.hash, skeleton: config.skeleton }
}

/// The configuration that a balancer should have: the desired one, or, if its engine refused that, the last good one
/// with the current servers.
fn config(context: &PlanContext, files: &ConfigFiles, servers: &Servers) -> Option<Config> {
    let spec = &context.object.spec;
    let wanted = context.skeleton.as_ref().map(|skeleton| render::assemble(spec, skeleton, servers));
    let refused = |config: &Config| files.refused.as_ref().is_some_and(|one| one.skeleton == config.skeleton);
    if let Some(config) = wanted.filter(|config| !refused(config)) {
        return Some(config);
    }
    let good = &files.good.as_ref().unwrap_or(&files.current).0;
    let skeleton = text::skeleton(good)?;
    Some(if text::hash_in(good) == Some(BOOTSTRAP) {
        // It listens on no port and has no servers.
        Config { hash: BOOTSTRAP.into(), text: good.clone(), skeleton: text::hash(&skeleton), last_good: true }
    } else {
        Config { last_good: true, ..render::assemble(spec, &skeleton, servers) }
    })
}
