//! The loop: observe, plan, record, act. Knows no kind and no Docker; the only room that reads the clock or
//! draws random numbers.

pub mod backoff;
pub mod clock;
pub mod companions;
pub mod concern;
mod controller;
pub mod finalizer;
mod inbox;
pub mod janitor;
mod lanes;
pub mod leadership;
pub mod manager;
pub mod metrics;
pub mod queue;
mod reconcile;
mod recorder;
pub mod reflector;

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::conditions::{self, Conditions};
use crate::api::failure::Failure;
use crate::api::object::Object;
use crate::store::Key;

pub use crate::api::object::Want;
pub use clock::{Clock, SystemClock};
pub use companions::{Keeper, Wake};
pub use concern::Concern;
pub use manager::Manager;

/// The result of a planner: the status to record and the steps to perform, both from the same snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan<Step, Status> {
    /// Recorded by compare-and-set before the first step; if the plan is outdated the write fails and nothing is done.
    pub status: Status,
    /// Performed after the status is recorded, in order or by lanes (see [`Significance::lane`]); a failure
    /// ends its lane and then the reconcile.
    pub steps: Vec<Step>,
    /// Reconcile again after this time even without an event. `None`: only the resync.
    pub requeue: Option<Duration>,
    /// Only for an object that is being deleted: everything outside the store is gone, the finalizer can be removed.
    pub finished: bool,
}

/// The plan of a kind.
pub type Planned<K> = Plan<<K as Kind>::Step, <K as Kind>::Status>;

/// The sooner of two requeue times; `None` is never.
pub fn sooner(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    [one, other].into_iter().flatten().min()
}

/// One kind, as the loop drives it.
///
/// `observe` reads and does not judge; `plan` judges and does not read; `act`
/// performs and does neither. Every method may run again after any crash.
pub trait Kind: Sized + Send + Sync + 'static {
    /// The resource in the store.
    const RESOURCE: &'static str = <Self::Object as Object>::RESOURCE;
    /// The kind's name, for labels, logs and Events.
    const NAME: &'static str = <Self::Object as Object>::KIND;
    /// The complete stored object: metadata, spec and status.
    type Object: Object + DeserializeOwned + Clone + Send + Sync;
    /// The status subresource.
    type Status: Conditions + Serialize + Clone + PartialEq + Send + Sync;
    /// One snapshot of everything that matters for this object.
    type Observed: Send + Sync;
    /// One idempotent step; its `Display` is the text in the log, the Event, the dry run and tests.
    type Step: Display + Significance + Send + Sync;

    /// The resources besides its own that `observe` reads; their changes wake the objects that they concern.
    fn concerns() -> Vec<Concern> {
        Vec::new()
    }
    /// The keys of other objects that `observe` reads for this object, even if they do not exist.
    fn references(_object: &Self::Object) -> Vec<Key> {
        Vec::new()
    }
    /// Reads one snapshot. A fact that cannot be read is unknown in the snapshot; `Err` only if nothing can be decided.
    fn observe(&self, object: &Self::Object) -> impl Future<Output = Result<Self::Observed, Failure>> + Send;
    /// Pure and total: no clock, no random numbers, no I/O; problems become conditions. While users want
    /// [`Want::Paused`], the status is rendered, and the only steps are those without which the object would break.
    fn plan(&self, object: &Self::Object, observed: &Self::Observed, want: Want, now: Timestamp) -> Planned<Self>;
    /// Called after a new status was recorded, so that the kind can log what changed.
    fn recorded(&self, _before: &Self::Object, _status: &Self::Status) {}
    /// Performs one step; `object` has the status that was just recorded. A step that is already done is a success.
    fn act(&self, object: &Self::Object, step: &Self::Step) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Returns the recorded status with the failure of a step in it; the step will be retried.
    fn step_failed(&self, status: Self::Status, step: &Self::Step, failure: &Failure, now: Timestamp) -> Self::Status {
        let message = format!("could not {step}: {failure}; it is tried again");
        conditions::step_failed(status, step.failure_reason(), message, now)
    }
    /// What else people may want to know of this object beside its plan, such as what its archive holds: an object of JSON, for the
    /// command line. No decision follows from it, so it may read more than a snapshot.
    fn outlook(&self, _object: &Self::Object) -> impl Future<Output = Result<Value, Failure>> + Send {
        async { Ok(Value::Null) }
    }
    /// The parts of this kind that keep something in memory per object; it is dropped once the object is gone, or its
    /// teardown is done.
    fn companions(&self) -> Vec<&dyn Keeper> {
        Vec::new()
    }
}

/// How important a step is for people: decides between Event, log line and silence.
pub trait Significance {
    /// `Some(reason)` (a CamelCase word) if the step is worth an Event on the object; `None` for routine steps.
    fn event_reason(&self) -> Option<&'static str>;

    /// Whether that Event is a warning.
    fn warns(&self) -> bool {
        false
    }

    /// The reason (a CamelCase word) of the conditions when the step failed.
    fn failure_reason(&self) -> &'static str {
        "StepFailed"
    }

    /// The lane of the step: the thing that it is about, if it depends on no step about other things. Lanes run
    /// concurrently, the steps of one lane run in order, and a failed step ends only its lane. `None`: all steps before
    /// it are done first, and all steps after it wait for it.
    fn lane(&self) -> Option<&str> {
        None
    }
}
