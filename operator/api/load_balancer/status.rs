//! The status of a LoadBalancer.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::pod::PodSeen;
use crate::api::words::words;

/// The observed state of a LoadBalancer, and its decisions.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerStatus {
    /// The generation of the spec that this status is about.
    pub observed_generation: i64,
    /// The state of all balancers as one word.
    pub phase: BalancerPhase,
    /// Existing balancers.
    pub replicas: u32,
    /// Balancers that run and are ready.
    pub ready_replicas: u32,
    /// The balancers.
    pub pods: Vec<PodSeen>,
    /// The servers, as observed at the balancers.
    pub backends: Vec<BackendSeen>,
    /// Reloads so far, of all balancers.
    pub reloads: u64,
    /// Processes from before a reload that still finish their connections, of all balancers.
    #[serde(skip_serializing_if = "is_zero")]
    pub old_processes: u64,
    /// Hash of the desired configuration without its servers.
    pub config_hash: String,
    /// `Ready`, `Progressing`, `Degraded`, `ConfigValid`, `BackendsResolved`, `CertificatesValid`; and while they are so
    /// `ManyHostsSilent`, `DrainBlocked`.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The planner's memory; the only part of the status that the planner reads back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decisions: Option<BalancerDecisions>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

words! {
    /// The state of all balancers of a LoadBalancer.
    BalancerPhase {
        /// No balancer has been ready yet.
        #[default]
        Pending = "Pending",
        /// Every balancer is ready and no change is in progress.
        Healthy = "Healthy",
        /// A change is in progress.
        Progressing = "Progressing",
        /// A balancer is missing, or a part of the spec cannot be applied.
        Degraded = "Degraded",
        /// No balancer is ready.
        Unavailable = "Unavailable",
        /// Changes are paused by annotation.
        Paused = "Paused",
        /// The LoadBalancer is being deleted.
        Deleting = "Deleting",
    }
}

/// A backend, as observed at the balancers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendSeen {
    /// Its name.
    pub name: String,
    /// The Deployment whose pods these are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    /// Its servers.
    pub servers: Vec<ServerSeen>,
}

/// A server, as observed at the balancers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerSeen {
    /// Name of the pod or instance.
    pub name: String,
    /// Its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub address: Option<Ipv4Addr>,
    /// Its port.
    #[serde(default)]
    pub port: u16,
    /// What the balancers send it.
    pub state: ServerState,
    /// Open connections or requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
}

/// The state of a server, as observed at the balancers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ServerState {
    /// Every running balancer sends it new connections.
    Ready,
    /// Some running balancer does not send it connections yet.
    Starting,
    /// No balancer sends it new connections, but some still has open sessions.
    Draining,
    /// No running balancer sends it anything.
    Drained,
    /// The health check of some balancer failed.
    Down,
    /// Some running balancer does not answer.
    Unknown,
}

/// The planner's memory: written by compare-and-set before anything is done.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BalancerDecisions {
    /// Servers that were observed as leaving, as `BACKEND/SERVER`, with the time since when.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, String>")]
    pub leaving: BTreeMap<String, Timestamp>,
    /// The writer of each backend that has one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub writers: BTreeMap<String, Writer>,
    /// Hash of the last valid certificate of each Secret.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub certificates: BTreeMap<String, String>,
    /// The DockerHost of each balancer.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub places: BTreeMap<String, String>,
    /// A balancer was ready once: since then a missing one is an outage.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub started: bool,
    /// Number of decided reloads.
    pub reloads: u64,
    /// Time of the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub last_reload: Option<Timestamp>,
}

/// The one server of a backend that may get connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Writer {
    /// Its name.
    pub server: String,
    /// The term in which its cluster confirmed it.
    pub term: u64,
}
