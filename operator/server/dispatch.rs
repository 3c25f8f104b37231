//! Dispatch of each request: who sends it, what it wants, whether that is allowed, and the file that answers. Top of the room: no other
//! file imports it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderName, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::time::timeout;

use super::access::{self, Permit};
use super::audit::Asked;
use super::authn::{self, user::User};
use super::authz::attributes::Attributes;
use super::authz::{self, Verdict, answers, builtin};
use super::credentials::Credential;
use super::limits::{Caller, Stream};
use super::params::Params;
use super::peer::Peer;
use super::request::Request;
use super::routes::{self, Part, Route, Target};
use super::status::Refusal;
use super::tls::Guest;
use super::view::{self, View};
use super::{
    Server, body, cluster, deletion, discovery, eviction, exec, logs, openapi_v2, port_forward, tokens, watch,
};
use crate::api::chain::chain;
use crate::runtime::clock::instant;

/// Path of plans: POST `{"object": {...}}`.
const PLAN: &str = "/evenkeel/v1/plan";
/// Header with the number of a request in the audit log.
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// Time-out of an answer, or of the head of one that streams.
const ANSWER_TIME: Duration = Duration::from_secs(60);

/// Answers one HTTP request.
pub async fn answer(State(server): State<Arc<Server>>, request: axum::extract::Request) -> Response {
    // Without an end of the connection, nobody is there.
    let nobody = || Peer::Tcp { address: ([0, 0, 0, 0], 0).into(), certificates: Arc::new([]) };
    let peer = request.extensions().get::<Peer>().cloned().unwrap_or_else(nobody);
    let mut asked = Asked::new(&request, peer, server.clock.as_ref(), server.audit.clone());
    let late = || Err(Refusal::timeout(format!("there was no answer within {} s", ANSWER_TIME.as_secs())));
    let answered = timeout(ANSWER_TIME, dispatch(&server, request, &mut asked)).await.unwrap_or_else(|_| late());
    let mut response = answered.unwrap_or_else(IntoResponse::into_response);
    asked.code = Some(response.status());
    if let Ok(id) = asked.id.parse() {
        response.headers_mut().insert(AUDIT_ID, id);
    }
    response
}

