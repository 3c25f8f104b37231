//! Refusals: every error response is a Kubernetes `v1` Status with a code, a reason and its causes.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::api::chain::chain;
use crate::api::resource::Resource;
use crate::store;

/// Limit of the problems that one response names.
const MAX_CAUSES: usize = 100;

/// One problem with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// A Kubernetes cause type, e.g. `FieldValueInvalid`.
    pub reason: &'static str,
    /// The problem, for people; does not repeat the field.
    pub message: String,
    /// The field's path, e.g. `spec.durability.synchronousReplicas`.
    pub field: String,
}

impl Cause {
    /// A cause from its three parts.
    pub fn new(reason: &'static str, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), field: field.into() }
    }

    /// A value that is not allowed.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new("FieldValueInvalid", field, message)
    }
}

impl Cause {
    /// In the words of Kubernetes' decoder: `unknown field "spec.x"`.
    pub fn of_decoding(&self) -> String {
        let message = self.message.trim_start_matches("Invalid value: ");
        message.replacen("field", &format!("field {:?}", self.field), 1)
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.field.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.field, self.message) }
    }
}

/// A request that was not served, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// HTTP status code.
    pub code: StatusCode,
    /// Kubernetes' reason, e.g. `NotFound`.
    pub reason: &'static str,
    /// One sentence for people.
    pub message: String,
    /// The `details` of the Status: name, group, kind, causes.
    pub details: Map<String, Value>,
    /// The `metadata` of the Status: a continue token that can be used instead.
    pub metadata: Value,
}

impl Refusal {
    /// A refusal without details.
    pub fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Map::new(), metadata: json!({}) }
    }

    /// 400: the request is malformed.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 401: no token, or a wrong one.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// 403: the user may not do this.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    /// 404: no such path is served.
    pub fn no_such_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
    }

    /// 404: the object does not exist.
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} {name:?} not found", resource.qualified());
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(resource.plural.as_str(), resource, name)
    }

    /// 405: the path exists, but not the method.
    pub fn method_not_allowed() -> Self {
        Self::not_allowed("the server does not allow this method on the requested resource")
    }

    /// 405 with a reason.
    pub fn not_allowed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    /// 408: the request did not arrive in time.
    pub fn request_timeout(message: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "Timeout", message)
    }

    /// 409: the name is in use.
    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", resource.qualified());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(resource.plural.as_str(), resource, name)
    }

    /// 409: the object was changed in between, or a precondition does not hold.
    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", resource.qualified());
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(resource.plural.as_str(), resource, name)
    }

    /// 410: the requested resourceVersion is older than the watch window.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// 413: what is sent, or what would be made of it, is larger than a limit.
    pub fn entity_too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    /// 415: the resource does not accept this content type.
    pub fn unsupported_media_type(supported: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            supported.join(", ")
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    /// 422: the object is invalid; with all problems at once.
    pub fn invalid(resource: &Resource, name: &str, causes: Vec<Cause>) -> Self {
        let causes = bounded(causes);
        let list = causes.iter().map(ToString::to_string).collect::<Vec<_>>();
        let list = if list.len() == 1 { list.concat() } else { format!("[{}]", list.join(", ")) };
        let message = format!("{} {name:?} is invalid: {list}", resource.qualified_kind());
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
            .about(resource.kind.as_str(), resource, name)
            .because(causes)
    }

    /// 400: fields that are unknown or were sent twice, and what else is wrong with the object.
    pub fn strict(resource: &Resource, name: &str, odd: Vec<Cause>, invalid: Vec<Cause>) -> Self {
        let (mut odd, mut invalid) = (bounded(odd), bounded(invalid));
        let list = odd.iter().map(Cause::of_decoding).collect::<Vec<_>>().join(", ");
        let rest: String = invalid.iter().map(|cause| format!("; {cause}")).collect();
        let message = format!("{} {name:?} is invalid: strict decoding error: {list}{rest}", resource.qualified_kind());
        odd.append(&mut invalid);
        Self::bad_request(message).because(odd)
    }

    /// 422: a query parameter or a patch cannot be applied.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }

    /// 503: a dependency (e.g. a Docker Engine) does not answer.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }

    /// 429: too much at once; clients try again after a second.
    pub fn too_many_requests(message: impl Into<String>) -> Self {
        let mut refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
        refusal.details.insert(RETRY_AFTER.into(), json!(1));
        refusal
    }

    /// 504: the answer took too long.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
    }

    /// 500: an internal error; the text says what failed and contains no secret.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// A failure of the store as an API error.
    pub fn from_store(error: &store::Error, resource: &Resource, name: &str) -> Self {
        use store::Error;
        match error {
            Error::NotFound { .. } => Self::not_found(resource, name),
            Error::AlreadyExists { .. } => Self::already_exists(resource, name),
            Error::Conflict { found: None, .. } => Self::not_found(resource, name),
            Error::Conflict { .. } => Self::conflict(resource, name, MODIFIED),
            Error::Replaced { expected, found, .. } => {
                let why =
                    format!("the UID in the precondition ({expected}) does not match the UID in record ({found})");
                Self::conflict(resource, name, &why)
            }
            Error::Compacted { since, oldest } => Self::expired(format!(
                "too old resource version: {since} ({oldest} is the oldest that can be watched from)"
            )),
            Error::Future { since, newest } => Self::from_the_future(*since, *newest),
            Error::Malformed { problem, .. } => {
                Self::invalid(resource, name, vec![Cause::invalid("", problem.clone())])
            }
            Error::Busy { .. } => Self::too_many_requests(error.to_string()),
            Error::NoQuorum { .. } | Error::Full | Error::Deposed { .. } | Error::Led => {
                Self::unavailable(error.to_string())
            }
            Error::View { instead, .. } => Self::not_allowed(*instead),
            Error::Backend { .. }
            | Error::InUse { .. }
            | Error::KeyMissing { .. }
            | Error::Tampered { .. }
            | Error::Newer { .. }
            | Error::Damaged { .. }
            | Error::Setup { .. } => Self::internal(chain(error)),
        }
    }

    fn from_the_future(since: u64, newest: u64) -> Self {
        let mut refusal = Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "Timeout",
            format!("Too large resource version: {since}, current: {newest}"),
        );
        refusal.details.insert(RETRY_AFTER.into(), json!(1));
        refusal.because(vec![Cause::new("ResourceVersionTooLarge", "", "Too large resource version")])
    }

    /// Adds causes.
    #[must_use]
    pub fn because(mut self, causes: Vec<Cause>) -> Self {
        self.details.insert("causes".into(), json!(causes));
        self
    }

    fn about(mut self, kind: &str, resource: &Resource, name: &str) -> Self {
        self.details.insert("name".into(), json!(name));
        if !resource.group.is_empty() {
            self.details.insert("group".into(), json!(resource.group));
        }
        self.details.insert("kind".into(), json!(kind));
        self
    }

    /// The Status object.
    pub fn status(&self) -> Value {
        json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self.metadata,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code.as_u16(),
        })
    }
}

