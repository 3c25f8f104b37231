//! The memory of the supervisor between two turns of its loop, and what it performs; no decisions.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::sync::{Arc, Mutex};

use nix::fcntl::Flock;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use redis::aio::MultiplexedConnection;
use redis::cmd;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::api::chain::chain;
use crate::api::redis_settings;
use crate::api::sync::lock;
use crate::supervisor::clock::{boottime_ms, new_id};
use crate::supervisor::durable;
use crate::supervisor::listen;
use crate::supervisor::process::{Reaper, describe};
use crate::supervisor::redis::client;
use crate::supervisor::redis::cluster::next::{self, Seen, Step};
use crate::supervisor::redis::cluster::wire::{Act, Command, Node, Order, Report, significant};
use crate::supervisor::redis::cluster::{acts, ask, nodes};
use crate::supervisor::redis::conf;
use crate::supervisor::redis::info::Info;
use crate::supervisor::redis::kept::{self, Kept, OnDisk};
use crate::supervisor::redis::log::pass_on;
use crate::supervisor::redis::place::Place;
use crate::supervisor::redis::wire::{Answer, Config, Credentials, HUNG_MS, PORT, Server};

/// Interval of polls, and while something changes, in milliseconds.
const REST_MS: u64 = 500;
const HURRIED_MS: u64 = 25;
/// Length of the time in which something changes, in milliseconds.
const HURRY_MS: u64 = 3_000;
/// Interval of reports when nothing happens, in milliseconds.
const REPORT_MS: u64 = 1_000;
/// The pause after a failed start, doubled each time, in milliseconds.
const PAUSE_MS: u64 = 50;
const LONGEST_PAUSE_MS: u64 = 5_000;
/// Time after which a stop becomes SIGKILL, in milliseconds. Redis itself waits 10 s for its replicas.
const STOP_MS: u64 = 25_000;
/// Length of a pause of writes; it is renewed while it is wanted.
const HOLD_MS: u64 = 1_000;
/// Most acts that wait, and most that are remembered.
const ACTS: usize = 16;
const REMEMBERED: usize = 64;
/// Credentials that the server may have: the last ones in force, and those that came since.
const KNOWN: usize = 4;
/// Longest pause between two turns, in milliseconds.
const LONGEST_TURN_MS: u64 = 1_000;
/// The file of the credentials in the supervisor's folder.
pub const CREDENTIALS: &str = "credentials.json";

/// What survives.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Durable {
    order: Option<Order>,
    /// The directives that a server last started with.
    good: Option<BTreeMap<String, String>>,
}

/// A running server.
pub struct Process {
    /// Its id.
    pub pid: Pid,
    /// Resolves when it has ended.
    pub exit: oneshot::Receiver<WaitStatus>,
    /// When it was told to stop.
    stopping: Option<u64>,
    connection: Option<MultiplexedConnection>,
    info: Option<Info>,
    node: Option<Node>,
    answered_at: u64,
    synced: bool,
    /// It was seen without slots of its own in this run: those that it has now were given to it since.
    yielded: bool,
    /// Its configuration, and the hash of its credentials.
    applied: (Config, String),
    errors: BTreeMap<String, String>,
    pending: Vec<String>,
    last_line: Arc<Mutex<String>>,
}

/// The supervisor of one member.
pub struct Shell {
    place: Place,
    _lock: Flock<File>,
    reaper: Reaper,
    notes: mpsc::Sender<Answer>,
    reports: watch::Sender<Arc<str>>,
    boot: String,
    runs: u64,
    durable: Durable,
    /// The newest last. The server has the passwords of one of them.
    known: Vec<Credentials>,
    /// The server.
    pub process: Option<Process>,
    /// What the file of a server that is down says.
    file: Option<Node>,
    kept: Kept,
    on_disk: OnDisk,
    /// Directives that a server did not start with, and its words.
    refused: Option<(BTreeMap<String, String>, String)>,
    acts: VecDeque<(String, Act)>,
    acting: Option<(String, Act, AbortOnDropHandle<()>)>,
    ids: VecDeque<String>,
    answer: Option<Answer>,
    restart: bool,
    terminating: bool,
    /// Another program of the host listens on one of its ports.
    port_taken: bool,
    problem: Option<String>,
    poll_at: u64,
    hurry_until: u64,
    due_at: u64,
    pause: u64,
    reported: (Report, u64),
}

