//! What the supervisor's decisions rest on and what they result in: [`Seen`] goes in, one [`Act`] and [`Remembered`] come out. Plain data.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::wire::{Data, Follow, Init, Job, JobKind, Order, Postgres, Receiver, Replica, Rule};
use crate::api::lsn::{Fork, Lsn};

/// PostgreSQL's settings as the user asks for them, by name.
pub type Settings = BTreeMap<String, String>;

/// What the supervisor must never forget; written and fsynced before anything follows from it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct Durable {
    /// UUID of the data directory.
    pub incarnation: Option<String>,
    /// The highest term promised.
    pub promised: u64,
    /// The order in force.
    pub order: Option<Order>,
    /// A base backup or rewind has begun and not ended: the directory is unusable.
    pub unfinished: Option<JobKind>,
    /// It was rewound onto a leader of this timeline and has not been consistent since: it needs that leader's WAL to
    /// become so, and answers nothing before.
    pub rewound: Option<u32>,
    /// By timeline of this directory: the term in which it began, as far as known.
    #[serde(rename = "begun")]
    pub timeline_terms: BTreeMap<u32, u64>,
    /// Where the WAL ended when this instance last ceased to be primary. The operator computes from it what a failover lost.
    #[serde(rename = "left")]
    pub former_wal_end: Option<Fork>,
}

/// Who may connect by `pg_hba.conf`; replication and the supervisor always may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Gate {
    /// Nobody else.
    #[default]
    Shut,
    /// Every role with its password.
    Open,
}

/// Where a standby streams from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// Address of the leader.
    pub address: String,
    /// Our slot there.
    pub slot: String,
}

/// The configuration a server is to run with; rendered to files by the shell and verified in a new session.
#[derive(Debug, Clone, PartialEq, Default, Hash)]
pub struct Config {
    /// synchronous_standby_names.
    pub commit: Rule,
    /// pg_hba.conf.
    pub gate: Gate,
    /// primary_conninfo and primary_slot_name.
    pub upstream: Option<Upstream>,
    /// The user's settings.
    pub settings: Settings,
}

/// A running server, as its last poll found it. All of it belongs to the run under way.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Server {
    /// Not in recovery.
    pub primary: bool,
    /// Live timeline (standby: of what it received or replayed last).
    pub timeline: u32,
    /// End of the WAL, as in `Report::lsn`.
    pub lsn: Lsn,
    /// Standby: a WAL receiver process exists.
    pub receiver: bool,
    /// Standby: the receiver streams.
    pub streaming: bool,
    /// Standby: everything received is replayed (a positive signal, not a guess).
    pub replayed: bool,
    /// Standby: replay stands still because a setting is lower than the leader's; a restart takes the higher one.
    pub stuck: bool,
    /// Standby: replay is paused, whoever did it.
    pub paused: bool,
    /// Sessions of clients that are connected now.
    pub sessions: u32,
    /// Primary: who streams from it.
    pub replicas: Vec<Replica>,
    /// Primary: names of the slots it has.
    pub slots: Vec<String>,
    /// Primary: its timeline history.
    pub history: Vec<Fork>,
    /// Primary: control file's timeline is the live one.
    pub checkpointed: bool,
}

/// One snapshot of the instance: all that a decision may rest on, and what is only reported (the fields behind [`Seen::terminating`]).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Seen {
    /// What is on disk of ours.
    pub durable: Durable,
    /// The data directory.
    pub data: Data,
    /// Something of ours that was on the volume is not there any more.
    pub own_gone: bool,
    /// Of a server that is down: shut down cleanly, with its timeline and the end of its WAL.
    pub clean: Option<(u32, Lsn)>,
    /// The postmaster.
    pub postgres: Postgres,
    /// The run under way or last; new at boot.
    pub run: String,
    /// Milliseconds since the postmaster ended (or since boot, if it has not run yet).
    pub stopped_ms: u64,
    /// The directory was made by initdb in this boot and no postmaster has run on it yet.
    pub fresh: bool,
    /// The start is held back: it failed just now.
    pub start_held: bool,
    /// The operator asked to restart this very run.
    pub restart_asked: bool,
    /// An order of a new term came since the postmaster ended (or since boot): the operator has decided.
    pub ordered_since_stop: bool,
    /// Poll of the running server; `None` until the first one of this run.
    pub server: Option<Server>,
    /// The configuration this run was started with.
    pub started: Option<Config>,
    /// The configuration verified in this run.
    pub applied: Option<Config>,
    /// Sessions were ended since the gate was last shut in this run, and none is left.
    pub sessions_ended: bool,
    /// Standby: the leader no longer has the WAL or the timeline history that we need (said in the log of this run).
    pub wal_missing: bool,
    /// Primary: the log position up to which the commit rule's voters must have flushed; `None` until the rule is in force.
    pub barrier_lsn: Option<Lsn>,
    /// Primary: milliseconds since [`Seen::barrier_lsn`] was set.
    pub barrier_ms: u64,
    /// Primary: a barrier was passed in this run.
    pub barrier_passed_once: bool,
    /// Primary: the application's database and owner are as the credentials say, in this run.
    pub app_ensured: bool,
    /// Primary: a checkpoint was started in this run.
    pub checkpoint_started: bool,
    /// Primary: a checkpoint was done for the graceful stop that is ordered.
    pub checkpointed_for_stop: bool,
    /// Job under way or failed.
    pub job: Option<Job>,
    /// The next try of a failed job may begin.
    pub job_due: bool,
    /// Hash of the credentials, once they are there.
    pub credentials: Option<String>,
    /// Milliseconds since the operator last said anything; `None`: not since boot.
    pub operator_ms: Option<u64>,
    /// Primary: milliseconds since enough voters confirmed it, in this run; `None`: never, or the clock jumped since.
    pub confirmed_ms: Option<u64>,
    /// Milliseconds since the operator renewed the grant's own term; `None`: never.
    pub renewed_ms: Option<u64>,
    /// SIGTERM came.
    pub terminating: bool,
    /// Id of this start of the supervisor.
    pub boot: String,
    /// The supervisor's clock at this snapshot, in milliseconds.
    pub clock_ms: u64,
    /// PostgreSQL's system identifier.
    pub system_identifier: Option<String>,
    /// Server version, e.g. `15.18`.
    pub server_version: Option<String>,
    /// Standby: its WAL receiver, as the server's statistics show it.
    pub receiver: Option<Receiver>,
    /// Settings that wait for a restart.
    pub pending_restart: Vec<String>,
    /// Settings that PostgreSQL refuses, each with its words.
    pub setting_errors: Vec<String>,
    /// Bytes free on the data volume.
    pub disk_free: u64,
    /// What is the matter, in words.
    pub problem: Option<String>,
}

