//! Server-side apply: a three-way merge by field ownership. Pure; lists are atomic.
//!
//! The fields of a manager's last apply are kept in `metadata.managedFields`. Only Apply owns fields: plain updates
//! neither gain nor lose ownership.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::status::{Cause, Refusal};
use crate::store::objects::Part;
use crate::store::rules;

/// Segments (`f:spec`, `f:instances`) from the object down to a field that is not a mapping.
type FieldPath = Vec<String>;
type FieldSet = BTreeSet<FieldPath>;

/// One apply: the manager, the fields, the options.
#[derive(Debug, Clone, Copy)]
pub struct Apply<'a> {
    /// The field manager.
    pub manager: &'a str,
    /// Group and version of the configuration.
    pub api_version: &'a str,
    /// The applied configuration: only the fields that the manager sets.
    pub wanted: &'a Value,
    /// The part of the object that is applied to.
    pub part: Part,
    /// Whether to take over fields for which another manager has another value.
    pub force: bool,
    /// The time to record with a change of ownership.
    pub now: Timestamp,
}

/// Metadata fields that an apply does not own.
const UNOWNED: [&str; 10] = [
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "managedFields",
    "selfLink",
];

impl Apply<'_> {
    /// The object after this apply (before defaults and validation), or 409 with a cause for every conflict.
    pub fn to(&self, existing: &Value) -> Result<Value, Refusal> {
        let wanted = self.opinion();
        let mut owned = FieldSet::new();
        leaves(&wanted, &mut Vec::new(), &mut owned);
        let mut entries = entries(existing);
        let own = entries.iter().position(|entry| self.is_own(entry));
        let before = own.map(|at| set_of(&entries[at])).unwrap_or_default();

        self.resolve_conflicts(&owned, &wanted, existing, &mut entries)?;
        let others: FieldSet = entries.iter().filter(|e| is_apply(e) && !self.is_own(e)).flat_map(set_of).collect();
        let mut merged = existing.clone();
        for path in before.difference(&owned).filter(|path| !holds(&owned, path) && !holds(&others, path)) {
            remove(&mut merged, path);
        }
        merge(&mut merged, &wanted);

        match own {
            Some(_) if before == owned => {} // the time stays too: a repeated apply changes nothing
            Some(at) => entries[at] = self.entry(&owned),
            None => entries.push(self.entry(&owned)),
        }
        entries.retain(|entry| !is_apply(entry) || !set_of(entry).is_empty());
        let entries = if entries.is_empty() { Value::Null } else { entries.into() };
        merge(&mut merged, &json!({"metadata": {"managedFields": entries}}));
        if let Some(revision) = self.wanted["metadata"].get("resourceVersion") {
            merged["metadata"]["resourceVersion"] = revision.clone();
        }
        Ok(merged)
    }

    /// The applied fields, without identity and without the part that is not addressed.
    fn opinion(&self) -> Value {
        let mut wanted = without_nulls(self.wanted.clone());
        if let Some(fields) = wanted.as_object_mut() {
            fields.retain(|name, _| match self.part {
                Part::Main => !matches!(name.as_str(), "apiVersion" | "kind" | "status"),
                Part::Status => name == "status",
            });
            if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.retain(|name, _| !UNOWNED.contains(&name.as_str()));
                if metadata.is_empty() {
                    fields.remove("metadata");
                }
            }
        }
        wanted
    }

    fn is_own(&self, entry: &Value) -> bool {
        is_apply(entry) && entry["manager"] == self.manager && entry["subresource"].as_str() == self.subresource()
    }

    fn subresource(&self) -> Option<&'static str> {
        (self.part == Part::Status).then_some("status")
    }

    fn entry(&self, owned: &FieldSet) -> Value {
        let mut entry = json!({
            "manager": self.manager,
            "operation": "Apply",
            "apiVersion": self.api_version,
            "time": rules::seconds(self.now),
            "fieldsType": "FieldsV1",
            "fieldsV1": to_fields_v1(owned),
        });
        if let Some(subresource) = self.subresource() {
            entry["subresource"] = subresource.into();
        }
        entry
    }

    /// Finds fields to which another manager applied another value; with force, takes them over.
    fn resolve_conflicts(
        &self,
        owned: &FieldSet,
        wanted: &Value,
        existing: &Value,
        entries: &mut [Value],
    ) -> Result<(), Refusal> {
        let contested: FieldSet = owned
            .iter()
            .filter(|path| match (at(existing, path), at(wanted, path)) {
                (None, _) | (Some(Value::Object(_)), Some(Value::Object(_))) => false,
                (found, asked) => found != asked,
            })
            .cloned()
            .collect();
        let mut causes = Vec::new();
        for entry in entries.iter_mut().filter(|entry| is_apply(entry) && !self.is_own(entry)) {
            let theirs = set_of(entry);
            for path in contested.iter().filter(|path| related(path, &theirs)) {
                let message = format!("conflict with {:?}", entry["manager"].as_str().unwrap_or_default());
                causes.push(Cause::new("FieldManagerConflict", shown(path), message));
            }
            if self.force {
                let left = theirs.into_iter().filter(|path| !related(path, &contested)).collect();
                entry["fieldsV1"] = to_fields_v1(&left);
            }
        }
        if causes.is_empty() || self.force { Ok(()) } else { Err(conflict(causes)) }
    }
}

