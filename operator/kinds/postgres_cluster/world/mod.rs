//! The test world: real plans, real supervisor decisions, and a model of Docker, the network, PostgreSQL and clients
//! between them. Every event is one method; `turn` calls them fairly, `model` in any order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::collations::LibrariesSeen;
use super::observe::moments;
use super::plan::{plan, violation};
use super::{LinkSeen, Observed, SecretsSeen, Step, container_name, network_name, peers_network_name};
use crate::api::labels;
use crate::api::libraries::Libraries;
use crate::api::object::Object as _;
use crate::api::postgres_cluster::{PostgresCluster, PostgresClusterSpec, PostgresClusterStatus, Quorum};
use crate::engine::{Attachment, ConnectionSeen, ContainerSeen, ContainerSpec, ContainerState, ImageSeen, NetworkSeen};
use crate::kinds::containers::{DockerSeen, DockerStep, HOME, WorkSeen, testing};
use crate::kinds::fact::Fact;
use crate::kinds::waits::Waited;
use crate::runtime::companions::{Heard, Standing};
use crate::supervisor::next::{accept, next};
use crate::supervisor::report::report;
use crate::supervisor::state::{Act, Remembered, Seen};
use crate::supervisor::wire::{Collations, Command, Postgres, Replica, Report, Sorted, released};

mod clients;
mod doors;
mod faults;
mod instance;
mod postgres;

use instance::seen;
pub use instance::{Age, Box, Disk, Process, grant};

/// One turn of the world, in milliseconds.
pub const TURN_MS: u32 = 100;
/// A stream without data for this many milliseconds is closed.
const STREAM_TIMEOUT_MS: u32 = 5_000;
/// Most acts of one supervisor in one turn; more means an endless loop.
pub const ACTS: usize = 24;

/// A part that is removed from the protocol, to show why it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ablation {
    /// A promise does not wait for the end of the WAL receiver.
    ReceiverStop,
    /// Promise and order are lost with the supervisor.
    DurablePromise,
    /// A commit rule counts as confirmed as soon as it is in force.
    ReconfigurationBarrier,
    /// A primary is open to clients as soon as it is promoted.
    Gate,
    /// A data directory is identified by its member's name.
    Incarnation,
    /// Promises are compared by position only.
    TimelineOrder,
    /// Sessions from before the promotion continue.
    SessionKill,
    /// A fence lets sessions end by themselves.
    ImmediateFence,
}

/// A command on its way to one run of a supervisor.
#[derive(Debug, Clone, PartialEq, Hash)]
pub struct Letter {
    pub member: String,
    /// The container and boot that it was sent to.
    pub to: (u32, u32),
    pub command: Command,
}

/// One operator's memory.
#[derive(Debug, Clone, Default)]
pub struct Operator {
    /// By member: its last report, the container and boot that sent it, and its age.
    pub heard: BTreeMap<String, (Report, (u32, u32), Age)>,
    /// The object as it was read, with its version; the store may have a newer one when the operator acts.
    pub read: Option<(PostgresCluster, u64)>,
    /// It has just started.
    pub young: bool,
    /// When it first saw each recorded moment, in milliseconds of the world.
    pub seen: BTreeMap<Timestamp, i64>,
    /// What its clock is ahead of that of the others, in milliseconds.
    pub ahead_ms: i64,
}

/// The volume with a binary whose supervisor speaks the wire format of the previous release.
pub const RELEASED_PROGRAM: &str = "evenkeel-bin-released";

fn of_the_release(spec: &ContainerSpec) -> bool {
    spec.labels.get(labels::BINARY).is_some_and(|binary| binary == RELEASED_PROGRAM)
}

