//! One reconcile, the only place that calls observe, plan and act: finalizer gate, observe, plan, record, act.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::ready;
use futures::stream::{self, StreamExt as _};
use serde_json::{Value, json};

use super::clock::{self, Clock};
use super::finalizer::{FINALIZER, Gate, gate};
use super::lanes;
use super::metrics::Metrics;
use super::recorder::Recorder;
use super::{Kind, Plan, Significance};
use crate::api::failure::{Class, Failure};
use crate::api::object::Object as _;
use crate::store::events::{NewEvent, Severity};
use crate::store::{Key, Objects, rules};

/// Lanes of one object that run concurrently: enough to keep a Docker Engine busy, few enough to leave room
/// for other objects.
const LANES: usize = 8;
/// An observation that takes longer is logged.
const SLOW: Duration = Duration::from_millis(500);
/// No step begins with less time of the lease than this.
const ENOUGH: Duration = Duration::from_millis(300);
/// Reason of the Event for a failed step.
const STEP_FAILED: &str = "StepFailed";
/// Reason of the Event for a stored object that is invalid for its kind.
const UNREADABLE: &str = "Unreadable";

/// Outcome of a reconcile that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    /// The object is gone, or its teardown is done.
    Gone,
    /// All steps of the plan are done. `requeue` is the plan's.
    Reconciled { requeue: Option<Duration> },
}

/// The dependencies of a reconcile.
pub(super) struct Reconciler<'a, K: Kind> {
    pub(super) kind: &'a K,
    pub(super) objects: &'a Objects,
    pub(super) clock: &'a dyn Clock,
    pub(super) metrics: &'a Metrics,
    pub(super) recorder: &'a Recorder,
}

