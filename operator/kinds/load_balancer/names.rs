//! What things of a balancer are called, in Docker and in its container.

use super::LoadBalancer;

/// Where the configuration is, in a volume of each balancer's own.
pub const CONFIG_DIR: &str = "/etc/evenkeel";
/// Where its sockets are; goes with the container.
pub const RUN_DIR: &str = "/run/evenkeel";
/// The port that a PostgreSQL listens on, if its cluster does not say.
pub const POSTGRES_PORT: u16 = 5432;

/// `metadata.namespace`; the store never holds a namespaced object without one.
pub fn namespace(object: &LoadBalancer) -> &str {
    object.metadata.namespace.as_deref().unwrap_or("default")
}

/// `metadata.name`.
pub fn name(object: &LoadBalancer) -> &str {
    object.metadata.name.as_deref().unwrap_or_default()
}

/// The balancer of an ordinal.
pub fn member(object: &LoadBalancer, ordinal: u32) -> String {
    format!("{}-{ordinal}", name(object))
}

/// The name of the container and of the volume of a balancer.
pub fn container(object: &LoadBalancer, member: &str) -> String {
    format!("{}.{member}", namespace(object))
}

/// The network of a PostgresCluster, by its kind's convention.
pub fn cluster_network(namespace: &str, cluster: &str) -> String {
    format!("{namespace}.{cluster}")
}

/// What an engine calls a server that is given by its address.
pub fn static_name(address: &str) -> String {
    address.replace(':', "-")
}
