//! What an archive holds, what its retention would delete, and how a recovery from it would go: the operator's answer to the
//! command line. Plain data.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::lsn::Lsn;

/// The archives of a PostgresCluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ArchiveOutlook {
    /// Its own archive, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own: Option<ArchiveView>,
    /// What a recovery that is declared would do, as long as the cluster has no data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryView>,
}

/// What an archive holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ArchiveView {
    /// Its folder below the store's prefix.
    pub path: String,
    /// Why it cannot be read from the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The complete base backups, oldest first.
    pub backups: Vec<BackupView>,
    /// IDs of those that were begun and are not complete.
    pub unfinished: Vec<String>,
    /// Everything from this time on can be restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_point: Option<Timestamp>,
    /// Time of the last commit that is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_point: Option<Timestamp>,
    /// Missing WAL, as ranges `FIRST-LAST`.
    pub gaps: Vec<String>,
    /// What is unusable in it.
    pub unusable: Vec<String>,
    /// What the retention would delete now, as sentences.
    pub deletes: Vec<String>,
}

/// A complete base backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupView {
    /// Its ID.
    pub id: String,
    /// When it ended.
    pub ended: Timestamp,
    /// Bytes of the data directory.
    pub size: u64,
    /// Its timeline.
    pub timeline: u32,
    /// The end of the WAL that it needs.
    pub end: Lsn,
    /// People keep it, whatever the retention says.
    pub kept: bool,
    /// The fingerprint of the key that it is encrypted for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_fingerprint: Option<String>,
}

/// How a recovery would go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RecoveryView {
    /// The folder that it reads.
    pub path: String,
    /// Why it cannot be done, or is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The base backup.
    pub backup: String,
    /// When that ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_ended: Option<Timestamp>,
    /// The way over the timelines, as sentences.
    pub timelines: Vec<String>,
    /// The first and the last WAL segment.
    pub segments: Option<(String, String)>,
    /// Their number.
    pub count: u64,
    /// WAL segments on the way that are not there.
    pub missing: Vec<String>,
    /// Bytes of the data directory, of the compressed base backup, and of the compressed WAL.
    pub bytes: (u64, u64, u64),
    /// Seconds for the download at the speed that the operator has just measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download_seconds: Option<u64>,
    /// Time of the last commit in the archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_point: Option<Timestamp>,
    /// Archives in this store, if no folder was given.
    pub archives: Vec<String>,
}
