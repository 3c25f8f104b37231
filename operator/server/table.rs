//! Tables: the output of `get`, from the columns that a kind declares.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::resource::{Cell, Column, Resource};

/// The part of each object that its row contains, in addition to the cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// Its metadata, the default.
    Metadata,
    /// The whole object.
    Object,
}

/// Whether a table includes its column definitions; in a watch only the first table does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Headings {
    /// With column definitions.
    Shown,
    /// Without.
    Omitted,
}

/// A Table of one object; `list` is the metadata of the Table.
pub fn table(
    resource: &Resource,
    object: &Value,
    list: Value,
    include: Include,
    headings: Headings,
    now: Timestamp,
) -> Value {
    let mut table = empty(resource, headings);
    table["metadata"] = list;
    table["rows"] = json!([row(resource, object, include, now)]);
    table
}

/// A Table without its rows and metadata.
pub fn empty(resource: &Resource, headings: Headings) -> Value {
    let columns = match headings {
        Headings::Shown => definitions(resource),
        Headings::Omitted => json!([]),
    };
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "columnDefinitions": columns})
}

/// Only the metadata of the object.
pub fn metadata_only(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"],
    })
}

/// The name column of an Event: the object it is about.
fn shows_name(resource: &Resource) -> bool {
    resource.kind != "Event"
}

fn definitions(resource: &Resource) -> Value {
    let name = json!({"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0});
    let declared = resource
        .columns
        .iter()
        .map(|c| json!({"name": c.name, "type": c.kind, "format": "", "description": "", "priority": c.priority}));
    shows_name(resource).then_some(name).into_iter().chain(declared).collect()
}

/// The row of an object.
pub fn row(resource: &Resource, object: &Value, include: Include, now: Timestamp) -> Value {
    let name = shows_name(resource).then(|| object["metadata"]["name"].clone());
    let cells: Vec<Value> =
        name.into_iter().chain(resource.columns.iter().map(|column| cell(column, object, now))).collect();
    match include {
        Include::None => json!({"cells": cells}),
        Include::Metadata => json!({"cells": cells, "object": metadata_only(object)}),
        Include::Object => json!({"cells": cells, "object": object}),
    }
}

fn cell(column: &Column, object: &Value, now: Timestamp) -> Value {
    let value = match &column.cell {
        Cell::Path(path) => lookup(object, path).cloned().unwrap_or_default(),
        Cell::Of(compute) => compute(object),
    };
    match (column.kind.as_str(), &value) {
        ("date", Value::String(time)) => age(time, now).into(),
        ("date", _) => "<unknown>".into(),
        ("string", Value::Object(_) | Value::Array(_)) => value.to_string().into(),
        _ => value,
    }
}

/// Follows a JSONPath of fields, `[0]` and `[?(@.type=="Ready")]`.
fn lookup<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let mut at = object;
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("[?(@.") {
            let (test, after) = after.split_once(")]")?;
            let (field, wanted) = test.split_once("==")?;
            let wanted = wanted.trim().trim_matches(['"', '\'']);
            at = at.as_array()?.iter().find(|item| item[field.trim()] == wanted)?;
            rest = after;
        } else if let Some(after) = rest.strip_prefix('[') {
            let (index, after) = after.split_once(']')?;
            at = match index.parse::<usize>() {
                Ok(index) => at.get(index)?,
                Err(_) => at.get(index.trim_matches(['"', '\'']))?,
            };
            rest = after;
        } else {
            let after = rest.strip_prefix('.').unwrap_or(rest);
            let end = after.find(['.', '[']).unwrap_or(after.len());
            at = at.get(&after[..end])?;
            rest = &after[end..];
        }
    }
    Some(at)
}

/// Age as Kubernetes writes it: `42s`, `5m`, `3h20m`, `9d`.
fn age(time: &str, now: Timestamp) -> String {
    let Ok(time) = time.parse::<Timestamp>() else { return "<invalid>".into() };
    let seconds = now.duration_since(time).as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{small_unit}"),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::api::registry;

    #[test]
    fn ages_are_written_as_kubernetes_does() {
        let now: Timestamp = "2026-06-01T12:00:00Z".parse().unwrap();
        let shown = |time| age(time, now);
        assert_eq!(shown("2026-06-01T11:59:18Z"), "42s");
        assert_eq!(shown("2026-06-01T11:56:30Z"), "3m30s");
        assert_eq!(shown("2026-06-01T11:30:00Z"), "30m");
        assert_eq!(shown("2026-06-01T08:40:00Z"), "3h20m");
        assert_eq!(shown("2026-05-31T10:00:00Z"), "26h");
        assert_eq!(shown("2026-05-23T12:00:00Z"), "9d");
        assert_eq!(shown("2023-05-23T12:00:00Z"), "3y10d");
        assert_eq!(shown("2026-06-01T12:00:05Z"), "0s");
    }

    #[test]
    fn a_path_goes_through_fields_indices_and_filters() {
        let object = json!({"status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "endpoints": {"readWrite": ["h:1", "h:2"]},
        }});
        assert_eq!(lookup(&object, r#".status.conditions[?(@.type=="Ready")].status"#), Some(&json!("True")));
        assert_eq!(lookup(&object, ".status.endpoints.readWrite[1]"), Some(&json!("h:2")));
        assert_eq!(lookup(&object, ".status.nothing[0].here"), None);
    }

    #[test]
    fn a_secret_is_shown_by_the_number_of_its_values() {
        let now: Timestamp = "2026-06-01T12:00:00Z".parse().unwrap();
        let secret = json!({
            "type": "Opaque", "data": {"a": "eA==", "b": "eA=="},
            "metadata": {"name": "s", "creationTimestamp": "2026-06-01T11:59:00Z"},
        });
        let resource = registry::find("", "v1", "secrets").unwrap();
        let table = table(resource, &secret, json!({}), Include::Metadata, Headings::Shown, now);
        assert_eq!(table["rows"][0]["cells"], json!(["s", "Opaque", 2, "60s"]));
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(table["columnDefinitions"][0]["format"], "name");
    }
}
