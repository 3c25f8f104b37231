//! DockerHost: keeps the registered engines in sync with the objects, and reports whether each answers.
//!
//! The object's endpoint and keys are registered under its name; then the mirror of the host asks the engine and tells what
//! it knows. Deleting the object makes the operator forget the host; its containers keep running.
//!
//! While several hosts have an address, each has an agent (`agent.rs`): the one thing that this kind makes on a host. What it
//! finds is told (`found.rs`), and decides nothing here.

mod act;
mod agent;
mod found;
mod observe;
mod plan;
pub mod register;
mod speech;

pub use plan::plan;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::docker_host::{DockerHost, DockerHostSpec, DockerHostStatus, Endpoint, LOCAL, is_plain};
use crate::api::failure::Failure;
use crate::api::labels::Owner;
use crate::api::object::Object as _;
use crate::api::port_reservation::{PortOwner, PortReservation};
use crate::engine::docker::Keys;
use crate::engine::hosts::Hosts;
use crate::engine::{HostInfo, Trouble};
use crate::kinds::containers::{Docker, DockerSeen, DockerStep, WorkSeen};
use crate::kinds::hosts::Declared;
use crate::kinds::links::{LinkSeen, Links};
use crate::kinds::ports::{self, PortStep, Reserved};
use crate::runtime::{Concern, Keeper, Kind, Planned, Significance, Wake, Want};
use crate::store::{Key, Objects};
use crate::supervisor::agent::wire::{Order, Report};

/// The kind of DockerHost objects.
pub struct DockerHostKind {
    hosts: Arc<Hosts>,
    objects: Objects,
    docker: Docker,
    links: Links<speech::AgentSpeech>,
}

impl DockerHostKind {
    /// Keeps `hosts` in sync with the objects; reads keys from Secrets. `wake` is called with a host whose agent has news.
    pub fn new(hosts: Arc<Hosts>, objects: Objects, wake: Wake) -> Self {
        let docker = Docker::new(hosts.clone(), objects.clone(), wake.clone());
        let links = Links::new(wake, &objects);
        Self { hosts, objects, docker, links }
    }
}

/// The object to create when there is no DockerHost: this machine's own engine.
pub fn local_host(endpoint: &Endpoint) -> DockerHost {
    let mut spec = DockerHostSpec { endpoint: endpoint.to_string(), ..Default::default() };
    // The person who started the operator named this endpoint in DOCKER_HOST.
    spec.insecure = is_plain(&spec);
    DockerHost::new(LOCAL, spec)
}

/// The observed state of a host.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// Whether the engine is registered as in the object.
    pub registration: Registration,
    /// The engine's answer, if the host is registered as in the object.
    pub answer: Answer,
    /// How long ago it last answered.
    pub heard: Option<Duration>,
    /// Its clock when it was last read, and how long ago that was.
    pub clock: Option<(Timestamp, Duration)>,
    /// Number of managed containers by owner.
    pub containers: Option<BTreeMap<Owner, usize>>,
    /// What must leave it before it is restarted; only read during maintenance.
    pub leaders: BTreeSet<String>,
    /// Its agent, and what that is about.
    pub agent: AgentSeen,
}

/// What is observed of the agent of a host.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AgentSeen {
    /// The DockerHosts that are not being deleted, if this host has an address.
    pub hosts: BTreeMap<String, HostSeen>,
    /// The reserved ports.
    pub reserved: Reserved,
    /// What its host has of it, by the host's name; nothing while nobody needs to know.
    pub docker: BTreeMap<String, DockerSeen>,
    /// Background work on its container.
    pub work: WorkSeen,
    /// The link to it.
    pub link: Option<LinkSeen<Report>>,
    /// Why its last report was refused.
    pub refused: Option<String>,
    /// This operator has just started, so that the links are new.
    pub young: bool,
}

/// A DockerHost, as the agents see it.
#[derive(Debug, Clone, PartialEq)]
pub struct HostSeen {
    /// What it declares.
    pub declared: Declared,
    /// How reservations name it.
    pub owner: PortOwner,
    /// Its agent is heard, and listens for its peers.
    pub listens: bool,
}

/// The registration under the object's name, compared with the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registration {
    /// No engine is registered under that name.
    Absent,
    /// The registered endpoint or keys differ from the object.
    Differs,
    /// It equals the object.
    Same,
    /// It cannot be registered: (reason of the condition, the problem).
    Impossible(&'static str, String),
}

