//! The test world: real plans, real decisions of the supervisors, and a model of Docker, Redis, Sentinel and clients between
//! them. The rules of Redis and Sentinel are those that were measured (`docs/redis.md`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use jiff::Timestamp;

use super::plan::plan;
use super::{Observed, SecretsSeen, Step, container_name};
use crate::api::labels;
use crate::api::object::Object as _;
use crate::api::redis_sentinel::{RedisDecisions, RedisSentinel, RedisSentinelSpec, RedisSentinelStatus};
use crate::engine::{
    ConnectionSeen, ContainerSeen, ContainerSpec, ContainerState, HOST_NETWORK, ImageSeen, NetworkSeen,
};
use crate::kinds::containers::{DockerSeen, DockerStep, testing};
use crate::kinds::fact::Fact;
use crate::kinds::hosts::DeclaredHosts;
use crate::kinds::links::LinkSeen;
use crate::kinds::ports::Reserved;
use crate::kinds::stores::ArchivesSeen;
use crate::kinds::waits;
use crate::supervisor::redis::wire::{Act, Address, Archives, Command, PORT, Report, SENTINEL_PORT};

mod clients;
mod data;
mod faults;
mod hosts;
pub mod restore;
mod sentinel;

pub use data::{Data, DataDisk};
pub use sentinel::{SentinelDisk, Watcher};

/// One turn of the world, in milliseconds.
pub const TURN_MS: u64 = 100;
/// The application's passwords and the others, by hash.
const CREDENTIALS: &str = "h";

/// A part that is removed from the protocol, to show why it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ablation {
    /// A supervisor starts its server in its last role by itself, without an order that names the run.
    StartRule,
    /// The operator does not hear that the Sentinels name another master than its own.
    Authority,
    /// A Sentinel and the operator take every condition of a `RESET` for fulfilled.
    ResetConditions,
    /// A member without data says that it has some.
    EmptyMember,
    /// A Sentinel that has just asked the replicas, and would not ask them again, fails over on request.
    FreshInfo,
    /// Writes go on at a master that says that they are paused.
    PausedWrites,
    /// A Sentinel that was asked says that it refused.
    OneAtATime,
}

/// A container.
#[derive(Debug, Clone, PartialEq)]
pub struct Box {
    pub spec: ContainerSpec,
    pub id: u32,
    pub boot: u32,
    pub state: ContainerState,
    /// The network that it is connected to, and its address there.
    pub at: Option<(u32, Ipv4Addr)>,
    /// What runs in it.
    pub data: Data,
    pub watcher: Watcher,
}

/// A volume.
#[derive(Debug, Clone, Default, PartialEq, Hash)]
pub struct Disk {
    pub data: DataDisk,
    pub sentinel: SentinelDisk,
    pub credentials: bool,
}

