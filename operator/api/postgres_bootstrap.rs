//! How the first data directory of a PostgresCluster is created: `spec.bootstrap`. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::backup_id::is_backup_id;
use super::backup_store::{BackupStore, Encryption, is_relative};
use super::invalid::Invalid;
use super::lsn::Lsn;
use super::postgres_tls::SecretRef;
use super::resources;

/// The database and its owner, unless they are declared.
const APP: &str = "app";
/// The lowest ID of a transaction of users.
const FIRST_XID: u64 = 3;
/// Longest name of a restore point, in bytes.
const LONGEST_POINT: usize = 63;

/// How the first data directory is created: at most one of `initdb` and `recovery`. Default: `initdb`. If the volumes have data
/// already, it is adopted, and nothing is created.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bootstrap {
    /// A new, empty cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initdb: Option<Initdb>,
    /// The data of a backup, with the WAL that was archived after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoverySpec>,
}

/// A new cluster with one database and its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Initdb {
    /// The application's database.
    #[schemars(length(min = 1, max = 63))]
    pub database: String,
    /// Its owner, a role with LOGIN.
    #[schemars(length(min = 1, max = 63))]
    pub owner: String,
    /// A Secret with the keys `username` and `password` for the owner. Without it a password is generated.
    /// In both cases the Secret `NAME-app` has the connection data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
    /// Server encoding.
    pub encoding: String,
    /// Locale (LC_COLLATE and LC_CTYPE).
    pub locale: String,
    /// Page checksums.
    pub data_checksums: bool,
}

impl Default for Initdb {
    fn default() -> Self {
        Self {
            database: APP.into(),
            owner: APP.into(),
            secret: None,
            encoding: "UTF8".into(),
            locale: "C.UTF-8".into(),
            data_checksums: true,
        }
    }
}

/// A recovery from an archive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecoverySpec {
    /// The archive.
    pub source: RecoverySource,
    /// Where to stop. Default: at the end of the archive.
    #[serde(default, skip_serializing_if = "RecoveryTarget::is_default")]
    pub target: RecoveryTarget,
    /// `true`: the data is used only if it passes its checks: the manifest of the base backup, the checksums of the pages, and
    /// amcheck of all indexes and tables. They read everything once more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verify: bool,
    /// The application's database in the backup, for the Secret `NAME-app`.
    #[serde(default = "app")]
    #[schemars(length(min = 1, max = 63))]
    pub database: String,
    /// Its owner, a role with LOGIN. It gets the password of this cluster.
    #[serde(default = "app")]
    #[schemars(length(min = 1, max = 63))]
    pub owner: String,
    /// A Secret with the keys `username` and `password` for the owner. Without it a password is generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
}

fn app() -> String {
    APP.into()
}

/// The archive to recover from: a cluster, or a store with a path.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecoverySource {
    /// A PostgresCluster of the same namespace: its store, and its archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The store that has the archive, where its cluster is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<BackupStore>,
    /// What the archive in `store` is encrypted with. With `cluster` it is that of `spec.backup.encryption` there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// The folder of the archive in `store`, as `status.backup.archive` of its cluster said:
    /// `NAMESPACE.NAME/SYSTEM_IDENTIFIER-EPOCH`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// Where a recovery stops: at most one of `time`, `lsn`, `xid`, `name`, `immediate`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecoveryTarget {
    /// A time with its offset, such as `2026-11-28T03:14:15Z`: what was committed until then is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// A position in the WAL, such as `16/B374D848`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<String>,
    /// A transaction: what was committed until its own commit is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 3))]
    pub xid: Option<u64>,
    /// A restore point that `pg_create_restore_point` made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub name: Option<String>,
    /// `true`: the end of the base backup.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub immediate: bool,
    /// `true`: stop just before `time`, `lsn` or `xid`, and not just after it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exclusive: bool,
    /// The timeline to end on: its number, or `latest` for that of the last leader. Default: `latest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "resources::amount")]
    pub timeline: Option<IntOrString>,
    /// The base backup to begin with: `YYYYMMDDTHHMMSS`. Default: the newest one from which the target can be reached.
    #[serde(default, rename = "backupID", skip_serializing_if = "Option::is_none")]
    pub backup_id: Option<String>,
}

impl RecoveryTarget {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// [`RecoveryTarget::time`] as a point in time. Errors: it has no offset, or is no time.
    pub fn timestamp(&self) -> Result<Option<Timestamp>, Invalid> {
        let wrong =
            |_| Invalid::new("spec.bootstrap.recovery.target.time", "needs an offset, e.g. 2026-11-28T03:14:15Z");
        self.time.as_deref().map(|time| time.parse().map_err(wrong)).transpose()
    }

