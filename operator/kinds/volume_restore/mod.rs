//! VolumeRestore: the copy of a volume, restored by a porter into the volume of a claim that has no data yet.
//!
//! `observe` reads the Backup, the Deployments with the claim, the other restores, and what the porter says; `plan` records the attempt
//! and follows it; `act` performs one step, with what opens the store. The porter carries the bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::backup::Backup;
use crate::api::conditions::{self, no};
use crate::api::deployment::Deployment;
use crate::api::failure::{Class, Failure};
use crate::api::object::{Object as _, RECONCILE_ANNOTATION};
use crate::api::volume_restore::{VolumeRestore, VolumeRestoreStatus};
use crate::archive::access::ArchiveAccess;
use crate::engine::hosts::Hosts;
use crate::kinds::attempts::Other;
use crate::kinds::containers::{Docker, DockerSeen, DockerStep, WorkSeen};
use crate::kinds::links::Links;
use crate::kinds::porters::{Heard, PorterSpeech};
use crate::kinds::stores::Problem;
use crate::kinds::waits::{Waited, Waits};
use crate::runtime::{Concern, Keeper, Kind, Planned, Significance, Wake, Want};
use crate::store::Key;
use crate::store::objects::Objects;
use crate::supervisor::porter::wire::{Command, Order, Way};

mod observe;
mod plan;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod scenarios;

/// The kind of VolumeRestore objects.
pub struct VolumeRestoreKind {
    docker: Docker,
    objects: Objects,
    porters: Links<PorterSpeech>,
    /// Since when this operator has known of what is recorded.
    waits: Waits,
}

impl VolumeRestoreKind {
    /// The kind over these hosts and objects; `wake` is called with a VolumeRestore whose porter has news.
    pub fn new(hosts: Arc<Hosts>, objects: Objects, wake: Wake) -> Self {
        let docker = Docker::new(hosts, objects.clone(), wake.clone());
        let porters = Links::new(wake, &objects);
        Self { docker, objects, porters, waits: Waits::default() }
    }
}

/// One snapshot of everything that the plan of a VolumeRestore needs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observed {
    /// The Backup that `spec.from` names; `None`: it names none, or there is none.
    pub backup: Option<Backup>,
    /// Why the store cannot be opened.
    pub closed: Option<Problem>,
    /// The Deployments whose pods claim the volume.
    pub claimants: Vec<Deployment>,
    /// The other restores into the claim.
    pub others: Vec<Other>,
    /// What the host has of the porter; empty if the host is not registered.
    pub docker: BTreeMap<String, DockerSeen>,
    /// The volume exists; `None`: unknown.
    pub exists: Option<bool>,
    /// Background work on the porter.
    pub work: WorkSeen,
    /// What the porter says.
    pub porters: Heard,
    /// How long this operator has known of the recorded moments.
    pub waited: Waited,
}

/// One step.
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A step on the porter, or on the volume of a restore that is given up.
    Docker(DockerStep),
    /// Tell the porter to restore the copy; `begin: false`: to try whether it will be possible. It is told with the credentials of
    /// the store, which are in no step.
    Restore { porter: String, path: String, attempt: u32, begin: bool },
    /// Tell people that it has ended.
    Tell { completed: bool, message: String },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Docker(step) => step.fmt(f),
            Self::Restore { porter, path, attempt, begin: true } => {
                write!(f, "restore {path} by {porter}, attempt {attempt}")
            }
            Self::Restore { porter, path, .. } => write!(f, "try whether {porter} can restore {path}"),
            Self::Tell { message, .. } => f.write_str(message),
        }
    }
}

impl Significance for Step {
    fn event_reason(&self) -> Option<&'static str> {
        match self {
            Self::Docker(step) => step.event_reason(),
            Self::Restore { attempt: 1, begin: true, .. } => Some("RestoreStarted"),
            Self::Tell { completed: true, .. } => Some("RestoreCompleted"),
            Self::Tell { completed: false, .. } => Some("RestoreFailed"),
            Self::Restore { .. } => None,
        }
    }

    fn warns(&self) -> bool {
        matches!(self, Self::Tell { completed: false, .. })
    }

    fn lane(&self) -> Option<&str> {
        match self {
            Self::Docker(step) => step.lane(),
            Self::Restore { porter, .. } => Some(porter),
            Self::Tell { .. } => Some("people"),
        }
    }
}

