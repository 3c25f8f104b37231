//! The shell's memory between two turns of its loop; no decisions.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::fcntl::Flock;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use super::archiving::Archiver;
use super::beside::{Beside, Sweep};
use super::clock::{boottime_ms, new_id};
use super::collations::{Counted, Counting};
use super::durable;
use super::jobs::{self, Made};
use super::place::Place;
use super::process::Reaper;
use super::proof::{Own, Proving};
use super::restoring;
use super::secrets::Secrets;
use super::sql::{Details, Poll, Session};
use super::state::{Config, Durable, Gate, Judged};
use super::tools::Control;
use super::wire::{Archives, JobKind, Postgres, RecoveryState, Report, Tls};
use crate::api::libraries::Libraries;
use crate::api::lsn::{Fork, Lsn};

/// A message from a background task.
#[derive(Debug)]
pub enum Note {
    /// A job ended.
    Job(JobKind, Result<Made, jobs::Failure>),
    /// A checkpoint of this run ended; `for_stop` if a stop waits for it.
    Checkpoint {
        /// The run.
        run: String,
        /// For a graceful stop.
        for_stop: bool,
        /// The error, if it failed.
        error: Option<String>,
    },
    /// The server's log reports that its WAL receiver ended.
    ReceiverEnded(String),
    /// The server's log reports that the leader no longer has the WAL or the timeline history that this instance needs.
    WalMissing(String),
    /// The server's log reports that replay is paused because settings are lower than the leader's.
    Stuck(String),
    /// Changed settings were judged, or the reason why not.
    Judged(Result<Judged, String>),
    /// The application's roles and database were ensured in this run; what is missing and is not made again.
    App(String, Result<Option<String>, String>),
    /// The server's log reports that a backend crashed: the server ends all others, and itself.
    Crashed(String),
    /// A FATAL or PANIC line of the server's log, with the id of the run.
    Fatal(String, String),
    /// An attempt to write as a new client ended, in this run.
    Proof(String, Result<(), String>),
    /// A poll in the background ended.
    Polled {
        /// The run, and the number of the poll in it.
        of: (String, u64),
        /// Time when it began.
        asked_at: u64,
        /// Its session and result, or the error.
        result: Result<(Session, Poll), String>,
    },
    /// The indexes that depend on a library were counted, in this run.
    Counted(String, Counted),
}

/// A running postmaster.
#[derive(Debug)]
pub struct Postmaster {
    /// Its process.
    pub pid: Pid,
    /// Resolves when it has ended.
    pub exit: oneshot::Receiver<WaitStatus>,
    /// It reported that it accepts connections.
    pub ready: bool,
    /// The supervisor's session with it.
    pub session: Option<Session>,
    /// It is being stopped.
    pub stopping: Option<Stopping>,
    /// It runs as a standby (until promoted): its configuration keeps the primary's minima.
    pub minima: BTreeMap<String, u64>,
}

/// A stop in progress.
#[derive(Debug, Clone, Copy)]
pub struct Stopping {
    /// Time of the last signal.
    pub since: u64,
    /// The signal.
    pub how: Stop,
}

/// The strength of a stop; it escalates to the next if it takes too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum Stop {
    /// SIGINT.
    Fast,
    /// SIGQUIT.
    Immediate,
    /// SIGKILL to all processes.
    Kill,
}