/// The engine's answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// None yet.
    NotAsked,
    /// It answers.
    Info(HostInfo),
    /// It does not answer.
    Trouble(Trouble),
    /// Another engine answers, with this ID.
    Stranger(String),
}

/// One step.
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Use the engine at this endpoint under the object's name.
    Register { host: String, endpoint: String },
    /// Use the other engine that a person has accepted.
    Accept { host: String, engine: String },
    /// Stop using it.
    Forget { host: String },
    /// Reserve or release the port of its agent.
    Port(PortStep),
    /// A step on the container of its agent.
    Docker(DockerStep),
    /// Tell its agent what to look at.
    Order(Box<Order>),
    /// Tell people that it was booted.
    Rebooted { host: String, boot: String, before: String },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register { host, endpoint } => write!(f, "register Docker host {host} at {endpoint}"),
            Self::Accept { host, engine } => write!(f, "accept engine {engine} as Docker host {host}"),
            Self::Forget { host } => write!(f, "forget Docker host {host}"),
            Self::Port(step) => step.fmt(f),
            Self::Docker(step) => step.fmt(f),
            Self::Order(order) => write!(f, "let its agent watch {} peers", order.peers.len()),
            Self::Rebooted { host, boot, before } => {
                write!(f, "Docker host {host} was booted: its boot id is {boot} and was {before}")
            }
        }
    }
}

impl Significance for Step {
    fn event_reason(&self) -> Option<&'static str> {
        match self {
            Self::Register { .. } => Some("Registered"),
            Self::Accept { .. } => Some("Accepted"),
            Self::Rebooted { .. } => Some("Rebooted"),
            Self::Port(step) => step.event_reason(),
            Self::Docker(step) => step.event_reason(),
            Self::Forget { .. } | Self::Order(_) => None,
        }
    }

    fn failure_reason(&self) -> &'static str {
        match self {
            Self::Docker(step) => step.failure_reason(),
            _ => "StepFailed",
        }
    }

    fn lane(&self) -> Option<&str> {
        match self {
            Self::Docker(step) => step.lane(),
            Self::Port(_) => Some("ports"),
            Self::Order(_) => Some(agent::AGENT),
            Self::Register { .. } | Self::Accept { .. } | Self::Forget { .. } | Self::Rebooted { .. } => None,
        }
    }
}

/// The part of a DockerHost that matters to the agents of the others.
fn peer(host: &Value) -> Value {
    let (metadata, spec) = (&host["metadata"], &host["spec"]);
    json!([metadata["uid"], metadata["deletionTimestamp"], spec["address"], spec["portRange"], spec["outOfService"]])
}

/// The host of a PortReservation.
fn host_of(reservation: &Value) -> Vec<String> {
    reservation["spec"]["host"].as_str().map(str::to_owned).into_iter().collect()
}

impl Kind for DockerHostKind {
    type Object = DockerHost;
    type Status = DockerHostStatus;
    type Observed = Observed;
    type Step = Step;

    fn concerns() -> Vec<Concern> {
        vec![
            Concern::referenced("secrets"),
            Concern::all(Self::RESOURCE).only(peer),
            Concern::named_in(PortReservation::RESOURCE, host_of).only(ports::claim),
        ]
    }

    fn references(object: &DockerHost) -> Vec<Key> {
        register::secret(object).map(|(_, key)| key).into_iter().collect()
    }

    async fn observe(&self, object: &DockerHost) -> Result<Observed, Failure> {
        observe::observe(self, object).await
    }

    fn plan(&self, object: &DockerHost, observed: &Observed, want: Want, now: Timestamp) -> Planned<Self> {
        plan(object, observed, want, now)
    }

    async fn act(&self, object: &DockerHost, step: &Step) -> Result<(), Failure> {
        act::act(self, object, step).await
    }

    fn step_failed(&self, status: Self::Status, step: &Step, failure: &Failure, now: Timestamp) -> Self::Status {
        plan::failed(status, step, failure, now)
    }

    fn companions(&self) -> Vec<&dyn Keeper> {
        vec![&self.docker.work, &self.links]
    }
}

/// How the engine that an object declares is reached; `Err`: why that cannot be, as reason and message of a condition.
type Connection = Result<(Endpoint, Option<Keys>), (&'static str, String)>;
