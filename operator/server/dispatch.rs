//! Dispatch of each request: authentication, parsing, and the file that answers. Top of the room: no other
//! file imports it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq as _;
use tokio::time::timeout;

use super::limits::{Caller, Stream};
use super::params::Params;
use super::peer::Peer;
use super::request::Request;
use super::routes::{self, Part, Route, Target};
use super::status::Refusal;
use super::tls::Guest;
use super::view::{self, View};
use super::{Server, body, deletion, discovery, eviction, exec, logs, openapi_v2, port_forward, reviews, watch};
use crate::runtime::clock::instant;

/// Path of plans: POST `{"object": {...}}`.
const PLAN: &str = "/evenkeel/v1/plan";
/// The name of the one user.
const ADMIN: &str = "admin";
/// Time-out of an answer, or of the head of one that streams.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// Answers one HTTP request.
pub async fn answer(State(server): State<Arc<Server>>, request: axum::extract::Request) -> Response {
    let late = || Err(Refusal::timeout(format!("there was no answer within {} s", ANSWER_TIME.as_secs())));
    let answered = timeout(ANSWER_TIME, dispatch(&server, request)).await.unwrap_or_else(|_| late());
    answered.unwrap_or_else(IntoResponse::into_response)
}

async fn dispatch(server: &Server, request: axum::extract::Request) -> Result<Response, Refusal> {
    let (mut parts, body) = request.into_parts();
    let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let (Some(guest), Some(peer)) = (parts.extensions.remove::<Arc<Guest>>(), parts.extensions.remove::<Peer>()) else {
        return Err(Refusal::internal("the connection is not known"));
    };
    let now = instant();
    let known = matches!(peer, Peer::Unix { uid: 0 }) || authenticated(server, &parts.headers);
    let caller = if known { Caller::User(ADMIN.to_owned()) } else { Caller::Stranger(peer.origin()) };
    // Whoever can open the socket is root.
    if !matches!(peer, Peer::Unix { .. }) {
        server.limits.admit(&caller, now)?;
    }
    let route = routes::parse(parts.uri.path());
    if let Ok(open @ (Route::Health | Route::Version)) = &route {
        return match open {
            Route::Health => Ok(health(server).await),
            _ => discovery::answer(open).map(|json| axum::Json(json).into_response()),
        };
    }
    if !known {
        return Err(Refusal::unauthorized());
    }
    guest.is_known();
    reviews::impersonates(&parts.headers)?;
    if let Some(planner) = server.planner.as_ref().filter(|_| parts.uri.path() == PLAN && parts.method == Method::POST)
    {
        let body = body::read(body).await?;
        let asked = body::json(&body)?.value;
        return Ok(axum::Json(planner(asked["object"].clone()).await).into_response());
    }
    let params = Params::parse(&parts.uri)?;
    let target = match route? {
        Route::Objects(target) => target,
        Route::Review(review) if parts.method == Method::POST => {
            let asked = body::object(&parts.headers, &body::read(body).await?)?;
            return Ok(view::answer(StatusCode::CREATED, &reviews::answer(review, &asked.value)?, &[]));
        }
        Route::OpenApiV2 if parts.method == Method::GET => {
            return Ok(([(header::CONTENT_TYPE, openapi_v2::CONTENT_TYPE)], openapi_v2::document()).into_response());
        }
        other if parts.method == Method::GET => {
            return discovery::answer(&other).map(|json| axum::Json(json).into_response());
        }
        _ => return Err(Refusal::method_not_allowed()),
    };
    let shown = match target.part {
        // Logs are text, and the others turn the connection into another protocol.
        Part::Log | Part::Exec | Part::Attach | Part::PortForward => View::Whole,
        _ => View::negotiate(&parts.headers, &params)?,
    };
    if let Some(stream) = stream(&target, &parts.method, &params)? {
        guest.streams(server.limits.stream(&caller, stream, now)?);
    }
    let (_writing, body) = match parts.method {
        Method::GET => (None, Bytes::new()),
        _ => (Some(server.limits.write(&caller, now).await), body::read(body).await?),
    };
    let request = Request { server, target, params, headers: parts.headers, body, view: shown, guest, upgrade };
    serve(request, &parts.method).await
}

/// The kind of stream that a request opens.
fn stream(target: &Target, method: &Method, params: &Params) -> Result<Option<Stream>, Refusal> {
    Ok(match target.part {
        Part::Exec | Part::Attach | Part::PortForward => Some(Stream::Session),
        Part::Log => Some(Stream::Watch),
        Part::Main if method == Method::GET && params.flag("watch")? => Some(Stream::Watch),
        _ => None,
    })
}

/// Dispatches a request for objects to its handler.
async fn serve(request: Request<'_>, method: &Method) -> Result<Response, Refusal> {
    match (method.as_str(), request.target.part) {
        ("GET", Part::Log) => return logs::serve(request).await,
        // POST is SPDY, which exec and attach refuse with a message.
        ("GET" | "POST", Part::Exec | Part::Attach) => return exec::serve(request).await,
        ("GET" | "POST", Part::PortForward) => return port_forward::serve(request).await,
        ("POST", Part::Eviction) => return eviction::serve(request).await,
        (_, Part::Log | Part::Exec | Part::Attach | Part::PortForward | Part::Eviction) => {
            return Err(Refusal::method_not_allowed());
        }
        (_, Part::Main | Part::Status | Part::Scale) => {}
    }
    let writes = !matches!(method.as_str(), "GET" | "DELETE");
    let changes = matches!(method.as_str(), "PUT" | "PATCH");
    if let Some(view) = request.target.resource.view.as_ref()
        && writes
        && !(changes && view.is_writable())
    {
        return Err(Refusal::not_allowed(view.instead));
    }
    if request.target.part == Part::Status && method != Method::GET {
        return Err(Refusal::not_allowed("the status is written by the operator alone; change the spec instead"));
    }
    let named = request.target.name.is_some();
    match (method.as_str(), named, request.target.part) {
        ("GET", _, Part::Main) if request.params.flag("watch")? => watch::serve(request).await,
        ("GET", true, _) => request.get().await,
        ("GET", false, _) => {
            request.params.check_list()?;
            request.list().await
        }
        ("POST", false, _) => request.create().await,
        ("PUT", true, _) => request.replace().await,
        ("PATCH", true, _) => request.patch().await,
        ("DELETE", _, Part::Main) => deletion::serve(request).await,
        _ => Err(Refusal::method_not_allowed()),
    }
}

/// Whether the request carries the server's token.
fn authenticated(server: &Server, headers: &HeaderMap) -> bool {
    let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token =
        sent.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    token.is_some_and(|(_, token)| token.trim().as_bytes().ct_eq(server.token.as_bytes()).into())
}

/// Healthy if the store answers.
async fn health(server: &Server) -> Response {
    match server.objects.store().revision().await {
        Ok(_) => (StatusCode::OK, "ok").into_response(),
        Err(error) => {
            tracing::warn!(%error, "the store does not answer");
            (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer").into_response()
        }
    }
}
