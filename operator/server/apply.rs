//! Field ownership (`metadata.managedFields`): server-side apply, and what updates and patches own. Pure.

use axum::http::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::fields::{self, Fields};
use super::status::{Cause, Refusal};
use crate::api::resource::Resource;
use crate::store::rules;

/// Limit of the managers of updates that are recorded, as in Kubernetes; the oldest are recorded as one.
const MAX_UPDATERS: usize = 10;
/// The manager that stands for the oldest ones.
const ANCIENT: &str = "ancient-changes";
/// The manager of what an object had before its first apply.
const BEFORE: &str = "before-first-apply";
/// The manager whose applies continue those that kubectl made on the client.
const KUBECTL: &str = "kubectl";
/// The annotation with the last configuration that kubectl applied on the client.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Metadata fields that nobody owns.
pub const UNOWNED: [&str; 11] = [
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
];

/// Who writes, and when.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The field manager.
    pub manager: &'a str,
    /// The kind of the object.
    pub resource: &'a Resource,
    /// The subresource that is written to.
    pub subresource: Option<&'static str>,
    /// The time to record with a change of ownership.
    pub now: Timestamp,
}

/// How a manager came to own its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Apply,
    Update,
}

/// One entry of `managedFields`.
struct Managed {
    entry: Value,
    fields: Fields,
}

