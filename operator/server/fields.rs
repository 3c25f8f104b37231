//! Sets of fields, as `managedFields` records them, and the merge, comparison and pruning of objects by them. Lists are
//! merged by key where their schema says so; other lists are one value. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::shape;

/// A set of fields: a tree of segments such as `f:spec`, `k:{"name":"web"}` (an item by its key) and `v:"x"` (an item by
/// its value). No node is empty, except the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    /// Whether the field itself is in the set.
    member: bool,
    below: BTreeMap<String, Fields>,
}

/// The fields in which two objects differ.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Fields that are new or have another value.
    pub changed: Fields,
    /// Fields that are gone, each with all that was in it.
    pub removed: Fields,
}

/// A key of list items that may be left out, with the value that it then has.
const IMPLIED_KEY: (&str, &str) = ("protocol", "TCP");

impl Fields {
    /// The fields of `value` that its schema knows.
    pub fn of(schema: &Value, value: &Value) -> Self {
        let mut fields = gather(schema, value);
        fields.member = false;
        fields
    }

    /// Reads a `fieldsV1`.
    pub fn decode(fields_v1: &Value) -> Self {
        let mut fields = Self::default();
        for (segment, child) in fields_v1.as_object().into_iter().flatten().filter(|(segment, _)| *segment != ".") {
            let mut child_fields = Self::decode(child);
            child_fields.member = child_fields.below.is_empty() || child.get(".").is_some();
            fields.below.insert(segment.clone(), child_fields);
        }
        fields
    }

    /// Writes a `fieldsV1`.
    pub fn encode(&self) -> Value {
        let below = self.below.iter().map(|(segment, child)| (segment.clone(), child.encode()));
        let itself = (self.member && !self.below.is_empty()).then(|| (".".to_owned(), json!({})));
        itself.into_iter().chain(below).collect::<Map<_, _>>().into()
    }

    /// Whether there is no field in the set.
    pub fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }

    /// Adds the fields of `other`.
    pub fn add(&mut self, other: &Self) {
        self.member |= other.member;
        for (segment, child) in &other.below {
            self.below.entry(segment.clone()).or_default().add(child);
        }
    }

    /// Removes the fields of `other`, each with all that is in it.
    pub fn cut(&mut self, other: &Self) {
        for (segment, gone) in &other.below {
            let Some(child) = self.below.get_mut(segment) else { continue };
            if !gone.member {
                child.cut(gone);
            }
            if gone.member || child.is_empty() {
                self.below.remove(segment);
            }
        }
    }

    /// The fields that are not in `other`, of which each stands for itself alone.
    pub fn without(&self, other: &Self) -> Self {
        let nothing = Self::default();
        let child = |(segment, child): (&String, &Self)| {
            let left = child.without(other.below.get(segment).unwrap_or(&nothing));
            (!left.is_empty()).then(|| (segment.clone(), left))
        };
        Self { member: self.member && !other.member, below: self.below.iter().filter_map(child).collect() }
    }

    /// The fields that are in both sets. A field without parts in one set stands for all its parts.
    pub fn common(&self, other: &Self) -> Self {
        let mut common = Self { member: self.member && other.member, below: BTreeMap::new() };
        for (segment, child) in &self.below {
            let Some(theirs) = other.below.get(segment) else { continue };
            let whole = |fields: &Self| fields.member && fields.below.is_empty();
            let shared = if whole(theirs) {
                child.clone()
            } else if whole(child) {
                theirs.clone()
            } else {
                child.common(theirs)
            };
            if !shared.is_empty() {
                common.below.insert(segment.clone(), shared);
            }
        }
        common
    }

    /// The paths of all fields, for people: `.spec.containers[name="web"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths("", &mut paths);
        paths
    }

    fn collect_paths(&self, path: &str, paths: &mut Vec<String>) {
        if self.member {
            paths.push(path.to_owned());
        }
        for (segment, child) in &self.below {
            child.collect_paths(&format!("{path}{}", shown(segment)), paths);
        }
    }

    /// The same set, if a list in it was recorded as one value and is merged by key today: then it has all items.
    pub fn itemized(mut self, schema: &Value, value: &Value) -> Self {
        if self.member && self.below.is_empty() && value.is_array() {
            return Self { member: self.member, ..gather(schema, value) };
        }
        for part in parts(schema, value).into_iter().flatten() {
            if let Some(child) = self.below.remove(&part.segment) {
                self.below.insert(part.segment, child.itemized(part.schema, part.value));
            }
        }
        self
    }
}

