//! Backup: one base backup of a PostgresCluster, one dump of a database, one snapshot of a RedisSentinel, or several objects together.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use super::backup_method::{BackedUp, BackedUpKind, BackupMethod, database_problem};
use super::backup_store::{BackupStore, Encryption};
use super::duration::Span;
use super::invalid::Invalid;
use super::lsn::Lsn;
use super::postgres_backup::{BackupTarget, rate_problem};
use super::resources;
use super::together::{Together, TogetherStatus};
use super::words::words;

/// The request for a restore test of a Backup whose spec asks for it.
const BY_SPEC: &str = "spec.verify";
/// Asks for a restore test of a Backup that `status.verification` does not answer yet. Any value.
pub const VERIFY_ANNOTATION: &str = "evenkeel.dev/verify";

/// A base backup of a PostgresCluster, which is its data directory, a dump of one database, or a snapshot of a RedisSentinel; in the
/// store of the cluster.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "evenkeel.dev",
    version = "v1alpha1",
    kind = "Backup",
    plural = "backups",
    namespaced,
    status = "BaseBackupStatus",
    derive = "PartialEq",
    doc = "A base backup of a PostgresCluster, a dump of one of its databases, a snapshot of a RedisSentinel, or volumes of Deployments together with restore points. It is taken once, when the object is created.",
    printcolumn = r#"{"name":"Cluster","type":"string","jsonPath":".spec.cluster.name"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Progress","type":"string","jsonPath":".status.progress"}"#,
    printcolumn = r#"{"name":"Verified","type":"date","jsonPath":".status.verified.at"}"#,
    printcolumn = r#"{"name":"ID","type":"string","jsonPath":".status.backupID","priority":1}"#,
    printcolumn = r#"{"name":"Database","type":"string","jsonPath":".spec.database","priority":1}"#,
    printcolumn = r#"{"name":"Member","type":"string","jsonPath":".status.member","priority":1}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BaseBackupSpec {
    /// The cluster. Instead of it: `together`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<BackedUp>,
    /// Volumes of Deployments, and a restore point of each PostgresCluster, of one moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub together: Option<Together>,
    /// What is taken. Default: `base` of a PostgresCluster, `rdb` of a RedisSentinel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<BackupMethod>,
    /// The database, with `method: dump`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// Which instance is read. Default: `spec.backup.target` of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<BackupTarget>,
    /// Bytes a second that are read at most, such as `50Mi`. Default: `spec.backup.maxRate` of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "resources::amount")]
    pub max_rate: Option<Quantity>,
    /// `true`: once it is complete, it is restored and checked in a throw-away cluster. At any time later, the annotation
    /// `evenkeel.dev/verify` asks for that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verify: bool,
}

/// The observed state of a base backup or dump, and the decisions.
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
    /// The folder of the archive that it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
    /// The store that it is in, as `spec.backup.store` said then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<BackupStore>,
    /// What it is encrypted with there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// Of a dump or a snapshot: its data is as of this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub snapshot_time: Option<Timestamp>,
    /// Of a dump: its data is as of this position of the WAL.
    #[serde(rename = "snapshotLSN", skip_serializing_if = "Option::is_none")]
    pub snapshot_lsn: Option<Lsn>,
    /// Of a snapshot of Redis: the version of the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// Of a snapshot of Redis: the history of the data, `master_replid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_id: Option<String>,
    /// Of a snapshot of Redis: its data is as of this position, `master_repl_offset`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_offset: Option<u64>,
    /// Of a snapshot of Redis: keys in all databases, about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<u64>,
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
    /// Bytes that were read: of the data directory, or of the dump.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Bytes in the store, compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
    /// The part that was read, such as `62%`. Of a dump it is an estimate by the size of the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// Bytes a second that were read on average, such as `140Mi/s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
    /// Of a Backup with `together`: its volumes and restore points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub together: Option<TogetherStatus>,
    /// The restore test that runs, waits or ended last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    /// The last restore test that it passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
    /// `Completed`: it is in the archive with all WAL that it needs. `Verified`: it was restored and checked.
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

