//! Names of a balancer's containers, volumes and folders.

use super::LoadBalancer;

/// Where the configuration is, in a volume of each balancer's own.
pub const CONFIG_DIR: &str = "/etc/evenkeel";
/// Where its sockets are; goes with the container.
pub const RUN_DIR: &str = "/run/evenkeel";

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

/// What an engine calls a server that is given by its address.
pub fn static_name(address: &str) -> String {
    address.replace(':', "-")
}
