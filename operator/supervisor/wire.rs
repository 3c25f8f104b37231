//! What operator and supervisor say to each other: newline-delimited JSON over one stream. Plain data.
//!
//! The operator sends [`Command`]s; the supervisor answers with whole [`Report`]s, at once when something
//! [`significant`] changed and each second anyway. Both are level-triggered: the last one says it all.
//!
//! **Compatible one version back, in both directions**: a new operator works with the supervisors of the release before, and
//! the other way round. So a field is added with `#[serde(default)]` and is passed over by who does not know it; its absence
//! must mean what the release before did. No field is renamed (`#[serde(rename)]` keeps its name in JSON), retyped or taken
//! away before two releases have passed. A new variant of an enum is an error to the release before: it is not sent to a
//! supervisor that has not said that it knows it. The same rule holds for `durable.json` on the data volume
//! ([`super::state::Durable`]). `released.json` and `released.rs` are the release before; the tests hold today's types to them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::api::lsn::{Fork, Lsn};

/// Where the supervisor listens inside its container.
pub const SOCKET: &str = "/run/evenkeel/supervisor.sock";
/// Where the data volume is mounted.
pub const VOLUME: &str = "/var/lib/postgresql/data";
/// PostgreSQL's port inside the container.
pub const PORT: u16 = 5432;

/// A name that no standby bears: a commit rule that asks for it waits.
pub const NOBODY: &str = "evenkeel_nobody";

/// How long a confirmation holds, in milliseconds (L of the protocol).
pub const CONFIRMATION_MS: u64 = 10_000;

/// From the operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Command {
    /// The standing order of this instance; replaces the one before.
    Order(Order),
    /// Secrets; kept in memory and in files of mode 0600, never echoed.
    Credentials(Credentials),
    /// Start the postmaster again: the one that ran (or last ran) under this run id. Any other run id: nothing.
    Restart {
        /// [`Report::run`] of the postmaster meant.
        run: String,
    },
    /// The operator confirms the leader of this term; counts for [`CONFIRMATION_MS`] from the report that it answers,
    /// however long it was under way.
    Renew {
        /// The term confirmed.
        term: u64,
        /// [`Report::clock_ms`] of that report.
        clock_ms: u64,
    },
}

/// What an instance is to do. Carries its term: an order below the promise is refused.
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
    /// PostgreSQL settings of the user, whatever the task.
    pub settings: BTreeMap<String, String>,
}

/// The tasks of an [`Order`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub enum Task {
    /// Promise the term: acknowledge nothing to any older leader from now on, and say how far the WAL reaches.
    Prepare,
    /// Be the primary of this term.
    Lead(Lead),
    /// Be a standby of that leader.
    Follow(Follow),
    /// Stop PostgreSQL and stay as an agent.
    Stop {
        /// `true`: let nothing in, end sessions, checkpoint and stop fast, so that standbys get all WAL. `false`: immediate.
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
    /// The reason of the Event that this order is worth, if it is worth one.
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
    /// The order in which tasks may replace each other within one term: never backwards.
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
    /// Only for a cluster that never existed: a data directory may be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<Init>,
    /// Acknowledgements that a commit needs.
    pub commit: Rule,
    /// Confirmations that the open gate needs.
    pub confirm: Rule,
    /// Replication slots to keep, one a follower.
    pub slots: Vec<String>,
    /// The application's database and owner, made if absent.
    pub database: String,
    /// The owner role.
    pub owner: String,
    /// Clients may come in, once the barrier is passed.
    pub open: bool,
}

/// How to make a data directory.
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

/// `count` of `names`; names are incarnations.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Incarnations, sorted.
    pub names: Vec<String>,
    /// How many of them.
    pub count: u32,
}

impl Rule {
    /// Nobody can meet it: a standby that somebody promotes by hand acknowledges nothing.
    pub fn never() -> Self {
        Self { names: vec![NOBODY.into()], count: 1 }
    }
}

/// Whom a standby follows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Follow {
    /// The leader's member name, for people.
    pub leader: String,
    /// Its address on the cluster's network.
    pub address: String,
    /// The slot there that is ours.
    pub slot: String,
    /// Slots to have ready here, holding nothing back, for those who would follow this instance.
    pub slots: Vec<String>,
    /// [`Report::timeline_terms`] of the leader; while its lineage is not known, without the timeline that it begins in this very term.
    #[serde(rename = "begun", default)]
    pub timeline_terms: BTreeMap<u32, u64>,
    /// The leader's lineage; `None` while it is not known yet: then only a standby that promised this term may follow.
    pub lineage: Option<Lineage>,
    /// The leader has checkpointed on its timeline, so that pg_rewind can see it.
    pub rewindable: bool,
}

/// A leader's live timeline and where each earlier one ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Lineage {
    /// The live one.
    pub timeline: u32,
    /// The earlier ones, oldest first.
    pub history: Vec<Fork>,
}

/// Secrets of a cluster. `Debug` shows none of them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// Changes when any of the others does; safe to show.
    pub hash: String,
    /// Password of the replication role.
    pub replication_password: String,
    /// Password of the application's owner.
    pub owner_password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.hash)
    }
}