impl Writer<'_> {
    /// The object after an apply of `wanted`, before defaults and validation; 409 with a cause for each field that another
    /// manager owns with another value. `force` takes over these fields.
    pub fn apply(&self, existing: &Value, wanted: &Value, force: bool) -> Result<Value, Refusal> {
        let schema = &self.resource.schema;
        let wanted_fields = owned_part(&without_nulls(wanted));
        let owned = Fields::of(schema, &wanted_fields);
        let mut managed = self.managed(existing);
        if managed.is_empty() && rules::uid_of(existing).is_some() {
            let before = Writer { manager: BEFORE, ..*self };
            managed.push(before.entry(Operation::Update, Fields::of(schema, &owned_part(existing))));
        }

        let present = owned_part(existing);
        let mut merged = present.clone();
        fields::merge(schema, &mut merged, &wanted_fields);
        let changed = fields::compare(schema, &present, &merged).changed;
        let is_own = |other: &Managed| self.wrote(&other.entry, Operation::Apply);
        let conflicts: Vec<(String, Fields)> = managed
            .iter()
            .filter(|other| !is_own(other))
            .map(|other| (self.named(&other.entry), other.fields.common(&changed)))
            .filter(|(_, fields)| !fields.is_empty())
            .collect();
        let applied_before = self.applied_by_kubectl(existing);
        let contested = |(manager, fields): &(String, Fields)| {
            let fields = fields.without(&applied_before);
            fields.paths().into_iter().map(|path| cause(manager, path)).collect::<Vec<_>>()
        };
        let causes: Vec<Cause> = conflicts.iter().flat_map(contested).collect();
        if !causes.is_empty() && !force {
            return Err(conflict(causes));
        }

        let mut kept = owned.clone();
        let mut before = Fields::default();
        for other in &mut managed {
            if is_own(other) {
                before = other.fields.clone();
            } else {
                other.fields.cut(&changed);
                kept.add(&other.fields);
            }
        }
        let mut merged = existing.clone();
        fields::prune(schema, &mut merged, &before, &kept);
        // After the pruning, which removes what it has emptied: an empty list that is wanted stays.
        fields::merge(schema, &mut merged, &wanted_fields);
        self.record(&mut managed, Operation::Apply, owned);
        write(&mut merged, managed);
        if self.manager == KUBECTL {
            update_last_applied(&mut merged, wanted);
        }
        for precondition in ["resourceVersion", "uid"] {
            if let Some(said) = wanted["metadata"].get(precondition) {
                merged["metadata"][precondition] = said.clone();
            }
        }
        Ok(merged)
    }

    /// `new` with the ownership of what it changes; `old` is the object that it replaces. Clients may write
    /// `managedFields` themselves: an empty entry (`[{}]`) ends the record until the next apply.
    pub fn update(&self, old: Option<&Value>, mut new: Value) -> Value {
        let sent = new["metadata"]["managedFields"].as_array();
        if old.is_some() && sent.is_some_and(|entries| entries.as_slice() == [json!({})]) {
            write(&mut new, Vec::new());
            return new;
        }
        let source = if old.is_some() && sent.is_some_and(|entries| !entries.is_empty()) { Some(&new) } else { old };
        let mut managed = source.map(|source| self.managed(source)).unwrap_or_default();
        if old.is_none() || !managed.is_empty() {
            let nothing = json!({});
            let before = old.map_or(nothing, owned_part);
            let difference = fields::compare(&self.resource.schema, &before, &owned_part(&new));
            for manager in &mut managed {
                manager.fields.cut(&difference.removed);
            }
            let own = managed.iter().find(|other| self.wrote(&other.entry, Operation::Update));
            let mut owned = own.map(|own| own.fields.clone()).unwrap_or_default();
            owned.add(&difference.changed);
            self.record(&mut managed, Operation::Update, owned);
        }
        write(&mut new, managed);
        new
    }

    /// The entries of an object. Those of lists that were one value for earlier versions have their items.
    fn managed(&self, object: &Value) -> Vec<Managed> {
        let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
        let schema = &self.resource.schema;
        entries
            .map(|entry| Managed {
                entry: entry.clone(),
                fields: Fields::decode(&entry["fieldsV1"]).itemized(schema, object),
            })
            .collect()
    }

    /// Records the fields that this manager owns; its time stays if they are the same.
    fn record(&self, managed: &mut Vec<Managed>, operation: Operation, fields: Fields) {
        match managed.iter_mut().find(|other| self.wrote(&other.entry, operation)) {
            Some(own) if own.fields == fields => {}
            Some(own) => *own = self.entry(operation, fields),
            None => managed.push(self.entry(operation, fields)),
        }
    }

    /// Whether an entry is of this manager.
    fn wrote(&self, entry: &Value, operation: Operation) -> bool {
        entry["manager"] == self.manager()
            && entry["operation"] == operation.word()
            && entry["subresource"].as_str() == self.subresource
    }

    fn entry(&self, operation: Operation, fields: Fields) -> Managed {
        let mut entry = json!({
            "manager": self.manager(),
            "operation": operation.word(),
            "apiVersion": self.resource.api_version(),
            "time": rules::seconds(self.now),
            "fieldsType": "FieldsV1",
        });
        if let Some(subresource) = self.subresource {
            entry["subresource"] = subresource.into();
        }
        Managed { entry, fields }
    }

    fn manager(&self) -> &str {
        if self.manager.is_empty() { "unknown" } else { self.manager }
    }

    /// A manager in the words of Kubernetes' conflicts.
    fn named(&self, entry: &Value) -> String {
        let subresource = entry["subresource"].as_str().map(|part| format!(" with subresource {part:?}"));
        let version = (entry["operation"] == Operation::Update.word())
            .then(|| format!(" using {}", entry["apiVersion"].as_str().unwrap_or_default()));
        let manager = entry["manager"].as_str().unwrap_or_default();
        format!("{manager:?}{}{}", subresource.unwrap_or_default(), version.unwrap_or_default())
    }

    /// What kubectl applied on the client and nobody has changed since: kubectl's own apply takes it over.
    fn applied_by_kubectl(&self, existing: &Value) -> Fields {
        let text = existing["metadata"]["annotations"][LAST_APPLIED].as_str();
        let applied =
            text.filter(|_| self.manager == KUBECTL).and_then(|text| serde_json::from_str::<Value>(text).ok());
        let Some(mut applied) = applied else { return Fields::default() };
        let schema = &self.resource.schema;
        (self.resource.normalize)(&mut applied);
        let applied = owned_part(&without_nulls(&applied));
        let mut fields = Fields::of(schema, &applied);
        let mut merged = owned_part(existing);
        fields::merge(schema, &mut merged, &applied);
        fields.cut(&fields::compare(schema, &owned_part(existing), &merged).changed);
        fields
    }
}