/// The whole world.
#[derive(Clone)]
pub struct World {
    pub object: RedisSentinel,
    pub log: Vec<String>,
    pub ms: u64,
    pub boxes: BTreeMap<String, Box>,
    pub disks: BTreeMap<String, Disk>,
    /// The network, by its number; each one that is made has another subnet if `subnet` was changed.
    pub network: Option<u32>,
    pub subnet: u8,
    /// What several hosts declare, their ports, those without power, and the host of each container; empty: one host.
    pub declared: DeclaredHosts,
    pub reserved: Reserved,
    pub off: BTreeMap<String, u64>,
    places: BTreeMap<String, String>,
    image: bool,
    binary: bool,
    pub secrets: SecretsSeen,
    made: u32,
    /// Reports that the operator has heard: the report, the container and boot, and when.
    heard: BTreeMap<String, (Report, (u32, u32), u64)>,
    offsets: BTreeMap<String, (u64, u64)>,
    /// Members that no operator can reach.
    pub cut: BTreeSet<String>,
    /// Members whose containers reach nobody and are reached by nobody.
    pub isolated: BTreeSet<String>,
    /// Replicas that receive nothing new, although their link is up.
    pub slow: BTreeSet<String>,
    /// Data members that hear nothing of each other data member any more, but of all others; since when.
    pub severed: BTreeMap<String, u64>,
    /// Sentinels and data members that do not reach each other.
    pub unwatched: BTreeSet<(String, String)>,
    /// The operator is away.
    pub away: bool,
    /// Writes that clients make in each turn at each master that they reach.
    pub writers: bool,
    pub next_write: u64,
    /// Acknowledged writes: the member, and when.
    pub acknowledged: BTreeMap<u64, (String, u64)>,
    /// Commands that were sent to Redis and Sentinel, with who sent them.
    pub commands: Vec<String>,
    /// Invariants that an event has broken.
    pub broken: BTreeSet<String>,
    /// A part of the protocol that is missing.
    pub ablation: Option<Ablation>,
    /// Two masters have taken writes since then.
    pub two_since: Option<u64>,
    /// Sentinels that refuse to fail over, with their words.
    pub refuses: BTreeMap<String, String>,
    /// What the operator sends is in transit until it is delivered; otherwise it arrives at once.
    pub posts: bool,
    /// What opens the stores, and the backup there.
    pub archives: ArchivesSeen,
    pub stored: restore::Stored,
    /// In transit: the member, and what is sent to it.
    pub letters: Vec<(String, Command)>,
}

impl World {
    pub fn new(spec: &str) -> Self {
        let spec: RedisSentinelSpec =
            serde_saphyr::from_str(&format!("image: redis:7\n{spec}")).unwrap_or_else(|error| panic!("{error}"));
        let mut object = RedisSentinel::new("cache", spec);
        object.metadata.namespace = Some("default".into());
        object.metadata.uid = Some("uid".into());
        object.metadata.generation = Some(1);
        Self {
            object,
            log: Vec::new(),
            ms: 0,
            boxes: BTreeMap::new(),
            disks: BTreeMap::new(),
            network: None,
            subnet: 30,
            declared: BTreeMap::new(),
            reserved: BTreeMap::new(),
            off: BTreeMap::new(),
            places: BTreeMap::new(),
            image: true,
            binary: false,
            secrets: SecretsSeen::default(),
            made: 0,
            heard: BTreeMap::new(),
            offsets: BTreeMap::new(),
            cut: BTreeSet::new(),
            isolated: BTreeSet::new(),
            slow: BTreeSet::new(),
            severed: BTreeMap::new(),
            unwatched: BTreeSet::new(),
            away: false,
            writers: true,
            next_write: 0,
            acknowledged: BTreeMap::new(),
            commands: Vec::new(),
            broken: BTreeSet::new(),
            ablation: None,
            two_since: None,
            refuses: BTreeMap::new(),
            posts: false,
            archives: ArchivesSeen { hash: Some(String::new()), problem: None },
            stored: restore::Stored::default(),
            letters: Vec::new(),
        }
    }

    pub fn status(&self) -> RedisSentinelStatus {
        self.object.status.clone().unwrap_or_default()
    }

    pub fn decisions(&self) -> RedisDecisions {
        self.status().decisions.unwrap_or_else(|| RedisDecisions { since: self.now(), ..RedisDecisions::default() })
    }

    pub fn master(&self) -> String {
        self.status().master.unwrap_or_default()
    }

