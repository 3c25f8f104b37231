//! The kinds' controllers, one folder each: observe, plan, act.

pub mod docker_host;
