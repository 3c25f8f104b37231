//! Reading request bodies: JSON or YAML, up to a limit of size and time.

use std::cell::RefCell;
use std::fmt::{self, Display};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use futures::StreamExt as _;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::options::DuplicateKeyPolicy;
use tokio::time::timeout;

use super::protobuf;
use super::shape::join;
use super::status::Refusal;

/// Limit of a request body, in bytes.
pub const LIMIT: usize = 3 * 1024 * 1024;
/// Limit of the time in which a request body must arrive.
const TIME: Duration = Duration::from_secs(10);
/// Limit of the repeated fields that are named.
const MAX_REPEATED: usize = 20;

/// A value as it was sent.
#[derive(Debug, PartialEq)]
pub struct Sent {
    /// The value; of a field that was sent twice, the last one counts.
    pub value: Value,
    /// The paths of the fields that were sent more than once.
    pub repeated: Vec<String>,
}

/// The complete body; 413 if it is larger than the limit, 408 if it does not arrive in time.
pub async fn read(body: Body) -> Result<Bytes, Refusal> {
    timeout(TIME, read_all(body)).await.unwrap_or_else(|_| {
        let seconds = TIME.as_secs();
        Err(Refusal::request_timeout(format!("the request body did not arrive within {seconds} s")))
    })
}

async fn read_all(body: Body) -> Result<Bytes, Refusal> {
    let mut pieces = body.into_data_stream();
    let mut whole = Vec::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| Refusal::bad_request(format!("the request body cannot be read: {error}")))?;
        if whole.len() + piece.len() > LIMIT {
            let message = format!("the request body is larger than the limit of {LIMIT} bytes");
            return Err(Refusal::entity_too_large(message));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.into())
}