/// The whole state of an instance, as its supervisor sees it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// New at each start of the supervisor.
    pub boot: String,
    /// The supervisor's clock when it said this, in milliseconds.
    pub clock_ms: u64,
    /// The highest term promised; durable.
    pub promised: u64,
    /// The order accepted last; durable.
    pub order: Option<Order>,
    /// By timeline of the data directory: the term in which it began, as far as known. Two branches may bear one number, but
    /// not begin in one term.
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
    /// Timeline of the end of the WAL.
    pub timeline: Option<u32>,
    /// End of the WAL here: of a standby the greatest of received and replayed, of a primary what is flushed,
    /// of a cleanly stopped server its shutdown checkpoint's end.
    pub lsn: Option<Lsn>,
    /// PostgreSQL was shut down cleanly (and is down).
    pub clean: bool,
    /// The promise of [`Report::promised`] holds: receiver gone, replay done, nothing will be acknowledged to an older leader.
    pub promise: Option<Promise>,
    /// Whatever is asked, it cannot promise as it is: its directory is on a branch that no grant began, or was rewound and
    /// has not been consistent since.
    pub cannot_promise: bool,
    /// Of a standby: its WAL receiver.
    pub receiver: Option<Receiver>,
    /// Of a primary under a grant.
    pub leading: Option<Leading>,
    /// Clients may connect.
    pub gate_open: bool,
    /// Initdb, base backup, recovery or rewind under way, or how the last one failed.
    pub job: Option<Job>,
    /// Where the WAL of this volume ended when this instance last ceased to be primary; kept until it is to lead again.
    #[serde(rename = "left")]
    pub former_wal_end: Option<Fork>,
    /// Settings that wait for a restart.
    pub pending_restart: Vec<String>,
    /// Settings that PostgreSQL refuses, each with its words.
    pub setting_errors: Vec<String>,
    /// Hash of the credentials in force.
    pub credentials: Option<String>,
    /// Bytes free on the data volume.
    pub disk_free: u64,
    /// What is the matter, in words, if something is.
    pub problem: Option<String>,
    /// The postmaster is down but about to start by itself: a restart, or a start that was ordered.
    pub start_pending: bool,
    /// SIGTERM came: the container is going down.
    pub terminating: bool,
}

/// A receiver that got no WAL for this long has fallen silent, in milliseconds. A live leader writes a little each second.
const QUIET_MS: u64 = 3_000;
/// Free disk counts in steps of 256 MiB, the lag of a replica in steps of 16 MiB.
const DISK_FREE_BITS: u32 = 28;
const LAG_BITS: u32 = 24;

/// The report without what moves all the time. A change of the rest is told, and heard, at once.
pub fn significant(report: &Report) -> Report {
    let mut rest = Report { clock_ms: 0, disk_free: report.disk_free >> DISK_FREE_BITS, ..report.clone() };
    if rest.promise.is_none() && !rest.clean {
        rest.lsn = None;
    }
    if let Some(receiver) = &mut rest.receiver {
        receiver.quiet_ms = u64::from(receiver.quiet_ms >= QUIET_MS);
    }
    for replica in rest.leading.iter_mut().flat_map(|leading| &mut leading.replicas) {
        (replica.lsn, replica.silent_ms) = (Lsn(0), 0);
        replica.lag_bytes >>= LAG_BITS;
    }
    rest
}

/// What the data directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub enum Data {
    /// Not looked at yet.
    #[default]
    Unknown,
    /// There is none.
    None,
    /// Complete, of a standby (it has standby.signal).
    Standby,
    /// Complete, of a primary.
    Primary,
    /// A base backup or rewind was cut off: it must be made anew.
    Broken,
}

/// What the postmaster does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub enum Postgres {
    /// Nothing of it runs.
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
    /// Timeline of the end of the WAL.
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
    /// Milliseconds since WAL last arrived. A live leader writes a little each second.
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
    /// All WAL up to the moment when [`Leading::commit`] came into force is flushed by enough of it.
    pub barrier: bool,
    /// Enough voters or the operator confirm.
    pub confirmed: bool,
    /// Its timelines and where each ended, oldest first.
    pub history: Vec<Fork>,
    /// It has checkpointed on its timeline.
    pub checkpointed: bool,
    /// Who streams from it.
    pub replicas: Vec<Replica>,
}

/// A standby, as its primary sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// Its `application_name`, which is its incarnation.
    pub incarnation: String,
    /// Streaming (caught up with what was there when it connected), replies fresh, and the only one of that name.
    pub streaming: bool,
    /// Milliseconds since its last reply.
    pub silent_ms: u64,
    /// Flushed there.
    pub lsn: Lsn,
    /// Bytes of WAL that it lacks.
    #[serde(rename = "lag")]
    pub lag_bytes: u64,
}

/// A long deed on the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// Which.
    pub kind: JobKind,
    /// The last try failed with these words; it is tried again.
    pub error: Option<String>,
    /// How many tries failed in a row.
    pub failures: u32,
    /// It runs now.
    pub running: bool,
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
}

#[cfg(test)]
pub(crate) mod released;
#[cfg(test)]
mod tests;
