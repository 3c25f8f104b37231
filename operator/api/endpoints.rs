//! Endpoints: the addresses of an object's instances, with their roles. Every kind that a load balancer can route to
//! writes them as `status.endpointSet`; a LoadBalancer reads nothing else of it. Like an EndpointSlice of Kubernetes,
//! with a writer.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::words::words;

/// The endpoints of one object. If a status has none, load balancers keep what they have.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSet {
    /// The Docker network of the addresses. Empty: they are addresses of hosts, and every host reaches them.
    pub network: String,
    /// Grows whenever another endpoint may become the writer: a cluster's term. 0 without a single writer.
    pub epoch: u64,
    /// The endpoints, including those that get no connections.
    pub endpoints: Vec<Endpoint>,
}

/// One pod or instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Name of the pod or instance.
    #[serde(deserialize_with = "server_name")]
    pub name: String,
    /// The DockerHost it is on.
    pub host: String,
    /// Its address in the network, once it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub address: Option<Ipv4Addr>,
    /// The port it listens on; absent if the load balancer names the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Where other hosts reach its ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["port"]))]
    pub published: Vec<PublishedPort>,
    /// Its roles; empty if all endpoints are equal.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub roles: BTreeSet<EndpointRole>,
    /// Whether it gets connections.
    pub state: EndpointState,
}

/// A port of an endpoint that is published on its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublishedPort {
    /// The port it listens on.
    pub port: u16,
    /// The address of its host.
    #[schemars(with = "String")]
    pub address: Ipv4Addr,
    /// The port there.
    pub host_port: u16,
}

/// A name that becomes a server's in a load balancer: it is a word in configurations and in commands, so it must have
/// nothing that ends a word, a command or a line.
fn server_name<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
    if name.is_empty() || name.len() > 253 || !name.chars().all(fits) {
        return Err(serde::de::Error::custom("the name of an endpoint must be letters, digits, '-', '.' and '_'"));
    }
    Ok(name)
}

/// The role of an endpoint.
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
        /// It gets no new connections; open ones may finish.
        Leaving = "leaving",
        /// It gets no connections.
        Out = "out",
        /// It did not answer: its connections stay as they are.
        #[default]
        Unknown = "unknown",
    }
}

/// Any object that can be routed to, with the fields that are needed for it.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct Routable {
    /// Name and deletion.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Absent until its kind has observed it.
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
    /// Its endpoints, if it has published any.
    pub fn endpoints(&self) -> Option<&EndpointSet> {
        self.status.as_ref()?.endpoint_set.as_ref()
    }

    /// Whether it is being deleted.
    pub fn deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
}

/// The Docker network that an object of this kind has for itself; `None` for kinds that use the network of their
/// namespace.
pub fn private_network(kind: &str, namespace: &str, name: &str) -> Option<String> {
    matches!(kind, "PostgresCluster" | "RedisSentinel" | "RedisCluster").then(|| format!("{namespace}.{name}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Regression 174: a pod that was named `a 127.0.0.1:9\n http-request ...` in a status became lines of a configuration and
    /// commands to HAProxy's master process. Such a name is no endpoint any more, and no command with such a word is sent.
    #[test]
    fn a_name_that_would_be_more_than_a_word_is_no_endpoint() {
        let read = |name: &str| serde_json::from_value::<Endpoint>(json!({"name": name})).is_ok();
        assert!(read("web-7d9f-1") && read("my.app_2-1"));
        let long = "a".repeat(254);
        for bad in ["", "a b", "a\nshow env", "a;show env", "a/b", "a\"", "a{", "é", long.as_str()] {
            assert!(!read(bad), "{bad:?}");
        }
    }
}
