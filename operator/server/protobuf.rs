//! Protobuf bodies of clients that send nothing else: Kubernetes' envelope and the messages in `protobuf.txt`, read as
//! the same object in JSON. Pure.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::status::Refusal;

/// The content type of these bodies.
pub const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// The first bytes of the envelope.
const MAGIC: &[u8] = b"k8s\0";

/// The fields of each message, by their numbers.
static MESSAGES: LazyLock<BTreeMap<&str, BTreeMap<u64, Field>>> = LazyLock::new(|| {
    let lines = include_str!("protobuf.txt").lines().filter(|line| !line.starts_with('#'));
    let message = |line: &'static str| {
        let (name, fields) = line.split_once(": ")?;
        Some((name, fields.split(", ").filter_map(Field::parse).collect()))
    };
    lines.filter_map(message).collect()
});

/// A field of a message.
struct Field {
    name: &'static str,
    shape: Shape,
    of: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// One value; zero, false and empty text mean that it is absent.
    One,
    /// One value; zero and false are values.
    Zero,
    Many,
    Map,
    /// The fields of the message belong to the message around it.
    Inline,
}

impl Field {
    /// Parses `NUMBER NAME TYPE`.
    fn parse(text: &'static str) -> Option<(u64, Self)> {
        let mut words = text.split(' ');
        let (number, name, of) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
        let shape = match of.as_bytes() {
            [b'*', ..] => Shape::Many,
            [b'%', ..] => Shape::Map,
            [b'^', ..] => Shape::Inline,
            [.., b'!'] => Shape::Zero,
            _ => Shape::One,
        };
        Some((number, Self { name, shape, of: of.trim_matches(['*', '%', '^', '!']) }))
    }
}

/// A value as it is encoded.
#[derive(Clone, Copy)]
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

type Read<T> = Result<T, String>;

/// The object in the body; 400 if it is none, or of a kind that `protobuf.txt` does not have.
pub fn object(body: &[u8]) -> Result<Value, Refusal> {
    read(body).map_err(|problem| Refusal::bad_request(format!("the body is not valid protobuf: {problem}")))
}

