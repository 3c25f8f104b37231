//! The input of all parts of a plan: the object, what was observed, the status before, and the time. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::Observed;
use crate::api::deployment::{Deployment, DeploymentStatus};
use crate::api::load_balancer::ServerState;

/// What all parts of the plan share.
pub struct PlanContext<'a> {
    /// The object.
    pub object: &'a Deployment,
    /// What was observed.
    pub observed: &'a Observed,
    /// The Docker volumes of its claims, as far as they are decided.
    pub claims: &'a BTreeMap<String, String>,
    /// The status that was recorded last.
    pub before: &'a DeploymentStatus,
    /// Now.
    pub now: Timestamp,
}

impl PlanContext<'_> {
    /// A paused balancer that does not have the pod in this state: it will not change that.
    pub fn paused_without(&self, pod: &str, state: ServerState) -> Option<&str> {
        let mut paused = self.observed.balancers.iter().filter(|balancer| balancer.paused);
        paused.find(|balancer| balancer.servers.get(pod) != Some(&state)).map(|balancer| balancer.name.as_str())
    }

    /// Whether a pod that has been ready since this time is available: ready for `minReadySeconds`, and every balancer
    /// that routes to the Deployment sends it new connections.
    pub fn available(&self, pod: &str, ready_since: Option<Timestamp>) -> bool {
        let least = i64::from(self.object.spec.min_ready_seconds.unwrap_or_default());
        let ready = |state: &ServerState| *state == ServerState::Ready;
        let mut balancers = self.observed.balancers.iter();
        ready_since.is_some_and(|since| self.now.duration_since(since).as_secs() >= least)
            && balancers.all(|balancer| balancer.servers.get(pod).is_some_and(ready))
    }
}
