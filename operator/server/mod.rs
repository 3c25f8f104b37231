//! The Kubernetes API over the store: HTTPS, one token, every kind of the registry. No decisions are made here.

pub mod apply;
pub mod body;
pub mod containers;
pub mod deletion;
pub mod discovery;
pub mod exec;
pub mod identity;
pub mod logs;
pub mod metadata;
pub mod namespaces;
pub mod objects;
pub mod openapi;
pub mod openapi_v2;
pub mod params;
pub mod patch;
pub mod routes;
pub mod scale;
pub mod selectors;
pub mod shape;
pub mod status;
pub mod strategic;
pub mod table;
pub mod tls;
pub mod validate;
pub mod view;
pub mod watch;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures::future::BoxFuture;
use subtle::ConstantTimeEq as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::store::{self, Clock, Objects, Views};
use containers::Containers;
use identity::Identity;
use params::Params;
use routes::Route;
use status::Refusal;
use view::View;

/// Where a plan is asked for: POST `{"object": {...}}`.
const PLAN: &str = "/evenkeel/v1/plan";

/// Answers with what the operator would do about an object; the server itself knows no planner.
pub type Planner = Arc<dyn Fn(serde_json::Value) -> BoxFuture<'static, serde_json::Value> + Send + Sync>;

/// Everything that a request needs.
pub struct Server {
    /// The objects.
    pub objects: Objects,
    /// For ages and dates.
    pub clock: Arc<dyn Clock>,
    /// The way to containers.
    pub containers: Option<Arc<dyn Containers>>,
    planner: Option<Planner>,
    token: String,
    stop: CancellationToken,
}

/// Serves the API on `listener` until `shutdown`; open watches are then ended and requests under way finished.
///
/// The kubeconfig was written by [`identity::prepare`] before this is called, and the default namespace is made
/// before the first request is served.
pub async fn run(
    listener: TcpListener,
    identity: Identity,
    objects: Objects,
    clock: Arc<dyn Clock>,
    planner: Option<Planner>,
    containers: Option<Arc<dyn Containers>>,
    shutdown: CancellationToken,
) -> Result<(), store::Error> {
    let objects = Objects::new(Arc::new(Views::new(objects.store().clone())), clock.clone());
    namespaces::ensure_default(&objects).await?;
    let emptying = tokio::spawn(namespaces::keep_emptying(objects.clone(), shutdown.clone()));
    let server =
        Arc::new(Server { objects, clock, containers, planner, token: identity.token, stop: shutdown.clone() });
    let router = Router::new().fallback(answer).with_state(server);
    tls::accept(listener, identity.tls, router, shutdown).await;
    // It has the same token; a panic in it has been logged.
    let _ = emptying.await;
    Ok(())
}

async fn answer(State(server): State<Arc<Server>>, request: Request) -> Response {
    match dispatch(&server, request).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    }
}

async fn dispatch(server: &Server, request: Request<Body>) -> Result<Response, Refusal> {
    let (mut parts, body) = request.into_parts();
    let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
    let route = routes::parse(parts.uri.path());
    if let Ok(open @ (Route::Health | Route::Version)) = &route {
        return match open {
            Route::Health => Ok(health(server).await),
            _ => discovery::answer(open).map(|json| axum::Json(json).into_response()),
        };
    }
    if !server.knows(&parts.headers) {
        return Err(Refusal::unauthorized());
    }
    if let Some(planner) = server.planner.as_ref().filter(|_| parts.uri.path() == PLAN && parts.method == Method::POST)
    {
        let body = body::read(body).await?;
        let asked: serde_json::Value =
            serde_json::from_slice(&body).map_err(|error| Refusal::bad_request(format!("not JSON: {error}")))?;
        return Ok(axum::Json(planner(asked["object"].clone()).await).into_response());
    }
    let params = Params::parse(&parts.uri)?;
    let target = match route? {
        Route::Objects(target) => target,
        Route::OpenApiV2 if parts.method == Method::GET => {
            return Ok(([(header::CONTENT_TYPE, openapi_v2::CONTENT_TYPE)], openapi_v2::document()).into_response());
        }
        other if parts.method == Method::GET => {
            return discovery::answer(&other).map(|json| axum::Json(json).into_response());
        }
        _ => return Err(Refusal::method_not_allowed()),
    };
    let view = match target.part {
        // Those answer in a form of their own.
        routes::Part::Log | routes::Part::Exec => View::Whole,
        _ => View::negotiate(&parts.headers, &params)?,
    };
    let body = if parts.method == Method::GET { Bytes::new() } else { body::read(body).await? };
    let request = objects::Request { server, target, params, headers: parts.headers, body, view, upgrade };
    request.serve(&parts.method).await
}

impl Server {
    /// Whether the request carries our token.
    fn knows(&self, headers: &HeaderMap) -> bool {
        let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token =
            sent.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        token.is_some_and(|(_, token)| token.trim().as_bytes().ct_eq(self.token.as_bytes()).into())
    }
}

/// Healthy while the store answers.
async fn health(server: &Server) -> Response {
    match server.objects.store().revision().await {
        Ok(_) => (StatusCode::OK, "ok").into_response(),
        Err(error) => {
            tracing::warn!(%error, "the store does not answer");
            (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer").into_response()
        }
    }
}
