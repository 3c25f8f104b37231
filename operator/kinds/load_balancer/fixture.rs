//! Shared by the tests of this kind: an object, its surroundings, and balancers that obey commands.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use jiff::Timestamp;

use super::diff::{Command, Verb};
use super::places::{self, Place};
use super::seen::{Admin, Answer, AtBalancer, Health};
use super::{
    Balancer, Certificate, ConfigFiles, Fact, Hidden, LoadBalancer, Observed, Refusal, Signalled, Step, observe, plan,
    text, workload,
};
use crate::api::endpoints::{Endpoint, EndpointRole, EndpointSet, EndpointState, Routable, RoutableStatus};
use crate::api::labels;
use crate::api::load_balancer::LoadBalancerStatus;
use crate::api::object::Object as _;
use crate::engine::{Attachment, ConnectionSeen, ContainerSeen, ContainerSpec, ContainerState, ImageSeen, NetworkSeen};
use crate::kinds::containers::{DockerSeen, DockerStep, HOME, testing};
use crate::kinds::hosts::Declared;
use crate::kinds::ports::{self, PortStep};
use crate::kinds::waits;
use crate::runtime::Plan;

/// A time, in seconds.
pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// Two balancers for a web application and a database.
pub const WEB_AND_DATABASE: &str = r"
replicas: 2
frontends:
- {name: https, port: 443, tls: {secretName: cert}, backend: web}
- {name: http, port: 80, redirectToHttps: true, hostPort: 8080}
- {name: pg-rw, port: 5432, mode: tcp, backend: db}
- {name: pg-ro, port: 5433, mode: tcp, backend: ro}
- {name: api, port: 8000, backend: fixed, timeouts: {client: 5m}}
backends:
- {name: web, deployment: {name: web, port: 8052}, healthCheck: {path: /ping, interval: 1s}, stick: {by: cookie}, drainTimeout: 10s}
- {name: db, postgres: {name: pg, role: primary}}
- {name: ro, postgres: {name: pg, role: replica}}
- {name: fixed, servers: ['10.9.0.1:80', 'api.example.com:80'], balance: leastconn, stick: {by: source}}
stats: {hostPort: 18404}
";

/// The same with a RedisSentinel as the database.
pub fn web_and_redis() -> String {
    WEB_AND_DATABASE
        .replace("postgres: {name: pg, role: primary}", "redisSentinel: {name: pg, role: master}")
        .replace("postgres: {name: pg, role: replica}", "redisSentinel: {name: pg, role: replica}")
}

/// A test world with one object.
pub struct World {
    /// The object.
    pub object: LoadBalancer,
    /// Everything that is observed.
    pub observed: Observed,
    /// The time.
    pub now: Timestamp,
}

impl World {
    /// A world with this spec; its containers run and have no configuration yet.
    pub fn new(spec: &str) -> Self {
        let spec = serde_saphyr::from_str(spec).unwrap();
        let mut object = LoadBalancer::new("edge", spec);
        object.metadata.namespace = Some("default".into());
        object.metadata.uid = Some("uid".into());
        object.metadata.generation = Some(1);
        let mut observed = Observed {
            hosts: BTreeMap::from([(HOME.to_owned(), docker(&object))]),
            declared: BTreeMap::from([(
                HOME.to_owned(),
                Declared { open: true, domain: HOME.into(), ..Default::default() },
            )]),
            reserved: BTreeMap::new(),
            silent: BTreeMap::new(),
            waited: BTreeMap::new(),
            work: BTreeMap::new(),
            balancers: BTreeMap::new(),
            targets: BTreeMap::new(),
            certificates: BTreeMap::new(),
            stats_password: object.spec.stats.as_ref().map(|_| Hidden("secret".into())),
        };
        let good = Certificate { hash: "c0ffee".into(), pem: Hidden("PEM".into()) };
        observed.certificates.insert("cert".into(), Ok(good));
        let mut world = Self { object, observed, now: at(100) };
        world.containers();
        for (_, container) in members(&world.object) {
            world.observed.balancers.insert(container, bootstrapped(HOME));
        }
        world
    }

