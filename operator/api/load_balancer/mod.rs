//! LoadBalancer: HAProxy or nginx in front of services.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::duration::Span;
use super::endpoints::EndpointRole;
use super::resources::Resources;

mod status;
mod validate;

pub use status::*;
pub use validate::split_address;

/// Replicas of HAProxy or nginx, and the backends they route to.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "evenkeel.dev",
    version = "v1alpha1",
    kind = "LoadBalancer",
    plural = "loadbalancers",
    shortname = "lb",
    category = "all",
    namespaced,
    status = "LoadBalancerStatus",
    derive = "PartialEq",
    doc = "Replicas of HAProxy or nginx, and the backends they route to.",
    printcolumn = r#"{"name":"Engine","type":"string","jsonPath":".spec.engine"}"#,
    printcolumn = r#"{"name":"Replicas","type":"integer","jsonPath":".spec.replicas"}"#,
    printcolumn = r#"{"name":"Ready","type":"integer","jsonPath":".status.readyReplicas"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Reloads","type":"integer","jsonPath":".status.reloads","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadBalancerSpec {
    /// `haproxy` (default) or `nginx`.
    #[serde(default)]
    pub engine: EngineKind,
    /// Number of balancers, all with the same configuration. 1 to 9.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 9))]
    pub replicas: u32,
    /// Image like the official one. Default `haproxy:2.6` or `nginx:1.22`. HAProxy 2.6 or newer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The hosts that balancers may be on.
    #[serde(default, skip_serializing_if = "Placement::is_default")]
    pub placement: Placement,
    /// Address on which host ports are published; `Host`: `spec.address` of the DockerHost that a balancer is on.
    #[serde(default = "loopback")]
    pub bind_address: String,
    /// Limits of each balancer. Default: it may use all that the Docker host has.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// Ports to listen on.
    #[schemars(length(min = 1))]
    pub frontends: Vec<Frontend>,
    /// Groups of servers to route to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
    /// A statistics page, protected by the password in the Secret `NAME-stats`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<Stats>,
    /// Limit of concurrent client connections per balancer; more wait.
    #[serde(default = "connections")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_connections: u32,
    /// Limits of the processes that reloads leave behind.
    #[serde(default, skip_serializing_if = "Reload::is_default")]
    pub reload: Reload,
}

fn one() -> u32 {
    1
}

fn loopback() -> String {
    "127.0.0.1".into()
}

fn connections() -> u32 {
    8_000
}

/// The hosts that balancers may be on. As long as there are as many hosts as balancers, each host has one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Placement {
    /// Labels that the DockerHost must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
}

impl Placement {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Limits of the processes that a reload leaves behind, because they still have connections.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Reload {
    /// Most old processes per balancer. If a reload would leave more, it ends the oldest, with their connections.
    /// Default 4; for nginx, where a reload leaves two, 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 50))]
    pub old_processes: Option<u32>,
    /// How long an old process may finish its connections; then they are closed. Default 1h; for nginx the longest
    /// `drainTimeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
}

impl Reload {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The load balancer program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum EngineKind {
    /// HAProxy.
    #[default]
    Haproxy,
    /// nginx.
    Nginx,
}

/// A port to listen on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Frontend {
    /// Its name: lower-case letters, digits and `-`.
    pub name: String,
    /// The port in the balancer's container.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// `http` (default) or `tcp`.
    #[serde(default)]
    pub mode: Mode,
    /// Terminates TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Redirects every client to the same address with https. Instead of a backend.
    #[serde(default)]
    pub redirect_to_https: bool,
    /// The port to redirect to. Default: the port of the only frontend with TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_port: Option<u16>,
    /// Name of the backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Publishes the port on the Docker host. Further balancers on the same host get `hostPort + 1`, `hostPort + 2`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// Timeouts for clients.
    #[serde(default, skip_serializing_if = "FrontendTimeouts::is_default")]
    pub timeouts: FrontendTimeouts,
}

/// The protocol of a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// HTTP requests.
    #[default]
    Http,
    /// TCP connections.
    Tcp,
}

/// The location of a certificate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// A Secret in the same namespace with `tls.crt` (the chain) and `tls.key`, in PEM.
    #[schemars(length(min = 1))]
    pub secret_name: String,
}

/// Timeouts for clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FrontendTimeouts {
    /// Inactivity timeout of a client within a request or connection. Default 1m; in mode tcp 1h.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<Span>,
    /// Time to receive the complete request header.
    pub request: Span,
    /// Idle time between two requests.
    pub keep_alive: Span,
}