fn conflict(causes: Vec<Cause>) -> Refusal {
    let count = causes.len();
    let list: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.message, cause.field)).collect();
    let plural = if count == 1 { "" } else { "s" };
    let message = format!("Apply failed with {count} conflict{plural}: {}", list.join(", "));
    Refusal::new(StatusCode::CONFLICT, "Conflict", message).because(causes)
}

fn entries(object: &Value) -> Vec<Value> {
    object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default()
}

fn is_apply(entry: &Value) -> bool {
    entry["operation"] == "Apply"
}

fn set_of(entry: &Value) -> FieldSet {
    let mut set = FieldSet::new();
    from_fields_v1(&entry["fieldsV1"], &mut Vec::new(), &mut set);
    set
}

/// The paths of everything that is not a mapping; an empty mapping counts as a field.
fn leaves(value: &Value, path: &mut FieldPath, set: &mut FieldSet) {
    match value.as_object() {
        Some(fields) if !fields.is_empty() => {
            for (name, child) in fields {
                path.push(format!("f:{name}"));
                leaves(child, path, set);
                path.pop();
            }
        }
        _ if path.is_empty() => {}
        _ => {
            set.insert(path.clone());
        }
    }
}

fn from_fields_v1(fields: &Value, path: &mut FieldPath, set: &mut FieldSet) {
    match fields.as_object() {
        Some(children) if !children.is_empty() => {
            for (segment, child) in children.iter().filter(|(segment, _)| *segment != ".") {
                path.push(segment.clone());
                from_fields_v1(child, path, set);
                path.pop();
            }
        }
        _ if path.is_empty() => {}
        _ => {
            set.insert(path.clone());
        }
    }
}

fn to_fields_v1(set: &FieldSet) -> Value {
    let mut root = json!({});
    for path in set {
        let mut at = &mut root;
        for segment in path {
            at = &mut at[segment];
        }
        if at.is_null() {
            *at = json!({});
        }
    }
    root
}

/// Whether the set has this path, one above it or one below it.
fn related(path: &FieldPath, set: &FieldSet) -> bool {
    set.iter().any(|other| path.starts_with(other) || other.starts_with(path))
}

/// Whether the set has this path or one below it.
fn holds(set: &FieldSet, path: &FieldPath) -> bool {
    set.iter().any(|other| other.starts_with(path))
}

fn field_names(path: &FieldPath) -> impl Iterator<Item = &str> {
    path.iter().map(|segment| segment.strip_prefix("f:").unwrap_or(segment))
}

fn shown(path: &FieldPath) -> String {
    field_names(path).map(|name| format!(".{name}")).collect()
}

fn at<'a>(object: &'a Value, path: &FieldPath) -> Option<&'a Value> {
    field_names(path).try_fold(object, |at, name| at.get(name))
}

