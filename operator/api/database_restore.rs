//! DatabaseRestore: one dump, restored into a new database of a PostgresCluster.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::backup::{AttemptFailure, database_problem};
use super::backup_id::{UNFINISHED, is_backup_id};
use super::cluster_ref::ClusterRef;
use super::invalid::Invalid;
use super::words::words;

/// Restores a dump into a new database of a PostgresCluster.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "evenkeel.dev",
    version = "v1alpha1",
    kind = "DatabaseRestore",
    plural = "databaserestores",
    namespaced,
    status = "DatabaseRestoreStatus",
    derive = "PartialEq",
    doc = "Restores a dump into a new database of a PostgresCluster. It is done once, when the object is created.",
    printcolumn = r#"{"name":"Cluster","type":"string","jsonPath":".spec.cluster.name"}"#,
    printcolumn = r#"{"name":"Database","type":"string","jsonPath":".spec.database"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Progress","type":"string","jsonPath":".status.progress"}"#,
    printcolumn = r#"{"name":"Dump","type":"string","jsonPath":".status.dumpID","priority":1}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DatabaseRestoreSpec {
    /// The cluster that gets the database.
    pub cluster: ClusterRef,
    /// The dump.
    pub from: DumpSource,
    /// The name of the new database. Nothing is overwritten: one that exists is refused.
    pub database: String,
    /// The role that the database and everything in it belong to; privileges of other roles are left out then. Default: owners and
    /// privileges as in the dump.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// A dump: that of a Backup, or one that is named by its ID.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DumpSource {
    /// The name of a Backup with `method: dump`, in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// The PostgresCluster whose archive has the dump. Default: the one that gets the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The ID of the dump: the name of its folder in `dumps/`.
    #[serde(default, rename = "dumpID", skip_serializing_if = "Option::is_none")]
    pub dump_id: Option<String>,
}

/// The observed state of a restore, and the decisions.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DatabaseRestoreStatus {
    /// The generation of the spec that this status is about.
    pub observed_generation: i64,
    /// The state as one word.
    pub phase: DatabaseRestorePhase,
    /// Why it is in this state, as one word for programs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The same, as a sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The ID of the dump.
    #[serde(rename = "dumpID", skip_serializing_if = "Option::is_none")]
    pub dump_id: Option<String>,
    /// The folder of the archive that the dump is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
    /// The primary that restores it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// Number of the attempt, from 1; 0 before the first one.
    pub attempt: u32,
    /// The run of the supervisor that makes the current attempt; absent until it has reported that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// When the current attempt was decided, or last made progress, or when the attempt before failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub progressed_at: Option<Timestamp>,
    /// Why the attempt before failed, and which instance it was on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<AttemptFailure>,
    /// When the current attempt began.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub stopped_at: Option<Timestamp>,
    /// Bytes of the dump that were restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The part of the dump that was restored, such as `62%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// Bytes a second that were restored on average, such as `40Mi/s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
    /// `Completed`: the database is there.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

words! {
    /// The state of a restore.
    DatabaseRestorePhase {
        /// It has not begun; the reason says what it waits for.
        #[default]
        Pending = "Pending",
        /// The dump is read and restored.
        Running = "Running",
        /// The database is there.
        Completed = "Completed",
        /// It failed for good; there is no database.
        Failed = "Failed",
    }
}

impl DatabaseRestorePhase {
    /// Whether it has ended: this state never changes.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

impl DatabaseRestoreSpec {
    /// Every problem that the schema cannot express.
    pub fn validate(&self) -> Vec<Invalid> {
        let mut problems = Vec::new();
        let mut problem = |path: &str, message: &str| problems.push(Invalid::new(path, message));
        if self.cluster.name.is_empty() {
            problem("spec.cluster.name", "must be the name of a PostgresCluster");
        }
        match (&self.from.backup, &self.from.dump_id) {
            (Some(_), Some(_)) => problem("spec.from", "has backup and dumpID: give one of them"),
            (None, None) => problem("spec.from", "must have backup, the name of a Backup with method dump, or dumpID"),
            (Some(_), None) if self.from.cluster.is_some() => {
                problem("spec.from.cluster", "is for dumpID alone: a Backup knows its cluster");
            }
            (None, Some(id)) if !is_backup_id(id) => {
                problem("spec.from.dumpID", "must be the ID of a dump, such as 20261128T023000");
            }
            _ => {}
        }
        if let Some(message) = database_problem(&self.database) {
            problem("spec.database", &message);
        } else if self.database.starts_with(UNFINISHED) {
            problem(
                "spec.database",
                "must not begin with evenkeel_restore_: such are the names of databases that are not whole",
            );
        }
        if let Some(message) = self.owner.as_deref().and_then(role_problem) {
            problem("spec.owner", message);
        }
        problems
    }
}

fn role_problem(name: &str) -> Option<&'static str> {
    match name {
        "evenkeel" | "evenkeel_replication" => Some("must not be a role of Evenkeel's own"),
        _ if name.is_empty() || name.len() > 63 || name.contains(char::is_control) => {
            Some("must be the name of a role")
        }
        _ => None,
    }
}

/// Every problem with a change: what was restored cannot become something else.
pub fn change_problems(old: &Value, new: &Value) -> Vec<Invalid> {
    let message = "cannot be changed: a dump is restored once; delete the DatabaseRestore and create another";
    (old["spec"] != new["spec"]).then(|| Invalid::new("spec", message)).into_iter().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_names_one_dump_and_a_new_database() {
        let problems = |yaml: &str| {
            let spec: DatabaseRestoreSpec = serde_saphyr::from_str(yaml).unwrap();
            spec.validate().iter().map(|one| format!("{one}\n")).collect::<String>()
        };
        assert_eq!(problems("{cluster: {name: db}, from: {backup: nightly}, database: app_old}"), "");
        assert_eq!(problems("{cluster: {name: db}, from: {dumpID: 20261128T023000}, database: x, owner: app}"), "");
        let wrong = [
            "{cluster: {name: ''}, from: {}, database: ''}",
            "{cluster: {name: db}, from: {backup: a, dumpID: b}, database: template1}",
            "{cluster: {name: db}, from: {backup: a, cluster: b}, database: evenkeel_restore_1, owner: evenkeel}",
            "{cluster: {name: db}, from: {dumpID: ../x}, database: app, owner: ''}",
        ];
        expect_test::expect![[r#"
            spec.cluster.name: must be the name of a PostgresCluster
            spec.from: must have backup, the name of a Backup with method dump, or dumpID
            spec.database: must be the name of a database
            spec.from: has backup and dumpID: give one of them
            spec.database: must not be a template
            spec.from.cluster: is for dumpID alone: a Backup knows its cluster
            spec.database: must not begin with evenkeel_restore_: such are the names of databases that are not whole
            spec.owner: must not be a role of Evenkeel's own
            spec.from.dumpID: must be the ID of a dump, such as 20261128T023000
            spec.owner: must be the name of a role
        "#]]
        .assert_eq(&wrong.map(problems).concat());
    }
}
