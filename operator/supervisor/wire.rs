//! The messages between operator and supervisor: newline-delimited JSON over one stream. Plain data.
//!
//! The operator sends [`Command`]s; the supervisor answers with complete [`Report`]s, at once when a
//! [`significant`] field changed and otherwise every second. Both are level-triggered: the last message is
//! sufficient.
//!
//! **Compatible one version back, in both directions**: a new operator works with the supervisors of the previous
//! release, and the other way round. So a new field has `#[serde(default)]`, is ignored by the older side, and its
//! absence means what the previous release did. No field is renamed (`#[serde(rename)]` keeps its name in JSON),
//! retyped or removed before two releases have passed. A new variant of an enum is an error to the previous release: it
//! is not sent to a supervisor that has not reported that it knows it. The same rule holds for `durable.json` on the
//! data volume ([`super::state::Durable`]). `released.json` and `released.rs` are the previous release; tests check
//! today's types against them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::api::libraries::Libraries;
use crate::api::lsn::{Fork, Lsn};
use crate::archive::target::Recovery;

pub use self::archive::*;

mod archive;

/// The supervisor's socket inside its container.
pub const SOCKET: &str = "/run/evenkeel/supervisor.sock";
/// Mount path of the data volume.
pub const VOLUME: &str = "/var/lib/postgresql/data";
/// PostgreSQL's port in a container with networks of its own.
pub const PORT: u16 = crate::api::postgres_settings::PORT;

/// A name that no standby has: a commit rule with it waits for ever.
pub const NOBODY: &str = "evenkeel_nobody";

/// Validity of a confirmation, in milliseconds (L of the protocol).
pub const CONFIRMATION_MS: u64 = 10_000;

/// A message from the operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Command {
    /// The standing order of this instance; replaces the previous one.
    Order(Order),
    /// Secrets; kept in memory and in files of mode 0600, never sent back.
    Credentials(Credentials),
    /// Restart the postmaster that runs (or last ran) under this run id. Ignored for any other run id.
    Restart {
        /// [`Report::run`] of the postmaster meant.
        run: String,
    },
    /// The operator confirms the leader of this term; valid for [`CONFIRMATION_MS`] from the report that it answers,
    /// however long the message took.
    Renew {
        /// The term confirmed.
        term: u64,
        /// [`Report::clock_ms`] of that report.
        clock_ms: u64,
    },
    /// Where WAL and backups go, and where a recovery reads from. Kept in memory and in a file of mode 0600, never sent back.
    /// Only for a supervisor that has reported [`Report::archives`].
    Archives(Box<Archives>),
    /// The base backup or dump to take; `None`: none, and one that runs is cut off. Only for a supervisor that has reported
    /// [`Report::archives`].
    Backup(Option<BackupOrder>),
    /// The dump to restore into a new database; `None`: none, and a restore that runs is cut off. Only for a leader that has
    /// reported [`Report::archives`].
    RestoreDump(Option<Box<RestoreOrder>>),
    /// The leader switches to a new WAL segment, if the current one begins at or before this position: a base backup needs its
    /// WAL in the archive. Only for a supervisor that has reported [`Report::archives`].
    SwitchWal {
        /// The end of that base backup.
        past: Lsn,
    },
    /// The restore point to make; `None`: none, and the wait for one in the archive is cut off. Only for a leader that has
    /// reported [`Report::archives`].
    RestorePoint(Option<PointOrder>),
}

/// What an instance must do. Carries its term: an order below the promise is refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// The term in which the order was given.
    pub term: u64,
    /// The revision of the decisions that it follows from; within a term an older one is refused.
    #[serde(default)]
    pub revision: u64,
    /// What to do.
    pub task: Task,
    /// The user's PostgreSQL settings, for every task.
    pub settings: BTreeMap<String, String>,
    /// Who may connect over the network. Only for a supervisor that has reported [`Report::secures`]. Absent in orders of
    /// the previous release: every address of its networks may replicate with the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// The folder of its archive in the store: WAL is kept until it is there. Only for a supervisor that has reported
    /// [`Report::archives`]. Absent: nothing is archived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
}

/// Who may connect to a server over the network: the lines of `pg_hba.conf`, besides the gate.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct Access {
    /// Addresses that replicate with a client certificate.
    pub secure: Vec<Ipv4Addr>,
    /// Addresses that replicate with the password: members of the previous release, until they are updated.
    pub plain: Vec<Ipv4Addr>,
    /// Clients must use TLS.
    pub clients_use_tls: bool,
    /// Members live on several hosts: every address may replicate with a client certificate.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub anywhere: bool,
}

