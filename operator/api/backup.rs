//! Backup: one base backup of a PostgresCluster.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::invalid::Invalid;
use super::lsn::Lsn;
use super::postgres_backup::{BackupTarget, rate_problem};
use super::resources;
use super::words::words;

/// A base backup of a PostgresCluster: its data directory, stored in the archive of the cluster.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "evenkeel.dev",
    version = "v1alpha1",
    kind = "Backup",
    plural = "backups",
    namespaced,
    status = "BaseBackupStatus",
    derive = "PartialEq",
    doc = "A base backup of a PostgresCluster. It is taken once, when the object is created.",
    printcolumn = r#"{"name":"Cluster","type":"string","jsonPath":".spec.cluster.name"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Progress","type":"string","jsonPath":".status.progress"}"#,
    printcolumn = r#"{"name":"ID","type":"string","jsonPath":".status.backupID","priority":1}"#,
    printcolumn = r#"{"name":"Member","type":"string","jsonPath":".status.member","priority":1}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BaseBackupSpec {
    /// The cluster.
    pub cluster: ClusterRef,
    /// Which instance is read. Default: `spec.backup.target` of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<BackupTarget>,
    /// Bytes a second that are read at most, such as `50Mi`. Default: `spec.backup.maxRate` of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "resources::amount")]
    pub max_rate: Option<Quantity>,
}

/// A PostgresCluster in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterRef {
    /// Its name.
    #[schemars(length(min = 1))]
    pub name: String,
}

/// The observed state of a base backup, and the decisions.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BaseBackupStatus {
    /// The generation of the spec that this status is about.
    pub observed_generation: i64,
    /// The state as one word.
    pub phase: BaseBackupPhase,
    /// Why it is in this state, as one word for programs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The same, as a sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Its name in the archive: `YYYYMMDDTHHMMSS`, UTC. Each attempt has another one.
    #[serde(rename = "backupID", skip_serializing_if = "Option::is_none")]
    pub backup_id: Option<String>,
    /// The instance that is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// Number of the attempt, from 1; 0 before the first one.
    pub attempt: u32,
    /// The term of the cluster when the current attempt was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub term: Option<u64>,
    /// The instance was the primary then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub of_primary: bool,
    /// The run of the supervisor that takes the current attempt; absent until it has reported that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// When the current attempt was decided, or last made progress, or when the attempt before failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub progressed_at: Option<Timestamp>,
    /// Why the attempt before failed, and which instance it was on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<AttemptFailure>,
    /// When the current attempt began to read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub stopped_at: Option<Timestamp>,
    /// The first WAL segment that it needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begin_wal: Option<String>,
    /// The last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_wal: Option<String>,
    /// Where the WAL that it needs begins.
    #[serde(rename = "beginLSN", skip_serializing_if = "Option::is_none")]
    pub begin_lsn: Option<Lsn>,
    /// Where it ends.
    #[serde(rename = "endLSN", skip_serializing_if = "Option::is_none")]
    pub end_lsn: Option<Lsn>,
    /// The timeline of that WAL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// Bytes of the data directory that were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Bytes in the store, compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
    /// The part of the data directory that was read, such as `62%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// Bytes a second that were read on average, such as `140Mi/s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
    /// `Completed`: it is in the archive with all WAL that it needs.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AttemptFailure {
    /// The instance that was read.
    pub member: String,
    /// What happened.
    pub message: String,
}

words! {
    /// The state of a base backup.
    BaseBackupPhase {
        /// It has not begun; the reason says what it waits for.
        #[default]
        Pending = "Pending",
        /// The data directory is read and stored.
        Running = "Running",
        /// The data is stored; the WAL that it needs is not yet.
        WaitingForWal = "WaitingForWal",
        /// It is in the archive with all WAL that it needs.
        Completed = "Completed",
        /// It failed for good.
        Failed = "Failed",
    }
}

impl BaseBackupPhase {
    /// Whether it has ended: this state never changes.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

impl BaseBackupSpec {
    /// Every problem that the schema cannot express.
    pub fn validate(&self) -> Vec<Invalid> {
        let unnamed = self.cluster.name.is_empty();
        let unnamed = unnamed.then(|| Invalid::new("spec.cluster.name", "must be the name of a PostgresCluster"));
        unnamed.into_iter().chain(rate_problem("spec.maxRate", self.max_rate.as_ref())).collect()
    }
}

/// Every problem with a change: what was backed up cannot become something else.
pub fn change_problems(old: &Value, new: &Value) -> Vec<Invalid> {
    let message = "cannot be changed: a Backup is taken once; delete it and create another";
    (old["spec"] != new["spec"]).then(|| Invalid::new("spec", message)).into_iter().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_backup_needs_a_cluster_and_a_rate_that_postgresql_takes() {
        let problems = |yaml: &str| {
            let spec: BaseBackupSpec = serde_saphyr::from_str(yaml).unwrap();
            spec.validate().iter().map(|one| format!("{one}\n")).collect::<String>()
        };
        assert_eq!(problems("cluster: {name: db}"), "");
        assert_eq!(problems("{cluster: {name: db}, target: primary, maxRate: 50Mi}"), "");
        expect_test::expect![[r#"
            spec.cluster.name: must be the name of a PostgresCluster
            spec.maxRate: must be from 32Ki to 1Gi (bytes a second), or be left out
        "#]]
        .assert_eq(&problems("{cluster: {name: ''}, maxRate: 1k}"));
    }

    #[test]
    fn a_backup_cannot_become_that_of_another_cluster() {
        let of = |name: &str| json!({"spec": {"cluster": {"name": name}}, "status": {"phase": "Running"}});
        assert_eq!((change_problems(&of("a"), &of("a")).len(), change_problems(&of("a"), &of("b")).len()), (0, 1));
    }

    #[test]
    fn only_completed_and_failed_are_final() {
        let all = ["Pending", "Running", "WaitingForWal", "Completed", "Failed", "Unheard"];
        let is_final = |word: &str| serde_json::from_value::<BaseBackupPhase>(json!(word)).unwrap().is_terminal();
        assert_eq!(all.map(is_final), [false, false, false, true, true, false]);
    }
}
