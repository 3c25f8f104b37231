//! Deployment: replicas of a pod template, rolled out without a dropped request, restarted when they end.
//!
//! `observe` takes one snapshot: Docker's lists, the probes' results, the balancers. `plan` decides: `revisions.rs`
//! chooses the revision, `rollout.rs` the number of pods of each revision, `placement.rs` the host, `pods.rs` the next
//! steps of each pod, `status.rs` the text for people. All its steps are those of `kinds::containers`.

mod blueprint;
mod claims;
mod context;
mod inputs;
mod observe;
mod placement;
pub mod plan;
mod pods;
mod probe;
mod prober;
mod revisions;
mod rollout;
#[cfg(test)]
mod scale;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod simulation;
mod status;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

pub use self::inputs::Inputs;
pub use self::probe::Probed;
use crate::api::core::NAMESPACES;
use crate::api::deployment::{Deployment, DeploymentStatus};
use crate::api::docker_host::DockerHost;
use crate::api::failure::Failure;
use crate::api::load_balancer::{LoadBalancer, ServerState};
use crate::api::object::Object as _;
use crate::api::pod_security::Level;
use crate::engine::hosts::Hosts;
use crate::kinds::containers::{Docker, DockerSeen, DockerStep as Step, WorkSeen};
use crate::kinds::host_state;
use crate::runtime::{Concern, Keeper, Kind, Planned, Wake, Want};
use crate::store::Key;
use crate::store::objects::Objects;

/// The kind of Deployment objects.
pub struct DeploymentKind {
    docker: Docker,
    objects: Objects,
    prober: prober::Prober,
}

impl DeploymentKind {
    /// The kind over these hosts and objects; `wake` is called with a Deployment when its work ended or a probe
    /// changed.
    pub fn new(hosts: Arc<Hosts>, objects: Objects, wake: Wake) -> Self {
        let prober = prober::Prober::new(hosts.clone(), wake.clone());
        Self { docker: Docker::new(hosts, objects.clone(), wake), objects, prober }
    }
}

impl Kind for DeploymentKind {
    type Object = Deployment;
    type Status = DeploymentStatus;
    type Observed = Observed;
    type Step = Step;

    fn concerns() -> Vec<Concern> {
        let databases = inputs::DATABASES.map(|(_, resource)| resource);
        let databases = databases.map(|one| Concern::all(one).only(|cluster| cluster["metadata"]["uid"].clone()));
        let others = [
            Concern::referenced("secrets"),
            Concern::referenced("configmaps"),
            Concern::referenced(NAMESPACES),
            Concern::all(DockerHost::RESOURCE).only(host_state),
            Concern::named_in(LoadBalancer::RESOURCE, observe::routed_to).only(observe::routes),
        ];
        databases.into_iter().chain(others).collect()
    }

    fn references(object: &Deployment) -> Vec<Key> {
        observe::references(object)
    }

    async fn observe(&self, object: &Deployment) -> Result<Observed, Failure> {
        observe::observe(self, object).await
    }

    fn plan(&self, object: &Deployment, observed: &Observed, want: Want, now: Timestamp) -> Planned<Self> {
        plan::plan(object, observed, want, now)
    }

    async fn act(&self, object: &Deployment, step: &Step) -> Result<(), Failure> {
        self.docker.act(&object.owner(), step).await
    }

    fn step_failed(&self, status: Self::Status, step: &Step, failure: &Failure, now: Timestamp) -> Self::Status {
        status::step_failed(status, step, failure, now)
    }

    fn companions(&self) -> Vec<&dyn Keeper> {
        vec![&self.docker.work, &self.prober.probes]
    }
}

/// One snapshot of everything that the plan of a Deployment needs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observed {
    /// The DockerHosts, by name.
    pub hosts: BTreeMap<String, HostSeen>,
    /// Secrets and ConfigMaps that its kept revisions use.
    pub inputs: Inputs,
    /// The probes' results, by Docker's id of the container.
    pub probes: BTreeMap<String, Probed>,
    /// Background work on its containers that runs, or that failed.
    pub work: WorkSeen,
    /// Running balancers that route to it.
    pub balancers: Vec<BalancerSeen>,
    /// The Pod Security level of its namespace.
    pub level: Level,
}

impl Observed {
    /// What was observed of the Deployment on a host.
    pub fn docker(&self, host: &str) -> Option<&DockerSeen> {
        self.hosts.get(host).map(|host| &host.docker)
    }
}

/// A Docker host, for placement.
#[derive(Debug, Clone, PartialEq)]
pub struct HostSeen {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Hosts with the same value can fail together.
    pub failure_domain: String,
    /// Whether new pods may be placed on it.
    pub schedulable: bool,
    /// Its Docker volumes that pods of the namespace may claim by name.
    pub volumes: BTreeSet<String>,
    /// What was observed of the Deployment on it.
    pub docker: DockerSeen,
}

/// A balancer that routes to this Deployment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BalancerSeen {
    /// The LoadBalancer's name.
    pub name: String,
    /// Seconds that it gives open connections to finish.
    pub drain_seconds: u64,
    /// It is paused: it takes no server in or out.
    pub paused: bool,
    /// The state that it gives each pod, as in `status.backends` of the LoadBalancer.
    pub servers: BTreeMap<String, ServerState>,
}
