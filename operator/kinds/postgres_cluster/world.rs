//! A small world for tests: real plans, real supervisor decisions, and a model of Docker, PostgreSQL and clients between them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::plan::plan;
use super::{Fact, LinkSeen, Observed, SecretsSeen, Step, container_name};
use crate::api::labels;
use crate::api::lsn::Lsn;
use crate::api::postgres_cluster::{Fork, PostgresCluster, PostgresClusterSpec, PostgresClusterStatus};
use crate::engine::{ContainerSeen, ContainerSpec, ContainerState};
use crate::supervisor::next::{
    Act, Config, Durable, Gate, Seen, Server, accept, barrier, confirmed, next, promise, start_pending, voters_confirm,
};
use crate::supervisor::wire::{Command, Data, Job, JobKind, Leading, Postgres, Receiver, Replica, Report, Task};

/// One turn of the world, in milliseconds.
pub const TURN_MS: i64 = 100;
const SYSTEM: &str = "7000000000000000001";

/// A record of WAL: the timeline it was written on and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    timeline: u32,
    id: u64,
}

/// What is on a data volume.
#[derive(Debug, Clone, Default)]
struct Disk {
    durable: Durable,
    data: Data,
    wal: Vec<Record>,
    clean: bool,
}

/// A container and what runs in it; all of it but the disk is lost with it.
#[derive(Debug, Clone)]
struct Box {
    spec: ContainerSpec,
    id: u32,
    state: ContainerState,
    boot: u32,
    process: Process,
}

/// A supervisor's memory and its postmaster.
#[derive(Debug, Clone, Default)]
struct Process {
    postgres: Postgres,
    run: u32,
    stopped_ms: i64,
    fresh: bool,
    restart_asked: bool,
    ordered_since_stop: bool,
    applied: Option<Config>,
    sessions_ended: bool,
    barrier_lsn: Option<Lsn>,
    barrier_set: Option<i64>,
    barrier_passed_once: bool,
    app_ensured: bool,
    checkpoint_started: bool,
    checkpointed_for_stop: bool,
    slots: Vec<String>,
    credentials: bool,
    confirmed: Option<i64>,
    renewed: Option<i64>,
    operator: Option<i64>,
    received: Option<i64>,
    streaming: bool,
    job: Option<Job>,
}

/// Everything.
pub struct World {
    pub object: PostgresCluster,
    pub log: Vec<String>,
    ms: i64,
    boxes: BTreeMap<String, Box>,
    disks: BTreeMap<String, Disk>,
    network: bool,
    image: bool,
    binary: bool,
    secrets: SecretsSeen,
    ids: u32,
    incarnations: u32,
    records: u64,
    last_heard: BTreeMap<String, (Report, i64)>,
    /// Members that the operator cannot speak to.
    pub cut: BTreeSet<String>,
    waiting: Vec<(u64, usize, String)>,
    pub acknowledged: BTreeSet<u64>,
}

impl World {
    pub fn new(spec: &str) -> Self {
        let spec: PostgresClusterSpec = serde_saphyr::from_str(spec).unwrap_or_else(|e| panic!("{e}"));
        let mut object = PostgresCluster::new("db", spec);
        object.metadata.namespace = Some("default".into());
        object.metadata.generation = Some(1);
        Self {
            object,
            log: Vec::new(),
            ms: 0,
            boxes: BTreeMap::new(),
            disks: BTreeMap::new(),
            network: false,
            image: true,
            binary: false,
            secrets: SecretsSeen::default(),
            ids: 0,
            incarnations: 0,
            records: 0,
            last_heard: BTreeMap::new(),
            cut: BTreeSet::new(),
            waiting: Vec::new(),
            acknowledged: BTreeSet::new(),
        }
    }