/// The whole world.
#[derive(Clone)]
pub struct World {
    pub object: PostgresCluster,
    /// Version of the object; grows with each write.
    pub version: u64,
    /// The log, if one is kept.
    pub log: Option<Vec<String>>,
    pub ms: i64,
    /// Docker does not answer.
    pub hidden: bool,
    pub boxes: BTreeMap<String, Box>,
    pub disks: BTreeMap<String, Disk>,
    networks: BTreeSet<String>,
    image: bool,
    binary: bool,
    /// The volume with the operator's binary.
    pub program: &'static str,
    secrets: SecretsSeen,
    /// Number of created containers and data directories, by name; number of client writes.
    made: BTreeMap<String, u32>,
    copies: BTreeMap<String, u32>,
    writes: u64,
    pub operators: Vec<Operator>,
    pub letters: Vec<Letter>,
    /// Members that no operator can reach, and whether the stream was closed.
    pub cut: BTreeMap<String, bool>,
    /// Containers that were taken off a network, and its name.
    pub away: BTreeSet<(String, String)>,
    /// Members whose server loads no certificates.
    pub uncertified: BTreeSet<String>,
    /// What Docker refused to do.
    pub work: WorkSeen,
    /// What sorts text on each primary.
    pub collations: Collations,
    /// The libraries of the image in the spec, and of those that were asked.
    pub image_libraries: Libraries,
    libraries: LibrariesSeen,
    /// Connections between containers that carry no data, one direction each.
    pub parted: BTreeSet<(String, String)>,
    pub waiting: Vec<clients::Waiting>,
    /// Commits that were acknowledged to a client, with the term of the primary that did it.
    pub acknowledged: BTreeMap<u64, u64>,
    /// The highest promise that the supervisor of each volume reported.
    promised: BTreeMap<String, u64>,
    /// Invariants that an event has broken.
    pub broken: BTreeSet<&'static str>,
    pub ablation: Option<Ablation>,
    /// A new copy of a leader ends at some position before that leader's end, and the rest comes by streaming.
    pub short_copies: bool,
}

impl World {
    pub fn new(spec: &str) -> Self {
        let spec: PostgresClusterSpec = serde_saphyr::from_str(spec).unwrap_or_else(|e| panic!("{e}"));
        let mut object = PostgresCluster::new("db", spec);
        object.metadata.namespace = Some("default".into());
        object.metadata.generation = Some(1);
        Self {
            object,
            version: 1,
            log: Some(Vec::new()),
            ms: 0,
            hidden: false,
            boxes: BTreeMap::new(),
            disks: BTreeMap::new(),
            networks: BTreeSet::new(),
            image: true,
            binary: false,
            program: "evenkeel-bin-1",
            secrets: SecretsSeen::default(),
            made: BTreeMap::new(),
            copies: BTreeMap::new(),
            writes: 0,
            operators: vec![Operator::default()],
            letters: Vec::new(),
            cut: BTreeMap::new(),
            away: BTreeSet::new(),
            uncertified: BTreeSet::new(),
            work: BTreeMap::new(),
            collations: Collations { sorted: Some(Sorted::default()), ..Collations::default() },
            image_libraries: Libraries::default(),
            libraries: BTreeMap::new(),
            parted: BTreeSet::new(),
            waiting: Vec::new(),
            acknowledged: BTreeMap::new(),
            promised: BTreeMap::new(),
            broken: BTreeSet::new(),
            ablation: None,
            short_copies: false,
        }
    }

    pub fn status(&self) -> PostgresClusterStatus {
        self.object.status.clone().unwrap_or_default()
    }

