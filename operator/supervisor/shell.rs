//! What the shell remembers between two turns of its loop; no decisions.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::Flock;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use tokio::sync::{mpsc, oneshot, watch};

use super::jobs::{self, Made};
use super::place::Place;
use super::process::Reaper;
use super::secrets::Secrets;
use super::sql::{Details, Poll, Session};
use super::state::{Config, Durable, Gate, Settings};
use super::tools::Control;
use super::wire::{JobKind, Postgres, Report};
use crate::api::lsn::{Fork, Lsn};

/// CLOCK_BOOTTIME: runs on through `docker pause` and a suspended machine.
pub fn boottime() -> Duration {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).expect("Linux has CLOCK_BOOTTIME");
    time.into()
}

/// [`boottime`] in milliseconds.
pub fn boottime_ms() -> u64 {
    u64::try_from(boottime().as_millis()).unwrap_or(u64::MAX)
}

/// A new identity; the only chance in the supervisor.
#[allow(clippy::disallowed_methods)]
pub fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Something that a background task has to say.
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
        /// In words, if it failed.
        error: Option<String>,
    },
    /// The server's log says that its WAL receiver ended.
    ReceiverEnded(String),
    /// The server's log says that the leader no longer has the WAL or the timeline history that we need.
    WalMissing(String),
    /// The server's log says that replay stands still for settings that are lower than the leader's.
    Stuck(String),
    /// A FATAL or PANIC line of the server's log, of this run.
    Fatal(String, String),
}

/// A postmaster that was started and has not ended.
#[derive(Debug)]
pub struct Postmaster {
    /// Its process.
    pub pid: Pid,
    /// Resolves when it ended.
    pub exit: oneshot::Receiver<WaitStatus>,
    /// It said that it takes connections.
    pub ready: bool,
    /// Our session there.
    pub session: Option<Session>,
    /// It is being stopped.
    pub stopping: Option<Stopping>,
    /// It runs as a standby (until promoted): its configuration keeps the primary's minima.
    pub minima: BTreeMap<String, u64>,
}

/// A stop under way.
#[derive(Debug, Clone, Copy)]
pub struct Stopping {
    /// When the last signal was sent.
    pub since: u64,
    /// How hard it was.
    pub how: Stop,
}

/// How hard a stop is; each follows the one before if that takes too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum Stop {
    /// SIGINT.
    Fast,
    /// SIGQUIT.
    Immediate,
    /// SIGKILL of everything.
    Kill,
}

/// What belongs to one run of the postmaster; replaced at each start.
#[derive(Debug, Default)]
pub struct Run {
    /// Its id.
    pub id: String,
    /// Started with.
    pub started: Option<Config>,
    /// Verified in a session begun after it was loaded.
    pub applied: Option<Config>,
    /// The last look.
    pub poll: Option<Poll>,
    /// Timeline that a standby said, at this position.
    pub identified: Option<(Lsn, u32)>,
    /// History of this timeline.
    pub history: (u32, Vec<Fork>),
    /// See [`super::state::Seen::sessions_ended`].
    pub sessions_ended: bool,
    /// See [`super::state::Seen::barrier_lsn`].
    pub barrier_lsn: Option<Lsn>,
    /// When it was set, by our clock.
    pub barrier_at: u64,
    /// When enough voters confirmed last, by our clock.
    pub confirmed_at: Option<u64>,
    /// See [`super::state::Seen::barrier_passed_once`].
    pub barrier_passed_once: bool,
    /// See [`super::state::Seen::app_ensured`].
    pub app_ensured: bool,
    /// See [`super::state::Seen::checkpoint_started`].
    pub checkpoint_started: bool,
    /// A checkpoint for a stop is under way.
    pub stop_checkpoint: bool,
    /// See [`super::state::Seen::restart_asked`].
    pub restart_asked: bool,
    /// See [`super::state::Seen::wal_missing`].
    pub wal_missing: bool,
    /// See [`super::state::Server::stuck`].
    pub stuck: bool,
    /// When each walsender's reply last changed, by our clock.
    pub replies: BTreeMap<i32, Reply>,
    /// Where WAL ended at the last change, and when that was.
    pub moved: (Lsn, u64),
    /// Since when clients are let in.
    pub opened: Option<u64>,
    /// Its last FATAL or PANIC line.
    pub fatal: Option<String>,
}

/// Delay of work that can wait after the gate opened, in milliseconds: the first clients get the disk alone.
const SETTLED_MS: u64 = 3_000;

impl Run {
    /// Clients have been served for a while.
    pub fn settled(&self, now: u64) -> bool {
        self.opened.is_some_and(|at| now.saturating_sub(at) >= SETTLED_MS)
    }

    /// A run that begins with this configuration: behind a shut gate no client can be.
    pub fn begin(id: String, config: &Config) -> Self {
        Self { id, started: Some(config.clone()), sessions_ended: config.gate == Gate::Shut, ..Self::default() }
    }
}

/// The last reply of a walsender's other side.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its time by the other side's clock.
    pub reply: Option<String>,
    /// When we saw it change; `None`: not since the clock jumped.
    pub seen: Option<u64>,
}

/// What is known of a postmaster that is down.
#[derive(Debug, Default)]
pub struct Down {
    /// Since when.
    pub since: u64,
    /// Its control file, once read.
    pub control: Option<Control>,
    /// Its clean end.
    pub clean: Option<(u32, Lsn)>,
    /// It ended by itself, and nobody was told yet.
    pub untold: bool,
    /// Its control file was read since it went down (or since a job changed the directory).
    pub read: bool,
}

