//! What people and other kinds are told of a LoadBalancer.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::pod::PodSeen;
use crate::api::words::words;

/// What is seen of a LoadBalancer, and what was decided.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerStatus {
    /// The generation of the spec that this status speaks of.
    pub observed_generation: i64,
    /// The state of all balancers in one word.
    pub phase: BalancerPhase,
    /// Balancers that are there.
    pub replicas: u32,
    /// Balancers that run and balance.
    pub ready_replicas: u32,
    /// The balancers.
    pub pods: Vec<PodSeen>,
    /// The servers, as the balancers have them.
    pub backends: Vec<BackendSeen>,
    /// Reloads so far, of all balancers.
    pub reloads: u64,
    /// Hash of the configuration that is wanted, its servers left aside.
    pub config_hash: String,
    /// `Ready`, `Progressing`, `Degraded`, `ConfigValid`, `BackendsResolved`, `CertificatesValid`.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// What was decided and must not be forgotten; the only part of the status that the planner reads back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decisions: Option<BalancerDecisions>,
}

words! {
    /// The state of all balancers of a LoadBalancer.
    BalancerPhase {
        /// No balancer was ready yet.
        #[default]
        Pending = "Pending",
        /// Every balancer is ready and nothing is being changed.
        Healthy = "Healthy",
        /// Something is being changed.
        Progressing = "Progressing",
        /// A balancer is missing, or something that was declared cannot be had.
        Degraded = "Degraded",
        /// No balancer is ready.
        Unavailable = "Unavailable",
        /// Nothing is changed, by annotation.
        Paused = "Paused",
        /// The LoadBalancer is being deleted.
        Deleting = "Deleting",
    }
}

/// A backend, as the balancers have it.
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

/// A server, as the balancers have it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerSeen {
    /// Its name: of the pod or of the instance.
    pub name: String,
    /// Its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub address: Option<Ipv4Addr>,
    /// Its port.
    #[serde(default)]
    pub port: u16,
    /// What the balancers give it.
    pub state: ServerState,
    /// Connections or requests that it is busy with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
}

/// What the balancers give a server, by what was observed at them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ServerState {
    /// Every running balancer gives it new connections.
    Ready,
    /// Some running balancer does not yet.
    Starting,
    /// None gives it new connections, and some still has sessions of it.
    Draining,
    /// No running balancer gives it anything.
    Drained,
    /// The health check of some balancer says so.
    Down,
    /// Some running balancer does not answer.
    Unknown,
}

/// What the planner decided and reads back: written by compare-and-set before anything is done.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BalancerDecisions {
    /// Servers that were seen to leave, as `BACKEND/SERVER`, and since when.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, String>")]
    pub leaving: BTreeMap<String, Timestamp>,
    /// The writer of each backend that has one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub writers: BTreeMap<String, Writer>,
    /// Hash of the last certificate of each Secret that was good.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub certificates: BTreeMap<String, String>,
    /// A balancer was ready once: from then on a missing one is an outage.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub started: bool,
    /// Reloads that were decided upon.
    pub reloads: u64,
    /// When the last one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub last_reload: Option<Timestamp>,
}

/// The one server of a backend that may be spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Writer {
    /// Its name.
    pub server: String,
    /// The term in which its cluster confirmed it.
    pub term: u64,
}
