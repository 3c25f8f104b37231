//! The recovery of a PostgresCluster from an archive: `status.recovery`.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::lsn::Lsn;
use super::words::words;

/// How far the recovery is, or how it ended.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RecoveryStatus {
    /// What it does.
    pub phase: RecoveryPhase,
    /// The same, as a sentence, with the figures.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The instance whose data directory is made.
    pub instance: String,
    /// The base backup.
    #[serde(rename = "backupID", skip_serializing_if = "String::is_empty")]
    pub backup_id: String,
    /// The timelines on the way, from that of the base backup on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub timelines: Vec<u32>,
    /// The part of the base backup that is downloaded, such as `62%`, or the WAL segment that was replayed last.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub progress: String,
    /// Where the replay ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reached: Option<ReachedStatus>,
    /// The checks that the data has passed: `manifest`, `checksums`, `amcheck`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<String>,
    /// Why others could not be made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unchecked: Vec<String>,
    /// Attempts that failed. Those that did not reach the store do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// Why the last one failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    /// When the current attempt began, by the clock of the instance's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub stopped_at: Option<Timestamp>,
    /// When this last changed. It is written every 2 s at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub progressed_at: Option<Timestamp>,
    /// Grows whenever anything goes on.
    pub steps: u64,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Where a replay ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReachedStatus {
    /// The position in the WAL.
    pub lsn: Lsn,
    /// The timeline of the archive that it is on.
    pub timeline: u32,
    /// The time of the last transaction that was replayed; absent if there was none after the base backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub last_commit: Option<Timestamp>,
}

words! {
    /// What a recovery does.
    RecoveryPhase {
        /// The archive is listed, and the way is chosen.
        #[default]
        Preparing = "Preparing",
        /// The base backup is downloaded.
        Downloading = "Downloading",
        /// The data is checked.
        Checking = "Checking",
        /// WAL is replayed.
        Replaying = "Replaying",
        /// The data is there.
        Completed = "Completed",
        /// The store was not reached; it is tried again.
        Retrying = "Retrying",
        /// It failed; it is tried again.
        Failed = "Failed",
    }
}