/// The tasks of an [`Order`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub enum Task {
    /// Promise the term: acknowledge nothing to any older leader from now on, and report the end of the WAL.
    Prepare,
    /// Become the primary of this term.
    Lead(Lead),
    /// Become a standby of that leader.
    Follow(Follow),
    /// Stop PostgreSQL; the supervisor keeps running.
    Stop {
        /// `true`: admit no clients, end sessions, checkpoint and stop fast, so that standbys get all WAL.
        /// `false`: immediate.
        graceful: bool,
    },
}

impl std::fmt::Display for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let term = self.term;
        match &self.task {
            Task::Prepare => write!(f, "promise term {term}"),
            Task::Stop { graceful: true } => write!(f, "step down for term {term}"),
            Task::Stop { graceful: false } => write!(f, "stop at once for term {term}"),
            Task::Follow(follow) => write!(f, "follow {} in term {term}", follow.leader),
            Task::Lead(lead) => {
                let gate = if lead.open { "open" } else { "shut" };
                let Rule { names, count } = &lead.commit;
                write!(f, "lead in term {term}, commits need {count} of {} standbys, gate {gate}", names.len())
            }
        }
    }
}

impl Order {
    /// The reason of the Event for this order, if it deserves one.
    pub fn event_reason(&self) -> Option<&'static str> {
        match &self.task {
            Task::Prepare => Some("Electing"),
            Task::Stop { graceful: true } => Some("SteppingDown"),
            Task::Stop { graceful: false } => Some("Fencing"),
            Task::Lead(lead) if !lead.open => Some("Promoting"),
            Task::Lead(_) | Task::Follow(_) => None,
        }
    }
}

impl Task {
    /// The rank of a task: within one term an order never replaces one of a higher rank.
    pub fn rank(&self) -> u8 {
        match self {
            Self::Stop { .. } => 0,
            Self::Prepare => 1,
            Self::Lead(_) | Self::Follow(_) => 2,
        }
    }

    /// One word for logs and status.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Lead(_) => "lead",
            Self::Follow(_) => "follow",
            Self::Stop { .. } => "stop",
        }
    }
}

/// The grant of a leader.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Lead {
    /// Only for a cluster that never existed: initdb is allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<Init>,
    /// Instead of initdb: recover the data directory from the archive [`Archives::source`]. Only with `init`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    /// Acknowledgements that a commit needs.
    pub commit: Rule,
    /// Confirmations that the open gate needs.
    pub confirm: Rule,
    /// Replication slots to keep, one per follower.
    pub slots: Vec<String>,
    /// The application's database; created if it is missing.
    pub database: String,
    /// The owner role.
    pub owner: String,
    /// Clients may connect, once the barrier is passed.
    pub open: bool,
}

/// Options of initdb.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Init {
    /// Server encoding.
    pub encoding: String,
    /// Locale.
    pub locale: String,
    /// Page checksums.
    pub data_checksums: bool,
}

/// A quorum: `count` of `names`; names are incarnations.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Incarnations, sorted.
    pub names: Vec<String>,
    /// The required number of them.
    pub count: u32,
}

impl Rule {
    /// A rule that no standby can satisfy: a standby that is promoted by hand acknowledges nothing.
    pub fn never() -> Self {
        Self { names: vec![NOBODY.into()], count: 1 }
    }
}

/// The leader that a standby follows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Follow {
    /// The leader's member name, for people.
    pub leader: String,
    /// Its address on the cluster's network.
    pub address: String,
    /// Its port. Absent in orders of the previous release, which knew one.
    #[serde(default = "standard_port", skip_serializing_if = "is_standard")]
    pub port: u16,
    /// Its address on the network of the members: replicate from there, by TLS with a client certificate. Only for a
    /// supervisor that has reported [`Report::secures`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure: Option<Ipv4Addr>,
    /// The slot of this instance there.
    pub slot: String,
    /// Slots to have ready here, retaining no WAL, for the instances that would follow this one.
    pub slots: Vec<String>,
    /// [`Report::timeline_terms`] of the leader; while its lineage is not known, without the timeline that it
    /// begins in this very term.
    #[serde(rename = "begun", default)]
    pub timeline_terms: BTreeMap<u32, u64>,
    /// The leader's lineage; `None` while it is not known yet: then only a standby that promised this term may follow.
    pub lineage: Option<Lineage>,
    /// The leader has checkpointed on its timeline, so that pg_rewind sees it.
    pub rewindable: bool,
}