    /// [`RecoveryTarget::lsn`] as a number. Errors: it is none.
    pub fn position(&self) -> Result<Option<Lsn>, Invalid> {
        let wrong = |_| Invalid::new("spec.bootstrap.recovery.target.lsn", "not an LSN, such as 16/B374D848");
        self.lsn.as_deref().map(|lsn| lsn.parse().map_err(wrong)).transpose()
    }

    /// The number of [`RecoveryTarget::timeline`]; `None` for `latest`. Errors: it is neither.
    pub fn timeline_number(&self) -> Result<Option<u32>, Invalid> {
        let number = match &self.timeline {
            None => return Ok(None),
            Some(IntOrString::String(word)) if word == "latest" => return Ok(None),
            Some(IntOrString::String(word)) => word.parse().ok(),
            Some(IntOrString::Int(number)) => u32::try_from(*number).ok(),
        };
        let wrong = || Invalid::new("spec.bootstrap.recovery.target.timeline", "latest or at least 1");
        number.filter(|number| *number > 0).map(Some).ok_or_else(wrong)
    }

    fn problems(&self) -> Vec<Invalid> {
        const PATH: &str = "spec.bootstrap.recovery.target";
        let mut problems = Vec::new();
        let bounded = [self.time.is_some(), self.lsn.is_some(), self.xid.is_some()];
        let given = bounded.into_iter().chain([self.name.is_some(), self.immediate]).filter(|given| *given).count();
        if given > 1 {
            problems.push(Invalid::new(PATH, "give at most one of time, lsn, xid, name, immediate"));
        }
        problems.extend(self.timestamp().err());
        problems.extend(self.position().err());
        if self.xid.is_some_and(|xid| xid < FIRST_XID) {
            problems.push(Invalid::new(format!("{PATH}.xid"), "must be at least 3, the first one of users"));
        }
        let is_point = |name: &str| (1..=LONGEST_POINT).contains(&name.len()) && !name.contains(char::is_control);
        if self.name.as_deref().is_some_and(|name| !is_point(name)) {
            let message = "must be the name of a restore point: 1 to 63 bytes without control characters";
            problems.push(Invalid::new(format!("{PATH}.name"), message));
        }
        if self.exclusive && !bounded.contains(&true) {
            let message = match (self.immediate, &self.name) {
                (true, _) => "has no meaning with immediate",
                (_, Some(_)) => "has no meaning with name",
                _ => "has no meaning without time, lsn or xid",
            };
            problems.push(Invalid::new(format!("{PATH}.exclusive"), message));
        }
        problems.extend(self.timeline_number().err());
        if self.backup_id.as_deref().is_some_and(|id| !is_backup_id(id)) {
            let message = "must be the ID of a base backup: YYYYMMDDTHHMMSS";
            problems.push(Invalid::new(format!("{PATH}.backupID"), message));
        }
        problems
    }
}

impl RecoverySource {
    fn problems(&self) -> Vec<Invalid> {
        const PATH: &str = "spec.bootstrap.recovery.source";
        let mut problems = Vec::new();
        let is_complete = match (&self.cluster, &self.store, &self.path) {
            (Some(_), None, None) => true,
            (None, Some(_), path) => {
                if path.is_none() {
                    let message =
                        "required with store: the folder of the archive, NAMESPACE.NAME/SYSTEM_IDENTIFIER-EPOCH";
                    problems.push(Invalid::new(format!("{PATH}.path"), message));
                }
                true
            }
            _ => false,
        };
        if !is_complete {
            problems.push(Invalid::new(PATH, "give exactly one of cluster, store (with path)"));
        }
        if self.cluster.as_deref() == Some("") {
            problems.push(Invalid::new(format!("{PATH}.cluster"), "must be the name of a PostgresCluster"));
        }
        if self.encryption.is_some() && self.store.is_none() {
            let message =
                "has no meaning without store: the archive of cluster is read with its own spec.backup.encryption";
            problems.push(Invalid::new(format!("{PATH}.encryption"), message));
        }
        problems.extend(self.store.iter().flat_map(|store| store.problems(&format!("{PATH}.store"))));
        if self.path.as_deref().is_some_and(|path| !is_relative(path)) {
            problems.push(Invalid::new(format!("{PATH}.path"), "relative, without empty or .. parts"));
        }
        problems
    }
}

impl Bootstrap {
    /// The application's database.
    pub fn database(&self) -> &str {
        match (&self.recovery, &self.initdb) {
            (Some(recovery), _) => &recovery.database,
            (None, Some(initdb)) => &initdb.database,
            (None, None) => APP,
        }
    }

    /// Its owner.
    pub fn owner(&self) -> &str {
        match (&self.recovery, &self.initdb) {
            (Some(recovery), _) => &recovery.owner,
            (None, Some(initdb)) => &initdb.owner,
            (None, None) => APP,
        }
    }

