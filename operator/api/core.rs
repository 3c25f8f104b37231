//! The supported core kinds: Namespace, Secret, ConfigMap, Event. Schemas and rules.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::invalid::Invalid;
use super::resource::{Resource, age_column, of, path, plain, strings, text, time};
use super::{host_ports, pod_security};

const FIXED: &str = "cannot be changed once set";

/// The resource of namespaces.
pub const NAMESPACES: &str = "namespaces";
/// The namespace that always exists.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Limit of the sum of the values of a Secret or ConfigMap, in bytes.
const MAX_BYTES: usize = 1024 * 1024;

/// Namespaces: names are unique within one.
pub fn namespace() -> Resource {
    Resource {
        short_names: vec!["ns".into()],
        namespaced: false,
        has_status: true,
        columns: vec![path("Status", "string", ".status.phase"), age_column()],
        selectable: &["status.phase"],
        fill_in: set_phase,
        validate: Box::new(|object| {
            let labels = pod_security::label_problems(object).into_iter();
            labels.chain(host_ports::annotation_problems(object)).collect()
        }),
        ..plain(
            "Namespace",
            "namespaces",
            json!({
                "spec": {"type": "object", "properties": {"finalizers": strings()}},
                "status": {"type": "object", "properties": {"phase": text()}},
            }),
            &[],
        )
    }
}

/// Secrets: small sensitive values.
pub fn secret() -> Resource {
    Resource {
        sensitive: true,
        columns: vec![path("Type", "string", ".type"), of("Data", "integer", secret_size), age_column()],
        selectable: &["type"],
        normalize: fold_string_data,
        validate: Box::new(secret_problems),
        validate_change: secret_change_problems,
        ..plain(
            "Secret",
            "secrets",
            json!({
                "type": {"type": "string", "default": "Opaque"},
                "immutable": {"type": "boolean"},
                "data": {"type": "object", "additionalProperties": text()},
                "stringData": {"type": "object", "additionalProperties": text()},
            }),
            &[],
        )
    }
}

/// ConfigMaps: small values that are not secret.
pub fn config_map() -> Resource {
    Resource {
        short_names: vec!["cm".into()],
        columns: vec![of("Data", "integer", config_map_size), age_column()],
        validate: Box::new(config_map_problems),
        validate_change: config_map_change_problems,
        ..plain(
            "ConfigMap",
            "configmaps",
            json!({
                "immutable": {"type": "boolean"},
                "data": {"type": "object", "additionalProperties": text()},
                "binaryData": {"type": "object", "additionalProperties": text()},
            }),
            &[],
        )
    }
}

/// Events: what happened to an object, for people.
pub fn event() -> Resource {
    let reference = json!({"type": "object", "properties": {
        "apiVersion": text(), "kind": text(), "namespace": text(), "name": text(),
        "uid": text(), "resourceVersion": text(), "fieldPath": text(),
    }});
    Resource {
        short_names: vec!["ev".into()],
        columns: vec![
            of("Last Seen", "date", event_time),
            path("Type", "string", ".type"),
            path("Reason", "string", ".reason"),
            of("Object", "string", event_object),
            path("Message", "string", ".message"),
        ],
        selectable: &[
            "involvedObject.apiVersion",
            "involvedObject.kind",
            "involvedObject.name",
            "involvedObject.namespace",
            "involvedObject.uid",
            "reason",
            "type",
        ],
        ..plain(
            "Event",
            "events",
            json!({
                "involvedObject": reference, "related": reference,
                "reason": text(), "message": text(), "action": text(),
                "type": {"type": "string", "enum": ["Normal", "Warning"]},
                "count": {"type": "integer", "format": "int32"},
                "firstTimestamp": time(), "lastTimestamp": time(), "eventTime": time(),
                "source": {"type": "object", "properties": {"component": text(), "host": text()}},
                "series": {"type": "object", "properties": {
                    "count": {"type": "integer", "format": "int32"}, "lastObservedTime": time(),
                }},
                "reportingComponent": text(), "reportingInstance": text(),
            }),
            &["involvedObject"],
        )
    }
}

