//! The `eviction` subresource of a pod, which `kubectl drain` uses: a deletion that waits while other pods of its owner are
//! missing.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::containers::shown;
use super::request::Request;
use super::status::{Cause, Refusal};
use super::view::answer;
use super::{body, deletion};
use crate::store::{Key, revision_of};

/// Number of times that an eviction is tried while others change the owner of the pod.
const ATTEMPTS: usize = 10;

/// Evicts the pod.
pub async fn serve(request: Request<'_>) -> Result<Response, Refusal> {
    let sent = body::object(&request.headers, &request.body)?.value;
    let name = request.key().name;
    if sent["kind"].as_str().is_some_and(|kind| kind != "Eviction") {
        return Err(Refusal::bad_request("the body must be an Eviction of policy/v1"));
    }
    if sent["metadata"]["name"].as_str().is_some_and(|said| !said.is_empty() && said != name) {
        return Err(Refusal::bad_request("the name in the body and the name in the path are not the same pod"));
    }
    let given = if sent["deleteOptions"].is_null() { json!({}) } else { sent["deleteOptions"].clone() };
    let mut options = deletion::options(request.target.resource, &request.params, &given)?;
    let pinned = options.only_if.revision.is_some();
    for attempt in 1.. {
        let (of, source, pod) = shown(&request).await?;
        if let Some(why) = too_soon(&request, &of, &source) {
            let message = "Cannot evict pod as it would take away too many pods of its owner at once.";
            let refusal = Refusal::too_many_requests(message);
            return Err(refusal.because(vec![Cause::new("DisruptionBudget", "", why)]));
        }
        if !pinned {
            // Nothing else may be evicted between the look and the deletion.
            options.only_if.revision = revision_of(&pod);
        }
        match deletion::one(&request, &options).await {
            Err(refusal) if refusal.code == StatusCode::CONFLICT && !pinned && attempt < ATTEMPTS => {}
            deleted => {
                deleted?;
                break;
            }
        }
    }
    let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(answer(StatusCode::CREATED, &done, &[]))
}

/// Why the pod must stay for now, if it must.
fn too_soon(request: &Request<'_>, of: &Key, source: &Value) -> Option<String> {
    let evict = request.target.resource.view.as_ref()?.source(&of.resource)?.evict.as_ref()?;
    (evict.too_soon)(source, &request.key().name)
}