/// The state of one run of the postmaster; replaced at each start.
#[derive(Debug, Default)]
pub struct Run {
    /// Its id.
    pub id: String,
    /// The configuration it was started with.
    pub started: Option<Config>,
    /// The configuration verified in a session that was started after it was loaded.
    pub applied: Option<Config>,
    /// The last poll.
    pub poll: Option<Poll>,
    /// The supervisor's own transactions before the last poll was asked for.
    pub own: Own,
    /// The same for a poll whose answer is awaited.
    pub own_asked: Own,
    /// The timeline that a standby reported at this position.
    pub identified: Option<(Lsn, u32)>,
    /// History of this timeline.
    pub history: (u32, Vec<Fork>),
    /// See [`super::state::Seen::sessions_ended`].
    pub sessions_ended: bool,
    /// See [`super::state::Seen::barrier_lsn`].
    pub barrier_lsn: Option<Lsn>,
    /// Time when it was set, by our clock.
    pub barrier_at: u64,
    /// Time when enough voters last confirmed, by our clock.
    pub confirmed_at: Option<u64>,
    /// See [`super::state::Seen::barrier_passed_once`].
    pub barrier_passed_once: bool,
    /// See [`super::state::Seen::app_ensured`].
    pub app_ensured: bool,
    /// See [`super::state::Seen::checkpoint_started`].
    pub checkpoint_started: bool,
    /// A checkpoint for a stop is running.
    pub stop_checkpoint: bool,
    /// See [`super::state::Seen::restart_asked`].
    pub restart_asked: bool,
    /// See [`super::state::Seen::wal_missing`].
    pub wal_missing: bool,
    /// See [`super::state::Server::stuck`].
    pub stuck: bool,
    /// Time when each walsender's reply last changed, by our clock.
    pub replies: BTreeMap<i32, Reply>,
    /// The end of the WAL at the last change, and its time.
    pub moved: (Lsn, u64),
    /// Time since when clients are admitted.
    pub opened: Option<u64>,
    /// Its last FATAL or PANIC line.
    pub fatal: Option<String>,
    /// Whether a new client can write.
    pub proving: Proving,
    /// Number of polls in the background so far.
    pub polls: u64,
    /// The one that runs.
    pub polling: Option<AbortOnDropHandle<()>>,
    /// The indexes that depend on a library.
    pub counting: Counting,
    /// Refused and pending settings were read since the configuration was last applied.
    pub details_read: bool,
    /// The task that ensures the application's roles and database.
    pub app_task: Option<AbortOnDropHandle<()>>,
    /// No such task before this time: the last one failed.
    pub app_due: u64,
    /// What the application lacks and nobody makes again.
    pub app_missing: Option<String>,
    /// Hash of the certificates that this server has loaded.
    pub tls: Option<String>,
    /// Databases of restores that were cut off are dropped.
    pub sweep: Sweep,
}

/// Delay of background work after the gate opened, in milliseconds: the first clients get the disk alone.
const SETTLED_MS: u64 = 3_000;

impl Run {
    /// Whether clients have been served for that time.
    pub fn settled(&self, now: u64) -> bool {
        self.opened.is_some_and(|at| now.saturating_sub(at) >= SETTLED_MS)
    }

    /// A run that starts with this configuration: behind a shut gate there can be no client.
    pub fn begin(id: String, config: &Config) -> Self {
        Self { id, started: Some(config.clone()), sessions_ended: config.gate == Gate::Shut, ..Self::default() }
    }
}

/// The last reply of a walsender's standby.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its time by the standby's clock.
    pub reply: Option<String>,
    /// The time when we saw it change; `None`: not since the clock jumped.
    pub seen: Option<u64>,
}

/// The state of a postmaster that is down.
#[derive(Debug, Default)]
pub struct Down {
    /// Since this time.
    pub since: u64,
    /// Its control file, once it was read.
    pub control: Option<Control>,
    /// The end of its WAL after a clean shutdown.
    pub clean: Option<(u32, Lsn)>,
    /// It ended by itself, and this was not reported yet.
    pub untold: bool,
    /// Its control file was read since it went down (or since a job changed the directory).
    pub read: bool,
}

/// A job and the results of its last attempts.
#[derive(Debug, Clone)]
pub struct Work {
    /// The kind of job.
    pub kind: JobKind,
    /// It runs.
    pub running: bool,
    /// The error of the last attempt.
    pub error: Option<String>,
    /// Attempts in a row that reached the leader and failed.
    pub failures: u32,
    /// All failed attempts in a row: the delay grows with them.
    pub tries: u32,
    /// Time of the next attempt.
    pub due: u64,
    /// Timeline terms of the leader, which the copy will have.
    pub timeline_terms: BTreeMap<u32, u64>,
}

