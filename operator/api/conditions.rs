//! Kubernetes conditions; the transition time of a condition changes only with its status.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::backup::BaseBackupStatus;
use super::database_restore::DatabaseRestoreStatus;
use super::deployment::DeploymentStatus;
use super::docker_host::DockerHostStatus;
use super::load_balancer::LoadBalancerStatus;
use super::port_reservation::PortReservationStatus;
use super::postgres_cluster::PostgresClusterStatus;
use super::redis_cluster::RedisClusterStatus;
use super::redis_sentinel::RedisSentinelStatus;
use super::scheduled_backup::ScheduledBackupStatus;
use super::volume_restore::VolumeRestoreStatus;

/// The status of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The condition holds.
    True,
    /// The condition does not hold.
    False,
    /// The condition is not known.
    Unknown,
}

impl Status {
    /// The word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// The content of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it holds.
    pub status: Status,
    /// One CamelCase word, for programs.
    pub reason: String,
    /// A sentence, for people.
    pub message: String,
}

impl Verdict {
    /// A verdict from its three parts.
    pub fn new(status: Status, reason: &str, message: impl Into<String>) -> Self {
        Self { status, reason: reason.to_owned(), message: message.into() }
    }
}

/// True, with a reason and a message.
pub fn yes(reason: &str, message: impl Into<String>) -> Verdict {
    Verdict::new(Status::True, reason, message)
}

/// False, with a reason and a message.
pub fn no(reason: &str, message: impl Into<String>) -> Verdict {
    Verdict::new(Status::False, reason, message)
}

/// Unknown, with a reason and a message.
pub fn unknown(reason: &str, message: impl Into<String>) -> Verdict {
    Verdict::new(Status::Unknown, reason, message)
}

/// Sets the condition of this type; the transition time changes only if the status does.
pub fn set(conditions: &mut Vec<Condition>, kind: &str, verdict: Verdict, generation: i64, now: Timestamp) {
    let Verdict { status, reason, message } = verdict;
    let status = status.as_str();
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
    /// The generation of the spec that the status is about.
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

impl Conditions for BaseBackupStatus {
    fn generation(&self) -> i64 {
        self.observed_generation
    }

    fn conditions(&mut self) -> &mut Vec<Condition> {
        &mut self.conditions
    }
}

impl Conditions for DatabaseRestoreStatus {
    fn generation(&self) -> i64 {
        self.observed_generation
    }

    fn conditions(&mut self) -> &mut Vec<Condition> {
        &mut self.conditions
    }
}

impl Conditions for VolumeRestoreStatus {
    fn generation(&self) -> i64 {
        self.observed_generation
    }

    fn conditions(&mut self) -> &mut Vec<Condition> {
        &mut self.conditions
    }
}

impl Conditions for ScheduledBackupStatus {
    fn generation(&self) -> i64 {
        self.observed_generation
    }

    fn conditions(&mut self) -> &mut Vec<Condition> {
        &mut self.conditions
    }
}

impl Conditions for RedisSentinelStatus {
    fn generation(&self) -> i64 {
        self.observed_generation
    }

    fn conditions(&mut self) -> &mut Vec<Condition> {
        &mut self.conditions
    }
}

impl Conditions for RedisClusterStatus {
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

impl Conditions for PortReservationStatus {
    fn generation(&self) -> i64 {
        0
    }

    fn conditions(&mut self) -> &mut Vec<Condition> {
        &mut self.conditions
    }
}

/// The status with the conditions of a failed step: not progressing, and degraded.
pub fn step_failed<S: Conditions>(mut status: S, reason: &str, message: String, now: Timestamp) -> S {
    let generation = status.generation();
    set(status.conditions(), "Progressing", no(reason, message.clone()), generation, now);
    set(status.conditions(), "Degraded", yes(reason, message), generation, now);
    status
}

/// The status with the condition that the object is paused.
pub fn paused<S: Conditions>(mut status: S, now: Timestamp) -> S {
    let generation = status.generation();
    let verdict = no("Paused", "reconciliation is paused by annotation");
    set(status.conditions(), "Progressing", verdict, generation, now);
    status
}

fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