/// The object in the body, by its content type: JSON, YAML, or JSON if there is no content type.
pub fn object(headers: &HeaderMap, body: &[u8]) -> Result<Sent, Refusal> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let sent = match content_type.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" | "*/*" => json(body)?,
        "application/yaml" | "text/yaml" | "application/x-yaml" => yaml(body)?,
        protobuf::CONTENT_TYPE => Sent { value: protobuf::object(body)?, repeated: Vec::new() },
        _ => return Err(Refusal::unsupported_media_type(&["application/json", "application/yaml"])),
    };
    if sent.value.is_object() { Ok(sent) } else { Err(Refusal::bad_request("the body must be an object")) }
}

/// Any JSON value.
pub fn json(body: &[u8]) -> Result<Sent, Refusal> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let sent = collect(|seed| seed.deserialize(&mut deserializer));
    let sent = sent.and_then(|sent| deserializer.end().map(|()| sent));
    sent.map_err(|error| malformed("JSON", error.line(), error.column()))
}

/// 400 with the place only: the parser's own words may quote a secret value.
pub fn malformed(language: &str, line: impl Display, column: impl Display) -> Refusal {
    Refusal::bad_request(format!("the body is not valid {language} at line {line}, column {column}"))
}

/// Any YAML value (JSON is YAML).
pub fn yaml(body: &[u8]) -> Result<Sent, Refusal> {
    if let Ok(sent) = json(body) {
        return Ok(sent);
    }
    let text = std::str::from_utf8(body).map_err(|_| Refusal::bad_request("the body is not UTF-8"))?;
    let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::PassThrough };
    let sent = serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        collect(|seed| seed.deserialize(deserializer))
    });
    sent.map_err(|error| match error.location() {
        Some(at) => malformed("YAML", at.line(), at.column()),
        None => Refusal::bad_request("the body is not valid YAML"),
    })
}

fn collect<E>(read: impl FnOnce(Reading<'_>) -> Result<Value, E>) -> Result<Sent, E> {
    let repeated = RefCell::new(Vec::new());
    let value = read(Reading { at: At::Top, repeated: &repeated })?;
    Ok(Sent { value, repeated: repeated.into_inner() })
}

/// Where in the body a value is.
#[derive(Clone, Copy)]
enum At<'a> {
    Top,
    Field(&'a At<'a>, &'a str),
    Item(&'a At<'a>, usize),
}

impl At<'_> {
    fn path(&self) -> String {
        match self {
            Self::Top => String::new(),
            Self::Field(parent, name) => join(&parent.path(), name),
            Self::Item(parent, index) => format!("{}[{index}]", parent.path()),
        }
    }
}

/// Reads one value and notes the fields that it has more than once.
#[derive(Clone, Copy)]
struct Reading<'a> {
    at: At<'a>,
    repeated: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Reading<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reading<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut read = Vec::new();
        while let Some(item) = items.next_element_seed(Reading { at: At::Item(&self.at, read.len()), ..self })? {
            read.push(item);
        }
        Ok(read.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut read = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let at = At::Field(&self.at, &name);
            let value = fields.next_value_seed(Reading { at, ..self })?;
            let mut repeated = self.repeated.borrow_mut();
            if read.contains_key(&name) && repeated.len() < MAX_REPEATED {
                repeated.push(at.path());
            }
            drop(repeated);
            read.insert(name, value);
        }
        Ok(read.into())
    }
}

/// A body as a value.
pub fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        let at = format!("line {}, column {}", error.line(), error.column());
        Refusal::bad_request(format!("the body has not the fields that it must have; wrong at {at}"))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    /// Regression 50: a field that was sent twice was taken silently, and the last one won, also with Strict.
    #[test]
    fn a_field_that_is_sent_twice_is_named_and_the_last_one_counts() {
        let check = |sent: Result<Sent, Refusal>| {
            let sent = sent.unwrap();
            assert_eq!(sent.value, json!({"a": {"x": 2}, "l": [{"y": [1.5, null, true, "s"]}]}));
            assert_eq!(sent.repeated, ["a.x", "l[0].y", "l"]);
        };
        check(super::json(
            br#"{"a":{"x":1,"x":2},"l":[{"y":0,"y":[1.5,null,true,"s"]}],"l":[{"y":[1.5,null,true,"s"]}]}"#,
        ));
        check(yaml(b"a:\n  x: 1\n  x: 2\nl: [{y: 0, y: [1.5, null, true, s]}]\nl: [{y: [1.5, null, true, s]}]\n"));
    }

    /// Regression 160: a Secret with a wrong indent came back in the answer, value included, since the parser quotes what it
    /// cannot read; answers end up in logs. Line and column are told now, and nothing of the body.
    #[test]
    fn what_cannot_be_read_is_told_by_its_place_and_not_quoted() {
        let deep = format!("CANARY: {}", "[".repeat(500));
        for bad in [
            "CANARY: 1\n---\nb: 2\n",
            "a: [CANARY\n",
            "a: b: CANARY\n",
            "&CANARY [*CANARY]",
            "a: *CANARY",
            "a: !!int CANARY",
            "a:\n\t- CANARY",
            deep.as_str(),
        ] {
            let refusal = yaml(bad.as_bytes()).unwrap_err();
            assert_eq!(refusal.code, 400);
            assert!(
                refusal.message.starts_with("the body is not valid YAML") && !refusal.message.contains("CANARY"),
                "{}",
                refusal.message
            );
        }
        assert_eq!(yaml(b"a: 1\nb: c: d\n").unwrap_err().message, "the body is not valid YAML at line 2, column 5");
        assert_eq!(json(b"{\"a\": CANARY}").unwrap_err().message, "the body is not valid JSON at line 1, column 7");
    }

    /// Regression 52: a body that never came held its connection for ever.
    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_refused_after_a_time() {
        let stalled = futures::stream::once(async { Ok::<_, std::io::Error>("{") }).chain(futures::stream::pending());
        let refusal = read(Body::from_stream(stalled)).await.unwrap_err();
        assert_eq!(
            (refusal.code.as_u16(), refusal.message.as_str()),
            (408, "the request body did not arrive within 10 s")
        );
        let broken = futures::stream::once(async { Err::<&str, _>(std::io::Error::other("invalid chunk")) });
        assert_eq!(read(Body::from_stream(broken)).await.unwrap_err().code, 400);
        let large = "x".repeat(LIMIT + 1);
        assert_eq!(read(Body::from(large)).await.unwrap_err().code, 413);
    }
}
