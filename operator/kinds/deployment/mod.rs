//! Deployment: replicas of a pod template, rolled out without a dropped request, started again when they end.
//!
//! `observe` takes one snapshot of Docker's lists, of probes and of what else concerns the object; `plan` decides
//! (which revision in `revisions.rs`, how many pods of which in `rollout.rs`, where in `placement.rs`, what is next for
//! each pod in `pods.rs`, what people are told in `status.rs`); `act` performs. What takes long (getting images,
//! stopping with grace) is begun by `act` and goes on in `jobs.rs`; its end is another fact to observe.

mod act;
mod blueprint;
mod inputs;
mod jobs;
mod observe;
mod placement;
pub mod plan;
mod pods;
mod probe;
mod prober;
mod revisions;
mod rollout;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod simulation;
mod status;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

pub use self::blueprint::EnvSource;
pub use self::inputs::Inputs;
pub use self::jobs::JobSeen;
pub use self::probe::Probed;
use crate::api::deployment::{Deployment, DeploymentStatus};
use crate::api::docker_host::DockerHost;
use crate::api::failure::Failure;
use crate::api::labels::Owner;
use crate::api::load_balancer::{LoadBalancer, ServerState};
use crate::api::object::Object as _;
use crate::engine::hosts::Hosts;
use crate::engine::{ContainerSeen, ContainerSpec, NetworkSpec};
use crate::kinds::fact::Fact;
use crate::kinds::host_state;
use crate::runtime::{Concern, Kind, Plan, Significance, Wake, Want};
use crate::store::Key;
use crate::store::objects::Objects;

/// The resource in the store.
pub const RESOURCE: &str = "deployments.apps";

/// What the kind works with.
pub struct DeploymentKind {
    hosts: Arc<Hosts>,
    objects: Objects,
    jobs: jobs::Jobs,
    prober: prober::Prober,
}

impl DeploymentKind {
    /// A controller over these hosts and objects; `wake` is told of Deployments of which something ended or changed.
    pub fn new(hosts: Arc<Hosts>, objects: Objects, wake: Wake) -> Self {
        let prober = prober::Prober::new(hosts.clone(), wake.clone());
        Self { hosts, objects, jobs: jobs::Jobs::new(wake), prober }
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

    fn plan(
        &self,
        object: &Deployment,
        observed: &Observed,
        want: Want,
        now: Timestamp,
    ) -> Plan<Step, DeploymentStatus> {
        plan::plan(object, observed, want, now)
    }

    async fn act(&self, object: &Deployment, step: &Step) -> Result<(), Failure> {
        act::act(self, object, step).await
    }

    fn step_failed(
        &self,
        status: DeploymentStatus,
        step: &Step,
        failure: &Failure,
        now: Timestamp,
    ) -> DeploymentStatus {
        status::step_failed(status, step, failure, now)
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
    /// Work that goes on beside the loop, by its key.
    pub jobs: BTreeMap<String, JobSeen>,
    /// Balancers at work that route to it.
    pub balancers: Vec<BalancerSeen>,
    /// Volumes of its pods by host; only looked at when everything goes.
    pub volumes: BTreeMap<String, Fact<BTreeSet<String>>>,
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
    /// The Deployment's containers there.
    pub containers: Fact<Vec<ContainerSeen>>,
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

/// A container to be made, with what is only put together when it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Make {
    /// What it is to be, without what comes from Secrets and ConfigMaps.
    pub spec: ContainerSpec,
    /// Environment variables from elsewhere, in order.
    pub env: Vec<EnvSource>,
}

/// A volume of files from a Secret or ConfigMap, and where a container has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Fill {
    /// The container that has it mounted.
    pub container: String,
    /// Where.
    pub directory: String,
    /// The template's volume, which says what is in it; `None`: an empty directory that everybody may write to.
    pub volume: Option<Box<k8s_openapi::api::core::v1::Volume>>,
}

/// One deed. All are idempotent; `Display` is the log line, the Event, the dry run and the test's expectation.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Make the network of the namespace.
    EnsureNetwork {
        /// The host.
        host: String,
        /// The network.
        spec: NetworkSpec,
    },
    /// Begin to get an image onto a host, in a job.
    GetImage {
        /// The host.
        host: String,
        /// The image.
        image: String,
        /// Ask the registry even if it is there.
        always: bool,
        /// Never ask the registry.
        never: bool,
        /// Secrets with logins.
        logins: Vec<String>,
    },
    /// Begin to get our binary onto a host, in a job.
    GetBinary {
        /// The host.
        host: String,
        /// An image that is there.
        image: String,
    },
    /// Make a container.
    Create {
        /// The host.
        host: String,
        /// The pod.
        pod: String,
        /// The container.
        make: Box<Make>,
        /// Why, if it was there before.
        again: Option<String>,
    },
    /// Put files of a Secret or ConfigMap where a container has them mounted.
    Fill {
        /// The host.
        host: String,
        /// The pod.
        pod: String,
        /// What and where.
        fill: Fill,
    },
    /// Start a container.
    Start {
        /// The host.
        host: String,
        /// The pod.
        pod: String,
        /// The container.
        container: String,
        /// Why again, if it ran before.
        again: Option<String>,
    },
    /// Let a paused container go on.
    Unpause {
        /// The host.
        host: String,
        /// The pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// Begin to stop containers with grace, in a job.
    Stop {
        /// The host.
        host: String,
        /// The pod.
        pod: String,
        /// The pod as a whole or the container: what the job is called after.
        subject: String,
        /// The containers, and the command or the seconds that precede the signal.
        containers: Vec<(String, PreStop)>,
        /// Seconds between SIGTERM and SIGKILL.
        grace: u64,
        /// Why.
        why: String,
    },
    /// Remove a container.
    Remove {
        /// The host.
        host: String,
        /// The pod.
        pod: String,
        /// The container.
        container: String,
        /// Why.
        why: String,
    },
    /// Remove a volume of a pod.
    RemoveVolume {
        /// The host.
        host: String,
        /// The pod; empty when everything goes.
        pod: String,
        /// The volume.
        volume: String,
    },
    /// Remove the network of the namespace, if nobody is in it any more.
    RemoveNetwork {
        /// The host.
        host: String,
        /// The network.
        network: String,
    },
}

/// What precedes the signal that stops a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PreStop {
    /// Nothing.
    #[default]
    None,
    /// Run this in it.
    Exec(Vec<String>),
    /// Wait this long.
    Sleep(Duration),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EnsureNetwork { host, spec } => write!(f, "create network {} on {host}", spec.name),
            Self::GetImage { host, image, .. } => write!(f, "get image {image} on {host}"),
            Self::GetBinary { host, .. } => write!(f, "put evenkeel on {host}"),
            Self::Create { host, make, again: None, .. } => write!(f, "create container {} on {host}", make.spec.name),
            Self::Create { host, make, again: Some(why), .. } => {
                write!(f, "create container {} on {host} again: {why}", make.spec.name)
            }
            Self::Fill { fill: Fill { container, directory, .. }, .. } => write!(f, "fill {directory} of {container}"),
            Self::Start { container, again: None, .. } => write!(f, "start container {container}"),
            Self::Start { container, again: Some(why), .. } => write!(f, "start container {container} again: {why}"),
            Self::Unpause { container, .. } => write!(f, "unpause container {container}"),
            Self::Stop { subject, why, .. } => write!(f, "stop {subject}: {why}"),
            Self::Remove { container, why, .. } => write!(f, "remove container {container}: {why}"),
            Self::RemoveVolume { volume, .. } => write!(f, "remove volume {volume}"),
            Self::RemoveNetwork { host, network } => write!(f, "remove network {network} on {host} unless it is used"),
        }
    }
}

