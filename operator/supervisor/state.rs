//! Inputs and outputs of the supervisor's decisions: [`Seen`] goes in, one [`Act`] and [`Remembered`] come
//! out. Plain data.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::wire::{
    Access, ArchiveState, BackupState, Collations, Data, Follow, Init, Job, JobKind, Notice, Order, Postgres, Proof,
    Receiver, RecoveryState, Replica, Rule,
};
use crate::api::lsn::{Fork, Lsn};
use crate::archive::target::Recovery;

/// The user's PostgreSQL settings, by name.
pub type Settings = BTreeMap<String, String>;

/// The verdict on the user's settings. Saved on the volume, so that a start does not find out again.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Judged {
    /// The settings as the object has them.
    pub asked: Settings,
    /// The settings to use: a refused one has the value that it had before.
    pub accepted: Settings,
    /// The refused ones, each with PostgreSQL's message.
    pub errors: Vec<String>,
}

impl Judged {
    /// Its file in the supervisor's folder.
    pub const FILE: &str = "settings.json";
}

/// The durable state of the supervisor. Written and fsynced before anything follows from it. `durable.json` on the
/// volume, compatible one version back like [`super::wire`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct Durable {
    /// UUID of the data directory.
    pub incarnation: Option<String>,
    /// The highest term promised.
    pub promised: u64,
    /// The order in force.
    pub order: Option<Order>,
    /// A base backup or rewind has started and not finished: the directory is unusable.
    pub unfinished: Option<JobKind>,
    /// It was rewound onto a leader of this timeline and was not consistent since: it needs that leader's WAL to become
    /// consistent, and answers no query before.
    pub rewound: Option<u32>,
    /// The term in which each timeline of this directory began, as far as known.
    #[serde(rename = "begun")]
    pub timeline_terms: BTreeMap<u32, u64>,
    /// The end of the WAL when this instance last ceased to be primary. The operator computes the loss of a
    /// failover from it.
    #[serde(rename = "left")]
    pub former_wal_end: Option<Fork>,
}

/// The gate of `pg_hba.conf`; replication and the supervisor can always connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Gate {
    /// No client can connect.
    #[default]
    Shut,
    /// Every role can connect with its password.
    Open,
}

/// The server that a standby streams from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// The leader.
    pub source: Source,
    /// The slot of this instance there.
    pub slot: String,
}

/// How a leader is connected to, by the server and by PostgreSQL's programs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// With the password, at this address: while members of the previous release are updated.
    Plain {
        /// Its address on the cluster's network.
        address: String,
        /// Its port.
        port: u16,
    },
    /// By TLS with certificates of both sides.
    Secure {
        /// Its name, which its certificate must have.
        name: String,
        /// Its address on the network of the members, or of its host.
        address: Ipv4Addr,
        /// Its port.
        port: u16,
    },
}

impl Source {
    /// The leader's port.
    pub fn port(&self) -> u16 {
        let (Self::Plain { port, .. } | Self::Secure { port, .. }) = self;
        *port
    }
}

impl From<&Follow> for Source {
    fn from(follow: &Follow) -> Self {
        match follow.secure {
            Some(address) => Self::Secure { name: follow.leader.clone(), address, port: follow.port },
            None => Self::Plain { address: follow.address.clone(), port: follow.port },
        }
    }
}

/// The desired configuration of a server; rendered to files by the shell and verified in a new session.
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
    /// See [`super::wire::Order::access`].
    pub access: Option<Access>,
}

/// A running server, as of its last poll. All fields are about the current run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Server {
    /// It is not in recovery.
    pub primary: bool,
    /// Current timeline (standby: the one it received or replayed last).
    pub timeline: u32,
    /// End of the WAL, as in `Report::lsn`.
    pub lsn: Lsn,
    /// Standby: a WAL receiver process exists.
    pub receiver: bool,
    /// Standby: the receiver streams.
    pub streaming: bool,
    /// Standby: everything received is replayed (PostgreSQL shows it; it is not inferred).
    pub replayed: bool,
    /// Standby: replay is paused because a setting is lower than the leader's; a restart with the higher
    /// value fixes it.
    pub stuck: bool,
    /// Standby: replay is paused, for any reason.
    pub paused: bool,
    /// Number of connected client sessions.
    pub sessions: u32,
    /// Primary: the standbys that stream from it.
    pub replicas: Vec<Replica>,
    /// Primary: names of the slots it has.
    pub slots: Vec<String>,
    /// Primary: its timeline history.
    pub history: Vec<Fork>,
    /// Primary: the control file has the current timeline.
    pub checkpointed: bool,
    /// The application's roles and database were never made in this cluster.
    pub without_app: bool,
}

