//! Patches of every form, by content type. Pure.

use axum::http::{HeaderMap, header};
use json_patch::PatchOperation;
use serde_json::Value;

use super::status::Refusal;
use super::{body, strategic};
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

impl Patch {
    /// Reads a patch by its content type; 415 if the resource does not support that type.
    pub fn read(resource: &Resource, headers: &HeaderMap, body: &[u8]) -> Result<Self, Refusal> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        match content_type.split(';').next().unwrap_or_default().trim() {
            MERGE => mapping(body::json(body)?).map(Self::Merge),
            JSON => serde_json::from_slice(body)
                .map(Self::Json)
                .map_err(|error| Refusal::bad_request(format!("the body is not a JSON patch: {error}"))),
            APPLY => mapping(body::yaml(body)?).map(Self::Apply),
            // As in Kubernetes, not for custom resources.
            STRATEGIC if resource.definition.is_none() => {
                mapping(body::json(body)?).map(|patch| Self::Strategic(patch, resource.merge_keys))
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
        Patch::Json(operations) => {
            for operation in operations {
                // A test for null also succeeds for a missing field (as in the Go and Kubernetes clients).
                let vacuous = matches!(operation, PatchOperation::Test(test)
                    if test.value.is_null() && patched.pointer(test.path.as_str()).is_none());
                if !vacuous {
                    json_patch::patch(&mut patched, std::slice::from_ref(operation)).map_err(|error| {
                        Refusal::unprocessable(format!("the patch does not fit the object: {error}"))
                    })?;
                }
            }
        }
    }
    if patched["metadata"].is_object() {
        Ok(patched)
    } else {
        Err(Refusal::unprocessable("the patch leaves no object with metadata"))
    }
}

fn mapping(value: Value) -> Result<Value, Refusal> {
    if value.is_object() { Ok(value) } else { Err(Refusal::bad_request("the patch must be an object")) }
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
            .and_then(|patch| patched(&object, &patch))
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

    #[test]
    fn a_kind_of_ours_takes_no_strategic_patch() {
        check(STRATEGIC, json!({"spec": {"n": 2}}), Err(415));
    }
}
