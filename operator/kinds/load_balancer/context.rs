//! What the parts of a plan share: what holds for the whole object, and what comes out for one balancer. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::inputs::Inputs;
use super::routing::ResolvedBackend;
use super::{LoadBalancer, Observed, Step};
use crate::engine::File;

/// What holds for the whole object, before anything about a single balancer.
pub struct PlanContext<'a> {
    /// The object.
    pub object: &'a LoadBalancer,
    /// What was observed.
    pub observed: &'a Observed,
    /// What its configuration follows from.
    pub inputs: Inputs<'a>,
    /// Its backends that name an object.
    pub backends: Vec<ResolvedBackend<'a>>,
    /// The configuration that is wanted, without servers; `None` while it cannot be had.
    pub skeleton: Option<String>,
    /// The files that it refers to.
    pub files: Vec<File>,
    /// What is wrong with certificates.
    pub certificates: Vec<String>,
    /// When a balancer of it was last told to reload.
    pub last_reload: Option<Timestamp>,
    /// Now.
    pub now: Timestamp,
}

/// What is to be done about one balancer.
#[derive(Default)]
pub struct BalancerPlan {
    /// The steps.
    pub steps: Vec<Step>,
    /// When to look again at the latest.
    pub again: Option<Duration>,
    /// It is about to reload, or has not answered since.
    pub reloading: bool,
}
