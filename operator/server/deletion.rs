//! Deleting objects and collections.

use axum::http::StatusCode;
use axum::response::Response;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};

use super::authz::builtin;
use super::params::{Effect, Params};
use super::request::Request;
use super::status::{self, Cause, Refusal};
use super::view::answer;
use super::{body, namespaces};
use crate::api::registry;
use crate::api::resource::Resource;
use crate::store::objects::{Deleted, Preconditions, key_of};
use crate::store::{self, Key, revision_of, rules};

/// Number of objects of a collection that are deleted at the same time.
const AT_ONCE: usize = 32;

/// Options of a deletion.
pub struct Options {
    /// What must hold.
    pub only_if: Preconditions,
    effect: Effect,
    dependents: Dependents,
}

/// What becomes of the objects that a deleted object owns.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dependents {
    /// They are deleted with it.
    Go,
    /// They stay, without an owner.
    Stay,
}

/// Serves a DELETE of an object or of a collection.
pub async fn serve(request: Request<'_>) -> Result<Response, Refusal> {
    let sent = match &*request.body {
        [] => json!({}),
        body => body::object(&request.headers, body)?.value,
    };
    let options = options(request.target.resource, &request.params, &sent)?;
    if request.target.name.is_some() { one(&request, &options).await } else { all(&request, &options).await }
}

/// Deletes the object of the request.
pub async fn one(request: &Request<'_>, options: &Options) -> Result<Response, Refusal> {
    let key = request.key();
    let resource = request.target.resource;
    if resource.kind == "Namespace" {
        namespaces::deletable(&key.name)?;
    }
    let deleted = match options.effect {
        Effect::DryRun => pretend(request, &options.only_if).await,
        Effect::Store if resource.kind == "Namespace" => {
            namespaces::delete(request.server, &key, &options.only_if).await
        }
        Effect::Store => remove(request, &key, options).await,
    };
    match deleted.map_err(|error| refused(request, &error))? {
        Deleted::Removed(object) => Ok(answer(StatusCode::OK, &status::deleted(resource, &object), &[])),
        Deleted::Pending(object) => Ok(request.object(StatusCode::OK, object, &[])),
    }
}

/// Deletes every object that matches the selectors; an object that is already gone counts as deleted.
async fn all(request: &Request<'_>, options: &Options) -> Result<Response, Refusal> {
    let resource = request.target.resource;
    if resource.namespaced == request.target.namespace.is_none() || resource.kind == "Namespace" {
        return Err(Refusal::method_not_allowed());
    }
    let (objects, _) = request.selected().await?;
    if options.effect == Effect::Store {
        // Several at once, because the store commits writes that wait together with one sync.
        let keys = objects.iter().map(|object| key_of(&resource.qualified(), object));
        let keys = keys.filter(|key| !builtin::is_builtin(key)).collect::<Vec<_>>();
        let deleting = stream::iter(&keys).map(Ok).try_for_each_concurrent(AT_ONCE, async |key| {
            match remove(request, key, options).await {
                Ok(_) | Err(store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(refused(request, &error)),
            }
        });
        deleting.await?;
    }
    let done = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"group": resource.group, "kind": resource.plural},
    });
    Ok(answer(StatusCode::OK, &done, &[]))
}

/// Deletes an object; what it owns is released first if it is to stay.
async fn remove(request: &Request<'_>, key: &Key, options: &Options) -> Result<Deleted, store::Error> {
    let objects = &request.server.objects;
    if options.dependents == Dependents::Stay
        && let Some(owner) = objects.get::<Value>(key).await?
        && allowed(key, &owner, &options.only_if).is_ok()
    {
        objects.release(&owner).await?;
    }
    objects.delete(key, &options.only_if).await
}

async fn pretend(request: &Request<'_>, only_if: &Preconditions) -> Result<Deleted, store::Error> {
    let key = request.key();
    let found = request.server.objects.get::<Value>(&key).await?;
    let object = found.ok_or_else(|| store::Error::NotFound { key: key.clone() })?;
    allowed(&key, &object, only_if)?;
    let lingers = !rules::finalizers(&object).is_empty();
    Ok(if lingers { Deleted::Pending(object) } else { Deleted::Removed(object) })
}

/// Checks the preconditions of a deletion.
fn allowed(key: &Key, object: &Value, only_if: &Preconditions) -> Result<(), store::Error> {
    let key = key.clone();
    let uid = rules::uid_of(object).unwrap_or_default().to_owned();
    if let Some(expected) = only_if.uid.clone().filter(|expected| *expected != uid) {
        return Err(store::Error::Replaced { key, expected, found: uid });
    }
    let found = revision_of(object);
    match only_if.revision.filter(|expected| Some(*expected) != found) {
        Some(expected) => Err(store::Error::Conflict { key, expected, found }),
        None => Ok(()),
    }
}

fn refused(request: &Request<'_>, error: &store::Error) -> Refusal {
    match error {
        store::Error::Conflict { expected, found: Some(found), .. } => {
            let why = format!(
                "the ResourceVersion in the precondition ({expected}) does not match the ResourceVersion in record ({found})"
            );
            Refusal::conflict(request.target.resource, &request.key().name, &why)
        }
        other => request.store_refusal(other),
    }
}

/// The DeleteOptions that were sent, and those in the query.
pub fn options(resource: &Resource, params: &Params, sent: &Value) -> Result<Options, Refusal> {
    let old_form = sent["orphanDependents"] == true || params.flag("orphanDependents")?;
    let dependents = match params.get("propagationPolicy").or(sent["propagationPolicy"].as_str()) {
        None if old_form => Dependents::Stay,
        // Objects that are owned are always deleted right after their owner.
        None | Some("Background" | "Foreground") => Dependents::Go,
        Some("Orphan") => Dependents::Stay,
        Some(_) => {
            let message = "Unsupported value: must be one of \"Background\", \"Foreground\", \"Orphan\"";
            return Err(unsupported(message.to_owned()));
        }
    };
    if dependents == Dependents::Stay && registry::has_pods(resource) {
        return Err(unsupported(format!(
            "Unsupported value: \"Orphan\": the pods of a {0} are a part of it and cannot stay without it; \
             delete the {0} with its pods, or keep it",
            resource.kind
        )));
    }
    let dry = match &sent["dryRun"] {
        Value::Array(values) if values.is_empty() => false,
        Value::Null => false,
        Value::Array(values) if values.iter().all(|value| value == "All") => true,
        other => return Err(Refusal::unprocessable(format!("dryRun: Unsupported value: {other}: must be [\"All\"]"))),
    };
    let revision = match &sent["preconditions"]["resourceVersion"] {
        Value::Null => None,
        said => {
            let parsed = said.as_str().and_then(|text| text.parse().ok());
            Some(parsed.ok_or_else(|| Refusal::bad_request("preconditions.resourceVersion is not one of ours"))?)
        }
    };
    let uid = sent["preconditions"]["uid"].as_str().map(str::to_owned);
    let effect = if dry { Effect::DryRun } else { params.effect()? };
    Ok(Options { only_if: Preconditions { uid, revision }, effect, dependents })
}

fn unsupported(message: String) -> Refusal {
    let cause = Cause::new("FieldValueNotSupported", "propagationPolicy", message);
    Refusal::unprocessable(cause.to_string()).because(vec![cause])
}