/// One snapshot of the instance: the inputs of a decision, and values that are only reported (the fields
/// after [`Seen::terminating`]).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Seen {
    /// The durable state.
    pub durable: Durable,
    /// The data directory.
    pub data: Data,
    /// A part of the supervisor's folder on the volume is missing.
    pub own_gone: bool,
    /// Server is down after a clean shutdown: its timeline and the end of its WAL.
    pub clean: Option<(u32, Lsn)>,
    /// The postmaster.
    pub postgres: Postgres,
    /// The current or last run; new at boot.
    pub run: String,
    /// Milliseconds since the postmaster ended (or since boot, if it has not run yet).
    pub stopped_ms: u64,
    /// A tablespace of the directory is gone: it was in a container that was removed.
    pub tablespace_gone: bool,
    /// The directory was made by initdb in this boot and no postmaster has run on it yet.
    pub fresh: bool,
    /// The start is delayed because the last one failed.
    pub start_held: bool,
    /// The operator requested a restart of this very run.
    pub restart_asked: bool,
    /// An order of a new term arrived since the postmaster ended (or since boot): the operator has decided.
    pub ordered_since_stop: bool,
    /// Poll of the running server; `None` until the first one of this run.
    pub server: Option<Server>,
    /// The configuration this run was started with.
    pub started: Option<Config>,
    /// The configuration verified in this run.
    pub applied: Option<Config>,
    /// All sessions were ended since the gate was last shut in this run, and none is left.
    pub sessions_ended: bool,
    /// Standby: the leader no longer has the WAL or the timeline history that this instance needs (from the
    /// log of this run).
    pub wal_missing: bool,
    /// Primary: the log position that the commit rule's voters must flush; `None` until the rule is in force.
    pub barrier_lsn: Option<Lsn>,
    /// Primary: milliseconds since [`Seen::barrier_lsn`] was set.
    pub barrier_ms: u64,
    /// Primary: a barrier was passed in this run.
    pub barrier_passed_once: bool,
    /// Primary: the application's database and owner match the credentials, in this run.
    pub app_ensured: bool,
    /// Primary: they are being ensured, or this failed a moment ago.
    pub app_busy: bool,
    /// Primary: a checkpoint was started in this run.
    pub checkpoint_started: bool,
    /// Primary: a checkpoint was done for the graceful stop that is ordered.
    pub checkpointed_for_stop: bool,
    /// Job that is running or has failed.
    pub job: Option<Job>,
    /// A failed job may be attempted again.
    pub job_due: bool,
    /// Hash of the credentials, once they were received.
    pub credentials: Option<String>,
    /// Hash of the certificates that are held, as in `Report::tls`.
    pub tls: Option<String>,
    /// Why the certificates received last are not in force.
    pub tls_problem: Option<String>,
    /// Another program of the host has its port.
    pub port_taken: bool,
    /// The certificates received last are not held, and may be loaded now.
    pub tls_due: bool,
    /// Milliseconds since the operator's last message; `None`: none since boot.
    pub operator_ms: Option<u64>,
    /// Primary: milliseconds since enough voters confirmed it, in this run; `None`: never, or the clock jumped since.
    pub confirmed_ms: Option<u64>,
    /// Milliseconds since the operator renewed the grant's own term; `None`: never.
    pub renewed_ms: Option<u64>,
    /// SIGTERM was received.
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
    /// Settings that PostgreSQL refuses, each with its message.
    pub setting_errors: Vec<String>,
    /// The user's settings to use; `None`: those of the order.
    pub settings: Option<Settings>,
    /// The settings of the order must be judged, and a dry start may begin now.
    pub settings_due: bool,
    /// The settings of the order are not judged, or not in force, or it was not read yet which of them wait for a restart.
    pub settings_pending: bool,
    /// What people should know and only they can mend.
    pub notices: Vec<Notice>,
    /// Bytes free on the data volume.
    pub disk_free: u64,
    /// Primary: whether a new client can write; `None`: none was let in, in this run.
    pub proof: Option<Proof>,
    /// What sorts text here.
    pub collations: Collations,
    /// [`super::wire::Archives::hash`] of what is held.
    pub archives_held: Option<String>,
    /// What opens the archive to recover from has been received.
    pub has_source: bool,
    /// The state of the archive, if the order names one.
    pub archive: Option<ArchiveState>,
    /// The base backup or dump that runs or ran last.
    pub backup: Option<BackupState>,
    /// The recovery from an archive that runs, or that made the data directory.
    pub recovery: Option<RecoveryState>,
    /// The restore of a dump that runs or ran last.
    pub restore: Option<BackupState>,
    /// The restore point that was made last.
    pub point: Option<BackupState>,
    /// The current problem, as text.
    pub problem: Option<String>,
}