    pub fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + self.ms).unwrap_or_default()
    }

    pub fn member(container: &str) -> String {
        container.trim_start_matches("default.").to_owned()
    }

    pub fn container(&self, member: &str) -> String {
        container_name(&self.object, member)
    }

    fn tell(&mut self, what: impl FnOnce() -> String) {
        let ms = self.ms;
        if let Some(log) = &mut self.log {
            log.push(format!("{ms:>6} {}", what()));
        }
    }

    pub fn story(&self) -> String {
        self.log.iter().flatten().map(|line| format!("{line}\n")).collect()
    }

    // Fair turns.

    /// Time passes, every event happens, and the operator reconciles (all steps except the last `cut_steps`).
    pub fn turn(&mut self, cut_steps: usize) -> Vec<String> {
        self.turn_without_operator();
        self.hear_all(0);
        let steps = self.reconcile(0, cut_steps);
        self.deliver_all();
        steps
    }

    /// One turn in which the operator is down.
    pub fn turn_without_operator(&mut self) {
        self.pass(TURN_MS);
        self.supervise();
        for _ in 0..2 {
            self.streams();
        }
        self.acknowledge_all();
        self.supervise();
    }

    pub fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.turn(0);
        }
    }

    /// Turns until nothing is to be done and the cluster is healthy; returns the number of turns.
    pub fn settle(&mut self, bound: usize) -> usize {
        for turn in 1..=bound {
            let steps = self.turn(0);
            if steps.is_empty() && self.status().phase == "Healthy" {
                return turn;
            }
        }
        panic!("not settled after {bound} turns: {:#?}\n{}", self.status(), self.story());
    }

    /// Advances every clock. Streams and links that work have sent a sign of life meanwhile; broken ones end.
    pub fn pass(&mut self, ms: u32) {
        self.ms += i64::from(ms);
        for one in self.boxes.values_mut() {
            one.process.pass(ms);
        }
        for heard in self.operators.iter_mut().flat_map(|operator| operator.heard.values_mut()) {
            heard.2.pass(ms);
        }
        let names: Vec<_> = self.boxes.keys().cloned().collect();
        for name in &names {
            self.keep_alive(name);
        }
    }

    fn keep_alive(&mut self, name: &str) {
        let Some(receiver) = self.boxes[name].process.receiver.clone() else { return };
        let (from, here) = (&receiver.from.0, name);
        let stands = self.boxes[name].runs() && self.boxes.get(from).is_some_and(Box::runs);
        let there = stands && self.reaches(from, here);
        let back = stands && self.reaches(here, from);
        let Some(receiver) = self.boxes.get_mut(here).and_then(|one| one.process.receiver.as_mut()) else { return };
        if there {
            receiver.quiet = Age::default();
        }
        if back {
            receiver.silent = Age::default();
        }
        if receiver.quiet.0 >= STREAM_TIMEOUT_MS || receiver.silent.0 >= STREAM_TIMEOUT_MS {
            self.end_receiver(here);
        }
    }

    pub fn reaches(&self, from: &str, to: &str) -> bool {
        !self.parted.contains(&(from.to_owned(), to.to_owned()))
    }

    // Operators.

    pub fn hear_all(&mut self, operator: usize) {
        let members: Vec<_> = self.boxes.keys().map(|name| Self::member(name)).collect();
        for member in members {
            self.hear(operator, &member);
        }
    }

    /// The operator gets a member's current report.
    pub fn hear(&mut self, operator: usize, member: &str) {
        let name = self.container(member);
        let Some(one) = self.boxes.get(&name).filter(|one| one.runs()) else { return };
        if self.cut.contains_key(member) {
            return;
        }
        let of = (one.id, one.boot);
        let report = self.report(&name);
        let before = self.promised.entry(name).or_default();
        if report.promised < *before {
            self.broken.insert("I3 promises are monotonic and durable");
        }
        *before = report.promised.max(*before);
        self.operators[operator].heard.insert(member.into(), (report, of, Age::default()));
    }

    /// Reads, plans, records and performs at once; the last `cut_steps` steps are not performed.
    pub fn reconcile(&mut self, operator: usize, cut_steps: usize) -> Vec<String> {
        self.read(operator);
        self.decide(operator, |steps| steps.saturating_sub(cut_steps))
    }

    pub fn read(&mut self, operator: usize) {
        self.note_moments(operator);
        self.operators[operator].read = Some((self.object.clone(), self.version));
    }

    /// The operator knows of what is recorded now.
    fn note_moments(&mut self, operator: usize) {
        let (ms, moments) = (self.ms, moments(self.object.status.as_ref()));
        let seen = &mut self.operators[operator].seen;
        let first = |since: Timestamp| (since, seen.get(&since).copied().unwrap_or(ms));
        *seen = moments.into_iter().map(first).collect();
    }

    /// Observes, plans on the object that was read, records by compare-and-set, and performs the first `kept(n)` of its
    /// n steps.
    pub fn decide(&mut self, operator: usize, kept: impl Fn(usize) -> usize) -> Vec<String> {
        let Some((object, version)) = self.operators[operator].read.take() else { return Vec::new() };
        let plan = plan(&object, &self.observe(operator), object.want(), self.clock_of(operator));
        assert_eq!(violation(&plan.status), None);
        if object.status.as_ref() != Some(&plan.status) {
            if version != self.version {
                return Vec::new();
            }
            self.object.status = Some(plan.status);
            self.version += 1;
            self.note_moments(operator);
        }
        let kept = kept(plan.steps.len());
        let done: Vec<_> = plan.steps.into_iter().take(kept).collect();
        for step in &done {
            self.tell(|| step.to_string());
            self.perform_step(step);
        }
        done.iter().filter(|step| !matches!(step, Step::Renew { .. })).map(ToString::to_string).collect()
    }

    /// The time that an operator's clock shows.
    fn clock_of(&self, operator: usize) -> Timestamp {
        let ahead = jiff::SignedDuration::from_millis(self.operators[operator].ahead_ms);
        self.now().checked_add(ahead).unwrap_or_default()
    }

    fn waited(&self, operator: usize) -> Waited {
        let passed = |first: i64| Duration::from_millis((self.ms - first).unsigned_abs());
        self.operators[operator].seen.iter().map(|(since, first)| (*since, passed(*first))).collect()
    }

    fn observe(&self, operator: usize) -> Observed {
        let mut links = BTreeMap::new();
        for (member, (report, of, age)) in &self.operators[operator].heard {
            let Some(one) = self.boxes.get(&self.container(member)).filter(|one| one.id == of.0) else { continue };
            // A paused process closes no stream.
            let stands = matches!(one.state, ContainerState::Running | ContainerState::Paused) && one.boot == of.1;
            let connected = stands && self.cut.get(member) != Some(&true);
            links.insert(member.clone(), LinkSeen { report: report.clone(), connected, silent_ms: u64::from(age.0) });
        }
        let id = "network".to_owned();
        let connected = |to: Attachment| {
            (to.network, ConnectionSeen { network: id.clone(), address: to.address, aliases: Some(to.aliases) })
        };
        let connections = |name: &String, one: &Box| {
            let all = one.spec.attachments().into_iter();
            all.filter(|to| !self.away.contains(&(name.clone(), to.network.clone()))).map(connected).collect()
        };
        let seen = |(name, one): (&String, &Box)| {
            let mut labels = one.spec.labels.clone();
            labels.insert(labels::SPEC_HASH.into(), one.spec.hash());
            let (id, image) = (one.id.to_string(), one.spec.image.clone());
            (
                name.clone(),
                ContainerSeen {
                    id,
                    name: name.clone(),
                    labels,
                    state: one.state,
                    image,
                    networks: connections(name, one),
                    exit_code: None,
                },
            )
        };
        let network = |name: &String| {
            let second = if *name == peers_network_name(&self.object) { 31 } else { 30 };
            let subnet = ([172, second, 0, 0].into(), 16);
            (name.clone(), NetworkSeen { name: name.clone(), id: id.clone(), ours: true, subnet })
        };
        let image = ImageSeen { id: format!("id of {}", self.object.spec.image), ..Default::default() };
        let host = DockerSeen {
            containers: match self.hidden {
                true => Fact::Unknown("Docker does not answer".into()),
                false => Fact::Known(self.boxes.iter().map(seen).collect()),
            },
            volumes: Fact::Known(self.disks.keys().cloned().collect()),
            foreign: Fact::Known(std::collections::BTreeSet::new()),
            networks: Fact::Known(self.networks.iter().map(network).collect()),
            images: Fact::Known(self.image.then(|| (self.object.spec.image.clone(), image)).into_iter().collect()),
            binary: self.binary.then(|| self.program.into()),
            daemon: Some(testing::daemon()),
        };
        Observed {
            declared: Default::default(),
            reserved: Default::default(),
            proven_ms: links
                .iter()
                .filter_map(|(name, link)| Some((name.clone(), link.report.proof.as_ref()?.proven_ms?)))
                .collect(),
            waited: self.waited(operator),
            silent: Default::default(),
            hosts: BTreeMap::from([(HOME.to_owned(), host)]),
            work: self.work.clone(),
            libraries: self.libraries.clone(),
            links,
            calling: self.operators[operator].young,
            refused: BTreeMap::new(),
            secrets: self.secrets.clone(),
            archives: Default::default(),
            backups: None,
            certificates: None,
        }
    }

    fn perform_step(&mut self, step: &Step) {
        match step {
            Step::EnsureSecrets { host, port } => {
                self.secrets = SecretsSeen {
                    source_problem: None,
                    complete: true,
                    hash: "h".into(),
                    host: host.clone(),
                    port: port.clone(),
                };
            }
            Step::Certificates(_) | Step::Port(_) | Step::SendArchives { .. } | Step::BackUp { .. } => {}
            Step::Docker(step) => self.perform_by_docker(step),
            Step::AskImage { host, image } => {
                let heard = Heard { value: Some(self.image_libraries.clone()), silent_ms: 0, state: Standing::Done };
                self.libraries.insert((host.clone(), image.clone()), heard);
            }
            Step::Order { member, order } => self.send(member, Command::Order((**order).clone())),
            Step::SendCredentials { member } => self.send(member, instance::credentials()),
            Step::RestartPostgres { member, run, .. } => self.send(member, Command::Restart { run: run.clone() }),
            Step::Renew { member, term, clock_ms } => {
                self.send(member, Command::Renew { term: *term, clock_ms: *clock_ms });
            }
        }
    }

    /// Performs one Docker step. Work that runs in the background in production is done at once.
    pub fn perform_by_docker(&mut self, step: &DockerStep) {
        match step {
            DockerStep::GetImage { .. } => self.image = true,
            DockerStep::GetBinary { .. } => self.binary = true,
            DockerStep::EnsureNetwork { spec, .. } => drop(self.networks.insert(spec.name.clone())),
            DockerStep::EnsureVolume { spec, .. } => {
                self.disks.entry(spec.name.clone()).or_insert_with(Disk::empty);
            }
            DockerStep::Create { spec, .. } => {
                let made = self.made.entry(spec.name.clone()).or_default();
                *made += 1;
                let one = Box {
                    spec: (**spec).clone().into(),
                    id: *made,
                    state: ContainerState::Created,
                    boot: 0,
                    process: Process::default(),
                };
                self.boxes.entry(spec.name.clone()).or_insert(one);
            }
            DockerStep::Connect { container, to, .. } => self.reconnect(container, to),
            DockerStep::Start { container, .. } => self.start(container),
            DockerStep::Remove { container: name, .. } => {
                self.boxes.remove(name);
                self.drop_broken_streams();
            }
            DockerStep::RemoveVolume { volume, .. } => drop(self.disks.remove(volume)),
            DockerStep::RemoveNetwork { network, .. } => drop(self.networks.remove(network)),
            DockerStep::Fill { .. } | DockerStep::Unpause { .. } | DockerStep::Stop { .. } => {}
        }
    }

    fn start(&mut self, name: &str) {
        let Some(one) = self.boxes.get_mut(name).filter(|one| !one.runs() && one.state != ContainerState::Dead) else {
            return;
        };
        let disk = self.disks.entry(name.to_owned()).or_insert_with(Disk::empty);
        if disk.durable.unfinished.is_some() {
            disk.data = crate::supervisor::wire::Data::Broken;
        }
        if self.ablation == Some(Ablation::DurablePromise) {
            (disk.durable.promised, disk.durable.order) = (0, None);
        }
        one.state = ContainerState::Running;
        one.boot += 1;
        one.process = Process { run: one.process.run + 1, ..Process::default() };
    }

    // Conversations.

    fn send(&mut self, member: &str, command: Command) {
        if self.cut.contains_key(member) {
            return;
        }
        if let Some(one) = self.boxes.get(&self.container(member)).filter(|one| one.runs()) {
            let letter = Letter { member: member.into(), to: (one.id, one.boot), command };
            if !self.letters.contains(&letter) {
                self.letters.push(letter);
            }
        }
    }

    pub fn deliver_all(&mut self) {
        for letter in std::mem::take(&mut self.letters) {
            self.deliver(&letter);
        }
    }

    /// The supervisor that it was sent to gets it, if that still runs.
    pub fn deliver(&mut self, letter: &Letter) {
        let name = self.container(&letter.member);
        let to = |one: &Box| one.runs() && (one.id, one.boot) == letter.to;
        if !self.boxes.get(&name).is_some_and(to) {
            return;
        }
        let (Some(one), Some(disk)) = (self.boxes.get_mut(&name), self.disks.get_mut(&name)) else { return };
        let process = &mut one.process;
        let standby = (process.postgres == Postgres::Standby).then(|| disk.timeline());
        process.operator = Some(Age::default());
        let command =
            if of_the_release(&one.spec) { released::heard(&letter.command) } else { Some(letter.command.clone()) };
        let Some(command) = command else { return };
        match &command {
            Command::Order(order) => match accept(&disk.durable, order, standby) {
                Ok(durable) => {
                    let old = disk.durable.order.as_ref();
                    let newer = old.is_none_or(|old| old.term < order.term || old.task.rank() < order.task.rank());
                    process.ordered_since_stop |= process.postgres == Postgres::Stopped && newer;
                    disk.durable = durable;
                }
                Err(why) => self.tell(|| format!("{}: {why}", letter.member)),
            },
            Command::Restart { run } => process.restart_asked = *run == process.run.to_string(),
            Command::Renew { term, clock_ms } => {
                let age = Age((self.ms as u64).saturating_sub(*clock_ms) as u32);
                if grant(&disk.durable).is_some_and(|grant| grant.0 == *term) {
                    process.renewed = Some(process.renewed.map_or(age, |last| last.min(age)));
                }
            }
            Command::Credentials(_) => process.credentials = true,
            // No archive is modelled.
            Command::Archives(_)
            | Command::Backup(_)
            | Command::RestoreDump(_)
            | Command::SwitchWal { .. }
            | Command::RestorePoint(_) => {}
        }
    }

    // Supervisors.

    pub fn supervise(&mut self) {
        let names: Vec<_> = self.boxes.keys().cloned().collect();
        for name in names {
            for _ in 0..ACTS {
                if self.act(&name).is_none() {
                    break;
                }
            }
        }
    }

    /// One turn of a supervisor's loop; returns its act, if any.
    pub fn act(&mut self, name: &str) -> Option<Act> {
        if !self.boxes.get(name).is_some_and(Box::runs) {
            return None;
        }
        let (act, Remembered { barrier_passed_once, confirmed_ms }) = next(&self.seen(name));
        if let Some(one) = self.boxes.get_mut(name) {
            one.process.barrier_passed_once = barrier_passed_once;
            one.process.confirmed = confirmed_ms.map(|ms| Age(ms as u32));
        }
        if matches!(act, Act::Wait | Act::Poll) {
            return None;
        }
        self.tell(|| format!("  {} {act:?}", Self::member(name)));
        self.perform(name, act.clone());
        Some(act)
    }

    /// What a supervisor sees, without what an ablation hides from it.
    pub fn seen(&self, name: &str) -> Seen {
        let mut seen = seen(&self.boxes[name], &self.disks[name], self.replicas(name), self.ms as u64);
        seen.tls = seen.tls.filter(|_| !self.uncertified.contains(&Self::member(name)));
        match self.ablation {
            Some(Ablation::ReceiverStop) => {
                if let Some(server) =
                    seen.server.as_mut().filter(|_| seen.applied.as_ref().is_some_and(|a| a.upstream.is_none()))
                {
                    server.receiver = false;
                }
            }
            Some(Ablation::SessionKill) => seen.sessions_ended = true,
            _ => {}
        }
        seen
    }

    fn report(&self, name: &str) -> Report {
        let report = Report { collations: Some(self.collations.clone()), ..report(&self.seen(name)) };
        let mut report = if of_the_release(&self.boxes[name].spec) { released::said(&report) } else { report };
        match self.ablation {
            Some(Ablation::ReconfigurationBarrier) => {
                let opened = self.boxes[name].process.opened;
                if let Some(leading) = report.leading.as_mut().filter(|_| opened) {
                    leading.barrier = true;
                }
            }
            Some(Ablation::TimelineOrder) => {
                if let Some(promise) = &mut report.promise {
                    promise.timeline = 1;
                }
            }
            _ => {}
        }
        report
    }

    /// The standbys that stream from this leader, as far as it knows.
    pub fn replicas(&self, leader: &str) -> Vec<Replica> {
        let run = self.boxes[leader].process.run;
        let end = self.disks[leader].end();
        let from_here = |name: &&String| {
            let receiver = self.boxes[*name].process.receiver.as_ref();
            receiver.is_some_and(|receiver| receiver.from.0 == leader && receiver.from.1 == run)
        };
        let replica = |name: &String| {
            let receiver = self.boxes[name].process.receiver.as_ref()?;
            Some(Replica {
                incarnation: self.disks[name].durable.incarnation.clone().unwrap_or_default(),
                streaming: u64::from(receiver.silent.0) < crate::supervisor::wire::CONFIRMATION_MS,
                silent_ms: u64::from(receiver.silent.0),
                lsn: receiver.replied,
                lag_bytes: end.0.saturating_sub(receiver.replied.0),
            })
        };
        self.boxes.keys().filter(from_here).filter_map(replica).collect()
    }

    pub fn primary(&self) -> String {
        self.status().primary.unwrap_or_default()
    }

    /// One line of text: phase, term, and each instance.
    pub fn summary(&self) -> String {
        let status = self.status();
        let instances: Vec<_> = status.instances.iter().map(|i| format!("{} {} {}", i.name, i.role, i.state)).collect();
        format!("{} term {}: {}", status.phase, status.term, instances.join(", "))
    }
}

