//! The kinds people write and read: spec, status, defaults, validation. Plain data; no I/O, no clock.

pub mod core;
pub mod docker_host;
pub mod failure;
pub mod invalid;
pub mod labels;
pub mod lsn;
pub mod postgres_cluster;
pub mod registry;
pub mod views;
