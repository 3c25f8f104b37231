//! Admission: an object is accepted completely, or refused with every problem at once.

use serde_json::Value;

use super::params::FieldValidation;
use super::shape::{self, UnknownField};
use super::status::{Cause, Refusal};
use super::{metadata, schema};
use crate::api::resource::Resource;

/// Limit of an object, in bytes.
const MAX_BYTES: usize = 3 * 1024 * 1024;

/// Limit of the warnings of one response, in bytes, as in Kubernetes.
const MAX_WARNINGS: usize = 4096;

/// An object that may be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Admitted {
    /// With defaults filled in.
    pub object: Value,
    /// Warnings for the client, for `Warning` headers.
    pub warnings: Vec<String>,
}

/// Validates an object; `old` is the stored object that it replaces, `repeated` are the fields that were sent twice.
/// 422 with every problem. With Strict, fields that are unknown or repeated are a 400 that names them first.
pub fn admit(
    resource: &Resource,
    mut object: Value,
    old: Option<&Value>,
    repeated: &[String],
    validation: FieldValidation,
) -> Result<Admitted, Refusal> {
    (resource.normalize)(&mut object);
    (resource.fill_in)(&mut object);
    let unknown = shape::fit(&resource.schema, &mut object);
    let odd = repeated
        .iter()
        .map(|path| odd_field("duplicate", path, None))
        .chain(unknown.into_iter().map(|UnknownField { path, meant }| odd_field("unknown", &path, meant)));
    let odd: Vec<Cause> = odd.collect();
    let causes = problems(resource, &object, old);
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    match validation {
        FieldValidation::Strict if !odd.is_empty() => Err(Refusal::strict(resource, name, odd, causes)),
        _ if !causes.is_empty() => Err(Refusal::invalid(resource, name, causes)),
        FieldValidation::Warn => Ok(Admitted { object, warnings: warnings(&odd) }),
        FieldValidation::Strict | FieldValidation::Ignore => Ok(Admitted { object, warnings: Vec::new() }),
    }
}

/// Every problem of an object that has only known fields.
fn problems(resource: &Resource, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let size = shape::measure(object);
    if size.bytes > MAX_BYTES {
        let message = format!("the object has {} bytes; at most {MAX_BYTES} are allowed", size.bytes);
        causes.push(Cause::new("FieldValueTooLong", "", message));
    }
    if size.depth > shape::MAX_DEPTH {
        causes.push(Cause::invalid("", shape::TOO_DEEP));
    }
    causes.extend(metadata::problems(&object["metadata"], resource.kind == "Namespace"));
    causes.extend(schema::problems(&resource.schema, object, resource.sensitive));
    let judged = (resource.validate)(object);
    let further = match old {
        Some(old) => (resource.validate_change)(old, object),
        None => (resource.validate_new)(object),
    };
    for problem in judged.into_iter().chain(further) {
        // The kind does not repeat a problem of a field that the schema has already reported; a problem without a path
        // means that the object did not fit the schema.
        let told = causes.iter().any(|c| c.field == problem.path || problem.path.is_empty());
        if !told {
            causes.push(Cause::invalid(problem.path, format!("Invalid value: {}", problem.message)));
        }
    }
    causes
}

fn odd_field(how: &str, path: &str, meant: Option<String>) -> Cause {
    let hint = meant.map(|name| format!(", did you mean {name:?}?")).unwrap_or_default();
    Cause::invalid(path, format!("Invalid value: {how} field{hint}"))
}

/// The texts of the `Warning` headers: as many as have room.
fn warnings(odd: &[Cause]) -> Vec<String> {
    let count = odd.len();
    let mut room = MAX_WARNINGS;
    let fits = |warning: &String| {
        room = room.saturating_sub(warning.len());
        room > 0
    };
    let mut warnings: Vec<String> = odd.iter().map(Cause::of_decoding).take_while(fits).collect();
    if warnings.len() < count {
        warnings.push(format!("and {} more fields", count - warnings.len()));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;
    use crate::api::registry;

    fn check(kind: (&str, &str), object: Value, expected: Expect) {
        let resource = registry::find_kind(kind.0, kind.1).expect("a served kind");
        let text = match admit(resource, object, None, &[], FieldValidation::Strict) {
            Ok(admitted) => format!("{:#}\n", admitted.object),
            Err(refusal) => {
                let causes = refusal.details["causes"].as_array().cloned().unwrap_or_default();
                let one = |c: &Value| {
                    let part = |name: &str| c[name].as_str().unwrap_or_default().to_owned();
                    format!("{} | {}: {}\n", part("reason"), part("field"), part("message"))
                };
                causes.iter().map(one).collect()
            }
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
                    "bootstrap": {},
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

    /// Regression 49: without `fieldValidation` an unknown field was refused, where Kubernetes warns; with Strict it was a 422,
    /// where clients look for a 400 with these words.
    #[test]
    fn a_strict_writer_is_refused_and_a_lenient_one_warned_about_unknown_and_repeated_fields() {
        let resource = registry::find_kind(CLUSTER.0, CLUSTER.1).expect("a served kind");
        let judge = |instances: u8, validation: FieldValidation| {
            let spec = json!({"image": "postgres:15", "instnces": 1, "instances": instances});
            let object = json!({"metadata": {"name": "db"}, "spec": spec});
            admit(resource, object, None, &["spec.image".to_owned()], validation)
        };
        let odd = ["duplicate field \"spec.image\"", "unknown field \"spec.instnces\", did you mean \"instances\"?"];
        let admitted = judge(1, FieldValidation::Warn).expect("admitted");
        assert_eq!(admitted.warnings, odd);
        assert_eq!(admitted.object["spec"].get("instnces"), None);
        assert_eq!(judge(1, FieldValidation::Ignore).expect("admitted").warnings, [] as [&str; 0]);
        let refused = |instances| {
            let refusal = judge(instances, FieldValidation::Strict).expect_err("refused");
            format!("{} {}", refusal.code.as_u16(), refusal.message)
        };
        let start = "400 PostgresCluster.evenkeel.dev \"db\" is invalid: strict decoding error: ";
        assert_eq!(refused(1), format!("{start}{}, {}", odd[0], odd[1]));
        let invalid = "spec.instances: Invalid value: 0: should be at least 1";
        assert_eq!(refused(0), format!("{start}{}, {}; {invalid}", odd[0], odd[1]));
    }

    #[test]
    fn there_are_only_as_many_warnings_as_have_room_in_a_response() {
        let odd: Vec<Cause> = (0..100_000).map(|n| odd_field("unknown", &format!("spec.f{n}"), None)).collect();
        let warnings = warnings(&odd);
        assert!(
            warnings.len() < 200 && warnings.last().is_some_and(|last| last.ends_with("more fields")),
            "{warnings:?}"
        );
    }
}