/// Leases: what clients that elect a leader among themselves agree on. The operator itself does not use them.
pub fn lease() -> Resource {
    Resource {
        group: "coordination.k8s.io".into(),
        columns: vec![path("Holder", "string", ".spec.holderIdentity"), age_column()],
        ..plain(
            "Lease",
            "leases",
            json!({"spec": {"type": "object", "properties": {
                "holderIdentity": text(), "preferredHolder": text(), "strategy": text(),
                "leaseDurationSeconds": {"type": "integer", "format": "int32"},
                "leaseTransitions": {"type": "integer", "format": "int32"},
                "acquireTime": time(), "renewTime": time(),
            }}}),
            &[],
        )
    }
}

/// Writes the phase of a namespace: it is the only field of its status.
pub fn set_phase(namespace: &mut Value) {
    let terminating = namespace["metadata"]["deletionTimestamp"].is_string();
    if let Some(fields) = namespace.as_object_mut() {
        fields.insert("status".into(), json!({"phase": if terminating { "Terminating" } else { "Active" }}));
    }
}

fn config_map_size(object: &Value) -> Value {
    ["data", "binaryData"].iter().map(|field| object[field].as_object().map_or(0, Map::len)).sum::<usize>().into()
}

fn secret_size(object: &Value) -> Value {
    object["data"].as_object().map_or(0, Map::len).into()
}

fn event_time(object: &Value) -> Value {
    ["lastTimestamp", "eventTime", "firstTimestamp"].iter().map(|f| &object[f]).find(|v| v.is_string()).cloned().into()
}

fn event_object(object: &Value) -> Value {
    let about = &object["involvedObject"];
    let part = |name: &str| about[name].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", part("kind").to_lowercase(), part("name")).into()
}

/// Encodes `stringData` and moves it into `data`; `stringData` is never stored.
fn fold_string_data(object: &mut Value) {
    let Some(fields) = object.as_object_mut() else { return };
    let foldable = |v: &Value| v.as_object().is_some_and(|m| m.values().all(Value::is_string));
    if !fields.get("stringData").is_some_and(foldable) || fields.get("data").is_some_and(|d| !d.is_object()) {
        return; // the schema will refuse it
    }
    let Some(Value::Object(plain)) = fields.remove("stringData") else { return };
    if plain.is_empty() {
        return;
    }
    let data = fields.entry("data").or_insert_with(|| json!({}));
    for (key, value) in plain {
        data[key] = STANDARD.encode(value.as_str().unwrap_or_default()).into();
    }
}

fn secret_problems(object: &Value) -> Vec<Invalid> {
    let mut problems = Vec::new();
    let mut size = 0;
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        let at = format!("data[{key}]");
        problems.extend(key_problem(key).map(|message| Invalid::new(&at, message)));
        match STANDARD.decode(value.as_str().unwrap_or_default()) {
            Ok(bytes) => size += bytes.len(),
            Err(_) => {
                let message = "must be base64; put plain text into stringData instead".to_owned();
                problems.push(Invalid { path: at, message });
            }
        }
    }
    problems.extend(size_problem(size));
    problems
}

/// The problem with the key of a value, which may become a file name.
fn key_problem(key: &str) -> Option<&'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let wrong = key.is_empty() || key.len() > 253 || key == "." || key.starts_with("..") || !key.chars().all(fits);
    wrong.then_some("a key must consist of letters, digits, '-', '_' or '.', and not begin with '..'")
}

fn size_problem(size: usize) -> Option<Invalid> {
    let message = || format!("holds {size} bytes; at most {MAX_BYTES} are allowed");
    (size > MAX_BYTES).then(|| Invalid::new("data", message()))
}

