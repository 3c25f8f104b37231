//! One instance of the world: a volume, a container, a supervisor with production's decisions, and a model of
//! PostgreSQL.

use std::sync::Arc;

use crate::api::lsn::{Fork, Lsn};
use crate::engine::{ContainerSpec, ContainerState};
use crate::supervisor::state::{Config, Durable, Gate, Seen, Server};
use crate::supervisor::wire::{Command, Credentials, Data, Job, Lead, Postgres, Proof, Receiver, Replica, Task};

pub const SYSTEM: &str = "7000000000000000001";
/// Ages above this many milliseconds are equal: no rule of the protocol waits longer.
const OLD_MS: u32 = 61_000;

/// Milliseconds since an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Age(pub u32);

impl Age {
    pub fn pass(&mut self, ms: u32) {
        self.0 = (self.0 + ms).min(OLD_MS);
    }
}

/// A record of WAL: the timeline that it was written on, and its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Record {
    pub timeline: u32,
    pub id: u64,
}

/// The author of a record; identifies the record in any order of events.
pub enum Author<'a> {
    /// A server, in this run: its promotion or barrier.
    Server(&'a str, u32),
    /// A client, its n-th write.
    Client(u64),
}

/// The content of a data volume.
#[derive(Debug, Clone, Default, PartialEq, Hash)]
pub struct Disk {
    pub durable: Durable,
    pub data: Data,
    pub wal: Vec<Record>,
    pub clean: bool,
}

impl Disk {
    pub fn empty() -> Self {
        Self { data: Data::None, ..Self::default() }
    }

    /// Adds a record; returns its id.
    pub fn write(&mut self, timeline: u32, author: Author) -> u64 {
        let id = match author {
            Author::Client(n) => 1_000_000_000 + n,
            Author::Server(name, run) => {
                let ordinal = name.rsplit('-').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or_default();
                ordinal * 1_000_000 + u64::from(run) * 1_000 + self.wal.len() as u64
            }
        };
        self.wal.push(Record { timeline, id });
        id
    }

    pub fn end(&self) -> Lsn {
        Lsn(self.wal.len() as u64)
    }

    pub fn timeline(&self) -> u32 {
        self.wal.last().map_or(1, |record| record.timeline)
    }

    /// The end of each timeline that was left for the next one.
    pub fn history(&self) -> Vec<Fork> {
        let ends = self.wal.windows(2).enumerate().filter(|(_, pair)| pair[0].timeline != pair[1].timeline);
        ends.map(|(at, pair)| Fork { timeline: pair[0].timeline, ended_at: Lsn(at as u64 + 1) }).collect()
    }

    /// Whether a server with this WAL lets a standby with `other` stream: exactly what a walsender checks.
    pub fn serves(&self, other: &Self) -> bool {
        let (timeline, end) = (other.timeline(), other.end());
        if timeline == self.timeline() {
            return end <= self.end();
        }
        self.history().iter().any(|fork| fork.timeline == timeline && end <= fork.ended_at)
    }
}

/// A WAL receiver with its walsender.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Receiving {
    /// The container that it streams from, and the run of the postmaster there.
    pub from: (String, u32),
    /// The flushed position that the other side knows.
    pub replied: Lsn,
    /// Time since a reply last arrived there.
    pub silent: Age,
    /// Time since WAL last arrived here.
    pub quiet: Age,
    /// Its upstream was removed; until the receiver has ended, it continues as before.
    pub leaving: bool,
}

/// A supervisor's memory and its postmaster; lost with the container.
#[derive(Debug, Clone, Default, PartialEq, Hash)]
pub struct Process {
    pub postgres: Postgres,
    pub run: u32,
    pub stopped: Age,
    pub fresh: bool,
    pub restart_asked: bool,
    pub ordered_since_stop: bool,
    pub applied: Option<Config>,
    pub sessions_ended: bool,
    /// A client has an open session.
    pub session: bool,
    /// The gate was opened to clients of this primary, by a grant that allows it.
    pub opened: bool,
    pub barrier_lsn: Option<Lsn>,
    pub barrier_age: Age,
    pub barrier_passed_once: bool,
    pub app_ensured: bool,
    pub checkpoint_started: bool,
    pub checkpointed_for_stop: bool,
    pub slots: Vec<String>,
    pub credentials: bool,
    pub confirmed: Option<Age>,
    pub renewed: Option<Age>,
    pub operator: Option<Age>,
    pub receiver: Option<Receiving>,
    pub job: Option<Job>,
    /// The proof that its supervisor reports; `None`: it does not try.
    pub proof: Option<Proof>,
}

