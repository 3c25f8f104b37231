//! PortReservation: a port that belongs to a member until its container is seen gone and a quarantine has passed.
//!
//! The kinds that need ports make these objects and delete them (`kinds/ports.rs`). This kind deletes those whose owner is
//! gone, and keeps a deleted one, by its finalizer, until nothing can listen there or connect there any more.

mod plan;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::api::docker_host::DockerHost;
use crate::api::failure::Failure;
use crate::api::labels;
use crate::api::object::Object as _;
use crate::api::port_reservation::{PortReservation, PortReservationSpec, PortReservationStatus};
use crate::engine::hosts::Hosts;
use crate::kinds::fact::Fact;
use crate::kinds::ports::{self, PortStep};
use crate::kinds::waits::Waits;
use crate::runtime::{Keeper, Kind, Planned, Significance, Want};
use crate::store::Key;
use crate::store::objects::Objects;

/// The kind of PortReservation objects.
pub struct PortReservationKind {
    hosts: Arc<Hosts>,
    objects: Objects,
    waits: Waits,
}

impl PortReservationKind {
    /// The kind over these hosts and objects.
    pub fn new(hosts: Arc<Hosts>, objects: Objects) -> Self {
        Self { hosts, objects, waits: Waits::default() }
    }
}

/// What was observed of a reserved port.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// The object that has the port still exists.
    pub owned: bool,
    /// The host is not declared any more.
    pub forgotten: bool,
    /// A container of the member is on the host.
    pub used: Fact<bool>,
    /// How long this operator has known that the port is released.
    pub released: Option<Duration>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Release the port, whose owner is gone.
    Release,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("release the port: its owner is gone")
    }
}

impl Significance for Step {
    fn event_reason(&self) -> Option<&'static str> {
        None
    }
}

impl Kind for PortReservationKind {
    type Object = PortReservation;
    type Status = PortReservationStatus;
    type Observed = Observed;
    type Step = Step;

    async fn observe(&self, object: &PortReservation) -> Result<Observed, Failure> {
        let PortReservationSpec { host, owner, member, .. } = &object.spec;
        let key = Key::new(&owner.resource, &owner.namespace, &owner.name);
        let there: Option<Value> = self.objects.get(&key).await?;
        let host_key = Key::new(DockerHost::RESOURCE, "", host);
        let forgotten = self.objects.get::<Value>(&host_key).await?.is_none();
        let listed = match self.hosts.get(host) {
            Ok(engine) => engine.list_containers(&owner.owner()).await,
            Err(error) => Err(error),
        };
        let has = |label: Option<&String>| label == Some(member);
        let used = listed.map(|all| all.iter().any(|one| has(one.labels.get(labels::MEMBER)))).into();
        let owned = there.is_some_and(|there| there["metadata"]["uid"] == *owner.uid);
        let at = object.metadata.deletion_timestamp.as_ref().map(|time| time.0);
        let released = self.waits.note(&object.owner(), at).into_values().next();
        Ok(Observed { owned, forgotten, used, released })
    }

    fn plan(&self, object: &PortReservation, observed: &Observed, want: Want, now: Timestamp) -> Planned<Self> {
        plan::plan(object, observed, want, now)
    }

    fn companions(&self) -> Vec<&dyn Keeper> {
        vec![&self.waits]
    }

    async fn act(&self, object: &PortReservation, step: &Step) -> Result<(), Failure> {
        match step {
            Step::Release => {
                let PortReservationSpec { host, port, owner, .. } = object.spec.clone();
                ports::act(&self.objects, &PortStep::Release { host, port, uid: owner.uid }).await
            }
        }
    }
}
