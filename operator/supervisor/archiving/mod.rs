//! The archive of this instance's WAL: pushes complete segments to the store while this instance leads, and answers the server's
//! `archive_command`. It runs beside the supervisor's loop, which only tells it what it may do; nothing in the loop waits for it.
//!
//! - [`decide`]: what may be pushed, and what is answered; pure.
//! - [`ask`]: the program that PostgreSQL runs for each file; `door`: the socket where it asks.
//! - `push`: what a leader does; `look`: how a standby learns what is in the store; `survey`: which segments wait, and which are
//!   given up; `switch`: ends a segment that is too old; `holds`: what the archive holds, for the status.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::api::chain::chain;
use crate::api::lsn::Lsn;
use crate::api::sync::lock;
use crate::archive::fetch::Fetcher;
use crate::archive::names::{Segment, WalFile};
use crate::supervisor::archiving::decide::{Answer, Guard, Written, answer};
use crate::supervisor::clock::boottime_ms;
use crate::supervisor::place::Place;
use crate::supervisor::wire::{ArchiveProblem, ArchiveState, Archives, CatalogState};

pub mod ask;
pub mod decide;
mod door;
mod holds;
mod look;
mod push;
mod survey;
mod switch;

/// How long a question waits while the server starts.
const BRIEFLY: Duration = Duration::from_secs(1);

/// The archiver of one supervisor. Dropping it ends its work.
#[derive(Debug)]
pub struct Archiver {
    shared: Arc<Shared>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

/// What the loop and the tasks of the archiver know together.
#[derive(Debug)]
struct Shared {
    place: Place,
    guard: watch::Sender<Guard>,
    archives: watch::Sender<Option<Arc<Archives>>>,
    /// Names of files that are in the store, or given up; without those that the server has forgotten.
    done: watch::Sender<BTreeSet<String>>,
    /// What the leader has written, at the last poll.
    written: watch::Sender<Option<Pulse>>,
    /// A base backup needs the WAL before this position.
    past: watch::Sender<Lsn>,
    /// A file was offered.
    offered: Notify,
    /// What a recovery reads from, while one runs.
    fetcher: Mutex<Option<Fetcher>>,
    known: Mutex<Known>,
}

/// One poll of a leader.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pulse {
    /// What it has written.
    pub written: Written,
    /// The end of the WAL.
    pub lsn: Lsn,
    /// Seconds since 1970 when the last proof began that committed; all its WAL is before `lsn`.
    pub committed_at: Option<i64>,
}

/// What the report says.
#[derive(Debug, Default)]
struct Known {
    conditional_put: Option<bool>,
    age_fingerprint: Option<String>,
    last: Option<(String, u64)>,
    /// Files that wait, with the time when each was first seen.
    waiting: BTreeMap<String, u64>,
    waiting_bytes: u64,
    problem: Option<ArchiveProblem>,
    catalog: Option<CatalogState>,
    /// Segments that this instance gave up as the leader, and has not recorded as missing in the store yet.
    given_up: BTreeSet<Segment>,
    /// How often the archive began anew: it was made, or gaps were recorded.
    begun: u64,
    unarchived_since: Option<u64>,
    /// From then to then, in seconds since 1970, nobody but the supervisor committed anything; all before is in complete segments.
    quiet: Option<(i64, i64)>,
}

impl Archiver {
    /// Begins its work. `socket`: where the server's programs ask.
    pub fn start(place: Place, socket: &Path) -> std::io::Result<Self> {
        let listener = door::bind(socket, &place)?;
        let shared = Arc::new(Shared::new(place));
        let spawn =
            |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| AbortOnDropHandle::new(tokio::spawn(task));
        let tasks = vec![
            spawn(Box::pin(door::serve(listener, Door(shared.clone())))),
            spawn(Box::pin(push::run(shared.clone()))),
            spawn(Box::pin(look::run(shared.clone()))),
            spawn(Box::pin(holds::run(shared.clone()))),
            spawn(Box::pin(survey::run(shared.clone()))),
            spawn(Box::pin(switch::run(shared.clone()))),
        ];
        Ok(Self { shared, _tasks: tasks })
    }

    /// What it may do from now on.
    pub fn guard(&self, guard: Guard) {
        self.shared.guard.send_if_modified(|known| {
            let news = *known != guard;
            *known = guard;
            news
        });
    }

    /// The server is about to be stopped: whoever waits for the store is sent away first.
    pub fn stopping(&self) {
        self.shared.guard.send_if_modified(|guard| !std::mem::replace(&mut guard.stopping, true));
    }

    /// Where archives are, with credentials.
    pub fn archives(&self, archives: Option<Arc<Archives>>) {
        self.shared.archives.send_replace(archives);
    }

    /// What the leader has written; `None`: this instance does not lead.
    pub fn written(&self, pulse: Option<Pulse>) {
        self.shared.written.send_if_modified(|known| {
            let news = *known != pulse;
            *known = pulse;
            news
        });
    }

