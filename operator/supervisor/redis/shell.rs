//! The memory of a data member's supervisor between two turns of its loop, and what it observes and reports; no decisions.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::fcntl::Flock;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use redis::aio::MultiplexedConnection;
use redis::{RedisResult, cmd};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::api::chain::chain;
use crate::api::sync::lock;
use crate::supervisor::beside::Beside;
use crate::supervisor::clock::{boottime_ms, new_id};
use crate::supervisor::durable;
use crate::supervisor::process::{Reaper, describe};
use crate::supervisor::redis::alone;
use crate::supervisor::redis::client::{self, Login, within};
use crate::supervisor::redis::conf;
use crate::supervisor::redis::info::{self, Info};
use crate::supervisor::redis::kept::{self, Kept};
use crate::supervisor::redis::next;
use crate::supervisor::redis::place::Place;
use crate::supervisor::redis::restore;
use crate::supervisor::redis::state::{Act, Durable, Named, Pause, Said, Seen};
use crate::supervisor::redis::wire::{
    ADMIN, Address, Archives, BackupState, Command, Credentials, Order, Position, Report, Role, Server, Task,
};

/// Intervals of polls in milliseconds: at rest; while the data moves; after a change, and for how long.
const STEADY_MS: u64 = 500;
const MOVING_MS: u64 = 100;
const HURRIED_MS: u64 = 20;
pub const HURRY_MS: u64 = 3_000;
/// Intervals of reports in milliseconds: at rest, and while the data moves.
pub const REPORT_MS: u64 = 1_000;
pub const MOVING_REPORT_MS: u64 = 200;
/// Interval of attempts to write as an application, and the time-out of one, in milliseconds.
const PROOF_MS: u64 = 500;
const PROOF: Duration = Duration::from_millis(900);
/// Time-outs of a poll and of any other exchange with the server.
const POLL: Duration = Duration::from_millis(300);
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Interval of questions to the Sentinels, in milliseconds.
const ASK_MS: u64 = 1_000;
/// Interval in which a pause of writes is prolonged, in milliseconds.
const RENEW_MS: u64 = 5_000;
/// Time after which a stop becomes SIGKILL, in milliseconds. Docker's grace is longer; Redis waits 10 s for its replicas.
const STOP_MS: u64 = 25_000;
/// Pause after a failure, doubled each time, in milliseconds.
const PAUSE_MS: u64 = 50;
const LONGEST_PAUSE_MS: u64 = 5_000;
/// Lines of the log that are kept, to tell why a start failed.
const LINES: usize = 8;
/// Most texts of a list in a report, and their length.
pub const TEXTS: usize = 64;
pub const LONGEST: usize = 300;
/// What a server says of a directive that it reads at its start only.
pub const AT_START: &str = "immutable config";
/// The file of the passwords and certificates.
const CREDENTIALS: &str = "credentials.json";

/// A message from a background task.
#[derive(Debug)]
pub enum Note {
    /// The server of this run has logged something, so that something may have changed.
    Log(String),
    /// An attempt to write as an application ended, in this run.
    Proof(String, Result<(), String>),
    /// The Sentinels were asked.
    Said(Vec<Said>),
}

/// A running server.
pub struct Process {
    /// Its id.
    pub pid: Pid,
    /// Resolves when it has ended.
    pub exit: oneshot::Receiver<WaitStatus>,
    /// When it was told to stop.
    pub stopping: Option<u64>,
    /// The master that it was started with.
    pub began_with: Option<Address>,
    pub connection: Option<MultiplexedConnection>,
    pub info: Option<Info>,
    /// When it last answered; at first, when it was started.
    pub answered_at: u64,
    /// It has read its data and answered.
    pub ready: bool,
    /// A replica: it has had a complete copy of its master's data.
    pub synced: bool,
    pub promoted: Option<u64>,
    pub promoted_offset: u64,
    pub promoted_replid: Option<String>,
    /// Of a master: where its data ends at the latest. What comes after that in the stream are its pings.
    pub data_end: u64,
    /// The task that was carried out: the epoch of its order, and the master.
    pub settled: (u64, Option<Address>),
    pub paused: Option<Pause>,
    pub renewed_at: u64,
    /// Directives in force; and those that were refused, with the value and the server's words.
    pub applied: BTreeMap<String, String>,
    pub refused: BTreeMap<String, (String, String)>,
    /// Passwords and the application's user in force.
    pub login: (Credentials, String),
    pub lines: Arc<Mutex<VecDeque<String>>>,
    pub confirmed: Option<u64>,
    pub proof: Proof,
    /// The time of the last snapshot when the append-only file was switched off.
    pub switched: Option<u64>,
}

