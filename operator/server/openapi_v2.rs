//! The OpenAPI v2 document that kubectl before 1.29 requests in protobuf: the kinds that can be patched, and
//! the query parameters. It has no fields, because the server validates objects.

use serde_json::json;

use crate::api::registry;
use crate::api::resource::Resource;

/// The media type that clients request has an `@`, which is not a valid media type; some clients fail on it
/// in the response.
pub const CONTENT_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The document, in gnostic's encoding.
pub fn document() -> Vec<u8> {
    let info = [text(1, "Evenkeel"), text(2, env!("CARGO_PKG_VERSION"))].concat();
    let paths: Vec<u8> = registry::resources().iter().flat_map(|resource| field(2, &path(resource))).collect();
    [text(1, "2.0"), field(2, &info), field(8, &paths), field(9, &[])].concat()
}

/// A NamedPathItem with a patch.
fn path(resource: &Resource) -> Vec<u8> {
    let root = if resource.group.is_empty() { "api" } else { "apis" };
    let place = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
    let name = format!("/{root}/{}/{place}{}/{{name}}", resource.api_version(), resource.plural);
    let parameters = ["dryRun", "fieldManager", "fieldValidation", "force"].into_iter().flat_map(parameter);
    let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
    let extension = [text(1, "x-kubernetes-group-version-kind"), field(2, &text(2, &kind.to_string()))].concat();
    let patch = parameters.chain(field(13, &extension)).collect::<Vec<u8>>();
    [text(1, &name), field(2, &field(8, &patch))].concat()
}

/// A query parameter of an operation.
fn parameter(name: &str) -> Vec<u8> {
    let query = [text(2, "query"), text(4, name), text(6, "string")].concat();
    // ParametersItem.parameter, Parameter.non_body_parameter, NonBodyParameter.query_parameter_sub_schema.
    field(8, &field(1, &field(2, &field(3, &query))))
}

fn text(number: u8, text: &str) -> Vec<u8> {
    field(number, text.as_bytes())
}

/// A length-delimited field of a protobuf message; its number is below 16.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length > 0x7f {
        out.push(length as u8 & 0x7f | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
    out
}
