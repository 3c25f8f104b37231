//! PortReservation: a port of a Docker host that one member of one object has.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::invalid::Invalid;
use super::labels::Owner;

/// A port of a Docker host that one member of one object has. Its name is `HOST.PORT`, so nobody else can get the same port.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "evenkeel.dev",
    version = "v1alpha1",
    kind = "PortReservation",
    plural = "portreservations",
    shortname = "ports",
    status = "PortReservationStatus",
    derive = "PartialEq",
    doc = "A port of a Docker host that one member of one object has. Evenkeel makes and removes these objects.",
    printcolumn = r#"{"name":"Host","type":"string","jsonPath":".spec.host"}"#,
    printcolumn = r#"{"name":"Port","type":"integer","jsonPath":".spec.port"}"#,
    printcolumn = r#"{"name":"Owner","type":"string","jsonPath":".spec.owner.name"}"#,
    printcolumn = r#"{"name":"Member","type":"string","jsonPath":".spec.member"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortReservationSpec {
    /// The DockerHost.
    pub host: String,
    /// The port of the host's address.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The object that has it.
    pub owner: PortOwner,
    /// The member of that object that listens there.
    pub member: String,
    /// Which of the member's ports it is, such as `postgres`.
    pub purpose: String,
    /// `true`: another program of the host listens there. The port stays reserved, so that nobody tries it again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub foreign: bool,
    /// `true`: a person named the port. Once it is released and its container is gone, it may be reserved at once: clients of
    /// such a port expect whoever has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub named: bool,
}

/// The object that has a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortOwner {
    /// Its kind, such as `PostgresCluster`.
    pub kind: String,
    /// Its resource in the store, such as `postgresclusters.evenkeel.dev`.
    pub resource: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its `metadata.uid`: another object of the same name is another owner.
    pub uid: String,
}

impl PortOwner {
    /// The owner in the labels of its containers.
    pub fn owner(&self) -> Owner {
        Owner { kind: self.kind.clone(), namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

/// What is known of the port.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PortReservationStatus {
    /// `Ready`: `Reserved`, `Foreign`, or `Quarantined` while a released port waits until it may be used again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// The name of the reservation of a port.
pub fn reservation_name(host: &str, port: u16) -> String {
    format!("{host}.{port}")
}

impl PortReservationSpec {
    /// Every problem with this spec.
    pub fn validate(&self, name: &str) -> Vec<Invalid> {
        let wanted = reservation_name(&self.host, self.port);
        let message = format!("must be {wanted}: a reservation is called HOST.PORT");
        (name != wanted).then(|| Invalid::new("metadata.name", message)).into_iter().collect()
    }
}