impl Shell {
    /// At the start of the supervisor.
    pub fn new(
        (place, lock): (Place, Flock<File>),
        reaper: Reaper,
        (durable, known): (Durable, Vec<Credentials>),
        (reports, notes): (watch::Sender<Arc<str>>, mpsc::Sender<Answer>),
    ) -> Self {
        Self {
            file: read_file(&place),
            kept: Kept::load(&place.own()),
            on_disk: kept::on_disk(&place),
            place,
            _lock: lock,
            reaper,
            notes,
            reports,
            boot: new_id(),
            runs: 0,
            durable,
            known,
            process: None,
            refused: None,
            acts: VecDeque::new(),
            acting: None,
            ids: VecDeque::new(),
            answer: None,
            restart: false,
            terminating: false,
            port_taken: false,
            problem: None,
            poll_at: 0,
            hurry_until: 0,
            due_at: 0,
            pause: 0,
            reported: Default::default(),
        }
    }

    /// One turn: observe, report, decide, perform. Returns the pause until the next one in milliseconds; `None`: the end.
    pub async fn turn(&mut self) -> Option<u64> {
        self.observe().await;
        self.begin_act();
        let now = boottime_ms();
        self.publish(now);
        let step = next::next(&self.seen(now));
        let done = match step {
            Step::Wait => Ok(()),
            Step::Exit => return None,
            Step::Start => self.start(),
            Step::Stop => {
                self.stop(now);
                Ok(())
            }
            Step::Hold => self.hold().await,
            Step::Configure => self.configure().await,
        };
        if let Err(problem) = done {
            tracing::warn!(problem, "a step failed");
            self.problem = Some(problem);
            self.back_off();
        }
        let now = boottime_ms();
        let due = [self.due_at, self.poll_at, self.reported.1 + REPORT_MS].into_iter().filter(|at| *at > now).min();
        let pause = due.map_or(LONGEST_TURN_MS, |at| at - now).clamp(1, LONGEST_TURN_MS);
        Some(if matches!(step, Step::Wait | Step::Hold) { pause } else { 1 })
    }

    fn back_off(&mut self) {
        self.pause = (self.pause * 2).clamp(PAUSE_MS, LONGEST_PAUSE_MS);
        self.due_at = boottime_ms() + self.pause;
    }

    fn hurry(&mut self) {
        let now = boottime_ms();
        (self.hurry_until, self.poll_at) = (now + HURRY_MS, now);
    }

    fn run(&self) -> String {
        format!("{}-{}", self.boot, self.runs)
    }

    fn server(&self, now: u64) -> Server {
        match &self.process {
            None => Server::Stopped,
            Some(Process { stopping: Some(_), .. }) => Server::Stopping,
            Some(Process { info: None, .. }) => Server::Starting,
            Some(process) if now.saturating_sub(process.answered_at) >= HUNG_MS => Server::Hung,
            Some(Process { info: Some(info), .. }) if info.loading => Server::Loading,
            Some(_) => Server::Running,
        }
    }

    fn node(&self) -> Option<&Node> {
        known(self.process.as_ref().and_then(|process| process.node.as_ref()), self.file.as_ref())
    }