fn read(body: &[u8]) -> Read<Value> {
    let envelope = body.strip_prefix(MAGIC).ok_or("it does not start with k8s and a zero byte")?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for (number, wire) in fields(envelope)? {
        match (number, wire) {
            (1, Wire::Bytes(kinds)) => {
                for (number, wire) in fields(kinds)? {
                    match number {
                        1 => api_version = text(wire)?,
                        2 => kind = text(wire)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(bytes)) => raw = bytes,
            _ => {} // the encoding of `raw`; it is always plain
        }
    }
    if !MESSAGES.contains_key(kind.as_str()) {
        return Err(format!("the kind {kind:?} is not known in this format; send JSON"));
    }
    let mut object = message(&kind, raw)?;
    object.insert("apiVersion".to_owned(), api_version.into());
    object.insert("kind".to_owned(), kind.into());
    Ok(object.into())
}

fn message(name: &str, bytes: &[u8]) -> Read<Map<String, Value>> {
    let known = MESSAGES.get(name).ok_or_else(|| format!("{name} is not known"))?;
    let mut object = Map::new();
    for (number, wire) in fields(bytes)? {
        let Some(field) = known.get(&number) else {
            match wire {
                Wire::Number(0) | Wire::Bytes([]) => continue, // a new field, and it is not set
                _ => return Err(format!("field {number} of {name} is not known; send JSON")),
            }
        };
        let wrong = |problem| format!("{name}.{}: {problem}", field.name);
        match (field.shape, wire) {
            (Shape::Inline, Wire::Bytes(bytes)) => object.extend(message(field.of, bytes)?),
            (Shape::Many, wire) => {
                if let Some(value) = value(field.of, wire).map_err(wrong)?
                    && let Some(list) =
                        object.entry(field.name).or_insert_with(|| Value::Array(Vec::new())).as_array_mut()
                {
                    list.push(value);
                }
            }
            (Shape::Map, Wire::Bytes(bytes)) => {
                let (key, value) = entry(field.of, bytes).map_err(wrong)?;
                object.entry(field.name).or_insert_with(|| Value::Object(Map::new()))[key] = value;
            }
            (Shape::Inline | Shape::Map, Wire::Number(_)) => return Err(wrong("it is a number".to_owned())),
            (Shape::One | Shape::Zero, wire) => {
                let zero = match wire {
                    Wire::Number(number) => number == 0,
                    Wire::Bytes(bytes) => bytes.is_empty() && matches!(field.of, "string" | "bytes"),
                };
                if !(zero && field.shape == Shape::One)
                    && let Some(value) = value(field.of, wire).map_err(wrong)?
                {
                    object.insert(field.name.to_owned(), value);
                }
            }
        }
    }
    Ok(object)
}

/// One value; `None` for a time that is not set.
fn value(of: &str, wire: Wire<'_>) -> Read<Option<Value>> {
    Ok(Some(match (of, wire) {
        ("string", wire) => text(wire)?.into(),
        ("int", Wire::Number(number)) => number.cast_signed().into(),
        ("bool", Wire::Number(number)) => (number != 0).into(),
        ("bytes", Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        ("Time" | "MicroTime", Wire::Bytes(bytes)) => return time(of, bytes),
        ("Quantity", Wire::Bytes(bytes)) => match fields(bytes)?.into_iter().find(|(number, _)| *number == 1) {
            Some((_, wire)) => text(wire)?.into(),
            None => "0".into(),
        },
        ("IntOrString", Wire::Bytes(bytes)) => {
            let fields: BTreeMap<u64, Wire<'_>> = fields(bytes)?.into_iter().collect();
            match (fields.get(&1), fields.get(&2), fields.get(&3)) {
                (Some(Wire::Number(1)), _, Some(wire)) => text(*wire)?.into(),
                (_, Some(Wire::Number(number)), _) => number.cast_signed().into(),
                _ => 0.into(),
            }
        }
        ("Json", Wire::Bytes(bytes)) => match fields(bytes)?.first() {
            Some((1, Wire::Bytes(json))) => serde_json::from_slice(json).map_err(|error| error.to_string())?,
            _ => Value::Null,
        },
        (message_name, Wire::Bytes(bytes)) => message(message_name, bytes)?.into(),
        (_, Wire::Number(_)) => return Err("it is a number".to_owned()),
    }))
}

/// The key and the value of an entry of a map.
fn entry(of: &str, bytes: &[u8]) -> Read<(String, Value)> {
    let (mut key, mut found) = (String::new(), Value::from(""));
    for (number, wire) in fields(bytes)? {
        match number {
            1 => key = text(wire)?,
            2 => found = value(of, wire)?.unwrap_or_default(),
            _ => {}
        }
    }
    Ok((key, found))
}

fn time(of: &str, bytes: &[u8]) -> Read<Option<Value>> {
    let (mut seconds, mut nanos) = (0, 0);
    for (number, wire) in fields(bytes)? {
        match (number, wire) {
            (1, Wire::Number(number)) => seconds = number.cast_signed(),
            (2, Wire::Number(number)) if of == "MicroTime" => nanos = i32::try_from(number).unwrap_or_default(),
            _ => {}
        }
    }
    if bytes.is_empty() {
        return Ok(None);
    }
    let time = Timestamp::new(seconds, nanos).map_err(|error| error.to_string())?;
    Ok(Some(if of == "MicroTime" { format!("{time:.6}") } else { time.to_string() }.into()))
}

fn text(wire: Wire<'_>) -> Read<String> {
    match wire {
        Wire::Bytes(bytes) => std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| "it is not UTF-8".to_owned()),
        Wire::Number(_) => Err("it is a number and no text".to_owned()),
    }
}

/// The numbers and values of the fields of a message, in their order.
fn fields(mut bytes: &[u8]) -> Read<Vec<(u64, Wire<'_>)>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let wire = match tag & 7 {
            0 => Wire::Number(varint(&mut bytes)?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).unwrap_or(usize::MAX);
                let (value, rest) = bytes.split_at_checked(length).ok_or("it ends in the middle of a value")?;
                bytes = rest;
                Wire::Bytes(value)
            }
            other => return Err(format!("the wire type {other} is not used by Kubernetes")),
        };
        found.push((tag >> 3, wire));
    }
    Ok(found)
}