/// The dry start that judges changed settings.
#[derive(Debug, Default)]
pub struct Trial {
    /// It runs.
    pub running: bool,
    /// Attempts in a row without a verdict.
    pub failures: u32,
    /// No attempt before this time.
    pub due: u64,
    /// The last verdict has refusals and is of an earlier container: perhaps of another image.
    pub again: bool,
}

/// Current problems by source; each is cleared by its own success.
#[derive(Debug, Default)]
pub struct Problems {
    /// The last act failed.
    pub act: Option<String>,
    /// The last order was refused.
    pub refused: Option<String>,
    /// The server does not answer polls.
    pub poll: Option<String>,
    /// The server ended by itself or did not start.
    pub ended: Option<String>,
    /// The supervisor's configuration was overridden.
    pub overridden: Option<String>,
    /// Changed settings could not be judged.
    pub settings: Option<String>,
    /// The certificates received last are not in force.
    pub tls: Option<String>,
    /// Another program of the host has the server's port.
    pub port_taken: bool,
    /// The application's roles and database could not be ensured.
    pub app: Option<String>,
}

impl Problems {
    /// All problems in one line.
    pub fn in_words(&self, postgres: Postgres) -> Option<String> {
        let ended = self.ended.as_ref().filter(|_| matches!(postgres, Postgres::Stopped | Postgres::Starting));
        let others = [&self.act, &self.refused, &self.overridden, &self.settings, &self.app, &self.poll];
        let all = [ended].into_iter().chain(others.map(Option::as_ref));
        let all: Vec<&str> = all.flatten().map(String::as_str).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

/// Due times, by [`boottime_ms`].
#[derive(Debug, Default)]
pub struct Clocks {
    /// Time when a turn of the loop last began or ended.
    pub turned: u64,
    /// The clock jumped, and the server was not polled since.
    pub jumped: bool,
    /// The next poll of the server.
    pub poll_at: u64,
    /// Until then the server is polled without a pause: a change is expected.
    pub hurry_until: u64,
    /// Polls in a row that a transition requested.
    pub quick_polls: u32,
    /// The next heartbeat of a leader.
    pub heartbeat_at: u64,
    /// The next reading of details.
    pub details_at: u64,
    /// No act before this time: the last one failed.
    pub act_at: u64,
    /// Certificates are not tried before this time: the last ones failed.
    pub tls_at: u64,
    /// Acts that failed in a row.
    pub failed_acts: u32,
}

/// The local server, running or down.
#[derive(Debug, Default)]
pub struct LocalServer {
    /// The postmaster, if it runs.
    pub postmaster: Option<Postmaster>,
    /// Its current or last run.
    pub run: Run,
    /// Its state, if it is down.
    pub down: Down,
    /// The directory was made by initdb in this boot and no postmaster has run on it yet.
    pub fresh: bool,
    /// Starts of the postmaster in this boot.
    pub starts: u64,
    /// Starts that failed in a row.
    pub failed_starts: u32,
    /// No start before this time.
    pub start_held_until: u64,
    /// An order of a new term arrived since the postmaster ended (or since boot).
    pub ordered_since_stop: bool,
    /// A checkpoint was done for the graceful stop that is ordered.
    pub checkpointed_for_stop: bool,
    /// The certificates that a server was last proven to load; a server starts only with these.
    pub tls: Option<Tls>,
    /// Hash of the certificates whose files are written.
    pub tls_written: Option<String>,
    /// Generation of the last written configuration file; incremented by each write.
    pub generation: u64,
    /// The configuration written last has our prefix of the log's lines, not a user's.
    pub own_log_prefix: Arc<AtomicBool>,
    /// Logical slots that this directory lost when it ceased to be a primary's, and the time.
    pub lost_slots: (Vec<String>, u64),
    /// The verdict on the user's settings; `None`: this directory never had any.
    pub judged: Option<Judged>,
    /// The dry start that judges changed settings.
    pub trial: Trial,
    /// Details that change rarely: versions, refused settings.
    pub details: Details,
    /// The libraries of this container, once they were asked for.
    pub libraries: Option<Libraries>,
}

/// The last messages from the operator, by our clock.
#[derive(Debug, Default)]
pub struct Operator {
    /// Time of its last message.
    pub heard_at: Option<u64>,
    /// Term and time of the last renewal.
    pub renewed: Option<(u64, u64)>,
}

/// Reports to the operator.
#[derive(Debug)]
pub struct Told {
    /// The last sent report, and its time.
    pub reported: (Report, u64),
    /// The channel of reports.
    pub reports: watch::Sender<Arc<str>>,
}

/// The supervisor's complete memory between two turns.
#[derive(Debug)]
pub struct Shell {
    /// Name of the member.
    pub member: String,
    /// Id of this start of the supervisor.
    pub boot: String,
    /// Paths and ids.
    pub place: Place,
    /// The lock of the volume; held as long as this exists.
    pub lock: Flock<File>,
    /// Starts and reaps children.
    pub reaper: Reaper,
    /// The durable state, as on disk.
    pub durable: Durable,
    /// Credentials, once they were received.
    pub secrets: Option<Secrets>,
    /// The local server.
    pub server: LocalServer,
    /// A job on the data directory, running or failed.
    pub job: Option<Work>,
    /// The last messages from the operator.
    pub operator: Operator,
    /// Reports to the operator.
    pub told: Told,
    /// Due times.
    pub clocks: Clocks,
    /// Current problems.
    pub problems: Problems,
    /// SIGTERM was received.
    pub terminating: bool,
    /// Brings WAL into the archive; `None`: tests, which have no socket for it.
    pub archiver: Option<Archiver>,
    /// The recovery that made the data directory, or that runs or failed.
    pub recovery: Option<watch::Sender<RecoveryState>>,
    /// The base backup or dump that runs, or ran last.
    pub backup: Option<Beside>,
    /// The restore of a dump that runs, or ran last.
    pub restore: Option<Beside>,
    /// The restore point that was made last.
    pub point: Option<Beside>,
    /// The archives, once they were received.
    pub archives: Option<Arc<Archives>>,
    /// The channel for messages from background tasks.
    pub notes: mpsc::Sender<Note>,
}

impl Shell {
    /// The shell at its start.
    pub fn new(
        (place, lock): (Place, Flock<File>),
        reaper: Reaper,
        member: String,
        durable: Durable,
        (reports, notes): (watch::Sender<Arc<str>>, mpsc::Sender<Note>),
    ) -> Self {
        let (now, boot) = (boottime_ms(), new_id());
        let run = Run { id: format!("{boot}-0"), ..Run::default() };
        let judged: Option<Judged> = super::durable::read(&place.own().join(Judged::FILE));
        let again = judged.as_ref().is_some_and(|judged| !judged.errors.is_empty());
        Self {
            member,
            boot,
            secrets: Secrets::load(&place.own()),
            archiver: None,
            backup: None,
            recovery: restoring::load(&place),
            restore: None,
            point: None,
            archives: durable::read(&place.own().join(Archives::FILE)).map(Arc::new),
            lock,
            reaper,
            durable,
            server: LocalServer {
                run,
                tls: super::tls::load(&place.own()),
                down: Down { since: now, ..Down::default() },
                judged,
                trial: Trial { again, ..Trial::default() },
                ..LocalServer::default()
            },
            job: None,
            operator: Operator::default(),
            told: Told { reported: (Report::default(), 0), reports },
            clocks: Clocks { turned: now, ..Clocks::default() },
            problems: Problems::default(),
            terminating: false,
            notes,
            place,
        }
    }

    /// Writes the durable state; nothing may follow from a change before this has returned.
    pub fn save(&mut self, durable: Durable) -> Result<(), super::durable::Error> {
        super::durable::save(&self.place.own(), &durable)?;
        self.durable = durable;
        Ok(())
    }
}
