//! LoadBalancer: HAProxy or nginx in front of Deployments, databases and fixed addresses.
//!
//! `observe` asks Docker, the store and the balancers. `plan` decides: `routing.rs` the servers of each backend, `places.rs`
//! the host of each balancer,
//! `workload.rs` the containers, `diff.rs` HAProxy's commands, `stages.rs` how a configuration comes into use,
//! `status.rs` the text for people. `act` performs. A configuration is rendered from a value (`render.rs`,
//! `haproxy.rs`, `nginx.rs`), and the engine itself checks it before use.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use crate::api::deployment::Deployment;
use crate::api::docker_host::DockerHost;
use crate::api::endpoints::Routable;
use crate::api::failure::Failure;
use crate::api::load_balancer::{LoadBalancer, LoadBalancerStatus, TargetObject};
use crate::api::object::Object as _;
use crate::api::port_reservation::PortReservation;
use crate::api::postgres_cluster::PostgresCluster;
use crate::api::redis_sentinel::RedisSentinel;
use crate::engine::hosts::Hosts;
use crate::engine::{ContainerSeen, Engine, File};
use crate::kinds::containers::converge::removing;
use crate::kinds::containers::{Docker, DockerSeen, DockerStep, WorkSeen};
use crate::kinds::fact::Fact;
use crate::kinds::host_state;
use crate::kinds::hosts::DeclaredHosts;
use crate::kinds::loss::Silent;
use crate::kinds::ports::{self, PortStep, Reserved};
use crate::kinds::silence::Silence;
use crate::kinds::waits::{Waited, Waits};
use crate::runtime::companions::Companions;
use crate::runtime::{Concern, Keeper, Kind, Planned, Significance, Wake, Want};
use crate::store::objects::Objects;
use crate::store::{Clock, Key};

mod act;
#[cfg(test)]
mod configurations;
mod configure;
mod context;
mod dialect;
pub mod diff;
#[cfg(test)]
mod fixture;
pub mod haproxy;
pub mod inputs;
pub mod links;
mod names;
pub mod nginx;
mod observe;
pub mod places;
pub mod plan;
#[cfg(test)]
mod properties;
mod published;
pub mod render;
pub mod routing;
#[cfg(test)]
mod scenarios;
mod secrets;
pub mod seen;
#[cfg(test)]
mod several_hosts;
mod stages;
mod status;
#[cfg(test)]
mod tests;
pub mod text;
pub mod workload;

use diff::Command;
use links::{ContainerRef, Link, LinkId};
use places::Place;
use render::Config;
use seen::Answer;

/// The kind of LoadBalancer objects.
pub struct LoadBalancerKind {
    docker: Docker,
    objects: Objects,
    clock: Arc<dyn Clock>,
    links: Companions<LinkId, Arc<Link>>,
    silence: Silence,
    waits: Waits,
}

impl LoadBalancerKind {
    /// The kind over these hosts and objects; `wake` is called with a LoadBalancer when its work has ended.
    pub fn new(hosts: Arc<Hosts>, objects: Objects, clock: Arc<dyn Clock>, wake: Wake) -> Self {
        let docker = Docker::new(hosts, objects.clone(), wake.clone());
        let (silence, waits) = Default::default();
        Self { docker, objects, clock, links: Companions::new(wake), silence, waits }
    }

    /// A balancer's container with its link.
    fn link(&self, object: &LoadBalancer, engine: Arc<dyn Engine>, id: LinkId) -> ContainerRef {
        let link = self.links.keep(&object.owner(), id.clone(), Default::default);
        ContainerRef { engine, dialect: render::dialect(object.spec.engine), id, link }
    }
}

impl Kind for LoadBalancerKind {
    type Object = LoadBalancer;
    type Status = LoadBalancerStatus;
    type Observed = Observed;
    type Step = Step;