/// Attempts to write as an application.
#[derive(Default)]
pub struct Proof {
    pub task: Option<AbortOnDropHandle<()>>,
    pub begun: u64,
    pub result: Option<Result<(), String>>,
}

/// Due times, by [`boottime_ms`].
#[derive(Debug, Default)]
pub struct Clocks {
    pub poll_at: u64,
    pub polled: u64,
    pub hurry_until: u64,
    pub moved: bool,
    pub due_at: u64,
    pub failures: u32,
    pub reported: u64,
    pub kept: u64,
    pub asked: u64,
}

/// The current problems, as texts.
#[derive(Debug, Default)]
pub struct Problems {
    pub refused: Option<String>,
    pub act: Option<String>,
    pub ended: Option<String>,
    /// The server does not start with the directives of the order.
    pub start: Option<String>,
    /// Another program of the host listens on the server's port.
    pub port_taken: bool,
}

/// The supervisor of one data member.
pub struct Shell {
    pub place: Place,
    pub _lock: Flock<File>,
    pub reaper: Reaper,
    pub notes: mpsc::Sender<Note>,
    pub reports: watch::Sender<Arc<str>>,
    pub boot: String,
    pub runs: u64,
    pub durable: Durable,
    pub credentials: Option<Credentials>,
    pub kept: Kept,
    pub kept_saved: Kept,
    /// The server.
    pub process: Option<Process>,
    /// A death was not reported yet.
    pub untold: bool,
    /// Milliseconds from the last word of the server that has ended until then.
    pub ended_ms: Option<u64>,
    pub has_data: bool,
    pub heard_at: u64,
    pub doubt: bool,
    pub lifted: Option<String>,
    pub restart_asked: bool,
    pub terminating: bool,
    /// The member's name.
    pub member: String,
    /// What opens the stores, once it was received.
    pub archives: Option<Archives>,
    /// The snapshot that is stored, or was last.
    pub backup: Option<Beside>,
    /// The role in which that began.
    pub backup_of: Option<Role>,
    /// The restore that runs, or ran last; and that which the data comes from, as of an earlier boot.
    pub restore: Option<Beside>,
    pub restored: Option<BackupState>,
    /// The next start is with the directives that were good.
    pub fallback: bool,
    pub named: Option<Named>,
    pub hopeless_since: Option<u64>,
    pub asking: Option<AbortOnDropHandle<()>>,
    pub problems: Problems,
    pub clocks: Clocks,
    pub reported: Report,
}

/// The task of an order, as [`Process::settled`] knows it.
pub fn key(order: Option<&Order>) -> (u64, Option<Address>) {
    match order.map(|order| (order.epoch, &order.task)) {
        Some((epoch, Task::Follow { address, .. })) => (epoch, Some(*address)),
        Some((epoch, _)) => (epoch, None),
        None => (0, None),
    }
}