impl Operation {
    fn word(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// Writes the entries that own something, and no more than [`MAX_UPDATERS`] of updates.
fn write(object: &mut Value, mut managed: Vec<Managed>) {
    managed.retain(|manager| !manager.fields.is_empty());
    let (mut updates, mut managed): (Vec<_>, Vec<_>) =
        managed.into_iter().partition(|manager| manager.entry["operation"] == Operation::Update.word());
    if updates.len() > MAX_UPDATERS {
        updates.sort_by_cached_key(|manager| manager.entry["time"].as_str().unwrap_or_default().to_owned());
        let rest = updates.split_off(updates.len() - MAX_UPDATERS + 1);
        let ancient = updates.into_iter().reduce(|mut ancient, next| {
            ancient.fields.add(&next.fields);
            Managed { entry: next.entry, fields: ancient.fields }
        });
        updates = ancient.into_iter().chain(rest).collect();
        updates[0].entry["manager"] = ANCIENT.into();
    }
    managed.append(&mut updates);
    let entries: Vec<Value> = managed
        .into_iter()
        .map(|Managed { mut entry, fields }| {
            entry["fieldsV1"] = fields.encode();
            entry
        })
        .collect();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
        if !entries.is_empty() {
            metadata.insert("managedFields".into(), entries.into());
        }
    }
}

/// kubectl's own apply keeps the configuration up to date that its applies on the client compare with.
fn update_last_applied(object: &mut Value, wanted: &Value) {
    if let Some(annotation) = object["metadata"]["annotations"].get_mut(LAST_APPLIED) {
        *annotation = format!("{wanted}\n").into();
    }
}

fn cause(manager: &str, path: String) -> Cause {
    Cause::new("FieldManagerConflict", path, format!("conflict with {manager}"))
}

fn conflict(causes: Vec<Cause>) -> Refusal {
    let count = causes.len();
    let list: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.message, cause.field)).collect();
    let plural = if count == 1 { "" } else { "s" };
    let message = format!("Apply failed with {count} conflict{plural}: {}", list.join(", "));
    Refusal::new(StatusCode::CONFLICT, "Conflict", message).because(causes)
}

/// An object without what nobody owns: its identity, and the status.
fn owned_part(object: &Value) -> Value {
    let mut part = object.clone();
    if let Some(fields) = part.as_object_mut() {
        fields.retain(|name, _| !matches!(name.as_str(), "apiVersion" | "kind" | "status"));
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|name, _| !UNOWNED.contains(&name.as_str()));
            if metadata.is_empty() {
                fields.remove("metadata");
            }
        }
    }
    part
}

