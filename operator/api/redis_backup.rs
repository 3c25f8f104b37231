//! Backups of a RedisSentinel, and the backup that its first data comes from: `spec.backup`, `spec.bootstrap`, `status.backup` and
//! `status.recovery`.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backup_id::is_backup_id;
use super::backup_store::{BackupStore, Encryption, is_relative};
use super::invalid::Invalid;
use super::postgres_backup::{BackupTarget, Retention, rate_problem};
use super::postgres_recovery::RecoveryPhase;
use super::resources;

/// Where snapshots of the data go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisBackupSpec {
    /// The store. Each object has a folder of its own in it.
    pub store: BackupStore,
    /// What the backups are encrypted with, before they leave a container. Default: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// Which backups are deleted. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Which member is read, unless the Backup says so itself. A standby is a replica that is in sync, the primary is the master.
    #[serde(default, skip_serializing_if = "is_default")]
    pub target: BackupTarget,
    /// Bytes a second that a backup reads at most, such as `50Mi`, unless the Backup says so itself. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "resources::amount")]
    pub max_rate: Option<Quantity>,
}

fn is_default(target: &BackupTarget) -> bool {
    *target == BackupTarget::default()
}

impl RedisBackupSpec {
    /// The folder of the backups of the object with this metadata, below the store's prefix: `NAMESPACE.NAME/redis-UID`.
    ///
    /// Another object of this name has another UID, so that it never deletes or restores what is not its own.
    pub fn archive(&self, metadata: &ObjectMeta) -> Option<String> {
        let (namespace, name) = (metadata.namespace.as_ref()?, metadata.name.as_ref()?);
        let uid = metadata.uid.as_ref().filter(|uid| !uid.is_empty())?;
        Some(format!("{namespace}.{name}/redis-{uid}"))
    }

    /// Every problem; all paths begin with `spec.backup`.
    pub fn problems(&self) -> Vec<Invalid> {
        let mut problems = self.store.problems("spec.backup.store");
        problems.extend(self.retention.iter().flat_map(Retention::problems));
        problems.extend(rate_problem("spec.backup.maxRate", self.max_rate.as_ref()));
        problems
    }
}

/// How the first data comes about. Default: there is none. If a volume has data already, that is adopted, and nothing is restored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisBootstrap {
    /// The data of a backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RedisRecoverySpec>,
}

/// The restore of a backup. The first master starts with its data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisRecoverySpec {
    /// Where the backup is.
    pub source: RedisRecoverySource,
    /// The ID of the backup, `YYYYMMDDTHHMMSS`. Default: the newest one that is complete.
    #[serde(default, rename = "backupID", skip_serializing_if = "Option::is_none")]
    pub backup_id: Option<String>,
}

/// Exactly one of `backup`, `cluster`, and `store` with `path`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisRecoverySource {
    /// A complete Backup of a RedisSentinel, in the same namespace. The RedisSentinel itself may be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// A RedisSentinel of the same namespace: its store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The store that has the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<BackupStore>,
    /// The folder in `store`, as `status.backup.archive` of the RedisSentinel said: `NAMESPACE.NAME/redis-UID`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What the backup in `store` is encrypted with. With `backup` or `cluster` that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
}

impl RedisBootstrap {
    /// Nothing is declared.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Every problem; all paths begin with `spec.bootstrap`.
    pub fn problems(&self) -> Vec<Invalid> {
        let Some(recovery) = &self.recovery else { return Vec::new() };
        let mut problems = recovery.source.problems();
        let id = recovery.backup_id.as_deref();
        let wrong = match (id, &recovery.source.backup) {
            (Some(_), Some(_)) => Some("has no meaning with source.backup, which is one backup"),
            (Some(id), None) if !is_backup_id(id) => Some("must be the ID of a backup: YYYYMMDDTHHMMSS"),
            _ => None,
        };
        problems.extend(wrong.map(|message| Invalid::new("spec.bootstrap.recovery.backupID", message)));
        problems
    }
}