/// A job, and how its last tries went.
#[derive(Debug, Clone)]
pub struct Work {
    /// Which.
    pub kind: JobKind,
    /// It runs.
    pub running: bool,
    /// Why the last try failed.
    pub error: Option<String>,
    /// Tries that reached the leader and failed, in a row.
    pub failures: u32,
    /// All tries that failed in a row: the pause grows with them.
    pub tries: u32,
    /// When the next try may begin.
    pub due: u64,
    /// Timeline terms of the leader, which the copy will have.
    pub timeline_terms: BTreeMap<u32, u64>,
}

/// The user's settings, as asked and as PostgreSQL takes them.
#[derive(Debug, Clone, Default)]
pub struct AskedSettings {
    /// As asked.
    pub asked: Settings,
    /// Those that are used.
    pub accepted: Settings,
    /// What was left out, with reasons.
    pub errors: Vec<String>,
}

/// What is the matter, by where it comes from; each is cleared by its own success.
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
    /// Somebody changed what is ours.
    pub overridden: Option<String>,
}

impl Problems {
    /// All that is the matter, in one line.
    pub fn in_words(&self, postgres: Postgres) -> Option<String> {
        let ended = self.ended.as_ref().filter(|_| matches!(postgres, Postgres::Stopped | Postgres::Starting));
        let all = [ended, self.act.as_ref(), self.refused.as_ref(), self.overridden.as_ref(), self.poll.as_ref()];
        let all: Vec<&str> = all.into_iter().flatten().map(String::as_str).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

/// When things are due, by [`boottime_ms`].
#[derive(Debug, Default)]
pub struct Clocks {
    /// When a turn of the loop last began or ended.
    pub turned: u64,
    /// The clock jumped, and the server was not polled since.
    pub jumped: bool,
    /// The next poll of the server.
    pub poll_at: u64,
    /// Until then the server is polled without a pause: a change is about to show.
    pub hurry_until: u64,
    /// Polls in a row that a transition asked for.
    pub quick_polls: u32,
    /// The next heartbeat of a leader.
    pub heartbeat_at: u64,
    /// The next reading of details.
    pub details_at: u64,
    /// No act before: the last one failed.
    pub act_at: u64,
    /// Acts that failed in a row.
    pub failed_acts: u32,
}

/// The local server, running or down.
#[derive(Debug, Default)]
pub struct LocalServer {
    /// The postmaster, if it runs.
    pub postmaster: Option<Postmaster>,
    /// Its run, under way or last.
    pub run: Run,
    /// What it left, if it is down.
    pub down: Down,
    /// The directory was made by initdb in this boot and no postmaster has run on it yet.
    pub fresh: bool,
    /// Starts of the postmaster in this boot.
    pub starts: u64,
    /// Starts that failed in a row.
    pub failed_starts: u32,
    /// No start before.
    pub start_held_until: u64,
    /// An order of a new term came since the postmaster ended (or since boot).
    pub ordered_since_stop: bool,
    /// A checkpoint was done for the graceful stop that is ordered.
    pub checkpointed_for_stop: bool,
    /// Of the configuration file written last; grows with each writing.
    pub generation: u64,
    /// The user's settings.
    pub settings: AskedSettings,
    /// What changes rarely: versions, settings in error.
    pub details: Details,
}

/// What was heard from the operator, by our clock.
#[derive(Debug, Default)]
pub struct Operator {
    /// When it last spoke.
    pub heard_at: Option<u64>,
    /// Term and time of the last renewal.
    pub renewed: Option<(u64, u64)>,
}

/// What the operator is told.
#[derive(Debug)]
pub struct Told {
    /// The last report that went out, and when.
    pub reported: (Report, u64),
    /// Where reports go.
    pub reports: watch::Sender<Arc<str>>,
}

/// All that the supervisor remembers between two turns.
#[derive(Debug)]
pub struct Shell {
    /// Name of the member.
    pub member: String,
    /// Id of this start of the supervisor.
    pub boot: String,
    /// Paths and ids.
    pub place: Place,
    /// The volume is ours while this is held.
    pub lock: Flock<File>,
    /// Starts and reaps children.
    pub reaper: Reaper,
    /// What is on disk and must last.
    pub durable: Durable,
    /// Credentials, once they came.
    pub secrets: Option<Secrets>,
    /// The local server.
    pub server: LocalServer,
    /// A job on the data directory, under way or failed.
    pub job: Option<Work>,
    /// What the operator said.
    pub operator: Operator,
    /// What the operator is told.
    pub told: Told,
    /// When things are due.
    pub clocks: Clocks,
    /// What is the matter.
    pub problems: Problems,
    /// SIGTERM came.
    pub terminating: bool,
    /// Where background tasks speak.
    pub notes: mpsc::Sender<Note>,
}

impl Shell {
    /// A shell at its start.
    pub fn new(
        (place, lock): (Place, Flock<File>),
        reaper: Reaper,
        member: String,
        durable: Durable,
        (reports, notes): (watch::Sender<Arc<str>>, mpsc::Sender<Note>),
    ) -> Self {
        let (now, boot) = (boottime_ms(), new_id());
        let run = Run { id: format!("{boot}-0"), ..Run::default() };
        Self {
            member,
            boot,
            secrets: Secrets::load(&place.own()),
            place,
            lock,
            reaper,
            durable,
            server: LocalServer { run, down: Down { since: now, ..Down::default() }, ..LocalServer::default() },
            job: None,
            operator: Operator::default(),
            told: Told { reported: (Report::default(), 0), reports },
            clocks: Clocks { turned: now, ..Clocks::default() },
            problems: Problems::default(),
            terminating: false,
            notes,
        }
    }

    /// Writes what must last; nothing may follow from a change before this returned.
    pub fn save(&mut self, durable: Durable) -> Result<(), super::durable::Error> {
        super::durable::save(&self.place.own(), &durable)?;
        self.durable = durable;
        Ok(())
    }
}
