//! Strategic merge patches, as kubectl sends them for built-in kinds: lists are merged by the key of their items. Pure.

use serde_json::{Map, Value};

use super::status::Refusal;

/// Directive for a mapping or a list as a whole: `replace`, `delete`, `merge`.
const DIRECTIVE: &str = "$patch";
/// Directive with the only fields of a mapping to keep.
const RETAIN: &str = "$retainKeys";
/// Prefix of the directive for the order of list items.
const ORDER: &str = "$setElementOrder/";
/// Prefix of the directive with values to remove from a list of plain values.
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
/// Lists of plain values that are merged, in every kind.
const UNITED: [&str; 1] = ["finalizers"];
/// Lists of every kind, with the key of their items.
const EVERYWHERE: [(&str, &[&str]); 1] = [("ownerReferences", &["uid"])];

/// Limit of the items of a list that is merged: each item is looked for in the whole list.
const MAX_ITEMS: usize = 5000;

/// The lists to merge: field name and the keys of the items, of which the first one counts.
pub type MergeKeys = &'static [(&'static str, &'static [&'static str])];

/// The object with the patch applied; 422 for an unknown directive.
pub fn merge(keys: MergeKeys, object: &Value, patch: &Value) -> Result<Value, Refusal> {
    let (Some(object), Some(patch)) = (object.as_object(), patch.as_object()) else {
        return Err(Refusal::bad_request("the patch must be an object"));
    };
    Ok(mapping(keys, object.clone(), patch)?.into())
}

fn mapping(
    keys: MergeKeys,
    mut old: Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<Map<String, Value>, Refusal> {
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        None if !patch.contains_key(DIRECTIVE) => {}
        Some("merge") => {}
        // The rest of the patch is the complete new value.
        Some("replace") => old.clear(),
        Some("delete") => return Ok(Map::new()),
        _ => return Err(unknown(DIRECTIVE)),
    }
    if let Some(retained) = patch.get(RETAIN) {
        let retained = retained.as_array().ok_or_else(|| unknown(RETAIN))?;
        old.retain(|name, _| retained.iter().any(|kept| kept == name));
    }
    for (name, change) in patch.iter().filter(|(name, _)| !name.starts_with('$')) {
        let merged = match (old.remove(name), change) {
            (_, Value::Null) => continue,
            (Some(Value::Object(old)), Value::Object(change)) => mapping(keys, old, change)?.into(),
            (_, Value::Object(change)) => mapping(keys, Map::new(), change)?.into(),
            (old, Value::Array(change)) => list(keys, name, old, change, patch.get(&format!("{ORDER}{name}")))?,
            (_, plain) => plain.clone(),
        };
        old.insert(name.clone(), merged);
    }
    for (directive, values) in patch {
        let values = || values.as_array().ok_or_else(|| unknown(directive)).and_then(|list| bounded(directive, list));
        if let Some(name) = directive.strip_prefix(DELETE_FROM) {
            let gone = values()?;
            if let Some(list) = old.get_mut(name).and_then(Value::as_array_mut) {
                list.retain(|value| !gone.contains(value));
            }
        } else if let Some(name) = directive.strip_prefix(ORDER).filter(|name| !patch.contains_key(*name)) {
            let order = values()?;
            if let (Some(key), Some(list)) = (key_of(keys, name), old.get_mut(name).and_then(Value::as_array_mut)) {
                arrange(key, list, order);
            }
        } else if directive.starts_with('$')
            && !directive.starts_with(ORDER)
            && ![DIRECTIVE, RETAIN].contains(&&**directive)
        {
            return Err(unknown(directive));
        }
    }
    Ok(old)
}

fn list(
    keys: MergeKeys,
    name: &str,
    old: Option<Value>,
    patch: &[Value],
    order: Option<&Value>,
) -> Result<Value, Refusal> {
    let mut merged = match old {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    let keyed = UNITED.contains(&name) || key_of(keys, name).is_some();
    if keyed && merged.len() + patch.len() > MAX_ITEMS {
        return Err(too_many(name));
    }
    if UNITED.contains(&name) {
        let added = patch.iter().filter(|value| !merged.contains(value)).cloned().collect::<Vec<_>>();
        merged.extend(added);
        return Ok(merged.into());
    }
    let Some(key) = key_of(keys, name) else { return Ok(Value::Array(patch.to_vec())) };
    if patch.iter().any(|item| item[DIRECTIVE] == "replace") {
        merged.clear();
    }
    for item in patch.iter().filter(|item| item[DIRECTIVE] != "replace") {
        let Some(fields) = item.as_object().filter(|fields| fields.contains_key(key)) else {
            return Err(Refusal::unprocessable(format!(
                "the patch does not fit the object: an item of {name} has no {key}"
            )));
        };
        let at = merged.iter().position(|old| old[key] == fields[key]);
        if item[DIRECTIVE] == "delete" {
            merged.retain(|old| old[key] != fields[key]);
        } else if let Some(at) = at {
            let old = merged[at].as_object().cloned().unwrap_or_default();
            merged[at] = mapping(keys, old, fields)?.into();
        } else {
            merged.push(mapping(keys, Map::new(), fields)?.into());
        }
    }
    if let Some(order) = order.and_then(Value::as_array) {
        arrange(key, &mut merged, bounded(name, order)?);
    }
    Ok(merged.into())
}

/// Sorts the named items into the given order; each other item stays behind the item that it follows.
fn arrange(key: &str, items: &mut Vec<Value>, order: &[Value]) {
    let rank = |item: &Value| order.iter().position(|named| named[key] == item[key]);
    let mut last = None;
    let mut ranked: Vec<(Option<usize>, Value)> = Vec::new();
    for item in std::mem::take(items) {
        last = rank(&item).or(last);
        ranked.push((last, item));
    }
    ranked.sort_by_key(|(rank, _)| *rank); // stable, so a named item stays before those that follow it
    items.extend(ranked.into_iter().map(|(_, item)| item));
}

fn key_of(keys: MergeKeys, name: &str) -> Option<&'static str> {
    keys.iter().chain(&EVERYWHERE).find(|(list, _)| *list == name).map(|(_, keys)| keys[0])
}