impl Shell {
    /// At the start of the supervisor.
    pub fn new(
        (place, lock): (Place, Flock<File>),
        reaper: Reaper,
        member: String,
        durable: Durable,
        (reports, notes): (watch::Sender<Arc<str>>, mpsc::Sender<Note>),
    ) -> Self {
        let kept = Kept::load(&place.own());
        let credentials = durable::read(&place.own().join(CREDENTIALS));
        let archives = durable::read(&place.own().join(Archives::FILE));
        let files = kept::on_disk(&place);
        // It counts while there is what it made.
        let restored = durable::read(&place.own().join(restore::FILE)).filter(|_| files.log || files.snapshot);
        let mut shell = Self {
            place,
            _lock: lock,
            reaper,
            notes,
            reports,
            boot: new_id(),
            runs: 0,
            durable,
            credentials,
            kept_saved: kept.clone(),
            kept,
            process: None,
            untold: false,
            ended_ms: None,
            has_data: false,
            heard_at: boottime_ms(),
            doubt: false,
            lifted: None,
            restart_asked: false,
            terminating: false,
            member,
            archives,
            backup: None,
            backup_of: None,
            restore: None,
            restored,
            fallback: false,
            named: None,
            hopeless_since: None,
            asking: None,
            problems: Problems::default(),
            clocks: Clocks::default(),
            reported: Report::default(),
        };
        shell.look();
        shell
    }

    /// Identifies the server that runs, or that will be started next.
    pub fn run(&self) -> String {
        format!("{}-{}", self.boot, self.runs)
    }

    /// One turn: observe, report, decide, perform. Returns the pause until the next one in milliseconds; `None`: the end.
    pub async fn turn(&mut self) -> Option<u64> {
        if std::mem::take(&mut self.untold) {
            // A death is reported before anything else is looked at: the pause lets the report out.
            let seen = self.seen();
            self.publish(&seen);
            tokio::task::yield_now().await;
            self.keep(true);
            self.look();
        }
        self.observe().await;
        self.watch_work();
        self.prove();
        let seen = self.seen();
        self.ask(&seen);
        self.publish(&seen);
        let act = next::next(&seen);
        let wait = act == Act::Wait;
        match self.perform(act).await {
            Ok(true) => return None,
            Ok(false) if wait => {}
            Ok(false) => (self.clocks.failures, self.problems.act) = (0, None),
            Err(words) => {
                tracing::warn!(problem = %words, "an act failed");
                self.problems.act = Some(words);
                self.back_off();
            }
        }
        Some(if wait { self.pause() } else { 1 })
    }

    /// The next attempt waits for a while.
    pub fn back_off(&mut self) {
        self.clocks.failures = self.clocks.failures.saturating_add(1);
        let pause = (PAUSE_MS << self.clocks.failures.min(10)).min(LONGEST_PAUSE_MS);
        self.clocks.due_at = boottime_ms() + pause;
    }

    fn pause(&self) -> u64 {
        let now = boottime_ms();
        let mut due = vec![self.clocks.reported + REPORT_MS];
        if let Some(process) = &self.process {
            due.push(self.clocks.poll_at);
            due.extend(process.stopping.map(|since| since + STOP_MS));
        } else if !self.terminating {
            due.push(now + STEADY_MS);
        }
        due.extend(Some(self.clocks.due_at).filter(|at| *at > now));
        due.into_iter().min().unwrap_or(now).saturating_sub(now).clamp(1, STEADY_MS)
    }

    /// The container stood still.
    pub fn stood_still(&mut self) {
        if self.role() == Some(Role::Master) {
            tracing::warn!(
                "the container stood still while its server was a master: writes are paused until it is confirmed"
            );
            (self.doubt, self.named, self.clocks.asked) = (true, None, 0);
        }
    }

    // ---- Observe

    /// Looks at the files of a server that is down.
    pub fn look(&mut self) {
        let order = self.durable.order.as_ref();
        let files = kept::on_disk(&self.place);
        let nothing = order.is_some_and(|order| conf::keeps_nothing(&order.config.directives));
        let some = (files.log || files.snapshot) && self.kept.keys != Some(0);
        self.has_data = !nothing && (files.appended || some);
    }

