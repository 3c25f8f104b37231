//! Backups of a PostgresCluster: `spec.backup`, and `status.backup`.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backup_store::{BackupStore, Encryption};
use super::duration::Span;
use super::invalid::Invalid;
use super::{quantity, resources};

/// Shortest and longest [`WalSpec::max_age`].
const MAX_AGES: (Span, Span) = (Span::seconds(1), Span::seconds(86_400));
/// Shortest [`Retention::window`].
const SHORTEST_WINDOW: Span = Span::seconds(86_400);
/// Shortest [`VerifySpec::max_age`].
const SHORTEST_TEST: Span = Span::seconds(3600);
/// Lowest backlog limit in bytes: some segments must be able to wait.
const LEAST_BACKLOG: i64 = 64 << 20;
/// Lowest and highest rate in bytes a second: the limits of PostgreSQL.
const RATES: (i64, i64) = (32 << 10, 1 << 30);

/// Where WAL and base backups go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackupSpec {
    /// The store. Each cluster has a folder of its own in it.
    pub store: BackupStore,
    /// With what all data is encrypted before it goes there. Default: with nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// How WAL is archived.
    #[serde(default, skip_serializing_if = "WalSpec::is_default")]
    pub wal: WalSpec,
    /// Which backups are deleted. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Which instance is read for a base backup, unless the Backup says so itself.
    #[serde(default, skip_serializing_if = "BackupTarget::is_default")]
    pub target: BackupTarget,
    /// Bytes a second that a base backup reads at most, such as `50Mi`, unless the Backup says so itself. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "resources::amount")]
    pub max_rate: Option<Quantity>,
    /// How old the last passed restore test of a backup may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<VerifySpec>,
}

/// What is expected of restore tests. The tests themselves are asked for by Backups and ScheduledBackups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VerifySpec {
    /// The condition `RestoreTested` is False when no backup was restored and checked for so long, such as `8d`. At least 1h.
    pub max_age: Span,
}

/// How WAL is archived.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WalSpec {
    /// Time that a commit waits for the archive at most while its WAL segment is not full: what the loss of all instances can
    /// cost. 1s to 1day.
    pub max_age: Span,
    /// WAL that may wait for a store that does not answer, such as `20Gi`. Default: a quarter of the volume, as long as it has 1 GiB
    /// left (a tenth, if it is smaller than 10 GiB).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "resources::amount")]
    pub backlog_limit: Option<Quantity>,
    /// What happens beyond it.
    pub on_backlog: OnBacklog,
}

/// What happens when more WAL waits for the store than may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum OnBacklog {
    /// The oldest segments are given up, so that the volumes do not become full. Nothing in this gap can be restored; a base backup is
    /// made as soon as the store answers again.
    #[default]
    GiveUp,
    /// WAL is kept until the volume is full, and then the database stops.
    KeepWal,
}

impl Default for WalSpec {
    fn default() -> Self {
        Self { max_age: Span::seconds(60), backlog_limit: None, on_backlog: OnBacklog::default() }
    }
}

impl WalSpec {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// [`WalSpec::backlog_limit`] in bytes.
    pub fn backlog_limit_bytes(&self) -> Option<u64> {
        bytes(self.backlog_limit.as_ref())
    }
}

/// Which backups are kept: those that `window` needs, the newest `count`, and base backups that people keep by name. All others are
/// deleted from the store, with the WAL that only they need. At least one of `window` and `count` is needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retention {
    /// Every time within this window before now can be restored, such as `14d`. At least 1d. Of a Redis: backups that are not older.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Span>,
    /// Number of the newest backups that are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub count: Option<u32>,
    /// Number of the newest backups that are kept whatever their age. At least 1.
    #[serde(default = "minimum")]
    #[schemars(range(min = 1, max = 1000))]
    pub minimum: u32,
}

fn minimum() -> u32 {
    2
}

impl Retention {
    /// [`Retention::window`] in seconds. 0: only the number of base backups counts.
    pub fn window_seconds(&self) -> u32 {
        self.window.map_or(0, |window| u32::try_from(window.get().as_secs()).unwrap_or(u32::MAX))
    }

    /// The newest base backups that are kept whatever their age.
    pub fn newest(&self) -> u32 {
        self.count.unwrap_or_default().max(self.minimum)
    }

    /// Every problem; all paths begin with `spec.backup.retention`.
    pub fn problems(&self) -> Vec<Invalid> {
        const PATH: &str = "spec.backup.retention";
        let mut problems = Vec::new();
        if self.window.is_none() && self.count.is_none() {
            problems.push(Invalid::new(PATH, "give at least one of window, count"));
        }
        if self.window.is_some_and(|window| window < SHORTEST_WINDOW) {
            problems.push(Invalid::new(format!("{PATH}.window"), "a duration of at least 1d"));
        }
        for (field, number) in [("count", self.count), ("minimum", Some(self.minimum))] {
            if let Some(number) = number.filter(|number| !(1..=1000).contains(number)) {
                let message = format!("is {number}, must be from 1 to 1000");
                problems.push(Invalid::new(format!("{PATH}.{field}"), message));
            }
        }
        problems
    }
}

/// Which instance is read for a base backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum BackupTarget {
    /// A streaming standby; the primary if there is none.
    #[default]
    PreferStandby,
    /// The primary.
    Primary,
}