fn standard_port() -> u16 {
    PORT
}

fn is_standard(port: &u16) -> bool {
    *port == PORT
}

/// A leader's current timeline and the position where each earlier one ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Lineage {
    /// The current one.
    pub timeline: u32,
    /// The earlier ones, oldest first.
    pub history: Vec<Fork>,
}

/// Secrets of a cluster. `Debug` shows none of them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// Changes when any of the others changes; safe to show.
    pub hash: String,
    /// Password of the replication role.
    pub replication_password: String,
    /// Password of the application's owner.
    pub owner_password: String,
    /// Certificates and keys. Absent: what the instance has stays; an operator of version 0.1.0 sends none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.hash)
    }
}

/// Certificates and keys of an instance, as PEM texts. `Debug` shows none of them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Changes when any of the others changes; safe to show.
    pub hash: String,
    /// The CA certificates that connections to other members trust for the server's certificate.
    pub ca: String,
    /// Those that the server trusts for certificates of the replication role. Only Evenkeel's: whoever has a certificate of
    /// a user's CA must not replicate.
    pub client_ca: String,
    /// The certificate that the server shows, with intermediate ones.
    pub server_cert: String,
    /// Its key.
    pub server_key: String,
    /// The certificate of the replication role.
    pub client_cert: String,
    /// Its key.
    pub client_key: String,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({})", self.hash)
    }
}

/// The complete state of an instance, as its supervisor observes it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// New at each start of the supervisor.
    pub boot: String,
    /// The supervisor's clock when it sent this, in milliseconds.
    pub clock_ms: u64,
    /// The highest term promised; durable.
    pub promised: u64,
    /// The order accepted last; durable.
    pub order: Option<Order>,
    /// The term in which each timeline of the data directory began, as far as known. Two branches may have one timeline
    /// number, but cannot begin in one term.
    #[serde(rename = "begun")]
    pub timeline_terms: BTreeMap<u32, u64>,
    /// UUID of the data directory: new with initdb and base backup, unchanged by pg_rewind.
    pub incarnation: Option<String>,
    /// PostgreSQL's system identifier.
    pub system_identifier: Option<String>,
    /// The data directory.
    pub data: Data,
    /// The postmaster.
    pub postgres: Postgres,
    /// Identifies the postmaster that runs or ran last; new at each start of it (and at boot).
    pub run: String,
    /// Server version, e.g. `15.18`.
    pub server_version: Option<String>,
    /// Timeline at the end of the WAL.
    pub timeline: Option<u32>,
    /// End of the WAL here: for a standby the greater of received and replayed, for a primary the flushed position, for
    /// a cleanly stopped server the end of its shutdown checkpoint.
    pub lsn: Option<Lsn>,
    /// PostgreSQL was shut down cleanly (and is down).
    pub clean: bool,
    /// The promise of [`Report::promised`] holds: receiver gone, replay done, nothing will be acknowledged to
    /// an older leader.
    pub promise: Option<Promise>,
    /// It cannot promise in its current state: its directory is on a branch that no grant began, or was rewound and was
    /// not consistent since.
    pub cannot_promise: bool,
    /// Of a standby: its WAL receiver.
    pub receiver: Option<Receiver>,
    /// Of a primary under a grant.
    pub leading: Option<Leading>,
    /// Clients may connect.
    pub gate_open: bool,
    /// Initdb, base backup, recovery or rewind that is running, or the error of the last one.
    pub job: Option<Job>,
    /// The end of this volume's WAL when this instance last ceased to be primary; kept until it is to lead again.
    #[serde(rename = "left")]
    pub former_wal_end: Option<Fork>,
    /// Settings that wait for a restart.
    pub pending_restart: Vec<String>,
    /// Settings that PostgreSQL refuses, each with its message.
    pub setting_errors: Vec<String>,
    /// The settings of the order are not judged, or not in force, or it was not read yet which of them wait for a restart.
    /// Nothing is restarted for settings meanwhile.
    pub settings_pending: bool,
    /// What people should know and only they can mend.
    pub notices: Vec<Notice>,
    /// Hash of the credentials in force.
    pub credentials: Option<String>,
    /// [`Tls::hash`] of the certificates that this instance holds: their files are written, and the server, if one runs,
    /// has loaded them. Absent in reports of version 0.1.0, which had none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    /// Why the certificates received last are not in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_problem: Option<String>,
    /// It understands [`Order::access`] and [`Follow::secure`]. Absent in reports of version 0.1.0.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub secures: bool,
    /// It understands [`Command::Archives`], [`Command::Backup`] and [`Order::archive`]. Absent in reports of version 0.1.0.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub archives: bool,
    /// [`Archives::hash`] of what it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archives_held: Option<String>,
    /// The state of its archive, if the order names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveState>,
    /// The base backup or dump that runs or ran last in this boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupState>,
    /// The recovery from an archive that runs, or that made the data directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryState>,
    /// The restore of a dump that runs or ran last in this boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore: Option<BackupState>,
    /// The restore point that was made last in this boot: [`BackupPhase::WaitingForWal`] once it is made, with its position, and
    /// [`BackupPhase::Completed`] once the archive has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub point: Option<BackupState>,
    /// The server could not be started, because another program of the host has its port.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub port_taken: bool,
    /// Bytes free on the data volume.
    pub disk_free: u64,
    /// Of a primary that has let clients in, in its current or last run: whether a new client can write. Absent in
    /// reports of version 0.1.0, which did not try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// What sorts text here. Absent in reports of version 0.1.0, which did not look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collations: Option<Collations>,
    /// The current problem, as text, if there is one.
    pub problem: Option<String>,
    /// The postmaster is down but will start by itself: a restart, or a start that was ordered.
    pub start_pending: bool,
    /// SIGTERM was received: the container is stopping.
    pub terminating: bool,
}