    async fn observe(&mut self) {
        let now = boottime_ms();
        let Some(process) = &mut self.process else { return };
        if let Some(since) = process.stopping {
            if now.saturating_sub(since) >= STOP_MS {
                // It may have ended meanwhile.
                let _ = kill(process.pid, Signal::SIGKILL);
            }
            return;
        }
        if now < self.clocks.poll_at {
            return;
        }
        let renew = process.paused.is_some() && now.saturating_sub(process.renewed_at) >= RENEW_MS;
        let polled = match self.poll(renew).await {
            Ok(info) => self.heard_from_server(info),
            Err(error) => {
                tracing::trace!(problem = %client::words(&error), "the server does not answer");
                if let Some(process) = self.process.as_mut().filter(|_| !error.is_timeout() && error.code().is_none()) {
                    process.connection = None;
                }
                false
            }
        };
        let now = boottime_ms();
        self.clocks.polled = now;
        let ready = self.process.as_ref().is_some_and(|process| process.ready);
        let pause = match () {
            () if now < self.clocks.hurry_until || !polled || !ready => HURRIED_MS,
            () if self.clocks.moved => MOVING_MS,
            () => STEADY_MS,
        };
        self.clocks.poll_at = now + pause;
        self.keep(false);
    }

    async fn poll(&mut self, renew: bool) -> RedisResult<Info> {
        let socket = self.place.socket();
        let Some(process) = &mut self.process else { return Ok(Info::default()) };
        let connection = match &mut process.connection {
            Some(connection) => connection,
            none => {
                let login = Login { user: ADMIN, password: &process.login.0.admin_password };
                none.insert(within(POLL, client::local(&socket, login)).await?)
            }
        };
        if renew {
            within(POLL, pause_writes().query_async::<()>(connection)).await?;
            process.renewed_at = boottime_ms();
        }
        let text: String = within(POLL, cmd("INFO").query_async(connection)).await?;
        Ok(info::read(&text))
    }

    /// Takes over what the server says of itself. Whether it is ready.
    pub fn heard_from_server(&mut self, new: Info) -> bool {
        let now = boottime_ms();
        let order = self.durable.order.clone();
        let epoch = order.as_ref().map_or(0, |order| order.epoch);
        let Some(process) = &mut self.process else { return false };
        process.answered_at = now;
        if new.loading {
            process.info = Some(new);
            return false;
        }
        let before = process.info.replace(new);
        let Some(info) = &process.info else { return false };
        let state = |info: &Info| (info.changes, info.saved, info.replid.clone());
        let still = before.as_ref().map(state) == Some(state(info));
        let end = if still { process.data_end } else { info.offset };
        process.data_end = if info.role == Some(Role::Replica) { info.offset } else { end };
        let begun = !std::mem::replace(&mut process.ready, true);
        let was = before.as_ref().filter(|_| !begun).map_or_else(
            || Some(if process.began_with.is_some() { Role::Replica } else { Role::Master }),
            |before| before.role,
        );
        if info.role == Some(Role::Replica) {
            (process.promoted, process.promoted_offset, process.promoted_replid) = (None, 0, None);
            let up = info.link.as_ref().is_some_and(|link| link.up);
            process.synced |= up;
            // Pause and doubt are those of a master.
            process.paused = None;
            self.doubt = false;
            if was == Some(Role::Master) && !begun {
                process.synced = up;
                // Until it has a copy of its new master's data, it says where its own ended.
                if before.as_ref().is_some_and(|before| before.replid == info.replid) {
                    self.kept.demoted = Some(Position { epoch, offset: end, replid: info.replid.clone() });
                }
            }
            if info.link.as_ref().is_some_and(|link| Some(link.master) == key(order.as_ref()).1) {
                process.settled = key(order.as_ref());
            }
        } else if was == Some(Role::Replica) && info.role == Some(Role::Master) {
            process.promoted = Some(epoch);
            process.promoted_offset = info.second_offset.saturating_sub(1);
            process.promoted_replid = Some(info.second_replid.clone());
            tracing::info!(epoch, offset = process.promoted_offset, "a Sentinel has made this server a master");
        }
        self.clocks.moved = before.as_ref().is_some_and(|before| before.offset != info.offset);
        let link = |info: &Info| info.link.as_ref().map(|link| (link.up, link.master));
        if before.as_ref().is_some_and(|before| (before.role, link(before)) != (info.role, link(info))) {
            self.clocks.hurry_until = now + HURRY_MS;
        }
        if kept::belongs(order.as_ref(), process.promoted, info) {
            let position = Position { epoch, offset: info.offset, replid: info.replid.clone() };
            (self.kept.position, self.kept.keys) = (Some(position), Some(info.keys));
        }
        if begun {
            self.began();
        }
        self.appended();
        true
    }