/// In an apply, null means that the field is not set.
pub fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let set = fields.iter().filter(|(_, value)| !value.is_null());
            set.map(|(name, value)| (name.clone(), without_nulls(value))).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::api::registry;

    fn writer<'a>(manager: &'a str, resource: &'a Resource) -> Writer<'a> {
        Writer { manager, resource, subresource: None, now: "2026-01-01T00:00:00Z".parse().unwrap() }
    }

    fn apply(existing: &Value, manager: &str, wanted: Value, force: bool) -> Result<Value, Refusal> {
        writer(manager, registry::find("", "v1", "configmaps").unwrap()).apply(existing, &wanted, force)
    }

    fn update(old: &Value, manager: &str, change: Value) -> Value {
        let mut new = old.clone();
        json_patch::merge(&mut new, &change);
        writer(manager, registry::find("", "v1", "configmaps").unwrap()).update(Some(old), new)
    }

    fn start() -> Value {
        json!({"metadata": {"name": "x", "uid": "u"}})
    }

    fn first(manager: &str, wanted: Value) -> Value {
        apply(&json!({"metadata": {"name": "x"}}), manager, wanted, false).unwrap()
    }

    fn told(outcome: Result<Value, Refusal>) -> String {
        outcome.map_or_else(
            |refusal| format!("{} {}", refusal.code.as_u16(), refusal.message),
            |value| value["data"].to_string(),
        )
    }

    #[test]
    fn what_a_manager_no_longer_wants_goes_and_the_rest_stays() {
        let mut object = first("a", json!({"data": {"n": "1", "old": "x"}}));
        object["data"]["by_hand"] = "y".into();
        assert_eq!(told(apply(&object, "a", json!({"data": {"n": "2"}}), false)), r#"{"by_hand":"y","n":"2"}"#);
    }

    #[test]
    fn applying_the_same_again_changes_nothing() {
        let wanted = json!({"metadata": {"labels": {"a": "b"}}, "data": {"n": "1"}});
        let once = first("a", wanted.clone());
        assert_eq!(apply(&once, "a", wanted, false).unwrap(), once);
    }

    #[test]
    fn two_managers_conflict_only_over_different_values() {
        let object = first("a", json!({"data": {"n": "1", "m": "1"}}));
        let object = apply(&object, "b", json!({"data": {"n": "1"}}), false).unwrap();
        assert_eq!(
            told(apply(&object, "b", json!({"data": {"n": "2", "m": "2"}}), false)),
            "409 Apply failed with 2 conflicts: conflict with \"a\": .data.m, conflict with \"a\": .data.n"
        );
    }

    #[test]
    fn force_takes_over_and_the_former_owner_can_no_longer_remove_it() {
        let object = first("a", json!({"data": {"n": "1", "m": "1"}}));
        let object = apply(&object, "b", json!({"data": {"n": "2"}}), true).unwrap();
        assert_eq!(told(apply(&object, "a", json!({"data": {"m": "1"}}), false)), r#"{"m":"1","n":"2"}"#);
    }

    #[test]
    fn a_field_that_another_manager_wants_too_stays_when_one_drops_it() {
        let object = first("a", json!({"data": {"n": "1"}}));
        let object = apply(&object, "b", json!({"data": {"n": "1"}}), false).unwrap();
        assert_eq!(told(apply(&object, "a", json!({"data": {}}), false)), r#"{"n":"1"}"#);
    }

    #[test]
    fn an_empty_mapping_wants_nothing_inside_it() {
        let object = first("a", json!({"data": {"n": "1"}}));
        let object = apply(&object, "b", json!({"data": {}}), false).unwrap();
        assert_eq!(object["data"]["n"], "1");
        assert_eq!(told(apply(&object, "a", json!({"data": {}}), false)), "{}");
    }

    /// Regression 46: a patch owned nothing in server-side apply, so the next apply undid it without a word. Updates and
    /// patches now own what they change, and the apply names them.
    #[test]
    fn an_apply_names_the_update_that_it_would_undo() {
        let wanted = json!({"data": {"n": "1"}});
        let object = update(&first("a", wanted.clone()), "kubectl-patch", json!({"data": {"n": "9", "m": "1"}}));
        let conflict = "409 Apply failed with 1 conflict: conflict with \"kubectl-patch\" using v1: .data.n";
        assert_eq!(told(apply(&object, "a", wanted.clone(), false)), conflict);
        assert_eq!(told(apply(&object, "a", wanted, true)), r#"{"m":"1","n":"1"}"#);
        assert_eq!(update(&object, "other", json!({})), object, "an update that changes nothing owns nothing");
    }

    #[test]
    fn what_existed_before_the_first_apply_has_an_owner_too() {
        let mut object = start();
        object["data"] = json!({"n": "9"});
        assert_eq!(update(&object, "b", json!({"data": {"m": "1"}}))["metadata"].get("managedFields"), None);
        let conflict = "409 Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.n";
        assert_eq!(told(apply(&object, "a", json!({"data": {"n": "1"}}), false)), conflict);
    }

    #[test]
    fn kubectl_takes_over_what_it_applied_on_the_client_and_nobody_changed() {
        let applied = json!({"data": {"n": "1", "m": "1"}});
        let mut sent = json!({"metadata": {"name": "x", "annotations": {(LAST_APPLIED): applied.to_string()}}});
        json_patch::merge(&mut sent, &applied);
        let resource = registry::find("", "v1", "configmaps").unwrap();
        let mut object = writer("kubectl-client-side-apply", resource).update(None, sent);
        object["metadata"]["uid"] = "u".into();
        let wanted = json!({"data": {"n": "2", "m": "1"}});
        let taken = apply(&object, KUBECTL, wanted.clone(), false).unwrap();
        assert_eq!(taken["data"], wanted["data"]);
        assert_eq!(taken["metadata"]["annotations"][LAST_APPLIED], format!("{wanted}\n"));
        assert!(apply(&object, "another", wanted.clone(), false).is_err());
        let object = update(&object, "editor", json!({"data": {"n": "5"}}));
        let conflict = "409 Apply failed with 1 conflict: conflict with \"editor\" using v1: .data.n";
        assert_eq!(told(apply(&object, KUBECTL, wanted, false)), conflict);
    }

    #[test]
    fn clients_may_write_and_clear_the_record() {
        let object = first("a", json!({"data": {"n": "1"}}));
        let cleared = update(&object, "b", json!({"metadata": {"managedFields": [{}]}}));
        assert_eq!(cleared["metadata"].get("managedFields"), None);
        let mut entries = object["metadata"]["managedFields"].clone();
        entries[0]["manager"] = "c".into();
        let renamed = update(&object, "b", json!({"metadata": {"managedFields": entries}}));
        assert_eq!(renamed["metadata"]["managedFields"], entries);
    }

    #[test]
    fn the_oldest_of_many_updates_are_recorded_as_one() {
        let mut object = first("a", json!({"data": {"n": "1"}}));
        for n in 0..20 {
            object = update(&object, &format!("m{n}"), json!({"data": {format!("d{n}"): "x"}}));
        }
        let entries = object["metadata"]["managedFields"].as_array().unwrap();
        assert_eq!(entries.len(), 1 + MAX_UPDATERS);
        assert!(entries.iter().any(|entry| entry["manager"] == ANCIENT));
    }

    fn config() -> impl Strategy<Value = Value> {
        let env = proptest::sample::subsequence(vec!["A", "B", "C", "D"], 0..=4).prop_shuffle();
        let labels = proptest::sample::subsequence(vec!["x", "y", "z"], 0..=3);
        (env, labels, proptest::option::of(0..3)).prop_map(|(env, labels, replicas)| {
            let env: Vec<Value> = env.into_iter().map(|name| json!({"name": name, "value": "1"})).collect();
            let labels: Map<String, Value> = labels.into_iter().map(|name| (name.to_owned(), "1".into())).collect();
            let containers = json!([{"name": "main", "env": env}]);
            let spec = json!({"replicas": replicas, "template": {"spec": {"containers": containers}}});
            json!({"metadata": {"labels": labels}, "spec": without_nulls(&spec)})
        })
    }

    proptest! {
        /// What a manager applies is there, a repeated apply changes nothing, and what it alone wanted goes with its wish.
        #[test]
        fn an_object_is_what_its_managers_want(configs in proptest::collection::vec((0..3_usize, config()), 1..8)) {
            let resource = registry::find("apps", "v1", "deployments").unwrap();
            let managers = ["a", "b", "c"];
            let mut object = json!({"metadata": {"name": "x", "uid": "u", "managedFields": [{"manager": "z", "operation": "Apply", "fieldsV1": {"f:none": {}}}]}});
            for (manager, config) in configs {
                let apply = |object: &Value| writer(managers[manager], resource).apply(object, &config, true).unwrap();
                object = apply(&object);
                prop_assert_eq!(&apply(&object), &object);
                let mut merged = object.clone();
                fields::merge(&resource.schema, &mut merged, &config);
                prop_assert_eq!(fields::compare(&resource.schema, &object, &merged).changed.paths(), [] as [&str; 0]);
            }
            for manager in managers {
                object = writer(manager, resource).apply(&object, &json!({}), true).unwrap();
            }
            prop_assert_eq!(owned_part(&object), json!({}));
        }
    }

    /// Regression 318: a manager dropped an optional mapping (`spec.backup`), and the default that had been filled into it stayed
    /// behind: the apply was refused, because a required field of the mapping was missing.
    #[test]
    fn defaults_go_with_the_mapping_that_they_were_filled_into() {
        let resource = registry::find("evenkeel.dev", "v1alpha1", "postgresclusters").unwrap();
        let of = |expose: Value| json!({"metadata": {"name": "x", "uid": "u"}, "spec": {"image": "postgres:15", "expose": expose}});
        let applied = |object: &Value, wanted: Value| writer("a", resource).apply(object, &wanted, false).unwrap();
        let mut object = applied(&json!({"metadata": {"name": "x"}}), of(json!({"hostPort": 5000})));
        object["spec"]["expose"]["bindAddress"] = json!("127.0.0.1");
        assert_eq!(applied(&object, of(Value::Null))["spec"].get("expose"), None);
        // What is no default was somebody's wish.
        object["spec"]["expose"]["bindAddress"] = json!("127.0.0.2");
        assert_eq!(applied(&object, of(Value::Null))["spec"]["expose"], json!({"bindAddress": "127.0.0.2"}));
    }

    /// Regression 45: lists were one value, so two managers could not each have an environment variable or a container; and
    /// an apply owned the defaults, so the same apply after `kubectl scale` scaled back.
    #[test]
    fn managers_share_lists_by_key_and_nobody_owns_defaults() {
        let resource = registry::find("apps", "v1", "deployments").unwrap();
        let with_env = |name: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "env": [{"name": name, "value": "1"}]}]}}}});
        let object = writer("a", resource).apply(&json!({"metadata": {}}), &with_env("A"), false).unwrap();
        let object = writer("b", resource).apply(&object, &with_env("B"), false).unwrap();
        let names = |object: &Value| {
            let env = object["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
            env.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&object), ["A", "B"]);
        let object = writer("a", resource).apply(&object, &with_env("C"), false).unwrap();
        assert_eq!(names(&object), ["B", "C"]);

        let mut scaled = object.clone();
        scaled["spec"]["replicas"] = 3.into();
        let mut scaled =
            Writer { subresource: Some("scale"), ..writer("kubectl", resource) }.update(Some(&object), scaled);
        scaled["metadata"]["uid"] = "u".into();
        let again = writer("a", resource).apply(&scaled, &with_env("C"), false).unwrap();
        assert_eq!(again["spec"]["replicas"], 3);
        let mut one = with_env("C");
        one["spec"]["replicas"] = 1.into();
        let refusal = writer("a", resource).apply(&scaled, &one, false).unwrap_err();
        assert!(
            refusal.message.ends_with("\"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas"),
            "{}",
            refusal.message
        );
    }
}
