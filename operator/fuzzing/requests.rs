//! What clients of the API send.

use std::sync::Arc;

use axum::http::{HeaderMap, Uri, header};
use futures::StreamExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{at_once, json, lines};
use crate::api::registry;
use crate::api::resource::Resource;
use crate::api::websocket::{Role, channel, data, talk};
use crate::runtime::clock::TestClock;
use crate::server::apply::{UNOWNED, Writer, without_nulls};
use crate::server::params::{FieldValidation, Params};
use crate::server::patch::{Patch, patched};
use crate::server::routes::{self, Part, Route, Target};
use crate::server::selectors::Selector;
use crate::server::validate::{self, Admitted};
use crate::server::{body, fields, shape, strategic};
use crate::store::memory::MemoryStore;
use crate::store::objects::Objects;
use crate::store::{Key, revision_of};

/// Messages end, and carry no more than was sent.
pub(super) fn ws_frame(bytes: &[u8]) {
    let carried = at_once(async {
        let mut messages = talk(tokio::io::join(bytes, tokio::io::sink()), Role::Server).await;
        let mut carried = 0;
        while let Some(Ok(message)) = messages.next().await {
            if let Some((number, payload)) = channel(&message) {
                carried += payload.len();
                assert_eq!(channel(&data(number, &payload)), Some((number, payload)));
            }
        }
        carried
    });
    assert!(carried <= bytes.len());
}

/// What a path leads to has names that are names, and a path of its own that leads to the same.
pub(super) fn route(bytes: &[u8]) {
    let Ok(Route::Objects(target)) = routes::parse(&String::from_utf8_lossy(bytes)) else { return };
    for name in target.namespace.iter().chain(&target.name) {
        assert!(!name.is_empty() && !name.contains(['/', '%']) && ![".", ".."].contains(&name.as_str()), "{name:?}");
    }
    assert_eq!(routes::parse(&path(&target)).ok(), Some(Route::Objects(target)));
}

fn path(target: &Target) -> String {
    let escaped = |name: &String| name.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    let Resource { group, version, plural, .. } = target.resource;
    let mut path = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    path.extend(target.namespace.iter().map(|name| format!("/namespaces/{}", escaped(name))));
    path.push_str(&format!("/{plural}"));
    path.extend(target.name.iter().map(|name| format!("/{}", escaped(name))));
    path + match target.part {
        Part::Main => "",
        Part::Status => "/status",
        Part::Scale => "/scale",
        Part::Log => "/log",
        Part::Exec => "/exec",
        Part::Attach => "/attach",
        Part::PortForward => "/portforward",
        Part::Eviction => "/eviction",
    }
}

/// A query is read or refused (line 1), and two label selectors together (lines 2 and 3) select what both select.
pub(super) fn params_selector(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    let mut line = || lines.next().unwrap_or_default();
    let secrets = registry::find("", "v1", "secrets").unwrap();
    if let Some(params) = format!("/x?{}", line()).parse::<Uri>().ok().and_then(|uri| Params::parse(&uri).ok()) {
        let _ = (params.selector(secrets), params.watch_options(), params.check_list());
        if let Ok(options) = params.write_options(&HeaderMap::new()) {
            assert!(options.manager.len() <= 128 && !options.manager.contains(char::is_control));
        }
    }
    let parse = |labels: &str| Selector::parse(secrets, Some(labels), None).ok();
    let (one, other) = (line(), line());
    let (Some(first), Some(second)) = (parse(one), parse(other)) else { return };
    let both = parse(&format!("{one},{other}")).unwrap();
    for labels in [json!({}), json!({"app": "db", "tier": "gold", "n": "7"}), json!({"app": "web", "n": "-1"})] {
        let object = json!({"metadata": {"labels": labels}});
        assert_eq!(both.matches(&object), first.matches(&object) && second.matches(&object));
    }
}

/// An object (line 1) grows by a JSON patch (the rest) only within bounds.
pub(super) fn json_patch(bytes: &[u8]) {
    let at = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (Some(object), patch) = (json(&bytes[..at]), &bytes[at..]) else { return };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, "application/json-patch+json".parse().unwrap());
    let resource = registry::find("", "v1", "secrets").unwrap();
    let Ok((Patch::Json(operations), _)) = Patch::read(resource, &headers, patch) else { return };
    let Ok(patched) = patched(&object, &Patch::Json(operations.clone())) else { return };
    let (before, after) = (shape::measure(&object), shape::measure(&patched));
    // A number has at most 8 times the bytes in memory that it has in a text.
    assert!(after.bytes <= before.bytes + 8 * patch.len() + (3 << 20), "{before:?} {after:?}");
    assert!(after.depth <= before.depth.max(shape::MAX_DEPTH) + 1, "{before:?} {after:?}");
}