    /// The leader ends the segment with the WAL before this position.
    pub fn switch_past(&self, past: Lsn) {
        self.shared.past.send_if_modified(|known| {
            let news = *known < past;
            *known = past.max(*known);
            news
        });
    }

    /// Answers the `restore_command` of a recovery; as long as what this returns exists.
    pub fn reads(&self) -> Reading {
        Reading(self.shared.clone())
    }

    /// What the report says of the archive; `None`: the order names none.
    pub fn state(&self, now: u64) -> Option<ArchiveState> {
        let guard = self.shared.guard.borrow();
        let path = guard.archive.clone()?;
        let known = lock(&self.shared.known);
        let age = |since: &u64| now.saturating_sub(*since);
        Some(ArchiveState {
            path,
            conditional_put: known.conditional_put,
            age_fingerprint: known.age_fingerprint.clone().filter(|_| guard.grant().is_some()),
            pushes: guard.grant().is_some(),
            last: known.last.as_ref().map(|(name, at)| (name.clone(), age(at))),
            waiting: known.waiting.len() as u64,
            waiting_bytes: known.waiting_bytes,
            lag_ms: known.waiting.values().chain(&known.unarchived_since).map(age).max().unwrap_or_default(),
            problem: known.problem.clone(),
            catalog: known.catalog.clone(),
        })
    }
}

/// The archive that a recovery reads from. Dropping it ends that.
#[derive(Debug)]
pub struct Reading(Arc<Shared>);

impl Reading {
    /// The archive.
    pub fn from(&self, fetcher: Fetcher) {
        *lock(&self.0.fetcher) = Some(fetcher);
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        *lock(&self.0.fetcher) = None;
    }
}

/// A question of a program that PostgreSQL runs.
#[derive(Debug)]
enum Question {
    /// May this file be forgotten?
    Push(String),
    /// What is in this file?
    Fetch(WalFile),
}

/// Where questions are answered.
#[derive(Debug, Clone)]
struct Door(Arc<Shared>);

impl Door {
    /// Waits until the file is in the store, or needs not be, or the server is stopped.
    async fn pushed(&self, name: &str) -> Answer {
        let Ok(file) = name.parse() else { return Answer::Stopping };
        let (mut guard, mut done) = (self.0.guard.subscribe(), self.0.done.subscribe());
        self.0.offered.notify_waiters();
        let mut soon = std::pin::pin!(tokio::time::sleep(BRIEFLY));
        loop {
            let stored = done.borrow_and_update().contains(name);
            let briefly = match answer(&guard.borrow_and_update(), file, stored) {
                Answer::Wait => false,
                Answer::Briefly => true,
                answer => return answer,
            };
            let changed = tokio::select! {
                biased;
                changed = guard.changed() => changed,
                changed = done.changed() => changed,
                () = &mut soon, if briefly => return Answer::Stopping,
            };
            if changed.is_err() {
                return Answer::Stopping;
            }
        }
    }

    /// A file of the archive that a recovery reads, with the exit code. Nobody else reads an archive.
    async fn fetched(&self, file: WalFile) -> (u8, Bytes) {
        let Some(fetcher) = lock(&self.0.fetcher).clone() else { return (ask::NOT_NOW, Bytes::new()) };
        match fetcher.fetch(file).await {
            Ok(Some(content)) => (0, content),
            Ok(None) => (ask::NOT_THERE, Bytes::new()),
            Err(error) => {
                tracing::warn!(problem = %chain(&error), "a WAL file of the archive cannot be read: the recovery begins anew");
                (ask::NOT_NOW, Bytes::new())
            }
        }
    }
}

impl Shared {
    fn new(place: Place) -> Self {
        Self {
            place,
            guard: watch::Sender::default(),
            archives: watch::Sender::default(),
            done: watch::Sender::default(),
            written: watch::Sender::default(),
            past: watch::Sender::default(),
            offered: Notify::new(),
            fetcher: Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// A file is in the store, or nobody waits for it any more.
    fn done(&self, name: &str) {
        self.done.send_if_modified(|done| done.insert(name.to_owned()));
    }

    /// A file is given up: this instance does not bring it into the archive any more.
    fn given_up(&self, name: &str) {
        let leads = self.guard.borrow().grant().is_some();
        // What a standby gives up may be in the archive by its leader: only that one knows of a gap.
        if let (true, Ok(WalFile::Segment(segment))) = (leads, name.parse()) {
            lock(&self.known).given_up.insert(segment);
        }
        self.done(name);
    }

    /// What is wrong now; `None`: nothing.
    fn problem(&self, problem: Option<ArchiveProblem>) {
        let mut known = lock(&self.known);
        if known.problem != problem {
            match &problem {
                Some(problem) => {
                    tracing::warn!(reason = problem.reason, problem = problem.message, "nothing is archived")
                }
                None => tracing::info!("WAL is archived again"),
            }
            known.problem = problem;
        }
    }

    /// A file was pushed.
    fn pushed(&self, name: &str) {
        lock(&self.known).last = Some((name.to_owned(), boottime_ms()));
        self.done(name);
    }
}
