//! Backup: one base backup of a PostgresCluster, one dump of a database, or one snapshot of a RedisSentinel, taken by the supervisor
//! of one of its members. `source` says the same of both kinds. `together` plans a Backup over several objects, and `together_seen`
//! reads what that needs.
//!
//! `observe` reads the cluster, the other Backups of it, and what its supervisors say; `plan` chooses the member, records the
//! attempt and follows it; `act` sends a command. The supervisor carries the bytes. What was asked to be tested is restored by a
//! PostgresCluster that `verify` creates, follows and removes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::backup::{AttemptFailure, Backup, BaseBackupStatus, VerificationResult};
use crate::api::conditions::{self, no};
use crate::api::deployment::{ClaimedVolume, Deployment};
use crate::api::failure::Failure;
use crate::api::lsn::Lsn;
use crate::api::object::{Object as _, RECONCILE_ANNOTATION};
use crate::api::postgres_cluster::PostgresCluster;
use crate::api::redis_sentinel::RedisSentinel;
use crate::engine::hosts::Hosts;
use crate::kinds::attempts::{LinkSeen, Other};
use crate::kinds::backup::source::Cluster;
use crate::kinds::containers::{Docker, DockerSeen, DockerStep, WorkSeen};
use crate::kinds::links::Links;
use crate::kinds::porters::{Heard, PorterSpeech};
use crate::kinds::postgres_reports::PostgresSpeech;
use crate::kinds::sentinel_reports::RedisSpeech;
use crate::kinds::stores::Problem;
use crate::kinds::waits::{Waited, Waits};
use crate::runtime::{Concern, Keeper, Kind, Planned, Significance, Wake, Want};
use crate::store::Key;
use crate::store::objects::Objects;
use crate::supervisor::redis::wire as redis;
use crate::supervisor::wire::{BackupOrder, Command, PointOrder};

mod act;
mod observe;
mod others;
mod plan;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod scenarios;
mod source;
mod together;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod together_scenarios;
mod together_seen;
mod verify;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod verify_scenarios;

/// The kind of Backup objects.
pub struct BackupKind {
    docker: Docker,
    objects: Objects,
    links: Links<PostgresSpeech>,
    redis: Links<RedisSpeech>,
    porters: Links<PorterSpeech>,
    /// Since when this operator has known of what is recorded.
    waits: Waits,
}

impl BackupKind {
    /// The kind over these hosts and objects; `wake` is called with a Backup whose supervisors have news.
    pub fn new(hosts: Arc<Hosts>, objects: Objects, wake: Wake) -> Self {
        let docker = Docker::new(hosts, objects.clone(), wake.clone());
        let (links, redis) = (Links::new(wake.clone(), &objects), Links::new(wake.clone(), &objects));
        let porters = Links::new(wake, &objects);
        Self { docker, objects, links, redis, porters, waits: Waits::default() }
    }
}

/// One snapshot of everything that the plan of a Backup needs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observed {
    /// The cluster; `None`: there is none of this name.
    pub cluster: Option<Cluster>,
    /// The other Backups of the cluster.
    pub others: Vec<Other>,
    /// Their restore tests.
    pub tests: Vec<Other>,
    /// The cluster that has the name of the throw-away one; `None`: there is none, or no test.
    pub test: Option<PostgresCluster>,
    /// Of a Backup over several objects: what its plan needs.
    pub together: Option<Box<TogetherSeen>>,
    /// The link to the supervisor of each member of the cluster, by member name. None before it is this Backup's turn.
    pub links: BTreeMap<String, LinkSeen>,
    /// How long this operator has known of the recorded moments.
    pub waited: Waited,
}

/// One snapshot of what the plan of a Backup over several objects needs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TogetherSeen {
    /// The other Backups over some of these objects.
    pub others: Vec<Other>,
    /// What each porter says.
    pub porters: Heard,
    /// The link to the supervisor of each member of the clusters, by member name.
    pub links: BTreeMap<String, LinkSeen>,
    /// All Deployments of the namespace, by name. They are read after the porters: what those say was so before.
    pub deployments: BTreeMap<String, Deployment>,
    /// The PostgresClusters that exist.
    pub clusters: BTreeMap<String, PostgresCluster>,
    /// Why the store cannot be opened.
    pub closed: Option<Problem>,
    /// What each host has of the porters.
    pub docker: BTreeMap<String, DockerSeen>,
    /// Background work on them.
    pub work: WorkSeen,
    /// The volumes that exist, of those that the Deployments claim; a host that does not answer has none.
    pub volumes: Vec<ClaimedVolume>,
}