impl RedisRecoverySource {
    fn problems(&self) -> Vec<Invalid> {
        const PATH: &str = "spec.bootstrap.recovery.source";
        let mut problems = Vec::new();
        let given = [self.backup.is_some(), self.cluster.is_some(), self.store.is_some()];
        if given.iter().filter(|given| **given).count() != 1 {
            problems.push(Invalid::new(PATH, "give exactly one of backup, cluster, store (with path)"));
        } else if self.store.is_some() && self.path.is_none() {
            let message = "required with store: the folder of the backups, NAMESPACE.NAME/redis-UID";
            problems.push(Invalid::new(format!("{PATH}.path"), message));
        } else if self.store.is_none() && self.path.is_some() {
            problems.push(Invalid::new(format!("{PATH}.path"), "has no meaning without store"));
        }
        if self.encryption.is_some() && self.store.is_none() {
            let message = "has no meaning without store: a Backup or RedisSentinel says it itself";
            problems.push(Invalid::new(format!("{PATH}.encryption"), message));
        }
        for (field, name, kind) in [("backup", &self.backup, "Backup"), ("cluster", &self.cluster, "RedisSentinel")] {
            if name.as_deref() == Some("") {
                problems.push(Invalid::new(format!("{PATH}.{field}"), format!("must be the name of a {kind}")));
            }
        }
        problems.extend(self.store.iter().flat_map(|store| store.problems(&format!("{PATH}.store"))));
        if self.path.as_deref().is_some_and(|path| !is_relative(path)) {
            problems.push(Invalid::new(format!("{PATH}.path"), "relative, without empty or .. parts"));
        }
        problems
    }
}

/// Where the backups are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RedisBackupStatus {
    /// The folder below the store's prefix: `NAMESPACE.NAME/redis-UID`.
    pub archive: String,
}

/// How far the restore of the first data is, or how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RedisRecoveryStatus {
    /// What it does.
    pub phase: RecoveryPhase,
    /// The same, as a sentence, with the figures.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The member that restores: the first master.
    pub member: String,
    /// The backup.
    #[serde(rename = "backupID", skip_serializing_if = "String::is_empty")]
    pub backup_id: String,
    /// The part that is downloaded, such as `62%`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub progress: String,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Why the last attempt that failed did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    /// The data is as of this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub snapshot_time: Option<Timestamp>,
    /// When the attempt began, by the clock of the member's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub stopped_at: Option<Timestamp>,
}

/// The decision which member restores the first data; a part of the planner's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisRecoveryDecision {
    /// The member.
    pub member: String,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// The attempt was seen to fail.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// When it was decided, or seen to fail.
    #[schemars(with = "String")]
    pub since: Timestamp,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn problems(yaml: &str) -> String {
        let bootstrap: RedisBootstrap = serde_saphyr::from_str(&format!("recovery: {yaml}")).unwrap();
        bootstrap.problems().iter().map(|one| format!("{one}\n")).collect()
    }

    #[test]
    fn a_restore_names_one_backup_one_object_or_one_folder() {
        let store = "store: {directory: {path: /srv/backups}}";
        let good = [
            "{source: {backup: today}}",
            "{source: {cluster: cache}, backupID: 20261130T030000}",
            &format!("{{source: {{{store}, path: prod.cache/redis-5f0c01aa}}}}"),
        ];
        assert_eq!(good.map(problems).concat(), "");
        let wrong = [
            "{source: {}}",
            "{source: {backup: a, cluster: b}}",
            &format!("{{source: {{{store}}}}}"),
            &format!("{{source: {{{store}, path: ../x}}}}"),
            "{source: {cluster: b, path: x}}",
            "{source: {cluster: b, encryption: {secretName: key}}}",
            "{source: {backup: ''}}",
            "{source: {backup: a}, backupID: 20261130T030000}",
            "{source: {cluster: a}, backupID: newest}",
        ];
        expect_test::expect![[r#"
            spec.bootstrap.recovery.source: give exactly one of backup, cluster, store (with path)
            spec.bootstrap.recovery.source: give exactly one of backup, cluster, store (with path)
            spec.bootstrap.recovery.source.path: required with store: the folder of the backups, NAMESPACE.NAME/redis-UID
            spec.bootstrap.recovery.source.path: relative, without empty or .. parts
            spec.bootstrap.recovery.source.path: has no meaning without store
            spec.bootstrap.recovery.source.encryption: has no meaning without store: a Backup or RedisSentinel says it itself
            spec.bootstrap.recovery.source.backup: must be the name of a Backup
            spec.bootstrap.recovery.backupID: has no meaning with source.backup, which is one backup
            spec.bootstrap.recovery.backupID: must be the ID of a backup: YYYYMMDDTHHMMSS
        "#]]
        .assert_eq(&wrong.map(problems).concat());
    }
}