/// What a decision adds to the memory of the run: part of the next [`Seen`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Remembered {
    /// See [`Seen::barrier_passed_once`].
    pub barrier_passed_once: bool,
    /// See [`Seen::confirmed_ms`].
    pub confirmed_ms: Option<u64>,
}

/// One act of the shell. Each may be repeated; the next look decides what follows.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// Nothing until something happens or the next poll is due.
    Wait,
    /// Poll the server again almost at once: a transition is under way.
    Poll,
    /// Make a data directory (job).
    InitDb(Init),
    /// Copy the leader into a new directory, new incarnation (job).
    Clone(Follow),
    /// Let the old directory recover from its crash by itself, so that the end of its WAL is known (job).
    Recover,
    /// Write down where the WAL of the former primary ended, before it follows somebody.
    RecordWalEnd(Fork),
    /// Rewind the old directory, which ended cleanly, onto the leader (job).
    Rewind(Follow),
    /// Start the postmaster; `standby` says whether standby.signal is to be there.
    Start {
        /// As a standby.
        standby: bool,
        /// Rendered before the start.
        config: Config,
    },
    /// Render, reload, verify in a new session.
    Apply(Config),
    /// End all sessions of clients.
    EndSessions,
    /// Make and drop slots until there are these.
    EnsureSlots(Vec<String>),
    /// pg_promote.
    Promote,
    /// Make the application's database and owner, and set its password.
    EnsureApp {
        /// Database.
        database: String,
        /// Owner.
        owner: String,
    },
    /// Write and flush a record, and take the position after it as the barrier.
    SetBarrier,
    /// Checkpoint in the background.
    Checkpoint,
    /// Checkpoint (bounded) while clients are still served, so that the shutdown checkpoint is short.
    CheckpointForStop,
    /// Stop fast: standbys get everything; immediate if that takes too long.
    StopFast,
    /// Write down in which term each timeline began.
    RecordTimelineTerms(BTreeMap<u32, u64>),
    /// Mark the data directory as to be made anew.
    Condemn,
    /// Make our folder on the volume again, with this in it.
    Restore(Durable),
    /// Stop now, without a checkpoint.
    StopImmediate,
    /// End the supervisor itself.
    Exit,
}

/// The name in the log and in the words of a problem.
impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wait => "wait",
            Self::Poll => "poll",
            Self::InitDb(_) => "initdb",
            Self::Clone(_) => "clone",
            Self::Recover => "recover",
            Self::RecordWalEnd(_) => "record WAL end",
            Self::Rewind(_) => "rewind",
            Self::Start { .. } => "start",
            Self::Apply(_) => "apply configuration",
            Self::EndSessions => "end sessions",
            Self::EnsureSlots(_) => "ensure slots",
            Self::Promote => "promote",
            Self::EnsureApp { .. } => "ensure database and owner",
            Self::SetBarrier => "set barrier",
            Self::Checkpoint => "checkpoint",
            Self::CheckpointForStop => "checkpoint for stop",
            Self::StopFast => "stop fast",
            Self::RecordTimelineTerms(_) => "record timeline terms",
            Self::Condemn => "condemn",
            Self::Restore(_) => "restore",
            Self::StopImmediate => "stop immediate",
            Self::Exit => "exit",
        })
    }
}
