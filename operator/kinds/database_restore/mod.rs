//! DatabaseRestore: one dump, restored into a new database of a PostgresCluster by the supervisor of its primary.
//!
//! `observe` reads the cluster, the dump's Backup and cluster, the other restores, and what the supervisors say; `plan` records the
//! attempt and follows it; `act` sends a command, with what opens the archive. The supervisor carries the bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::backup::Backup;
use crate::api::conditions::{self, no};
use crate::api::database_restore::{DatabaseRestore, DatabaseRestoreStatus};
use crate::api::failure::Failure;
use crate::api::object::{Object as _, RECONCILE_ANNOTATION};
use crate::api::postgres_cluster::PostgresCluster;
use crate::engine::hosts::Hosts;
use crate::kinds::attempts::{LinkSeen, Other};
use crate::kinds::containers::Docker;
use crate::kinds::links::Links;
use crate::kinds::postgres_reports::PostgresSpeech;
use crate::kinds::stores::Problem;
use crate::kinds::waits::{Waited, Waits};
use crate::runtime::{Concern, Keeper, Kind, Planned, Significance, Wake, Want};
use crate::store::Key;
use crate::store::objects::Objects;

mod act;
mod observe;
mod plan;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod scenarios;

/// The kind of DatabaseRestore objects.
pub struct DatabaseRestoreKind {
    docker: Docker,
    objects: Objects,
    links: Links<PostgresSpeech>,
    /// Since when this operator has known of what is recorded.
    waits: Waits,
}

impl DatabaseRestoreKind {
    /// The kind over these hosts and objects; `wake` is called with a DatabaseRestore whose supervisors have news.
    pub fn new(hosts: Arc<Hosts>, objects: Objects, wake: Wake) -> Self {
        let docker = Docker::new(hosts, objects.clone(), wake.clone());
        let links = Links::new(wake, &objects);
        Self { docker, objects, links, waits: Waits::default() }
    }
}

/// One snapshot of everything that the plan of a DatabaseRestore needs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observed {
    /// The cluster that gets the database; `None`: there is none of this name.
    pub cluster: Option<PostgresCluster>,
    /// The Backup that `spec.from` names; `None`: it names none, or there is none.
    pub backup: Option<Backup>,
    /// The cluster whose archive has the dump; `None`: there is none, or it is not known which.
    pub source: Option<PostgresCluster>,
    /// Why the store of that cluster cannot be opened.
    pub closed: Option<Problem>,
    /// The other restores into the cluster.
    pub others: Vec<Other>,
    /// The link to the supervisor of each member of the cluster, by member name. None before it is this restore's turn.
    pub links: BTreeMap<String, LinkSeen>,
    /// How long this operator has known of the recorded moments.
    pub waited: Waited,
}

/// One step.
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Tell the primary to restore the dump. It is told with the credentials of the store, which are in no step.
    Start { member: String, attempt: u32, dump: String, archive: String },
    /// Tell it to cut that off.
    CutOff { member: String },
    /// Tell people that it has ended.
    Tell { completed: bool, message: String },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { member, attempt, dump, .. } => {
                write!(f, "restore dump {dump} on {member}, attempt {attempt}")
            }
            Self::CutOff { member } => write!(f, "cut off the restore on {member}"),
            Self::Tell { message, .. } => f.write_str(message),
        }
    }
}

impl Significance for Step {
    fn event_reason(&self) -> Option<&'static str> {
        match self {
            Self::Start { attempt, .. } if *attempt > 1 => Some("RestoreMoved"),
            Self::Start { .. } => Some("RestoreStarted"),
            Self::Tell { completed: true, .. } => Some("RestoreCompleted"),
            Self::Tell { completed: false, .. } => Some("RestoreFailed"),
            Self::CutOff { .. } => None,
        }
    }

    fn lane(&self) -> Option<&str> {
        match self {
            Self::Start { member, .. } | Self::CutOff { member } => Some(member),
            Self::Tell { .. } => Some("people"),
        }
    }
}

impl Kind for DatabaseRestoreKind {
    type Object = DatabaseRestore;
    type Status = DatabaseRestoreStatus;
    type Observed = Observed;
    type Step = Step;

    fn concerns() -> Vec<Concern> {
        vec![
            Concern::referenced(PostgresCluster::RESOURCE).only(cluster_part),
            Concern::referenced(Backup::RESOURCE).only(backup_part),
            Concern::all(DatabaseRestore::RESOURCE).only(turn_part),
        ]
    }

    fn references(object: &DatabaseRestore) -> Vec<Key> {
        observe::references(object)
    }

    async fn observe(&self, object: &DatabaseRestore) -> Result<Observed, Failure> {
        observe::observe(self, object).await
    }

    fn plan(&self, object: &DatabaseRestore, observed: &Observed, want: Want, now: Timestamp) -> Planned<Self> {
        plan::plan(object, observed, want, now)
    }

    fn recorded(&self, before: &DatabaseRestore, status: &DatabaseRestoreStatus) {
        self.waits.note(&before.owner(), observe::moments(before, Some(status)));
    }

    async fn act(&self, object: &DatabaseRestore, step: &Step) -> Result<(), Failure> {
        act::act(self, object, step).await
    }

    fn step_failed(
        &self,
        status: DatabaseRestoreStatus,
        step: &Step,
        failure: &Failure,
        now: Timestamp,
    ) -> DatabaseRestoreStatus {
        let message = format!("could not {step}: {failure}; it is tried again");
        let mut status = DatabaseRestoreStatus { message: message.clone(), ..status };
        let verdict = no(step.failure_reason(), message);
        conditions::set(&mut status.conditions, plan::COMPLETED, verdict, status.observed_generation, now);
        status
    }

    fn companions(&self) -> Vec<&dyn Keeper> {
        vec![&self.docker.work, &self.links, &self.waits]
    }
}

/// The part of a PostgresCluster that matters to restores.
fn cluster_part(cluster: &Value) -> Value {
    let decisions = &cluster["status"]["decisions"];
    let decided = ["archive", "leader", "stage", "members"].map(|field| &decisions[field]);
    json!([cluster["spec"]["backup"]["store"], cluster["metadata"]["deletionTimestamp"], decided])
}

/// The part of a Backup that matters to restores.
fn backup_part(backup: &Value) -> Value {
    json!([backup["spec"], backup["status"]["phase"]])
}

/// The part of a DatabaseRestore that decides whose turn it is.
fn turn_part(restore: &Value) -> Value {
    let paused = &restore["metadata"]["annotations"][RECONCILE_ANNOTATION];
    json!([restore["spec"]["cluster"], restore["status"]["phase"], paused])
}