/// One step.
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Tell a member to take the base backup or dump.
    Start { member: String, order: BackupOrder },
    /// Tell a member to cut off what it takes.
    CutOff { member: String, id: String },
    /// Tell the primary to switch to a new WAL segment, so that the end of a base backup comes into the archive.
    SwitchWal { member: String, past: Lsn },
    /// A step on the porters of the volumes.
    Docker(DockerStep),
    /// Tell a porter to copy its volume; `begin: false`: to try whether it will be possible. It is told with the credentials of the
    /// store, which are in no step.
    Copy { porter: String, claim: String, path: String, begin: bool },
    /// Tell a primary to make a restore point.
    Point { member: String, order: PointOrder },
    /// Tell people of the pods.
    Pods { reason: &'static str, message: String },
    /// Tell people that it has ended.
    Tell { completed: bool, message: String },
    /// Create the throw-away cluster of a restore test; one of this name is left as it is.
    CreateTest { name: String, cluster: Box<Value> },
    /// Remove it.
    RemoveTest { name: String, uid: Option<String> },
    /// Tell people how the restore test ended.
    Tested { passed: bool, message: String },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { member, order } => match &order.dump {
                None => write!(f, "take backup {} of {member}, attempt {}", order.id, order.attempt),
                Some(database) => {
                    write!(f, "dump database {database} of {member} as {}, attempt {}", order.id, order.attempt)
                }
            },
            Self::Docker(step) => step.fmt(f),
            Self::Copy { porter, claim, begin: true, .. } => write!(f, "copy the volume of claim {claim} by {porter}"),
            Self::Copy { porter, claim, .. } => write!(f, "try whether {porter} can copy the volume of claim {claim}"),
            Self::Point { member, order } => write!(f, "make restore point {} on {member}", order.name),
            Self::Pods { message, .. } => f.write_str(message),
            Self::CutOff { member, id } => write!(f, "cut off backup {id} of {member}"),
            Self::SwitchWal { member, past } => write!(f, "switch the WAL of {member} past {past}"),
            Self::CreateTest { name, .. } => write!(f, "create PostgresCluster {name}, which restores it"),
            Self::RemoveTest { name, .. } => write!(f, "remove PostgresCluster {name}"),
            Self::Tell { message, .. } | Self::Tested { message, .. } => f.write_str(message),
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
            Self::Tested { passed: true, .. } => Some("BackupVerified"),
            Self::Tested { passed: false, .. } => Some("VerifyFailed"),
            Self::Pods { reason, .. } => Some(reason),
            Self::Docker(step) => step.event_reason(),
            Self::Copy { .. }
            | Self::Point { .. }
            | Self::CutOff { .. }
            | Self::SwitchWal { .. }
            | Self::CreateTest { .. }
            | Self::RemoveTest { .. } => None,
        }
    }

    fn warns(&self) -> bool {
        matches!(self, Self::Tell { completed: false, .. } | Self::Tested { passed: false, .. })
    }

    /// Members are independent of each other: one that cannot be reached delays no other.
    fn lane(&self) -> Option<&str> {
        match self {
            Self::Start { member, .. } | Self::CutOff { member, .. } | Self::SwitchWal { member, .. } => Some(member),
            Self::Point { member, .. } | Self::Copy { porter: member, .. } => Some(member),
            Self::Docker(step) => step.lane(),
            Self::Pods { .. } => Some("people"),
            Self::CreateTest { .. } | Self::RemoveTest { .. } => Some("test"),
            Self::Tell { .. } | Self::Tested { .. } => Some("people"),
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
            Concern::referenced(RedisSentinel::RESOURCE).only(redis_part),
            Concern::all(Backup::RESOURCE).only(turn_part),
            Concern::named_in(Deployment::RESOURCE, together_seen::held_by).only(together_seen::deployment_part),
            Concern::referenced(Deployment::RESOURCE).only(together_seen::deployment_part),
            Concern::referenced("secrets"),
        ]
    }

    fn references(object: &Backup) -> Vec<Key> {
        match &object.spec.together {
            Some(together) => together_seen::references(object, together),
            None => vec![observe::cluster_key(object), observe::test_key(object)],
        }
    }

    async fn observe(&self, object: &Backup) -> Result<Observed, Failure> {
        observe::observe(self, object).await
    }

    fn plan(&self, object: &Backup, observed: &Observed, want: Want, now: Timestamp) -> Planned<Self> {
        match &object.spec.together {
            Some(together) => together::plan((object, together), observed, want, now),
            None => plan::plan(object, observed, want, now),
        }
    }

    fn recorded(&self, before: &Backup, status: &BaseBackupStatus) {
        self.waits.note(&before.owner(), observe::moments(before, Some(status)));
    }

    async fn act(&self, object: &Backup, step: &Step) -> Result<(), Failure> {
        act::act(self, object, step).await
    }

    fn step_failed(
        &self,
        status: BaseBackupStatus,
        step: &Step,
        failure: &Failure,
        now: Timestamp,
    ) -> BaseBackupStatus {
        let message = format!("could not {step}: {failure}; it is tried again");
        let (mut status, verdict) = (status, no(step.failure_reason(), message.clone()));
        let condition = match (step, &mut status.verification) {
            (Step::CreateTest { .. } | Step::RemoveTest { .. } | Step::Tested { .. }, Some(test)) => {
                test.message = message;
                // How a test ended is not changed by what comes after.
                if test.result != VerificationResult::Open {
                    return status;
                }
                verify::VERIFIED
            }
            _ => {
                status.message = message;
                plan::COMPLETED
            }
        };
        conditions::set(&mut status.conditions, condition, verdict, status.observed_generation, now);
        status
    }

    fn companions(&self) -> Vec<&dyn Keeper> {
        vec![&self.docker.work, &self.links, &self.redis, &self.porters, &self.waits]
    }
}