impl Default for FrontendTimeouts {
    fn default() -> Self {
        Self { client: None, request: Span::seconds(10), keep_alive: Span::seconds(60) }
    }
}

impl FrontendTimeouts {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Equivalent servers, given by exactly one of `deployment`, `postgres`, `redisSentinel` and `servers`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backend {
    /// Its name: lower-case letters, digits and `-`.
    pub name: String,
    /// The pods of a Deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentRef>,
    /// A PostgresCluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresRef>,
    /// A RedisSentinel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_sentinel: Option<RedisSentinelRef>,
    /// Fixed addresses, `host:port`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<String>,
    /// Load balancing algorithm. Default `roundrobin`, and `leastconn` for databases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<Balance>,
    /// Health check of the servers by the balancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Session stickiness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stick: Option<Stick>,
    /// Grace for open connections to a terminating server; then they are closed.
    #[serde(default = "drain", skip_serializing_if = "is_drain")]
    pub drain_timeout: Span,
    /// Timeouts for servers.
    #[serde(default, skip_serializing_if = "BackendTimeouts::is_default")]
    pub timeouts: BackendTimeouts,
}

const DRAIN: Span = Span::seconds(30);

fn drain() -> Span {
    DRAIN
}

fn is_drain(span: &Span) -> bool {
    *span == DRAIN
}

/// The pods of a Deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeploymentRef {
    /// The Deployment, in the same namespace.
    #[schemars(length(min = 1))]
    pub name: String,
    /// The port its containers listen on.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
}

/// A role in a PostgresCluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PostgresRef {
    /// The PostgresCluster, in the same namespace.
    #[schemars(length(min = 1))]
    pub name: String,
    /// `primary`: the instance that takes writes. `replica`: streaming standbys, or the primary if there are none.
    pub role: PostgresRole,
}

/// See [`PostgresRef::role`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PostgresRole {
    /// Takes writes.
    Primary,
    /// Reads only.
    Replica,
}

/// A role in a RedisSentinel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisSentinelRef {
    /// The RedisSentinel, in the same namespace.
    #[schemars(length(min = 1))]
    pub name: String,
    /// `master`: the member that takes writes. `replica`: replicas that are in sync, or the master if there are none.
    pub role: RedisRole,
}

/// See [`RedisSentinelRef::role`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RedisRole {
    /// Takes writes.
    Master,
    /// Reads only.
    Replica,
}

/// Load balancing algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Balance {
    /// In turn.
    Roundrobin,
    /// The one with the fewest connections.
    Leastconn,
    /// By the client's address.
    Source,
}

/// Health check of the servers by the balancer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HealthCheck {
    /// Path of a GET that must answer 200 to 399. Default: a TCP connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `Host` header of the GET: a host name, with or without a port. Default `localhost`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Interval of checks.
    pub interval: Span,
    /// Time-out of a check.
    pub timeout: Span,
    /// Failures in a row until the server is down.
    #[schemars(range(min = 1, max = 100))]
    pub fall: u32,
    /// Successes in a row until the server is up again.
    #[schemars(range(min = 1, max = 100))]
    pub rise: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self { path: None, host: None, interval: Span::seconds(2), timeout: Span::seconds(2), fall: 3, rise: 2 }
    }
}

/// Session stickiness.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stick {
    /// How a client is recognised.
    pub by: StickBy,
    /// Name of the cookie. Default `evenkeel`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
}

/// See [`Stick::by`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum StickBy {
    /// A cookie that the balancer sets; mode http, engine haproxy.
    Cookie,
    /// The client's address.
    Source,
}

/// Timeouts for servers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BackendTimeouts {
    /// Connect timeout. Default 2s; for the writer of a database 300ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<Span>,
    /// Inactivity timeout of a server. Default 1m; in mode tcp 1h.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Span>,
    /// How long a new connection waits for a server.
    pub queue: Span,
    /// Inactivity timeout of both sides after an upgrade (WebSocket).
    pub tunnel: Span,
}

impl Default for BackendTimeouts {
    fn default() -> Self {
        Self { connect: None, server: None, queue: Span::seconds(10), tunnel: Span::seconds(3600) }
    }
}

