//! ScheduledBackup: backups of a PostgresCluster, of one of its databases, or of a RedisSentinel, at fixed times.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::backup::{BackedUp, BackupMethod, subject_problems};
use super::duration::Span;
use super::invalid::Invalid;
use super::postgres_backup::BackupTarget;
use super::schedule::{Schedule, ScheduleError};
use super::together::Together;

/// The label of a Backup with the name of the ScheduledBackup that created it.
pub const SCHEDULE: &str = "evenkeel.dev/scheduled-backup";
/// The longest name: it is the value of a label, which has up to 63 characters.
const LONGEST_NAME: usize = 63;

/// Creates Backups of a PostgresCluster or RedisSentinel at fixed times.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "evenkeel.dev",
    version = "v1alpha1",
    kind = "ScheduledBackup",
    plural = "scheduledbackups",
    namespaced,
    status = "ScheduledBackupStatus",
    derive = "PartialEq",
    doc = "Creates Backups of a PostgresCluster or RedisSentinel at fixed times.",
    printcolumn = r#"{"name":"Cluster","type":"string","jsonPath":".spec.cluster.name"}"#,
    printcolumn = r#"{"name":"Schedule","type":"string","jsonPath":".spec.schedule"}"#,
    printcolumn = r#"{"name":"Suspend","type":"boolean","jsonPath":".spec.suspend"}"#,
    printcolumn = r#"{"name":"Last","type":"date","jsonPath":".status.lastScheduleTime"}"#,
    printcolumn = r#"{"name":"Last-Backup","type":"string","jsonPath":".status.lastBackup"}"#,
    printcolumn = r#"{"name":"Next","type":"string","jsonPath":".status.nextScheduleTime","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScheduledBackupSpec {
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
    /// When: minute, hour, day, month, weekday, as in a crontab, such as `30 2 * * *`; or `@daily` and the like.
    pub schedule: String,
    /// The time zone of the schedule, such as `Europe/Berlin`.
    #[serde(default = "utc")]
    pub time_zone: String,
    /// `true`: the first backup is taken when this object is created.
    #[serde(default)]
    pub immediate: bool,
    /// `true`: no backups are created. Those that run go on.
    #[serde(default)]
    pub suspend: bool,
    /// A start that is later than this is skipped and counted as missed.
    #[serde(default = "hour")]
    pub starting_deadline: Span,
    /// Number of ended Backup objects of this schedule that are kept. What is in the archive is a matter of
    /// `spec.backup.retention` of the cluster.
    #[serde(default = "ten")]
    #[schemars(range(min = 1, max = 1000))]
    pub history_limit: u32,
    /// Which instance is read. Default: `spec.backup.target` of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<BackupTarget>,
    /// `true`: each backup is restored and checked once it is complete.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verify: bool,
}

fn utc() -> String {
    "Etc/UTC".into()
}

fn hour() -> Span {
    Span::seconds(3600)
}

fn ten() -> u32 {
    10
}

/// What a schedule has done.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ScheduledBackupStatus {
    /// The generation of the spec that this status is about.
    pub observed_generation: i64,
    /// The last time that was due and was dealt with: a Backup was created, or the start was missed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub last_schedule_time: Option<Timestamp>,
    /// The next time that is due; absent while it is suspended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub next_schedule_time: Option<Timestamp>,
    /// The Backup that was created last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<String>,
    /// Number of starts that were skipped: they were too late, or the backup before still ran.
    pub missed: u64,
    /// `Ready`: the next backup will be created.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

impl ScheduledBackupSpec {
    /// The schedule.
    ///
    /// # Errors
    /// What [`Schedule::parse`] says.
    pub fn times(&self) -> Result<Schedule, ScheduleError> {
        Schedule::parse(&self.schedule, &self.time_zone)
    }