async fn dispatch(server: &Server, request: axum::extract::Request, asked: &mut Asked) -> Result<Response, Refusal> {
    let (mut parts, body) = request.into_parts();
    let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let guest = parts.extensions.remove::<Arc<Guest>>().ok_or_else(|| Refusal::internal("no connection"))?;
    let state = server.access.now();
    asked.user = authn::authenticate(&state.tokens, &parts.headers, &asked.peer, server.clock.now());
    let caller = match &asked.user {
        Some(user) => Caller::User(user.name.clone()),
        None => Caller::Stranger(asked.peer.origin()),
    };
    let now = instant();
    // Whoever can open the socket can stop the operator, too.
    if !matches!(asked.peer, Peer::Unix { .. }) {
        server.limits.admit(&caller, now)?;
    }
    let route = routes::parse(parts.uri.path());
    if let Ok(open @ (Route::Health | Route::Version)) = &route {
        return match open {
            Route::Health => Ok(health(server).await),
            _ => discovery::answer(open).map(|json| axum::Json(json).into_response()),
        };
    }
    let user = asked.user.clone().ok_or_else(Refusal::unauthorized)?;
    guest.is_known();
    answers::impersonates(&parts.headers)?;
    // Until the answer: its body stays in memory.
    let _body = match parts.method {
        Method::GET => None,
        _ => Some(server.limits.body(&caller, now).await),
    };
    if let Some(planner) = server.planner.as_ref().filter(|_| parts.uri.path() == PLAN && parts.method == Method::POST)
    {
        let body = body::read(body).await?;
        let sent = body::json(&body)?.value;
        // A plan shows what is there, too.
        for verb in ["get", "create"] {
            authorize(server, asked, &user, Attributes::of_plan(verb, &sent["object"]))?;
        }
        return Ok(axum::Json(planner(sent["object"].clone()).await).into_response());
    }
    if let Some(credential) = Credential::asked(&parts.method, parts.uri.path()) {
        authorize(server, asked, &user, credential.attributes())?;
        recorded(server, asked).await?;
        return credential.make(server, &body::read(body).await?).await;
    }
    if let Some(ask) = cluster::Ask::asked(&parts.method, parts.uri.path()) {
        authorize(server, asked, &user, ask.attributes())?;
        recorded(server, asked).await?;
        return ask.answer(server, &body::read(body).await?).await;
    }
    let params = Params::parse(&parts.uri)?;
    let attributes = Attributes::of(&route, &parts.method, &params, parts.uri.path());
    let permit = authorize(server, asked, &user, attributes)?;
    let target = match route? {
        Route::Objects(target) => target,
        Route::Review { review, namespace } if parts.method == Method::POST => {
            let sent = body::object(&parts.headers, &body::read(body).await?)?;
            let answer = answers::answer(review, namespace.as_deref(), &sent.value, &state.rules, &user)?;
            return Ok(view::answer(StatusCode::CREATED, &answer, &[]));
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
    recorded(server, asked).await?;
    if let Some(stream) = stream(&target, &parts.method, &params)? {
        guest.streams(server.limits.stream(&caller, stream, now)?);
    }
    let body = match parts.method {
        Method::GET => Bytes::new(),
        _ => body::read(body).await?,
    };
    let decides = parts.method != Method::GET && access::decides(&target.resource.qualified());
    let request = Request { server, permit, target, params, headers: parts.headers, body, view: shown, guest, upgrade };
    let answer = serve(request, &parts.method).await;
    if decides {
        // Whoever reads this answer finds it in force.
        server.access.refresh().await.map_err(|error| Refusal::internal(chain(&error)))?;
    }
    answer
}

/// Nothing is changed without a line in the audit log, if that is required.
async fn recorded(server: &Server, asked: &Asked) -> Result<(), Refusal> {
    match &server.audit {
        Some(audit) => audit.permits(asked).await,
        None => Ok(()),
    }
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

/// The wall: the only place where a request is judged.
fn authorize(server: &Server, asked: &mut Asked, user: &User, attributes: Attributes) -> Result<Permit, Refusal> {
    let verdict = authz::allowed(&server.access.now().rules, user, &attributes);
    let refused = (verdict == Verdict::Deny).then(|| attributes.refusal(&user.name));
    asked.attributes = Some(attributes.clone());
    asked.verdict = Some(verdict);
    match refused {
        Some(refusal) => Err(refusal),
        None => Ok(server.access.permit(user.clone(), attributes, server.clock.clone())),
    }
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
        return Err(Refusal::forbidden("the status is written by the operator alone; change the spec instead"));
    }
    if method != Method::GET && builtin::is_builtin(&request.key()) {
        let name = request.key().name;
        return Err(Refusal::forbidden(format!(
            "{name:?} always exists and cannot be changed; create another and bind it"
        )));
    }
    let named = request.target.name.is_some();
    match (method.as_str(), named, request.target.part) {
        ("GET", _, Part::Main) if request.params.flag("watch")? => watch::serve(request).await,
        ("GET", true, _) => request.get().await,
        ("GET", false, _) => {
            request.params.check_list()?;
            request.list().await
        }
        ("POST" | "PUT" | "PATCH", _, _) if tokens::are(request.target.resource) => {
            tokens::serve(request, method).await
        }
        ("POST", false, _) => request.create().await,
        ("PUT", true, _) => request.replace().await,
        ("PATCH", true, _) => request.patch().await,
        ("DELETE", _, Part::Main) => deletion::serve(request).await,
        _ => Err(Refusal::method_not_allowed()),
    }
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
