//! The part of the messages that is about the archive, base backups and dumps. Plain data, compatible like [`super`].

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::lsn::Lsn;
use crate::archive::access::ArchiveAccess;

/// The archives that a cluster uses, with credentials.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct Archives {
    /// Changes when any of the others changes; safe to show.
    pub hash: String,
    /// Its own, if it is not encrypted; see [`Archives::own`].
    pub own: Option<ArchiveAccess>,
    /// Its own, if it is encrypted. In a place of its own: a supervisor of a version that does not know it has no archive then, and
    /// writes nothing in the clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<ArchiveAccess>,
    /// The one that the first data directory is recovered from.
    pub source: Option<ArchiveAccess>,
    /// Milliseconds that a commit may wait for the archive while its segment fills; then the leader switches to a new segment.
    pub max_age_ms: u64,
    /// What is deleted from the archive; `None`: nothing.
    pub retention: Option<Retention>,
    /// Bytes of WAL that may wait for the store; beyond them the oldest segments are given up. `None`: a quarter of the volume.
    pub backlog_limit: Option<u64>,
    /// No WAL is given up, even if the volume becomes full.
    pub keep_wal: bool,
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

    /// The archive of the cluster: WAL and backups go there.
    pub fn own(&self) -> Option<&ArchiveAccess> {
        self.encrypted.as_ref().or(self.own.as_ref())
    }

    /// The same archives with this one of the cluster.
    pub fn with_own(self, own: ArchiveAccess) -> Self {
        match own.access.encryption {
            Some(_) => Self { own: None, encrypted: Some(own), ..self },
            None => Self { own: Some(own), encrypted: None, ..self },
        }
    }
}

/// A base backup or a dump to take.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupOrder {
    /// Its name in the archive: `YYYYMMDDTHHMMSS`, UTC.
    pub id: String,
    /// Counts the attempts of the object; an attempt that failed is not repeated by the supervisor.
    pub attempt: u32,
    /// Bytes a second to read at most; `None`: no limit.
    pub max_rate: Option<u64>,
    /// The database to dump; `None`: a base backup is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dump: Option<String>,
}

/// A restore point to make.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct PointOrder {
    /// The ID of the Backup.
    pub id: String,
    /// Counts the attempts of the Backup.
    pub attempt: u32,
    /// The name of the restore point: up to 63 bytes.
    pub name: String,
}

/// A dump to restore into a new database of the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct RestoreOrder {
    /// UID of the object.
    pub id: String,
    /// Counts the attempts of the object; an attempt that failed is not repeated by the supervisor.
    pub attempt: u32,
    /// The archive with the dump.
    pub source: ArchiveAccess,
    /// The ID of the dump.
    pub dump: String,
    /// The new database.
    pub database: String,
    /// The role that everything in it belongs to; `None`: as in the dump.
    pub owner: Option<String>,
}

/// The state of the archive, as one instance sees it. Only a leader whose order is open pushes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct ArchiveState {
    /// [`super::Order::archive`].
    pub path: String,
    /// What was found out about the store; `None`: nothing yet.
    pub conditional_put: Option<bool>,
    /// The fingerprint of the key that everything is encrypted for which this instance pushes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_fingerprint: Option<String>,
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
    /// The first gap after the newest base backup: without another one nothing after it can be restored.
    pub cut: Option<String>,
}

/// A base backup, a dump, a snapshot of Redis, or the restore of a dump or snapshot, running or ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupState {
    /// [`BackupOrder::id`], or [`RestoreOrder::id`].
    pub id: String,
    /// The attempt of the order.
    pub attempt: u32,
    /// How far it is.
    pub phase: BackupPhase,
    /// Why it failed.
    pub error: Option<String>,
    /// Another attempt would fail as well.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub lasting: bool,
    /// Bytes read: of the data directory, or of the dump.
    pub bytes: u64,
    /// Bytes that are expected in all. For a dump that is the size of the database, which also has indexes.
    pub total: u64,
    /// Bytes in the store, compressed.
    pub stored: u64,
    /// Seconds since 1970 when it began.
    pub started_at: i64,
    /// Seconds since 1970 when it ended.
    pub stopped_at: Option<i64>,
    /// Of a base backup, once the data was read.
    pub span: Option<BackupSpan>,
    /// Of a dump, once it has begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
    /// Of a snapshot of Redis, once it was read; of the restore of one, once it was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rdb: Option<RdbState>,
}

/// A snapshot of Redis.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct RdbState {
    /// Its ID.
    pub backup: String,
    /// The version of the server that wrote it.
    pub server: String,
    /// The history of the data: `master_replid`.
    pub replid: String,
    /// The data is as of this position: `master_repl_offset`.
    pub offset: u64,
    /// The time of that, in seconds since 1970.
    pub time: i64,
    /// Keys in all databases, about.
    pub keys: u64,
}

/// What a dump is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// The data is as of this position.
    pub lsn: Lsn,
    /// The time of that, in seconds since 1970.
    pub time: i64,
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

/// The phases of a base backup. A dump and a restore have all but [`BackupPhase::WaitingForWal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub enum BackupPhase {
    /// The data is read and stored.
    #[default]
    Running,
    /// The data is stored; the WAL that it needs is not yet.
    WaitingForWal,
    /// It is complete: its `backup.info` or `dump.json` is written, or the restored database has its name.
    Completed,
    /// It failed.
    Failed,
}

/// A recovery from an archive, running or ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct RecoveryState {
    /// What it does.
    pub phase: RecoveryPart,
    /// Attempts that failed so far, without those that did not reach the store.
    pub failures: u32,
    /// Attempts that ended with the container.
    pub interruptions: u32,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// ID of the base backup; empty: not chosen yet.
    pub backup: String,
    /// The timelines on the way, from that of the base backup on.
    pub path: Vec<u32>,
    /// Bytes of the base backup written.
    pub bytes: u64,
    /// Bytes of it in all.
    pub total: u64,
    /// The WAL segment that was replayed last.
    pub wal: Option<String>,
    /// The last one on the way.
    pub last_wal: String,
    /// What is checked now, for people.
    pub doing: String,
    /// Grows whenever anything goes on: bytes, segments, or the work of a program that says nothing.
    pub steps: u64,
    /// Where the replay ended.
    pub reached: Option<Reached>,
    /// The checks that were passed.
    pub checks: Vec<String>,
    /// Why others were not made.
    pub unchecked: Vec<String>,
    /// Seconds since 1970 when the current attempt began.
    pub started_at: i64,
    /// Seconds since 1970 when it ended.
    pub stopped_at: Option<i64>,
}

impl RecoveryState {
    /// Its file in the supervisor's folder: as it began, or as it ended.
    pub const FILE: &str = "restore.json";
}

/// Where a replay ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Reached {
    /// The position.
    pub lsn: Lsn,
    /// The timeline of the archive that it is on.
    pub timeline: u32,
    /// The time of the last transaction that was replayed, if there was one.
    pub last_commit: Option<Timestamp>,
}

/// The phases of a recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub enum RecoveryPart {
    /// The archive is listed, and the way is chosen.
    #[default]
    Preparing,
    /// The base backup is downloaded.
    Downloading,
    /// The data is checked.
    Checking,
    /// WAL is replayed.
    Replaying,
    /// The data directory is in its place.
    Completed,
    /// The store was not reached; it is tried again.
    Retrying,
    /// It failed; it is tried again.
    Failed,
}
