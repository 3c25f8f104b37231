//! Deployment (apps/v1): replicas of a pod template. The spec is Kubernetes' own.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DeploymentSpec;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde::{Deserialize, Serialize};

use super::endpoints::EndpointSet;
use super::pod::PodSeen;
use super::words::words;

/// On a Deployment: `"true"` takes the last good revision back when a rollout does not get on before its deadline.
pub const ROLLBACK_ANNOTATION: &str = "evenkeel.dev/rollback-on-failure";
/// On a pod template: `"true"` makes a changed Secret or ConfigMap that it uses a new revision.
pub const ROLL_ON_CHANGE_ANNOTATION: &str = "evenkeel.dev/roll-on-change";
/// On a Deployment: names of pods, comma-separated, that are to be replaced.
pub const EVICT_ANNOTATION: &str = "evenkeel.dev/evict";
/// On a Deployment: why it was changed, kept with the revision.
pub const CHANGE_CAUSE_ANNOTATION: &str = "kubernetes.io/change-cause";

/// Replicas of a pod template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deployment {
    /// Name, namespace, labels, annotations.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is declared.
    pub spec: DeploymentSpec,
    /// What is seen and was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<DeploymentStatus>,
}

/// Kubernetes' status of a Deployment, the pods themselves, and the planner's memory.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentStatus {
    /// The `metadata.generation` this status is about.
    pub observed_generation: i64,
    /// Pods that are not on their way out.
    pub replicas: i32,
    /// Those of the revision that is wanted.
    pub updated_replicas: i32,
    /// Those that are ready.
    pub ready_replicas: i32,
    /// Those that are ready for `minReadySeconds` and reached by every balancer that routes to them.
    pub available_replicas: i32,
    /// Those that are wanted and not available.
    pub unavailable_replicas: i32,
    /// The label selector as text, for the scale subresource.
    pub selector: String,
    /// The state of the whole Deployment in one word.
    pub phase: DeploymentPhase,
    /// `Available`, `Progressing`, `Degraded`, as in Kubernetes.
    pub conditions: Vec<Condition>,
    /// The pods.
    pub pods: Vec<PodSeen>,
    /// The endpoints for whoever routes to the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_set: Option<EndpointSet>,
    /// What the planner must remember.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decisions: Option<Decisions>,
}

words! {
    /// The state of a whole Deployment.
    DeploymentPhase {
        /// Nothing was looked at yet.
        #[default]
        Pending = "Pending",
        /// All pods are of the wanted revision and available.
        Healthy = "Healthy",
        /// No pod is wanted.
        ScaledToZero = "ScaledToZero",
        /// A new revision is being rolled out.
        RollingOut = "RollingOut",
        /// The rollout is paused by `spec.paused`.
        RolloutPaused = "RolloutPaused",
        /// Something is wrong with a pod.
        Degraded = "Degraded",
        /// The rollout did not get on before its deadline.
        Failed = "Failed",
        /// Reconciliation is paused by annotation.
        Paused = "Paused",
        /// The Deployment is being deleted.
        Deleting = "Deleting",
    }
}

/// What the planner must remember.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Decisions {
    /// The revisions that are kept, oldest first.
    pub revisions: Vec<Revision>,
    /// Hash of the revision that is rolled out or stands.
    pub target: String,
    /// Hash of a revision that was given up because it did not get on in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub given_up: Option<String>,
    /// When the rollout last got on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progressed_at: Option<Timestamp>,
    /// The best that the rollout has come to: available pods of the target revision.
    pub best: u32,
    /// The pods there are to be, those on their way out too.
    pub pods: Vec<Pod>,
    /// Hosts that do not answer, and since when.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub silent_hosts: BTreeMap<String, Timestamp>,
    /// The evictions that were taken up last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evicted: Option<String>,
}

/// One revision of the template.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Revision {
    /// Its number; a revision that is taken back gets a new one.
    pub revision: u64,
    /// Hash of the template (and of what it uses, if it asks for that).
    pub hash: String,
    /// When it was first seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// The template.
    pub template: PodTemplateSpec,
    /// The images by container, resolved once; empty until they are.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub images: BTreeMap<String, String>,
    /// It was rolled out whole.
    pub good: bool,
    /// Why it was made, in the words of who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change_cause: Option<String>,
}

/// A pod that was decided upon.
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
    /// When it was decided upon.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// Since when it is ready without a break.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_since: Option<Timestamp>,
    /// Its containers were all made once.
    pub made: bool,
    /// The restarts of its containers, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub restarts: BTreeMap<String, Restarts>,
    /// It is on its way out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
}

/// How often a container ended, and when it is started again.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Restarts {
    /// How often it was started again.
    pub count: u32,
    /// Ends in a row, none of which came after ten good minutes.
    pub failures: u32,
    /// When it was last started again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Timestamp>,
    /// When it is started again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_try: Option<Timestamp>,
    /// How it ended, or what kept it from starting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Docker could not start it: the next try makes it anew.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stuck: bool,
}

/// How a pod goes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stop {
    /// When that was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Why.
    pub why: String,
    /// When no balancer gave it anything any more, and its containers began to be stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drained_at: Option<Timestamp>,
}
