//! DockerHost: keeps the registered engines in sync with the objects, and reports whether each answers.
//!
//! The object's endpoint (and certificate) is registered under its name; then the engine is polled. Nothing on the host
//! is changed. Deleting the object makes the operator forget the host; its containers keep running.

mod act;
mod observe;
mod plan;

pub use plan::plan;

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use crate::api::docker_host::{DockerHost, DockerHostSpec, DockerHostStatus, Endpoint, LOCAL, is_plain};
use crate::api::failure::Failure;
use crate::engine::hosts::Hosts;
use crate::engine::{HostInfo, docker::Tls};
use crate::runtime::{Concern, Kind, Planned, Significance, Want};
use crate::store::{Key, Objects};

/// The kind of DockerHost objects.
pub struct DockerHostKind {
    hosts: Arc<Hosts>,
    objects: Objects,
}

impl DockerHostKind {
    /// Keeps `hosts` in sync with the objects; reads certificates from Secrets.
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
    /// The engine's answer; only requested if the host is registered as in the object.
    pub answer: Answer,
}

/// The registration under the object's name, compared with the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registration {
    /// No engine is registered under that name.
    Absent,
    /// The registered endpoint or certificate differs from the object.
    Differs,
    /// It equals the object.
    Same,
    /// It cannot be registered: (reason of the condition, the problem).
    Impossible(&'static str, String),
}

/// The engine's answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Not requested.
    NotAsked,
    /// It answers.
    Info(HostInfo),
    /// It does not answer, or it is unusable: the reason of the condition and the chain of causes.
    Trouble(&'static str, String),
}

/// One step.
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Use the engine at this endpoint under the object's name.
    Register { host: String, endpoint: String },
    /// Stop using it.
    Forget { host: String },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register { host, endpoint } => write!(f, "register Docker host {host} at {endpoint}"),
            Self::Forget { host } => write!(f, "forget Docker host {host}"),
        }
    }
}

impl Significance for Step {
    fn event_reason(&self) -> Option<&'static str> {
        match self {
            Self::Register { .. } => Some("Registered"),
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
        object.spec.tls.iter().map(observe::secret).collect()
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
type Connection = Result<(Endpoint, Option<Tls>), (&'static str, String)>;
