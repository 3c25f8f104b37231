//! The loop: see, decide, record, do. Knows no kind and no Docker; the only room that reads the clock or draws chance.

pub mod backoff;
pub mod clock;
pub mod companions;
pub mod controller;
pub mod finalizer;
pub mod janitor;
mod lanes;
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

use crate::api::failure::Failure;

pub use clock::{Clock, SystemClock};
pub use controller::{Controller, Trigger};

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
    /// The resource in the store, e.g. `postgresclusters.evenkeel.dev`.
    const RESOURCE: &'static str;
    /// The kind's name, for labels, logs and Events, e.g. `PostgresCluster`.
    const NAME: &'static str;
    /// The whole object as stored: metadata, spec and status.
    type Object: DeserializeOwned + Clone + Send + Sync;
    /// The status subresource.
    type Status: Serialize + Clone + PartialEq + Send + Sync;
    /// One snapshot of the world that concerns this object.
    type Observed: Send + Sync;
    /// One idempotent deed; its `Display` is the log line, the Event, the dry run and the test's expectation.
    type Step: Display + Significance + Send + Sync;

    /// Reads one snapshot. What could not be read is part of the snapshot as unknown; `Err` only if nothing can be decided.
    fn observe(&self, object: &Self::Object) -> impl Future<Output = Result<Self::Observed, Failure>> + Send;
    /// Pure and total: no clock, no chance, no I/O; problems become conditions.
    fn plan(&self, object: &Self::Object, observed: &Self::Observed, now: Timestamp) -> Plan<Self::Step, Self::Status>;
    /// Performs one step; `object` carries the status just recorded. Already so is success.
    fn act(&self, object: &Self::Object, step: &Self::Step) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Keeps in the status of an object whose step failed that it did: called with the recorded status and the failure.
    fn step_failed(&self, status: Self::Status, step: &Self::Step, failure: &Failure, now: Timestamp) -> Self::Status;
}

/// How much a step matters to a person: decides between Event, log line and silence.
pub trait Significance {
    /// `Some(reason)` (a CamelCase word) if the step is worth an Event on the object; `None` for routine.
    fn event_reason(&self) -> Option<&'static str>;

    /// What the step is about, if it depends on no step about anything else: such steps are performed beside each other,
    /// those of one lane in order, and one that fails ends its lane only. `None`: all before it are done first, and all
    /// behind it wait for it.
    fn lane(&self) -> Option<&str> {
        None
    }
}