fn bounded<'a>(name: &str, list: &'a Vec<Value>) -> Result<&'a Vec<Value>, Refusal> {
    if list.len() > MAX_ITEMS { Err(too_many(name)) } else { Ok(list) }
}

fn too_many(name: &str) -> Refusal {
    Refusal::entity_too_large(format!("{name}: a patch can merge lists of at most {MAX_ITEMS} items"))
}

fn unknown(directive: &str) -> Refusal {
    Refusal::unprocessable(format!("the patch has a directive that is not known: {directive}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    const KEYS: MergeKeys =
        &[("containers", &["name"]), ("env", &["name"]), ("ports", &["containerPort"]), ("volumes", &["name"])];

    fn check(object: Value, patch: Value, expected: Result<Value, u16>) {
        let found = merge(KEYS, &object, &patch).map_err(|refusal| refusal.code.as_u16());
        assert_eq!(found, expected, "{patch}");
    }

    fn pair() -> Value {
        json!({"containers": [
            {"name": "web", "image": "web:1", "env": [{"name": "A", "value": "1"}], "args": ["x", "y"]},
            {"name": "redis", "image": "redis:7"},
        ]})
    }

    #[test]
    fn an_image_is_set_in_one_container_and_the_others_stay() {
        let mut expected = pair();
        expected["containers"][1]["image"] = "redis:8".into();
        let patch = json!({
            "$setElementOrder/containers": [{"name": "web"}, {"name": "redis"}],
            "containers": [{"name": "redis", "image": "redis:8"}],
        });
        check(pair(), patch, Ok(expected));
    }

    #[test]
    fn lists_of_plain_values_are_replaced_and_keyed_ones_merged_all_the_way_down() {
        let mut expected = pair();
        expected["containers"][0]["args"] = json!(["z"]);
        expected["containers"][0]["env"] = json!([{"name": "B", "value": "2"}, {"name": "A", "value": "1"}]);
        let patch = json!({"containers": [{
            "name": "web", "args": ["z"], "env": [{"name": "B", "value": "2"}],
            "$setElementOrder/env": [{"name": "B"}, {"name": "A"}],
        }]});
        check(pair(), patch, Ok(expected));
    }

    #[test]
    fn an_item_goes_by_its_key_and_a_field_by_null() {
        let patch = json!({"containers": [{"name": "redis", "$patch": "delete"}, {"name": "web", "env": null}]});
        check(pair(), patch, Ok(json!({"containers": [{"name": "web", "image": "web:1", "args": ["x", "y"]}]})));
    }

    #[test]
    fn a_mapping_or_a_list_can_be_replaced_whole() {
        let replaced = json!({"strategy": {"$patch": "replace", "type": "Recreate"}});
        let object = json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}});
        check(object.clone(), replaced, Ok(json!({"strategy": {"type": "Recreate"}})));
        let retained = json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}});
        check(object, retained, Ok(json!({"strategy": {"type": "Recreate"}})));
        let list = json!({"containers": [{"$patch": "replace"}, {"name": "new"}]});
        check(pair(), list, Ok(json!({"containers": [{"name": "new"}]})));
    }

    #[test]
    fn finalizers_are_united_and_taken_one_by_one() {
        let object = json!({"metadata": {"finalizers": ["a/b", "c/d"]}});
        let patch = json!({"metadata": {"finalizers": ["e/f"], "$deleteFromPrimitiveList/finalizers": ["a/b"]}});
        check(object, patch, Ok(json!({"metadata": {"finalizers": ["c/d", "e/f"]}})));
    }

    #[test]
    fn directives_of_a_new_part_are_not_stored() {
        let patch = json!({"spec": {"$retainKeys": ["a"], "a": {"b": null, "c": 1}}});
        check(json!({}), patch, Ok(json!({"spec": {"a": {"c": 1}}})));
    }

    #[test]
    fn what_cannot_be_merged_is_refused() {
        check(pair(), json!({"containers": [{"image": "x"}]}), Err(422));
        let many: Vec<Value> = (0..=MAX_ITEMS).map(|n| json!({"name": n.to_string()})).collect();
        check(pair(), json!({"containers": many}), Err(413));
        check(pair(), json!({"$setElementOrder/containers": many}), Err(413));
        check(pair(), json!({"$patch": "blend"}), Err(422));
        check(pair(), json!({"$invented": 1}), Err(422));
    }
}
