//! One folder a kind: observe reads, plan decides, act does. Kinds never name each other.

pub mod docker_host;
pub mod postgres_cluster;
