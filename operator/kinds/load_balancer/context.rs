//! The input of all parts of a plan, and the plan of one balancer. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::inputs::Inputs;
use super::places::{Decided, Place};
use super::routing::ResolvedBackend;
use super::{LoadBalancer, Observed, Step};
use crate::engine::File;
use crate::kinds::loss::Losses;

/// What all balancers of the object share in one plan.
pub struct PlanContext<'a> {
    /// The object.
    pub object: &'a LoadBalancer,
    /// What was observed.
    pub observed: &'a Observed,
    /// The inputs of its configuration.
    pub inputs: Inputs<'a>,
    /// Its balancers.
    pub places: Vec<Place>,
    /// Why balancers are nowhere, or stay on a host that is drained.
    pub decided: Decided,
    /// What is known of the silent hosts.
    pub losses: Losses,
    /// Its backends that refer to an object.
    pub backends: Vec<ResolvedBackend<'a>>,
    /// The desired configuration without its servers; `None` while it cannot be rendered.
    pub skeleton: Option<String>,
    /// The files that it refers to.
    pub files: Vec<File>,
    /// Problems with certificates.
    pub certificates: Vec<String>,
    /// Time of the last reload of any of its balancers.
    pub last_reload: Option<Timestamp>,
    /// Now.
    pub now: Timestamp,
}

/// The plan for one balancer.
#[derive(Default)]
pub struct BalancerPlan {
    /// The steps.
    pub steps: Vec<Step>,
    /// Requeue within this time.
    pub again: Option<Duration>,
    /// It is about to reload, or it was told to reload and has not answered since.
    pub reloading: bool,
}