/// A receiver without WAL for this long counts as silent, in milliseconds. A live leader writes a little every second.
const QUIET_MS: u64 = 3_000;
/// Free disk is rounded to steps of 256 MiB, the lag of a replica to steps of 16 MiB.
const DISK_FREE_BITS: u32 = 28;
const LAG_BITS: u32 = 24;
/// The age of WAL that is not archived is rounded to steps of 65 s.
const LAG_MS_BITS: u32 = 16;

/// The report without the fields that change all the time. A change of the result is sent, and handled, at once.
pub fn significant(report: &Report) -> Report {
    let mut rest = Report { clock_ms: 0, disk_free: report.disk_free >> DISK_FREE_BITS, ..report.clone() };
    if rest.promise.is_none() && !rest.clean {
        rest.lsn = None;
    }
    if let Some(receiver) = &mut rest.receiver {
        receiver.quiet_ms = u64::from(receiver.quiet_ms >= QUIET_MS);
    }
    if let Some(archive) = &mut rest.archive {
        archive.last = None;
        (archive.waiting, archive.waiting_bytes) = (0, archive.waiting_bytes >> DISK_FREE_BITS);
        archive.lag_ms >>= LAG_MS_BITS;
        archive.catalog.iter_mut().for_each(|catalog| catalog.last_point = None);
    }
    for backup in rest.backup.iter_mut().chain(&mut rest.restore).chain(&mut rest.point) {
        (backup.bytes, backup.stored) = (0, 0);
    }
    if let Some(recovery) = &mut rest.recovery {
        (recovery.bytes, recovery.steps, recovery.wal) = (0, 0, None);
        recovery.doing.clear();
    }
    if let Some(proof) = &mut rest.proof {
        proof.proven_ms = proof.proven_ms.map(|_| 0);
    }
    for replica in rest.leading.iter_mut().flat_map(|leading| &mut leading.replicas) {
        (replica.lsn, replica.silent_ms) = (Lsn(0), 0);
        replica.lag_bytes >>= LAG_BITS;
    }
    rest
}

/// The state of the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub enum Data {
    /// Not checked yet.
    #[default]
    Unknown,
    /// There is no data directory.
    None,
    /// Complete, of a standby (it has standby.signal).
    Standby,
    /// Complete, of a primary.
    Primary,
    /// A base backup or rewind was interrupted: it must be recreated.
    Broken,
}

/// The state of the postmaster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub enum Postgres {
    /// No process of it runs.
    #[default]
    Stopped,
    /// Started, answers no query yet.
    Starting,
    /// Answers, in recovery.
    Standby,
    /// Answers, not in recovery.
    Primary,
    /// Being stopped.
    Stopping,
}