    /// The Secret with the owner's password, if the user named one.
    pub fn secret(&self) -> Option<&SecretRef> {
        match &self.recovery {
            Some(recovery) => recovery.secret.as_ref(),
            None => self.initdb.as_ref()?.secret.as_ref(),
        }
    }

    /// The path of the part that is used, such as `spec.bootstrap.initdb`.
    pub fn path(&self) -> &'static str {
        if self.recovery.is_some() { "spec.bootstrap.recovery" } else { "spec.bootstrap.initdb" }
    }

    /// What `initdb` is told; the defaults where nothing is declared.
    pub fn initdb(&self) -> Initdb {
        self.initdb.clone().unwrap_or_default()
    }

    /// Every problem. `cluster`: the name of the cluster.
    pub fn problems(&self, cluster: Option<&str>) -> Vec<Invalid> {
        let mut problems = Vec::new();
        if self.initdb.is_some() && self.recovery.is_some() {
            problems.push(Invalid::new("spec.bootstrap", "give one of initdb, recovery"));
        }
        let path = self.path();
        for (field, name) in [("database", self.database()), ("owner", self.owner())] {
            if name.is_empty() || name.len() > 63 || name.contains(char::is_control) {
                problems.push(Invalid::new(
                    format!("{path}.{field}"),
                    "must be a PostgreSQL name of 1 to 63 bytes without control characters",
                ));
            }
        }
        let owner = self.owner();
        let reserved = ["postgres", "public", "none"].contains(&owner);
        if reserved || owner.starts_with("evenkeel") || owner.starts_with("pg_") {
            let message = format!("{owner:?} is reserved; choose another role name");
            problems.push(Invalid::new(format!("{path}.owner"), message));
        }
        if let Some(recovery) = &self.recovery {
            problems.extend(recovery.source.problems());
            if recovery.source.cluster.is_some() && recovery.source.cluster.as_deref() == cluster {
                problems.push(Invalid::new("spec.bootstrap.recovery.source.cluster", "is this cluster"));
            }
            problems.extend(recovery.target.problems());
        }
        problems
    }
}

