//! Patches of every form, by content type. Pure.

use axum::http::{HeaderMap, header};
use json_patch::PatchOperation;
use serde_json::Value;

use super::status::Refusal;
use super::{body, shape, strategic};
use crate::api::resource::Resource;

/// A change to an object, as sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Patch {
    /// RFC 7386.
    Merge(Value),
    /// RFC 6902.
    Json(Vec<PatchOperation>),
    /// A strategic merge patch: it knows the merge keys of some lists.
    Strategic(Value, strategic::MergeKeys),
    /// Server-side apply.
    Apply(Value),
}

const MERGE: &str = "application/merge-patch+json";
const JSON: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// Limit of the operations of a JSON patch. Each may move all items of a list.
const MAX_OPERATIONS: usize = 1_000;
/// Limit of the bytes that all copies and moves of a JSON patch carry, as in Kubernetes (for copies).
const MAX_CARRIED: usize = 3 * 1024 * 1024;

impl Patch {
    /// Reads a patch by its content type; 415 if the resource does not support that type.
    /// Also returns the paths of the fields that were sent twice.
    pub fn read(resource: &Resource, headers: &HeaderMap, body: &[u8]) -> Result<(Self, Vec<String>), Refusal> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        match content_type.split(';').next().unwrap_or_default().trim() {
            MERGE => mapping(body::json(body)?, Self::Merge),
            JSON => serde_json::from_slice(body)
                .map(|operations| (Self::Json(operations), Vec::new()))
                .map_err(|error| body::malformed("JSON patch", error.line(), error.column())),
            APPLY => mapping(body::yaml(body)?, Self::Apply),
            // As in Kubernetes, not for custom resources.
            STRATEGIC if resource.definition.is_none() => {
                mapping(body::json(body)?, |patch| Self::Strategic(patch, resource.merge_keys))
            }
            _ => Err(Refusal::unsupported_media_type(&[JSON, MERGE, APPLY])),
        }
    }
}

/// The object with a patch applied; 422 if the patch does not fit the object.
pub fn patched(object: &Value, patch: &Patch) -> Result<Value, Refusal> {
    let mut patched = object.clone();
    match patch {
        Patch::Merge(change) | Patch::Apply(change) => json_patch::merge(&mut patched, change),
        Patch::Strategic(change, keys) => patched = strategic::merge(keys, &patched, change)?,
        Patch::Json(operations) => operate(&mut patched, operations)?,
    }
    if patched["metadata"].is_object() {
        Ok(patched)
    } else {
        Err(Refusal::unprocessable("the patch leaves no object with metadata"))
    }
}

/// Performs the operations of a JSON patch. What they carry is bounded before it is carried: a few copies that each
/// double a value would fill the memory, and a few moves would nest it without end.
fn operate(object: &mut Value, operations: &[PatchOperation]) -> Result<(), Refusal> {
    let found = operations.len();
    if found > MAX_OPERATIONS {
        let message = format!("a JSON patch may have at most {MAX_OPERATIONS} operations; this one has {found}");
        return Err(Refusal::entity_too_large(message));
    }
    let mut carried = 0;
    for operation in operations {
        let (value, from) = match operation {
            PatchOperation::Add(add) => (Some(&add.value), None),
            PatchOperation::Replace(replace) => (Some(&replace.value), None),
            PatchOperation::Copy(copy) => (object.pointer(copy.from.as_str()), Some(&copy.from)),
            PatchOperation::Move(moved) => (object.pointer(moved.from.as_str()), Some(&moved.from)),
            PatchOperation::Test(_) | PatchOperation::Remove(_) => (None, None),
        };
        if let Some(value) = value {
            let size = shape::measure(value);
            carried += if from.is_some() { size.bytes } else { 0 };
            if carried > MAX_CARRIED {
                let message = format!("the copies of a JSON patch may have at most {MAX_CARRIED} bytes together");
                return Err(Refusal::entity_too_large(message));
            }
            if operation.path().count() + size.depth > shape::MAX_DEPTH {
                return Err(Refusal::unprocessable(shape::TOO_DEEP));
            }
        }
        // A test for null also succeeds for a missing field (as in the Go and Kubernetes clients).
        let vacuous = matches!(operation, PatchOperation::Test(test)
            if test.value.is_null() && object.pointer(test.path.as_str()).is_none());
        if !vacuous {
            json_patch::patch(object, std::slice::from_ref(operation))
                .map_err(|error| Refusal::unprocessable(format!("the patch does not fit the object: {error}")))?;
        }
    }
    Ok(())
}