    fn seen(&self, now: u64) -> Seen {
        let process = self.process.as_ref();
        let applied = process.map(|process| (&process.applied.0, &process.applied.1));
        let order = self.durable.order.as_ref();
        let wanted = order.map(|order| &order.config).zip(self.known.last().map(|known| &known.hash));
        Seen {
            order: order.cloned(),
            run: self.run(),
            server: self.server(now),
            credentials: self
                .known
                .last()
                .is_some_and(|last| order.is_none_or(|o| !o.config.tls) || last.tls.is_some()),
            due: now >= self.due_at,
            leads: self.node().is_some_and(leads) && process.is_none_or(|process| !process.yielded),
            other_config: applied.is_some() && wanted.is_some() && applied != wanted,
            restart: self.restart && process.is_some(),
            terminating: self.terminating,
        }
    }

    /// The hash of the certificates that the server shows, or will show when it starts.
    fn certificates_in_force(&self) -> Option<String> {
        let last = self.known.last()?;
        let process = self.process.as_ref();
        let config =
            process.map(|process| &process.applied.0).or(self.durable.order.as_ref().map(|one| &one.config))?;
        let applied = process
            .is_none_or(|process| process.applied.1 == last.hash && !process.errors.contains_key(conf::CERTIFICATE));
        last.tls.as_ref().filter(|_| config.tls && applied).map(|tls| tls.hash.clone())
    }

    fn persistent(&self) -> bool {
        let directives = self.durable.order.as_ref().map(|order| &order.config.directives);
        let directive = |name: &str| directives.and_then(|all| all.get(name));
        directive("appendonly").is_some_and(|value| value == "yes")
            || directive("save").is_some_and(|value| !value.trim_matches(['"', ' ']).is_empty())
    }

    fn has_data(&self) -> bool {
        match self.process.as_ref().and_then(|process| process.info.as_ref()) {
            Some(info) if !info.loading => info.keys > 0,
            _ => self.persistent() && (self.on_disk.log || self.on_disk.snapshot) && self.kept.keys != Some(0),
        }
    }

    fn publish(&mut self, now: u64) {
        let process = self.process.as_ref();
        let info = process.and_then(|process| process.info.clone()).unwrap_or_default();
        let synced = process.is_some_and(|process| process.synced);
        let fed = info.replicas.iter().filter(|one| one.online && one.offset > 0).map(|one| one.address);
        let report = Report {
            fed: process.map(|_| fed.collect()),
            boot: self.boot.clone(),
            clock_ms: now,
            run: self.run(),
            server: self.server(now),
            version: process.and_then(|process| process.info.as_ref()).map(|info| info.version.clone()),
            credentials: self.known.last().map(|known| known.hash.clone()),
            tls: self.certificates_in_force(),
            order: self.durable.order.clone(),
            node: self.node().cloned(),
            has_data: self.has_data(),
            keys: if process.is_some() { info.keys } else { self.kept.keys.unwrap_or_default() },
            offset: info.offset,
            link: info.link.map(|link| crate::supervisor::redis::wire::Link { synced, ..link }),
            usage: info.usage,
            acting: self.acting.as_ref().map(|(id, ..)| id.clone()).or(self.acts.front().map(|(id, _)| id.clone())),
            answer: self.answer.clone(),
            pending_restart: process.map(|process| process.pending.clone()).unwrap_or_default(),
            config_errors: process.map(|process| process.errors.values().cloned().collect()).unwrap_or_default(),
            disk_free: self.place.disk_free(),
            problem: self.refused.as_ref().map(|(_, words)| words.clone()).or(self.problem.clone()),
            terminating: self.terminating,
            port_taken: self.port_taken,
        };
        let (last, at) = &self.reported;
        if now.saturating_sub(*at) < REPORT_MS && significant(&report) == significant(last) {
            return;
        }
        match serde_json::to_string(&report) {
            Ok(line) => drop(self.reports.send_replace(Arc::from(line + "\n"))),
            Err(error) => tracing::error!(%error, "a report cannot be written"),
        }
        self.reported = (report, now);
    }