/// A promise that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Promise {
    /// The term promised.
    pub term: u64,
    /// Timeline at the end of the WAL.
    pub timeline: u32,
    /// End of the WAL.
    pub lsn: Lsn,
}

/// A standby's WAL receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Receiver {
    /// It streams.
    pub streaming: bool,
    /// Address it streams from.
    pub from: String,
    /// Milliseconds since WAL last arrived. A live leader writes a little every second.
    pub quiet_ms: u64,
}

/// A primary under a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Leading {
    /// The grant's term.
    pub term: u64,
    /// The commit rule that is in force, verified in a new session; `None` until then.
    pub commit: Option<Rule>,
    /// Enough of its voters have flushed all WAL up to the moment when [`Leading::commit`] came into force.
    pub barrier: bool,
    /// Enough voters or the operator confirm it.
    pub confirmed: bool,
    /// Its timelines and the position where each ended, oldest first.
    pub history: Vec<Fork>,
    /// It has checkpointed on its timeline.
    pub checkpointed: bool,
    /// The standbys that stream from it.
    pub replicas: Vec<Replica>,
}

/// Whether a new client can write, as the supervisor tries it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct Proof {
    /// Milliseconds since a new session last committed a write; `None`: none has, in this run.
    pub proven_ms: Option<u64>,
    /// Why no new session can write now, as text for people.
    pub failing: Option<String>,
    /// The server shows no sign of life: it is not slow, it hangs.
    pub hung: bool,
}

/// What sorts text in an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct Collations {
    /// The libraries of its container; `None`: not known yet.
    pub libraries: Option<Libraries>,
    /// What depends on them; `None`: not counted in this run yet.
    pub sorted: Option<Sorted>,
    /// Why one of them is still not known.
    pub problem: Option<String>,
}

/// The indexes whose order depends on a library. A table that is partitioned by ranges of text counts as an index.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct Sorted {
    /// By the C library: collations of provider libc other than C, POSIX and C.UTF-8.
    pub libc: u64,
    /// By ICU.
    pub icu: u64,
    /// The databases with such indexes.
    pub databases: Vec<String>,
}

/// A standby, as its primary sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// Its `application_name`, which is its incarnation.
    pub incarnation: String,
    /// It streams (caught up with the position at its connection), its replies are fresh, and no other
    /// walsender has its name.
    pub streaming: bool,
    /// Milliseconds since its last reply.
    pub silent_ms: u64,
    /// Position flushed there.
    pub lsn: Lsn,
    /// Bytes of WAL that it lacks.
    #[serde(rename = "lag")]
    pub lag_bytes: u64,
}

/// A long operation on the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// The kind of job.
    pub kind: JobKind,
    /// The error of the last attempt; it will be retried.
    pub error: Option<String>,
    /// Failed attempts in a row.
    pub failures: u32,
    /// It runs now.
    pub running: bool,
}

/// Something that people should know and only they can mend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Notice {
    /// The type of the condition that shows it, one of [`Notice::TYPES`].
    #[serde(rename = "type")]
    pub type_: String,
    /// What happened, and what to do.
    pub message: String,
}

impl Notice {
    /// The database or the owner of the application was dropped or renamed.
    pub const DATABASE_MISSING: &str = "DatabaseMissing";
    /// Logical replication slots were lost with a change of the primary.
    pub const SLOTS_LOST: &str = "LogicalSlotsLost";
    /// Tablespaces are outside the data volume.
    pub const TABLESPACES: &str = "TablespacesOutsideVolume";
    /// All types.
    pub const TYPES: [&str; 3] = [Self::DATABASE_MISSING, Self::SLOTS_LOST, Self::TABLESPACES];

    /// A notice.
    pub fn new(type_: &str, message: impl Into<String>) -> Self {
        Self { type_: type_.to_owned(), message: message.into() }
    }
}

/// The kinds of [`Job`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub enum JobKind {
    /// initdb.
    Init,
    /// pg_basebackup into a new directory.
    Clone,
    /// Crash recovery of the old one, before it is rewound.
    Recover,
    /// pg_rewind of the old one.
    Rewind,
    /// Recovery of a new one from an archive.
    Restore,
}

#[cfg(test)]
pub(crate) mod released;
#[cfg(test)]
mod tests;