/// The part of a PostgresCluster that matters to its Backups.
fn cluster_part(cluster: &Value) -> Value {
    let (status, decisions) = (&cluster["status"], &cluster["status"]["decisions"]);
    let instances = status["instances"].as_array().into_iter().flatten();
    let instances: Vec<_> = instances.map(|one| json!([one["name"], one["role"], one["state"]])).collect();
    let decided = ["archive", "leader", "stage", "term", "members"].map(|field| &decisions[field]);
    // Of a throw-away cluster.
    let test = json!([status["recovery"], status["phase"]]);
    json!([cluster["spec"]["backup"], cluster["metadata"]["deletionTimestamp"], decided, instances, test])
}

/// The part of a RedisSentinel that matters to its Backups.
fn redis_part(redis: &Value) -> Value {
    let (status, decisions) = (&redis["status"], &redis["status"]["decisions"]);
    let members = status["members"].as_array().into_iter().flatten();
    let members: Vec<_> = members.map(|one| json!([one["name"], one["state"]])).collect();
    let decided = ["master", "stage", "epoch", "members", "change"].map(|field| &decisions[field]);
    json!([redis["spec"]["backup"], redis["metadata"]["deletionTimestamp"], decided, members])
}

/// The part of a Backup that decides whose turn it is.
fn turn_part(backup: &Value) -> Value {
    let paused = &backup["metadata"]["annotations"][RECONCILE_ANNOTATION];
    let status = &backup["status"];
    json!([
        backup["spec"]["cluster"],
        backup["spec"]["together"],
        status["phase"],
        status["verification"]["phase"],
        paused
    ])
}

/// What a supervisor is told for this step; `None`: nothing.
fn command(step: &Step) -> Option<(&str, Command)> {
    match step {
        Step::Start { member, order } => Some((member, Command::Backup(Some(order.clone())))),
        Step::CutOff { member, .. } => Some((member, Command::Backup(None))),
        Step::SwitchWal { member, past } => Some((member, Command::SwitchWal { past: *past })),
        Step::Point { member, order } => Some((member, Command::RestorePoint(Some(order.clone())))),
        _ => None,
    }
}

/// The same for a supervisor of Redis.
fn redis_command(step: &Step) -> Option<(&str, redis::Command)> {
    match step {
        Step::Start { member, order } => Some((member, redis::Command::Backup(Some(order.clone())))),
        Step::CutOff { member, .. } => Some((member, redis::Command::Backup(None))),
        _ => None,
    }
}

/// Why an attempt on this member failed.
fn failure(member: &str, message: impl Into<String>) -> AttemptFailure {
    AttemptFailure { member: member.to_owned(), message: message.into() }
}
