//! Validates an object against its structural schema: the subset of OpenAPI v3 that the served kinds use, as
//! Kubernetes does.
//!
//! A test walks every served schema and fails on a keyword that is not checked here, so that no keyword is
//! ignored silently.

use std::cmp::Ordering;
use std::net::Ipv4Addr;

use serde_json::{Map, Number, Value};

use super::shape::join;
use super::status::Cause;

/// Every problem of `object`; if it is `sensitive`, no message repeats a value.
pub fn problems(schema: &Value, object: &Value, sensitive: bool) -> Vec<Cause> {
    let mut judge = Judge { sensitive, causes: Vec::new() };
    judge.value(schema, object, "");
    judge.causes
}

struct Judge {
    sensitive: bool,
    causes: Vec<Cause>,
}

impl Judge {
    fn value(&mut self, schema: &Value, value: &Value, path: &str) {
        if value.is_null() && schema["nullable"] == true {
            return;
        }
        let types = types(schema);
        if !types.is_empty() && !types.iter().any(|name| has_type(value, name)) {
            let expected = types.iter().map(|name| with_article(name)).collect::<Vec<_>>().join(" or ");
            let message = format!("Invalid value: {}: must be {expected}", self.shown(value));
            // The other keywords apply only to values of the right type.
            return self.causes.push(Cause::new("FieldValueTypeInvalid", path, message));
        }
        if let Some(options) = schema["enum"].as_array()
            && !options.contains(value)
        {
            let options: Vec<_> = options.iter().filter(|o| !o.is_null()).map(ToString::to_string).collect();
            let message = format!("Unsupported value: {}: must be one of {}", self.shown(value), options.join(", "));
            self.causes.push(Cause::new("FieldValueNotSupported", path, message));
        }
        match value {
            Value::Number(number) => self.number(schema, number, path),
            Value::String(text) => self.text(schema, text, path),
            Value::Array(items) => self.list(schema, items, path),
            Value::Object(fields) => self.object(schema, fields, path),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn number(&mut self, schema: &Value, number: &Number, path: &str) {
        let range = (schema["type"] == "integer").then(|| range_of(&schema["format"])).flatten();
        let bound = |name: &str, of_format: fn((i64, i64)) -> i64| match &schema[name] {
            Value::Number(limit) => Some(limit.clone()),
            _ => range.map(|range| of_format(range).into()),
        };
        let shown = || self.shown(&Value::Number(number.clone()));
        let what = if let Some(limit) = bound("minimum", |(low, _)| low).filter(|l| compare(number, l).is_lt()) {
            format!("should be at least {limit}")
        } else if let Some(limit) = bound("maximum", |(_, high)| high).filter(|l| compare(number, l).is_gt()) {
            format!("should be at most {limit}")
        } else {
            return;
        };
        self.causes.push(Cause::invalid(path, format!("Invalid value: {}: {what}", shown())));
    }

    fn text(&mut self, schema: &Value, text: &str, path: &str) {
        let length = text.chars().count();
        let mut refuse = |what: String| {
            let shown = shown(&text.into(), self.sensitive);
            self.causes.push(Cause::invalid(path, format!("Invalid value: {shown}: {what}")));
        };
        match schema["minLength"].as_u64() {
            Some(1) if length == 0 => refuse("should not be empty".into()),
            Some(limit) if (length as u64) < limit => refuse(format!("should have at least {limit} characters")),
            _ => {}
        }
        if let Some(limit) = schema["maxLength"].as_u64().filter(|limit| length as u64 > *limit) {
            refuse(format!("should have at most {limit} characters"));
        }
        let well_formed = match schema["format"].as_str() {
            Some("ipv4") => text.parse::<Ipv4Addr>().is_ok(),
            Some("date-time") => text.parse::<jiff::Timestamp>().is_ok(),
            _ => true,
        };
        if !well_formed {
            let expected = if schema["format"] == "ipv4" { "an IPv4 address" } else { "a time (RFC 3339)" };
            refuse(format!("should be {expected}"));
        }
    }

    fn list(&mut self, schema: &Value, items: &[Value], path: &str) {
        let length = items.len() as u64;
        let mut refuse =
            |what: String| self.causes.push(Cause::invalid(path, format!("Invalid value: a list: {what}")));
        if let Some(limit) = schema["minItems"].as_u64().filter(|limit| length < *limit) {
            refuse(format!("should have at least {limit} items"));
        }
        if let Some(limit) = schema["maxItems"].as_u64().filter(|limit| length > *limit) {
            refuse(format!("should have at most {limit} items"));
        }
        for (index, item) in items.iter().enumerate() {
            self.value(&schema["items"], item, &format!("{path}[{index}]"));
        }
    }

    /// Unknown fields are not checked here: [`super::shape::fit`] has removed them.
    fn object(&mut self, schema: &Value, fields: &Map<String, Value>, path: &str) {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !fields.contains_key(name) {
                self.causes.push(Cause::new("FieldValueRequired", join(path, name), "Required value"));
            }
        }
        for (name, value) in fields {
            let child = schema["properties"].get(name).unwrap_or(&schema["additionalProperties"]);
            self.value(child, value, &join(path, name));
        }
    }

    fn shown(&self, value: &Value) -> String {
        shown(value, self.sensitive)
    }
}

/// A value as it was written, or only its type if it is large.
fn shown(value: &Value, sensitive: bool) -> String {
    match value {
        _ if sensitive => "(hidden)".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::String(text) if text.chars().count() > 80 => {
            format!("{:?}…", text.chars().take(80).collect::<String>())
        }
        scalar => scalar.to_string(),
    }
}

/// The allowed types of a value; empty if the schema sets none.
fn types(schema: &Value) -> Vec<&str> {
    match schema["type"].as_str() {
        _ if schema["x-kubernetes-int-or-string"] == true => vec!["integer", "string"],
        Some(name) => vec![name],
        None => Vec::new(),
    }
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        _ => value.is_number(),
    }
}