    fn concerns() -> Vec<Concern> {
        vec![
            Concern::referenced("secrets"),
            Concern::all(DockerHost::RESOURCE).only(host_state),
            Concern::all(PortReservation::RESOURCE).only(ports::claim),
            Concern::referenced(Deployment::RESOURCE).only(observe::endpoints),
            Concern::referenced(PostgresCluster::RESOURCE).only(observe::endpoints),
            Concern::referenced(RedisSentinel::RESOURCE).only(observe::endpoints),
        ]
    }

    fn references(object: &LoadBalancer) -> Vec<Key> {
        observe::references(object)
    }

    async fn observe(&self, object: &LoadBalancer) -> Result<Observed, Failure> {
        observe::observe(self, object).await
    }

    fn plan(&self, object: &LoadBalancer, observed: &Observed, want: Want, now: Timestamp) -> Planned<Self> {
        plan::plan(object, observed, want, now)
    }

    /// What was recorded is waited for from now.
    fn recorded(&self, before: &LoadBalancer, status: &LoadBalancerStatus) {
        self.waits.note(&before.owner(), observe::moments(Some(status)));
    }

    async fn act(&self, object: &LoadBalancer, step: &Step) -> Result<(), Failure> {
        act::act(self, object, step).await
    }

    fn companions(&self) -> Vec<&dyn Keeper> {
        vec![&self.docker.work, &self.links, &self.waits]
    }
}

/// One snapshot of everything that the plan of a LoadBalancer needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// What was observed on each host.
    pub hosts: BTreeMap<String, DockerSeen>,
    /// What the DockerHosts declare.
    pub declared: DeclaredHosts,
    /// The reserved ports.
    pub reserved: Reserved,
    /// The hosts that do not answer.
    pub silent: Silent,
    /// How long this operator has known of the recorded moments.
    pub waited: Waited,
    /// Background work on its containers that runs, or that failed.
    pub work: WorkSeen,
    /// The running balancers, by container name.
    pub balancers: BTreeMap<String, Balancer>,
    /// The existing objects that its backends refer to.
    pub targets: Targets,
    /// The certificates that it refers to.
    pub certificates: Certificates,
    /// The password of the stats page, if it exists.
    pub stats_password: Option<Hidden>,
}

impl Observed {
    /// What was observed on the host of a balancer.
    pub fn docker(&self, place: &Place) -> Option<&DockerSeen> {
        self.hosts.get(place.host.as_ref()?)
    }

    /// The container of a balancer.
    pub fn container(&self, place: &Place) -> Option<&ContainerSeen> {
        self.docker(place)?.container(&place.container)
    }

    /// A balancer that runs at its place.
    pub fn balancer(&self, place: &Place) -> Option<&Balancer> {
        self.balancers.get(&place.container).filter(|balancer| place.host.as_ref() == Some(&balancer.host))
    }

    /// Whether the container of a balancer is being stopped so that it can be removed.
    pub fn stopping(&self, place: &Place) -> bool {
        place.host.as_ref().is_some_and(|host| removing(&self.work, host, &place.container))
    }
}

/// A running balancer.
#[derive(Debug, Clone, PartialEq)]
pub struct Balancer {
    /// Its host.
    pub host: String,
    /// Its answer.
    pub answer: Fact<Answer>,
    /// Its configuration files.
    pub files: Fact<ConfigFiles>,
    /// The last reload that this operator requested.
    pub signalled: Option<Signalled>,
}

/// The configuration files in the volume of a balancer.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigFiles {
    /// The file in use: a process reads it when it starts.
    pub current: Hidden,
    /// The last one that a process took up, if any.
    pub good: Option<Hidden>,
    /// The configuration that its engine refused last.
    pub refused: Option<Refusal>,
}

/// A configuration that an engine refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Hash of its skeleton.
    pub skeleton: String,
    /// The engine's message.
    pub words: String,
}

/// A reload that was requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signalled {
    /// Hash of the configuration.
    pub hash: String,
    /// The time.
    pub at: Timestamp,
    /// Number of failed reloads in a row before that.
    pub failed: u32,
}

/// A valid certificate with its key.
#[derive(Debug, Clone, PartialEq)]
pub struct Certificate {
    /// Its hash.
    pub hash: String,
    /// Chain and key in PEM.
    pub pem: Hidden,
}