    /// A world with these hosts instead of the only one, each with an address, and no containers yet.
    pub fn on_hosts(spec: &str, hosts: &[&str]) -> Self {
        let mut world = Self::new(spec);
        let docker = DockerSeen { volumes: Fact::Known(BTreeSet::new()), ..docker(&world.object) };
        world.observed.hosts = hosts.iter().map(|host| ((*host).to_owned(), docker.clone())).collect();
        let declared = |(host, last): (&&str, u8)| {
            let address = Some(Ipv4Addr::new(192, 0, 2, last));
            ((*host).to_owned(), Declared { address, open: true, domain: (*host).into(), ..Default::default() })
        };
        world.observed.declared = hosts.iter().zip(1..).map(declared).collect();
        world.observed.balancers.clear();
        world
    }

    /// What Docker shows.
    pub fn docker(&mut self) -> &mut DockerSeen {
        self.observed.hosts.get_mut(HOME).unwrap()
    }

    /// Makes every container run as desired.
    pub fn containers(&mut self) {
        let spec =
            |ordinal| workload::container_spec(&self.object, &self.observed, &self.place(ordinal), "binary").unwrap();
        let all = (1..=self.object.spec.replicas).map(spec).map(|spec| (spec.name.clone(), made(&spec)));
        let all = all.collect();
        self.docker().containers = Fact::Known(all);
    }

    /// The place of a balancer on the only host.
    pub fn place(&self, ordinal: u32) -> Place {
        let (member, container) = members(&self.object)[ordinal as usize - 1].clone();
        Place { member, container, host: Some(HOME.into()), above: ordinal - 1 }
    }

    /// Sets the pods of Deployment `web`: name, last byte of the address (0: none), and which of `ready` and `leaving`
    /// hold.
    pub fn pods(&mut self, pods: &[(&str, u8, &str)]) {
        let endpoint = |(name, address, words): &(&str, u8, &str)| Endpoint {
            name: (*name).into(),
            host: "local".into(),
            address: (*address > 0).then(|| Ipv4Addr::new(10, 1, 0, *address)),
            state: match () {
                () if words.contains("leaving") => EndpointState::Leaving,
                () if words.contains("ready") && *address > 0 => EndpointState::Serving,
                () => EndpointState::Out,
            },
            ..Default::default()
        };
        let endpoints = pods.iter().map(endpoint).collect();
        let set = EndpointSet { network: "evenkeel-default".into(), epoch: 0, endpoints };
        self.target("Deployment", "web", Some(set));
    }

    /// Sets the database `pg`: term, stage, leader, and each instance as `name state`.
    pub fn cluster(&mut self, term: u64, stage: &str, leader: &str, instances: &[&str]) {
        let set = self.cluster_set(term, stage, leader, instances);
        let first = self.target(self.database(), "pg", Some(set)).is_none();
        if first && self.object.status.is_none() {
            // It existed before the balancers, which are in its network.
            self.containers();
        }
    }

