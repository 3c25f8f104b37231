//! Reserved ports of hosts: who has which, the next free one, and the steps that reserve and release one.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use super::hosts::Declared;
use crate::api::failure::Failure;
use crate::api::hash::short_hash;
use crate::api::object::Object;
use crate::api::port_reservation::{PortOwner, PortReservation, PortReservationSpec, reservation_name};
use crate::runtime::finalizer::FINALIZER;
use crate::store::objects::{Objects, Part, Preconditions};
use crate::store::{Error, Key};

/// All reservations, by host and port.
pub type Reserved = BTreeMap<(String, u16), Reservation>;

/// A reservation as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Reservation {
    /// What it says.
    pub spec: PortReservationSpec,
    /// It is released: nobody may use it yet, and its member not any more.
    pub released: bool,
}

/// One step about a reservation.
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq)]
pub enum PortStep {
    /// Reserve the port. If somebody else was faster, this fails, and the next plan chooses another one.
    Reserve(Box<PortReservationSpec>),
    /// Release the port, so that its quarantine begins.
    Release { host: String, port: u16, uid: String },
    /// Record that another program has the port.
    Foreign { host: String, port: u16 },
}

impl PortStep {
    /// The reason of the Event for this step, if it deserves one.
    pub fn event_reason(&self) -> Option<&'static str> {
        matches!(self, Self::Foreign { .. }).then_some("PortTaken")
    }
}

impl fmt::Display for PortStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserve(spec) => write!(f, "reserve port {} of {} for {}", spec.port, spec.host, spec.member),
            Self::Release { host, port, .. } => write!(f, "release port {port} of {host}"),
            Self::Foreign { host, port } => write!(f, "record that another program has port {port} of {host}"),
        }
    }
}

/// The part of a PortReservation that matters to the kinds whose members have ports.
pub fn claim(reservation: &Value) -> Value {
    json!([reservation["spec"], reservation["metadata"]["deletionTimestamp"]])
}

/// Reads all reservations.
pub async fn read(objects: &Objects) -> Result<Reserved, Error> {
    let (all, _) = objects.list::<PortReservation>(PortReservation::RESOURCE, None).await?;
    let entry = |one: PortReservation| {
        let released = one.metadata.deletion_timestamp.is_some();
        ((one.spec.host.clone(), one.spec.port), Reservation { spec: one.spec, released })
    };
    Ok(all.into_iter().map(entry).collect())
}

/// The reference of an object to itself in its reservations.
pub fn owner_of<O: Object>(object: &O) -> PortOwner {
    PortOwner {
        kind: O::KIND.into(),
        resource: O::RESOURCE.into(),
        namespace: object.namespace().into(),
        name: object.name().into(),
        uid: object.metadata().uid.clone().unwrap_or_default(),
    }
}

/// The port that a member has on this host for this purpose.
pub fn held(reserved: &Reserved, owner: &PortOwner, member: &str, purpose: &str, host: &str) -> Option<u16> {
    let ours = |one: &&Reservation| {
        let spec = &one.spec;
        !one.released
            && !spec.foreign
            && spec.host == host
            && spec.owner == *owner
            && spec.member == member
            && spec.purpose == purpose
    };
    reserved.values().find(ours).map(|one| one.spec.port)
}

/// Whether the member has this port of the host.
pub fn holds(reserved: &Reserved, owner: &PortOwner, member: &str, host: &str, port: u16) -> bool {
    let found = reserved.get(&(host.to_owned(), port)).filter(|one| !one.released);
    found.is_some_and(|one| one.spec.owner == *owner && one.spec.member == member)
}

/// A port for a member that has none: `fixed`, if a person named one, else the first free one of the host's range at which
/// nothing listens, from a place that depends on the owner. So the members of one object have the same port on different
/// hosts where they can, and a port is used again as late as possible. `Err`: why there is none.
pub fn reserve(
    reserved: &Reserved,
    owner: &PortOwner,
    (member, purpose): (&str, &str),
    (host, declared): (&str, &Declared),
    fixed: Option<u16>,
) -> Result<PortReservationSpec, String> {
    let taken = |port: u16| reserved.get(&(host.to_owned(), port));
    let port = match fixed {
        Some(port) => match taken(port) {
            None => port,
            Some(other) => {
                let (kind, name) = (&other.spec.owner.kind, &other.spec.member);
                return Err(format!(
                    "port {port} of host {host} is reserved for {name} of {kind} {}",
                    other.spec.owner.name
                ));
            }
        },
        None => {
            let range = declared.ports;
            let count = u32::from(range.last - range.first) + 1;
            let start =
                u32::from_str_radix(&short_hash(format!("{}/{purpose}", owner.uid), 7), 16).unwrap_or_default() % count;
            let port =
                |offset: u32| u16::try_from(u32::from(range.first) + (start + offset) % count).unwrap_or(range.first);
            let free = |port: &u16| taken(*port).is_none() && !declared.foreign.contains(port);
            (0..count).map(port).find(free).ok_or_else(|| {
                format!("every port of host {host} from {} to {} is reserved or in use", range.first, range.last)
            })?
        }
    };
    let (member, purpose, host) = (member.to_owned(), purpose.to_owned(), host.to_owned());
    Ok(PortReservationSpec {
        host,
        port,
        owner: owner.clone(),
        member,
        purpose,
        foreign: false,
        named: fixed.is_some(),
    })
}

/// Adds a wish to what is reserved, so that no other wish of the same plan gets the same port.
pub fn note(reserved: &mut Reserved, wish: &PortReservationSpec) {
    let reservation = Reservation { spec: wish.clone(), released: false };
    reserved.insert((wish.host.clone(), wish.port), reservation);
}

/// The steps that release the ports of an owner for which `keep` is false.
pub fn release(reserved: &Reserved, owner: &PortOwner, keep: impl Fn(&PortReservationSpec) -> bool) -> Vec<PortStep> {
    let gone = |one: &&Reservation| !one.released && one.spec.owner == *owner && !keep(&one.spec);
    let step = |one: &Reservation| {
        let (host, port, uid) = (one.spec.host.clone(), one.spec.port, owner.uid.clone());
        PortStep::Release { host, port, uid }
    };
    reserved.values().filter(gone).map(step).collect()
}

fn key(host: &str, port: u16) -> Key {
    Key::new(PortReservation::RESOURCE, "", &reservation_name(host, port))
}

/// Performs a step.
pub async fn act(objects: &Objects, step: &PortStep) -> Result<(), Failure> {
    match step {
        PortStep::Reserve(spec) => {
            // With its finalizer from the beginning: a released port must pass its quarantine in any case.
            let value = json!({
                "apiVersion": "evenkeel.dev/v1alpha1", "kind": PortReservation::KIND,
                "metadata": {"finalizers": [FINALIZER]},
                "spec": &**spec,
            });
            objects.create(&key(&spec.host, spec.port), value).await?;
        }
        PortStep::Release { host, port, uid } => {
            let key = key(host, *port);
            let Some(there) = objects.get::<PortReservation>(&key).await? else { return Ok(()) };
            if there.spec.owner.uid == *uid {
                let only_if = Preconditions { uid: there.metadata.uid, revision: None };
                objects.delete(&key, &only_if).await?;
            }
        }
        PortStep::Foreign { host, port } => {
            let change = |mut value: serde_json::Value| {
                value["spec"]["foreign"] = json!(true);
                Ok::<_, Failure>(value)
            };
            objects.modify(&key(host, *port), Part::Main, change).await?;
        }
    }
    Ok(())
}