    // ---- Observe

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
        if now < self.poll_at {
            return;
        }
        if process.connection.is_none() {
            process.connection = ask::connect(&self.place, &self.known).await.ok();
        }
        let asked = match &mut process.connection {
            Some(connection) => ask::poll(connection).await.map_err(Some),
            None => Err(None),
        };
        let now = boottime_ms();
        let hurried = now < self.hurry_until || process.info.is_none();
        self.poll_at = now + if hurried { HURRIED_MS } else { REST_MS };
        match asked {
            Ok((info, node)) => {
                process.answered_at = now;
                process.yielded |= node.as_ref().is_some_and(|node| !leads(node));
                let link = info.link.as_ref();
                process.synced = match link {
                    Some(link) => !link.syncing && (link.up || process.synced),
                    None => false,
                };
                // Whether there is data matters once the server is down, not how much.
                let some = |keys: u64| keys.min(1);
                let changed = self.kept.keys.map(some) != Some(some(info.keys)) && !info.loading;
                if !info.loading {
                    self.kept.keys = Some(info.keys);
                }
                if changed && let Err(error) = self.kept.save(&self.place.own()) {
                    tracing::warn!(%error, "it cannot be recorded whether there is data");
                }
                if self.durable.good.as_ref() != Some(&process.applied.0.directives) && !info.loading {
                    let good = Some(process.applied.0.directives.clone());
                    (self.problem, self.pause) = (None, 0);
                    (process.info, process.node) = (Some(info), node);
                    let saved = self.save(Durable { good, ..self.durable.clone() });
                    self.problem = saved.err();
                } else {
                    (process.info, process.node) = (Some(info), node);
                }
            }
            Err(error) => {
                // An error of the server itself is an answer: it is busy, or loads.
                match error.is_some_and(|error| error.code().is_some() && !error.is_io_error()) {
                    true => process.answered_at = now,
                    false => process.connection = None,
                }
            }
        }
    }

    // ---- Acts

    fn begin_act(&mut self) {
        if self.acting.is_some() {
            return;
        }
        let Some((id, act)) = self.acts.pop_front() else { return };
        let process = self.process.as_ref();
        let copy = process.is_some_and(|process| {
            process.synced || process.info.as_ref().is_some_and(|info| !info.loading && info.keys > 0)
        });
        let connection = process.and_then(|process| process.connection.clone());
        let (own, credentials) = (self.node().map(|node| node.own.id.clone()), self.known.last().cloned());
        let (Some(mut connection), Some(own), Some(credentials)) = (connection, own, credentials) else {
            return self.done(Answer { id, refused: Some("the node does not answer".into()) });
        };
        if let Some(why) = next::refusal(&act, copy) {
            return self.done(Answer { id, refused: Some(why.into()) });
        }
        let (notes, what) = (self.notes.clone(), (id.clone(), act.clone()));
        let task = tokio::spawn(async move {
            let refused = acts::perform(&mut connection, &own, &what.1, &credentials).await.err();
            // An error means that the supervisor ends.
            let _ = notes.send(Answer { id: what.0, refused }).await;
        });
        self.acting = Some((id, act, AbortOnDropHandle::new(task)));
    }

    /// An act is done, or refused.
    pub fn done(&mut self, answer: Answer) {
        let act = self.acting.take().map(|(_, act, _)| act.to_string());
        tracing::info!(act, refused = answer.refused.as_deref().unwrap_or("no"), "an act");
        self.answer = Some(answer);
        self.hurry();
    }

    // ---- Perform

    async fn hold(&mut self) -> Result<(), String> {
        let mut connection = self.connection()?;
        let held = ask::send(&mut connection, cmd("CLIENT").arg("PAUSE").arg(HOLD_MS).arg("WRITE")).await;
        self.poll_at = self.poll_at.min(boottime_ms() + HOLD_MS / 4);
        held.map(drop).map_err(|error| format!("pausing writes: {}", client::words(&error)))
    }

    fn connection(&self) -> Result<MultiplexedConnection, String> {
        let connection = self.process.as_ref().and_then(|process| process.connection.clone());
        connection.ok_or_else(|| "the server does not answer".to_owned())
    }

    fn stop(&mut self, now: u64) {
        self.restart = false;
        if let Some(process) = &mut self.process {
            // It may have ended meanwhile.
            let _ = kill(process.pid, Signal::SIGTERM);
            process.stopping = Some(now);
        }
    }

    fn start(&mut self) -> Result<(), String> {
        let (Some(order), Some(credentials)) = (self.durable.order.clone(), self.known.last().cloned()) else {
            return Ok(());
        };
        let words = |what: &str, error: std::io::Error| format!("{what}: {error}");
        let at = listen::listen_or(PORT);
        let free = listen::check(at);
        self.port_taken = matches!(free, Err(listen::Error::Taken { .. }));
        free.map_err(|error| error.to_string())?;
        if !self.persistent() {
            kept::forget(&self.place).map_err(|error| words("removing what an earlier server has left", error))?;
        }
        self.on_disk = kept::on_disk(&self.place);
        let refused = self.refused.as_ref().is_some_and(|(directives, _)| *directives == order.config.directives);
        let good = self.durable.good.clone().filter(|_| refused);
        let mut directives = good.unwrap_or_else(|| order.config.directives.clone());
        // Redis reads no snapshot while a log is wanted, and would start without data: the log is switched on afterwards.
        if directives.get("appendonly").is_some_and(|value| value == "yes")
            && !self.on_disk.log
            && self.on_disk.snapshot
        {
            directives.insert("appendonly".to_owned(), "no".to_owned());
        }
        let (data, socket, folder) = (self.place.data(), self.place.socket(), self.place.configuration());
        let mut live = conf::ours(&order.config, &credentials, &folder);
        live.extend(directives.clone());
        if let Some(announce) = order.config.announce {
            live.insert("cluster-announce-ip".to_owned(), announce.ip.to_string());
        }
        live.extend(conf::node(at, order.config.tls).into_iter().map(|(name, value)| (name.to_owned(), value)));
        if let Some(tls) = credentials.tls.as_ref().filter(|_| order.config.tls) {
            let written = self.place.write_certificates(tls, &conf::prefix(&tls.hash));
            written.map_err(|error| words("writing the certificates", error))?;
        }
        let text = conf::render(&order.config, &live, &credentials, (&data, &socket), at, None);
        let file = folder.join("redis.conf");
        self.place.theirs().write(&file, &text).map_err(|error| words("writing redis.conf", error))?;
        let mut command = self.place.server();
        command.arg(&file);
        let child = self.reaper.spawn(command, None).map_err(|error| words("starting the server", error))?;
        let last_line: Arc<Mutex<String>> = Arc::default();
        let kept = last_line.clone();
        pass_on(child.output, move |line| {
            if !line.trim().is_empty() {
                *lock(&kept) = line.chars().take(200).collect();
            }
        });
        self.process = Some(Process {
            pid: child.pid,
            exit: child.exit,
            stopping: None,
            connection: None,
            info: None,
            node: None,
            answered_at: boottime_ms(),
            synced: false,
            yielded: false,
            applied: (Config { directives, ..order.config.clone() }, credentials.hash.clone()),
            errors: BTreeMap::new(),
            pending: Vec::new(),
            last_line,
        });
        self.hurry();
        tracing::info!(pid = child.pid.as_raw(), %order, "the server is started");
        Ok(())
    }

    /// Sets what differs. A directive that the server refuses keeps its former value.
    async fn configure(&mut self) -> Result<(), String> {
        let (Some(order), Some(credentials)) = (self.durable.order.clone(), self.known.last().cloned()) else {
            return Ok(());
        };
        let mut connection = self.connection()?;
        let Some(process) = &mut self.process else { return Ok(()) };
        let (wanted, (applied, hash)) = (&order.config, process.applied.clone());
        let mut sets: Vec<(String, String)> = Vec::new();
        if let Some(announce) = wanted.announce.filter(|_| wanted.announce != applied.announce) {
            sets.push(("cluster-announce-ip".into(), announce.ip.to_string()));
        }
        if hash != credentials.hash {
            sets.push(("masterauth".into(), credentials.replication_password.clone()));
        }
        let changed = wanted.directives.iter().filter(|(name, value)| applied.directives.get(*name) != Some(value));
        sets.extend(changed.map(|(name, value)| (name.clone(), conf::bare(value).to_owned())));
        // What is not declared any more has the value of a new start.
        let removed = applied.directives.keys().filter(|name| !wanted.directives.contains_key(*name));
        let mut pending: Vec<String> = removed.cloned().collect();
        for (name, value) in sets {
            if redis_settings::needs_restart(&name) {
                pending.push(name);
                continue;
            }
            match ask::send(&mut connection, cmd("CONFIG").arg("SET").arg(&name).arg(&value)).await {
                Ok(_) => drop(process.errors.remove(&name)),
                Err(error) if error.is_io_error() => return Err(client::words(&error)),
                Err(error) => drop(process.errors.insert(name.clone(), format!("{name}: {}", client::words(&error)))),
            }
        }
        process.errors.retain(|name, _| wanted.directives.contains_key(name) || name == conf::CERTIFICATE);
        if let Some(tls) = credentials.tls.as_ref().filter(|_| wanted.tls && hash != credentials.hash) {
            let written = self.place.write_certificates(tls, &conf::prefix(&tls.hash));
            written.map_err(|error| format!("writing the certificates: {error}"))?;
            let mut command = cmd("CONFIG").arg("SET").to_owned();
            for (name, file) in conf::files(tls, &self.place.configuration()) {
                command.arg(name).arg(file);
            }
            match ask::send(&mut connection, &command).await {
                Ok(_) => drop(process.errors.remove(conf::CERTIFICATE)),
                Err(error) if error.is_io_error() => return Err(client::words(&error)),
                Err(error) => {
                    let words = format!("{}: {}", conf::CERTIFICATE, client::words(&error));
                    drop(process.errors.insert(conf::CERTIFICATE.to_owned(), words));
                }
            }
        }
        if hash != credentials.hash || wanted.username != applied.username {
            let users = conf::users(&wanted.username, &credentials);
            for (name, rules) in &users {
                let mut command = cmd("ACL");
                command.arg("SETUSER").arg(name).arg("reset").arg(rules);
                ask::send(&mut connection, &command).await.map_err(|error| client::words(&error))?;
            }
            if wanted.username != applied.username && !users.iter().any(|(name, _)| *name == applied.username) {
                let gone = cmd("ACL").arg("DELUSER").arg(&applied.username).to_owned();
                ask::send(&mut connection, &gone).await.map_err(|error| client::words(&error))?;
            }
        }
        process.pending.extend(pending);
        process.pending.sort();
        process.pending.dedup();
        process.applied = (wanted.clone(), credentials.hash.clone());
        if hash != credentials.hash {
            self.remember(vec![credentials])?;
        }
        tracing::info!("the configuration is set");
        self.problem = None;
        Ok(())
    }

    /// Keeps these credentials; the newest last.
    fn remember(&mut self, mut known: Vec<Credentials>) -> Result<(), String> {
        // The first one is certainly in force.
        while known.len() > KNOWN {
            known.remove(1);
        }
        let save = || durable::write(&self.place.own().join(CREDENTIALS), &serde_json::to_vec(&known)?);
        save().map_err(|error| format!("saving the credentials: {error}"))?;
        self.known = known;
        Ok(())
    }

    fn save(&mut self, durable: Durable) -> Result<(), String> {
        durable::save(&self.place.own(), &durable).map_err(|error| format!("saving the order: {}", chain(&error)))?;
        self.durable = durable;
        Ok(())
    }

    // ---- Hear

    /// A command of the operator.
    pub fn hear(&mut self, command: Command) {
        let heard = match command {
            Command::Order(order) if self.durable.order.as_ref() != Some(&order) => {
                tracing::info!(%order, "order");
                self.due_at = 0;
                // On disk before anything follows from it.
                self.save(Durable { order: Some(order), ..self.durable.clone() })
            }
            Command::Credentials(credentials) if self.known.last() != Some(&credentials) => {
                let mut known = if self.process.is_some() { self.known.clone() } else { Vec::new() };
                known.push(credentials);
                self.due_at = 0;
                self.remember(known)
            }
            Command::Act { id, act } => {
                let same = self.acting.iter().map(|(_, act, _)| act).chain(self.acts.iter().map(|(_, act)| act));
                let known = self.ids.contains(&id) || same.into_iter().any(|one| *one == act);
                if !known && self.acts.len() < ACTS {
                    self.ids.push_back(id.clone());
                    self.ids.drain(..self.ids.len().saturating_sub(REMEMBERED));
                    self.acts.push_back((id, act));
                }
                Ok(())
            }
            Command::Restart { run } => {
                self.restart |= run == self.run() && self.process.is_some();
                Ok(())
            }
            Command::Order(_) | Command::Credentials(_) | Command::Here => Ok(()),
        };
        if let Err(problem) = heard {
            tracing::warn!(problem, "a command failed");
            self.problem = Some(problem);
        }
    }

    /// The server has ended.
    pub fn ended(&mut self, status: WaitStatus) {
        let Some(process) = self.process.take() else { return };
        self.runs += 1;
        self.on_disk = kept::on_disk(&self.place);
        self.file = read_file(&self.place);
        if let Some((id, ..)) = self.acting.take() {
            self.answer = Some(Answer { id, refused: Some("the server ended".into()) });
        }
        self.acts.clear();
        let (asked, last) = (process.stopping.is_some(), lock(&process.last_line).clone());
        tracing::info!(status = describe(status), asked, "the server has ended");
        if process.info.is_none() && !asked {
            self.back_off();
            let directives = self.durable.order.as_ref().map(|order| order.config.directives.clone());
            let words = format!("the server does not start: {last}");
            self.refused =
                directives.filter(|wanted| self.durable.good.as_ref() != Some(wanted)).map(|all| (all, words));
        }
        self.problem = (!asked).then(|| format!("{}: {last}", describe(status)));
    }

    /// SIGTERM was received.
    pub fn terminate(&mut self) {
        tracing::info!("SIGTERM: going down");
        self.terminating = true;
    }
}

/// What is known of the node. A server that has not answered yet is the node of its file: to be none would mean that its
/// volume is new.
fn known<'a>(running: Option<&'a Node>, file: Option<&'a Node>) -> Option<&'a Node> {
    running.or(file)
}

/// Whether a node takes itself for the master of slots.
fn leads(node: &Node) -> bool {
    node.own.master.is_none() && !node.own.slots.is_empty()
}

/// The node, as its file has it.
fn read_file(place: &Place) -> Option<Node> {
    nodes::read(&place.theirs().text(&place.data().join("nodes.conf")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression 402: a server that was starting was reported without a node. The operator took its volume for a new one, and
    /// let its replica take over by force, after a restart of all members.
    #[test]
    fn a_server_that_starts_is_the_node_of_its_file() {
        let file = Node { ok: true, ..Node::default() };
        assert_eq!(known(None, Some(&file)), Some(&file));
        assert_eq!(known(Some(&Node::default()), Some(&file)), Some(&Node::default()));
        assert_eq!(known(None, None), None);
    }
}