/// The existing objects that backends refer to.
pub type Targets = BTreeMap<TargetObject, Routable>;

/// Certificates by Secret, or the problem of each.
pub type Certificates = BTreeMap<String, Result<Certificate, String>>;

/// A text that is never printed.
#[derive(Clone, PartialEq)]
pub struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// One step. All are idempotent; `Display` is the log line, the Event, the dry run and the test's expectation.
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Create the password of the stats page, unless it exists.
    EnsureStats,
    /// A step on its containers, volumes or network.
    Docker(DockerStep),
    /// A step on a reserved port.
    Port(PortStep),
    /// Change servers of a running balancer through its runtime socket; in `old`, the processes from before a reload, only
    /// sessions are cut.
    Tell { container: String, commands: Vec<Command>, old: Vec<u32> },
    /// Write a configuration and its files into the volume and make it the file in use, unless the engine refuses it;
    /// `runs`: the running process has it already, except for its servers.
    Write { container: String, config: Config, files: Vec<File>, runs: bool },
    /// End these processes from before a reload, the oldest, because the next reload would leave more than `most` behind.
    End { container: String, processes: Vec<u32>, most: usize },
    /// Tell the engine to run the file in use, which has this hash; `failed`: failed reloads in a row before this one.
    Reload { container: String, hash: String, failed: u32 },
    /// Keep the file in use, which runs, as the last good one; `accepted`: it is the desired one, so an earlier refusal
    /// is outdated.
    Keep { container: String, accepted: bool },
    /// Record that no process took up the configuration with this hash and skeleton.
    Refuse { container: String, hash: String, skeleton: String },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EnsureStats => write!(f, "write the Secret of the stats page"),
            Self::Docker(step) => step.fmt(f),
            Self::Port(step) => step.fmt(f),
            Self::Tell { container, commands, .. } => {
                write!(f, "tell {container}: ")?;
                for (at, command) in commands.iter().enumerate() {
                    write!(f, "{}{command}", if at == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Self::Write { container, config: Config { last_good: true, .. }, .. } => {
                write!(f, "write the last good configuration of {container}")
            }
            Self::Write { container, runs: true, .. } => {
                write!(f, "write the servers into the configuration of {container}")
            }
            Self::Write { container, config, .. } => write!(f, "give {container} configuration {}", config.hash),
            Self::End { container, processes, most } => {
                let old: Vec<_> = processes.iter().map(ToString::to_string).collect();
                let old = old.join(", ");
                write!(f, "end old process {old} of {container}: reloads may leave at most {most}")
            }
            Self::Reload { container, hash, .. } => write!(f, "reload {container} with configuration {hash}"),
            Self::Keep { container, .. } => write!(f, "keep the configuration of {container} as the last good one"),
            Self::Refuse { container, hash, .. } => {
                write!(f, "note that {container} did not take up configuration {hash}")
            }
        }
    }
}

impl Significance for Step {
    fn failure_reason(&self) -> &'static str {
        match self {
            Self::Docker(step) => step.failure_reason(),
            _ => "StepFailed",
        }
    }

    fn event_reason(&self) -> Option<&'static str> {
        match self {
            Self::Docker(step) => step.event_reason(),
            Self::Port(step) => step.event_reason(),
            Self::End { .. } => Some("OldProcessesEnded"),
            Self::Reload { .. } => Some("Reloading"),
            Self::Refuse { .. } => Some("ConfigRefused"),
            Self::Tell { .. } => Some("ServersChanged"),
            Self::EnsureStats | Self::Write { .. } | Self::Keep { .. } => None,
        }
    }

    fn lane(&self) -> Option<&str> {
        match self {
            Self::Docker(step) => step.lane(),
            Self::Port(_) => Some("ports"),
            Self::Tell { container, .. }
            | Self::Write { container, .. }
            | Self::End { container, .. }
            | Self::Reload { container, .. }
            | Self::Keep { container, .. }
            | Self::Refuse { container, .. } => Some(container),
            Self::EnsureStats => Some("Secrets"),
        }
    }
}
