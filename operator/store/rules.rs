//! The Kubernetes rules for writes, as pure functions from the old object to the new object.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Error, Key};

/// Metadata that only the server writes; values from clients are ignored.
const SERVER_OWNED: [&str; 9] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
];

/// Whether the resource has a status that its controller writes, and a `generation`: all except plain data, and namespaces,
/// whose phase the server writes with the rest.
pub fn has_status(resource: &str) -> bool {
    !matches!(resource, "secrets" | "configmaps" | "events" | "namespaces" | "leases.coordination.k8s.io")
        && !resource.ends_with(".rbac.authorization.k8s.io")
}

/// The object as it is first stored: with name and uid, without a status.
pub fn created(key: &Key, mut value: Value, uid: String, now: Timestamp) -> Result<Value, Error> {
    check_identity(key, &value)?;
    let object = fields(key, &mut value)?;
    if has_status(&key.resource) {
        object.remove("status");
    }
    let metadata = metadata(key, &mut value)?;
    metadata.retain(|field, _| !SERVER_OWNED.contains(&field.as_str()));
    metadata.insert("name".into(), key.name.clone().into());
    if !key.namespace.is_empty() {
        metadata.insert("namespace".into(), key.namespace.clone().into());
    }
    metadata.insert("uid".into(), uid.into());
    metadata.insert("creationTimestamp".into(), seconds(now).into());
    if has_status(&key.resource) {
        metadata.insert("generation".into(), 1.into());
    }
    Ok(value)
}

/// `new` as it may replace `old`: server-owned fields and the status stay, `generation` counts changes of the rest.
pub fn updated(key: &Key, old: &Value, mut new: Value) -> Result<Value, Error> {
    check_identity(key, &new)?;
    keep_server_owned(key, old, &mut new)?;
    if is_deleting(old) && finalizers(&new).iter().any(|finalizer| !finalizers(old).contains(finalizer)) {
        return Err(malformed(key, "no finalizer can be added to an object that is being deleted"));
    }
    let object = fields(key, &mut new)?;
    for field in ["apiVersion", "kind"] {
        if let Some(kept) = old.get(field) {
            object.insert(field.into(), kept.clone());
        }
    }
    if !has_status(&key.resource) {
        return Ok(new);
    }
    match old.get("status") {
        Some(status) => object.insert("status".into(), status.clone()),
        None => object.remove("status"),
    };
    if desired(old) != desired(&new) {
        next_generation(key, &mut new)?;
    }
    Ok(new)
}

/// `old` with only the status of `new`.
pub fn status_updated(key: &Key, old: &Value, new: &Value) -> Result<Value, Error> {
    if !has_status(&key.resource) {
        return Err(malformed(key, "this resource has no status"));
    }
    let mut updated = old.clone();
    let object = fields(key, &mut updated)?;
    match new.get("status") {
        Some(status) => object.insert("status".into(), status.clone()),
        None => object.remove("status"),
    };
    Ok(updated)
}

/// `old` marked as being deleted; it stays until its last finalizer is gone.
pub fn marked_deleting(key: &Key, old: &Value, now: Timestamp) -> Result<Value, Error> {
    let mut marked = old.clone();
    let metadata = metadata(key, &mut marked)?;
    metadata.insert("deletionTimestamp".into(), seconds(now).into());
    metadata.insert("deletionGracePeriodSeconds".into(), 0.into());
    if has_status(&key.resource) {
        next_generation(key, &mut marked)?;
    }
    Ok(marked)
}

/// Whether the object is being deleted.
pub fn is_deleting(value: &Value) -> bool {
    value["metadata"]["deletionTimestamp"].is_string()
}

/// The finalizers that keep a deleted object.
pub fn finalizers(value: &Value) -> Vec<&str> {
    let list = value["metadata"]["finalizers"].as_array();
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// `value` with or without a finalizer.
pub fn with_finalizer(mut value: Value, finalizer: &str, present: bool) -> Value {
    let mut list: Vec<&str> = finalizers(&value);
    list.retain(|held| *held != finalizer);
    if present {
        list.push(finalizer);
    }
    let list = json!(list);
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        if list == json!([]) {
            metadata.remove("finalizers");
        } else {
            metadata.insert("finalizers".into(), list);
        }
    }
    value
}

/// Uids of the objects that own this one.
pub fn owners(value: &Value) -> Vec<&str> {
    let list = value["metadata"]["ownerReferences"].as_array();
    list.into_iter().flatten().filter_map(|owner| owner["uid"].as_str()).collect()
}

/// `metadata.uid`.
pub fn uid_of(value: &Value) -> Option<&str> {
    value["metadata"]["uid"].as_str()
}

/// The resourceVersion that the writer has read; `None` if it sends none.
pub fn pinned(key: &Key, value: &Value) -> Result<Option<u64>, Error> {
    match &value["metadata"]["resourceVersion"] {
        Value::Null => Ok(None),
        Value::String(text) if text.is_empty() => Ok(None),
        Value::String(text) => match text.parse() {
            Ok(revision) => Ok(Some(revision)),
            Err(_) => Err(malformed(key, "metadata.resourceVersion is not one that this server gave")),
        },
        _ => Err(malformed(key, "metadata.resourceVersion is not a string")),
    }
}

/// A time as Kubernetes writes it in metadata: RFC 3339, whole seconds, UTC.
pub fn seconds(time: Timestamp) -> String {
    // Truncated, not rounded, so that no time is in the future.
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

fn keep_server_owned(key: &Key, old: &Value, new: &mut Value) -> Result<(), Error> {
    let metadata = metadata(key, new)?;
    for field in SERVER_OWNED {
        match old["metadata"].get(field) {
            Some(kept) => metadata.insert(field.into(), kept.clone()),
            None => metadata.remove(field),
        };
    }
    Ok(())
}

fn next_generation(key: &Key, value: &mut Value) -> Result<(), Error> {
    let metadata = metadata(key, value)?;
    let generation = metadata.get("generation").and_then(Value::as_u64).unwrap_or(0) + 1;
    metadata.insert("generation".into(), generation.into());
    Ok(())
}

/// The fields that users set: everything except metadata and status.
fn desired(value: &Value) -> Vec<(&String, &Value)> {
    let fields = value.as_object().into_iter().flatten();
    let mut desired: Vec<_> = fields.filter(|(name, _)| !matches!(name.as_str(), "metadata" | "status")).collect();
    desired.sort_by_key(|(name, _)| *name);
    desired
}

/// An object must have the name and namespace of its key, or none.
fn check_identity(key: &Key, value: &Value) -> Result<(), Error> {
    for (field, wanted) in [("name", &key.name), ("namespace", &key.namespace)] {
        match &value["metadata"][field] {
            Value::Null => {}
            Value::String(said) if said.is_empty() || said == wanted => {}
            said => {
                let problem = format!("metadata.{field} is {said}, which is not what was addressed ({wanted:?})");
                return Err(malformed(key, problem));
            }
        }
    }
    Ok(())
}

fn fields<'a>(key: &Key, value: &'a mut Value) -> Result<&'a mut Map<String, Value>, Error> {
    value.as_object_mut().ok_or_else(|| malformed(key, "not an object"))
}

fn metadata<'a>(key: &Key, value: &'a mut Value) -> Result<&'a mut Map<String, Value>, Error> {
    let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
    metadata.ok_or_else(|| malformed(key, "metadata is missing"))
}

fn malformed(key: &Key, problem: impl Into<String>) -> Error {
    Error::Malformed { key: key.clone(), problem: problem.into() }
}