/// The differences between two worlds that matter to the protocol: clocks as ages, and of the status only what is read
/// back.
impl std::hash::Hash for World {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (&self.boxes, &self.disks, &self.letters, &self.cut, &self.parted).hash(state);
        (&self.waiting, &self.acknowledged, &self.promised, &self.broken).hash(state);
        (&self.made, &self.copies, self.object.spec.instances, self.object.metadata.annotations.is_some()).hash(state);
        self.hash_status(&self.object, state);
        for operator in &self.operators {
            operator.heard.hash(state);
            operator.seen.values().for_each(|first| (self.ms - first).min(61_000).hash(state));
            if let Some((object, version)) = &operator.read {
                (*version == self.version).hash(state);
                self.hash_status(object, state);
            }
        }
    }
}

impl World {
    fn hash_status<H: std::hash::Hasher>(&self, object: &PostgresCluster, state: &mut H) {
        use std::hash::Hash as _;
        let Some(status) = &object.status else { return };
        if let Some(d) = &status.decisions {
            (d.term, d.revision, d.stage, &d.leader, &d.served, &d.election, &d.commit, &d.next).hash(state);
            d.switchover.hash(state);
            d.unsettled.as_ref().map(|unsettled| &unsettled.old).hash(state);
            (&d.members, &d.history).hash(state);
            d.absent.keys().for_each(|incarnation| incarnation.hash(state));
        }
        status.last_failover.as_ref().map(|story| (story.outage.is_none(), &story.possible_loss)).hash(state);
        status.last_switchover.as_ref().map(|last| (&last.request, last.refused.is_some())).hash(state);
    }

