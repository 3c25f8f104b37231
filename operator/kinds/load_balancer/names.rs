//! Names of a balancer's containers, volumes and folders.

use super::LoadBalancer;
use crate::api::object::Object as _;

/// Where the configuration is, in a volume of each balancer's own.
pub const CONFIG_DIR: &str = "/etc/evenkeel";
/// Where its sockets are; goes with the container.
pub const RUN_DIR: &str = "/run/evenkeel";

/// The balancer of an ordinal.
pub fn member(object: &LoadBalancer, ordinal: u32) -> String {
    format!("{}-{ordinal}", object.name())
}

/// The name of the container and of the volume of a balancer.
pub fn container(object: &LoadBalancer, member: &str) -> String {
    format!("{}.{member}", object.namespace())
}

/// What an engine calls a server that is given by its address.
pub fn static_name(address: &str) -> String {
    address.replace(':', "-")
}