impl Seen {
    /// Who may connect over the network, by the order.
    pub fn access(&self) -> Option<Access> {
        self.durable.order.as_ref()?.access.clone()
    }
}

/// What a decision adds to the memory of the run; becomes part of the next [`Seen`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Remembered {
    /// See [`Seen::barrier_passed_once`].
    pub barrier_passed_once: bool,
    /// See [`Seen::confirmed_ms`].
    pub confirmed_ms: Option<u64>,
}

/// One act of the shell. Each may be repeated; the next snapshot decides what follows.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// Do nothing until an event or the next poll.
    Wait,
    /// Poll the server again very soon: a transition is in progress.
    Poll,
    /// Run initdb (job).
    InitDb(Init),
    /// Recover a new directory from the source archive (job).
    Recovery(Recovery),
    /// Clone the leader into a new directory with a new incarnation (job).
    Clone(Follow),
    /// Run crash recovery of the old directory, so that the end of its WAL is known (job).
    Recover,
    /// Record where the WAL of the former primary ended, before it follows another leader.
    RecordWalEnd(Fork),
    /// Rewind the old directory, which ended cleanly, onto the leader (job).
    Rewind(Follow),
    /// Start the postmaster; `standby`: with standby.signal.
    Start {
        /// As a standby.
        standby: bool,
        /// Rendered before the start.
        config: Config,
    },
    /// Render, reload, verify in a new session.
    Apply(Config),
    /// Terminate all client sessions.
    EndSessions,
    /// Create and drop slots until exactly these exist.
    EnsureSlots(Vec<String>),
    /// End a pause of the replay that people asked for.
    ResumeReplay,
    /// pg_promote.
    Promote,
    /// Set the owner's password, and in a new cluster create the owner and the database, in the background.
    EnsureApp {
        /// Database.
        database: String,
        /// Owner.
        owner: String,
    },
    /// Write and flush a record, and use the position after it as the barrier.
    SetBarrier,
    /// Checkpoint in the background.
    Checkpoint,
    /// Checkpoint with a time-out, and a WAL segment that is filled, while clients are still served: so that the shutdown checkpoint
    /// is short, and standbys have little left to receive.
    CheckpointForStop,
    /// Stop fast: standbys get all WAL. Immediate if that takes too long.
    StopFast,
    /// Record the term in which each timeline began.
    RecordTimelineTerms(BTreeMap<u32, u64>),
    /// Mark the data directory for re-creation.
    Condemn,
    /// Create the supervisor's folder on the volume again, with this state.
    Restore(Box<Durable>),
    /// Stop immediately, without a checkpoint.
    StopImmediate,
    /// Judge changed settings by a dry start, in the background.
    DryStart(Settings),
    /// Write the certificates received last, and have the server load them; if it does not, the former ones again.
    LoadTls,
    /// End the supervisor itself.
    Exit,
}

/// The name in the log and in the text of a problem.
impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wait => "wait",
            Self::Poll => "poll",
            Self::InitDb(_) => "initdb",
            Self::Recovery(_) => "recovery from the archive",
            Self::Clone(_) => "clone",
            Self::Recover => "recover",
            Self::RecordWalEnd(_) => "record WAL end",
            Self::Rewind(_) => "rewind",
            Self::Start { .. } => "start",
            Self::Apply(_) => "apply configuration",
            Self::EndSessions => "end sessions",
            Self::EnsureSlots(_) => "ensure slots",
            Self::ResumeReplay => "resume replay",
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
            Self::DryStart(_) => "dry start",
            Self::LoadTls => "load certificates",
            Self::Exit => "exit",
        })
    }
}
