//! LoadBalancer: HAProxy or nginx in front of Deployments, databases and fixed addresses.
//!
//! `observe` asks Docker, the store and the balancers themselves, `plan` decides (where a backend goes in `wanted.rs`,
//! containers in `workload.rs`, what HAProxy is told in `diff.rs`, what people are told in `status.rs`), `act` performs.
//! A configuration is text made from a value (`render.rs`, `haproxy.rs`, `nginx.rs`), checked by the engine itself before use.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;

use crate::api::deployment::Deployment;
use crate::api::docker_host::DockerHost;
use crate::api::failure::Failure;
use crate::api::labels::Owner;
use crate::api::load_balancer::{LoadBalancer, LoadBalancerStatus};
use crate::api::object::Object as _;
use crate::api::postgres_cluster::PostgresCluster;
use crate::engine::hosts::Hosts;
use crate::engine::{ContainerSeen, File};
use crate::kinds::containers::converge::removing;
use crate::kinds::containers::{Docker, DockerSeen, DockerStep, HOME, WorkSeen};
use crate::kinds::fact::Fact;
use crate::kinds::host_state;
use crate::runtime::{Concern, Kind, Plan, Significance, Wake, Want};
use crate::store::objects::Objects;
use crate::store::{Clock, Key};

mod act;
#[cfg(test)]
mod configurations;
mod configure;
pub mod diff;
#[cfg(test)]
mod fixture;
pub mod haproxy;
mod links;
mod names;
pub mod nginx;
mod observe;
pub mod plan;
#[cfg(test)]
mod properties;
pub mod render;
#[cfg(test)]
mod scenarios;
mod secrets;
pub mod seen;
mod status;
#[cfg(test)]
mod tests;
pub mod text;
pub mod wanted;
pub mod workload;

use diff::Command;
use render::Config;
use seen::Answer;

/// The resource in the store.
pub const RESOURCE: &str = "loadbalancers.evenkeel.dev";
/// What the kind works with.
pub struct LoadBalancerKind {
    docker: Docker,
    objects: Objects,
    clock: Arc<dyn Clock>,
    links: links::Links,
    /// What is known of the configuration of each container, by its name.
    files: Mutex<BTreeMap<String, Known>>,
}

/// What is known of the configuration in a container.
#[derive(Clone, Default)]
struct Known {
    /// The container meant.
    id: String,
    /// The file, once it was read or written.
    file: Option<String>,
    /// What its engine refused: hash of the skeleton, and the engine's words.
    refused: Option<(String, String)>,
}

impl LoadBalancerKind {
    /// A controller over these hosts and objects; `wake` is called with LoadBalancers of which work has ended.
    pub fn new(hosts: Arc<Hosts>, objects: Objects, clock: Arc<dyn Clock>, wake: Wake) -> Self {
        let docker = Docker::new(hosts, objects.clone(), wake);
        Self { docker, objects, clock, links: Default::default(), files: Default::default() }
    }

    /// How much lives or lived beside the loop: for tests of what is given back.
    pub fn kept(&self) -> usize {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.docker.work_count() + files + self.links.count()
    }

    fn known<R>(&self, container: &str, look: impl FnOnce(&mut Known) -> R) -> R {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        look(files.entry(container.to_owned()).or_default())
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
            Concern::referenced(Deployment::RESOURCE).only(observe::pods),
            Concern::referenced(PostgresCluster::RESOURCE).only(observe::instances),
        ]
    }

    fn references(object: &LoadBalancer) -> Vec<Key> {
        observe::references(object)
    }

    async fn observe(&self, object: &LoadBalancer) -> Result<Observed, Failure> {
        observe::observe(self, object).await
    }

    fn plan(
        &self,
        object: &LoadBalancer,
        observed: &Observed,
        want: Want,
        now: Timestamp,
    ) -> Plan<Step, LoadBalancerStatus> {
        plan::plan(object, observed, want, now)
    }

    async fn act(&self, object: &LoadBalancer, step: &Step) -> Result<(), Failure> {
        act::act(self, object, step).await
    }

    fn forget(&self, owner: &Owner) {
        self.docker.forget(owner);
        let prefix = format!("{}.{}-", owner.namespace, owner.name);
        let ours = |container: &str| container.strip_prefix(&prefix).is_some_and(|rest| rest.parse::<u32>().is_ok());
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|container, known| {
            let ours = ours(container);
            if ours {
                self.links.forget(&known.id);
            }
            !ours
        });
    }
}

/// One snapshot of what concerns a balancer.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// What the hosts of its balancers show.
    pub hosts: BTreeMap<String, DockerSeen>,
    /// Work about its containers that goes on beside the loop, or failed.
    pub work: WorkSeen,
    /// What each running balancer says, by container name.
    pub balancers: BTreeMap<String, Balancer>,
    /// The Deployments that it names and that are there.
    pub deployments: BTreeMap<String, Deployment>,
    /// The PostgresClusters that it names and that are there.
    pub clusters: BTreeMap<String, PostgresCluster>,
    /// The certificates that it names, by Secret, or what is wrong with each.
    pub certificates: BTreeMap<String, Result<Certificate, String>>,
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
    /// What it says of itself.
    pub answer: Fact<Answer>,
    /// Its file.
    pub file: Fact<Hidden>,
    /// What its engine refused last: hash of the skeleton, and the engine's words.
    pub refused: Option<(String, String)>,
}

/// A good certificate with its key.
#[derive(Debug, Clone, PartialEq)]
pub struct Certificate {
    /// Its hash.
    pub hash: String,
    /// Chain and key in PEM.
    pub pem: Hidden,
}

/// A text that is shown to nobody.
#[derive(Clone, PartialEq)]
pub struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// One deed. All are idempotent; `Display` is the log line, the Event, the dry run and the test's expectation.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A password for the stats page, unless there is one.
    EnsureStats,
    /// Something about its containers, volumes or network.
    Docker(DockerStep),
    /// Tell a balancer at work about its servers.
    Tell {
        /// The container.
        container: String,
        /// What.
        commands: Vec<Command>,
        /// The processes from before a reload, which hear what takes something away.
        old: Vec<u32>,
    },
    /// Give a balancer its configuration: checked by its engine, then in the place of the old one, then in use.
    Configure {
        /// The container.
        container: String,
        /// The configuration.
        config: Config,
        /// The files that it refers to.
        files: Vec<File>,
        /// Another process is to run it.
        reload: bool,
    },
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
            Self::Configure { container, config, reload: true, .. } => {
                write!(f, "reload {container} with configuration {}", config.hash)
            }
            Self::Configure { container, .. } => write!(f, "write the servers into the configuration of {container}"),
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
            Self::Configure { reload: true, .. } => Some("Reloading"),
            Self::Tell { .. } => Some("ServersChanged"),
            Self::EnsureStats | Self::Configure { .. } => None,
        }
    }

    fn lane(&self) -> Option<&str> {
        match self {
            Self::Docker(step) => step.lane(),
            Self::Tell { container, .. } | Self::Configure { container, .. } => Some(container),
            Self::EnsureStats => Some("Secrets"),
        }
    }
}
