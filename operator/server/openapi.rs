//! OpenAPI v3 documents, generated from the registry: clients read fields and patch types from them
//! (`explain`, client-side validation).

use serde_json::{Map, Value, json};

use super::status::Refusal;
use crate::api::hash::short_hash_of_json;
use crate::api::registry;
use crate::api::resource::Resource;

/// The index: one document per group and version.
pub fn index() -> Value {
    let mut paths = Map::new();
    for resource in registry::resources() {
        let name = document_name(resource);
        let hash = short_hash_of_json(&document(&name), 32);
        paths.insert(name.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{name}?hash={hash}")}));
    }
    json!({"paths": paths})
}

/// The document with this name, e.g. `apis/evenkeel.dev/v1alpha1`.
pub fn named(name: &str) -> Result<Value, Refusal> {
    document(name).ok_or_else(Refusal::no_such_path)
}

fn document_name(resource: &Resource) -> String {
    let root = if resource.group.is_empty() { "api" } else { "apis" };
    format!("{root}/{}", resource.api_version())
}

fn document(name: &str) -> Option<Value> {
    let served: Vec<&Resource> = registry::resources().iter().filter(|r| document_name(r) == name).collect();
    if served.is_empty() {
        return None;
    }
    let mut schemas = Map::new();
    let mut paths = Map::new();
    for resource in served {
        schemas.insert(schema_name(resource), schema(resource));
        let place = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
        let object = format!("/{name}/{place}{}/{{name}}", resource.plural);
        paths.insert(object, json!({"patch": patch(resource)}));
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Evenkeel", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {"schemas": schemas},
    }))
}

/// `dev.evenkeel.v1alpha1.PostgresCluster`.
fn schema_name(resource: &Resource) -> String {
    let group = if resource.group.is_empty() { "core.api.k8s.io" } else { &resource.group };
    let reversed: Vec<&str> = group.rsplit('.').collect();
    format!("{}.{}.{}", reversed.join("."), resource.version, resource.kind)
}

fn schema(resource: &Resource) -> Value {
    let mut schema = resource.schema.clone();
    schema["x-kubernetes-group-version-kind"] = json!([kind(resource)]);
    schema
}

fn kind(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": resource.kind})
}

/// The PATCH operation; clients read the supported query parameters and patch types from it.
fn patch(resource: &Resource) -> Value {
    let texts = ["dryRun", "fieldManager", "fieldValidation"]
        .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string"}}));
    let force = json!({"name": "force", "in": "query", "schema": {"type": "boolean"}});
    let parameters: Vec<Value> = texts.into_iter().chain([force]).collect();
    let mut types = vec!["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"];
    if resource.definition.is_none() {
        types.push("application/strategic-merge-patch+json");
    }
    let any = json!({"schema": {"type": "object"}});
    let content: Map<String, Value> = types.into_iter().map(|name| (name.to_owned(), any.clone())).collect();
    json!({
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": kind(resource),
        "parameters": parameters,
        "requestBody": {"required": true, "content": content},
        "responses": {"200": {"description": "OK"}},
    })
}