/// A strategic merge patch (line 2) adds no more than it has to an object (line 1); an empty one changes nothing.
pub(super) fn strategic_merge(bytes: &[u8]) {
    let mut lines = lines(bytes);
    let mut next = || json(lines.next()?).filter(Value::is_object);
    let (Some(object), Some(patch)) = (next(), next()) else { return };
    let keys = registry::find("apps", "v1", "deployments").unwrap().merge_keys;
    assert_eq!(strategic::merge(keys, &object, &json!({})).ok().as_ref(), Some(&object));
    let Ok(merged) = strategic::merge(keys, &object, &patch) else { return };
    let size = |value: &Value| shape::measure(value).bytes;
    assert!(size(&merged) <= size(&object) + size(&patch));
}

/// Applies of the managers `a` and `b` in turns (lines 2 and further) to an object (line 1): what is applied is there, and
/// the same again changes nothing.
pub(super) fn apply_managed_fields(bytes: &[u8]) {
    let mut lines = lines(bytes);
    let Some(first) = lines.next().and_then(json) else { return };
    let Some(resource) = resource(&first) else { return };
    let admitted = |object: Value| {
        let admitted = validate::admit(resource, object, None, &[], FieldValidation::Ignore);
        admitted.ok().map(|admitted| admitted.object)
    };
    let Some(mut object) = admitted(first) else { return };
    object["metadata"]["uid"] = "u".into();
    for (line, manager) in lines.zip(["a", "b"].iter().cycle()) {
        let Some(mut wanted) = json(line).filter(|wanted| wanted["metadata"].is_object()) else { continue };
        wanted["metadata"].as_object_mut().unwrap().retain(|name, _| !UNOWNED.contains(&name.as_str()));
        (resource.normalize)(&mut wanted);
        let writer = Writer { manager, resource, subresource: None, now: Timestamp::UNIX_EPOCH };
        let Ok(applied) = writer.apply(&object, &wanted, true) else { continue };
        let Some(next) = admitted(applied.clone()) else { continue };
        // Where nobody owns anything, an apply begins a new record, as in Kubernetes.
        if applied["metadata"].get("managedFields").is_some() {
            assert_eq!(writer.apply(&applied, &wanted, true).ok().as_ref(), Some(&applied));
        }
        let mut merged = applied.clone();
        fields::merge(&resource.schema, &mut merged, &without_nulls(&wanted));
        let changed = fields::compare(&resource.schema, &applied, &merged).changed.paths();
        let named = |path: &String| [".metadata", ".spec", ".data"].iter().any(|part| path.starts_with(part));
        assert!(!changed.iter().any(named), "{changed:?}");
        object = next;
    }
}

fn resource(object: &Value) -> Option<&'static Resource> {
    registry::find_kind(object["apiVersion"].as_str()?, object["kind"].as_str()?)
}

/// A manifest of any kind is refused, or it is stored, reads back as it was stored, and is admitted again unchanged.
pub(super) fn admit_yaml(bytes: &[u8]) {
    let Ok(sent) = body::yaml(bytes) else { return };
    let Some(resource) = resource(&sent.value) else { return };
    let admit = |object: &Value, old: Option<&Value>| {
        validate::admit(resource, object.clone(), old, &sent.repeated, FieldValidation::Warn)
    };
    let Ok(Admitted { object, .. }) = admit(&sent.value, None) else { return };
    let _ = (resource.asks)(&object);
    let clock = Arc::new(TestClock::still(Timestamp::UNIX_EPOCH));
    let objects = Objects::new(Arc::new(MemoryStore::new()), clock);
    let name = object["metadata"]["name"].as_str().unwrap();
    let key = Key::new(&resource.qualified(), if resource.namespaced { "default" } else { "" }, name);
    let stored = at_once(objects.create(&key, object)).unwrap();
    assert!(revision_of(&stored).is_some());
    assert_eq!(at_once(objects.get::<Value>(&key)).unwrap().as_ref(), Some(&stored));
    let again = admit(&stored, Some(&stored)).map(|again| again.object);
    assert_eq!(again.map_err(|refusal| refusal.message).as_ref(), Ok(&stored));
}
