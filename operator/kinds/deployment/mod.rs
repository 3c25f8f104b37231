//! Deployment: replicas of a pod template, rolled out without a dropped request, restarted when they end.
//!
//! `observe` takes one snapshot: Docker's lists, the probes' results, the balancers. `plan` decides: `revisions.rs`
//! chooses the revision, `rollout.rs` the number of pods of each revision, `placement.rs` the host, `published.rs` the ports
//! that other hosts reach, `hold.rs` whether it may have pods now, `pods.rs` the next steps of each pod, `refused.rs` what a refusal of Docker means, `status.rs` the
//! text for people. Its steps are those of
//! `kinds::containers` and of `kinds::ports`.

mod blueprint;
mod claims;
#[cfg(test)]
mod clocks;
mod context;
mod hold;
#[cfg(test)]
mod hold_scenarios;
mod inputs;
mod observe;
mod placement;
pub mod plan;
mod pods;
mod probe;
mod prober;
mod published;
mod refused;
mod revisions;
mod rollout;
#[cfg(test)]
mod scale;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod several_hosts;
#[cfg(test)]
mod simulation;
mod status;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

pub use self::hold::Holder;
pub use self::inputs::Inputs;
pub use self::probe::Probed;
use crate::api::backup::Backup;
use crate::api::core::NAMESPACES;
use crate::api::deployment::{Deployment, DeploymentStatus};
use crate::api::docker_host::DockerHost;
use crate::api::failure::Failure;
use crate::api::load_balancer::{LoadBalancer, ServerState};
use crate::api::object::Object as _;
use crate::api::pod_security::Level;
use crate::api::port_reservation::PortReservation;
use crate::api::volume_restore::VolumeRestore;
use crate::engine::hosts::Hosts;
use crate::kinds::containers::{Docker, DockerSeen, DockerStep, WorkSeen};
use crate::kinds::host_state;
use crate::kinds::hosts::{Declared, DeclaredHosts};
use crate::kinds::loss::{self, Losses, Silent};
use crate::kinds::ports::{self, PortStep, Reserved};
use crate::kinds::silence::Silence;
use crate::kinds::waits::{Waited, Waits};
use crate::runtime::{Concern, Keeper, Kind, Planned, Significance, Wake, Want};
use crate::store::Key;
use crate::store::objects::Objects;

/// The kind of Deployment objects.
pub struct DeploymentKind {
    docker: Docker,
    objects: Objects,
    prober: prober::Prober,
    silence: Silence,
    waits: Waits,
}

impl DeploymentKind {
    /// The kind over these hosts and objects; `wake` is called with a Deployment when its work ended or a probe
    /// changed.
    pub fn new(hosts: Arc<Hosts>, objects: Objects, wake: Wake) -> Self {
        let prober = prober::Prober::new(hosts.clone(), wake.clone());
        let (silence, waits) = Default::default();
        Self { docker: Docker::new(hosts, objects.clone(), wake), objects, prober, silence, waits }
    }
}

impl Kind for DeploymentKind {
    type Object = Deployment;
    type Status = DeploymentStatus;
    type Observed = Observed;
    type Step = Step;

    fn concerns() -> Vec<Concern> {
        let databases = inputs::DATABASES.map(|(_, resource)| resource);
        let databases = databases.map(|one| Concern::all(one).only(inputs::joined));
        let others = [
            Concern::referenced("secrets"),
            Concern::referenced("configmaps"),
            Concern::referenced(NAMESPACES),
            Concern::all(DockerHost::RESOURCE).only(host_state),
            Concern::named_in(PortReservation::RESOURCE, observe::reserved_for),
            Concern::named_in(Backup::RESOURCE, observe::held_by).only(observe::hold),
            Concern::all(VolumeRestore::RESOURCE).only(observe::fills),
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

    /// What was recorded is waited for from now.
    fn recorded(&self, before: &Deployment, status: &DeploymentStatus) {
        self.waits.note(&before.owner(), observe::moments(Some(status)));
    }

    async fn act(&self, object: &Deployment, step: &Step) -> Result<(), Failure> {
        match step {
            Step::Docker(step) => self.docker.act(&object.owner(), step).await,
            Step::Port(step) => ports::act(&self.objects, step).await,
        }
    }

    fn step_failed(&self, status: Self::Status, step: &Step, failure: &Failure, now: Timestamp) -> Self::Status {
        status::step_failed(status, step, failure, now)
    }

    fn companions(&self) -> Vec<&dyn Keeper> {
        vec![&self.docker.work, &self.prober.probes, &self.waits]
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A step on its containers, volumes or networks.
    Docker(DockerStep),
    /// A step about a port of a host.
    Port(PortStep),
}

impl From<DockerStep> for Step {
    fn from(step: DockerStep) -> Self {
        Self::Docker(step)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Docker(step) => step.fmt(f),
            Self::Port(step) => step.fmt(f),
        }
    }
}

impl Significance for Step {
    fn event_reason(&self) -> Option<&'static str> {
        match self {
            Self::Docker(step) => step.event_reason(),
            Self::Port(step) => step.event_reason(),
        }
    }

    fn failure_reason(&self) -> &'static str {
        match self {
            Self::Docker(step) => step.failure_reason(),
            Self::Port(_) => "StepFailed",
        }
    }

    fn lane(&self) -> Option<&str> {
        match self {
            Self::Docker(step) => step.lane(),
            Self::Port(PortStep::Reserve(spec)) => Some(&spec.member),
            Self::Port(PortStep::Release { host, .. } | PortStep::Foreign { host, .. }) => Some(host),
        }
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
    /// The hosts that do not answer.
    pub silent: Silent,
    /// How long this operator has known of the recorded moments.
    pub waited: Waited,
    /// The reserved ports of all hosts.
    pub reserved: Reserved,
    /// The ports of its containers that LoadBalancers route to.
    pub routed: BTreeSet<u16>,
    /// The Backups and VolumeRestores that may let it have no pods.
    pub holders: Vec<Holder>,
}

impl Observed {
    /// What was observed of the Deployment on a host.
    pub fn docker(&self, host: &str) -> Option<&DockerSeen> {
        self.hosts.get(host).map(|host| &host.docker)
    }

    /// Whether a person says that the host is off.
    pub fn certified(&self, host: &str) -> bool {
        self.hosts.get(host).is_some_and(|host| host.declared.lost)
    }

    /// What is known of the silent hosts.
    pub fn losses(&self) -> Losses {
        let declared: DeclaredHosts =
            self.hosts.iter().map(|(name, host)| (name.clone(), host.declared.clone())).collect();
        loss::judge(&declared, &self.silent)
    }
}

/// A Docker host, for placement.
#[derive(Debug, Clone, PartialEq)]
pub struct HostSeen {
    /// What its DockerHost declares.
    pub declared: Declared,
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
