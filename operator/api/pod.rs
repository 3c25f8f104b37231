//! What is seen of a pod: containers that live and die together on one host. Part of the status of whoever owns it.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::words::words;

/// A pod, as people and other kinds see it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodSeen {
    /// Its name, unique in its namespace.
    pub name: String,
    /// The DockerHost it is on.
    pub host: String,
    /// Its address in the network of its namespace, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub address: Option<Ipv4Addr>,
    /// The state of the pod in one word, as `kubectl` shows it.
    pub phase: PodPhase,
    /// It can take work: everything in it runs and its readiness probes hold.
    pub ready: bool,
    /// It is on its way out and gets no new work.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub terminating: bool,
    /// The revision of its template.
    #[serde(default)]
    pub revision: u64,
    /// When it was decided upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub created_at: Option<Timestamp>,
    /// Since when it is ready without a break.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub ready_since: Option<Timestamp>,
    /// How often a container of it was started again.
    #[serde(default)]
    pub restarts: u32,
    /// When a container that keeps ending is started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub next_try: Option<Timestamp>,
    /// What is wrong or waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Its containers, those that prepare it first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<PodContainer>,
}

words! {
    /// The state of a pod, as `kubectl` shows it.
    PodPhase {
        /// Nothing of it is there yet.
        #[default]
        Pending = "Pending",
        /// Its containers are being made.
        ContainerCreating = "ContainerCreating",
        /// A Secret or ConfigMap that it needs is not there.
        CreateContainerConfigError = "CreateContainerConfigError",
        /// An image cannot be had; it is tried again.
        ImagePullBackOff = "ImagePullBackOff",
        /// Its init containers are at work.
        Init = "Init",
        /// It runs.
        Running = "Running",
        /// A container is paused.
        Paused = "Paused",
        /// A container keeps ending; it is started again later.
        CrashLoopBackOff = "CrashLoopBackOff",
        /// Its container is stopped.
        Stopped = "Stopped",
        /// It is being stopped.
        Terminating = "Terminating",
        /// Its host does not answer.
        Unknown = "Unknown",
    }
}

words! {
    /// Whether a container of a pod runs.
    PodContainerState {
        /// It does not run yet, or is to run again.
        #[default]
        Waiting = "waiting",
        /// It runs.
        Running = "running",
        /// It has ended.
        Terminated = "terminated",
    }
}

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodContainer {
    /// Its name in the pod.
    pub name: String,
    /// Its name in Docker.
    pub container: String,
    /// Docker's id of it, once it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The image it is made from.
    pub image: String,
    /// Whether it runs.
    pub state: PodContainerState,
    /// Why it waits or how it ended: a CamelCase word such as `CrashLoopBackOff` or `Completed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// It runs and its readiness probe holds.
    pub ready: bool,
    /// It prepares the pod and ends before the others start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub init: bool,
    /// How often it was started again.
    #[serde(default)]
    pub restarts: u32,
}
