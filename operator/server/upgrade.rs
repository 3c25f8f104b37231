//! Requests that turn their connection into another protocol: a WebSocket, or SPDY.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;

use crate::api::websocket;

/// Whether the client requests this protocol.
pub fn asks_for(headers: &HeaderMap, protocol: &str) -> bool {
    text(headers, header::UPGRADE).eq_ignore_ascii_case(protocol)
}

/// The first of the known subprotocols that the client offers for its WebSocket.
pub fn subprotocol(headers: &HeaderMap, known: &[&'static str]) -> Option<&'static str> {
    let offers = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let offers: Vec<&str> = offers.flat_map(|value| value.split(',')).map(str::trim).collect();
    known.iter().find(|one| offers.contains(one)).copied()
}

/// The response before a WebSocket.
pub fn to_websocket(headers: &HeaderMap, protocol: &'static str) -> Response {
    let mut response = to("websocket", header::SEC_WEBSOCKET_PROTOCOL, protocol);
    let key = text(headers, header::SEC_WEBSOCKET_KEY);
    if let Ok(accept) = websocket::derive_accept_key(key.as_bytes()).parse() {
        response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// The response before another protocol; `name` is the header that names the subprotocol.
pub fn to(upgrade: &'static str, name: HeaderName, protocol: &'static str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(upgrade));
    headers.insert(name, HeaderValue::from_static(protocol));
    response
}

fn text(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}
