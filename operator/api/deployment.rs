//! Deployment (apps/v1): replicas of a pod template. The spec is Kubernetes' own.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DeploymentSpec;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde::{Deserialize, Serialize};

use super::endpoints::EndpointSet;
use super::pod::PodSeen;
use super::words::words;

/// On a Deployment: `"true"` rolls back to the last good revision when a rollout misses its deadline.
pub const ROLLBACK_ANNOTATION: &str = "evenkeel.dev/rollback-on-failure";
/// On a pod template: `"true"` makes a new revision when a Secret or ConfigMap in use changes.
pub const ROLL_ON_CHANGE_ANNOTATION: &str = "evenkeel.dev/roll-on-change";
/// On a Deployment: names of pods to replace, comma-separated.
pub const EVICT_ANNOTATION: &str = "evenkeel.dev/evict";
/// On a Deployment: the cause of the change, kept with the revision.
pub const CHANGE_CAUSE_ANNOTATION: &str = "kubernetes.io/change-cause";

/// Replicas of a pod template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deployment {
    /// Name, namespace, labels, annotations.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The desired state.
    pub spec: DeploymentSpec,
    /// The observed state and the decisions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<DeploymentStatus>,
}

/// Kubernetes' status of a Deployment, the pods themselves, and the planner's memory.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentStatus {
    /// The `metadata.generation` this status is about.
    pub observed_generation: i64,
    /// Pods that are not terminating.
    pub replicas: i32,
    /// Pods of the target revision.
    pub updated_replicas: i32,
    /// Pods that are ready.
    pub ready_replicas: i32,
    /// Pods that are ready for `minReadySeconds` and get connections from every balancer that routes to them.
    pub available_replicas: i32,
    /// Desired pods that are not available.
    pub unavailable_replicas: i32,
    /// The label selector as text, for the scale subresource.
    pub selector: String,
    /// The state of the whole Deployment in one word.
    pub phase: DeploymentPhase,
    /// `Available`, `Progressing`, `Degraded`, as in Kubernetes; and while they are so `ManyHostsSilent`, `DrainBlocked`.
    pub conditions: Vec<Condition>,
    /// The pods.
    pub pods: Vec<PodSeen>,
    /// The Backup or VolumeRestore that lets it have no pods now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_by: Option<HeldBy>,
    /// The volumes of its claims that only one pod may write.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<ClaimedVolume>,
    /// The endpoints, for load balancers that route to the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_set: Option<EndpointSet>,
    /// The planner's memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decisions: Option<Decisions>,
}

/// The object that lets a Deployment have no pods.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeldBy {
    /// `Backup` or `VolumeRestore`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// The volume of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimedVolume {
    /// The claim.
    pub claim: String,
    /// The host that it is on.
    pub host: String,
    /// Docker's name of it.
    pub volume: String,
}

words! {
    /// The state of a whole Deployment.
    DeploymentPhase {
        /// Nothing was observed yet.
        #[default]
        Pending = "Pending",
        /// All pods are of the target revision and available.
        Healthy = "Healthy",
        /// No pod is desired.
        ScaledToZero = "ScaledToZero",
        /// A new revision is being rolled out.
        RollingOut = "RollingOut",
        /// The rollout is paused by `spec.paused`.
        RolloutPaused = "RolloutPaused",
        /// Something is wrong with a pod.
        Degraded = "Degraded",
        /// The rollout made no progress before its deadline.
        Failed = "Failed",
        /// A Backup or VolumeRestore lets it have no pods now.
        Held = "Held",
        /// Reconciliation is paused by annotation.
        Paused = "Paused",
        /// The Deployment is being deleted.
        Deleting = "Deleting",
    }
}

/// The planner's memory.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Decisions {
    /// The kept revisions, oldest first.
    pub revisions: Vec<Revision>,
    /// Hash of the revision that is being rolled out or is in use.
    pub target: String,
    /// Hash of a revision that was given up because it missed its deadline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub given_up: Option<String>,
    /// Time of the last progress of the rollout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progressed_at: Option<Timestamp>,
    /// The largest number of available pods of the target revision in this rollout.
    pub best: u32,
    /// The decided pods, including those that are terminating.
    pub pods: Vec<Pod>,
    /// The host of the volumes that only one pod may write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// The Docker volume of each claim of its pods, once it is decided. Absent in a status of a version that took every claim
    /// for the name of a Docker volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<BTreeMap<String, String>>,
    /// The evictions that were handled last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evicted: Option<String>,
    /// The hosts that turned out not to have a path of a `hostPath` volume.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub missing: BTreeMap<String, MissingPath>,
}

/// A path that a host turned out not to have.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MissingPath {
    /// The path.
    pub path: String,
    /// When Docker said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// One revision of the template.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Revision {
    /// Its number; a revision that is rolled back to gets a new one.
    pub revision: u64,
    /// Hash of the template (and of the Secrets and ConfigMaps in use, if it asks for that).
    pub hash: String,
    /// When it was first seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// The template.
    pub template: PodTemplateSpec,
    /// The resolved image of each container; empty until it is resolved.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub images: BTreeMap<String, String>,
    /// It was completely rolled out once.
    pub good: bool,
    /// The cause of the change, as written by its author.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change_cause: Option<String>,
}

/// A decided pod.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    /// Its name: Deployment, revision hash and ordinal.
    pub name: String,
    /// Hash of its revision.
    pub hash: String,
    /// Its number within the revision.
    pub ordinal: u32,
    /// The DockerHost it is on.
    pub host: String,
    /// Time of the decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// Ready without interruption since this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_since: Option<Timestamp>,
    /// It was ready for `minReadySeconds` since then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub proven: bool,
    /// All its containers were created once.
    pub made: bool,
    /// Where other hosts reach it, by the port of its containers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<u16, SocketAddrV4>,
    /// The port of its host that another program turned out to have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken: Option<u16>,
    /// Why no port of its host can be reserved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_port: Option<String>,
    /// Its host is lost, and another pod replaces it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub given_up: bool,
    /// The restarts of its containers, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub restarts: BTreeMap<String, Restarts>,
    /// Set while it is terminating.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
}

/// The restarts of a container and the time of the next one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Restarts {
    /// Number of restarts.
    pub count: u32,
    /// Exits in a row, none of them after ten minutes of running.
    pub failures: u32,
    /// Time of the last restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
    /// Time of the next restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_try: Option<Timestamp>,
    /// How it ended, or why it could not start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Docker could not start it: the next try recreates it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stuck: bool,
}

/// The termination of a pod.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stop {
    /// Time of the decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The cause.
    pub why: String,
    /// Time when no balancer sent it anything any more and its containers began to stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drained_at: Option<Timestamp>,
}
