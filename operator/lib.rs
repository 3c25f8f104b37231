//! Evenkeel keeps high-availability topologies alive on plain Docker hosts.
//!
//! The rooms, from the lowest up; a room imports only rooms above it in this list (`tests/it/tidy.rs` checks that,
//! `docs/architecture.md` explains it):
//!
//! - [`api`]: the kinds: spec, status, validation; plain data, no I/O.
//! - [`store`]: versioned objects with compare-and-set, list and watch.
//! - [`runtime`]: the reconcile loop; knows no kind and no Docker.
//! - [`archive`]: backups and WAL in an object store: names, client, catalog, what may be deleted or restored.
//! - [`engine`]: Docker hosts; the only room that imports bollard.
//! - [`etcd`]: the member of etcd that a node runs, where Evenkeel manages it.
//! - [`supervisor`]: PID 1 in a database container; only it changes the role of its PostgreSQL.
//! - [`kinds`]: one folder per kind: observe, plan, act.
//! - [`server`]: the Kubernetes API over the store; no decisions.
//! - [`cli`]: verbs and rendering.
//!
//! `fuzzing` is above them all and only in tests and fuzzers: properties of what others may send.

/// The identity of this program in containers; an operator with the same identity does not replace existing containers.
pub const CONTAINER_IDENTITY: &str = env!("EVENKEEL_CONTAINER_IDENTITY");

pub mod api;
pub mod archive;
pub mod cli;
pub mod engine;
pub mod etcd;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub(crate) mod kinds;
pub mod runtime;
pub mod server;
pub mod store;
pub mod supervisor;
