//! LoadBalancer: HAProxy or nginx in front of Deployments, databases and fixed addresses.
//!
//! `observe` asks Docker, the store and the balancers themselves, `plan` decides (where a backend goes in `routing.rs`,
//! containers in `workload.rs`, what HAProxy is told in `diff.rs`, how a configuration comes into use in `stages.rs`, what people
//! are told in `status.rs`), `act` performs. A configuration is text made from a value (`render.rs`, `haproxy.rs`, `nginx.rs`),
//! checked by the engine itself before use.

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
use crate::api::postgres_cluster::PostgresCluster;
use crate::engine::hosts::Hosts;
use crate::engine::{ContainerSeen, Engine, File};
use crate::kinds::containers::converge::removing;
use crate::kinds::containers::{Docker, DockerSeen, DockerStep, HOME, WorkSeen};
use crate::kinds::fact::Fact;
use crate::kinds::host_state;
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
mod inputs;
mod links;
mod names;
pub mod nginx;
mod observe;
pub mod plan;
#[cfg(test)]
mod properties;
pub mod render;
pub mod routing;
#[cfg(test)]
mod scenarios;
mod secrets;
pub mod seen;
mod stages;
mod status;
#[cfg(test)]
mod tests;
pub mod text;
pub mod workload;

use diff::Command;
use links::{ContainerRef, Link, LinkId};
use render::Config;
use seen::Answer;

/// What the kind works with.
pub struct LoadBalancerKind {
    docker: Docker,
    objects: Objects,
    clock: Arc<dyn Clock>,
    links: Companions<LinkId, Arc<Link>>,
}

impl LoadBalancerKind {
    /// A controller over these hosts and objects; `wake` is called with LoadBalancers of which work has ended.
    pub fn new(hosts: Arc<Hosts>, objects: Objects, clock: Arc<dyn Clock>, wake: Wake) -> Self {
        let docker = Docker::new(hosts, objects.clone(), wake.clone());
        Self { docker, objects, clock, links: Companions::new(wake) }
    }

    /// A balancer that can be spoken to, by its container.
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
            Concern::referenced(DockerHost::RESOURCE).only(host_state),
            Concern::referenced(Deployment::RESOURCE).only(observe::endpoints),
            Concern::referenced(PostgresCluster::RESOURCE).only(observe::endpoints),
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

    async fn act(&self, object: &LoadBalancer, step: &Step) -> Result<(), Failure> {
        act::act(self, object, step).await
    }

    fn companions(&self) -> Vec<&dyn Keeper> {
        vec![&self.docker.work, &self.links]
    }
}

/// One snapshot of what concerns a balancer.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// What the hosts of its balancers show.
    pub hosts: BTreeMap<String, DockerSeen>,
    /// Work about its containers that goes on beside the loop, or failed.
    pub work: WorkSeen,
    /// The running balancers, by container name.
    pub balancers: BTreeMap<String, Balancer>,
    /// The objects that its backends name and that are there.
    pub targets: Targets,
    /// The certificates that it names.
    pub certificates: Certificates,
    /// The password of the stats page, once there is one.
    pub stats_password: Option<Hidden>,
}

impl Observed {
    /// What the balancers' host shows.
    pub fn docker(&self) -> Option<&DockerSeen> {
        self.hosts.get(HOME)
    }

    /// A container of this name.
    pub fn container(&self, name: &str) -> Option<&ContainerSeen> {
        self.docker()?.container(name)
    }

    /// The containers could be listed.
    pub fn answers(&self) -> bool {
        self.docker().is_some_and(|docker| docker.containers.known().is_some())
    }

    /// The container is being stopped, so that it can be removed.
    pub fn stopping(&self, container: &str) -> bool {
        removing(&self.work, HOME, container)
    }
}

/// A running balancer.
#[derive(Debug, Clone, PartialEq)]
pub struct Balancer {
    /// What it answers.
    pub answer: Fact<Answer>,
    /// Its configuration files.
    pub files: Fact<ConfigFiles>,
    /// The last reload that this operator told it.
    pub signalled: Option<Signalled>,
}

/// The configuration files in the volume of a balancer.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigFiles {
    /// The file in use: a process that starts begins with it.
    pub current: Hidden,
    /// The last one that a process took up, once there is one.
    pub good: Option<Hidden>,
    /// The configuration that its engine refused last.
    pub refused: Option<Refusal>,
}

/// A configuration that an engine refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Hash of its skeleton.
    pub skeleton: String,
    /// The engine's words.
    pub words: String,
}

/// A reload that a balancer was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signalled {
    /// Hash of the configuration.
    pub hash: String,
    /// When.
    pub at: Timestamp,
    /// Its failed reloads in a row before that.
    pub failed: u32,
}

/// A good certificate with its key.
#[derive(Debug, Clone, PartialEq)]
pub struct Certificate {
    /// Its hash.
    pub hash: String,
    /// Chain and key in PEM.
    pub pem: Hidden,
}

/// The objects that backends name, as far as they are there.
pub type Targets = BTreeMap<TargetObject, Routable>;

/// Certificates by Secret, or what is wrong with each.
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
    /// A password for the stats page, unless there is one.
    EnsureStats,
    /// Something about its containers, volumes or network.
    Docker(DockerStep),
    /// Change servers of a running balancer by its runtime socket; `old` are processes from before a reload, which get the
    /// commands that close something.
    Tell { container: String, commands: Vec<Command>, old: Vec<u32> },
    /// Put a configuration and the files that it refers to into the volume and make it the file in use, unless the engine
    /// refuses it; `runs`: the running process has it already, but for its servers.
    Write { container: String, config: Config, files: Vec<File>, runs: bool },
    /// Tell the engine to run the file in use, the configuration of this hash, after so many failed reloads in a row.
    Reload { container: String, hash: String, failed: u32 },
    /// Keep the file in use, which runs, as the last good one; `accepted`: it is the one that is wanted, so that what was
    /// refused before is history.
    Keep { container: String, accepted: bool },
    /// Keep in mind that no process took up the configuration of this hash, and of this skeleton.
    Refuse { container: String, hash: String, skeleton: String },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EnsureStats => write!(f, "write the Secret of the stats page"),
            Self::Docker(step) => step.fmt(f),
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
            Self::Reload { .. } => Some("Reloading"),
            Self::Refuse { .. } => Some("ConfigRefused"),
            Self::Tell { .. } => Some("ServersChanged"),
            Self::EnsureStats | Self::Write { .. } | Self::Keep { .. } => None,
        }
    }

    fn lane(&self) -> Option<&str> {
        match self {
            Self::Docker(step) => step.lane(),
            Self::Tell { container, .. }
            | Self::Write { container, .. }
            | Self::Reload { container, .. }
            | Self::Keep { container, .. }
            | Self::Refuse { container, .. } => Some(container),
            Self::EnsureStats => Some("Secrets"),
        }
    }
}
