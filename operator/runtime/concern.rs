//! Concerns: which objects of a kind a change of another resource wakes, and which changes matter to it. Pure.

use serde_json::Value;

use super::finalizer::FINALIZER;
use crate::store::{Change, Key, rules};

/// A resource that the `observe` of a kind reads besides its own object.
#[derive(Debug, Clone, Copy)]
pub struct Concern {
    /// The resource, e.g. `secrets`.
    pub resource: &'static str,
    whom: Whom,
    significant: fn(&Value) -> Value,
}

#[derive(Debug, Clone, Copy)]
enum Whom {
    Referencing,
    Named(fn(&Value) -> Vec<String>),
    All,
}

/// The objects of a kind that a change wakes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wakes {
    /// None.
    None,
    /// Those whose [`references`](super::Kind::references) include the key that changed.
    Referencing,
    /// Those with these keys.
    Keys(Vec<Key>),
    /// All of them.
    All,
}

impl Concern {
    /// A concern that wakes the objects whose `references` include the changed object.
    pub fn referenced(resource: &'static str) -> Self {
        Self { resource, whom: Whom::Referencing, significant: content }
    }

    /// A concern that wakes the objects whose names `names` finds in the changed object (before or after the
    /// change), in its namespace, or in that of a name such as `NAMESPACE/NAME`.
    pub fn named_in(resource: &'static str, names: fn(&Value) -> Vec<String>) -> Self {
        Self { resource, whom: Whom::Named(names), significant: content }
    }

    /// A concern that wakes all objects of the kind.
    pub fn all(resource: &'static str) -> Self {
        Self { resource, whom: Whom::All, significant: content }
    }

    /// Limits the concern to changes of the value that `part` extracts from the object; other changes wake no object.
    pub fn only(self, part: fn(&Value) -> Value) -> Self {
        Self { significant: part, ..self }
    }

    /// Whether `observe` may list the resource; otherwise each read needs a key from `references`.
    #[cfg(test)]
    pub fn allows_list(&self) -> bool {
        !matches!(self.whom, Whom::Referencing)
    }

    /// The objects that a change wakes, of the kind with this resource.
    pub(super) fn wakes(&self, resource: &str, change: &Change) -> Wakes {
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && (self.significant)(old) == (self.significant)(new)
        {
            return Wakes::None;
        }
        match self.whom {
            Whom::Referencing => Wakes::Referencing,
            Whom::All => Wakes::All,
            Whom::Named(names) => {
                let names = [&change.old, &change.new].into_iter().flatten().flat_map(|side| names(side));
                let namespace = &change.key.namespace;
                let key = |name: String| match name.split_once('/') {
                    Some((namespace, name)) => Key::new(resource, namespace, name),
                    None => Key::new(resource, namespace, &name),
                };
                Wakes::Keys(names.map(key).collect())
            }
        }
    }
}

/// An object without the fields that every write changes: `resourceVersion` and `managedFields`.
pub fn content(value: &Value) -> Value {
    let mut rest = value.clone();
    if let Some(metadata) = rest.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
        metadata.remove("managedFields");
    }
    rest
}

/// Whether a change of an object must wake its own reconcile: true for changes of anything except its status and
/// Evenkeel's finalizer, which its controller writes itself. Without this rule a status with a changing number would
/// wake its own writer for ever.
pub(super) fn is_foreign(change: &Change) -> bool {
    let (Some(old), Some(new)) = (&change.old, &change.new) else { return true };
    let foreign = |value: &Value| {
        let mut rest = rules::with_finalizer(content(value), FINALIZER, false);
        rest.as_object_mut().map(|object| object.remove("status"));
        rest
    };
    foreign(old) != foreign(new)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn change(old: Option<Value>, new: Option<Value>) -> Change {
        let key = Key { resource: "toys".into(), namespace: "default".into(), name: "a".into() };
        Change { key, revision: 2, old: old.map(Arc::new), new: new.map(Arc::new) }
    }

    fn object(revision: &str, spec: &str, status: &str) -> Option<Value> {
        Some(json!({"metadata": {"resourceVersion": revision}, "spec": spec, "status": status}))
    }

    #[test]
    fn what_the_controller_writes_itself_wakes_nobody_and_all_else_does() {
        let foreign = |old, new| is_foreign(&change(old, new));
        let held = rules::with_finalizer(object("2", "a", "x").unwrap(), FINALIZER, true);
        assert!(!foreign(object("1", "a", "x"), Some(held.clone())));
        assert!(foreign(Some(held.clone()), Some(rules::with_finalizer(held, "example.org/other", true))));
        assert!(!foreign(object("1", "a", "x"), object("2", "a", "y")));
        assert!(foreign(object("1", "a", "x"), object("2", "b", "x")));
        assert!(foreign(None, object("1", "a", "x")));
        assert!(foreign(object("1", "a", "x"), None));
        let mut annotated = object("2", "a", "x");
        annotated.as_mut().unwrap()["metadata"]["annotations"] = json!({"evenkeel.dev/reconcile": "paused"});
        assert!(foreign(object("1", "a", "x"), annotated));
    }

    #[test]
    fn a_change_wakes_whom_the_object_names_before_or_after_and_only_for_what_matters() {
        let names = |value: &Value| value["spec"].as_str().map(str::to_owned).into_iter().collect();
        let concern = Concern::named_in("routes", names).only(|value| json!([value["spec"], value["status"]]));
        let wakes = |old, new| match concern.wakes("toys", &change(old, new)) {
            Wakes::Keys(keys) => keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            other => format!("{other:?}"),
        };
        assert_eq!(wakes(object("1", "a", "x"), object("2", "a", "x")), "None");
        assert_eq!(wakes(object("1", "a", "x"), object("2", "b", "x")), "toys/default/a toys/default/b");
        assert_eq!(wakes(None, object("1", "a", "x")), "toys/default/a");
        assert_eq!(wakes(object("1", "a", "x"), None), "toys/default/a");
    }

    #[test]
    fn a_new_resource_version_alone_is_no_change() {
        let concern = Concern::all("secrets");
        assert_eq!(concern.wakes("toys", &change(object("1", "a", "x"), object("2", "a", "x"))), Wakes::None);
        assert_eq!(concern.wakes("toys", &change(object("1", "a", "x"), object("2", "a", "y"))), Wakes::All);
    }
}