fn varint(bytes: &mut &[u8]) -> Read<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or("it ends in the middle of a number")?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("a number is longer than 10 bytes".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// A field that has bytes.
    fn with(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    fn number(field: u8, number: u8) -> Vec<u8> {
        vec![field << 3, number]
    }

    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let kinds = [with(1, api_version.as_bytes()), with(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), with(1, &kinds), with(2, raw), with(3, b""), with(4, b"")].concat()
    }

    /// Regression 63: `kubectl create configmap|secret|namespace|deployment` and helm send protobuf since 1.32 and do not
    /// fall back when it is refused: they failed with "unknown format". It is read as the same object in JSON now.
    #[test]
    fn a_secret_is_read_as_in_json_and_what_is_not_set_is_absent() {
        let metadata = [with(1, b"s"), with(2, b""), with(8, b""), with(11, &[with(1, b"app"), with(2, b"")].concat())];
        let data = [with(1, b"key"), with(2, &[0, 255])].concat();
        let raw = [with(1, &metadata.concat()), with(2, &data), with(3, b"Opaque"), number(5, 0)].concat();
        let expected = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": false,
            "metadata": {"name": "s", "labels": {"app": ""}}, "data": {"key": "AP8="},
        });
        assert_eq!(object(&body("v1", "Secret", &raw)).unwrap(), expected);
    }

    #[test]
    fn a_deployment_keeps_its_zero_and_its_probes_and_limits() {
        let port = [number(1, 0), number(2, 80), with(3, b"")].concat();
        let probe = [with(1, &with(2, &[with(1, b"/"), with(2, &port)].concat())), number(2, 0), number(4, 5)].concat();
        let limits = with(1, &[with(1, b"memory"), with(2, &with(1, b"1Gi"))].concat());
        let container = [with(1, b"c"), with(3, b"sleep"), with(3, b""), with(8, &limits), with(11, &probe)].concat();
        let pod = [with(1, &with(1, b"")), with(2, &with(2, &container))].concat();
        let surge = with(2, &[number(1, 1), number(2, 0), with(3, b"25%")].concat());
        let spec = [number(1, 0), with(3, &pod), with(4, &[with(1, b""), with(2, &surge)].concat()), number(5, 0)];
        let read = object(&body("apps/v1", "Deployment", &with(2, &spec.concat()))).unwrap();
        let expected = json!({
            "replicas": 0,
            "strategy": {"rollingUpdate": {"maxSurge": "25%"}},
            "template": {"metadata": {}, "spec": {"containers": [{
                "name": "c", "command": ["sleep", ""], "resources": {"limits": {"memory": "1Gi"}},
                "readinessProbe": {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 5},
            }]}},
        });
        assert_eq!(read["spec"], expected);
    }

    #[test]
    fn times_options_and_fields_that_are_not_known_are_read_or_refused() {
        let stamp = [number(1, 1), number(2, 0)].concat();
        let event = [with(2, &with(1, b"Pod")), with(6, &stamp), with(10, &stamp), number(8, 3)].concat();
        let event = object(&body("v1", "Event", &event)).unwrap();
        assert_eq!(event["firstTimestamp"], "1970-01-01T00:00:01Z");
        assert_eq!(event["eventTime"], "1970-01-01T00:00:01.000000Z");
        let options = [number(1, 0), with(4, b"Background"), with(2, &with(1, b"u"))].concat();
        let options = object(&body("v1", "DeleteOptions", &options)).unwrap();
        assert_eq!(options["preconditions"], json!({"uid": "u"}));
        assert_eq!((&options["gracePeriodSeconds"], &options["propagationPolicy"]), (&json!(0), &json!("Background")));
        assert!(object(&body("v1", "ConfigMap", &with(15, b""))).is_ok());
        let refused = |body: &[u8]| object(body).unwrap_err().message;
        assert!(refused(&body("v1", "ConfigMap", &with(15, b"x"))).contains("field 15 of ConfigMap is not known"));
        assert!(refused(&body("v1", "Pig", b"")).contains("the kind \"Pig\" is not known"));
        assert!(refused(b"{}").contains("does not start with k8s"));
        assert!(refused(&body("v1", "ConfigMap", &[10, 200])).contains("in the middle"));
    }

    #[test]
    fn every_type_of_the_table_is_known() {
        let plain = ["string", "int", "bool", "bytes", "Time", "MicroTime", "Quantity", "IntOrString", "Json"];
        let types = MESSAGES.values().flat_map(BTreeMap::values).map(|field| field.of);
        let missing: Vec<&str> = types.filter(|of| !plain.contains(of) && !MESSAGES.contains_key(of)).collect();
        assert_eq!(missing, Vec::<&str>::new());
    }

    proptest! {
        #[test]
        fn garbage_is_refused_and_nothing_breaks(raw in prop::collection::vec(any::<u8>(), 0..200)) {
            for kind in ["Deployment", "Event", "DeleteOptions"] {
                let inside = [&[0x12, 200, 1][..], &raw].concat();
                let kinds = with(1, &[with(1, b"v1"), with(2, kind.as_bytes())].concat());
                let _ = object(&[MAGIC, &kinds, &inside].concat());
                let _ = message(kind, &raw);
            }
        }
    }
}