    pub fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + i64::try_from(self.ms).unwrap_or(0)).unwrap_or_default()
    }

    pub fn container(&self, member: &str) -> String {
        container_name(&self.object, member)
    }

    pub fn member(container: &str) -> String {
        container.trim_start_matches("default.").to_owned()
    }

    pub fn tell(&mut self, what: impl Into<String>) {
        self.log.push(format!("{:>6} {}", self.ms, what.into()));
    }

    /// The log since a time.
    pub fn story(&self, since: u64) -> String {
        let after = |line: &&String| {
            line.trim_start().split(' ').next().is_some_and(|ms| ms.parse::<u64>().is_ok_and(|ms| ms >= since))
        };
        self.log.iter().filter(after).map(|line| format!("{line}\n")).collect()
    }

    // Turns.

    /// Time passes, servers, Sentinels and clients act, and the operator reconciles.
    pub fn turn(&mut self) -> Vec<String> {
        self.ms += TURN_MS;
        // Before anybody copies from an empty master.
        self.check();
        self.run_servers();
        self.run_sentinels();
        self.write();
        self.supervise();
        if self.away { Vec::new() } else { self.reconcile() }
    }

    pub fn turns(&mut self, count: usize) {
        for _ in 0..count {
            self.turn();
        }
    }

    /// Turns until the object is healthy, no change runs, nothing is stale, and nothing is left to do.
    pub fn settle(&mut self, bound: usize) -> usize {
        self.heals(bound).unwrap_or_else(|| {
            let story = self.story(self.ms.saturating_sub(8_000));
            panic!("not settled after {bound} turns:\n{story}\n{:#?}", self.status())
        })
    }

    /// The turns that that takes, if it happens.
    pub fn heals(&mut self, bound: usize) -> Option<usize> {
        let mut calm = 0;
        for turn in 1..=bound {
            let steps = self.turn();
            let status = self.status();
            let settled = steps.is_empty()
                && status.phase == "Healthy"
                && status.stale_members.is_empty()
                && self.decisions().change.is_none();
            calm = if settled { calm + 1 } else { 0 };
            if calm > 5 {
                return Some(turn);
            }
        }
        None
    }

    /// Milliseconds pass, and everybody acts. The operator hears its members, and decides if it is not busy elsewhere.
    pub fn pass(&mut self, ms: u64, decides: bool) {
        let end = self.ms + ms;
        while self.ms < end {
            self.deliver_all();
            self.ms = end.min(self.ms + 1_000);
            self.check();
            self.run_servers();
            let names: Vec<String> = self.boxes.keys().filter(|name| is_sentinel(name)).cloned().collect();
            names.iter().for_each(|name| self.run_sentinel(name, true));
            self.supervise();
            self.hear_all();
            if decides {
                self.decide(usize::MAX);
            }
        }
    }

    // The operator.

    pub fn reconcile(&mut self) -> Vec<String> {
        self.hear_all();
        self.decide(usize::MAX)
    }

    /// The operator's last report of a container is not what it would hear now.
    pub fn has_news(&self, name: &str) -> bool {
        let member = Self::member(name);
        let same = |(heard, _, _): &(Report, _, _)| *heard == Report { clock_ms: heard.clock_ms, ..self.report(name) };
        !self.cut.contains(&member) && !self.heard.get(&member).is_some_and(same)
    }

    pub fn hear_all(&mut self) {
        let names: Vec<String> = self.boxes.keys().cloned().collect();
        names.iter().for_each(|name| self.hear(name));
    }

    /// The operator gets the report of a container, if it reaches it.
    pub fn hear(&mut self, name: &str) {
        let (member, one) = (Self::member(name), &self.boxes[name]);
        if one.state != ContainerState::Running || self.cut.contains(&member) {
            return;
        }
        let (report, of) = (self.report(name), (one.id, one.boot));
        if let Some(redis) = report.redis.as_ref().filter(|redis| redis.role.is_some()) {
            self.offsets.insert(member.clone(), (redis.offset, self.ms));
        }
        self.heard.insert(member, (report, of, self.ms));
    }

    /// The operator decides by what it has heard, records, and performs the first steps; then it dies, if there are more.
    pub fn decide(&mut self, most: usize) -> Vec<String> {
        let plan = plan(&self.object, &self.observe(), self.object.want(), self.now());
        self.object.status = Some(plan.status);
        for step in plan.steps.iter().take(most) {
            self.tell(step.to_string());
            self.perform(step);
        }
        plan.steps.iter().map(ToString::to_string).collect()
    }

    fn observe(&self) -> Observed {
        let mut links = BTreeMap::new();
        for (member, (report, of, at)) in &self.heard {
            let Some(one) = self.boxes.get(&self.container(member)).filter(|one| one.id == of.0) else { continue };
            let stands = matches!(one.state, ContainerState::Running | ContainerState::Paused) && one.boot == of.1;
            links.insert(
                member.clone(),
                LinkSeen { report: report.clone(), connected: stands, silent_ms: self.ms - at },
            );
        }
        let seen = |(name, one): (&String, &Box)| {
            let mut labels = one.spec.labels.clone();
            labels.insert(labels::SPEC_HASH.into(), one.spec.hash());
            let connection = |(network, address): (u32, Ipv4Addr)| {
                let aliases = one.spec.attachments().into_iter().next().map(|to| to.aliases);
                let seen = ConnectionSeen { network: network.to_string(), address: Some(address), aliases };
                (one.spec.network.clone(), seen)
            };
            let seen = ContainerSeen {
                id: one.id.to_string(),
                name: name.clone(),
                labels,
                state: one.state,
                image: one.spec.image.clone(),
                networks: one.at.map(connection).into_iter().collect(),
                exit_code: None,
            };
            (name.clone(), seen)
        };
        let network = |id: u32| {
            let name = super::network_name(&self.object);
            let subnet = ([172, self.subnet, 0, 0].into(), 16);
            (name.clone(), NetworkSeen { name, id: id.to_string(), ours: true, subnet })
        };
        let host = |here: &dyn Fn(&str) -> bool| DockerSeen {
            containers: Fact::Known(self.boxes.iter().filter(|(name, _)| here(name)).map(seen).collect()),
            volumes: Fact::Known(self.disks.keys().filter(|name| here(name)).cloned().collect()),
            foreign: Fact::Known(BTreeSet::new()),
            networks: Fact::Known(self.network.map(network).into_iter().collect()),
            images: Fact::Known(
                self.image.then(|| (self.object.spec.image.clone(), ImageSeen::default())).into_iter().collect(),
            ),
            binary: self.binary.then(|| "evenkeel-bin-1".into()),
            daemon: Some(testing::daemon()),
        };
        let age = |(member, (offset, at)): (&String, &(u64, u64))| (member.clone(), (*offset, self.ms - at));
        Observed {
            declared: self.declared.clone(),
            reserved: self.reserved.clone(),
            waited: waits::by_the_clock(self.now(), super::moments(&self.object)),
            silent: self.silent(),
            hosts: self.seen(host),
            work: BTreeMap::new(),
            links,
            offsets: self.offsets.iter().map(age).collect(),
            calling: false,
            refused: BTreeMap::new(),
            secrets: self.secrets.clone(),
            archives: self.archives.clone(),
            backup: None,
            certificates: None,
        }
    }

    fn perform(&mut self, step: &Step) {
        match step {
            Step::EnsureSecrets(facts) => {
                let (hash, facts) = (CREDENTIALS.to_owned(), Some(facts.clone()));
                self.secrets = SecretsSeen { problem: None, complete: true, hash, facts };
            }
            Step::Port(step) => self.reserve(step),
            Step::Certificates(_) => {}
            Step::Docker(step) => self.perform_by_docker(step),
            Step::Order { member, order } => self.command(member, Command::Order((**order).clone())),
            Step::Watch { member, watch } => self.command(member, Command::Watch((**watch).clone())),
            Step::Act { member, id, act } => {
                self.command(member, Command::Act { id: id.clone(), act: act.clone() });
                if let Act::Failover { .. } = act {
                    self.check_request(member);
                    self.commands.push(format!("operator: FAILOVER to {member}"));
                }
            }
            Step::SendCredentials { member } => {
                let name = self.container(member);
                if let Some(one) = self.boxes.get_mut(&name).filter(|one| one.state == ContainerState::Running) {
                    one.data.heard_at = self.ms;
                    self.disks.entry(name).or_default().credentials = true;
                }
            }
            Step::SendArchives { member } => {
                let hash = self.archives.hash.clone().unwrap_or_default();
                self.command(member, Command::Archives(std::boxed::Box::new(Archives { hash, ..Archives::default() })));
            }
            Step::Restore { member, order } => self.command(member, Command::Restore(order.clone())),
            Step::Restart { member, run, .. } => self.command(member, Command::Restart { run: run.clone() }),
        }
    }

    fn perform_by_docker(&mut self, step: &DockerStep) {
        match step {
            DockerStep::GetImage { .. } => self.image = true,
            DockerStep::GetBinary { .. } => self.binary = true,
            DockerStep::EnsureNetwork { .. } => {
                self.made += 1;
                self.network = Some(self.made);
            }
            DockerStep::EnsureVolume { host, spec, .. } => {
                self.places.insert(spec.name.clone(), host.clone());
                self.disks.entry(spec.name.clone()).or_default();
            }
            DockerStep::Create { host, spec, .. } => {
                self.places.insert(spec.name.clone(), host.clone());
                self.made += 1;
                let at = self.network.zip(spec.address);
                let one = Box {
                    id: self.made,
                    boot: 0,
                    state: ContainerState::Created,
                    at,
                    spec: (**spec).clone(),
                    data: Data::default(),
                    watcher: Watcher::default(),
                };
                self.boxes.entry(spec.name.clone()).or_insert(one);
            }
            DockerStep::Start { container, .. } => self.start_container(&container.clone()),
            DockerStep::Connect { container, to, .. } => {
                let network = self.network;
                if let Some(one) = self.boxes.get_mut(container) {
                    one.at = network.zip(to.address);
                    one.spec.address = to.address;
                }
            }
            DockerStep::Remove { container, grace, .. } => self.remove_container(&container.clone(), grace.is_some()),
            DockerStep::RemoveVolume { volume, .. } => drop(self.disks.remove(volume)),
            DockerStep::RemoveNetwork { .. } => self.network = None,
            DockerStep::Fill { .. } | DockerStep::Unpause { .. } | DockerStep::Stop { .. } => {}
        }
    }

    fn command(&mut self, member: &str, command: Command) {
        if self.posts {
            // It is told again and again; one copy in transit is enough.
            let letter = (member.to_owned(), command);
            if !self.letters.contains(&letter) {
                self.letters.push(letter);
            }
        } else {
            self.deliver(member, command);
        }
    }

    /// What the operator has sent arrives.
    pub fn deliver(&mut self, member: &str, command: Command) {
        let name = self.container(member);
        if self.cut.contains(member) || self.boxes.get(&name).is_none_or(|one| one.state != ContainerState::Running) {
            return;
        }
        let (member, of_data) = (member.to_owned(), !is_sentinel(&name));
        if of_data { self.order_data(&name, &member, command) } else { self.order_sentinel(&name, command) }
    }

    pub fn deliver_all(&mut self) {
        for (member, command) in std::mem::take(&mut self.letters) {
            self.deliver(&member, command);
        }
    }

    fn report(&self, name: &str) -> Report {
        let one = &self.boxes[name];
        let disk = self.disks.get(name).cloned().unwrap_or_default();
        let credentials = disk.credentials.then(|| CREDENTIALS.to_owned());
        let report =
            Report { boot: format!("{}-{}", one.id, one.boot), clock_ms: self.ms, credentials, ..Report::default() };
        let mut report =
            if is_sentinel(name) { self.report_sentinel(name, report) } else { self.report_data(name, report) };
        self.ablate(&mut report);
        report
    }

    /// Hides from the operator what an ablation hides.
    fn ablate(&self, report: &mut Report) {
        let recorded = self.address(&self.container(&self.master()));
        match (self.ablation, &mut report.redis, &mut report.sentinel) {
            (Some(Ablation::EmptyMember), Some(seen), _) => seen.has_data = true,
            (Some(Ablation::Authority), _, Some(seen)) => {
                if let (Some(master), Some(recorded)) = (&mut seen.master, recorded) {
                    (master.address, master.config_epoch) = (recorded, self.decisions().config_epoch);
                }
            }
            (Some(Ablation::OneAtATime), _, Some(seen)) => {
                if let (Some(master), Some(answer)) = (&mut seen.master, &mut seen.answer) {
                    (master.failing_over, answer.refused) = (false, Some("no".into()));
                }
            }
            (Some(Ablation::ResetConditions), _, Some(seen)) => self.all_well(seen),
            _ => {}
        }
    }

    pub fn supervise(&mut self) {
        let names: Vec<String> = self.boxes.keys().cloned().collect();
        names.iter().for_each(|name| self.supervise_one(name));
    }

    /// The supervisor of a container acts until it waits.
    pub fn supervise_one(&mut self, name: &str) {
        if self.boxes[name].state != ContainerState::Running {
            return;
        }
        let (ms, heard) = (self.ms, !self.away && !self.cut.contains(&Self::member(name)));
        if let Some(one) = self.boxes.get_mut(name).filter(|_| heard) {
            one.data.heard_at = ms;
        }
        if is_sentinel(name) { self.supervise_sentinel(name) } else { self.supervise_data(name) }
    }

    // The network between containers.

    pub fn address(&self, name: &str) -> Option<Address> {
        let one = self.boxes.get(name)?;
        if one.spec.network == HOST_NETWORK {
            return Self::listens(one);
        }
        let (_, ip) = one.at.filter(|(network, _)| Some(*network) == self.network)?;
        Some(Address { ip, port: if is_sentinel(name) { SENTINEL_PORT } else { PORT } })
    }

    /// The container at an address, if it runs.
    pub fn at(&self, address: Address) -> Option<String> {
        let names = self.boxes.iter().filter(|(_, one)| one.state == ContainerState::Running);
        names.map(|(name, _)| name).find(|name| self.address(name) == Some(address)).cloned()
    }

    pub fn reaches(&self, from: &str, to: &str) -> bool {
        let stands = |name: &str| {
            let running = self.boxes.get(name).is_some_and(|one| one.state == ContainerState::Running);
            running && self.address(name).is_some()
        };
        let apart = |name: &str| self.isolated.contains(&Self::member(name));
        let unseen = |by: &str, name: &str| self.unwatched.contains(&(Self::member(by), Self::member(name)));
        let hears = !apart(from) && !apart(to) && !unseen(from, to) && !unseen(to, from);
        stands(from) && stands(to) && (from == to || hears)
    }
}

