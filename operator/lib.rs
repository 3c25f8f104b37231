//! Evenkeel keeps high-availability topologies alive on plain Docker hosts.
//!
//! The rooms, from the ground up; a room names only those above it in this
//! list (`tests/it/tidy.rs` keeps that true, `docs/architecture.md` says why):
//!
//! - [`api`]: the kinds people write and read; plain data, no I/O.
//! - [`store`]: versioned objects with compare-and-set, list and watch.
//! - [`runtime`]: the reconcile loop; knows no kind and no Docker.
//! - [`engine`]: Docker hosts; the only room that names bollard.
//! - [`supervisor`]: PID 1 beside a database; the only one that changes a role.
//! - [`kinds`]: one folder a kind: observe, plan, act.
//! - [`server`]: the Kubernetes API over the store; no decisions.
//! - [`cli`]: verbs and rendering.

/// The identity of what this program is inside containers; containers made by a program of the same identity are left alone.
pub const CONTAINER_IDENTITY: &str = env!("EVENKEEL_CONTAINER_IDENTITY");

pub mod api;
pub mod cli;
pub mod engine;
pub(crate) mod kinds;
pub mod runtime;
pub mod server;
pub mod store;
pub mod supervisor;
