//! Kubernetes conditions: what they say, and that their transition time moves only when their status does.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::deployment::DeploymentStatus;
use super::docker_host::DockerHostStatus;
use super::load_balancer::LoadBalancerStatus;
use super::postgres_cluster::PostgresClusterStatus;

/// What a condition says: status, reason (one CamelCase word), message.
pub type Verdict = (&'static str, String, String);

/// True, with a reason and a message.
pub fn yes(reason: &str, message: impl Into<String>) -> Verdict {
    ("True", reason.to_owned(), message.into())
}

/// False, with a reason and a message.
pub fn no(reason: &str, message: impl Into<String>) -> Verdict {
    ("False", reason.to_owned(), message.into())
}

/// Unknown, with a reason and a message.
pub fn unknown(reason: &str, message: impl Into<String>) -> Verdict {
    ("Unknown", reason.to_owned(), message.into())
}

/// Sets the condition of this type; its transition time moves only when its status does.
pub fn set(conditions: &mut Vec<Condition>, kind: &str, verdict: Verdict, generation: i64, now: Timestamp) {
    let (status, reason, message) = verdict;
    let old = conditions.iter().position(|condition| condition.type_ == kind);
    let since = old.map(|at| &conditions[at]).filter(|old| old.status == status);
    let condition = Condition {
        type_: kind.into(),
        last_transition_time: since.map_or_else(|| Time(whole_seconds(now)), |old| old.last_transition_time.clone()),
        observed_generation: Some(generation),
        status: status.into(),
        reason,
        message,
    };
    match old {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

/// A status with conditions.
pub trait Conditions {
    /// The generation of the spec that the status speaks of.
    fn generation(&self) -> i64;
    /// The conditions.
    fn conditions(&mut self) -> &mut Vec<Condition>;
}

impl Conditions for DeploymentStatus {
    fn generation(&self) -> i64 {
        self.observed_generation
    }

    fn conditions(&mut self) -> &mut Vec<Condition> {
        &mut self.conditions
    }
}

impl Conditions for PostgresClusterStatus {
    fn generation(&self) -> i64 {
        self.observed_generation
    }

    fn conditions(&mut self) -> &mut Vec<Condition> {
        &mut self.conditions
    }
}

impl Conditions for LoadBalancerStatus {
    fn generation(&self) -> i64 {
        self.observed_generation
    }

    fn conditions(&mut self) -> &mut Vec<Condition> {
        &mut self.conditions
    }
}

impl Conditions for DockerHostStatus {
    fn generation(&self) -> i64 {
        self.observed_generation.unwrap_or_default()
    }

    fn conditions(&mut self) -> &mut Vec<Condition> {
        &mut self.conditions
    }
}

/// The status with conditions that say that a step failed: nothing progresses, and something is wrong.
pub fn step_failed<S: Conditions>(mut status: S, reason: &str, message: String, now: Timestamp) -> S {
    let generation = status.generation();
    set(status.conditions(), "Progressing", no(reason, message.clone()), generation, now);
    set(status.conditions(), "Degraded", yes(reason, message), generation, now);
    status
}

/// The status with a condition that says that people have paused the object.
pub fn paused<S: Conditions>(mut status: S, now: Timestamp) -> S {
    let generation = status.generation();
    let verdict = no("Paused", "reconciliation is paused by annotation");
    set(status.conditions(), "Progressing", verdict, generation, now);
    status
}

fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