fn shown(segment: &str) -> String {
    match segment.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", key)) => {
            let key: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
            let pairs: Vec<String> = key.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("[{}]", pairs.join(","))
        }
        Some(("v", value)) => format!("[={value}]"),
        _ => format!("[{segment}]"),
    }
}

/// One field of a mapping or one item of a list that is merged.
struct PartOf<'a> {
    segment: String,
    schema: &'a Value,
    value: &'a Value,
    is_item: bool,
}

/// The parts of a mapping or of a list that is merged; `None` for one value.
fn parts<'a>(schema: &'a Value, value: &'a Value) -> Option<Vec<PartOf<'a>>> {
    match value {
        Value::Object(fields) if schema["x-kubernetes-map-type"] != "atomic" => {
            let part = |(name, value): (&String, &'a Value)| {
                let schema = shape::child(schema, name)?;
                Some(PartOf { segment: format!("f:{name}"), schema, value, is_item: false })
            };
            Some(fields.iter().filter_map(part).collect())
        }
        Value::Array(items) => {
            let segments = segments(schema, items)?;
            let part = |(segment, value)| PartOf { segment, schema: &schema["items"], value, is_item: true };
            Some(segments.into_iter().zip(items).map(part).collect())
        }
        _ => None,
    }
}

/// The segments of the items of a list that is merged; `None` if it is one value: by its schema, or because an item has
/// no key or the same key as another one.
fn segments(schema: &Value, items: &[Value]) -> Option<Vec<String>> {
    let segments: Vec<String> = match schema["x-kubernetes-list-type"].as_str()? {
        "set" => items.iter().map(|item| format!("v:{item}")).collect(),
        "map" => {
            let keys = keys(schema);
            items.iter().map(|item| item_key(&keys, item)).collect::<Option<_>>()?
        }
        _ => return None,
    };
    let mut sorted: Vec<&String> = segments.iter().collect();
    sorted.sort_unstable();
    let unique = sorted.windows(2).all(|pair| pair[0] != pair[1]);
    unique.then_some(segments)
}

fn keys(schema: &Value) -> Vec<&str> {
    schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn item_key(keys: &[&str], item: &Value) -> Option<String> {
    let value = |key: &&str| match item.get(*key) {
        Some(Value::Null) | None if *key == IMPLIED_KEY.0 => Some(((*key).to_owned(), Value::from(IMPLIED_KEY.1))),
        Some(value @ (Value::String(_) | Value::Number(_) | Value::Bool(_))) => {
            Some(((*key).to_owned(), value.clone()))
        }
        _ => None,
    };
    let key = keys.iter().map(value).collect::<Option<BTreeMap<String, Value>>>()?;
    Some(format!("k:{}", json!(key)))
}

fn gather(schema: &Value, value: &Value) -> Fields {
    let Some(parts) = parts(schema, value) else { return Fields { member: true, below: BTreeMap::new() } };
    // An empty mapping is a field; an empty list that is merged says nothing about its items.
    let member = value.as_object().is_some_and(Map::is_empty);
    let one = |part: PartOf<'_>| {
        let mut fields = gather(part.schema, part.value);
        fields.member |= part.is_item;
        (part.segment, fields)
    };
    Fields { member, below: parts.into_iter().map(one).filter(|(_, fields)| !fields.is_empty()).collect() }
}

/// The fields in which `new` differs from `old`.
pub fn compare(schema: &Value, old: &Value, new: &Value) -> Difference {
    if old == new {
        return Difference::default();
    }
    let one_value = || Fields { member: true, below: BTreeMap::new() };
    let (Some(before), Some(after)) = (parts(schema, old), parts(schema, new)) else {
        return Difference { changed: gather(schema, new), removed: one_value() };
    };
    let mut before: BTreeMap<String, PartOf<'_>> =
        before.into_iter().map(|part| (part.segment.clone(), part)).collect();
    let mut difference = Difference::default();
    for part in after {
        let PartOf { segment, schema, value, is_item } = part;
        let Difference { changed, removed } = match before.remove(&segment) {
            Some(old) => compare(schema, old.value, value),
            None => {
                let mut changed = gather(schema, value);
                changed.member |= is_item;
                Difference { changed, removed: Fields::default() }
            }
        };
        if !changed.is_empty() {
            difference.changed.below.insert(segment.clone(), changed);
        }
        if !removed.is_empty() {
            difference.removed.below.insert(segment, removed);
        }
    }
    difference.removed.below.extend(before.into_keys().map(|segment| (segment, one_value())));
    difference
}

