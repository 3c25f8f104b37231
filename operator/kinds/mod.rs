//! One folder a kind: observe reads, plan decides, act does. Kinds never name each other.

pub mod containers;
pub mod deployment;
pub mod docker_host;
pub mod fact;
pub mod load_balancer;
pub mod namespace_network;
pub mod postgres_cluster;

pub use namespace_network::{network_of, network_spec};
