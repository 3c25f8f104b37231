//! The `scale` subresource: current and desired number of replicas, the same for every kind that scales. Pure.

use serde_json::{Map, Value, json};

use super::status::{Cause, Refusal};
use crate::api::resource::Resource;

/// The object's Scale.
pub fn of(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let kept = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"];
    let metadata: Map<String, Value> =
        kept.iter().filter_map(|&field| Some((field.to_owned(), metadata.get(field)?.clone()))).collect();
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": object["spec"]["replicas"].as_u64().unwrap_or(0)},
        "status": {
            "replicas": object["status"]["replicas"].as_u64().unwrap_or(0),
            "selector": selector(&object["spec"]["selector"]),
        },
    })
}

/// The object with the Scale's number of replicas; 422 if the Scale has no number.
pub fn scaled(resource: &Resource, object: &Value, scale: &Value) -> Result<Value, Refusal> {
    let Some(replicas) = scale["spec"]["replicas"].as_u64() else {
        let message = format!("Invalid value: {}: must be a number of replicas, 0 or more", scale["spec"]["replicas"]);
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        return Err(Refusal::invalid(resource, name, vec![Cause::invalid("spec.replicas", message)]));
    };
    let mut scaled = object.clone();
    scaled["spec"]["replicas"] = replicas.into();
    for field in ["resourceVersion", "uid"] {
        if let Some(said) = scale["metadata"].get(field).filter(|said| said.as_str().is_some_and(|s| !s.is_empty())) {
            scaled["metadata"][field] = said.clone();
        }
    }
    Ok(scaled)
}

/// A label selector as text, as in query strings.
fn selector(selector: &Value) -> String {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let equal = labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten().map(|expression| {
        let key = expression["key"].as_str().unwrap_or_default();
        let values = expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let values = values.collect::<Vec<_>>().join(",");
        match expression["operator"].as_str().unwrap_or_default() {
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            operator => format!("{key} {} ({values})", operator.to_lowercase()),
        }
    });
    equal.chain(expressions).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_tells_wanted_and_present_replicas_and_how_to_find_them() {
        let object = json!({
            "metadata": {"name": "web", "namespace": "n", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}, "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "x", "operator": "DoesNotExist"}]}},
            "status": {"replicas": 2},
        });
        assert_eq!(
            of(&object),
            json!({
                "kind": "Scale", "apiVersion": "autoscaling/v1",
                "metadata": {"name": "web", "namespace": "n", "uid": "u", "resourceVersion": "7"},
                "spec": {"replicas": 3},
                "status": {"replicas": 2, "selector": "app=web,tier in (a,b),!x"},
            })
        );
    }
}
