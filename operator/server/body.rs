//! Reading request bodies: JSON or YAML, up to a limit.

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, header};
use serde_json::Value;

use super::protobuf;
use super::status::Refusal;

/// Limit of a request body, in bytes.
pub const LIMIT: usize = 3 * 1024 * 1024;

/// The complete body; 413 if it is larger than the limit.
pub async fn read(body: Body) -> Result<Bytes, Refusal> {
    // The only other failure is a client that disconnected, which reads no response.
    to_bytes(body, LIMIT).await.map_err(|_| Refusal::too_large(LIMIT))
}

/// The object in the body, by its content type: JSON, YAML, or JSON if there is no content type.
pub fn object(headers: &HeaderMap, body: &[u8]) -> Result<Value, Refusal> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let value = match content_type.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" | "*/*" => json(body)?,
        "application/yaml" | "text/yaml" | "application/x-yaml" => yaml(body)?,
        protobuf::CONTENT_TYPE => protobuf::object(body)?,
        _ => return Err(Refusal::unsupported_media_type(&["application/json", "application/yaml"])),
    };
    if value.is_object() { Ok(value) } else { Err(Refusal::bad_request("the body must be an object")) }
}

/// Any JSON value.
pub fn json(body: &[u8]) -> Result<Value, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::bad_request(format!("the body is not valid JSON: {error}")))
}

/// Any YAML value (JSON is YAML).
pub fn yaml(body: &[u8]) -> Result<Value, Refusal> {
    if let Ok(value) = serde_json::from_slice(body) {
        return Ok(value);
    }
    let text = std::str::from_utf8(body).map_err(|_| Refusal::bad_request("the body is not UTF-8"))?;
    serde_saphyr::from_str(text).map_err(|error| Refusal::bad_request(format!("the body is not valid YAML: {error}")))
}