fn mapping(sent: body::Sent, form: impl FnOnce(Value) -> Patch) -> Result<(Patch, Vec<String>), Refusal> {
    let object = sent.value.is_object();
    if object {
        Ok((form(sent.value), sent.repeated))
    } else {
        Err(Refusal::bad_request("the patch must be an object"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::api::registry;

    fn check(content_type: &str, patch: Value, expected: Result<Value, u16>) {
        let resource = registry::find("evenkeel.dev", "v1alpha1", "dockerhosts").unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        let object = json!({"metadata": {"name": "a", "labels": {"x": "1"}}, "spec": {"n": 1}});
        let found = Patch::read(resource, &headers, patch.to_string().as_bytes())
            .and_then(|(patch, _)| patched(&object, &patch))
            .map_err(|refusal| refusal.code.as_u16());
        assert_eq!(found, expected, "{patch}");
    }

    #[test]
    fn a_merge_patch_sets_and_removes() {
        check(
            MERGE,
            json!({"metadata": {"labels": {"x": null, "y": "2"}}, "spec": {"n": 2}}),
            Ok(json!({"metadata": {"name": "a", "labels": {"y": "2"}}, "spec": {"n": 2}})),
        );
        check(MERGE, json!([{"op": "remove"}]), Err(400));
        check(MERGE, json!({"metadata": null}), Err(422));
    }

    #[test]
    fn a_json_patch_is_all_or_nothing() {
        check(
            JSON,
            json!([{"op": "test", "path": "/metadata/finalizers", "value": null},
                   {"op": "add", "path": "/metadata/finalizers", "value": ["a/b"]}]),
            Ok(json!({"metadata": {"name": "a", "labels": {"x": "1"}, "finalizers": ["a/b"]}, "spec": {"n": 1}})),
        );
        check(JSON, json!([{"op": "test", "path": "/spec/n", "value": 7}]), Err(422));
        check(JSON, json!([{"op": "remove", "path": "/spec/none"}]), Err(422));
        check(JSON, json!({"spec": 1}), Err(400));
    }

    fn outcome(object: &Value, operations: Value) -> Result<Value, u16> {
        let patch = Patch::Json(serde_json::from_value(operations).unwrap());
        patched(object, &patch).map_err(|refusal| refusal.code.as_u16())
    }

    /// Regression 42: a JSON patch of 3 kB whose 40 copies each doubled a value took 24 GB of memory, and the kernel ended
    /// the operator. The bytes that copies carry are now counted before they are copied, and operations are counted.
    #[test]
    fn a_small_patch_cannot_make_a_large_object() {
        let object = json!({"metadata": {}, "data": {"x": "y".repeat(100)}});
        let copy = |n: usize| json!({"op": "copy", "from": "/data", "path": format!("/data/c{n}")});
        assert!(outcome(&object, (0..8).map(copy).collect()).is_ok());
        assert_eq!(outcome(&object, (0..40).map(copy).collect()), Err(413));
        let test = json!({"op": "test", "path": "/data/none", "value": null});
        assert!(outcome(&object, vec![test.clone(); MAX_OPERATIONS].into()).is_ok());
        assert_eq!(outcome(&object, vec![test; MAX_OPERATIONS + 1].into()), Err(413));
    }

    /// Regression 43: moves of a value below a new one nested an object without end; the thread that walked it overflowed
    /// its stack, which ends the operator. The depth of what an operation writes is now bounded.
    #[test]
    fn a_small_patch_cannot_nest_an_object_without_end() {
        let object = json!({"metadata": {}, "a": {}});
        let deeper = [
            json!({"op": "move", "from": "/a", "path": "/b"}),
            json!({"op": "add", "path": "/a", "value": {}}),
            json!({"op": "move", "from": "/b", "path": "/a/a"}),
        ];
        let rounds = |count: usize| Value::Array(vec![deeper.clone(); count].concat());
        assert!(outcome(&object, rounds(shape::MAX_DEPTH / 2)).is_ok());
        assert_eq!(outcome(&object, rounds(300)), Err(422));
    }

    #[test]
    fn a_kind_of_ours_takes_no_strategic_patch() {
        check(STRATEGIC, json!({"spec": {"n": 2}}), Err(415));
    }
}