impl Kind for VolumeRestoreKind {
    type Object = VolumeRestore;
    type Status = VolumeRestoreStatus;
    type Observed = Observed;
    type Step = Step;

    fn concerns() -> Vec<Concern> {
        vec![
            Concern::referenced(Backup::RESOURCE).only(backup_part),
            Concern::referenced("secrets"),
            Concern::named_in(Deployment::RESOURCE, held_by).only(deployment_part),
            Concern::all(VolumeRestore::RESOURCE).only(turn_part),
        ]
    }

    fn references(object: &VolumeRestore) -> Vec<Key> {
        observe::references(object)
    }

    async fn observe(&self, object: &VolumeRestore) -> Result<Observed, Failure> {
        observe::observe(self, object).await
    }

    fn plan(&self, object: &VolumeRestore, observed: &Observed, want: Want, now: Timestamp) -> Planned<Self> {
        plan::plan(object, observed, want, now)
    }

    fn recorded(&self, before: &VolumeRestore, status: &VolumeRestoreStatus) {
        self.waits.note(&before.owner(), observe::moments(before, Some(status)));
    }

    async fn act(&self, object: &VolumeRestore, step: &Step) -> Result<(), Failure> {
        match step {
            Step::Docker(step) => self.docker.act(&object.owner(), step).await,
            Step::Restore { porter, path, attempt, begin } => {
                let backup = observe::backup(&self.objects, object).await?;
                let access = observe::access(&self.objects, object, backup.as_ref()).await?;
                let access = access.map_err(|(_, message)| Failure::new(Class::Transient, message))?;
                let order = Order {
                    id: id(object),
                    attempt: *attempt,
                    way: Way::Restore,
                    claim: object.spec.claim.clone(),
                    copy: ArchiveAccess { access, path: path.clone() },
                    begin: *begin,
                };
                let sent = self.porters.send(&object.owner(), porter, Command::Order(Box::new(order)));
                sent.map_err(|failure| Failure::new(failure.class, format!("{porter}: {failure}")))
            }
            // What people are told is the Event of the step itself.
            Step::Tell { .. } => Ok(()),
        }
    }

    fn step_failed(
        &self,
        status: VolumeRestoreStatus,
        step: &Step,
        failure: &Failure,
        now: Timestamp,
    ) -> VolumeRestoreStatus {
        let message = format!("could not {step}: {failure}; it is tried again");
        let mut status = VolumeRestoreStatus { message: message.clone(), ..status };
        let verdict = no(step.failure_reason(), message);
        conditions::set(&mut status.conditions, plan::COMPLETED, verdict, status.observed_generation, now);
        status
    }

    fn companions(&self) -> Vec<&dyn Keeper> {
        vec![&self.docker.work, &self.porters, &self.waits]
    }
}

/// What the porter calls the restore.
fn id(object: &VolumeRestore) -> String {
    object.metadata.uid.clone().unwrap_or_default()
}

/// The part of a Backup that matters to restores.
fn backup_part(backup: &Value) -> Value {
    json!([backup["spec"], backup["status"]["phase"]])
}

/// The VolumeRestore that keeps pods of a Deployment away.
fn held_by(deployment: &Value) -> Vec<String> {
    let by = &deployment["status"]["heldBy"];
    by["name"].as_str().filter(|_| by["kind"] == VolumeRestore::KIND).map(str::to_owned).into_iter().collect()
}

/// The part of a Deployment that matters to restores.
fn deployment_part(deployment: &Value) -> Value {
    let status = &deployment["status"];
    let pods = |list: &Value| list.as_array().map_or(0, Vec::len);
    json!([status["heldBy"], pods(&status["pods"]), pods(&status["decisions"]["pods"])])
}

/// The part of a VolumeRestore that decides whose turn it is.
fn turn_part(restore: &Value) -> Value {
    let paused = &restore["metadata"]["annotations"][RECONCILE_ANNOTATION];
    json!([restore["spec"]["claim"], restore["status"]["phase"], paused])
}
