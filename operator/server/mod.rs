//! The Kubernetes API over the store: HTTPS, users and roles, every kind of the registry. It makes no decisions.

pub mod access;
mod admission;
pub mod apply;
pub mod authn;
pub mod authz;
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
pub mod peer;
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
mod tokens;
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
use access::Access;
use authn::tokens::hash;
use containers::Containers;
use identity::Identity;

/// Plans an object without acting, for `evenkeel plan`; the server itself imports no planner.
pub type Planner = Arc<dyn Fn(serde_json::Value) -> BoxFuture<'static, serde_json::Value> + Send + Sync>;

/// What the API has from the rest of the operator besides the objects; in tests it may have nothing.
#[derive(Default)]
pub struct Behind {
    /// Plans objects.
    pub planner: Option<Planner>,
    /// Access to containers.
    pub containers: Option<Arc<dyn Containers>>,
    /// The Pod Security level of a new namespace that names none.
    pub default_level: Level,
}

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
    /// Who may do what.
    access: Access,
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
    behind: Behind,
    shutdown: CancellationToken,
) -> Result<(), store::Error> {
    let objects = Objects::new(Arc::new(Views::new(objects.store().clone())), clock.clone());
    namespaces::prepare(&objects).await?;
    let emptying = tokio::spawn(namespaces::keep_emptying(objects.clone(), shutdown.clone()));
    let admin = vec![(hash(&identity.token), None)];
    let (access, stop) = (Access::start(objects.clone(), admin).await?, shutdown.clone());
    let claims = tokio::sync::Mutex::default();
    let Behind { planner, containers, default_level } = behind;
    let server = Arc::new(Server { objects, clock, containers, planner, default_level, claims, access, stop });
    let following = tokio::spawn({
        let (server, stop) = (server.clone(), shutdown.clone());
        async move { server.access.follow(stop).await }
    });
    let router = Router::new().fallback(dispatch::answer).with_state(server);
    tls::accept(listener, identity.tls, router, shutdown).await;
    // The tasks have the same token; a panic in one has been logged.
    let _ = emptying.await;
    let _ = following.await;
    Ok(())
}
