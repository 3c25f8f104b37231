//! The seeds of CI, and the output of a failing one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::driver::{Outcome, run, run_without, run_without_resync};
use crate::kinds::postgres_cluster::world::Ablation;

/// Number of seeds unless `EVENKEEL_SEEDS` sets it: four to five minutes of one core.
const SEEDS: u64 = 600;
/// Number of seeds without resync.
const SEEDS_WITHOUT_RESYNC: u64 = 100;
/// Last lines of a failing seed's trace that are printed.
const LINES: usize = 60;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn told(seed: u64, outcome: &Outcome) -> Option<String> {
    let wrong = outcome.wrong.as_ref()?;
    let from = outcome.trace.len().saturating_sub(LINES);
    Some(format!(
        "seed {seed}: {wrong}\n{}\nseed {seed}: {wrong}\nreplay: EVENKEEL_SEED={seed} cargo test --lib simulation -- --nocapture",
        outcome.trace[from..].join("\n")
    ))
}

/// Runs the seeds on all cores; returns those that failed.
fn failing(seeds: std::ops::Range<u64>) -> Vec<(u64, Outcome)> {
    let next = AtomicU64::new(seeds.start);
    let failed = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = run(seed);
                    if outcome.wrong.is_some() {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push((seed, outcome));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.sort_by_key(|(seed, _)| *seed);
    failed
}

#[test]
fn every_seed_loses_nothing_heals_and_comes_to_rest() {
    if let Some(seed) = number("EVENKEEL_SEED") {
        let outcome = run(seed);
        println!("{}", outcome.trace.join("\n"));
        assert!(outcome.wrong.is_none(), "seed {seed}: {}", outcome.wrong.unwrap_or_default());
        return;
    }
    let first = number("EVENKEEL_FIRST_SEED").unwrap_or(0);
    let failed = failing(first..first + number("EVENKEEL_SEEDS").unwrap_or(SEEDS));
    let others: Vec<_> =
        failed.iter().map(|(seed, outcome)| format!("{seed}: {}", outcome.wrong.clone().unwrap_or_default())).collect();
    if let Some(told) = failed.first().and_then(|(seed, outcome)| told(*seed, outcome)) {
        panic!("{} seeds failed:\n{}\n{told}", failed.len(), others.join("\n"));
    }
}

#[test]
fn one_seed_run_twice_gives_identical_bytes() {
    for seed in 0..24 {
        let (one, other) = (run(seed).trace, run(seed).trace);
        if let Some(at) = (0..one.len().max(other.len())).find(|at| one.get(*at) != other.get(*at)) {
            panic!("seed {seed} differs at line {at}:\n{:?}\n{:?}", one.get(at), other.get(at));
        }
    }
}

/// A missed event is found at the next resync, ten seconds later. Without resync everything depends on what wakes the
/// cluster: its concerns, Docker's events, its supervisors' reports, and the plan's own requeue.
#[test]
fn a_cluster_heals_by_what_wakes_it_alone() {
    for seed in 0..SEEDS_WITHOUT_RESYNC {
        let outcome = run_without_resync(seed);
        if let Some(told) = told(seed, &outcome) {
            panic!("without resync:\n{told}");
        }
    }
}

/// Parts of the protocol whose absence a seed finds within a few tries; the model checker finds the rest.
#[test]
fn what_is_taken_out_of_the_protocol_is_missed() {
    for ablation in [Ablation::DurablePromise, Ablation::Gate, Ablation::SessionKill] {
        let missed = (0..40).any(|seed| run_without(seed, Some(ablation)).wrong.is_some());
        assert!(missed, "{ablation:?} is not missed");
    }
}
