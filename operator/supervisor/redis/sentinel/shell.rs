//! The memory of a Sentinel's supervisor between two turns of its loop, and what it performs; no decisions.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::Flock;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use redis::aio::MultiplexedConnection;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::api::chain::chain;
use crate::supervisor::clock::{boottime_ms, new_id};
use crate::supervisor::durable;
use crate::supervisor::listen;
use crate::supervisor::process::{Reaper, describe};
use crate::supervisor::redis::log::pass_on;
use crate::supervisor::redis::place::Place;
use crate::supervisor::redis::sentinel::ask;
use crate::supervisor::redis::sentinel::conf;
use crate::supervisor::redis::sentinel::file::Folder;
use crate::supervisor::redis::sentinel::next;
use crate::supervisor::redis::sentinel::state::{Change, Durable, Seen, Step};
use crate::supervisor::redis::sentinel::view::View;
use crate::supervisor::redis::wire::{
    Act, Address, Answer, Command, Credentials, Report, SENTINEL_PORT, SentinelSeen, Server, Watch, significant,
};

/// Interval of polls and of reports when nothing happens, in milliseconds.
const STEADY_MS: u64 = 1_000;
/// Interval of polls while a Sentinel starts and after an act, and the length of that time, in milliseconds.
const HURRIED_MS: u64 = 20;
const HURRY_MS: u64 = 5_000;
/// The pause after an end or a failure, doubled each time, in milliseconds.
const PAUSE_MS: u64 = 50;
const LONGEST_PAUSE_MS: u64 = 2_000;
/// A Sentinel that has run this long had no trouble to start.
const SETTLED_MS: u64 = 10_000;
/// Time after which a stop becomes SIGKILL, in milliseconds.
const STOP_MS: u64 = 2_000;
/// Polls in a row without an answer that are reported as a hang.
const HUNG: u32 = 2;
/// Most acts that wait, and most that are remembered.
const ACTS: usize = 16;
/// Most replicas, and most Sentinels, of a report.
const REPORTED: usize = 64;
/// Credentials that the Sentinel may have: the last ones in force, and those that came since. And their file.
const KNOWN: usize = 4;
pub const CREDENTIALS: &str = "sentinel-credentials.json";