    /// Every problem that the schema cannot express.
    pub fn validate(&self) -> Vec<Invalid> {
        let mut problems = subject_problems(
            (self.cluster.as_ref(), self.together.as_ref()),
            (self.method, self.database.as_deref(), self.verify),
            self.target.is_some(),
        );
        // Both may be wrong, and both are told.
        let schedule = Schedule::parse(&self.schedule, "Etc/UTC").err();
        let zone = Schedule::parse("@daily", &self.time_zone).err();
        problems.extend(schedule.map(|error| Invalid::new("spec.schedule", error.to_string())));
        problems.extend(zone.map(|error| Invalid::new("spec.timeZone", error.to_string())));
        if self.starting_deadline < Span::seconds(60) {
            let message = format!("is {}, must be at least 1m", self.starting_deadline);
            problems.push(Invalid::new("spec.startingDeadline", message));
        }
        if !(1..=1000).contains(&self.history_limit) {
            let message = format!("is {}, must be from 1 to 1000", self.history_limit);
            problems.push(Invalid::new("spec.historyLimit", message));
        }
        problems
    }
}

/// The problem with the name of a new one.
pub fn name_problems(object: &Value) -> Vec<Invalid> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let message = format!("must be no more than {LONGEST_NAME} characters: it is in a label of its Backups");
    (name.len() > LONGEST_NAME).then(|| Invalid::new("metadata.name", message)).into_iter().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_and_a_schedule_are_a_complete_declaration() {
        let spec: ScheduledBackupSpec =
            serde_saphyr::from_str("{cluster: {name: db}, schedule: '30 2 * * *'}").unwrap();
        assert_eq!((spec.validate(), spec.time_zone.as_str(), spec.history_limit), (vec![], "Etc/UTC", 10));
        assert_eq!((spec.starting_deadline, spec.immediate, spec.suspend), (Span::seconds(3600), false, false));
    }

    #[test]
    fn a_schedule_is_of_a_cluster_or_of_several_objects() {
        let problems = |what: &str| {
            let spec: ScheduledBackupSpec = serde_saphyr::from_str(&format!("{{{what} schedule: '@daily'}}")).unwrap();
            spec.validate().iter().map(|one| format!("{one}\n")).collect::<String>()
        };
        let store = "store: {s3: {bucket: backups, credentials: {secretName: s3}}}";
        let together = format!("together: {{{store}, deployments: [{{name: web, claims: [files]}}]}},");
        assert_eq!(problems(&together), "");
        expect_test::expect![[r#"
            spec: give exactly one of cluster, together
            spec: give exactly one of cluster, together
            spec.method: has no meaning with together
            spec.verify: has no meaning with together
        "#]]
        .assert_eq(
            &[
                "".to_owned(),
                format!("cluster: {{name: db}}, {together}"),
                format!("{together} method: base, verify: true,"),
            ]
            .map(|what| problems(&what))
            .concat(),
        );
    }

    #[test]
    fn every_problem_of_a_schedule_is_told_with_its_path() {
        let spec: ScheduledBackupSpec = serde_saphyr::from_str(
            "{cluster: {name: ''}, database: app, schedule: 0 0 0 * * *, timeZone: EST5X, startingDeadline: 1s, historyLimit: 0}",
        )
        .unwrap();
        expect_test::expect![[r#"
            spec.cluster.name: must be the name of a PostgresCluster
            spec.database: is for method dump alone: a base backup has all databases
            spec.schedule: six fields; this takes five (minute hour day month weekday), did you mean "0 0 * * *"?
            spec.timeZone: not an IANA time zone, such as Etc/UTC or Europe/Berlin
            spec.startingDeadline: is 1s, must be at least 1m
            spec.historyLimit: is 0, must be from 1 to 1000
        "#]]
        .assert_eq(&spec.validate().iter().map(|one| format!("{one}\n")).collect::<String>());
        let named = |length: usize| name_problems(&serde_json::json!({"metadata": {"name": "n".repeat(length)}})).len();
        assert_eq!((named(63), named(64)), (0, 1));
    }
}