impl BackupTarget {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A quantity that was validated, in bytes.
fn bytes(quantity: Option<&Quantity>) -> Option<u64> {
    quantity::whole(&quantity?.0).ok().and_then(|bytes| u64::try_from(bytes).ok())
}

/// A validated `maxRate` in bytes a second.
pub fn rate_bytes(rate: Option<&Quantity>) -> Option<u64> {
    bytes(rate)
}

/// The problem with a `maxRate` at this path.
pub fn rate_problem(path: &str, rate: Option<&Quantity>) -> Option<Invalid> {
    let (least, most) = RATES;
    let message = match quantity::whole(&rate?.0) {
        Ok(rate) if (least..=most).contains(&rate) => return None,
        Ok(_) => "must be from 32Ki to 1Gi (bytes a second), or be left out".into(),
        Err(message) => message,
    };
    Some(Invalid::new(path, message))
}

impl BackupSpec {
    /// Every problem; all paths begin with `spec.backup`.
    pub fn problems(&self) -> Vec<Invalid> {
        let mut problems = self.store.problems("spec.backup.store");
        let (shortest, longest) = MAX_AGES;
        if !(shortest..=longest).contains(&self.wal.max_age) {
            let message = format!("is {}, must be from {shortest} to {longest}", self.wal.max_age);
            problems.push(Invalid::new("spec.backup.wal.maxAge", message));
        }
        let limit = self.wal.backlog_limit.as_ref().map(|limit| quantity::whole(&limit.0));
        if let Some(Err(message)) = limit {
            problems.push(Invalid::new("spec.backup.wal.backlogLimit", message));
        } else if limit.is_some_and(|limit| limit.is_ok_and(|bytes| bytes < LEAST_BACKLOG)) {
            problems.push(Invalid::new("spec.backup.wal.backlogLimit", "must be at least 64Mi"));
        }
        problems.extend(self.retention.iter().flat_map(Retention::problems));
        problems.extend(rate_problem("spec.backup.maxRate", self.max_rate.as_ref()));
        if let Some(verify) = self.verify.as_ref().filter(|verify| verify.max_age < SHORTEST_TEST) {
            let message = format!("is {}, must be at least 1h", verify.max_age);
            problems.push(Invalid::new("spec.backup.verify.maxAge", message));
        }
        problems
    }
}

/// What is known of the archive.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupStatus {
    /// Its folder below the store's prefix: `NAMESPACE.NAME/SYSTEM_IDENTIFIER-EPOCH`.
    pub archive: String,
    /// Whether the store refuses to overwrite an object when it is asked to; absent until that was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditional_put: Option<bool>,
    /// The fingerprint of the key that is used to encrypt what the primary stores; absent: it is not encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_fingerprint: Option<String>,
    /// The WAL segment that was archived last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_archived_wal: Option<String>,
    /// When that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub archived_at: Option<Timestamp>,
    /// The WAL that waits for the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<Backlog>,
    /// The oldest time that can be restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub first_recoverability_point: Option<Timestamp>,
    /// The time of the last commit that is in the archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub last_recoverability_point: Option<Timestamp>,
    /// ID of the newest complete base backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<String>,
    /// Number of complete base backups.
    pub backups: u64,
    /// The backup that was last restored and checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_verified: Option<LastVerified>,
    /// Missing WAL segments, as ranges `FIRST-LAST`: what they hold cannot be restored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<String>,
}

/// A backup that was restored and checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastVerified {
    /// The Backup object.
    pub backup: String,
    /// When.
    #[schemars(with = "String")]
    pub at: Timestamp,
}

/// WAL that waits for the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Backlog {
    /// Complete segments.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const STORE: &str = "store: {directory: {path: /srv/backups}}";

    fn spec(more: &str) -> BackupSpec {
        serde_saphyr::from_str(&format!("{STORE}\n{more}")).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_store_alone_is_a_complete_declaration() {
        let plain = spec("");
        assert_eq!((plain.problems(), plain.wal.max_age, plain.retention.clone()), (vec![], Span::seconds(60), None));
        assert_eq!(plain.target, BackupTarget::PreferStandby);
        let full = spec(
            "wal: {maxAge: 5m, backlogLimit: 20Gi}\nretention: {window: 14d}\ntarget: primary\nmaxRate: 50Mi\nverify: {maxAge: 8d}",
        );
        assert_eq!((full.problems(), full.retention.as_ref().unwrap().minimum), (vec![], 2));
        assert_eq!(full.wal.backlog_limit_bytes(), Some(20 << 30));
        assert_eq!(rate_bytes(full.max_rate.as_ref()), Some(50 << 20));
    }

    #[test]
    fn every_problem_of_a_declaration_is_told_with_its_path() {
        expect_test::expect![[r#"
            spec.backup.wal.maxAge: is 500ms, must be from 1s to 1day
            spec.backup.wal.backlogLimit: must be at least 64Mi
            spec.backup.retention.window: a duration of at least 1d
            spec.backup.retention.minimum: is 0, must be from 1 to 1000
            spec.backup.maxRate: must be from 32Ki to 1Gi (bytes a second), or be left out
            spec.backup.verify.maxAge: is 59m, must be at least 1h
        "#]]
        .assert_eq(
            &spec("wal: {maxAge: 500ms, backlogLimit: 1Mi}\nretention: {window: 0d, minimum: 0}\nmaxRate: 1\nverify: {maxAge: 59m}")
                .problems()
                .iter()
                .map(|one| format!("{one}\n"))
                .collect::<String>(),
        );
        let told = spec("wal: {backlogLimit: lots}\nmaxRate: fast").problems();
        assert_eq!(
            told.iter().map(|one| one.path.as_str()).collect::<Vec<_>>(),
            ["spec.backup.wal.backlogLimit", "spec.backup.maxRate"]
        );
    }
}