    /// The kind of that database.
    pub fn database(&self) -> &'static str {
        let mut backends = self.object.spec.backends.iter();
        backends.find(|backend| backend.is_database()).and_then(|one| Some(one.target()?.object()?.kind)).unwrap()
    }

    /// The endpoints of that database.
    pub fn cluster_set(&self, term: u64, stage: &str, leader: &str, instances: &[&str]) -> EndpointSet {
        let parts: Vec<(&str, &str)> = instances.iter().map(|one| one.split_once(' ').unwrap()).collect();
        let streaming = parts.iter().any(|(_, state)| *state == "streaming");
        let endpoint = |(ordinal, (name, state)): (u8, &(&str, &str))| {
            let primary = (stage == "Steady" && *name == leader).then_some(EndpointRole::Primary);
            let replica = (*state != "running" || !streaming).then_some(EndpointRole::Replica);
            Endpoint {
                name: (*name).into(),
                host: "local".into(),
                address: Some(Ipv4Addr::new(10, 2, 0, ordinal)),
                port: Some(5432),
                roles: primary.into_iter().chain(replica).collect(),
                state: match *state {
                    "running" | "streaming" => EndpointState::Serving,
                    "unknown" | "paused" => EndpointState::Unknown,
                    _ => EndpointState::Out,
                },
                ..Default::default()
            }
        };
        let endpoints = (1..).zip(&parts).map(endpoint).collect();
        EndpointSet { network: "default.pg".into(), epoch: term, endpoints }
    }

    /// Sets an object that backends refer to; returns the previous one.
    pub fn target(&mut self, kind: &str, name: &str, endpoint_set: Option<EndpointSet>) -> Option<Routable> {
        let named = self.object.spec.backends.iter().filter_map(|backend| backend.target()?.object());
        let named = named.into_iter().find(|one| one.kind == kind && one.name == name);
        let status = Some(RoutableStatus { endpoint_set });
        self.observed.targets.insert(named?, Routable { metadata: Default::default(), status })
    }

    /// Plans once and records the status; performs no step.
    pub fn plan(&mut self) -> Plan<Step, LoadBalancerStatus> {
        let moments = observe::moments(self.object.status.as_ref());
        self.observed.waited = waits::by_the_clock(self.now, moments);
        let plan = plan::plan(&self.object, &self.observed, self.object.want(), self.now);
        self.object.status = Some(plan.status.clone());
        plan
    }

    /// Plans once and performs all steps on balancers; returns the steps as text.
    pub fn round(&mut self) -> String {
        let plan = self.plan();
        plan.steps.iter().for_each(|step| self.perform(step));
        self.now = self.now.checked_add(std::time::Duration::from_secs(2)).unwrap();
        plan.steps.iter().map(|step| format!("{step}\n")).collect()
    }

    /// Rounds until there is nothing to do.
    pub fn settle(&mut self) -> String {
        let (mut said, mut calm) = (String::new(), 0);
        for _ in 0..40 {
            let round = self.round();
            calm = if round.is_empty() { calm + 1 } else { 0 };
            // The plan may have waited for a reload.
            if calm == 2 {
                return said;
            }
            said.push_str(&round);
            self.checks(Health::Up);
        }
        panic!("it does not settle:\n{said}");
    }

    /// Performs a step on the balancers.
    pub fn perform(&mut self, step: &Step) {
        match step {
            Step::Tell { container, commands, .. } => {
                let answer = self.answer(container);
                commands.iter().for_each(|command| obey(answer, command));
            }
            Step::Write { container, config, runs, .. } => {
                let files = self.files(container);
                let before = std::mem::replace(&mut files.current, Hidden(config.text.clone()));
                if *runs {
                    files.good = Some(files.current.clone());
                } else {
                    files.good.get_or_insert(before);
                }
            }
            Step::Reload { container, hash, failed } => {
                let text = self.files(container).current.0.clone();
                let (at, hash, failed) = (self.now, hash.clone(), *failed);
                let balancer = self.observed.balancers.get_mut(container).unwrap();
                balancer.signalled = Some(Signalled { hash, at, failed });
                match &mut balancer.answer {
                    // No process can run this configuration.
                    Fact::Known(answer) if text.contains("bind :667") => answer.failed += 1,
                    answer => *answer = Fact::Known(started(&text)),
                }
            }
            Step::End { container, processes, .. } => {
                self.answer(container).old.retain(|process| !processes.contains(process));
            }
            Step::Keep { container, accepted } => {
                let files = self.files(container);
                files.good = Some(files.current.clone());
                files.refused.take_if(|_| *accepted);
            }
            Step::Refuse { container, skeleton, .. } => {
                let refused = Refusal { skeleton: skeleton.clone(), words: "no process took it up".into() };
                self.files(container).refused = Some(refused);
            }
            Step::Docker(step) => self.perform_by_docker(step),
            Step::EnsureStats => {}
            Step::Port(PortStep::Reserve(spec)) => ports::note(&mut self.observed.reserved, spec),
            Step::Port(PortStep::Release { host, port, .. } | PortStep::Foreign { host, port }) => {
                self.observed.reserved.remove(&(host.clone(), *port));
            }
        }
    }

    /// Performs a Docker step; work that runs in the background in production is done at once.
    fn perform_by_docker(&mut self, step: &DockerStep) {
        let balancers = &mut self.observed.balancers;
        let docker = self.observed.hosts.get_mut(host_of(step)).unwrap();
        let (Fact::Known(containers), Fact::Known(volumes)) = (&mut docker.containers, &mut docker.volumes) else {
            return;
        };
        match step {
            DockerStep::Start { host, container, .. } => {
                containers.get_mut(container).unwrap().state = ContainerState::Running;
                balancers.entry(container.clone()).or_insert_with(|| bootstrapped(host));
            }
            DockerStep::Connect { container, to, .. } => {
                containers.get_mut(container).unwrap().networks.extend([connected(to.clone())]);
            }
            DockerStep::Remove { host, container, .. } => {
                if balancers.get(container).is_some_and(|balancer| balancer.host == *host) {
                    balancers.remove(container);
                }
                containers.remove(container);
            }
            DockerStep::Create { host, spec, .. } => {
                containers.insert(spec.name.clone(), made(spec));
                balancers.insert(spec.name.clone(), bootstrapped(host));
            }
            DockerStep::EnsureVolume { spec, .. } => drop(volumes.insert(spec.name.clone())),
            DockerStep::RemoveVolume { volume, .. } => drop(volumes.remove(volume)),
            DockerStep::GetImage { image, .. } => {
                docker.images = Fact::Known([(image.clone(), image_seen())].into());
            }
            _ => {}
        }
    }

    /// The configuration files of a balancer.
    pub fn files(&mut self, container: &str) -> &mut ConfigFiles {
        match &mut self.observed.balancers.get_mut(container).unwrap().files {
            Fact::Known(files) => files,
            Fact::Unknown(why) => panic!("the files of {container} are not known: {why}"),
        }
    }

    /// The answer of a balancer.
    pub fn answer(&mut self, container: &str) -> &mut Answer {
        match &mut self.observed.balancers.get_mut(container).unwrap().answer {
            Fact::Known(answer) => answer,
            Fact::Unknown(why) => panic!("{container} does not answer: {why}"),
        }
    }

    /// Sets the result of every running health check.
    pub fn checks(&mut self, health: Health) {
        for balancer in self.observed.balancers.values_mut() {
            let Fact::Known(answer) = &mut balancer.answer else { continue };
            let checked = |seen: &&mut AtBalancer| seen.health != Health::NoCheck && seen.admin != Admin::Maint;
            answer.servers.values_mut().filter(checked).for_each(|seen| seen.health = health);
        }
    }

    /// The servers of all backends as in the status, and the conditions that are not healthy.
    pub fn told(&self) -> String {
        let status = self.object.status.as_ref().unwrap();
        let mut told = format!("{} {}/{}\n", status.phase, status.ready_replicas, status.replicas);
        for backend in &status.backends {
            let servers: Vec<_> = backend.servers.iter().map(|one| format!("{} {:?}", one.name, one.state)).collect();
            told.push_str(&format!("{}: {}\n", backend.name, servers.join(", ")));
        }
        let fine = |kind: &str| if ["Degraded", "Progressing"].contains(&kind) { "False" } else { "True" };
        for one in status.conditions.iter().filter(|one| one.status != fine(&one.type_)) {
            told.push_str(&format!("{}={} {}: {}\n", one.type_, one.status, one.reason, one.message));
        }
        told
    }
}