/// Sets the fields of `wanted` in `object`.
pub fn merge(schema: &Value, object: &mut Value, wanted: &Value) {
    match (object, wanted) {
        (Value::Object(fields), Value::Object(wanted)) if schema["x-kubernetes-map-type"] != "atomic" => {
            for (name, value) in wanted {
                match fields.get_mut(name) {
                    Some(old) => merge(shape::child(schema, name).unwrap_or(&Value::Null), old, value),
                    None => {
                        fields.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        (Value::Array(items), Value::Array(wanted)) => match (segments(schema, items), segments(schema, wanted)) {
            (Some(old), Some(new)) => merge_items(schema, items, old, wanted, new),
            _ => items.clone_from(wanted),
        },
        (object, wanted) => *object = wanted.clone(),
    }
}

/// Merges two lists by the segments of their items: in the order of `wanted`, where each other item stays behind the item
/// that it follows.
fn merge_items(schema: &Value, items: &mut Vec<Value>, old: Vec<String>, wanted: &[Value], new: Vec<String>) {
    let mut rest: Vec<Option<Value>> = std::mem::take(items).into_iter().map(Some).collect();
    let place: BTreeMap<&String, usize> = old.iter().enumerate().map(|(at, segment)| (segment, at)).collect();
    let shared: std::collections::BTreeSet<&String> =
        new.iter().filter(|segment| place.contains_key(segment)).collect();
    let mut next = 0;
    for (segment, item) in new.iter().zip(wanted) {
        while next < old.len() && !shared.contains(&old[next]) {
            items.extend(rest[next].take());
            next += 1;
        }
        let before = place.get(segment).and_then(|at| rest[*at].take());
        while next < old.len() && rest[next].is_none() {
            next += 1;
        }
        items.push(match before {
            Some(mut before) => {
                merge(&schema["items"], &mut before, item);
                before
            }
            None => item.clone(),
        });
    }
    items.extend(rest.into_iter().flatten());
}

/// Removes from `object` the fields that are in `before` and not in `kept`.
pub fn prune(schema: &Value, object: &mut Value, before: &Fields, kept: &Fields) {
    goes(schema, object, before, Some(kept), &[]);
}

/// Prunes a value; returns whether it goes as a whole. `fixed` are the fields that identify the item.
fn goes(schema: &Value, value: &mut Value, before: &Fields, kept: Option<&Fields>, fixed: &[&str]) -> bool {
    if kept.is_none() && before.member {
        return true;
    }
    let kept_below = |segment: &String| kept.and_then(|kept| kept.below.get(segment));
    let empty =
        |value: &Value| value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
    let was_empty = empty(value);
    let before_fields = value.as_object().map(Map::len);
    match value {
        Value::Object(fields) => fields.retain(|name, child| {
            let segment = format!("f:{name}");
            let (Some(before), Some(schema)) = (before.below.get(&segment), shape::child(schema, name)) else {
                return true;
            };
            fixed.contains(&name.as_str()) || !goes(schema, child, before, kept_below(&segment), &[])
        }),
        Value::Array(items) => {
            let Some(segments) = segments(schema, items) else { return false };
            let mut segments = segments.into_iter();
            let keys = keys(schema);
            items.retain_mut(|item| {
                let Some(segment) = segments.next() else { return true };
                let Some(before) = before.below.get(&segment) else { return true };
                !goes(&schema["items"], item, before, kept_below(&segment), &keys)
            });
        }
        _ => {}
    }
    // Nobody owns defaults. They go with the mapping that they were filled into.
    let lost_fields = before_fields > value.as_object().map(Map::len);
    let emptied = empty(value) || kept.is_none() && lost_fields && are_defaults(schema, value);
    !was_empty && emptied && kept.is_none_or(|kept| !kept.member)
}

/// Whether a mapping has nothing but defaults.
fn are_defaults(schema: &Value, value: &Value) -> bool {
    let default = |(name, value): (&String, &Value)| {
        shape::child(schema, name)
            .is_some_and(|schema| schema.get("default") == Some(value) || are_defaults(schema, value))
    };
    value.as_object().is_some_and(|fields| fields.iter().all(default))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Value {
        let item = json!({"type": "object", "properties": {"name": {"type": "string"}, "image": {"type": "string"}, "port": {"type": "integer"}}});
        json!({"type": "object", "properties": {
            "n": {"type": "integer"},
            "plain": {"type": "array", "items": {"type": "string"}},
            "set": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "list": {"type": "array", "items": item, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        }})
    }

    #[test]
    fn the_fields_of_an_object_are_those_that_its_schema_knows() {
        let value = json!({
            "n": 1, "plain": ["a"], "set": ["x"], "labels": {}, "unknown": 1, "list": [{"name": "a", "image": "i"}],
        });
        let fields = Fields::of(&schema(), &value);
        let encoded = json!({
            "f:n": {}, "f:plain": {}, "f:set": {"v:\"x\"": {}}, "f:labels": {},
            "f:list": {"k:{\"name\":\"a\"}": {".": {}, "f:name": {}, "f:image": {}}},
        });
        assert_eq!(fields.encode(), encoded);
        assert_eq!(Fields::decode(&encoded), fields);
        assert!(fields.paths().contains(&".list[name=\"a\"].image".to_owned()));
    }

    #[test]
    fn two_objects_differ_by_field_and_by_item() {
        let old = json!({"n": 1, "labels": {"a": "1", "b": "2"}, "list": [{"name": "a", "image": "1"}, {"name": "b"}]});
        let new = json!({"n": 1, "labels": {"a": "9"}, "list": [{"name": "c"}, {"name": "a", "image": "2"}]});
        let difference = compare(&schema(), &old, &new);
        let paths = [".labels.a", ".list[name=\"a\"].image", ".list[name=\"c\"]", ".list[name=\"c\"].name"];
        assert_eq!(difference.changed.paths(), paths);
        assert_eq!(
            difference.removed.paths(),
            [".labels.a", ".labels.b", ".list[name=\"a\"].image", ".list[name=\"b\"]"]
        );
    }

    #[test]
    fn lists_are_merged_in_the_order_that_is_asked_for() {
        let check = |old: &[&str], wanted: &[&str], expected: &[&str]| {
            let list =
                |names: &[&str]| json!({"list": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()});
            let mut merged = list(old);
            merge(&schema(), &mut merged, &list(wanted));
            assert_eq!(merged, list(expected), "{old:?} with {wanted:?}");
        };
        check(&["a", "x"], &["new", "a"], &["new", "a", "x"]);
        check(&["x", "a", "y", "b"], &["b", "a"], &["x", "b", "a", "y"]);
        check(&["a", "b"], &[], &["a", "b"]);
        let mut twice = json!({"list": [{"name": "a"}, {"name": "a"}]});
        merge(&schema(), &mut twice, &json!({"list": [{"name": "b"}]}));
        assert_eq!(twice, json!({"list": [{"name": "b"}]}), "without unique keys a list is one value");
    }

    #[test]
    fn a_set_can_go_field_by_field_or_with_all_that_is_in_it() {
        let set = Fields::of(&schema(), &json!({"list": [{"name": "a", "image": "i"}]}));
        let item = Fields::decode(&json!({"f:list": {"k:{\"name\":\"a\"}": {".": {}, "f:name": {}}}}));
        assert_eq!(set.without(&item).paths(), [".list[name=\"a\"].image"]);
        let mut cut = set.clone();
        cut.cut(&item);
        assert!(cut.is_empty());
    }

    #[test]
    fn what_is_pruned_leaves_what_others_keep_and_the_keys_of_items() {
        let all = json!({"n": 1, "labels": {"a": "1"}, "list": [{"name": "a", "image": "i", "port": 1}, {"name": "b", "port": 2}]});
        let before = Fields::of(&schema(), &all);
        let kept = Fields::of(&schema(), &json!({"list": [{"name": "a", "image": "i"}]}));
        let mut left = all.clone();
        prune(&schema(), &mut left, &before, &kept);
        assert_eq!(left, json!({"list": [{"name": "a", "image": "i"}]}));
        let mut only_image = kept.clone();
        only_image.cut(&Fields::decode(&json!({"f:list": {"k:{\"name\":\"a\"}": {"f:name": {}}}})));
        let mut left = all.clone();
        prune(&schema(), &mut left, &before, &only_image);
        assert_eq!(left["list"], json!([{"name": "a", "image": "i"}]));
    }

    #[test]
    fn a_list_that_was_one_value_before_has_all_its_items_now() {
        let old = Fields::decode(&json!({"f:list": {}, "f:plain": {}, "f:labels": {}}));
        let value = json!({"list": [{"name": "a", "image": "i"}], "plain": ["x"], "labels": {"k": "v"}});
        let paths =
            [".labels", ".list", ".list[name=\"a\"]", ".list[name=\"a\"].image", ".list[name=\"a\"].name", ".plain"];
        assert_eq!(old.itemized(&schema(), &value).paths(), paths);
    }
}