fn config_map_problems(object: &Value) -> Vec<Invalid> {
    let mut problems = Vec::new();
    let mut size = 0;
    let data = object["data"].as_object();
    for (field, key, value) in ["data", "binaryData"]
        .iter()
        .flat_map(|field| entries(&object[field]).map(move |(key, value)| (field, key, value)))
    {
        let at = format!("{field}[{key}]");
        problems.extend(key_problem(key).map(|message| Invalid::new(&at, message)));
        match (*field, STANDARD.decode(value)) {
            ("data", _) => size += value.len(),
            (_, Ok(bytes)) => size += bytes.len(),
            (_, Err(_)) => problems.push(Invalid::new(&at, "must be base64; put plain text into data instead")),
        }
        if *field == "binaryData" && data.is_some_and(|data| data.contains_key(key)) {
            problems.push(Invalid::new(at, "is in data too; a key may be in one of them"));
        }
    }
    problems.extend(size_problem(size));
    problems
}

fn config_map_change_problems(old: &Value, new: &Value) -> Vec<Invalid> {
    let frozen: &[&str] = if old["immutable"] == true { &["immutable", "data", "binaryData"] } else { &[] };
    frozen.iter().filter(|field| old[field] != new[field]).map(|field| Invalid::new(*field, FIXED)).collect()
}

/// Names and values of a mapping of strings.
fn entries(value: &Value) -> impl Iterator<Item = (&String, &str)> {
    value.as_object().into_iter().flatten().map(|(key, value)| (key, value.as_str().unwrap_or_default()))
}

fn secret_change_problems(old: &Value, new: &Value) -> Vec<Invalid> {
    let fixed = |path: &str| Invalid::new(path, FIXED);
    let mut problems = Vec::new();
    if old["type"] != new["type"] {
        problems.push(fixed("type"));
    }
    if old["immutable"] == true {
        let changed = ["immutable", "data"].into_iter().filter(|f| old[f] != new[f]);
        problems.extend(changed.map(fixed));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn string_data_is_folded_into_data_and_wins() {
        let mut object = json!({"data": {"a": "eA==", "b": "eA=="}, "stringData": {"b": "secret"}});
        fold_string_data(&mut object);
        assert_eq!(object, json!({"data": {"a": "eA==", "b": "c2VjcmV0"}}));
    }

    #[test]
    fn a_secret_that_is_not_base64_is_refused_without_showing_it() {
        let problems = secret_problems(&json!({"data": {"pass word": "hunter2!"}}));
        let shown: Vec<String> = problems.iter().map(|p| format!("{}: {}", p.path, p.message)).collect();
        assert_eq!(
            shown,
            [
                "data[pass word]: a key must consist of letters, digits, '-', '_' or '.', and not begin with '..'",
                "data[pass word]: must be base64; put plain text into stringData instead",
            ]
        );
    }

    #[test]
    fn a_config_map_is_judged_by_key_encoding_and_size() {
        let problems = config_map_problems(&json!({
            "data": {"..x": "a", "both": "b", "big": "x".repeat(MAX_BYTES)},
            "binaryData": {"both": "eA==", "odd": "not base64!"},
        }));
        let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, ["data[..x]", "binaryData[both]", "binaryData[odd]", "data"]);
        assert!(config_map_problems(&json!({"data": {"a.conf": "x = 1\n"}, "binaryData": {"b": "AAEC"}})).is_empty());
    }

    #[test]
    fn an_immutable_config_map_stays_as_it_is() {
        let old = json!({"immutable": true, "data": {"a": "1"}, "binaryData": {"b": "AAEC"}});
        let changed = config_map_change_problems(&old, &json!({"data": {"a": "2"}, "binaryData": {"b": "AAEC"}}));
        assert_eq!(changed.iter().map(|problem| problem.path.as_str()).collect::<Vec<_>>(), ["immutable", "data"]);
        assert!(config_map_change_problems(&json!({"data": {"a": "1"}}), &json!({"immutable": true})).is_empty());
    }

    #[test]
    fn an_immutable_secret_stays_as_it_is() {
        let old = json!({"type": "Opaque", "immutable": true, "data": {"a": "eA=="}});
        let mut new = old.clone();
        assert!(secret_change_problems(&old, &new).is_empty());
        new["data"]["a"] = "eQ==".into();
        assert_eq!(secret_change_problems(&old, &new).len(), 1);
    }
}
