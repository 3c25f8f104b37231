//! A pod as observed: containers that live and die together on one host. Part of the status of its owner.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::words::words;

/// A pod as observed.
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
    /// The state of the pod as one word, as `kubectl` shows it.
    pub phase: PodPhase,
    /// Ready: all its containers run and its readiness probes succeed.
    pub ready: bool,
    /// Terminating: it gets no new connections.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub terminating: bool,
    /// The revision of its template.
    #[serde(default)]
    pub revision: u64,
    /// Time of the decision to create it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub created_at: Option<Timestamp>,
    /// Ready without interruption since this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub ready_since: Option<Timestamp>,
    /// Number of restarts of its containers.
    #[serde(default)]
    pub restarts: u32,
    /// Time of the next restart of a container that keeps crashing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub next_try: Option<Timestamp>,
    /// The problem, or what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Its containers, init containers first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<PodContainer>,
}

words! {
    /// The state of a pod, as `kubectl` shows it.
    PodPhase {
        /// None of its containers exists yet.
        #[default]
        Pending = "Pending",
        /// Its containers are being created.
        ContainerCreating = "ContainerCreating",
        /// A Secret or ConfigMap that it needs does not exist.
        CreateContainerConfigError = "CreateContainerConfigError",
        /// An image cannot be pulled; it is retried.
        ImagePullBackOff = "ImagePullBackOff",
        /// Its init containers are running.
        Init = "Init",
        /// It runs.
        Running = "Running",
        /// A container is paused.
        Paused = "Paused",
        /// A container keeps crashing; it is restarted later.
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
        /// It does not run yet, or will run again.
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
    /// Docker's ID of it, once it exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The image it is created from.
    pub image: String,
    /// Whether it runs.
    pub state: PodContainerState,
    /// Why it waits or how it ended: a CamelCase word such as `CrashLoopBackOff` or `Completed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its last exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// It runs and its readiness probe succeeds.
    pub ready: bool,
    /// An init container: it ends before the others start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub init: bool,
    /// Number of restarts.
    #[serde(default)]
    pub restarts: u32,
}
