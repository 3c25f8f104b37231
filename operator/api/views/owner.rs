//! What an object of a view takes from its owner: references, derived uids, times.

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// The controller reference to an object.
pub fn reference_to(owner: &Value) -> Value {
    let metadata = &owner["metadata"];
    reference(text(&owner["apiVersion"]), text(&owner["kind"]), text(&metadata["name"]), text(&metadata["uid"]))
}

/// A controller reference from its parts.
pub fn reference(api_version: &str, kind: &str, name: &str, uid: &str) -> Value {
    json!({
        "apiVersion": api_version, "kind": kind, "name": name, "uid": uid,
        "controller": true, "blockOwnerDeletion": true,
    })
}

/// A UUID computed from the owner's uid, the kind and the name, so that it is always the same.
pub fn derived_uid(owner: &Value, kind: &str, name: &str) -> String {
    let hash = Sha256::digest([text(&owner["metadata"]["uid"]), kind, name].join("/"));
    let bytes = std::array::from_fn(|at| hash[at]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

/// When the owner was created.
pub fn created_at(owner: &Value) -> Option<Timestamp> {
    owner["metadata"]["creationTimestamp"].as_str()?.parse().ok()
}

/// A time in whole seconds, as Kubernetes writes it.
pub fn seconds(time: Option<Timestamp>) -> Option<String> {
    Timestamp::from_second(time?.as_second()).ok().map(|time| time.to_string())
}

/// The fields of a mapping; empty if it is not one.
pub fn fields(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

/// A string; empty if it is not one.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
