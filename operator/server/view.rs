//! The format of a response: whole objects, a table, or metadata only.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::params::Params;
use super::status::Refusal;
use super::table::{self, Headings, Include};
use crate::api::resource::Resource;

/// Number of objects in a piece of a list.
const PIECE: usize = 64;

/// The format of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// As stored.
    Whole,
    /// `as=Table`.
    Table(Include),
    /// `as=PartialObjectMetadata` or its List.
    Metadata,
}

impl View {
    /// The first supported media type of the `Accept` header; none at all means JSON.
    pub fn negotiate(headers: &HeaderMap, params: &Params) -> Result<Self, Refusal> {
        let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if accept.trim().is_empty() {
            return Ok(Self::Whole);
        }
        let include = match params.get("includeObject") {
            Some("None") => Include::None,
            Some("Object") => Include::Object,
            _ => Include::Metadata,
        };
        accept.split(',').find_map(|offer| Self::offered(offer, include)).ok_or_else(|| {
            let message = "only the following media types are accepted: application/json";
            Refusal::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
        })
    }

    fn offered(offer: &str, include: Include) -> Option<Self> {
        let mut parts = offer.split(';').map(str::trim);
        if !matches!(parts.next()?, "application/json" | "application/*" | "*/*") {
            return None;
        }
        match parts.find_map(|part| part.strip_prefix("as=")) {
            None => Some(Self::Whole),
            Some("Table") => Some(Self::Table(include)),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Some(Self::Metadata),
            Some(_) => None,
        }
    }

    /// One object.
    pub fn object<'a>(
        self,
        resource: &Resource,
        object: &'a Value,
        headings: Headings,
        now: Timestamp,
    ) -> Cow<'a, Value> {
        match self {
            Self::Whole => Cow::Borrowed(object),
            Self::Metadata => Cow::Owned(table::metadata_only(object)),
            Self::Table(include) => {
                let list = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                Cow::Owned(table::table(resource, object, list, include, headings, now))
            }
        }
    }

    /// A list with this metadata as a response. It is written piece by piece: its whole text is never in memory.
    pub fn list(
        self,
        resource: &'static Resource,
        objects: Vec<Arc<Value>>,
        metadata: Value,
        now: Timestamp,
    ) -> Response {
        let (mut head, items) = match self {
            Self::Whole => {
                (json!({"kind": format!("{}List", resource.kind), "apiVersion": resource.api_version()}), "items")
            }
            Self::Metadata => (json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1"}), "items"),
            Self::Table(_) => (table::empty(resource, Headings::Shown), "rows"),
        };
        head["metadata"] = metadata;
        let mut head = head.to_string();
        head.pop();
        let mut text = Some(format!("{head},\"{items}\":[").into_bytes());
        let (mut objects, mut first) = (objects.into_iter(), true);
        let pieces = std::iter::from_fn(move || {
            let mut piece = text.take()?;
            for object in objects.by_ref().take(PIECE) {
                if !std::mem::take(&mut first) {
                    piece.push(b',');
                }
                let item = match self {
                    Self::Whole => Cow::Borrowed(&*object),
                    Self::Metadata => Cow::Owned(table::metadata_only(&object)),
                    Self::Table(include) => Cow::Owned(table::row(resource, &object, include, now)),
                };
                let _ = serde_json::to_writer(&mut piece, &item); // every Value has a text
            }
            match objects.len() {
                0 => piece.extend_from_slice(b"]}"),
                _ => text = Some(Vec::new()),
            }
            Some(Ok::<_, Infallible>(Bytes::from(piece)))
        });
        let json = [(header::CONTENT_TYPE, "application/json")];
        (json, Body::from_stream(stream::iter(pieces))).into_response()
    }
}

/// A JSON response, with warnings for the client in `Warning` headers.
pub fn answer(code: StatusCode, body: &Value, warnings: &[String]) -> Response {
    warned((code, axum::Json(body)).into_response(), warnings)
}

/// The response with warnings for the client in `Warning` headers.
pub fn warned(mut response: Response, warnings: &[String]) -> Response {
    for warning in warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = format!("299 - \"{quoted}\"").parse() {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(accept: &str, expected: Result<View, u16>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        let found = View::negotiate(&headers, &Params::default()).map_err(|r| r.code.as_u16());
        assert_eq!(found, expected, "{accept}");
    }

    #[test]
    fn the_first_form_that_we_can_do_is_taken() {
        check("", Ok(View::Whole));
        check("application/json, */*", Ok(View::Whole));
        check("application/vnd.kubernetes.protobuf, */*", Ok(View::Whole));
        check("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Ok(View::Table(Include::Metadata)));
        check("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", Ok(View::Metadata));
        check("application/json;as=Unheard, application/json", Ok(View::Whole));
        check("text/html", Err(406));
    }
}
