//! The Kubernetes API over the store: HTTPS, one token, every kind of the registry. It makes no decisions.

mod admission;
pub mod apply;
pub mod body;
mod claims;
pub mod containers;
pub mod deletion;
pub mod discovery;
mod dispatch;
pub mod eviction;
pub mod exec;
pub mod fields;
pub mod identity;
pub mod logs;
pub mod metadata;
pub mod namespaces;
pub mod objects;
pub mod openapi;
pub mod openapi_v2;
pub mod paging;
pub mod params;
pub mod patch;
pub mod port_forward;
pub mod protobuf;
pub mod request;
pub mod reviews;
pub mod routes;
pub mod scale;
pub mod schema;
pub mod selectors;
pub mod shape;
mod spdy;
pub mod status;
pub mod strategic;
pub mod table;
pub mod tls;
mod upgrade;
pub mod validate;
pub mod view;
pub mod watch;

use std::sync::Arc;

use axum::Router;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::pod_security::Level;
use crate::store::{self, Clock, Objects, Views};
use containers::Containers;
use identity::Identity;

/// Plans an object without acting, for `evenkeel plan`; the server itself imports no planner.
pub type Planner = Arc<dyn Fn(serde_json::Value) -> BoxFuture<'static, serde_json::Value> + Send + Sync>;

/// The dependencies of every request.
pub struct Server {
    /// The objects.
    pub objects: Objects,
    /// The clock, for ages and dates.
    pub clock: Arc<dyn Clock>,
    /// Access to containers.
    pub containers: Option<Arc<dyn Containers>>,
    planner: Option<Planner>,
    /// The Pod Security level of a new namespace that names none.
    default_level: Level,
    /// Locked while an object that takes names in Docker is created.
    claims: tokio::sync::Mutex<()>,
    token: String,
    stop: CancellationToken,
}

/// Serves the API on `listener` until `shutdown`; then ends open watches and finishes requests under way.
///
/// [`identity::prepare`] must have written the kubeconfig before this is called. The default namespace is created
/// before the first request is served.
pub async fn run(
    listener: TcpListener,
    identity: Identity,
    objects: Objects,
    clock: Arc<dyn Clock>,
    planner: Option<Planner>,
    containers: Option<Arc<dyn Containers>>,
    default_level: Level,
    shutdown: CancellationToken,
) -> Result<(), store::Error> {
    let objects = Objects::new(Arc::new(Views::new(objects.store().clone())), clock.clone());
    namespaces::prepare(&objects).await?;
    let emptying = tokio::spawn(namespaces::keep_emptying(objects.clone(), shutdown.clone()));
    let (token, stop) = (identity.token, shutdown.clone());
    let claims = tokio::sync::Mutex::default();
    let server = Arc::new(Server { objects, clock, containers, planner, default_level, claims, token, stop });
    let router = Router::new().fallback(dispatch::answer).with_state(server);
    tls::accept(listener, identity.tls, router, shutdown).await;
    // The task has the same token; a panic in it has been logged.
    let _ = emptying.await;
    Ok(())
}
