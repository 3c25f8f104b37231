//! One folder per kind: observe reads, plan decides, act performs. Kinds never import each other.

pub mod addresses;
pub mod attempts;
pub mod backup;
pub mod certificates;
pub mod containers;
pub mod database_restore;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod declared;
pub mod deployment;
pub mod docker_host;
pub mod fact;
pub mod hosts;
pub mod kept;
pub mod links;
pub mod load_balancer;
pub mod loss;
pub mod namespace_network;
pub mod owned_secret;
pub mod placement;
pub mod places;
pub mod port_reservation;
pub mod porters;
pub mod ports;
pub mod postgres_cluster;
pub mod postgres_reports;
pub mod redis_certificates;
pub mod redis_cluster;
pub mod redis_passwords;
pub mod redis_places;
pub mod redis_reports;
pub mod redis_sentinel;
pub mod scheduled_backup;
pub mod sentinel_reports;
pub mod silence;
pub mod stores;
pub mod unknown;
pub mod volume_restore;
pub mod waits;

pub use namespace_network::{network_of, network_spec};

use serde_json::{Value, json};

/// The part of a DockerHost that matters to a kind with containers on it: spec, deletion, whether it answers, and what its agent
/// has found.
pub fn host_state(host: &Value) -> Value {
    let status = &host["status"];
    let found = [&status["reachable"], &status["reach"], &status["foreignPorts"]];
    json!([host["spec"], host["metadata"]["deletionTimestamp"], found])
}
