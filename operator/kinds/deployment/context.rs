//! The input of all parts of a plan: the object, what was observed, the status before, and the time. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::Observed;
use crate::api::deployment::{Deployment, DeploymentStatus, Restarts};
use crate::api::load_balancer::ServerState;
use crate::kinds::waits;

/// Back-off before a container that keeps ending is restarted: first and longest wait, in seconds.
const BACKOFF: (u64, u64) = (10, 300);

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

    /// How long this operator has known of a recorded moment.
    pub fn waited(&self, since: Timestamp) -> Duration {
        waits::waited(&self.observed.waited, since)
    }

    /// Whether a pod that has been ready since this time is so for `minReadySeconds`.
    pub fn proven(&self, since: Timestamp) -> bool {
        let least = self.object.spec.min_ready_seconds.and_then(|least| u64::try_from(least).ok());
        self.waited(since).as_secs() >= least.unwrap_or_default()
    }

    /// The wait until a container that ended may be started again. A clock that is ahead ends it early, once; none makes it longer.
    pub fn until_next_try(&self, restarts: &Restarts) -> Option<Duration> {
        let at = restarts.next_try.filter(|at| *at > self.now)?;
        let whole = wait_after(restarts.failures.saturating_sub(1));
        let left = whole.saturating_sub(self.waited(at)).min(at.duration_since(self.now).unsigned_abs());
        (!left.is_zero()).then_some(left)
    }

    /// Whether a pod is available: ready for `minReadySeconds`, and every balancer that routes to the Deployment sends it
    /// new connections.
    pub fn available(&self, pod: &str, proven: bool) -> bool {
        let ready = |state: &ServerState| *state == ServerState::Ready;
        let mut balancers = self.observed.balancers.iter();
        proven && balancers.all(|balancer| balancer.servers.get(pod).is_some_and(ready))
    }
}

/// The wait before the next start after this many ends in a row; zero after the first.
pub fn wait_after(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        more => Duration::from_secs(BACKOFF.0.saturating_mul(1 << (more - 1).min(10)).min(BACKOFF.1)),
    }
}
