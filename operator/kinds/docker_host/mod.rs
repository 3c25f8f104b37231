//! DockerHost: keeps the registered engines in sync with the objects, and reports whether each answers.
//!
//! The object's endpoint and keys are registered under its name; then the mirror of the host asks the engine and tells what
//! it knows. Nothing on the host is changed. Deleting the object makes the operator forget the host; its containers keep
//! running.

mod act;
mod observe;
mod plan;
pub mod register;

pub use plan::plan;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::api::docker_host::{DockerHost, DockerHostSpec, DockerHostStatus, Endpoint, LOCAL, is_plain};
use crate::api::failure::Failure;
use crate::api::labels::Owner;
use crate::engine::docker::Keys;
use crate::engine::hosts::Hosts;
use crate::engine::{HostInfo, Trouble};
use crate::runtime::{Concern, Kind, Planned, Significance, Want};
use crate::store::{Key, Objects};

/// The kind of DockerHost objects.
pub struct DockerHostKind {
    hosts: Arc<Hosts>,
    objects: Objects,
}

impl DockerHostKind {
    /// Keeps `hosts` in sync with the objects; reads keys from Secrets.
    pub fn new(hosts: Arc<Hosts>, objects: Objects) -> Self {
        Self { hosts, objects }
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Use the engine at this endpoint under the object's name.
    Register { host: String, endpoint: String },
    /// Use the other engine that a person has accepted.
    Accept { host: String, engine: String },
    /// Stop using it.
    Forget { host: String },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register { host, endpoint } => write!(f, "register Docker host {host} at {endpoint}"),
            Self::Accept { host, engine } => write!(f, "accept engine {engine} as Docker host {host}"),
            Self::Forget { host } => write!(f, "forget Docker host {host}"),
        }
    }
}

impl Significance for Step {
    fn event_reason(&self) -> Option<&'static str> {
        match self {
            Self::Register { .. } => Some("Registered"),
            Self::Accept { .. } => Some("Accepted"),
            Self::Forget { .. } => None,
        }
    }
}

impl Kind for DockerHostKind {
    type Object = DockerHost;
    type Status = DockerHostStatus;
    type Observed = Observed;
    type Step = Step;

    fn concerns() -> Vec<Concern> {
        vec![Concern::referenced("secrets")]
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
}

/// How the engine that an object declares is reached; `Err`: why that cannot be, as reason and message of a condition.
type Connection = Result<(Endpoint, Option<Keys>), (&'static str, String)>;