impl BackendTimeouts {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The statistics page.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Stats {
    /// The port in the balancer's container.
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Publishes it on the loopback address of the Docker host. Further balancers on the same host get `hostPort + 1`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
}

impl Default for Stats {
    fn default() -> Self {
        Self { port: 8404, host_port: None }
    }
}

/// The object that a backend references, in the namespace of its LoadBalancer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TargetObject {
    /// Its kind.
    pub kind: &'static str,
    /// Its resource in the store.
    pub resource: &'static str,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for TargetObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

impl Target<'_> {
    /// The referenced object; `None` for fixed addresses.
    pub fn object(&self) -> Option<TargetObject> {
        let (kind, resource, name) = match self {
            Self::Deployment(to) => ("Deployment", "deployments.apps", &to.name),
            Self::Postgres(to) => ("PostgresCluster", "postgresclusters.evenkeel.dev", &to.name),
            Self::RedisSentinel(to) => ("RedisSentinel", "redissentinels.evenkeel.dev", &to.name),
            Self::Servers(_) => return None,
        };
        Some(TargetObject { kind, resource, name: name.clone() })
    }

    /// The role that an endpoint must have; `None`: any endpoint.
    pub fn role(&self) -> Option<EndpointRole> {
        match self {
            Self::Postgres(PostgresRef { role: PostgresRole::Primary, .. })
            | Self::RedisSentinel(RedisSentinelRef { role: RedisRole::Master, .. }) => Some(EndpointRole::Primary),
            Self::Postgres(PostgresRef { role: PostgresRole::Replica, .. })
            | Self::RedisSentinel(RedisSentinelRef { role: RedisRole::Replica, .. }) => Some(EndpointRole::Replica),
            Self::Deployment(_) | Self::Servers(_) => None,
        }
    }

    /// The port, if the backend names it.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Deployment(to) => Some(to.port),
            Self::Postgres(_) | Self::RedisSentinel(_) | Self::Servers(_) => None,
        }
    }
}

/// The reference of a backend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target<'a> {
    /// The pods of a Deployment.
    Deployment(&'a DeploymentRef),
    /// A PostgresCluster.
    Postgres(&'a PostgresRef),
    /// A RedisSentinel.
    RedisSentinel(&'a RedisSentinelRef),
    /// Fixed addresses.
    Servers(&'a [String]),
}

impl Backend {
    /// The reference; `None` unless it is exactly one.
    pub fn target(&self) -> Option<Target<'_>> {
        match (&self.deployment, &self.postgres, &self.redis_sentinel, self.servers.as_slice()) {
            (Some(one), None, None, []) => Some(Target::Deployment(one)),
            (None, Some(one), None, []) => Some(Target::Postgres(one)),
            (None, None, Some(one), []) => Some(Target::RedisSentinel(one)),
            (None, None, None, servers @ [_, ..]) => Some(Target::Servers(servers)),
            _ => None,
        }
    }

    /// Whether only one of its servers takes writes, so that the others get no connections.
    pub fn one_writer(&self) -> bool {
        self.target().and_then(|target| target.role()) == Some(EndpointRole::Primary)
    }

    /// Whether it is a database, whose own kind reports the state of its servers.
    pub fn is_database(&self) -> bool {
        matches!(self.target(), Some(Target::Postgres(_) | Target::RedisSentinel(_)))
    }
}

impl LoadBalancerSpec {
    /// The image, or its default.
    pub fn image(&self) -> &str {
        self.image.as_deref().unwrap_or(match self.engine {
            EngineKind::Haproxy => "haproxy:2.6",
            EngineKind::Nginx => "nginx:1.22",
        })
    }

    /// Most processes from before a reload that a balancer may have.
    pub fn old_processes(&self) -> usize {
        let default = match self.engine {
            EngineKind::Haproxy => 4,
            EngineKind::Nginx => 8,
        };
        self.reload.old_processes.unwrap_or(default) as usize
    }

    /// How long a process from before a reload may finish its connections.
    pub fn reload_timeout(&self) -> Span {
        let default = match self.engine {
            EngineKind::Haproxy => Span::seconds(3600),
            EngineKind::Nginx => self.backends.iter().map(|one| one.drain_timeout).max().unwrap_or(DRAIN),
        };
        self.reload.timeout.unwrap_or(default)
    }

    /// The mode of the backend with this name; `None` if no frontend uses it.
    pub fn mode_of(&self, backend: &str) -> Option<Mode> {
        self.frontends.iter().find(|frontend| frontend.backend.as_deref() == Some(backend)).map(|one| one.mode)
    }
}