impl Process {
    /// The postmaster ends; the supervisor's memory stays.
    pub fn down(&mut self) {
        *self = Self {
            run: self.run,
            restart_asked: self.restart_asked,
            credentials: self.credentials,
            operator: self.operator,
            slots: std::mem::take(&mut self.slots),
            ..Self::default()
        };
    }

    pub fn up(&self) -> bool {
        matches!(self.postgres, Postgres::Standby | Postgres::Primary)
    }

    pub fn gate_open(&self) -> bool {
        self.applied.as_ref().is_some_and(|applied| applied.gate == Gate::Open)
    }

    /// Whether it takes a client's write.
    pub fn writable(&self) -> bool {
        matches!(self.postgres, Postgres::Primary | Postgres::Stopping) && (self.gate_open() || self.session)
    }

    pub fn pass(&mut self, ms: u32) {
        let ages = [&mut self.confirmed, &mut self.renewed, &mut self.operator].into_iter().flatten();
        ages.chain([&mut self.stopped, &mut self.barrier_age]).for_each(|age| age.pass(ms));
        if let Some(receiver) = &mut self.receiver {
            receiver.silent.pass(ms);
            receiver.quiet.pass(ms);
        }
    }
}

/// A container and its processes.
#[derive(Debug, Clone)]
pub struct Box {
    pub spec: Arc<ContainerSpec>,
    pub id: u32,
    pub state: ContainerState,
    pub boot: u32,
    pub process: Process,
}

impl std::hash::Hash for Box {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.id, self.state, self.boot, &self.process).hash(state);
    }
}

impl Box {
    pub fn runs(&self) -> bool {
        self.state == ContainerState::Running
    }

    /// The supervisor and its postmaster end.
    pub fn end(&mut self, state: ContainerState) {
        self.state = state;
        self.process = Process { run: self.process.run, ..Process::default() };
    }
}

/// What the supervisor sees. `replicas`: the standbys that stream from here.
pub fn seen(one: &Box, disk: &Disk, replicas: Vec<Replica>, clock_ms: u64) -> Seen {
    let process = &one.process;
    let ms = |age: Age| u64::from(age.0);
    Seen {
        durable: disk.durable.clone(),
        data: disk.data,
        clean: (process.postgres == Postgres::Stopped && disk.clean).then(|| (disk.timeline(), disk.end())),
        postgres: process.postgres,
        run: process.run.to_string(),
        stopped_ms: ms(process.stopped),
        fresh: process.fresh,
        restart_asked: process.restart_asked,
        ordered_since_stop: process.ordered_since_stop,
        server: process.up().then(|| Server {
            primary: process.postgres == Postgres::Primary,
            timeline: disk.timeline(),
            lsn: disk.end(),
            receiver: process.receiver.is_some(),
            streaming: process.receiver.is_some(),
            replayed: true,
            replicas,
            slots: process.slots.clone(),
            history: disk.history(),
            checkpointed: process.checkpoint_started,
            ..Server::default()
        }),
        applied: process.applied.clone(),
        sessions_ended: process.sessions_ended,
        barrier_lsn: process.barrier_lsn,
        barrier_ms: ms(process.barrier_age),
        barrier_passed_once: process.barrier_passed_once,
        app_ensured: process.app_ensured,
        checkpoint_started: process.checkpoint_started,
        checkpointed_for_stop: process.checkpointed_for_stop,
        job: process.job.clone(),
        job_due: true,
        credentials: process.credentials.then(|| "h".into()),
        operator_ms: process.operator.map(ms),
        confirmed_ms: process.confirmed.map(ms),
        renewed_ms: process.renewed.map(ms),
        boot: one.boot.to_string(),
        clock_ms,
        system_identifier: (disk.data != Data::None).then(|| SYSTEM.into()),
        receiver: process.receiver.as_ref().map(|receiver| Receiver {
            streaming: true,
            from: receiver.from.0.clone(),
            quiet_ms: ms(receiver.quiet),
        }),
        proof: process.proof.clone(),
        ..Seen::default()
    }
}

/// The grant that a supervisor holds.
pub fn grant(durable: &Durable) -> Option<(u64, &Lead)> {
    match durable.order.as_ref().map(|order| (order.term, &order.task)) {
        Some((term, Task::Lead(lead))) => Some((term, lead)),
        _ => None,
    }
}

/// The cluster's passwords.
pub fn credentials() -> Command {
    let word = || "h".to_owned();
    Command::Credentials(Credentials { hash: word(), replication_password: word(), owner_password: word(), tls: None })
}
