//! The rules for metadata, the same for every kind: names, labels, annotations, finalizers.

use serde_json::Value;

use super::shape::join;
use super::status::Cause;

/// Limit of the sum of all annotations, in bytes.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Limit of the number of labels, of finalizers and of owner references.
const MAX_ENTRIES: usize = 1000;

/// Limit of a text that a message repeats, in characters.
const MAX_SHOWN: usize = 60;

/// Every problem with an object's metadata (server-owned fields are not checked: they are overwritten).
pub fn problems(metadata: &Value, label_name: bool) -> Vec<Cause> {
    let mut causes = Vec::new();
    match metadata["name"].as_str().unwrap_or_default() {
        "" if metadata["generateName"].as_str().is_none_or(str::is_empty) => causes.push(Cause::new(
            "FieldValueRequired",
            "metadata.name",
            "Required value: name or generateName is required",
        )),
        "" => {}
        name => causes.extend(name_problem(name, label_name).map(|why| invalid("metadata.name", name, why))),
    }
    for field in ["labels", "finalizers", "ownerReferences"] {
        let value = &metadata[field];
        let count = value.as_object().map(serde_json::Map::len).or(value.as_array().map(Vec::len)).unwrap_or_default();
        if count > MAX_ENTRIES {
            let message = format!("Too many: {count}: must have at most {MAX_ENTRIES} entries");
            causes.push(Cause::new("FieldValueTooMany", format!("metadata.{field}"), message));
        }
    }
    for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
        causes.extend(key_problem(key).map(|why| invalid("metadata.labels", key, why)));
        let value = value.as_str().unwrap_or_default();
        causes.extend(value_problem(value).map(|why| invalid(&join("metadata.labels", key), value, why)));
    }
    let mut size = 0;
    for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
        causes.extend(key_problem(&key.to_lowercase()).map(|why| invalid("metadata.annotations", key, why)));
        size += key.len() + value.as_str().unwrap_or_default().len();
    }
    if size > MAX_ANNOTATIONS {
        let message = format!("Too long: all annotations together may have at most {MAX_ANNOTATIONS} bytes");
        causes.push(Cause::new("FieldValueTooLong", "metadata.annotations", message));
    }
    for (index, finalizer) in metadata["finalizers"].as_array().into_iter().flatten().enumerate() {
        let finalizer = finalizer.as_str().unwrap_or_default();
        let at = format!("metadata.finalizers[{index}]");
        causes.extend(finalizer_problem(finalizer).map(|why| invalid(&at, finalizer, why)));
    }
    causes
}

fn invalid(field: &str, value: &str, why: &str) -> Cause {
    let shown: String = value.chars().take(MAX_SHOWN).collect();
    let more = if shown.len() < value.len() { "…" } else { "" };
    Cause::invalid(field, format!("Invalid value: {shown:?}{more}: {why}"))
}

/// The problem with an object's name (RFC 1123: a subdomain, or a label for kinds whose names become host names).
fn name_problem(name: &str, label: bool) -> Option<&'static str> {
    let limit = if label { 63 } else { 253 };
    let part = |part: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !part.is_empty() && part.chars().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    };
    let well_formed = if label { part(name) } else { name.split('.').all(part) };
    match (well_formed, label) {
        _ if name.len() > limit && label => Some("must be no more than 63 characters"),
        _ if name.len() > limit => Some("must be no more than 253 characters"),
        (true, _) => None,
        (false, true) => Some(
            "must consist of lower case letters, digits and '-', and start and end with a letter or digit (e.g. 'my-name')",
        ),
        (false, false) => Some(
            "must consist of lower case letters, digits, '-' and '.', and start and end with a letter or digit (e.g. 'my-name')",
        ),
    }
}

/// The problem with the key of a label, annotation or finalizer: `[prefix/]name`.
pub fn key_problem(key: &str) -> Option<&'static str> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if prefix.is_some_and(|prefix| name_problem(prefix, false).is_some()) {
        return Some("the part before '/' must be a lower-case DNS name (e.g. 'example.com/my-name')");
    }
    if name.is_empty() || name.len() > 63 || !bounded(name) {
        return Some(
            "the name must have 1 to 63 letters, digits, '-', '_' or '.', and start and end with a letter or digit",
        );
    }
    None
}

/// The problem with the value of a label.
pub fn value_problem(value: &str) -> Option<&'static str> {
    (value.len() > 63 || !value.is_empty() && !bounded(value)).then_some(
        "must be empty or have up to 63 letters, digits, '-', '_' or '.', and start and end with a letter or digit",
    )
}

fn finalizer_problem(finalizer: &str) -> Option<&'static str> {
    if ["foregroundDeletion", "orphan", "kubernetes"].contains(&finalizer) {
        return None;
    }
    let qualified = finalizer.contains('/') && key_problem(finalizer).is_none();
    (!qualified).then_some("must be a name with a domain (e.g. 'example.com/my-finalizer')")
}

/// Whether it has only letters, digits, `-`, `_`, `.`, and starts and ends with a letter or digit.
fn bounded(text: &str) -> bool {
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && outer(text.chars().next())
        && outer(text.chars().next_back())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(metadata: Value) -> Vec<String> {
        problems(&metadata, false).into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn good_metadata_has_no_problems() {
        let metadata = json!({
            "name": "awx-db.prod", "labels": {"app.kubernetes.io/name": "awx", "empty": ""},
            "annotations": {"evenkeel.dev/reconcile": "paused"}, "finalizers": ["evenkeel.dev/containers", "orphan"],
        });
        assert_eq!(fields(metadata), Vec::<String>::new());
        assert_eq!(fields(json!({"generateName": "x-"})), Vec::<String>::new());
    }

    /// Regression 44: an object with 100,000 labels or finalizers was accepted. Every list and table then carried them, and
    /// every write judged them again. Their number is now bounded, as the size of annotations was.
    #[test]
    fn the_number_of_labels_finalizers_and_owners_is_bounded() {
        let check = |count: usize, expected: &[&str]| {
            let labels: serde_json::Map<_, _> = (0..count).map(|n| (format!("l{n}"), "x".into())).collect();
            let finalizers: Vec<_> = (0..count).map(|n| format!("a/f{n}")).collect();
            let owners = vec![json!({"uid": "u"}); count];
            let metadata = json!({"name": "a", "labels": labels, "finalizers": finalizers, "ownerReferences": owners});
            assert_eq!(fields(metadata), expected);
        };
        check(MAX_ENTRIES, &[]);
        check(MAX_ENTRIES + 1, &["metadata.labels", "metadata.finalizers", "metadata.ownerReferences"]);
    }

    #[test]
    fn every_problem_is_found_at_once() {
        let metadata = json!({
            "name": "Awx_DB", "labels": {"-a": "ok", "b": "not ok"},
            "annotations": {"/x": ""}, "finalizers": ["plain"],
        });
        let expected =
            ["metadata.name", "metadata.labels", "metadata.labels.b", "metadata.annotations", "metadata.finalizers[0]"];
        assert_eq!(fields(metadata), expected);
        assert_eq!(fields(json!({})), ["metadata.name"]);
        assert_eq!(fields(json!({"name": "a".repeat(254)})), ["metadata.name"]);
    }
}
