//! Containers, shared by all kinds: observed state on each host, the steps that change it, and how members are brought
//! up.
//!
//! `observe.rs` reads each host, `converge.rs` decides about the containers that a kind describes (the kind's policy is
//! one predicate), `bounds.rs` bounds their resources and logs, `networks.rs` decides about their connections, `step.rs`
//! defines the steps, `act.rs` performs them. Work that takes longer than a reconcile is
//! started by a step and runs as [`Work`] in the background; its end wakes the object.

mod act;
pub mod bounds;
pub mod converge;
pub mod inputs;
pub mod networks;
mod observe;
#[cfg(test)]
mod small;
mod step;
#[cfg(test)]
pub mod testing;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

pub use self::converge::{Deed, Member, container_name, converge, replace};
pub use self::inputs::{EnvSource, InputRef};
pub use self::observe::{DockerSeen, Needs};
pub use self::step::{DockerStep, Fill, PreStop};
use crate::engine::hosts::Hosts;
use crate::runtime::companions::{Companions, Heard, Wake};
use crate::store::objects::Objects;

/// The DockerHost of kinds that live on one host.
pub const HOME: &str = crate::api::docker_host::LOCAL;

/// Work about containers that outlasts a reconcile, or that failed and is due again after a wait.
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// An image is pulled by the reference in the spec; another revision pulls again.
    Image { host: String, image: String, revision: String },
    /// Evenkeel's binary is copied to a host.
    Binary { host: String },
    /// Containers are stopped with grace; `subject` is the member or the container that is stopped.
    Stop { host: String, subject: String },
    /// A container is stopped with grace and then removed.
    Remove { host: String, container: String },
    /// A container could not be started. This work never runs, because a step awaits the start; it only records the
    /// failure.
    Start { host: String, container: String },
    /// A container could not be connected to a network, with this address if it has a fixed one. Only records the
    /// failure, as [`Work::Start`] does.
    Connect { host: String, container: String, network: String, address: Option<Ipv4Addr> },
}

/// The work of an object, as its planner sees it.
pub type WorkSeen = BTreeMap<Work, Heard<()>>;

/// Access of a kind to containers: the hosts, and the background work.
pub struct Docker {
    /// The hosts.
    pub hosts: Arc<Hosts>,
    objects: Objects,
    /// The work of all objects.
    pub work: Companions<Work, ()>,
}

impl Docker {
    /// For one kind; `wake` is called with the object whose work has ended.
    pub fn new(hosts: Arc<Hosts>, objects: Objects, wake: Wake) -> Self {
        Self { hosts, objects, work: Companions::new(wake) }
    }
}

/// The reason and message if containers cannot be created; `None` if there is no problem.
pub fn problem(work: &WorkSeen) -> Option<(&'static str, String)> {
    work.iter().find_map(|(work, heard)| {
        let why = heard.failure()?;
        Some(match work {
            Work::Image { host, image, .. } => {
                ("ImageUnavailable", format!("could not get image {image} on {host}: {why}; it is tried again"))
            }
            Work::Start { container, .. } => (
                "ContainerNotStarting",
                format!("could not start container {container}: {why}; it is recreated and started again"),
            ),
            Work::Connect { container, network, .. } => (
                "NetworkLost",
                format!("could not connect container {container} to network {network}: {why}; it is tried again"),
            ),
            Work::Binary { host } => {
                ("StepFailed", format!("could not put evenkeel on {host}: {why}; it is tried again"))
            }
            Work::Stop { subject, .. } => ("StepFailed", format!("could not stop {subject}: {why}; it is tried again")),
            Work::Remove { container, .. } => {
                ("StepFailed", format!("could not remove container {container}: {why}; it is tried again"))
            }
        })
    })
}

/// The reason and message of `Progressing` while background work runs.
pub fn progress(work: &WorkSeen) -> Option<(&'static str, String)> {
    work.iter().find_map(|(work, heard)| {
        Some(match work {
            _ if !heard.runs() => return None,
            Work::Image { host, image, .. } => ("Pulling", format!("getting image {image} on {host}")),
            Work::Binary { host } => ("Working", format!("putting evenkeel on {host}")),
            Work::Stop { subject, .. } => ("Stopping", format!("stopping {subject}")),
            Work::Remove { container, .. } => ("Stopping", format!("stopping container {container}")),
            Work::Start { .. } | Work::Connect { .. } => return None,
        })
    })
}
