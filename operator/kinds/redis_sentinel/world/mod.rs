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
use crate::engine::{ConnectionSeen, ContainerSeen, ContainerSpec, ContainerState, ImageSeen, NetworkSeen};
use crate::kinds::containers::{DockerSeen, DockerStep, HOME, testing};
use crate::kinds::fact::Fact;
use crate::kinds::links::LinkSeen;
use crate::supervisor::redis::wire::{Act, Address, Command, PORT, Report, SENTINEL_PORT};

mod clients;
mod data;
mod faults;
mod sentinel;

pub use data::{Data, DataDisk};
pub use sentinel::{SentinelDisk, Watcher};

/// One turn of the world, in milliseconds.
pub const TURN_MS: u64 = 100;
/// The application's passwords and the others, by hash.
const CREDENTIALS: &str = "h";

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
#[derive(Debug, Clone, Default, PartialEq)]
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
    /// A guard is removed, to show why it is needed: a supervisor starts its server again in its last role by itself.
    pub starts_alone: bool,
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
            image: true,
            binary: false,
            secrets: SecretsSeen::default(),
            made: 0,
            heard: BTreeMap::new(),
            offsets: BTreeMap::new(),
            cut: BTreeSet::new(),
            isolated: BTreeSet::new(),
            slow: BTreeSet::new(),
            away: false,
            writers: true,
            next_write: 0,
            acknowledged: BTreeMap::new(),
            commands: Vec::new(),
            broken: BTreeSet::new(),
            starts_alone: false,
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
                return turn;
            }
        }
        panic!("not settled after {bound} turns:\n{}\n{:#?}", self.story(self.ms.saturating_sub(8_000)), self.status());
    }

    // The operator.

    pub fn reconcile(&mut self) -> Vec<String> {
        let names: Vec<String> = self.boxes.keys().cloned().collect();
        for name in names {
            let (member, one) = (Self::member(&name), &self.boxes[&name]);
            if one.state != ContainerState::Running || self.cut.contains(&member) {
                continue;
            }
            let (report, of) = (self.report(&name), (one.id, one.boot));
            if let Some(redis) = report.redis.as_ref().filter(|redis| redis.role.is_some()) {
                self.offsets.insert(member.clone(), (redis.offset, self.ms));
            }
            self.heard.insert(member, (report, of, self.ms));
        }
        let plan = plan(&self.object, &self.observe(), self.object.want(), self.now());
        self.object.status = Some(plan.status);
        for step in &plan.steps {
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
        let host = DockerSeen {
            containers: Fact::Known(self.boxes.iter().map(seen).collect()),
            volumes: Fact::Known(self.disks.keys().cloned().collect()),
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
            hosts: BTreeMap::from([(HOME.to_owned(), host)]),
            work: BTreeMap::new(),
            links,
            offsets: self.offsets.iter().map(age).collect(),
            calling: false,
            refused: BTreeMap::new(),
            secrets: self.secrets.clone(),
            certificates: None,
        }
    }

    fn perform(&mut self, step: &Step) {
        match step {
            Step::EnsureSecrets(facts) => {
                let (hash, facts) = (CREDENTIALS.to_owned(), Some(facts.clone()));
                self.secrets = SecretsSeen { problem: None, complete: true, hash, facts };
            }
            Step::Certificates(_) => {}
            Step::Docker(step) => self.perform_by_docker(step),
            Step::Order { member, order } => self.command(member, Command::Order((**order).clone())),
            Step::Watch { member, watch } => self.command(member, Command::Watch((**watch).clone())),
            Step::Act { member, id, act } => {
                self.command(member, Command::Act { id: id.clone(), act: act.clone() });
                if let Act::Failover { .. } = act {
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
            DockerStep::EnsureVolume { spec, .. } => drop(self.disks.entry(spec.name.clone()).or_default()),
            DockerStep::Create { spec, .. } => {
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
        let name = self.container(member);
        if self.cut.contains(member) || self.boxes.get(&name).is_none_or(|one| one.state != ContainerState::Running) {
            return;
        }
        let (member, of_data) = (member.to_owned(), !is_sentinel(&name));
        if of_data { self.order_data(&name, &member, command) } else { self.order_sentinel(&name, &member, command) }
    }

    fn report(&self, name: &str) -> Report {
        let one = &self.boxes[name];
        let disk = self.disks.get(name).cloned().unwrap_or_default();
        let credentials = disk.credentials.then(|| CREDENTIALS.to_owned());
        let report =
            Report { boot: format!("{}-{}", one.id, one.boot), clock_ms: self.ms, credentials, ..Report::default() };
        if is_sentinel(name) { self.report_sentinel(name, report) } else { self.report_data(name, report) }
    }

    fn supervise(&mut self) {
        let names: Vec<String> = self.boxes.keys().cloned().collect();
        for name in names {
            if self.boxes[&name].state != ContainerState::Running {
                continue;
            }
            if !self.away && !self.cut.contains(&Self::member(&name)) {
                let ms = self.ms;
                self.boxes.entry(name.clone()).and_modify(|one| one.data.heard_at = ms);
            }
            if is_sentinel(&name) { self.supervise_sentinel(&name) } else { self.supervise_data(&name) }
        }
    }

    // The network between containers.

    pub fn address(&self, name: &str) -> Option<Address> {
        let one = self.boxes.get(name)?;
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
        stands(from) && stands(to) && (from == to || !apart(from) && !apart(to))
    }
}

pub fn is_sentinel(name: &str) -> bool {
    name.contains("-sentinel-")
}
