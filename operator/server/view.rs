//! The format of a response: whole objects, a table, or metadata only.

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::params::Params;
use super::status::Refusal;
use super::table::{self, Headings, Include};
use crate::api::resource::Resource;

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
    pub fn object(self, resource: &Resource, object: Value, headings: Headings, now: Timestamp) -> Value {
        match self {
            Self::Whole => object,
            Self::Metadata => table::metadata_only(&object),
            Self::Table(include) => {
                let list = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                table::table(resource, &[object], list, include, headings, now)
            }
        }
    }

    /// A list at a revision.
    pub fn list(self, resource: &Resource, objects: Vec<Value>, revision: u64, now: Timestamp) -> Value {
        let metadata = json!({"resourceVersion": revision.to_string()});
        let (kind, api_version, items) = match self {
            Self::Table(include) => {
                return table::table(resource, &objects, metadata, include, Headings::Shown, now);
            }
            Self::Whole => (format!("{}List", resource.kind), resource.api_version(), objects),
            Self::Metadata => (
                "PartialObjectMetadataList".to_owned(),
                "meta.k8s.io/v1".to_owned(),
                objects.iter().map(table::metadata_only).collect(),
            ),
        };
        json!({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items})
    }
}

/// A JSON response, with warnings for the client in `Warning` headers.
pub fn answer(code: StatusCode, body: &Value, warnings: &[String]) -> Response {
    let mut response = (code, axum::Json(body)).into_response();
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