/// A restore test: the backup is restored in a throw-away cluster, all WAL of the archive is replayed, and the data is checked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Verification {
    /// The value of the annotation `evenkeel.dev/verify` that this answers, or `spec.verify`.
    pub request: String,
    /// The state as one word.
    pub phase: VerificationPhase,
    /// How it ended.
    #[serde(skip_serializing_if = "VerificationResult::is_open")]
    pub result: VerificationResult,
    /// What it does or waits for, or how it ended.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The throw-away cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The UID of that, once it exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// When it was decided to begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub started_at: Option<Timestamp>,
    /// When it was last seen to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub progressed_at: Option<Timestamp>,
    /// When it passed or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub ended_at: Option<Timestamp>,
}

/// A restore test that was passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// When.
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// Where the replay of the archive ended.
    pub lsn: Lsn,
    /// The time of the last transaction that was replayed; absent if there was none after the base backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub last_commit: Option<Timestamp>,
    /// From the decision to the end of the checks.
    pub took: Span,
}

words! {
    /// The state of a restore test.
    VerificationPhase {
        /// It has not begun; the message says what it waits for.
        #[default]
        Pending = "Pending",
        /// The throw-away cluster restores and checks.
        Testing = "Testing",
        /// It has ended, and the throw-away cluster is removed.
        Removing = "Removing",
        /// It is over.
        Ended = "Ended",
    }
}

impl VerificationPhase {
    /// Whether there may be a throw-away cluster.
    pub fn runs(self) -> bool {
        matches!(self, Self::Testing | Self::Removing)
    }
}

words! {
    /// How a restore test ended.
    VerificationResult {
        /// It has not ended.
        #[default]
        Open = "Open",
        /// The data was restored and has passed all checks.
        Passed = "Passed",
        /// It was not.
        Failed = "Failed",
    }
}

impl VerificationResult {
    fn is_open(&self) -> bool {
        *self == Self::Open
    }
}