/// Every problem with a change of one PostgresCluster to another: once there is data, it cannot come from elsewhere.
pub fn change_problems(old: &Value, new: &Value) -> Vec<Invalid> {
    let origin = |object: &Value| {
        let recovery = &object["spec"]["bootstrap"]["recovery"];
        let recovery = Option::<RecoverySpec>::deserialize(recovery).ok().flatten();
        recovery.map(|recovery| (recovery.source, recovery.target, recovery.verify))
    };
    let has_data = old["status"]["decisions"]["systemIdentifier"].is_string();
    let message = "immutable: the cluster has its data already; create another one to recover something else";
    let changed = has_data && origin(old) != origin(new);
    changed.then(|| Invalid::new("spec.bootstrap.recovery", message)).into_iter().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bootstrap(yaml: &str) -> Bootstrap {
        serde_saphyr::from_str(yaml).unwrap_or_else(|error| panic!("{error}"))
    }

    fn problems(yaml: &str) -> String {
        bootstrap(yaml).problems(Some("db")).iter().map(|one| format!("{one}\n")).collect()
    }

    fn target(yaml: &str) -> String {
        problems(&format!("recovery: {{source: {{cluster: old}}, target: {yaml}}}"))
            .replace("spec.bootstrap.recovery.target", "TARGET")
    }

    #[test]
    fn database_owner_and_secret_are_those_of_the_part_that_is_used() {
        let shown = |yaml: &str| {
            let one = bootstrap(yaml);
            let secret = one.secret().map(|secret| secret.name.clone());
            (one.path(), one.database().to_owned(), one.owner().to_owned(), secret)
        };
        let expected =
            |part, name: &str, secret: Option<&str>| (part, name.to_owned(), name.to_owned(), secret.map(Into::into));
        assert_eq!(shown("{}"), expected("spec.bootstrap.initdb", "app", None));
        assert_eq!(
            shown("initdb: {database: awx, owner: awx, secret: {name: s}}"),
            expected("spec.bootstrap.initdb", "awx", Some("s"))
        );
        assert_eq!(
            shown("recovery: {source: {cluster: old}, database: awx, owner: awx, secret: {name: s}}"),
            expected("spec.bootstrap.recovery", "awx", Some("s"))
        );
        assert_eq!(problems("recovery: {source: {cluster: old}}"), "");
    }

    #[test]
    fn a_recovery_needs_exactly_one_source_and_is_no_initdb() {
        expect_test::expect![[r#"
            spec.bootstrap: give one of initdb, recovery
            spec.bootstrap.recovery.owner: "postgres" is reserved; choose another role name
            spec.bootstrap.recovery.source: give exactly one of cluster, store (with path)
        "#]]
        .assert_eq(&problems("{initdb: {}, recovery: {source: {}, owner: postgres}}"));
        expect_test::expect![[r#"
            spec.bootstrap.recovery.source.cluster: is this cluster
        "#]]
        .assert_eq(&problems("recovery: {source: {cluster: db}}"));
        expect_test::expect![[r#"
            spec.bootstrap.recovery.source.path: required with store: the folder of the archive, NAMESPACE.NAME/SYSTEM_IDENTIFIER-EPOCH
            spec.bootstrap.recovery.source.store: give exactly one of s3, directory
        "#]]
        .assert_eq(&problems("recovery: {source: {store: {}}}"));
        let store = "store: {directory: {path: /srv/backups}}";
        assert_eq!(problems(&format!("recovery: {{source: {{{store}, path: default.old/74-5f0c01aa}}}}")), "");
        assert_eq!(
            problems(&format!("recovery: {{source: {{{store}, path: ../x}}}}")),
            "spec.bootstrap.recovery.source.path: relative, without empty or .. parts\n"
        );
        assert_eq!(
            problems("recovery: {source: {cluster: old, path: a/b}}"),
            "spec.bootstrap.recovery.source: give exactly one of cluster, store (with path)\n"
        );
        let key = "encryption: {secretName: key}";
        assert_eq!(problems(&format!("recovery: {{source: {{{store}, path: default.old/74-5f0c01aa, {key}}}}}")), "");
        expect_test::expect![[r#"
            spec.bootstrap.recovery.source.encryption: has no meaning without store: the archive of cluster is read with its own spec.backup.encryption
        "#]]
        .assert_eq(&problems(&format!("recovery: {{source: {{cluster: old, {key}}}}}")));
    }

    #[test]
    fn a_target_that_means_nothing_is_refused_with_its_path() {
        for good in [
            "{}",
            "{time: '2026-11-28T03:14:15Z', exclusive: true}",
            "{time: '2026-11-28T03:14:15+01:00', timeline: latest}",
            "{lsn: 16/B374D848, timeline: 3}",
            "{xid: 1000, backupID: 20261128T030000}",
            "{name: before}",
            "{immediate: true}",
        ] {
            assert_eq!(target(good), "", "{good}");
        }
        expect_test::expect![[r#"
            TARGET: give at most one of time, lsn, xid, name, immediate
            TARGET.time: needs an offset, e.g. 2026-11-28T03:14:15Z
            TARGET.lsn: not an LSN, such as 16/B374D848
            TARGET.xid: must be at least 3, the first one of users
            TARGET.timeline: latest or at least 1
            TARGET.backupID: must be the ID of a base backup: YYYYMMDDTHHMMSS
        "#]]
        .assert_eq(&target("{time: '2026-11-28T03:14:15', lsn: 0/XYZ, xid: 2, timeline: 0, backupID: yesterday}"));
        assert_eq!(target("{exclusive: true, immediate: true}"), "TARGET.exclusive: has no meaning with immediate\n");
        assert_eq!(target("{exclusive: true, name: a}"), "TARGET.exclusive: has no meaning with name\n");
        assert_eq!(target("{exclusive: true}"), "TARGET.exclusive: has no meaning without time, lsn or xid\n");
        assert_eq!(target("{timeline: newest}"), "TARGET.timeline: latest or at least 1\n");
    }

    #[test]
    fn a_cluster_with_data_cannot_be_recovered_into() {
        let object = |bootstrap: Value, has_data: bool| {
            let decisions = if has_data { json!({"systemIdentifier": "74"}) } else { json!({}) };
            json!({"spec": {"bootstrap": bootstrap}, "status": {"decisions": decisions}})
        };
        let recovery =
            |cluster: &str, owner: &str| json!({"recovery": {"source": {"cluster": cluster}, "owner": owner}});
        let told = |old: &Value, new: Value| change_problems(old, &object(new, false)).len();
        // A store of an earlier version has what was then the default.
        let old = object(json!({"initdb": serde_json::to_value(Initdb::default()).unwrap()}), true);
        assert_eq!(
            (told(&old, json!({"initdb": {}})), told(&old, json!({})), told(&old, recovery("a", "app"))),
            (0, 0, 1)
        );
        let recovered = object(recovery("a", "app"), true);
        assert_eq!(told(&recovered, recovery("a", "other")), 0);
        assert_eq!((told(&recovered, recovery("b", "app")), told(&recovered, json!({}))), (1, 1));
        let verified = json!({"recovery": {"source": {"cluster": "a"}, "verify": true}});
        assert_eq!(told(&recovered, verified), 1);
        // What cannot be recovered can be corrected.
        assert_eq!(told(&object(recovery("a", "app"), false), recovery("b", "app")), 0);
    }
}
