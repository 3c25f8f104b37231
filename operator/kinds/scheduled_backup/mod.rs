//! ScheduledBackup: creates Backups of a PostgresCluster at fixed times, and removes the oldest ended ones.

use std::fmt;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::backup::Backup;
use crate::api::failure::Failure;
use crate::api::object::Object as _;
use crate::api::scheduled_backup::{SCHEDULE, ScheduledBackup, ScheduledBackupStatus};
use crate::runtime::{Concern, Kind, Planned, Significance, Want};
use crate::store::objects::{Objects, Preconditions};
use crate::store::{Error, Key};

mod plan;

/// The kind of ScheduledBackup objects.
pub struct ScheduledBackupKind {
    objects: Objects,
}

impl ScheduledBackupKind {
    /// The kind over these objects.
    pub fn new(objects: Objects) -> Self {
        Self { objects }
    }
}

/// A Backup in the namespace of the schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupSeen {
    /// Its name.
    pub name: String,
    /// Its `metadata.uid`.
    pub uid: Option<String>,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// This schedule created it.
    pub ours: bool,
    /// It has ended.
    pub ended: bool,
    /// It is to be restored in a test, which has not ended.
    pub in_test: bool,
}

/// One step.
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Create a Backup; one of this name is left as it is.
    Create { name: String },
    /// Remove a Backup object. What it has in the archive stays there.
    Forget { name: String, uid: Option<String> },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { name } => write!(f, "create Backup {name}"),
            Self::Forget { name, .. } => write!(f, "remove Backup {name}, which has ended and is above the limit"),
        }
    }
}

impl Significance for Step {
    fn event_reason(&self) -> Option<&'static str> {
        match self {
            Self::Create { .. } => Some("BackupCreated"),
            Self::Forget { .. } => None,
        }
    }

    fn lane(&self) -> Option<&str> {
        match self {
            Self::Create { name } | Self::Forget { name, .. } => Some(name),
        }
    }
}

impl Kind for ScheduledBackupKind {
    type Object = ScheduledBackup;
    type Status = ScheduledBackupStatus;
    type Observed = Vec<BackupSeen>;
    type Step = Step;

    fn concerns() -> Vec<Concern> {
        let part = |backup: &Value| {
            json!([backup["metadata"]["name"], backup["status"]["phase"], backup["status"]["verification"]["phase"],])
        };
        vec![Concern::named_in(Backup::RESOURCE, schedule_of).only(part)]
    }

    async fn observe(&self, object: &ScheduledBackup) -> Result<Vec<BackupSeen>, Failure> {
        let (all, _) = self.objects.list::<Backup>(Backup::RESOURCE, Some(object.namespace())).await?;
        Ok(all.into_iter().map(|backup| seen(object, &backup)).collect())
    }

    fn plan(&self, object: &ScheduledBackup, observed: &Self::Observed, want: Want, now: Timestamp) -> Planned<Self> {
        plan::plan(object, observed, want, now)
    }

    async fn act(&self, object: &ScheduledBackup, step: &Step) -> Result<(), Failure> {
        let key = |name: &str| Key::beside(object, Backup::RESOURCE, name);
        match step {
            Step::Create { name } => Ok(self.objects.create_if_absent(&key(name), backup(object)).await?),
            Step::Forget { name, uid } => {
                let only_if = Preconditions { uid: uid.clone(), revision: None };
                match self.objects.delete(&key(name), &only_if).await {
                    Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }
}

/// The name of the schedule that created a Backup.
fn schedule_of(backup: &Value) -> Vec<String> {
    backup["metadata"]["labels"][SCHEDULE].as_str().map(str::to_owned).into_iter().collect()
}

fn seen(object: &ScheduledBackup, backup: &Backup) -> BackupSeen {
    let label = backup.metadata.labels.as_ref().and_then(|labels| labels.get(SCHEDULE));
    BackupSeen {
        name: backup.name().to_owned(),
        uid: backup.metadata.uid.clone(),
        created: backup.metadata.creation_timestamp.as_ref().map(|time| time.0),
        ours: label.is_some_and(|label| label == object.name()),
        ended: backup.status.as_ref().is_some_and(|status| status.phase.is_terminal()),
        in_test: backup.status.as_ref().is_some_and(|status| backup.test_is_open(status)),
    }
}

/// The Backup that it creates.
fn backup(object: &ScheduledBackup) -> Value {
    let mut spec = match (&object.spec.cluster, &object.spec.together) {
        (_, Some(together)) => json!({"together": together}),
        (cluster, None) => json!({"cluster": cluster}),
    };
    if let Some(method) = object.spec.method {
        spec["method"] = json!(method);
    }
    if let Some(database) = &object.spec.database {
        spec["database"] = json!(database);
    }
    if let Some(target) = object.spec.target {
        spec["target"] = json!(target);
    }
    if object.spec.verify {
        spec["verify"] = json!(true);
    }
    json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": Backup::KIND,
        "metadata": {"labels": {(SCHEDULE): object.name()}},
        "spec": spec,
    })
}