    pub fn status(&self) -> PostgresClusterStatus {
        self.object.status.clone().unwrap_or_default()
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + self.ms).unwrap_or_default()
    }

    fn member(container: &str) -> String {
        container.trim_start_matches("default.").to_owned()
    }

    /// Processes act, WAL flows, commits are acknowledged, the operator reconciles (all steps but the last `cut_steps`).
    pub fn turn(&mut self, cut_steps: usize) -> Vec<String> {
        self.ms += TURN_MS;
        self.supervise();
        self.stream();
        self.acknowledge();
        self.supervise();
        self.reconcile(cut_steps)
    }

    /// One turn in which the operator is down.
    pub fn turn_without_operator(&mut self) {
        self.ms += TURN_MS;
        self.supervise();
        self.stream();
        self.acknowledge();
        self.supervise();
    }

    pub fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.turn(0);
        }
    }

    /// Turns until nothing is to be done and all is well; how many it took.
    pub fn settle(&mut self, bound: usize) -> usize {
        for turn in 1..=bound {
            let steps = self.turn(0);
            if steps.is_empty() && self.status().phase == "Healthy" {
                return turn;
            }
        }
        panic!("not settled after {bound} turns: {:#?}\n{}", self.status(), self.log.join("\n"));
    }

    fn reconcile(&mut self, cut_steps: usize) -> Vec<String> {
        let observed = self.observe();
        let plan = plan(&self.object, &observed, self.now());
        assert_eq!(plan, super::plan::plan(&self.object, &observed, self.now()), "a plan is stable");
        self.object.status = Some(plan.status);
        let kept = plan.steps.len().saturating_sub(cut_steps);
        let done: Vec<_> = plan.steps.into_iter().take(kept).collect();
        for step in &done {
            self.log.push(format!("{:>6} {step}", self.ms));
            self.act(step);
        }
        done.iter().filter(|step| !matches!(step, Step::Renew { .. })).map(ToString::to_string).collect()
    }

    fn observe(&mut self) -> Observed {
        let mut links = BTreeMap::new();
        for (name, one) in &self.boxes {
            let member = Self::member(name);
            if one.state == ContainerState::Running && !self.cut.contains(&member) {
                let report = self.report(name);
                self.last_heard.insert(member.clone(), (report, self.ms));
            }
            // A frozen process closes no stream.
            let stands = matches!(one.state, ContainerState::Running | ContainerState::Paused);
            let connected = stands && !self.cut.contains(&member);
            if let Some((report, at)) = self.last_heard.get(&member) {
                let link = LinkSeen { report: report.clone(), connected, silent_ms: (self.ms - at) as u64 };
                links.insert(member, link);
            }
        }
        let seen = |(name, one): (&String, &Box)| {
            let mut labels = one.spec.labels.clone();
            labels.insert(labels::SPEC_HASH.into(), one.spec.hash());
            let id = one.id.to_string();
            (
                name.clone(),
                ContainerSeen { id, name: name.clone(), labels, state: one.state, image: one.spec.image.clone() },
            )
        };
        Observed {
            containers: Fact::Known(self.boxes.iter().map(seen).collect()),
            volumes: Fact::Known(self.disks.keys().cloned().collect()),
            network: Fact::Known(self.network.then_some((std::net::Ipv4Addr::new(172, 30, 0, 0), 16))),
            image: Fact::Known(self.image),
            binary: self.binary.then(|| "evenkeel-bin-1".into()),
            links,
            secrets: self.secrets.clone(),
        }
    }

    fn act(&mut self, step: &Step) {
        match step {
            Step::EnsureSecrets { host } => {
                self.secrets =
                    SecretsSeen { source_problem: None, complete: true, hash: "h".into(), host: host.clone() };
            }
            Step::EnsureImage(_) => self.image = true,
            Step::EnsureBinary { .. } => self.binary = true,
            Step::EnsureNetwork(_) => self.network = true,
            Step::EnsureVolume(spec) => {
                self.disks.entry(spec.name.clone()).or_insert_with(|| Disk { data: Data::None, ..Disk::default() });
            }
            Step::CreateContainer(spec) => {
                self.ids += 1;
                let one = Box {
                    spec: (**spec).clone(),
                    id: self.ids,
                    state: ContainerState::Created,
                    boot: 0,
                    process: Process::default(),
                };
                self.boxes.entry(spec.name.clone()).or_insert(one);
            }
            Step::StartContainer(name) => self.start(name),
            Step::RemoveContainer { name, .. } => drop(self.boxes.remove(name)),
            Step::RemoveVolume(name) => drop(self.disks.remove(name)),
            Step::RemoveNetwork(_) => self.network = false,
            Step::Order { member, order } => self.tell(member, Command::Order((**order).clone())),
            Step::SendCredentials { member } => self.tell_process(member, |process, _| process.credentials = true),
            Step::RestartPostgres { member, run, .. } => self.tell(member, Command::Restart { run: run.clone() }),
            Step::Renew { member, term } => self.tell(member, Command::Renew { term: *term }),
        }
    }

    fn start(&mut self, name: &str) {
        let ms = self.ms;
        let Some(one) = self.boxes.get_mut(name) else { return };
        if one.state == ContainerState::Running {
            return;
        }
        let disk = self.disks.entry(name.to_owned()).or_insert_with(|| Disk { data: Data::None, ..Disk::default() });
        if disk.durable.unfinished.is_some() {
            disk.data = Data::Broken;
        }
        one.state = ContainerState::Running;
        one.boot += 1;
        one.process = Process { stopped_ms: ms, run: one.process.run + 1, ..Process::default() };
    }

    fn tell_process(&mut self, member: &str, change: impl FnOnce(&mut Process, &mut Disk)) {
        let name = container_name(&self.object, member);
        if self.cut.contains(member) {
            return;
        }
        if let (Some(one), Some(disk)) = (self.boxes.get_mut(&name), self.disks.get_mut(&name))
            && one.state == ContainerState::Running
        {
            one.process.operator = Some(self.ms);
            change(&mut one.process, disk);
        }
    }

    fn tell(&mut self, member: &str, command: Command) {
        let ms = self.ms;
        let refused = std::cell::RefCell::new(None);
        self.tell_process(member, |process, disk| match command {
            Command::Order(order) => match accept(&disk.durable, &order) {
                Ok(durable) => {
                    let newer = disk.durable.order.as_ref().is_none_or(|old| old.term < order.term)
                        || disk.durable.order.as_ref().is_some_and(|old| old.task.rank() < order.task.rank());
                    process.ordered_since_stop |= process.postgres == Postgres::Stopped && newer;
                    disk.durable = durable;
                }
                Err(why) => *refused.borrow_mut() = Some(why.to_string()),
            },
            Command::Restart { run } => process.restart_asked = run == process.run.to_string(),
            Command::Renew { term } => {
                if disk.durable.order.as_ref().is_some_and(|order| order.term == term) {
                    process.renewed = Some(ms);
                }
            }
            Command::Credentials(_) => process.credentials = true,
        });
        if let Some(why) = refused.into_inner() {
            self.log.push(format!("{:>6} {member}: {why}", self.ms));
        }
    }

    fn supervise(&mut self) {
        let names: Vec<_> = self.boxes.keys().cloned().collect();
        for name in names {
            for _ in 0..12 {
                if self.boxes.get(&name).is_none_or(|one| one.state != ContainerState::Running) {
                    break;
                }
                let seen = self.seen(&name);
                if let Some(Task::Lead(lead)) = seen.durable.order.as_ref().map(|order| &order.task)
                    && let Some(one) = self.boxes.get_mut(&name)
                {
                    one.process.barrier_passed_once |= barrier(&seen, lead);
                    if voters_confirm(&seen, lead) {
                        one.process.confirmed = Some(self.ms);
                    }
                }
                let act = next(&self.seen(&name));
                if matches!(act, Act::Wait | Act::Poll) {
                    break;
                }
                self.log.push(format!("{:>6}   {} {act:?}", self.ms, Self::member(&name)));
                self.perform(&name, act);
            }
        }
    }

    fn seen(&self, name: &str) -> Seen {
        let (one, disk) = (&self.boxes[name], &self.disks[name]);
        let process = &one.process;
        let up = matches!(process.postgres, Postgres::Standby | Postgres::Primary);
        let end = (timeline(&disk.wal), Lsn(disk.wal.len() as u64));
        let ago = |at: Option<i64>| at.map(|at| (self.ms - at) as u64);
        Seen {
            durable: disk.durable.clone(),
            data: disk.data,
            clean: (!up && disk.clean).then_some(end),
            postgres: process.postgres,
            run: process.run.to_string(),
            stopped_ms: (self.ms - process.stopped_ms) as u64,
            fresh: process.fresh,
            start_held: false,
            restart_asked: process.restart_asked,
            ordered_since_stop: process.ordered_since_stop,
            server: up.then(|| Server {
                primary: process.postgres == Postgres::Primary,
                timeline: end.0,
                lsn: end.1,
                receiver: process.applied.as_ref().is_some_and(|applied| applied.upstream.is_some())
                    && process.streaming,
                streaming: process.streaming,
                replayed: true,
                stuck: false,
                sessions: 0,
                wal_missing: false,
                replicas: self.replicas(name),
                slots: process.slots.clone(),
                history: history(&disk.wal),
                checkpointed: process.checkpoint_started,
            }),
            started: None,
            applied: process.applied.clone(),
            sessions_ended: process.sessions_ended,
            barrier_lsn: process.barrier_lsn,
            barrier_ms: process.barrier_set.map_or(0, |at| (self.ms - at) as u64),
            barrier_passed_once: process.barrier_passed_once,
            app_ensured: process.app_ensured,
            checkpoint_started: process.checkpoint_started,
            checkpointed_for_stop: process.checkpointed_for_stop,
            job: process.job.clone(),
            job_due: true,
            credentials: process.credentials,
            operator_ms: ago(process.operator),
            confirmed_ms: ago(process.confirmed),
            renewed_ms: ago(process.renewed),
            terminating: false,
        }
    }

    fn replicas(&self, leader: &str) -> Vec<Replica> {
        let leader_end = self.disks[leader].wal.len() as u64;
        self.boxes
            .iter()
            .filter(|(name, one)| {
                one.process.streaming
                    && one.state == ContainerState::Running
                    && self.upstream_of(name).as_deref() == Some(leader)
            })
            .map(|(name, _)| {
                let end = self.disks[name].wal.len() as u64;
                Replica {
                    incarnation: self.disks[name].durable.incarnation.clone().unwrap_or_default(),
                    streaming: true,
                    lsn: Lsn(end),
                    lag: leader_end.saturating_sub(end),
                }
            })
            .collect()
    }

    fn upstream_of(&self, name: &str) -> Option<String> {
        let upstream = self.boxes.get(name)?.process.applied.as_ref()?.upstream.as_ref()?;
        let at = |one: &&Box| one.spec.address.map(|address| address.to_string()) == Some(upstream.address.clone());
        self.boxes.values().find(at).map(|one| one.spec.name.clone())
    }

    fn up(&self, name: &str) -> bool {
        self.boxes.get(name).is_some_and(|one| {
            one.state == ContainerState::Running
                && matches!(one.process.postgres, Postgres::Standby | Postgres::Primary)
        })
    }

    fn perform(&mut self, name: &str, act: Act) {
        let incarnation = format!("i{}", self.incarnations + 1);
        let leader_wal = |world: &Self, address: &str| {
            let found =
                world.boxes.values().find(|one| one.spec.address.map(|a| a.to_string()).as_deref() == Some(address));
            let name = found.map(|one| one.spec.name.clone())?;
            world.up(&name).then(|| world.disks[&name].wal.clone())
        };
        let copied = match &act {
            Act::Clone(follow) | Act::Rewind(follow) => leader_wal(self, &follow.address),
            _ => None,
        };
        self.records += 1;
        let id = self.records;
        let ms = self.ms;
        let (Some(one), Some(disk)) = (self.boxes.get_mut(name), self.disks.get_mut(name)) else { return };
        let process = &mut one.process;
        let down = |process: &mut Process| {
            let (run, restart_asked, credentials, operator) =
                (process.run, process.restart_asked, process.credentials, process.operator);
            *process = Process {
                run,
                restart_asked,
                credentials,
                operator,
                stopped_ms: ms,
                slots: process.slots.clone(),
                ..Process::default()
            };
        };
        match act {
            Act::Wait | Act::Poll | Act::Exit => {}
            Act::InitDb(_) => {
                self.incarnations += 1;
                disk.durable.incarnation = Some(incarnation);
                disk.data = Data::Primary;
                disk.wal = vec![Record { timeline: 1, id }];
                process.fresh = true;
            }
            Act::Clone(_) => match copied {
                Some(wal) => {
                    self.incarnations += 1;
                    disk.durable.incarnation = Some(incarnation);
                    disk.durable.unfinished = None;
                    disk.data = Data::Standby;
                    disk.wal = wal;
                    process.job = None;
                }
                None => {
                    process.job =
                        Some(Job { kind: JobKind::Clone, error: Some("no leader".into()), failures: 1, running: false })
                }
            },
            Act::Rewind(_) => match copied {
                Some(wal) => {
                    disk.durable.unfinished = None;
                    disk.data = Data::Standby;
                    disk.wal = wal;
                }
                None => {
                    process.job = Some(Job {
                        kind: JobKind::Rewind,
                        error: Some("no leader".into()),
                        failures: 1,
                        running: false,
                    })
                }
            },
            Act::Condemn => {
                disk.durable.unfinished = Some(JobKind::Clone);
                disk.data = Data::Broken;
            }
            Act::Start { standby, config } => {
                process.run += 1;
                process.fresh = false;
                process.restart_asked = false;
                process.ordered_since_stop = false;
                process.postgres = if standby { Postgres::Standby } else { Postgres::Primary };
                process.applied = Some(config);
                process.sessions_ended = false;
                disk.data = if standby { Data::Standby } else { Data::Primary };
                disk.clean = false;
            }
            Act::Apply(config) => {
                let old = process.applied.clone().unwrap_or_default();
                if config.gate == Gate::Open {
                    process.sessions_ended = false;
                }
                if config.commit != old.commit {
                    process.barrier_lsn = None;
                }
                if config.upstream != old.upstream {
                    process.streaming = false;
                }
                process.applied = Some(config);
            }
            Act::EndSessions => process.sessions_ended = true,
            Act::EnsureSlots(slots) => process.slots = slots,
            Act::Promote => {
                disk.data = Data::Primary;
                let timeline = timeline(&disk.wal) + 1;
                disk.wal.push(Record { timeline, id });
                process.postgres = Postgres::Primary;
                process.barrier_lsn = None;
            }
            Act::EnsureApp { .. } => process.app_ensured = true,
            Act::SetBarrier => {
                let timeline = timeline(&disk.wal);
                disk.wal.push(Record { timeline, id });
                process.barrier_lsn = Some(Lsn(disk.wal.len() as u64));
                process.barrier_set = Some(ms);
            }
            Act::Checkpoint => process.checkpoint_started = true,
            Act::CheckpointForStop => process.checkpointed_for_stop = true,
            Act::StopFast => {
                down(process);
                disk.clean = true;
                self.ship(name);
            }
            Act::StopImmediate => down(process),
        }
    }

    /// A fast stop ships everything to standbys that stream.
    fn ship(&mut self, leader: &str) {
        let wal = self.disks[leader].wal.clone();
        let followers: Vec<_> = self
            .boxes
            .keys()
            .filter(|name| self.boxes[*name].process.streaming && self.upstream_of(name).as_deref() == Some(leader))
            .cloned()
            .collect();
        for name in followers {
            if let Some(disk) = self.disks.get_mut(&name) {
                disk.wal.clone_from(&wal);
            }
        }
    }

    /// WAL flows from every server that is up to the standbys that may and can receive it.
    fn stream(&mut self) {
        for _ in 0..2 {
            let names: Vec<_> = self.boxes.keys().cloned().collect();
            for name in &names {
                let upstream = self.upstream_of(name).filter(|upstream| self.up(upstream) && self.up(name));
                let slot =
                    self.boxes[name].process.applied.as_ref().and_then(|a| a.upstream.as_ref()).map(|u| u.slot.clone());
                let fits = upstream.as_ref().is_some_and(|upstream| {
                    let (theirs, ours) = (&self.disks[upstream].wal, &self.disks[name].wal);
                    theirs.len() >= ours.len()
                        && theirs[..ours.len()] == ours[..]
                        && slot.as_ref().is_some_and(|slot| self.boxes[upstream].process.slots.contains(slot))
                });
                let wal = upstream.filter(|_| fits).map(|upstream| self.disks[&upstream].wal.clone());
                let ms = self.ms;
                if let Some(one) = self.boxes.get_mut(name)
                    && one.state == ContainerState::Running
                {
                    one.process.streaming = wal.is_some();
                    if wal.is_some() {
                        one.process.received = Some(ms);
                    }
                }
                if let (Some(wal), Some(disk)) = (wal, self.disks.get_mut(name)) {
                    disk.wal = wal;
                }
            }
        }
    }

    /// A client writes to every server that lets it.
    pub fn write(&mut self) {
        let open: Vec<_> = self
            .boxes
            .iter()
            .filter(|(_, one)| {
                one.state == ContainerState::Running
                    && one.process.postgres == Postgres::Primary
                    && one.process.applied.as_ref().is_some_and(|applied| applied.gate == Gate::Open)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in open {
            self.records += 1;
            let id = self.records;
            if let Some(disk) = self.disks.get_mut(&name) {
                let timeline = timeline(&disk.wal);
                disk.wal.push(Record { timeline, id });
                self.waiting.push((id, disk.wal.len(), name));
            }
        }
    }

    fn acknowledge(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        for (id, lsn, name) in waiting {
            let Some(one) = self.boxes.get(&name).filter(|one| one.process.postgres == Postgres::Primary) else {
                continue;
            };
            if one.state != ContainerState::Running {
                self.waiting.push((id, lsn, name));
                continue;
            }
            let rule = one.process.applied.as_ref().map(|applied| applied.commit.clone()).unwrap_or_default();
            let flushed = self
                .replicas(&name)
                .iter()
                .filter(|replica| rule.names.contains(&replica.incarnation) && replica.lsn.0 >= lsn as u64)
                .count();
            if flushed >= rule.count as usize {
                self.acknowledged.insert(id);
            } else {
                self.waiting.push((id, lsn, name));
            }
        }
    }

    /// I2: whoever takes writes has everything that was ever acknowledged.
    pub fn lost(&self) -> Vec<u64> {
        let status = self.status();
        let Some(primary) = status.primary.filter(|_| !status.endpoints.read_write.is_empty()) else {
            return Vec::new();
        };
        let Some(disk) = self.disks.get(&container_name(&self.object, &primary)) else { return Vec::new() };
        let there: BTreeSet<_> = disk.wal.iter().map(|record| record.id).collect();
        self.acknowledged.difference(&there).copied().collect()
    }

    fn report(&self, name: &str) -> Report {
        let seen = self.seen(name);
        let lead = match seen.durable.order.as_ref().map(|order| (order.term, &order.task)) {
            Some((term, Task::Lead(lead))) => Some((term, lead)),
            _ => None,
        };
        let one = &self.boxes[name];
        let up = seen.server.as_ref();
        Report {
            boot: one.boot.to_string(),
            promised: seen.durable.promised,
            order: seen.durable.order.clone(),
            incarnation: seen.durable.incarnation.clone(),
            system_identifier: (seen.data != Data::None).then(|| SYSTEM.into()),
            data: seen.data,
            postgres: seen.postgres,
            run: seen.run.clone(),
            timeline: up.map(|server| server.timeline).or(seen.clean.map(|(timeline, _)| timeline)),
            lsn: up.map(|server| server.lsn).or(seen.clean.map(|(_, lsn)| lsn)),
            clean: seen.clean.is_some(),
            promise: promise(&seen),
            receiver: up.filter(|server| server.receiver).map(|server| Receiver {
                streaming: server.streaming,
                from: String::new(),
                quiet_ms: one.process.received.map_or(u64::MAX, |at| (self.ms - at) as u64),
            }),
            leading: lead.filter(|_| seen.postgres == Postgres::Primary).map(|(term, lead)| Leading {
                term,
                commit: seen
                    .applied
                    .as_ref()
                    .map(|applied| applied.commit.clone())
                    .filter(|_| seen.barrier_lsn.is_some()),
                barrier: barrier(&seen, lead),
                confirmed: confirmed(&seen, lead),
                history: up.map(|server| server.history.clone()).unwrap_or_default(),
                checkpointed: one.process.checkpoint_started,
                replicas: self.replicas(name),
            }),
            gate_open: up.is_some() && seen.applied.as_ref().is_some_and(|applied| applied.gate == Gate::Open),
            credentials: one.process.credentials.then(|| "h".into()),
            start_pending: seen.postgres == Postgres::Stopped && start_pending(&seen),
            ..Report::default()
        }
    }

    // Faults.

    /// kill -9 of the postmaster.
    pub fn kill_postgres(&mut self, member: &str) {
        let name = container_name(&self.object, member);
        let ms = self.ms;
        if let Some(one) = self.boxes.get_mut(&name).filter(|one| one.state == ContainerState::Running) {
            let process = &mut one.process;
            *process = Process {
                run: process.run,
                credentials: process.credentials,
                operator: process.operator,
                stopped_ms: ms,
                slots: process.slots.clone(),
                ..Process::default()
            };
        }
    }

    /// docker kill.
    pub fn kill_container(&mut self, member: &str) {
        let name = container_name(&self.object, member);
        if let Some(one) = self.boxes.get_mut(&name).filter(|one| one.state != ContainerState::Created) {
            one.state = ContainerState::Exited;
            one.process = Process { run: one.process.run, ..Process::default() };
        }
    }

    /// docker pause.
    pub fn pause(&mut self, member: &str) {
        let name = container_name(&self.object, member);
        if let Some(one) = self.boxes.get_mut(&name).filter(|one| one.state == ContainerState::Running) {
            one.state = ContainerState::Paused;
        }
    }

    /// docker unpause; the supervisor notices the gap in time and takes nothing for confirmed.
    pub fn unpause(&mut self, member: &str) {
        let name = container_name(&self.object, member);
        if let Some(one) = self.boxes.get_mut(&name).filter(|one| one.state == ContainerState::Paused) {
            one.state = ContainerState::Running;
            one.process.confirmed = None;
            one.process.renewed = None;
            one.process.operator = None;
        }
    }

    /// The data volume is emptied while nothing runs on it.
    pub fn wipe(&mut self, member: &str) {
        self.kill_container(member);
        let name = container_name(&self.object, member);
        self.disks.insert(name, Disk { data: Data::None, ..Disk::default() });
    }

    /// The container is removed, its volume stays.
    pub fn forget(&mut self, member: &str) {
        let name = container_name(&self.object, member);
        self.boxes.remove(&name);
        self.last_heard.remove(member);
    }

    pub fn primary(&self) -> String {
        self.status().primary.unwrap_or_default()
    }

    /// One line for people: phase, term, and each instance.
    pub fn summary(&self) -> String {
        let status = self.status();
        let instances: Vec<_> = status.instances.iter().map(|i| format!("{} {} {}", i.name, i.role, i.state)).collect();
        format!("{} term {}: {}", status.phase, status.term, instances.join(", "))
    }
}

fn timeline(wal: &[Record]) -> u32 {
    wal.last().map_or(1, |record| record.timeline)
}

fn history(wal: &[Record]) -> Vec<Fork> {
    let mut forks = Vec::new();
    for (at, pair) in wal.windows(2).enumerate() {
        if pair[0].timeline != pair[1].timeline {
            forks.push(Fork { timeline: pair[0].timeline, ended_at: Lsn(at as u64 + 1) });
        }
    }
    forks
}