    /// The server has read its data: with these directives it starts.
    fn began(&mut self) {
        let order = self.durable.order.as_ref();
        let Some(directives) = order.map(|order| order.config.directives.clone()) else { return };
        (self.problems.ended, self.clocks.failures) = (None, 0);
        if !self.fallback {
            self.problems.start = None;
            if self.durable.good.as_ref() != Some(&directives) {
                let good = Some(directives);
                self.remember(Durable { good, ..self.durable.clone() });
            }
        }
    }

    /// Notes where the newest data is.
    fn appended(&mut self) {
        let Some((process, info)) = self.process.as_ref().and_then(|one| Some((one, one.info.as_ref()?))) else {
            return;
        };
        let snapshot = info.appends_not && process.switched.is_none_or(|saved| info.saved > saved);
        let appends = match (info.appends, snapshot) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => self.durable.appends,
        };
        if appends != self.durable.appends {
            self.remember(Durable { appends, ..self.durable.clone() });
        }
    }

    fn remember(&mut self, durable: Durable) {
        if let Err(error) = self.save(durable) {
            self.problems.act = Some(error);
        }
    }

    /// Saves; after it returns, a power failure cannot undo it.
    pub fn save(&mut self, durable: Durable) -> Result<(), String> {
        durable::save(&self.place.own(), &durable).map_err(|error| chain(&error))?;
        self.durable = durable;
        Ok(())
    }

    /// Saves the position, at most once a second.
    pub fn keep(&mut self, at_once: bool) {
        let now = boottime_ms();
        if self.kept == self.kept_saved || !at_once && now.saturating_sub(self.clocks.kept) < REPORT_MS {
            return;
        }
        self.clocks.kept = now;
        match self.kept.save(&self.place.own()) {
            Ok(()) => self.kept_saved = self.kept.clone(),
            Err(error) => tracing::warn!(%error, "the position is not saved"),
        }
    }

    /// Tries to write as an application: by a new connection to the port that is announced.
    fn prove(&mut self) {
        let now = boottime_ms();
        let server = self.server();
        let (notes, run) = (self.notes.clone(), self.run());
        let Some(order) = &self.durable.order else { return };
        let Some(process) = &mut self.process else { return };
        let master = process.info.as_ref().is_some_and(|info| info.role == Some(Role::Master));
        if !master || server != Server::Running {
            process.proof = Proof::default();
            return;
        }
        let failed = matches!(process.proof.result, Some(Err(_))) && now < self.clocks.hurry_until;
        let pause = if failed { HURRIED_MS } else { PROOF_MS };
        // A write would wait for the end of the pause.
        let busy = process.proof.task.is_some() || process.paused.is_some();
        let (Some(address), false) = (order.config.announce, busy) else { return };
        if now.saturating_sub(process.proof.begun) < pause {
            return;
        }
        let (credentials, username) = process.login.clone();
        let tls = credentials.tls.clone().filter(|_| order.config.tls);
        let attempt = async move {
            let login = Login { user: &username, password: &credentials.app_password };
            let mut connection = client::remote(address, tls.as_ref(), login).await?;
            // It is refused whenever a write of an application is: without enough replicas, without memory, if snapshots
            // fail, on a replica. But it writes nothing, because there is no such key.
            let mut write = cmd("SET");
            write.arg("__evenkeel__:probe").arg("").arg("XX").arg("PX").arg(1);
            write.query_async::<Option<()>>(&mut connection).await
        };
        process.proof.begun = now;
        process.proof.task = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let result = within(PROOF, attempt).await.map(|_| ()).map_err(|error| client::words(&error));
            // The loop exists as long as the process.
            let _ = notes.send(Note::Proof(run, result)).await;
        })));
    }

    /// Asks the Sentinels, if that is due.
    fn ask(&mut self, seen: &Seen) {
        let now = boottime_ms();
        if !next::asks(seen) {
            (self.asking, self.named, self.hopeless_since, self.clocks.asked) = (None, None, None, 0);
            return;
        }
        let (Some(order), Some(credentials)) = (&self.durable.order, &self.credentials) else { return };
        if self.asking.is_some() || now.saturating_sub(self.clocks.asked) < ASK_MS {
            return;
        }
        self.clocks.asked = now;
        let asked = alone::ask(order.sentinels.clone(), credentials.clone(), order.config.tls);
        let notes = self.notes.clone();
        self.asking = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            // The loop exists as long as the process.
            let _ = notes.send(Note::Said(asked.await)).await;
        })));
    }

    fn said(&mut self, said: &[Said]) {
        self.asking = None;
        let Some(order) = &self.durable.order else { return };
        let now = boottime_ms();
        let sentinels = &order.sentinels;
        let mut named = next::majority(sentinels.addresses.len(), said);
        if named.is_some_and(|named| named.hopeless) {
            let since = *self.hopeless_since.get_or_insert(now);
            let long = 3 * sentinels.down_after_ms.saturating_add(sentinels.failover_timeout_ms);
            named = named.map(|named| Named { hopeless: now.saturating_sub(since) >= long, ..named });
        } else {
            self.hopeless_since = None;
        }
        if named != self.named {
            tracing::info!(?named, answers = said.len(), "the Sentinels were asked");
        }
        if let (Some(named), Some(process)) = (named, &mut self.process)
            && Some(named.master) == order.config.announce
        {
            process.confirmed = process.confirmed.max(Some(named.config_epoch));
        }
        self.named = named;
    }

    // ---- Hear

    /// A command of the operator.
    pub fn hear(&mut self, command: Command) {
        self.heard_at = boottime_ms();
        match command {
            Command::Order(order) => self.obey(&order),
            Command::Credentials(credentials) if self.credentials.as_ref() != Some(&credentials) => {
                let saved = serde_json::to_vec(&credentials).map_err(std::io::Error::from);
                let path = self.place.own().join(CREDENTIALS);
                match saved.and_then(|bytes| durable::write(&path, &bytes)) {
                    Ok(()) => (self.credentials, self.clocks.due_at) = (Some(credentials), 0),
                    Err(error) => self.problems.act = Some(format!("saving the passwords: {error}")),
                }
            }
            Command::Archives(archives) => self.take_archives(*archives),
            Command::Backup(order) => self.order_backup(order),
            Command::Restore(order) => self.order_restore(order),
            Command::Restart { run } => self.restart_asked |= run == self.run() && self.process.is_some(),
            Command::Credentials(_) | Command::Watch(_) | Command::Act { .. } | Command::Here => {}
        }
    }

    /// On disk before anything follows from it.
    fn obey(&mut self, order: &Order) {
        let accepted = match next::accept(&self.durable, order) {
            Ok(accepted) => accepted,
            Err(refused) => {
                tracing::warn!(%refused, "an order is refused");
                self.problems.refused = Some(refused.to_string());
                return;
            }
        };
        (self.problems.refused, self.doubt) = (None, false);
        if accepted == self.durable {
            return;
        }
        let directives = |durable: &Durable| durable.order.as_ref().map(|order| order.config.directives.clone());
        let same = directives(&accepted) == directives(&self.durable);
        let before = key(self.durable.order.as_ref());
        if let Err(error) = self.save(accepted) {
            self.problems.act = Some(format!("saving the order: {error}"));
            return;
        }
        tracing::info!(%order, revision = order.revision, run = %order.run, "order");
        if key(self.durable.order.as_ref()) != before {
            self.cut_off("this member has got another role");
        }
        if !same {
            self.fallback = false;
        }
        if self.process.is_none() {
            self.look();
        }
        // A changed order must not wait for the pause after a failure.
        let now = boottime_ms();
        (self.clocks.due_at, self.clocks.failures) = (0, 0);
        (self.clocks.hurry_until, self.clocks.poll_at) = (now + HURRY_MS, now);
    }

    /// A message from a background task.
    pub fn note(&mut self, note: Note) {
        match note {
            Note::Log(run) if run == self.run() => {
                self.clocks.poll_at = self.clocks.poll_at.min(self.clocks.polled + HURRIED_MS);
            }
            Note::Proof(run, result) if run == self.run() => {
                let Some(process) = &mut self.process else { return };
                let before = process.proof.result.as_ref();
                if let Err(words) = &result
                    && before.is_none_or(Result::is_ok)
                {
                    tracing::info!(problem = %words, "a new client cannot write");
                }
                (process.proof.task, process.proof.result) = (None, Some(result));
            }
            Note::Said(said) => self.said(&said),
            Note::Log(_) | Note::Proof(..) => {}
        }
    }

    /// Somebody has confirmed that the server is the master.
    pub fn confirmed(&mut self) {
        self.doubt = false;
    }

    /// Writes were resumed without the operator.
    pub fn lift(&mut self) {
        let asked = self.durable.order.as_ref().map(|order| &order.task);
        if let Some(Task::Lead { pause: Some(id) }) = asked {
            self.lifted = Some(id.clone());
        }
    }

    /// The server has ended.
    pub fn ended(&mut self, status: WaitStatus) {
        let Some(process) = self.process.take() else { return };
        let words = describe(status);
        let lines: Vec<String> = lock(&process.lines).iter().cloned().collect();
        tracing::info!(status = %words, ready = process.ready, "the server has ended");
        self.cut_off("the server of this member has ended");
        (self.untold, self.named, self.hopeless_since, self.doubt) = (true, None, None, false);
        (self.restart_asked, self.clocks.moved) = (false, false);
        self.ended_ms = process.ready.then(|| boottime_ms().saturating_sub(process.answered_at).max(1));
        if process.ready {
            self.has_data = self.has_data || self.kept.keys.is_some_and(|keys| keys > 0);
        }
        if process.stopping.is_none() && !process.ready {
            let why = format!("the server does not start ({words}): {}", lines.join(" / "));
            let why: String = why.chars().take(LONGEST * 2).collect();
            let tried = self.durable.order.as_ref().map(|order| &order.config.directives);
            self.problems.start = Some(why.clone());
            // It has read nothing and served nobody: the run goes on with the directives that were good.
            if !self.fallback && self.durable.good.is_some() && self.durable.good.as_ref() != tried {
                self.fallback = true;
                return;
            }
            self.problems.ended = Some(why);
            self.back_off();
        } else if process.stopping.is_none() {
            self.problems.ended = Some(format!("the server has ended by itself: {words}"));
        }
        self.fallback = false;
        self.runs += 1;
    }

    /// SIGTERM.
    pub fn terminate(&mut self) {
        tracing::info!("SIGTERM: going down");
        self.cut_off("this member is being stopped");
        self.terminating = true;
    }
}

/// `CLIENT PAUSE` for much longer than the interval in which it is prolonged.
pub fn pause_writes() -> redis::Cmd {
    cmd("CLIENT").arg("PAUSE").arg(6 * RENEW_MS).arg("WRITE").to_owned()
}

/// A line of the server's log is kept, and may mean that something has changed.
pub fn listen(lines: Arc<Mutex<VecDeque<String>>>, notes: mpsc::Sender<Note>, run: String) -> impl FnMut(&str) + Send {
    move |line| {
        let mut kept = lock(&lines);
        if kept.len() == LINES {
            kept.pop_front();
        }
        kept.push_back(line.chars().filter(|c| !c.is_control()).take(LONGEST).collect());
        // If the queue is full, it has a note already.
        let _ = notes.try_send(Note::Log(run.clone()));
    }
}