fn with_article(name: &str) -> String {
    match name {
        "integer" => "a whole number".to_owned(),
        "array" => "a list".to_owned(),
        "object" => "an object (a mapping)".to_owned(),
        other => format!("a {other}"),
    }
}

/// The range of a number format, for schemas without limits.
fn range_of(format: &Value) -> Option<(i64, i64)> {
    match format.as_str()? {
        "int32" => Some((i32::MIN.into(), i32::MAX.into())),
        "uint8" => Some((0, u8::MAX.into())),
        "uint16" => Some((0, u16::MAX.into())),
        "uint32" => Some((0, u32::MAX.into())),
        "uint64" | "uint" => Some((0, i64::MAX)),
        _ => None,
    }
}

fn compare(one: &Number, other: &Number) -> Ordering {
    match (one.as_i128(), other.as_i128()) {
        (Some(one), Some(other)) => one.cmp(&other),
        _ => one.as_f64().partial_cmp(&other.as_f64()).unwrap_or(Ordering::Equal),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;
    use crate::api::registry;

    /// Keywords that [`problems`] checks.
    const JUDGED: [&str; 15] = [
        "type",
        "nullable",
        "enum",
        "format",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "items",
        "required",
        "properties",
        "additionalProperties",
        "x-kubernetes-int-or-string",
    ];
    /// Keywords that forbid no value.
    const NOTES: [&str; 8] = [
        "description",
        "title",
        "default",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-map-type",
        "x-kubernetes-embedded-resource",
    ];

    fn unknown_keywords(schema: &Value, path: &str, found: &mut Vec<String>) {
        for (keyword, said) in schema.as_object().into_iter().flatten() {
            let known = JUDGED.contains(&keyword.as_str()) || NOTES.contains(&keyword.as_str());
            if !known || (keyword == "type" && !said.is_string()) {
                found.push(format!("{path}: {keyword}: {said}"));
            }
        }
        for (name, child) in schema["properties"].as_object().into_iter().flatten() {
            unknown_keywords(child, &join(path, name), found);
        }
        for name in ["items", "additionalProperties"] {
            if let Some(child) = schema.get(name) {
                unknown_keywords(child, &join(path, name), found);
            }
        }
    }

    #[test]
    fn every_keyword_of_every_served_schema_is_judged_or_forbids_nothing() {
        let mut found = Vec::new();
        for resource in registry::resources() {
            unknown_keywords(&resource.schema, &resource.kind, &mut found);
        }
        assert_eq!(found, [] as [String; 0]);
    }

    fn check(schema: Value, object: Value, expected: Expect) {
        let found = problems(&schema, &object, false);
        let text: String = found.iter().map(|cause| format!("{} | {cause}\n", cause.reason)).collect();
        expected.assert_eq(&text);
    }

    #[test]
    fn a_value_of_the_wrong_type_is_told_once() {
        let schema = json!({"type": "object", "properties": {
            "word": {"type": "string", "enum": ["a", "b"]},
            "count": {"type": "integer", "minimum": 1},
            "share": {"type": "number"},
            "port": {"x-kubernetes-int-or-string": true},
            "perhaps": {"type": "string", "nullable": true, "enum": ["a", null]},
        }});
        let good = json!({"word": "a", "count": 1, "share": 1, "port": "http", "perhaps": null});
        check(schema.clone(), good, expect![""]);
        let bad = json!({"word": 5, "count": 1.5, "share": "x", "port": true, "perhaps": "c"});
        check(
            schema,
            bad,
            expect![[r#"
                FieldValueTypeInvalid | count: Invalid value: 1.5: must be a whole number
                FieldValueNotSupported | perhaps: Unsupported value: "c": must be one of "a"
                FieldValueTypeInvalid | port: Invalid value: true: must be a whole number or a string
                FieldValueTypeInvalid | share: Invalid value: "x": must be a number
                FieldValueTypeInvalid | word: Invalid value: 5: must be a string
            "#]],
        );
    }

    #[test]
    fn a_number_format_is_a_range() {
        let port = json!({"type": "integer", "format": "uint16", "minimum": 1, "nullable": true});
        check(
            json!({"type": "array", "items": port}),
            json!([1, 65535, null, 0, 65536, u64::MAX, -1]),
            expect![[r#"
                FieldValueInvalid | [3]: Invalid value: 0: should be at least 1
                FieldValueInvalid | [4]: Invalid value: 65536: should be at most 65535
                FieldValueInvalid | [5]: Invalid value: 18446744073709551615: should be at most 65535
                FieldValueInvalid | [6]: Invalid value: -1: should be at least 1
            "#]],
        );
    }

    #[test]
    fn lengths_count_letters_and_items() {
        let text = json!({"type": "string", "minLength": 1, "maxLength": 3});
        check(
            json!({"type": "array", "minItems": 5, "maxItems": 5, "items": text}),
            json!(["äöü", "", "abcd"]),
            expect![[r#"
                FieldValueInvalid | Invalid value: a list: should have at least 5 items
                FieldValueInvalid | [1]: Invalid value: "": should not be empty
                FieldValueInvalid | [2]: Invalid value: "abcd": should have at most 3 characters
            "#]],
        );
    }

    #[test]
    fn addresses_and_times_are_read() {
        let schema = json!({"type": "object", "additionalProperties": {"type": "string", "format": "ipv4"}, "properties": {
            "at": {"type": "string", "format": "date-time"},
        }});
        check(schema.clone(), json!({"at": "2026-01-02T03:04:05.123456Z", "a/b": "10.0.0.1"}), expect![""]);
        check(
            schema,
            json!({"at": "yesterday", "a/b": "10.0.0"}),
            expect![[r#"
                FieldValueInvalid | [a/b]: Invalid value: "10.0.0": should be an IPv4 address
                FieldValueInvalid | at: Invalid value: "yesterday": should be a time (RFC 3339)
            "#]],
        );
    }
}
