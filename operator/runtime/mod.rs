//! The loop: see, decide, record, do. Knows no kind and no Docker; the only room that reads the clock or draws chance.

pub mod backoff;
pub mod clock;
pub mod companions;
pub mod concern;
mod controller;
pub mod finalizer;
mod inbox;
pub mod janitor;
mod lanes;
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

use crate::api::conditions::{self, Conditions};
use crate::api::failure::Failure;
use crate::api::labels::Owner;
use crate::api::object::Object;
use crate::store::Key;

pub use crate::api::object::Want;
pub use clock::{Clock, SystemClock};
pub use companions::Wake;
pub use concern::Concern;
pub use manager::Manager;

/// What a planner decided: the status to record and the steps to take, from one and the same look.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan<Step, Status> {
    /// Recorded by compare-and-set before the first step; a stale planner fails there and does nothing.
    pub status: Status,
    /// Performed in order, as far as [`Significance::lane`] asks for one, after the status is recorded; a failure ends its lane and then the cycle.
    pub steps: Vec<Step>,
    /// Look again after this long even if nothing happens. `None`: the runtime's resync alone.
    pub requeue: Option<Duration>,
    /// Only of an object that is being deleted: everything outside the store is gone, the finalizer may go.
    pub finished: bool,
}

/// One kind, as the loop drives it.
///
/// `observe` reads and does not judge; `plan` judges and does not read; `act`
/// performs and does neither. Every method may run again after any crash.
pub trait Kind: Send + Sync + 'static {
    /// The resource in the store.
    const RESOURCE: &'static str = <Self::Object as Object>::RESOURCE;
    /// The kind's name, for labels, logs and Events.
    const NAME: &'static str = <Self::Object as Object>::KIND;
    /// The whole object as stored: metadata, spec and status.
    type Object: Object + DeserializeOwned + Clone + Send + Sync;
    /// The status subresource.
    type Status: Conditions + Serialize + Clone + PartialEq + Send + Sync;
    /// One snapshot of the world that concerns this object.
    type Observed: Send + Sync;
    /// One idempotent deed; its `Display` is the log line, the Event, the dry run and the test's expectation.
    type Step: Display + Significance + Send + Sync;

    /// The resources besides its own that `observe` reads; their changes wake the objects that they concern.
    fn concerns() -> Vec<Concern> {
        Vec::new()
    }
    /// The keys of other objects that `observe` reads for this object, whether they exist or not.
    fn references(_object: &Self::Object) -> Vec<Key> {
        Vec::new()
    }
    /// Reads one snapshot. What could not be read is part of the snapshot as unknown; `Err` only if nothing can be decided.
    fn observe(&self, object: &Self::Object) -> impl Future<Output = Result<Self::Observed, Failure>> + Send;
    /// Pure and total: no clock, no chance, no I/O; problems become conditions. While people want it [`Want::Paused`]
    /// the status is rendered, and there are no steps but those without which it would break.
    fn plan(
        &self,
        object: &Self::Object,
        observed: &Self::Observed,
        want: Want,
        now: Timestamp,
    ) -> Plan<Self::Step, Self::Status>;
    /// The status of an object has just been recorded anew: what changed in it may be worth a line in the log.
    fn recorded(&self, _before: &Self::Object, _status: &Self::Status) {}
    /// Performs one step; `object` carries the status just recorded. Already so is success.
    fn act(&self, object: &Self::Object, step: &Self::Step) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Shows in the recorded status that a step failed; it is tried again.
    fn step_failed(&self, status: Self::Status, step: &Self::Step, failure: &Failure, now: Timestamp) -> Self::Status {
        let message = format!("could not {step}: {failure}; it is tried again");
        conditions::step_failed(status, step.failure_reason(), message, now)
    }
    /// Drops what is kept in memory for an object: it is gone, or its teardown is done.
    fn forget(&self, _owner: &Owner) {}
    /// How much is kept in memory for objects.
    fn kept(&self) -> usize {
        0
    }
}

/// How much a step matters to a person: decides between Event, log line and silence.
pub trait Significance {
    /// `Some(reason)` (a CamelCase word) if the step is worth an Event on the object; `None` for routine.
    fn event_reason(&self) -> Option<&'static str>;

    /// The reason (a CamelCase word) of the conditions that say that the step failed.
    fn failure_reason(&self) -> &'static str {
        "StepFailed"
    }

    /// What the step is about, if it depends on no step about anything else: such steps are performed beside each other,
    /// those of one lane in order, and one that fails ends its lane only. `None`: all before it are done first, and all
    /// behind it wait for it.
    fn lane(&self) -> Option<&str> {
        None
    }
}
