//! The kinds: spec, status, defaults, validation. Plain data; no I/O, no clock.

pub mod chain;
pub mod conditions;
pub mod core;
pub mod deployment;
pub mod deployment_rules;
pub mod docker_host;
pub mod duration;
pub mod endpoints;
pub mod failure;
pub mod hash;
pub mod invalid;
pub mod labels;
pub mod load_balancer;
pub mod lsn;
pub mod object;
pub mod pod;
pub mod postgres_cluster;
pub mod postgres_settings;
pub mod quantity;
pub mod registry;
pub mod resource;
pub mod secret;
pub mod subset;
pub mod sync;
pub mod views;
pub mod websocket;
mod words;