/// A step failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The Sentinel.
    #[error(transparent)]
    Ask(#[from] ask::Error),
    /// The order or the credentials.
    #[error(transparent)]
    Unusable(#[from] conf::Unusable),
    /// The port is not free.
    #[error(transparent)]
    Listen(#[from] listen::Error),
    /// The volume.
    #[error(transparent)]
    Durable(#[from] durable::Error),
    /// A file or a process.
    #[error("the Sentinel's files or its start")]
    File(#[from] std::io::Error),
    /// Credentials cannot be written as JSON.
    #[error("the credentials")]
    Json(#[from] serde_json::Error),
}

/// A running Sentinel.
#[derive(Debug)]
pub struct Process {
    /// Its id.
    pub pid: Pid,
    /// Resolves when it has ended.
    pub exit: oneshot::Receiver<WaitStatus>,
    begun: u64,
    /// When it was told to stop.
    stopping: Option<u64>,
    /// It was started with TLS, with the certificates of this hash; empty: with older ones.
    tls: Option<String>,
    connection: Option<MultiplexedConnection>,
    /// Hears its events.
    events: Option<AbortOnDropHandle<()>>,
    version: Option<String>,
    /// That of the failover that it began last in this run; 0: none.
    epoch: Arc<AtomicU64>,
    /// Users and passwords in force: the hash of the credentials, and the application's user.
    in_force: Option<(String, String)>,
    /// It has answered.
    answered: bool,
}

/// Due times, by [`boottime_ms`].
#[derive(Debug, Default)]
struct Clocks {
    polled: u64,
    poll_at: u64,
    /// When a poll without an answer was last counted.
    silent_at: u64,
    hurry_until: u64,
    due_at: u64,
    pause: u64,
    reported: u64,
    /// Since when the Sentinel has other certificates than it should have.
    other_since: Option<u64>,
}

/// The current problems, as texts.
#[derive(Debug, Default)]
struct Problems {
    login: Option<String>,
    act: Option<String>,
    ended: Option<String>,
    /// Another program of the host listens on the Sentinel's port.
    port_taken: bool,
}

/// The supervisor of one Sentinel.
pub struct Shell {
    place: Place,
    folder: Folder,
    _lock: Flock<File>,
    reaper: Reaper,
    notes: mpsc::Sender<String>,
    reports: watch::Sender<Arc<str>>,
    boot: String,
    runs: u64,
    durable: Durable,
    ordered: bool,
    /// The newest last. The Sentinel has the passwords of one of them.
    known: Vec<Credentials>,
    /// The Sentinel.
    pub process: Option<Process>,
    view: Option<View>,
    /// [`Shell::view`] was read after the act came.
    fresh: bool,
    silent: u32,
    /// Acts that are not done yet, and the answers to the last ones that are.
    acts: VecDeque<(String, Act)>,
    answers: VecDeque<Answer>,
    restart_asked: bool,
    terminating: bool,
    problems: Problems,
    clocks: Clocks,
    reported: Report,
}

impl Shell {
    /// At the start of the supervisor.
    pub fn new(
        (place, lock): (Place, Flock<File>),
        reaper: Reaper,
        (durable, known): (Durable, Vec<Credentials>),
        (reports, notes): (watch::Sender<Arc<str>>, mpsc::Sender<String>),
    ) -> Self {
        let folder = Folder { path: place.sentinel(), theirs: place.theirs() };
        Self {
            place,
            folder,
            _lock: lock,
            reaper,
            notes,
            reports,
            boot: new_id(),
            runs: 0,
            durable,
            ordered: false,
            known,
            process: None,
            view: None,
            fresh: false,
            silent: 0,
            acts: VecDeque::new(),
            answers: VecDeque::new(),
            restart_asked: false,
            terminating: false,
            problems: Problems::default(),
            clocks: Clocks::default(),
            reported: Report::default(),
        }
    }

    /// One turn: observe, report, decide, perform. Returns the pause until the next one in milliseconds; `None`: the end.
    pub async fn turn(&mut self) -> Option<u64> {
        self.observe().await;
        let other = self.process.as_ref().is_some_and(|process| process.tls != self.certificates());
        self.clocks.other_since = other.then(|| self.clocks.other_since.unwrap_or_else(boottime_ms));
        let seen = self.seen();
        self.publish(&seen);
        let step = next::next(&seen);
        if !matches!(step, Step::Wait | Step::Poll | Step::Settle(_)) {
            tracing::debug!(?step, "next");
        }
        let wait = matches!(step, Step::Wait);
        if wait && seen.due && seen.view.is_some() {
            // Whatever failed is not wanted any more, or was done by another way.
            self.problems.act = None;
        }
        match self.perform(step).await {
            Ok(true) => return None,
            Ok(false) => {}
            Err(error) => self.failed(&error),
        }
        Some(if wait { self.pause() } else { 1 })
    }

    fn pause(&self) -> u64 {
        let now = boottime_ms();
        let process_at = match &self.process {
            None => u64::MAX,
            Some(Process { stopping: Some(since), .. }) => since + STOP_MS,
            Some(_) => self.clocks.poll_at,
        };
        let due_at = if self.clocks.due_at > now { self.clocks.due_at } else { u64::MAX };
        let next = process_at.min(due_at).min(self.clocks.reported + STEADY_MS);
        next.saturating_sub(now).max(1)
    }

    fn failed(&mut self, error: &(dyn std::error::Error + 'static)) {
        let words = chain(error);
        tracing::warn!(problem = %words, "a step failed");
        self.problems.act = Some(words);
        self.back_off();
    }

    fn back_off(&mut self) {
        self.clocks.pause = (self.clocks.pause * 2).clamp(PAUSE_MS, LONGEST_PAUSE_MS);
        self.clocks.due_at = boottime_ms() + self.clocks.pause;
    }

    /// The order, if there is one.
    fn watch(&self) -> Option<&Watch> {
        self.durable.watch.as_ref()
    }

    /// Users and passwords that are wanted.
    fn wanted(&self) -> Option<(String, String)> {
        let credentials = self.known.last()?;
        Some((credentials.hash.clone(), self.watch()?.username.clone()))
    }

    /// Hash of the certificates that are wanted, empty if they have not come yet; `None`: no TLS.
    fn certificates(&self) -> Option<String> {
        let tls = self.known.last().and_then(|known| known.tls.as_ref());
        self.watch().is_some_and(|watch| watch.tls).then(|| tls.map(|tls| tls.hash.clone()).unwrap_or_default())
    }

    fn server(&self) -> Server {
        match &self.process {
            None => Server::Stopped,
            Some(Process { stopping: Some(_), .. }) => Server::Stopping,
            Some(Process { answered: false, .. }) => Server::Starting,
            Some(_) if self.silent >= HUNG => Server::Hung,
            Some(_) => Server::Running,
        }
    }

    fn seen(&self) -> Seen {
        let wants_tls = self.watch().is_some_and(|watch| watch.tls);
        let credentials = self.known.last().is_some_and(|known| !wants_tls || known.tls.is_some());
        let in_force = self.process.as_ref().and_then(|process| process.in_force.clone());
        let wait = self.watch().map_or(0, next::wait_to_reload);
        let other = self.clocks.other_since.is_some_and(|since| boottime_ms().saturating_sub(since) >= wait);
        Seen {
            durable: self.durable.clone(),
            ordered: self.ordered,
            credentials,
            file: self.process.is_some() || self.folder.has_file(),
            server: self.server(),
            due: boottime_ms() >= self.clocks.due_at,
            silent: self.silent,
            terminating: self.terminating,
            restart: self.restart_asked || other && self.ordered && credentials,
            passwords: in_force.is_some() && in_force == self.wanted(),
            view: self.view.clone(),
            act: self.acts.front().cloned(),
            fresh: self.fresh,
        }
    }

    // ---- Observe

    async fn observe(&mut self) {
        let now = boottime_ms();
        let Some(process) = &mut self.process else { return };
        if let Some(since) = process.stopping {
            if now.saturating_sub(since) >= STOP_MS {
                // It may have ended meanwhile.
                let _ = kill(process.pid, Signal::SIGKILL);
                process.stopping = Some(now);
            }
            return;
        }
        if now < self.clocks.poll_at {
            return;
        }
        let name = self.durable.watch.as_ref().map_or("", |watch| &watch.sentinels.master_name).to_owned();
        let result = self.poll(&name).await;
        let now = boottime_ms();
        self.clocks.polled = now;
        let hurry = now < self.clocks.hurry_until;
        match result {
            Ok(view) => {
                (self.view, self.fresh, self.silent) = (Some(view), true, 0);
                self.problems.login = None;
                self.clocks.silent_at = now;
                self.clocks.poll_at = now + if hurry { HURRIED_MS } else { STEADY_MS };
                let Some(process) = &mut self.process else { return };
                process.answered = true;
                if now.saturating_sub(process.begun) >= SETTLED_MS {
                    self.problems.ended = None;
                }
            }
            Err(error) => self.unanswered(&error, now),
        }
    }

    /// A poll failed. What counts is the number of seconds in which one did, so that a pause of the container is one of them.
    fn unanswered(&mut self, error: &ask::Error, now: u64) {
        let Some(process) = &mut self.process else { return };
        process.connection = None;
        process.events = None;
        self.clocks.poll_at = now + if process.answered { PAUSE_MS } else { HURRIED_MS };
        if error.is_refusal() {
            // It lives, and lets nobody in.
            self.problems.login = Some(format!("the Sentinel refuses the supervisor: {}", chain(error)));
            (self.silent, self.view) = (0, None);
            self.clocks.poll_at = now + STEADY_MS;
        } else if now.saturating_sub(self.clocks.silent_at) >= STEADY_MS {
            self.clocks.silent_at = now;
            self.silent += 1;
            tracing::debug!(problem = %chain(error), silent = self.silent, "the Sentinel does not answer");
            if self.silent >= HUNG {
                self.view = None;
            }
        }
    }

    async fn poll(&mut self, name: &str) -> Result<View, ask::Error> {
        let Some(process) = &mut self.process else { return Err(ask::Error::Stranger) };
        if process.connection.is_none() {
            let socket = self.place.socket();
            let ask::Entered { connection, password, version } = ask::connect(&socket, &self.known).await?;
            let (notes, run) = (self.notes.clone(), format!("{}-{}", self.boot, self.runs));
            let epoch = process.epoch.clone();
            let hear = move |begun: Option<u64>| {
                if let Some(begun) = begun {
                    epoch.store(begun, Ordering::Relaxed);
                }
                // If the queue is full, it has an event already.
                let _ = notes.try_send(run.clone());
            };
            process.events = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                // Without events it is polled every second.
                if let Err(error) = ask::listen(&socket, &password, hear).await {
                    tracing::debug!(problem = %chain(&error), "the events of the Sentinel ended");
                }
            })));
            (process.connection, process.version) = (Some(connection), Some(version));
        }
        match &mut process.connection {
            Some(connection) => Ok(View::read(&ask::poll(connection, name).await?)),
            None => Err(ask::Error::Stranger),
        }
    }

    // ---- Report

    fn report(&self, seen: &Seen) -> Report {
        let view = self.view.as_ref();
        let process = self.process.as_ref();
        let known = |view: &View| SentinelSeen {
            id: (!view.id.is_empty()).then(|| view.id.clone()),
            tilt: view.tilt,
            master: view.master.as_ref().map(|master| master.seen.clone()),
            replicas: view.replicas.iter().take(REPORTED).map(|replica| replica.seen.clone()).collect(),
            sentinels: view.sentinels.iter().take(REPORTED).cloned().collect(),
            no_quorum: view.no_quorum.clone(),
            ..SentinelSeen::default()
        };
        let sentinel = SentinelSeen {
            watch: self.durable.watch.clone(),
            answer: self.answers.back().cloned(),
            epoch: process.map_or(0, |process| process.epoch.load(Ordering::Relaxed)),
            ..view.map(known).unwrap_or_default()
        };
        let problems = &self.problems;
        let waits = next::waits(seen).map(str::to_owned);
        let first = [&problems.login, &problems.act, &problems.ended].into_iter().flatten().next();
        Report {
            boot: self.boot.clone(),
            clock_ms: boottime_ms(),
            run: self.run(),
            server: self.server(),
            version: process.and_then(|process| process.version.clone()),
            credentials: process.and_then(|process| process.in_force.as_ref().map(|(hash, _)| hash.clone())),
            tls: process.and_then(|process| process.tls.clone()).filter(|hash| !hash.is_empty()),
            sentinel: Some(sentinel),
            disk_free: self.place.disk_free(),
            problem: first.cloned().or(waits),
            terminating: self.terminating,
            port_taken: self.problems.port_taken,
            ..Report::default()
        }
    }

    fn run(&self) -> String {
        format!("{}-{}", self.boot, self.runs)
    }

    fn publish(&mut self, seen: &Seen) {
        let (report, now) = (self.report(seen), boottime_ms());
        let due = now.saturating_sub(self.clocks.reported) >= STEADY_MS;
        if !due && significant(&report) == significant(&self.reported) {
            return;
        }
        match serde_json::to_string(&report) {
            Ok(line) => drop(self.reports.send_replace(Arc::from(line + "\n"))),
            Err(error) => tracing::error!(%error, "a report cannot be written"),
        }
        (self.reported, self.clocks.reported) = (report, now);
    }

    // ---- Perform

    /// Whether the supervisor ends.
    async fn perform(&mut self, step: Step) -> Result<bool, Failure> {
        match step {
            Step::Wait => {}
            Step::Poll => self.clocks.poll_at = 0,
            Step::Exit => return Ok(true),
            Step::Render(master) => self.render(master)?,
            Step::Start => self.start()?,
            Step::Stop => self.signal(Signal::SIGTERM),
            Step::Kill => {
                tracing::warn!("the Sentinel hangs: SIGKILL");
                self.signal(Signal::SIGKILL);
            }
            Step::Settle(changes) => self.settle(&changes).await?,
            Step::Perform(words) => {
                let refused = match self.process.as_mut().and_then(|process| process.connection.as_mut()) {
                    Some(connection) => ask::perform(connection, &words).await.err(),
                    None => Some("the Sentinel does not answer".to_owned()),
                };
                self.answer(refused);
            }
            Step::Answer(refused) => self.answer(refused),
        }
        Ok(false)
    }

    fn answer(&mut self, refused: Option<String>) {
        let Some((id, act)) = self.acts.pop_front() else { return };
        // The next one is judged by what the Sentinel knows after this one.
        self.fresh = false;
        tracing::info!(%id, ?act, refused = refused.as_deref().unwrap_or("no"), "an act");
        self.answers.push_back(Answer { id, refused });
        self.answers.drain(..self.answers.len().saturating_sub(ACTS));
        let now = boottime_ms();
        (self.clocks.hurry_until, self.clocks.poll_at) = (now + HURRY_MS, now);
    }

    fn signal(&mut self, signal: Signal) {
        self.restart_asked = false;
        if let Some(process) = &mut self.process {
            // It may have ended meanwhile.
            let _ = kill(process.pid, signal);
            process.stopping.get_or_insert(boottime_ms());
        }
    }

    fn render(&mut self, master: Address) -> Result<(), Failure> {
        let (Some(watch), Some(credentials)) = (self.durable.watch.clone(), self.known.last()) else { return Ok(()) };
        let text = conf::render(&watch, master, credentials, &self.folder.path.display().to_string())?;
        // In this order, no file is ever taken for one of another group.
        self.folder.set_aside()?;
        self.save(Durable { group: Some(watch.group.clone()), ..self.durable.clone() })?;
        self.folder.write(&text)?;
        tracing::info!(%master, group = %watch.group, "the first sentinel.conf is written");
        Ok(())
    }

    fn start(&mut self) -> Result<(), Failure> {
        let at = listen::listen_or(SENTINEL_PORT);
        let free = listen::check(at);
        self.problems.port_taken = matches!(free, Err(listen::Error::Taken { .. }));
        free?;
        let (wanted, with) = (self.certificates(), self.watch().is_some_and(|watch| watch.tls));
        let tls = self.known.last().and_then(|known| known.tls.clone()).filter(|_| with);
        if let Some(tls) = &tls {
            self.place.write_certificates(tls, "")?;
        }
        let mut command = self.place.server();
        command.arg(self.folder.file());
        command.args(conf::arguments(with, at, &self.place.socket(), &self.place.configuration()));
        let child = self.reaper.spawn(command, None)?;
        pass_on(child.output, |_| {});
        self.process = Some(Process {
            pid: child.pid,
            exit: child.exit,
            begun: boottime_ms(),
            stopping: None,
            tls: wanted,
            connection: None,
            events: None,
            version: None,
            epoch: Arc::default(),
            in_force: None,
            answered: false,
        });
        self.problems.act = None;
        let now = boottime_ms();
        (self.clocks.poll_at, self.clocks.silent_at) = (now + HURRIED_MS, now);
        tracing::info!(pid = child.pid.as_raw(), "the Sentinel is started");
        Ok(())
    }

    async fn settle(&mut self, changes: &[Change]) -> Result<(), Failure> {
        let (Some(watch), Some(credentials)) = (self.durable.watch.clone(), self.known.last().cloned()) else {
            return Ok(());
        };
        let wanted = self.wanted();
        let Some(process) = &mut self.process else { return Ok(()) };
        if changes.contains(&Change::Passwords) {
            // If a change fails before them, they are still due.
            process.in_force = None;
        }
        let Some(connection) = &mut process.connection else { return Ok(()) };
        for change in changes {
            ask::change(connection, change, &watch, &credentials).await?;
            tracing::info!(?change, "the Sentinel is set");
        }
        if changes.contains(&Change::Passwords) {
            process.in_force = wanted;
            // The older ones are in use nowhere any more.
            self.remember(vec![credentials])?;
        }
        (self.problems.act, self.clocks.pause, self.clocks.poll_at) = (None, 0, 0);
        Ok(())
    }

    fn save(&mut self, durable: Durable) -> Result<(), Failure> {
        durable::save(&self.place.own(), &durable)?;
        self.durable = durable;
        Ok(())
    }

    /// Keeps these credentials; the newest last.
    fn remember(&mut self, mut known: Vec<Credentials>) -> Result<(), Failure> {
        // The first one is certainly in force.
        while known.len() > KNOWN {
            known.remove(1);
        }
        durable::write(&self.place.own().join(CREDENTIALS), &serde_json::to_vec(&known)?)?;
        self.known = known;
        Ok(())
    }

    // ---- Hear

    /// A command of the operator.
    pub fn hear(&mut self, command: Command) {
        let heard = match command {
            Command::Watch(watch) => self.obey(&watch),
            Command::Credentials(credentials) if self.known.last() != Some(&credentials) => {
                let mut known = self.known.clone();
                known.push(credentials);
                self.clocks.due_at = 0;
                self.remember(known)
            }
            Command::Act { id, act } => {
                let told = self.acts.iter().map(|(id, _)| id).chain(self.answers.iter().map(|answer| &answer.id));
                if !told.into_iter().any(|known| *known == id) && self.acts.len() < ACTS {
                    self.fresh &= !self.acts.is_empty();
                    self.acts.push_back((id, act));
                }
                Ok(())
            }
            Command::Restart { run } => {
                self.restart_asked |= run == self.run();
                Ok(())
            }
            Command::Credentials(_) | Command::Order(_) | Command::Here => Ok(()),
            // Of data members alone.
            Command::Archives(_) | Command::Backup(_) | Command::Restore(_) => Ok(()),
        };
        if let Err(error) = heard {
            self.failed(&error);
        }
    }

    fn obey(&mut self, watch: &Watch) -> Result<(), Failure> {
        let accepted = next::accept(&self.durable, watch);
        self.ordered = true;
        if accepted != self.durable {
            self.save(accepted)?;
            // A changed order must not wait for the pause after a failure.
            self.clocks.due_at = 0;
        }
        Ok(())
    }

    /// Something happened to the Sentinel of this run, as its own events tell.
    pub fn note(&mut self, run: &str) {
        if run == self.run() {
            self.clocks.poll_at = self.clocks.poll_at.min(self.clocks.polled + HURRIED_MS);
        }
    }

    /// The Sentinel has ended.
    pub fn ended(&mut self, status: WaitStatus) {
        let Some(process) = self.process.take() else { return };
        let (now, words) = (boottime_ms(), describe(status));
        tracing::info!(status = %words, "the Sentinel has ended");
        (self.view, self.silent, self.fresh) = (None, 0, false);
        self.runs += 1;
        if process.stopping.is_none() {
            self.problems.ended = Some(format!("the Sentinel has ended by itself: {words}"));
        }
        if now.saturating_sub(process.begun) >= SETTLED_MS {
            self.clocks.pause = 0;
        }
        self.back_off();
    }

    /// SIGTERM.
    pub fn terminate(&mut self) {
        tracing::info!("SIGTERM: going down");
        self.terminating = true;
    }
}
