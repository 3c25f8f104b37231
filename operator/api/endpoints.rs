//! Endpoints: where the instances of an object are reached and what each may be used for. Every kind that can be routed to
//! writes them as `status.endpointSet`; a LoadBalancer reads nothing else of it. Like an EndpointSlice of Kubernetes, with a
//! writer.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::words::words;

/// The endpoints of one object. A status without one says nothing: whoever routes to it leaves everything as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSet {
    /// The Docker network of the addresses.
    pub network: String,
    /// Grows whenever another endpoint may become the writer: the term of a cluster. 0 where nobody is the only writer.
    pub epoch: u64,
    /// The endpoints, those that get nothing included.
    pub endpoints: Vec<Endpoint>,
}

/// One pod or instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Name of the pod or instance.
    pub name: String,
    /// The DockerHost it is on.
    pub host: String,
    /// Its address in the network, once it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub address: Option<Ipv4Addr>,
    /// The port it listens on; absent where whoever routes to it names the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What it may be used for; empty where all endpoints do the same.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub roles: BTreeSet<EndpointRole>,
    /// Whether it gets connections.
    pub state: EndpointState,
}

/// What an endpoint may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum EndpointRole {
    /// Takes writes. At most one endpoint of a set has this role.
    Primary,
    /// Takes reads.
    Replica,
}

words! {
    /// Whether an endpoint gets connections.
    EndpointState {
        /// It gets new connections.
        Serving = "serving",
        /// It gets no new connections; open ones may end by themselves.
        Leaving = "leaving",
        /// It gets nothing.
        Out = "out",
        /// It could not be asked: it keeps what it has.
        #[default]
        Unknown = "unknown",
    }
}

/// Any object that can be routed to, as far as that is read.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct Routable {
    /// Name and deletion.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Absent until its kind has looked at it.
    #[serde(default)]
    pub status: Option<RoutableStatus>,
}

/// The status of a [`Routable`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RoutableStatus {
    /// Its endpoints.
    pub endpoint_set: Option<EndpointSet>,
}

impl Routable {
    /// Its endpoints, if it says anything about them.
    pub fn endpoints(&self) -> Option<&EndpointSet> {
        self.status.as_ref()?.endpoint_set.as_ref()
    }

    /// It is being deleted.
    pub fn deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
}

/// The Docker network that objects of this kind have for themselves; `None` for kinds that live in the network of their namespace.
pub fn private_network(kind: &str, namespace: &str, name: &str) -> Option<String> {
    matches!(kind, "PostgresCluster").then(|| format!("{namespace}.{name}"))
}