impl<K: Kind> Reconciler<'_, K> {
    /// Reconciles the object at `key` once.
    pub(super) async fn reconcile(&self, key: &Key) -> Result<Done, Failure> {
        let Some(mut value) = self.objects.get::<Value>(key).await? else { return Ok(Done::Gone) };
        tracing::Span::current().record("generation", value["metadata"]["generation"].as_u64());
        let has_finalizer = rules::finalizers(&value).contains(&FINALIZER);
        match gate(has_finalizer, rules::is_deleting(&value)) {
            Gate::Leave => return Ok(Done::Gone),
            Gate::Add => value = self.objects.update(key, rules::with_finalizer(value, FINALIZER, true)).await?,
            Gate::Keep | Gate::TearDown => {}
        }
        let object = self.read(&value)?;
        let begun = clock::instant();
        let observed = self.kind.observe(&object).await?;
        if begun.elapsed() > SLOW {
            tracing::debug!(took = ?begun.elapsed(), "observing is slow");
        }
        let plan = self.kind.plan(&object, &observed, object.want(), self.clock.now());
        self.carry_out(key, value, object, plan).await
    }

    /// Records the planned status, then performs the steps.
    async fn carry_out(
        &self,
        key: &Key,
        value: Value,
        object: K::Object,
        plan: Plan<K::Step, K::Status>,
    ) -> Result<Done, Failure> {
        let torn_down = plan.finished && rules::is_deleting(&value);
        if torn_down && plan.steps.is_empty() {
            return self.release(key, value).await;
        }
        let status = to_json(&plan.status)?;
        let (value, object) = if value.get("status") == Some(&status) {
            (value, object)
        } else {
            let recorded = self.record(key, value, status).await?;
            self.kind.recorded(&object, &plan.status);
            let object = self.read(&recorded)?;
            (recorded, object)
        };
        if plan.steps.is_empty() {
            self.metrics.settled.add();
            return Ok(Done::Reconciled { requeue: plan.requeue });
        }
        self.act(key, &value, &object, &plan).await?;
        self.metrics.acted.add();
        if torn_down {
            return self.release(key, value).await;
        }
        Ok(Done::Reconciled { requeue: plan.requeue })
    }

    /// Performs the steps, lanes concurrently. A failure is recorded in the status and ends the reconcile.
    async fn act(
        &self,
        key: &Key,
        value: &Value,
        object: &K::Object,
        plan: &Plan<K::Step, K::Status>,
    ) -> Result<(), Failure> {
        let about = Arc::new(reference::<K>(value));
        for stretch in lanes::stretches(&plan.steps) {
            let mut lanes = Vec::new();
            for lane in stretch {
                lanes.push(self.take(&about, object, lane).boxed());
            }
            let failed: Vec<_> = stream::iter(lanes).buffered(LANES).filter_map(ready).collect().await;
            let Some((_, first)) = failed.first() else { continue };
            let first = Failure::new(first.class, first.message.clone());
            let now = self.clock.now();
            let keep =
                |status, (step, failure): &(&K::Step, Failure)| self.kind.step_failed(status, step, failure, now);
            let status = failed.iter().fold(plan.status.clone(), keep);
            if let Err(error) = self.record(key, value.clone(), to_json(&status)?).await {
                tracing::debug!(%error, "the failure could not be kept in the status");
            }
            return Err(first);
        }
        Ok(())
    }

    /// Performs the steps of a lane in order, up to the first that fails.
    async fn take<'s>(
        &self,
        about: &Arc<Value>,
        object: &K::Object,
        lane: Vec<&'s K::Step>,
    ) -> Option<(&'s K::Step, Failure)> {
        for step in lane {
            // Invariant: no step begins when another operator may lead. A process that stood still learns it here.
            if self.objects.tenure().is_some_and(|tenure| tenure.left() < ENOUGH) {
                return Some((step, Failure::new(Class::Conflict, "this operator does not lead any more")));
            }
            let start = clock::instant();
            match self.kind.act(object, step).await {
                Ok(()) => self.step_done(about, step, start.elapsed()),
                Err(failure) => {
                    self.step_failed(about, step, &failure);
                    return Some((step, failure));
                }
            }
        }
        None
    }

    fn step_done(&self, about: &Arc<Value>, step: &K::Step, took: Duration) {
        self.metrics.steps_done.add();
        match step.event_reason() {
            Some(reason) => {
                tracing::info!(?took, "{step}");
                let severity = if step.warns() { Severity::Warning } else { Severity::Normal };
                self.event(about, severity, reason, step.to_string());
            }
            None => tracing::debug!(?took, "{step}"),
        }
    }

    fn step_failed(&self, about: &Arc<Value>, step: &K::Step, failure: &Failure) {
        self.metrics.steps_failed.add();
        tracing::debug!(error = %failure, "failed: {step}");
        // A conflict means that the decision is outdated, not that something is wrong.
        if failure.class != Class::Conflict {
            self.event(about, Severity::Warning, STEP_FAILED, format!("{step}: {failure}"));
        }
    }

    /// Writes the status by compare-and-set on the object that the plan has read.
    async fn record(&self, key: &Key, mut value: Value, status: Value) -> Result<Value, Failure> {
        value["status"] = status;
        Ok(self.objects.update_status(key, value).await?)
    }

    /// Removes Evenkeel's finalizer from an object whose teardown is done.
    async fn release(&self, key: &Key, value: Value) -> Result<Done, Failure> {
        self.objects.update(key, rules::with_finalizer(value, FINALIZER, false)).await?;
        tracing::info!("torn down");
        Ok(Done::Gone)
    }

    fn read(&self, value: &Value) -> Result<K::Object, Failure> {
        // Borrowed, to avoid copying the value.
        serde::Deserialize::deserialize(value).map_err(|error: serde_json::Error| {
            let message = format!("the stored object is not a {}: {error}", K::NAME);
            self.event(&Arc::new(reference::<K>(value)), Severity::Warning, UNREADABLE, message.clone());
            Failure::new(Class::Terminal, message)
        })
    }

    fn event(&self, about: &Arc<Value>, severity: Severity, reason: &str, message: String) {
        let event = NewEvent { severity, reason: reason.to_owned(), message, at: self.clock.now() };
        self.recorder.record(Arc::clone(about), event);
    }
}

/// The part of an object that an Event refers to.
fn reference<K: Kind>(value: &Value) -> Value {
    let metadata = &value["metadata"];
    json!({
        "apiVersion": value["apiVersion"],
        "kind": K::NAME,
        "metadata": {
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
    })
}

fn to_json(status: &impl serde::Serialize) -> Result<Value, Failure> {
    let unwritable = |error| Failure::new(Class::Terminal, format!("the status cannot be written as JSON: {error}"));
    serde_json::to_value(status).map_err(unwritable)
}