words! {
    /// The state of a base backup or dump.
    BaseBackupPhase {
        /// It has not begun; the reason says what it waits for.
        #[default]
        Pending = "Pending",
        /// Of a Backup with `together`: it is tried whether everything will be possible, while the pods run.
        Preparing = "Preparing",
        /// Of a Backup with `together`: the pods are being stopped.
        Quiescing = "Quiescing",
        /// Of a Backup with `together`: no pod runs; the volumes are copied and the restore points made.
        Copying = "Copying",
        /// Of a Backup with `together`: everything is copied, and the pods come back.
        Releasing = "Releasing",
        /// The data is read and stored.
        Running = "Running",
        /// The data of a base backup is stored; the WAL that it needs is not yet.
        WaitingForWal = "WaitingForWal",
        /// It is in the archive, a base backup with all WAL that it needs.
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

/// The message about a field beside `together`.
const WITH_TOGETHER: &str = "has no meaning with together";

/// The problems with what is to be backed up: a cluster, or several objects together; and how.
pub fn subject_problems(
    subject: (Option<&BackedUp>, Option<&Together>),
    (method, database, verify): (Option<BackupMethod>, Option<&str>, bool),
    targeted: bool,
) -> Vec<Invalid> {
    let together = match subject {
        (Some(cluster), None) => return cluster.problems(method, database, verify),
        (None, Some(together)) => together,
        _ => return vec![Invalid::new("spec", "give exactly one of cluster, together")],
    };
    let fields = [
        ("spec.method", method.is_some()),
        ("spec.database", database.is_some()),
        ("spec.target", targeted),
        ("spec.verify", verify),
    ];
    let meaningless = fields.into_iter().filter(|(_, given)| *given);
    let meaningless = meaningless.map(|(path, _)| Invalid::new(path, WITH_TOGETHER));
    together.problems().into_iter().chain(meaningless).collect()
}

/// What a Backup with `together` has for a cluster.
static NO_CLUSTER: BackedUp = BackedUp { kind: BackedUpKind::PostgresCluster, name: String::new() };

impl BaseBackupSpec {
    /// Every problem that the schema cannot express.
    pub fn validate(&self) -> Vec<Invalid> {
        let what = subject_problems(
            (self.cluster.as_ref(), self.together.as_ref()),
            (self.method, self.database.as_deref(), self.verify),
            self.target.is_some(),
        );
        let rated = self.together.is_some() && self.max_rate.is_some();
        let rated = rated.then(|| Invalid::new("spec.maxRate", WITH_TOGETHER));
        what.into_iter().chain(rated).chain(rate_problem("spec.maxRate", self.max_rate.as_ref())).collect()
    }
}

impl Backup {
    /// What it takes.
    pub fn method(&self) -> BackupMethod {
        self.cluster().method(self.spec.method)
    }

    /// The cluster; one without a name if it is of several objects.
    pub fn cluster(&self) -> &BackedUp {
        self.spec.cluster.as_ref().unwrap_or(&NO_CLUSTER)
    }

    /// Whether a restore test of it runs, waits, or is asked for.
    pub fn test_is_open(&self, status: &BaseBackupStatus) -> bool {
        let runs = status.verification.as_ref().is_some_and(|test| test.phase != VerificationPhase::Ended);
        status.phase.is_terminal() && (runs || self.test_request(status).is_some())
    }

    /// The request for a restore test that was not answered yet.
    pub fn test_request(&self, status: &BaseBackupStatus) -> Option<&str> {
        let last = status.verification.as_ref();
        let by_spec = self.spec.verify && status.phase == BaseBackupPhase::Completed && last.is_none();
        let annotation = self.metadata.annotations.as_ref().and_then(|all| all.get(VERIFY_ANNOTATION));
        let wanted = annotation.map(String::as_str).or(by_spec.then_some(BY_SPEC))?;
        last.is_none_or(|last| last.request != wanted).then_some(wanted)
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
    fn a_dump_needs_a_database_and_a_base_backup_takes_none() {
        let problem = |spec: &str| {
            let spec: BaseBackupSpec = serde_saphyr::from_str(&format!("{{cluster: {{name: db}}, {spec}}}")).unwrap();
            spec.validate().iter().map(|one| format!("{one}\n")).collect::<String>()
        };
        assert_eq!(problem("method: dump, database: app") + &problem("method: base"), "");
        let long = format!("method: dump, database: {}", "x".repeat(64));
        let wrong =
            ["method: dump", "database: app", "method: dump, database: ''", "method: dump, database: template0", &long];
        expect_test::expect![[r#"
            spec.database: is missing: method dump takes one database
            spec.database: is for method dump alone: a base backup has all databases
            spec.database: must be the name of a database
            spec.database: must not be a template
            spec.database: must have 63 bytes at most
        "#]]
        .assert_eq(&wrong.map(problem).concat());
    }

    #[test]
    fn each_kind_has_its_methods_and_a_snapshot_of_redis_is_the_default_of_one() {
        let told = |kind: &str, more: &str| {
            let yaml = format!("{{cluster: {{kind: {kind}, name: x}}, {more}}}");
            let spec: BaseBackupSpec = serde_saphyr::from_str(&yaml).unwrap();
            let problems: String = spec.validate().iter().map(|one| format!("{one}\n")).collect();
            format!("{:?} {problems}", spec.cluster.unwrap().method(spec.method))
        };
        assert_eq!(told("PostgresCluster", "") + &told("RedisSentinel", ""), "Base Rdb ");
        assert_eq!(told("RedisSentinel", "method: rdb, maxRate: 50Mi, target: primary"), "Rdb ");
        expect_test::expect![[r#"
            Base spec.method: base and dump are for a PostgresCluster: use rdb, or leave it out
            Dump spec.method: base and dump are for a PostgresCluster: use rdb, or leave it out
            Rdb spec.method: rdb is for a RedisSentinel: use base or dump
            Rdb spec.database: is for method dump alone: a snapshot has all databases
            spec.verify: is for method base alone: a new RedisSentinel shows what is in a snapshot
        "#]]
        .assert_eq(
            &[
                told("RedisSentinel", "method: base"),
                told("RedisSentinel", "method: dump, database: app"),
                told("PostgresCluster", "method: rdb"),
                told("RedisSentinel", "database: app, verify: true"),
            ]
            .concat(),
        );
        assert!(serde_saphyr::from_str::<BaseBackupSpec>("cluster: {kind: Redis, name: x}").is_err());
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
