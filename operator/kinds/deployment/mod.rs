//! Deployment: replicas of a pod template, rolled out without a dropped request, started again when they end.
//!
//! `observe` takes one snapshot of Docker's lists, of probes and of what else concerns the object; `plan` decides
//! (which revision in `revisions.rs`, how many pods of which in `rollout.rs`, where in `placement.rs`, what is next for
//! each pod in `pods.rs`, what people are told in `status.rs`). All its steps are those of `kinds::containers`.

mod blueprint;
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

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

pub use self::inputs::Inputs;
pub use self::probe::Probed;
use crate::api::deployment::{Deployment, DeploymentStatus};
use crate::api::docker_host::DockerHost;
use crate::api::failure::Failure;
use crate::api::load_balancer::{LoadBalancer, ServerState};
use crate::api::object::Object as _;
use crate::engine::hosts::Hosts;
use crate::kinds::containers::{Docker, DockerSeen, DockerStep as Step, WorkSeen};
use crate::kinds::host_state;
use crate::runtime::{Concern, Keeper, Kind, Planned, Wake, Want};
use crate::store::Key;
use crate::store::objects::Objects;

/// What the kind works with.
pub struct DeploymentKind {
    docker: Docker,
    objects: Objects,
    prober: prober::Prober,
}

impl DeploymentKind {
    /// A controller over these hosts and objects; `wake` is called with Deployments of which something ended or changed.
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
        vec![
            Concern::referenced("secrets"),
            Concern::referenced("configmaps"),
            Concern::all(DockerHost::RESOURCE).only(host_state),
            Concern::named_in(LoadBalancer::RESOURCE, observe::routed_to).only(observe::routes),
        ]
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

/// One snapshot of what concerns a Deployment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observed {
    /// The DockerHosts, by name.
    pub hosts: BTreeMap<String, HostSeen>,
    /// Secrets and ConfigMaps that its revisions use.
    pub inputs: Inputs,
    /// What probes found, by Docker's id of the container.
    pub probes: BTreeMap<String, Probed>,
    /// Work about its containers that goes on beside the loop, or failed.
    pub work: WorkSeen,
    /// Balancers at work that route to it.
    pub balancers: Vec<BalancerSeen>,
}

impl Observed {
    /// What a host shows of the Deployment.
    pub fn docker(&self, host: &str) -> Option<&DockerSeen> {
        self.hosts.get(host).map(|host| &host.docker)
    }
}

/// A Docker host, for placement.
#[derive(Debug, Clone, PartialEq)]
pub struct HostSeen {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Hosts that fail together share this word.
    pub failure_domain: String,
    /// Whether new pods may be placed on it.
    pub schedulable: bool,
    /// What it shows of the Deployment.
    pub docker: DockerSeen,
}

/// A balancer that routes to this Deployment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BalancerSeen {
    /// The LoadBalancer's name.
    pub name: String,
    /// How long it lets old connections finish, in seconds.
    pub drain_seconds: u64,
    /// The state it gives each pod: see `status.backends` of LoadBalancer.
    pub servers: BTreeMap<String, ServerState>,
}
