//! Backup: one base backup of a PostgresCluster, taken by the supervisor of one of its members.
//!
//! `observe` reads the cluster, the other Backups of it, and what its supervisors say; `plan` chooses the member, records the
//! attempt and follows it; `act` sends a command. The supervisor carries the bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::backup::{AttemptFailure, Backup, BaseBackupStatus};
use crate::api::conditions::{self, no};
use crate::api::failure::Failure;
use crate::api::lsn::Lsn;
use crate::api::object::{Object as _, RECONCILE_ANNOTATION};
use crate::api::postgres_cluster::PostgresCluster;
use crate::engine::hosts::Hosts;
use crate::kinds::containers::Docker;
use crate::kinds::links::{self, Links};
use crate::kinds::postgres_reports::PostgresSpeech;
use crate::kinds::waits::{Waited, Waits};
use crate::runtime::{Concern, Keeper, Kind, Planned, Significance, Wake, Want};
use crate::store::Key;
use crate::store::objects::Objects;
use crate::supervisor::wire::{BackupOrder, Command, Report};

mod act;
mod observe;
mod plan;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod scenarios;

/// The kind of Backup objects.
pub struct BackupKind {
    docker: Docker,
    objects: Objects,
    links: Links<PostgresSpeech>,
    /// Since when this operator has known of what is recorded.
    waits: Waits,
}

impl BackupKind {
    /// The kind over these hosts and objects; `wake` is called with a Backup whose supervisors have news.
    pub fn new(hosts: Arc<Hosts>, objects: Objects, wake: Wake) -> Self {
        let docker = Docker::new(hosts, objects.clone(), wake.clone());
        let links = Links::new(wake, &objects);
        Self { docker, objects, links, waits: Waits::default() }
    }
}

/// The state of a link to a supervisor.
pub type LinkSeen = links::LinkSeen<Report>;

/// One snapshot of everything that the plan of a Backup needs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observed {
    /// The cluster; `None`: there is none of this name.
    pub cluster: Option<PostgresCluster>,
    /// The other Backups of the cluster.
    pub others: Vec<Other>,
    /// The link to the supervisor of each member of the cluster, by member name. None before it is this Backup's turn.
    pub links: BTreeMap<String, LinkSeen>,
    /// How long this operator has known of the recorded moments.
    pub waited: Waited,
}

/// Another Backup of the same cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// Its name.
    pub name: String,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// It has ended.
    pub ended: bool,
    /// A member was chosen for it, and it has not ended.
    pub runs: bool,
    /// It is paused by annotation.
    pub paused: bool,
    /// The ID of its last attempt.
    pub backup_id: Option<String>,
}

/// One step.
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Tell a member to take the base backup.
    Start { member: String, order: BackupOrder },
    /// Tell a member to cut off the base backup that it takes.
    CutOff { member: String, id: String },
    /// Tell the primary to switch to a new WAL segment, so that the end of a base backup comes into the archive.
    SwitchWal { member: String, past: Lsn },
    /// Tell people that it has ended.
    Tell { completed: bool, message: String },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { member, order } => {
                write!(f, "take base backup {} of {member}, attempt {}", order.id, order.attempt)
            }
            Self::CutOff { member, id } => write!(f, "cut off base backup {id} of {member}"),
            Self::SwitchWal { member, past } => write!(f, "switch the WAL of {member} past {past}"),
            Self::Tell { message, .. } => f.write_str(message),
        }
    }
}

impl Significance for Step {
    fn event_reason(&self) -> Option<&'static str> {
        match self {
            Self::Start { order, .. } if order.attempt > 1 => Some("BackupMoved"),
            Self::Start { .. } => Some("BackupStarted"),
            Self::Tell { completed: true, .. } => Some("BackupCompleted"),
            Self::Tell { completed: false, .. } => Some("BackupFailed"),
            Self::CutOff { .. } | Self::SwitchWal { .. } => None,
        }
    }

    /// Members are independent of each other: one that cannot be reached delays no other.
    fn lane(&self) -> Option<&str> {
        match self {
            Self::Start { member, .. } | Self::CutOff { member, .. } | Self::SwitchWal { member, .. } => Some(member),
            Self::Tell { .. } => Some("people"),
        }
    }
}

impl Kind for BackupKind {
    type Object = Backup;
    type Status = BaseBackupStatus;
    type Observed = Observed;
    type Step = Step;

    fn concerns() -> Vec<Concern> {
        vec![
            Concern::referenced(PostgresCluster::RESOURCE).only(cluster_part),
            Concern::all(Backup::RESOURCE).only(turn_part),
        ]
    }

    fn references(object: &Backup) -> Vec<Key> {
        vec![observe::cluster_key(object)]
    }

    async fn observe(&self, object: &Backup) -> Result<Observed, Failure> {
        observe::observe(self, object).await
    }

    fn plan(&self, object: &Backup, observed: &Observed, want: Want, now: Timestamp) -> Planned<Self> {
        plan::plan(object, observed, want, now)
    }

    fn recorded(&self, before: &Backup, status: &BaseBackupStatus) {
        self.waits.note(&before.owner(), observe::moments(before, Some(status)));
    }

    async fn act(&self, object: &Backup, step: &Step) -> Result<(), Failure> {
        act::act(self, object, step)
    }

    fn step_failed(
        &self,
        status: BaseBackupStatus,
        step: &Step,
        failure: &Failure,
        now: Timestamp,
    ) -> BaseBackupStatus {
        let message = format!("could not {step}: {failure}; it is tried again");
        let mut status = BaseBackupStatus { message: message.clone(), ..status };
        let verdict = no(step.failure_reason(), message);
        conditions::set(&mut status.conditions, plan::COMPLETED, verdict, status.observed_generation, now);
        status
    }

    fn companions(&self) -> Vec<&dyn Keeper> {
        vec![&self.docker.work, &self.links, &self.waits]
    }
}

/// The part of a PostgresCluster that matters to its Backups.
fn cluster_part(cluster: &Value) -> Value {
    let (status, decisions) = (&cluster["status"], &cluster["status"]["decisions"]);
    let instances = status["instances"].as_array().into_iter().flatten();
    let instances: Vec<_> = instances.map(|one| json!([one["name"], one["role"], one["state"]])).collect();
    let decided = ["archive", "leader", "stage", "term", "members"].map(|field| &decisions[field]);
    json!([cluster["spec"]["backup"], cluster["metadata"]["deletionTimestamp"], decided, instances])
}

/// The part of a Backup that decides whose turn it is.
fn turn_part(backup: &Value) -> Value {
    let paused = &backup["metadata"]["annotations"][RECONCILE_ANNOTATION];
    json!([backup["spec"]["cluster"], backup["status"]["phase"], paused])
}

/// What a supervisor is told for this step; `None`: nothing.
fn command(step: &Step) -> Option<(&str, Command)> {
    match step {
        Step::Start { member, order } => Some((member, Command::Backup(Some(order.clone())))),
        Step::CutOff { member, .. } => Some((member, Command::Backup(None))),
        Step::SwitchWal { member, past } => Some((member, Command::SwitchWal { past: *past })),
        Step::Tell { .. } => None,
    }
}

/// Why an attempt on this member failed.
fn failure(member: &str, message: impl Into<String>) -> AttemptFailure {
    AttemptFailure { member: member.to_owned(), message: message.into() }
}
