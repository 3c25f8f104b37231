//! CustomResourceDefinitions: read-only descriptions of Evenkeel's own kinds. kubectl lists them when it meets a kind that it
//! does not know.

use serde_json::{Value, json};

use super::owner::derived_uid;
use crate::api::resource::{Resource, Source, View, open, path, plain};

/// The served kind; `show` returns the definitions.
pub fn definition(show: fn(&Value) -> Vec<Value>) -> Resource {
    Resource {
        group: "apiextensions.k8s.io".into(),
        short_names: vec!["crd".into(), "crds".into()],
        categories: vec!["api-extensions".into()],
        namespaced: false,
        columns: vec![path("Created At", "string", ".metadata.creationTimestamp")],
        view: Some(View {
            sources: vec![Source { resource: "namespaces", show, evict: None, accept: None }],
            instead: "the kinds of Evenkeel are built in: definitions cannot be added, changed or deleted",
            containers: false,
        }),
        ..plain("CustomResourceDefinition", "customresourcedefinitions", json!({"spec": open(), "status": open()}), &[])
    }
}

/// A definition as an object; `namespace` gives it its age.
pub fn show_definition(namespace: &Value, mut definition: Value) -> Value {
    let name = definition["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let since = namespace["metadata"]["creationTimestamp"].clone();
    definition["metadata"] = json!({
        "name": name,
        "uid": derived_uid(namespace, "CustomResourceDefinition", &name),
        "resourceVersion": namespace["metadata"]["resourceVersion"],
        "creationTimestamp": since,
    });
    let condition = |kind: &str, reason: &str| json!({"type": kind, "status": "True", "reason": reason, "message": "", "lastTransitionTime": since});
    definition["status"] = json!({
        "acceptedNames": definition["spec"]["names"],
        "storedVersions": [definition["spec"]["versions"][0]["name"]],
        "conditions": [condition("NamesAccepted", "NoConflicts"), condition("Established", "InitialNamesAccepted")],
    });
    definition
}
