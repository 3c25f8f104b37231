//! The Kubernetes API over the store: HTTPS and a unix socket, users and roles, every kind of the registry. It makes no
//! decisions.

pub mod access;
pub mod administrator;
mod admission;
pub mod apply;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod body;
mod claims;
pub mod cluster;
pub mod containers;
mod credentials;
pub mod deletion;
pub mod discovery;
mod dispatch;
pub mod doors;
pub mod eviction;
pub mod exec;
pub mod fields;
mod holder;
pub mod identity;
mod joining;
pub mod limits;
pub mod logs;
pub mod metadata;
pub mod namespaces;
mod nodes;
pub mod objects;
pub mod openapi;
pub mod openapi_v2;
pub mod paging;
pub mod params;
pub mod patch;
mod patient;
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
use std::time::Duration;

use axum::Router;
use futures::future::BoxFuture;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::api::core::DEFAULT_NAMESPACE;
use crate::api::pod_security::Level;
use crate::store::events::{NewEvent, Severity};
use crate::store::snapshots::Snapshots;
use crate::store::{self, Clock, Objects, Views};
use access::Access;
use audit::Audit;
use cluster::Cluster;
use containers::Containers;
use doors::Doors;
use identity::administrator::Admin;
use identity::{Authority, Identity};

/// Plans an object without acting, for `evenkeel plan`; the server itself imports no planner.
pub type Planner = Arc<dyn Fn(serde_json::Value) -> BoxFuture<'static, serde_json::Value> + Send + Sync>;

/// Grace for the last lines of the audit log.
const DRAIN_TIME: Duration = Duration::from_secs(1);
/// What the API has from the rest of the operator besides the objects; in tests it may have nothing.
#[derive(Default)]
pub struct Behind {
    /// Plans objects.
    pub planner: Option<Planner>,
    /// Access to containers.
    pub containers: Option<Arc<dyn Containers>>,
    /// The Pod Security level of a new namespace that names none.
    pub default_level: Level,
    /// The other operators, if there may be some.
    pub cluster: Option<Cluster>,
    /// Copies of the store.
    pub snapshots: Option<Arc<Snapshots>>,
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
    cluster: Option<Cluster>,
    snapshots: Option<Arc<Snapshots>>,
    /// Locked while an object that takes names in Docker is created.
    claims: tokio::sync::Mutex<()>,
    limits: limits::Limits,
    audit: Option<Arc<Audit>>,
    /// Who may do what.
    access: Access,
    authority: Authority,
    stop: CancellationToken,
}

/// Serves the API at its doors until `shutdown`; then ends open watches and finishes requests under way. A closed port is
/// opened when that is possible, and an Event of the default namespace says why it is closed.
///
/// [`identity::prepare`] must have written the kubeconfig before this is called. The default namespace is created
/// before the first request is served.
pub async fn run(
    doors: Doors,
    identity: Identity,
    objects: Objects,
    clock: Arc<dyn Clock>,
    behind: Behind,
    shutdown: CancellationToken,
) -> Result<(), store::Error> {
    let objects = Objects::new(Arc::new(Views::new(objects.store().clone())), clock.clone());
    let prepared = store::patiently(|| prepare(&objects, &identity.admin));
    let Some(prepared) = shutdown.run_until_cancelled(prepared).await else { return Ok(()) };
    let access = prepared?;
    let emptying = tokio::spawn(namespaces::keep_emptying(objects.clone(), shutdown.clone()));
    let Doors { address, tcp, unix, audit, .. } = doors;
    let (audit, writing) = audit.map(|(audit, writing)| (Arc::new(audit), writing)).unzip();
    let (authority, stop) = (identity.authority, shutdown.clone());
    let (claims, limits) = Default::default();
    let Behind { planner, containers, default_level, cluster, snapshots } = behind;
    let server = Arc::new(Server {
        objects,
        clock,
        containers,
        planner,
        default_level,
        cluster,
        snapshots,
        claims,
        limits,
        audit,
        access,
        authority,
        stop,
    });
    if let Some(cluster) = &server.cluster
        && let Err(error) = administrator::follow(&server, &cluster.administrator).await
    {
        tracing::warn!(error = %crate::api::chain::chain(&error), "the administrator's token is that of the files");
    }
    let following = tokio::spawn({
        let (server, stop) = (server.clone(), shutdown.clone());
        async move { server.access.follow(stop).await }
    });
    let naming = tokio::spawn({
        let (server, stop) = (server.clone(), shutdown.clone());
        let work = async move { tokio::join!(nodes::keep(&server), administrator::keep(&server)) };
        async move { stop.run_until_cancelled(work).await }
    });
    let router = Router::new().fallback(dispatch::answer).with_state(server.clone());
    let port = async {
        let opened = async {
            match tcp {
                Some(listener) => listener,
                None => doors::opened(address, |why| port_is_closed(&server, why)).await,
            }
        };
        let listener = tokio::select! {
            () = shutdown.cancelled() => return,
            listener = opened => tls::Listener::Tcp(listener, identity.tls),
        };
        tls::accept(tls::MAX_REMOTE, listener, router.clone(), shutdown.clone()).await;
    };
    let socket = async {
        if let Some(listener) = unix {
            tls::accept(tls::MAX_LOCAL, tls::Listener::Unix(listener), router.clone(), shutdown.clone()).await;
        }
    };
    tokio::join!(port, socket);
    // The tasks have the same token; a panic in one has been logged.
    let _ = emptying.await;
    let _ = following.await;
    let _ = naming.await;
    drop((router, server));
    if let Some(writing) = writing {
        // It ends after the last line, unless a request goes on.
        let _ = timeout(DRAIN_TIME, writing).await;
    }
    Ok(())
}

/// Makes what every request needs, and reads who may do what.
async fn prepare(objects: &Objects, admin: &Admin) -> Result<Access, store::Error> {
    namespaces::prepare(objects).await?;
    Access::start(objects.clone(), admin.clone()).await
}

/// Tells why the port is closed.
async fn port_is_closed(server: &Server, why: String) {
    let message = format!("the API is closed, everything else runs: {why}");
    warn(&server.objects, server.clock.now(), "PortClosed", message).await;
}

/// Tells a problem of the operator itself, in the log and as an Event of the default namespace.
pub async fn warn(objects: &Objects, at: jiff::Timestamp, reason: &str, message: String) {
    tracing::error!("{message}");
    let event = NewEvent { severity: Severity::Warning, reason: reason.to_owned(), message, at };
    let told = async {
        if let Some(namespace) = objects.store().get(&namespaces::key(DEFAULT_NAMESPACE)).await? {
            objects.record_event(&namespace, &event).await?;
        }
        Ok::<_, store::Error>(())
    };
    if let Err(error) = told.await {
        tracing::warn!(%error, "an event could not be recorded");
    }
}