/// Removes a field and the mappings that become empty.
fn remove(object: &mut Value, path: &FieldPath) {
    fn within(fields: &mut Map<String, Value>, names: &[&str]) {
        match names {
            [] => {}
            [last] => {
                fields.remove(*last);
            }
            [name, rest @ ..] => {
                if let Some(Value::Object(child)) = fields.get_mut(*name) {
                    within(child, rest);
                    if child.is_empty() {
                        fields.remove(*name);
                    }
                }
            }
        }
    }
    if let Some(fields) = object.as_object_mut() {
        within(fields, &field_names(path).collect::<Vec<_>>());
    }
}

/// Sets the fields of `wanted`; mappings are merged, other values are replaced, null removes.
fn merge(object: &mut Value, wanted: &Value) {
    json_patch::merge(object, wanted);
}

/// In an apply, null means that the field is not set.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, v)| !v.is_null())
            .map(|(k, v)| (k, without_nulls(v)))
            .collect::<Map<_, _>>()
            .into(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn apply(existing: &Value, manager: &str, wanted: Value, force: bool) -> Result<Value, Refusal> {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        Apply { manager, api_version: "g/v1", wanted: &wanted, part: Part::Main, force, now }.to(existing)
    }

    fn start() -> Value {
        json!({"metadata": {"name": "x"}})
    }

    #[test]
    fn what_a_manager_no_longer_wants_goes_and_the_rest_stays() {
        let mut object = apply(&start(), "a", json!({"spec": {"n": 1, "list": [1], "deep": {"x": 1}}}), false).unwrap();
        object["spec"]["by_hand"] = true.into();
        let object = apply(&object, "a", json!({"spec": {"n": 2}}), false).unwrap();
        assert_eq!(object["spec"], json!({"n": 2, "by_hand": true}));
    }

    #[test]
    fn applying_the_same_again_changes_nothing() {
        let wanted = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"n": 1}});
        let once = apply(&start(), "a", wanted.clone(), false).unwrap();
        assert_eq!(apply(&once, "a", wanted, false).unwrap(), once);
    }

    #[test]
    fn two_managers_conflict_only_over_different_values() {
        let object = apply(&start(), "a", json!({"spec": {"n": 1, "m": 1}}), false).unwrap();
        let object = apply(&object, "b", json!({"spec": {"n": 1}}), false).unwrap();
        let refusal = apply(&object, "b", json!({"spec": {"n": 2, "m": 2}}), false).unwrap_err();
        assert_eq!(refusal.code, StatusCode::CONFLICT);
        assert_eq!(
            refusal.message,
            "Apply failed with 2 conflicts: conflict with \"a\": .spec.m, conflict with \"a\": .spec.n"
        );
    }

    #[test]
    fn force_takes_over_and_the_former_owner_can_no_longer_remove_it() {
        let object = apply(&start(), "a", json!({"spec": {"n": 1, "m": 1}}), false).unwrap();
        let object = apply(&object, "b", json!({"spec": {"n": 2}}), true).unwrap();
        let object = apply(&object, "a", json!({"spec": {"m": 1}}), false).unwrap();
        assert_eq!(object["spec"], json!({"n": 2, "m": 1}));
    }

    #[test]
    fn a_field_that_another_manager_wants_too_stays_when_one_drops_it() {
        let object = apply(&start(), "a", json!({"spec": {"n": 1}}), false).unwrap();
        let object = apply(&object, "b", json!({"spec": {"n": 1}}), false).unwrap();
        let object = apply(&object, "a", json!({"spec": {}}), false).unwrap();
        assert_eq!(object["spec"]["n"], 1);
    }

    #[test]
    fn an_empty_mapping_wants_nothing_inside_it() {
        let object = apply(&start(), "a", json!({"spec": {"n": 1}}), false).unwrap();
        let object = apply(&object, "b", json!({"spec": {}}), false).unwrap();
        assert_eq!(object["spec"]["n"], 1);
        let object = apply(&object, "a", json!({"spec": {}}), false).unwrap();
        assert_eq!(object["spec"], json!({}));
    }

    #[test]
    fn ownership_is_written_as_fields_v1() {
        let object =
            apply(&start(), "a", json!({"kind": "K", "spec": {"n": 1, "list": [1]}, "status": {"x": 1}}), false);
        assert_eq!(
            object.unwrap()["metadata"]["managedFields"][0]["fieldsV1"],
            json!({"f:spec": {"f:n": {}, "f:list": {}}})
        );
    }
}