impl Significance for Step {
    fn event_reason(&self) -> Option<&'static str> {
        match self {
            Self::GetImage { .. } => Some("Pulling"),
            Self::Create { again: None, .. } => Some("Created"),
            Self::Create { again: Some(_), .. } => Some("DriftRepaired"),
            Self::Start { again: None, .. } => Some("Started"),
            Self::Start { again: Some(_), .. } => Some("Restarted"),
            Self::Unpause { .. } => Some("DriftRepaired"),
            Self::Stop { .. } => Some("Killing"),
            Self::Remove { .. } => Some("Removed"),
            Self::EnsureNetwork { .. }
            | Self::GetBinary { .. }
            | Self::Fill { .. }
            | Self::RemoveVolume { .. }
            | Self::RemoveNetwork { .. } => None,
        }
    }

    /// The pods are independent of each other.
    fn lane(&self) -> Option<&str> {
        match self {
            Self::Create { pod, .. }
            | Self::Fill { pod, .. }
            | Self::Start { pod, .. }
            | Self::Unpause { pod, .. }
            | Self::Stop { pod, .. }
            | Self::Remove { pod, .. }
            | Self::RemoveVolume { pod, .. } => Some(pod),
            Self::EnsureNetwork { .. }
            | Self::GetImage { .. }
            | Self::GetBinary { .. }
            | Self::RemoveNetwork { .. } => None,
        }
    }
}

/// The owner named in the labels of everything of this Deployment.
pub fn owner(object: &Deployment) -> Owner {
    Owner { kind: "Deployment".into(), namespace: namespace(object).into(), name: name(object).into() }
}

/// `metadata.namespace`; the store never holds a namespaced object without one.
pub fn namespace(object: &Deployment) -> &str {
    object.metadata.namespace.as_deref().unwrap_or("default")
}

/// `metadata.name`.
pub fn name(object: &Deployment) -> &str {
    object.metadata.name.as_deref().unwrap_or_default()
}

fn annotation<'a>(object: &'a Deployment, name: &str) -> Option<&'a str> {
    object.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}