    /// Whether a member's report has something new for the operator.
    pub fn has_news(&self, operator: usize, member: &str) -> bool {
        let name = self.container(member);
        let Some(one) = self.boxes.get(&name).filter(|one| one.runs()) else { return false };
        let known = self.operators[operator].heard.get(member);
        let old = |known: &(Report, (u32, u32), Age)| {
            let now = Report { clock_ms: known.0.clock_ms, ..self.report(&name) };
            known.1 == (one.id, one.boot) && known.0 == now
        };
        !self.cut.contains_key(member) && !known.is_some_and(old)
    }

    /// Undoes all faults and takes turns: whether the cluster is healthy within `bound` turns.
    pub fn heals(&mut self, bound: usize) -> bool {
        self.join_all();
        let members: Vec<_> = self.boxes.keys().map(|name| Self::member(name)).collect();
        members.iter().for_each(|member| self.unpause(member));
        (0..bound).any(|_| self.turn(0).is_empty() && self.status().phase == "Healthy")
    }

    /// The state in a few lines of text, to read a counterexample.
    pub fn picture(&self) -> String {
        let mut lines = Vec::new();
        if let Some(d) = &self.status().decisions {
            let show = |quorum: &Quorum| {
                let names: Vec<_> = quorum.voters.iter().map(|voter| voter.incarnation.as_str()).collect();
                format!("{} of [{}]", quorum.w, names.join(" "))
            };
            let leader = d.leader.as_ref().map_or("nobody", |leader| leader.incarnation.as_str());
            let next = d.next.as_ref().map(show).unwrap_or_default();
            let (stage, election, commit) = (d.stage, show(&d.election), show(&d.commit));
            lines.push(format!("record: term {} {stage:?} {leader} E {election} G {commit} next {next}", d.term));
        }
        for (name, one) in &self.boxes {
            let disk = &self.disks[name];
            let order = disk.durable.order.as_ref().map(ToString::to_string).unwrap_or_default();
            let wal: Vec<_> = disk.wal.iter().map(|record| format!("{}:{}", record.timeline, record.id)).collect();
            lines.push(format!(
                "{name}: {:?} {:?} {:?} gate {} promised {} [{order}] {}",
                one.state,
                one.process.postgres,
                disk.data,
                one.process.gate_open(),
                disk.durable.promised,
                wal.join(" ")
            ));
        }
        lines.push(format!("acknowledged {:?}", self.acknowledged));
        lines.join("\n")
    }
}