/// The host of a step that this world performs.
fn host_of(step: &DockerStep) -> &str {
    match step {
        DockerStep::Start { host, .. }
        | DockerStep::Connect { host, .. }
        | DockerStep::Remove { host, .. }
        | DockerStep::Create { host, .. }
        | DockerStep::EnsureVolume { host, .. }
        | DockerStep::RemoveVolume { host, .. }
        | DockerStep::GetImage { host, .. }
        | DockerStep::GetBinary { host, .. }
        | DockerStep::EnsureNetwork { host, .. } => host,
        other => panic!("{other}: not known to this world"),
    }
}

/// The balancers: name and container.
pub fn members(object: &LoadBalancer) -> Vec<(String, String)> {
    let places = places::members(object, &BTreeMap::new());
    places.into_iter().map(|place| (place.member, place.container)).collect()
}

/// A host that has everything that the object needs except its containers.
fn docker(object: &LoadBalancer) -> DockerSeen {
    let network = |name: &str| {
        let (id, subnet) = (format!("id of {name}"), (Ipv4Addr::new(10, 0, 0, 0), 24));
        (name.to_owned(), NetworkSeen { name: name.to_owned(), id, ours: true, subnet })
    };
    DockerSeen {
        containers: Fact::Known(BTreeMap::new()),
        volumes: Fact::Known(members(object).into_iter().map(|(_, container)| container).collect()),
        foreign: Fact::Known(BTreeSet::new()),
        networks: Fact::Known([network("evenkeel-default"), network("default.pg")].into()),
        images: Fact::Known(
            ["haproxy:2.6", "haproxy:2.8", "nginx:1.22", object.spec.image()]
                .map(|one| (one.to_owned(), image_seen()))
                .into(),
        ),
        binary: Some("binary".into()),
        daemon: Some(testing::daemon()),
    }
}

