//! The part of the messages that is about the archive and base backups. Plain data, compatible like [`super`].

use serde::{Deserialize, Serialize};

use crate::api::lsn::Lsn;
use crate::archive::access::ArchiveAccess;

/// The archives that a cluster uses, with credentials.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct Archives {
    /// Changes when any of the others changes; safe to show.
    pub hash: String,
    /// Its own: WAL and backups go there.
    pub own: Option<ArchiveAccess>,
    /// The one that the first data directory is recovered from.
    pub source: Option<ArchiveAccess>,
    /// Milliseconds that a commit may wait for the archive while its segment fills; then the leader switches to a new segment.
    pub max_age_ms: u64,
    /// What is deleted from the archive; `None`: nothing.
    pub retention: Option<Retention>,
    /// Bytes of WAL that may wait for the store; beyond them the oldest segments are given up. `None`: none is.
    pub backlog_limit: Option<u64>,
}

/// What stays in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// Every moment of so many seconds before now stays restorable.
    pub window_seconds: u32,
    /// Base backups that stay at least.
    pub minimum: u32,
}

impl Archives {
    /// Its file in the supervisor's folder, of mode 0600.
    pub const FILE: &str = "archives.json";
}

/// A base backup to take.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupOrder {
    /// Its name in the archive: `YYYYMMDDTHHMMSS`, UTC.
    pub id: String,
    /// Counts the attempts of the object; an attempt that failed is not repeated by the supervisor.
    pub attempt: u32,
    /// Bytes a second to read at most; `None`: no limit.
    pub max_rate: Option<u64>,
}

/// The state of the archive, as one instance sees it. Only a leader whose order is open pushes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct ArchiveState {
    /// [`super::Order::archive`].
    pub path: String,
    /// What was found out about the store; `None`: nothing yet.
    pub conditional_put: Option<bool>,
    /// This instance pushes now.
    pub pushes: bool,
    /// The segment that was archived last, and the milliseconds since then.
    pub last: Option<(String, u64)>,
    /// Segments that are complete and not known to be in the store.
    pub waiting: u64,
    /// Bytes of these.
    pub waiting_bytes: u64,
    /// Milliseconds that the oldest WAL of others than the supervisor has not been in the store for; 0 if all is.
    pub lag_ms: u64,
    /// Why nothing is archived now.
    pub problem: Option<ArchiveProblem>,
    /// What the archive holds; `None`: not listed yet.
    pub catalog: Option<CatalogState>,
}

/// Why nothing is archived.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct ArchiveProblem {
    /// The reason of the condition `ArchiveHealthy`.
    pub reason: String,
    /// What happened, and what to do.
    pub message: String,
}

/// What an archive holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct CatalogState {
    /// The complete base backups.
    pub backups: u64,
    /// ID of the newest one.
    pub last_backup: Option<String>,
    /// The end of the oldest one from which the WAL is complete, in seconds since 1970: nothing older can be restored.
    pub first_point: Option<i64>,
    /// Time of the last commit that is in the archive, in seconds since 1970.
    pub last_point: Option<i64>,
    /// Missing WAL segments, as ranges `FIRST-LAST`.
    pub gaps: Vec<String>,
}

/// A base backup, running or ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupState {
    /// [`BackupOrder::id`].
    pub id: String,
    /// [`BackupOrder::attempt`].
    pub attempt: u32,
    /// How far it is.
    pub phase: BackupPhase,
    /// Why it failed.
    pub error: Option<String>,
    /// Bytes of the data directory read.
    pub bytes: u64,
    /// Bytes that are expected in all.
    pub total: u64,
    /// Bytes in the store, compressed.
    pub stored: u64,
    /// Seconds since 1970 when it began.
    pub started_at: i64,
    /// Seconds since 1970 when it ended.
    pub stopped_at: Option<i64>,
    /// Known once the data was read.
    pub span: Option<BackupSpan>,
}

/// The WAL that a base backup needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct BackupSpan {
    /// Its timeline.
    pub timeline: u32,
    /// Where it begins.
    pub begin: Lsn,
    /// Where it ends.
    pub end: Lsn,
    /// The first segment.
    pub begin_wal: String,
    /// The last one.
    pub end_wal: String,
}

/// The phases of a base backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub enum BackupPhase {
    /// The data directory is read and stored.
    #[default]
    Running,
    /// The data is stored; the WAL that it needs is not yet.
    WaitingForWal,
    /// It is complete: its `backup.info` is written.
    Completed,
    /// It failed.
    Failed,
}
