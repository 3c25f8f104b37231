//! DockerHost: keeps the registered engines in step with the objects, and says whether each answers.
//!
//! The object's endpoint (and certificate) is registered under its name; then
//! the engine is asked how it is, again and again. Nothing on the host is changed.
//! Deleting the object makes the operator forget the host; what runs there goes on.

mod act;
mod observe;
mod plan;

pub use plan::plan;

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use crate::api::docker_host::{DockerHost, DockerHostSpec, DockerHostStatus, Endpoint, LOCAL};
use crate::api::failure::Failure;
use crate::engine::hosts::Hosts;
use crate::engine::{HostInfo, docker::Tls};
use crate::runtime::{Concern, Kind, Planned, Significance, Want};
use crate::store::{Key, Objects};

/// The controller of DockerHost objects.
pub struct DockerHostKind {
    hosts: Arc<Hosts>,
    objects: Objects,
}

impl DockerHostKind {
    /// Keeps `hosts` in step with the objects; certificates are read from Secrets.
    pub fn new(hosts: Arc<Hosts>, objects: Objects) -> Self {
        Self { hosts, objects }
    }
}

/// The object to create when no DockerHost is declared: this machine's own engine.
pub fn local_host(endpoint: &Endpoint) -> DockerHost {
    DockerHost::new(LOCAL, DockerHostSpec { endpoint: endpoint.to_string(), ..Default::default() })
}

/// What is true of a host right now.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// Whether the operator uses the host as the object says.
    pub registration: Registration,
    /// What the engine says; only asked of a host that is registered as the object says.
    pub answer: Answer,
}

/// How the object and what is registered under its name compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registration {
    /// No engine has that name.
    Absent,
    /// The engine of that name is reached in another way than the object says.
    Differs,
    /// As the object says.
    Same,
    /// It cannot be as the object says: (reason of the condition, what is wrong).
    Impossible(&'static str, String),
}

/// What the engine says.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Not asked.
    NotAsked,
    /// It answers.
    Info(HostInfo),
    /// It does not, or it cannot be used: the reason of the condition and the chain of causes.
    Trouble(&'static str, String),
}

/// One deed.
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
