//! Walks an object together with its structural schema: removes unknown fields and fills in defaults.

use serde_json::{Map, Value};

use crate::api::invalid::closest;

/// Limit of the depth of an object.
pub const MAX_DEPTH: usize = 64;
/// What is said of a deeper one.
pub const TOO_DEEP: &str = "the object is nested more than 64 levels deep";

/// The size of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// About its length as JSON.
    pub bytes: usize,
    /// Levels of mappings and lists, and its values.
    pub depth: usize,
}

/// The size of a value.
pub fn measure(value: &Value) -> Size {
    let sum =
        |whole: Size, part: Size| Size { bytes: whole.bytes + part.bytes, depth: whole.depth.max(part.depth + 1) };
    let one = |bytes: usize| Size { bytes, depth: 1 };
    match value {
        Value::Object(fields) => fields.iter().fold(one(2), |whole, (name, child)| {
            let child = measure(child);
            sum(whole, Size { bytes: child.bytes + name.len() + 4, ..child })
        }),
        Value::Array(items) => items.iter().map(measure).fold(one(2), sum),
        Value::String(text) => one(text.len() + 3),
        Value::Number(_) | Value::Bool(_) | Value::Null => one(8),
    }
}

/// A field that [`fit`] removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownField {
    /// Its path, e.g. `spec.instnces`.
    pub path: String,
    /// A known field with a similar name, as a suggestion.
    pub meant: Option<String>,
}

/// The schema of a field of a mapping; `None` if the mapping has no such field.
pub fn child<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    let rest = schema.get("additionalProperties").filter(|rest| **rest != Value::Bool(false));
    let free = preserves(schema) || schema.get("type").is_none_or(|t| t != "object");
    schema["properties"].get(name).or(rest).or(free.then_some(&Value::Null))
}

/// Removes unknown fields (returned) and nulls that the schema does not allow, and fills in defaults.
pub fn fit(schema: &Value, object: &mut Value) -> Vec<UnknownField> {
    let mut unknown = Vec::new();
    walk(schema, object, "", &mut unknown);
    unknown
}

fn walk(schema: &Value, value: &mut Value, path: &str, unknown: &mut Vec<UnknownField>) {
    match value {
        Value::Object(fields) => walk_object(schema, fields, path, unknown),
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                walk(&schema["items"], item, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

fn walk_object(schema: &Value, fields: &mut Map<String, Value>, path: &str, unknown: &mut Vec<UnknownField>) {
    let none = Map::new();
    let known = schema["properties"].as_object().unwrap_or(&none);
    fields.retain(|name, value| match (known.get(name), child(schema, name)) {
        (Some(known), _) => !value.is_null() || known["nullable"] == true,
        (None, Some(_)) => true,
        (None, None) => {
            let meant = closest(name, known.keys().map(String::as_str)).map(str::to_owned);
            unknown.push(UnknownField { path: join(path, name), meant });
            false
        }
    });
    for (name, child) in known {
        if let Some(default) = child.get("default") {
            fields.entry(name.clone()).or_insert_with(|| default.clone());
        }
    }
    for (name, value) in fields.iter_mut() {
        if let Some(child) = child(schema, name) {
            walk(child, value, &join(path, name), unknown);
        }
    }
}

fn preserves(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true
}

/// A field below `path`: `path.name`, or `path[name]` if the name itself has dots or slashes.
pub fn join(path: &str, name: &str) -> String {
    if name.contains(['.', '/', ' ']) {
        format!("{path}[{name}]")
    } else if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "instances": {"type": "integer", "default": 1},
                "bound": {"type": "string", "nullable": true},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "durability": {"type": "object", "default": {}, "properties": {"mode": {"type": "string", "default": "required"}}},
                "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            }},
        }})
    }

    #[test]
    fn defaults_are_filled_in_deeply_and_nulls_count_as_absent() {
        let mut object = json!({"spec": {"instances": null, "bound": null}});
        assert_eq!(fit(&schema(), &mut object), []);
        assert_eq!(object, json!({"spec": {"instances": 1, "bound": null, "durability": {"mode": "required"}}}));
    }

    #[test]
    fn every_unknown_field_is_named_with_its_path_and_what_was_meant() {
        let mut object = json!({"spec": {"instnces": 3, "list": [{"a": "x"}, {"b": 1}], "labels": {"x/y": "z"}, "free": {"q": 1}}, "zzz": 1});
        let found: Vec<String> =
            fit(&schema(), &mut object).into_iter().map(|u| format!("{} ({:?})", u.path, u.meant)).collect();
        assert_eq!(found, ["zzz (None)", "spec.instnces (Some(\"instances\"))", "spec.list[1].b (Some(\"a\"))"]);
        assert_eq!(object["spec"]["free"]["q"], 1);
    }
}