/// All that decides what happens next. Times are those of the clock: it moves by few leaps only.
impl std::hash::Hash for World {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        for one in self.boxes.values() {
            (one.id, one.boot, one.state, one.at, &one.data, &one.watcher).hash(state);
        }
        (&self.disks, self.network, &self.heard, &self.offsets, &self.letters, &self.stored).hash(state);
        (&self.cut, &self.isolated, &self.unwatched, &self.slow, &self.acknowledged, &self.broken).hash(state);
        (self.ms, self.two_since, self.next_write, self.away, self.object.metadata.annotations.is_some()).hash(state);
        let status = self.status();
        if let Some(d) = &status.decisions {
            (d.stage, d.epoch, d.revision, d.config_epoch, &d.master, &d.run, &d.leader).hash(state);
            (d.since.as_millisecond(), d.members.len(), d.sentinels.len()).hash(state);
            if let Some(change) = &d.change {
                (&change.request, &change.to, &change.asked, change.attempt, change.phase as u8).hash(state);
                change.since.as_millisecond().hash(state);
            }
            if let Some(recovery) = &d.recovery {
                (&recovery.member, recovery.attempt, recovery.failed, recovery.since.as_millisecond()).hash(state);
            }
            if let Some(reset) = &d.reset {
                (&reset.sentinel, reset.attempt, reset.since.as_millisecond()).hash(state);
            }
        }
        status.last_switchover.as_ref().map(|last| (&last.request, last.refused.is_some())).hash(state);
    }
}

pub fn is_sentinel(name: &str) -> bool {
    name.contains("-sentinel-")
}
