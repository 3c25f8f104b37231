//! Names of a balancer's containers, volumes and folders.

use super::LoadBalancer;
use crate::api::object::Object as _;

/// Directory of the configuration, in the volume of each balancer.
pub const CONFIG_DIR: &str = "/etc/evenkeel";
/// Directory of its sockets; removed with the container.
pub const RUN_DIR: &str = "/run/evenkeel";

/// The name of the balancer with this ordinal.
pub fn member(object: &LoadBalancer, ordinal: u32) -> String {
    format!("{}-{ordinal}", object.name())
}

/// The name of the container and of the volume of a balancer.
pub fn container(object: &LoadBalancer, member: &str) -> String {
    format!("{}.{member}", object.namespace())
}

/// The engine's name for a server that is configured by address.
pub fn static_name(address: &str) -> String {
    address.replace(':', "-")
}
