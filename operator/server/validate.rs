//! Admission: an object is accepted completely, or refused with every problem at once.

use serde_json::Value;

use super::shape::{self, UnknownField};
use super::status::Cause;
use super::{metadata, schema};
use crate::api::resource::Resource;

/// Limit of an object, in bytes.
const MAX_BYTES: usize = 3 * 1024 * 1024;

/// How to treat fields that the kind does not have (`fieldValidation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownFields {
    /// 422, the default.
    Refuse,
    /// Removed, with a `Warning` header.
    Warn,
    /// Removed.
    Drop,
}

/// An object that may be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted {
    /// With defaults filled in.
    pub object: Value,
    /// Warnings for the client, for `Warning` headers.
    pub warnings: Vec<String>,
}

/// Validates an object; `old` is the stored object that it replaces.
pub fn admit(
    resource: &Resource,
    mut object: Value,
    old: Option<&Value>,
    unknown_fields: UnknownFields,
) -> Result<Admitted, Vec<Cause>> {
    (resource.normalize)(&mut object);
    (resource.fill_in)(&mut object);
    let unknown = shape::fit(&resource.schema, &mut object);
    let (mut causes, warnings) = answer(unknown, unknown_fields);

    let size = shape::measure(&object);
    if size.bytes > MAX_BYTES {
        let message = format!("the object has {} bytes; at most {MAX_BYTES} are allowed", size.bytes);
        causes.push(Cause::new("FieldValueTooLong", "", message));
    }
    if size.depth > shape::MAX_DEPTH {
        causes.push(Cause::invalid("", shape::TOO_DEEP));
    }
    causes.extend(metadata::problems(&object["metadata"], resource.kind == "Namespace"));
    causes.extend(schema::problems(&resource.schema, &object, resource.sensitive));
    let judged = (resource.validate)(&object);
    let further = match old {
        Some(old) => (resource.validate_change)(old, &object),
        None => (resource.validate_new)(object["metadata"]["name"].as_str().unwrap_or_default()),
    };
    for problem in judged.into_iter().chain(further) {
        // The kind does not repeat a problem of a field that the schema has already reported; a problem without a path
        // means that the object did not fit the schema.
        let told = causes.iter().any(|c| c.field == problem.path || problem.path.is_empty());
        if !told {
            causes.push(Cause::invalid(problem.path, format!("Invalid value: {}", problem.message)));
        }
    }
    if causes.is_empty() { Ok(Admitted { object, warnings }) } else { Err(causes) }
}

fn answer(unknown: Vec<UnknownField>, how: UnknownFields) -> (Vec<Cause>, Vec<String>) {
    match how {
        UnknownFields::Drop => (Vec::new(), Vec::new()),
        UnknownFields::Warn => {
            (Vec::new(), unknown.into_iter().map(|u| format!("unknown field {:?}", u.path)).collect())
        }
        UnknownFields::Refuse => (unknown.into_iter().map(unknown_field).collect(), Vec::new()),
    }
}

fn unknown_field(unknown: UnknownField) -> Cause {
    let hint = unknown.meant.map(|name| format!(", did you mean {name:?}?")).unwrap_or_default();
    Cause::invalid(unknown.path, format!("Invalid value: unknown field{hint}"))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;
    use crate::api::registry;

    fn check(kind: (&str, &str), object: Value, expected: Expect) {
        let resource = registry::find_kind(kind.0, kind.1).expect("a served kind");
        let text = match admit(resource, object, None, UnknownFields::Refuse) {
            Ok(admitted) => format!("{:#}\n", admitted.object),
            Err(causes) => causes.iter().map(|c| format!("{} | {c}\n", c.reason)).collect(),
        };
        expected.assert_eq(&text);
    }

    const CLUSTER: (&str, &str) = ("evenkeel.dev/v1alpha1", "PostgresCluster");

    #[test]
    fn defaults_are_filled_in() {
        check(
            CLUSTER,
            json!({"metadata": {"name": "db"}, "spec": {"image": "postgres:15"}}),
            expect![[r#"
                {
                  "metadata": {
                    "name": "db"
                  },
                  "spec": {
                    "bootstrap": {
                      "initdb": {
                        "dataChecksums": true,
                        "database": "app",
                        "encoding": "UTF8",
                        "locale": "C.UTF-8",
                        "owner": "app"
                      }
                    },
                    "durability": {
                      "mode": "required"
                    },
                    "image": "postgres:15",
                    "instances": 1,
                    "parameters": {},
                    "storage": {
                      "reclaimPolicy": "Retain"
                    }
                  }
                }
            "#]],
        );
    }

    #[test]
    fn all_problems_come_at_once_each_with_its_path() {
        check(
            CLUSTER,
            json!({
                "metadata": {"name": "DB", "labels": {"a": "b c"}},
                "spec": {
                    "imge": "postgres:15",
                    "instances": 0,
                    "durability": {"mode": "sometimes", "synchronousReplicas": "two"},
                    "parameters": {"max_connections": 500},
                },
            }),
            expect![[r#"
                FieldValueInvalid | spec.imge: Invalid value: unknown field, did you mean "image"?
                FieldValueInvalid | metadata.name: Invalid value: "DB": must consist of lower case letters, digits, '-' and '.', and start and end with a letter or digit (e.g. 'my-name')
                FieldValueInvalid | metadata.labels.a: Invalid value: "b c": must be empty or have up to 63 letters, digits, '-', '_' or '.', and start and end with a letter or digit
                FieldValueRequired | spec.image: Required value
                FieldValueNotSupported | spec.durability.mode: Unsupported value: "sometimes": must be one of "required", "preferred", "async"
                FieldValueTypeInvalid | spec.durability.synchronousReplicas: Invalid value: "two": must be a whole number
                FieldValueInvalid | spec.instances: Invalid value: 0: should be at least 1
                FieldValueTypeInvalid | spec.parameters.max_connections: Invalid value: 500: must be a string
            "#]],
        );
    }

    #[test]
    fn semantic_problems_are_told_beside_those_of_the_schema() {
        check(
            CLUSTER,
            json!({
                "metadata": {"name": "db"},
                "spec": {"image": "postgres:15", "instances": 2, "durability": {"synchronousReplicas": 2}, "foo": 1},
            }),
            expect![[r#"
                FieldValueInvalid | spec.foo: Invalid value: unknown field
                FieldValueInvalid | spec.durability.synchronousReplicas: Invalid value: is 2, must be less than spec.instances (2): the primary is not its own standby
            "#]],
        );
    }

    #[test]
    fn no_message_repeats_a_secret() {
        check(
            ("v1", "Secret"),
            json!({"metadata": {"name": "s"}, "data": {"a": 5}, "type": 7}),
            expect![[r#"
            FieldValueTypeInvalid | data.a: Invalid value: (hidden): must be a string
            FieldValueTypeInvalid | type: Invalid value: (hidden): must be a string
        "#]],
        );
    }

    #[test]
    fn a_lenient_writer_is_warned_about_unknown_fields() {
        let resource = registry::find_kind(CLUSTER.0, CLUSTER.1).expect("a served kind");
        let object = json!({"metadata": {"name": "db"}, "spec": {"image": "postgres:15", "foo": 1}});
        let admitted = admit(resource, object, None, UnknownFields::Warn).expect("admitted");
        assert_eq!(admitted.warnings, ["unknown field \"spec.foo\""]);
        assert_eq!(admitted.object["spec"].get("foo"), None);
    }
}