fn image_seen() -> ImageSeen {
    ImageSeen { id: String::new(), ..Default::default() }
}

/// A running container that was created from this spec.
fn made(spec: &ContainerSpec) -> ContainerSeen {
    let mut labels = spec.labels.clone();
    labels.insert(labels::SPEC_HASH.into(), spec.hash());
    ContainerSeen {
        id: format!("id of {}", spec.name),
        name: spec.name.clone(),
        labels,
        state: ContainerState::Running,
        image: spec.image.clone(),
        networks: spec.attachments().into_iter().map(connected).collect(),
        exit_code: None,
    }
}

/// A connection like this one.
fn connected(to: Attachment) -> (String, ConnectionSeen) {
    let (network, address) = (format!("id of {}", to.network), Some(Ipv4Addr::new(10, 0, 0, 1)));
    (to.network, ConnectionSeen { network, address, aliases: Some(to.aliases) })
}

/// A balancer that has just started.
pub fn bootstrapped(host: &str) -> Balancer {
    let answer = Answer { hash: "bootstrap".into(), ..Default::default() };
    let current = Hidden(super::haproxy::BOOTSTRAP.into());
    let files = ConfigFiles { current, good: None, refused: None };
    Balancer { host: host.into(), answer: Fact::Known(answer), files: Fact::Known(files), signalled: None }
}

/// An HAProxy that has just read this configuration.
pub fn started(config: &str) -> Answer {
    let mut answer = Answer { hash: text::hash_in(config).unwrap().to_owned(), ..Default::default() };
    let mut backend = String::new();
    for line in config.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            ["backend", name] => {
                backend = (*name).to_owned();
                answer.backends.insert(backend.clone());
            }
            ["server", name, address, rest @ ..] => {
                let (host, port) = address.rsplit_once(':').unwrap();
                let checked = rest.contains(&"check");
                answer.servers.insert(
                    (backend.clone(), (*name).to_owned()),
                    AtBalancer {
                        address: host.parse().ok(),
                        port: port.parse().unwrap(),
                        admin: if rest.contains(&"disabled") { Admin::Maint } else { Admin::Ready },
                        health: if checked { Health::Unchecked } else { Health::NoCheck },
                        sessions: 0,
                    },
                );
            }
            _ => {}
        }
    }
    answer
}

/// Applies a command to an HAProxy.
pub fn obey(answer: &mut Answer, command: &Command) {
    let key = (command.backend.clone(), command.server.clone());
    if let Verb::Add(address, port, options) = &command.verb {
        answer.servers.entry(key).or_insert(AtBalancer {
            address: Some(*address),
            port: *port,
            admin: Admin::Maint,
            health: if options.contains(" check") { Health::Unchecked } else { Health::NoCheck },
            sessions: 0,
        });
        return;
    }
    let Some(seen) = answer.servers.get_mut(&key) else { return };
    match &command.verb {
        Verb::State(admin) => {
            if *admin == Admin::Maint && command.backend == "db" {
                // on-marked-down shutdown-sessions
                seen.sessions = 0;
            }
            seen.admin = *admin;
        }
        Verb::Cut => seen.sessions = 0,
        Verb::Address(address, port) => (seen.address, seen.port) = (Some(*address), *port),
        Verb::Delete if seen.admin == Admin::Maint && seen.sessions == 0 => drop(answer.servers.remove(&key)),
        Verb::Delete | Verb::Check | Verb::Cookie(_) | Verb::Add(..) => {}
    }
}