/// The detail that says after how many seconds to try again.
const RETRY_AFTER: &str = "retryAfterSeconds";

/// As many causes as one response names.
fn bounded(mut causes: Vec<Cause>) -> Vec<Cause> {
    if causes.len() > MAX_CAUSES {
        let more = causes.split_off(MAX_CAUSES).len();
        causes.push(Cause::invalid("", format!("and {more} more problems")));
    }
    causes
}

/// Kubernetes' sentence for a lost compare-and-set; clients match on it.
pub const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        if self.code.is_server_error() {
            tracing::warn!(code = self.code.as_u16(), reason = self.reason, "{}", self.message);
        }
        let mut response = (self.code, axum::Json(self.status())).into_response();
        if let Some(seconds) = self.details.get(RETRY_AFTER).and_then(Value::as_u64) {
            response.headers_mut().insert(axum::http::header::RETRY_AFTER, seconds.into());
        }
        if self.code == StatusCode::UNAUTHORIZED {
            let scheme = axum::http::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(axum::http::header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

/// The Status in response to a deletion that removed the object.
pub fn deleted(resource: &Resource, object: &Value) -> Value {
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {
            "name": object["metadata"]["name"],
            "group": resource.group,
            "kind": resource.plural,
            "uid": object["metadata"]["uid"],
        },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::api::registry;

    /// Regression 62: a list that got no connection to the database was answered with 500, which clients do not repeat.
    /// A busy store is 429 with Retry-After now: they wait a second and try again.
    #[test]
    fn a_busy_store_is_answered_with_try_again() {
        let maps = registry::find("", "v1", "configmaps").unwrap();
        let busy = store::Error::Busy { doing: "reading the changes to watch" };
        let response = Refusal::from_store(&busy, maps, "").into_response();
        assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (429, &"1".parse().unwrap()));
    }
}
