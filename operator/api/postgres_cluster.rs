//! PostgresCluster: what people declare about a PostgreSQL with streaming replication, and what they are told of it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::endpoints::EndpointSet;
use super::invalid::Invalid;
use super::lsn::Fork;
use super::postgres_settings;
use super::words::words;

/// Asks for a planned switchover: `TIMESTAMP` or `TIMESTAMP/MEMBER`.
pub const SWITCHOVER_ANNOTATION: &str = "evenkeel.dev/switchover";

/// Leaves running supervisors alone when the operator brings another version of them: `evenkeel.dev/defer-supervisor-update: "true"`.
pub const DEFER_UPDATE_ANNOTATION: &str = "evenkeel.dev/defer-supervisor-update";

/// A PostgreSQL cluster: one primary, streaming standbys, promotion by itself.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "evenkeel.dev",
    version = "v1alpha1",
    kind = "PostgresCluster",
    plural = "postgresclusters",
    shortname = "pg",
    category = "all",
    namespaced,
    status = "PostgresClusterStatus",
    derive = "PartialEq",
    doc = "A PostgreSQL cluster: one primary, streaming standbys, promotion by itself.",
    printcolumn = r#"{"name":"Instances","type":"integer","jsonPath":".spec.instances"}"#,
    printcolumn = r#"{"name":"Ready","type":"integer","jsonPath":".status.readyInstances"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Primary","type":"string","jsonPath":".status.primary"}"#,
    printcolumn = r#"{"name":"Term","type":"integer","jsonPath":".status.term","priority":1}"#,
    printcolumn = r#"{"name":"Read-Write","type":"string","jsonPath":".status.endpoints.readWrite[0]","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PostgresClusterSpec {
    /// Image with PostgreSQL 14 to 17 by the official image's conventions, e.g. `postgres:15`.
    #[schemars(length(min = 1))]
    pub image: String,
    /// How many instances: one primary and the rest standbys. 1 to 9.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 9))]
    pub instances: u32,
    /// When a commit is acknowledged to the client.
    #[serde(default)]
    pub durability: Durability,
    /// How the first data directory comes to be.
    #[serde(default)]
    pub bootstrap: Bootstrap,
    /// PostgreSQL settings (`postgresql.conf`); applied by reload, or by a rolling restart where a setting needs one.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// What becomes of the data.
    #[serde(default)]
    pub storage: Storage,
    /// Publishes the instances on ports of the Docker host; without it they are reached by address on their network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expose: Option<Expose>,
}

fn one() -> u32 {
    1
}

/// When a commit is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Durability {
    /// `required` (default): only when enough standbys have it on disk; writes wait if they are away.
    /// `preferred`: the same, but writes go on with fewer standbys when they are away. `async`: at once.
    #[serde(default)]
    pub mode: DurabilityMode,
    /// How many standbys must have a commit on disk. Default 1, or 0 with a single instance or `async`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synchronous_replicas: Option<u32>,
}

/// See [`Durability::mode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DurabilityMode {
    /// Writes wait for their standbys, always.
    #[default]
    Required,
    /// Writes wait for their standbys while there are any.
    Preferred,
    /// Writes wait for nobody.
    Async,
}

/// How the first data directory comes to be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bootstrap {
    /// A fresh, empty cluster.
    #[serde(default)]
    pub initdb: Initdb,
}

/// A fresh cluster with one database and its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Initdb {
    /// The application's database.
    #[schemars(length(min = 1, max = 63))]
    pub database: String,
    /// Its owner, a role that can log in.
    #[schemars(length(min = 1, max = 63))]
    pub owner: String,
    /// A Secret with the keys `username` and `password` for the owner. Without it a password is generated.
    /// Either way the Secret `NAME-app` says how to connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
    /// Server encoding.
    pub encoding: String,
    /// Locale (LC_COLLATE and LC_CTYPE).
    pub locale: String,
    /// Page checksums.
    pub data_checksums: bool,
}

impl Default for Initdb {
    fn default() -> Self {
        Self {
            database: "app".into(),
            owner: "app".into(),
            secret: None,
            encoding: "UTF8".into(),
            locale: "C.UTF-8".into(),
            data_checksums: true,
        }
    }
}

/// A Secret in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretRef {
    /// Its name.
    #[schemars(length(min = 1))]
    pub name: String,
}

/// What becomes of the data.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Storage {
    /// `Retain` (default): the data volumes outlive the object and a new object of the same name takes them over. `Delete`: they go with it.
    #[serde(default)]
    pub reclaim_policy: ReclaimPolicy,
}

/// See [`Storage::reclaim_policy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum ReclaimPolicy {
    /// Keep the volumes.
    #[default]
    Retain,
    /// Remove the volumes.
    Delete,
}

/// Ports on the Docker host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expose {
    /// Port of the first instance; instance `n` gets `hostPort + n - 1`.
    #[schemars(range(min = 1, max = 65535))]
    pub host_port: u16,
    /// Address to listen on.
    #[serde(default = "loopback")]
    pub bind_address: String,
}

fn loopback() -> String {
    "127.0.0.1".into()
}

impl PostgresClusterSpec {
    /// Standbys that must have a commit on disk before it is acknowledged (w), with the defaults filled in.
    pub fn synchronous_replicas(&self) -> u32 {
        match self.durability.mode {
            DurabilityMode::Async => 0,
            _ => self.durability.synchronous_replicas.unwrap_or_else(|| 1.min(self.instances.saturating_sub(1))),
        }
    }

    /// Every problem that the schema cannot see.
    pub fn validate(&self) -> Vec<Invalid> {
        let mut problems = Vec::new();
        if self.instances == 0 || self.instances > 9 {
            problems.push(Invalid::new("spec.instances", format!("is {}, must be from 1 to 9", self.instances)));
        }
        problems.extend(self.durability_problems());
        if let Some(problem) = image_problem(&self.image) {
            problems.push(Invalid::new("spec.image", problem));
        }
        for (name, value) in &self.parameters {
            if let Some(problem) = postgres_settings::problem(name, value) {
                problems.push(Invalid::new(format!("spec.parameters[{name}]"), problem));
            }
        }
        let initdb = &self.bootstrap.initdb;
        for (field, name) in [("database", &initdb.database), ("owner", &initdb.owner)] {
            if name.is_empty() || name.len() > 63 || name.contains(char::is_control) {
                problems.push(Invalid::new(
                    format!("spec.bootstrap.initdb.{field}"),
                    "must be a PostgreSQL name of 1 to 63 bytes without control characters",
                ));
            }
            if field == "owner" && (name == "postgres" || name.starts_with("evenkeel") || name.starts_with("pg_")) {
                problems.push(Invalid::new(
                    "spec.bootstrap.initdb.owner",
                    format!("{name:?} is reserved; choose another role name"),
                ));
            }
        }
        if let Some(expose) = &self.expose {
            if u32::from(expose.host_port) + self.instances > 65536 {
                problems.push(Invalid::new("spec.expose.hostPort", "hostPort + instances - 1 must not be above 65535"));
            }
            if expose.bind_address.parse::<std::net::IpAddr>().is_err() {
                problems.push(Invalid::new(
                    "spec.expose.bindAddress",
                    format!("{:?} is not an IP address", expose.bind_address),
                ));
            }
        }
        problems
    }

    fn durability_problems(&self) -> Option<Invalid> {
        let path = "spec.durability.synchronousReplicas";
        let asked = self.durability.synchronous_replicas?;
        match self.durability.mode {
            DurabilityMode::Async if asked > 0 => Some(Invalid::new(
                path,
                format!("is {asked}, but mode async waits for nobody: leave it out or choose required or preferred"),
            )),
            DurabilityMode::Async => None,
            _ if asked >= self.instances => Some(Invalid::new(
                path,
                format!(
                    "is {asked}, must be less than spec.instances ({}): the primary is not its own standby",
                    self.instances
                ),
            )),
            _ if asked == 0 && self.instances > 1 => {
                Some(Invalid::new(path, "is 0, which means mode async: say so, or ask for at least 1"))
            }
            _ => None,
        }
    }
}

/// What is wrong with an image reference, by Docker's grammar (coarsely).
pub(crate) fn image_problem(image: &str) -> Option<String> {
    let bad = |why: &str| Some(format!("{image:?} is not an image reference such as postgres:15: {why}"));
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    if digest.is_some_and(|digest| !digest.starts_with("sha256:") || digest.len() != 71) {
        return bad("the digest must be sha256: and 64 hexadecimal digits");
    }
    let last_slash = name.rfind('/').map_or(0, |at| at + 1);
    let (repository, tag) = match name[last_slash..].split_once(':') {
        Some((_, tag)) => (&name[..name.len() - tag.len() - 1], Some(tag)),
        None => (name, None),
    };
    if tag.is_some_and(|tag| {
        tag.is_empty() || tag.len() > 128 || !tag.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    }) {
        return bad("the tag has characters that a tag cannot have");
    }
    let mut parts = repository.split('/').peekable();
    let mut first = true;
    while let Some(part) = parts.next() {
        let host = first && parts.peek().is_some();
        first = false;
        let allowed = |c: char| {
            c.is_ascii_lowercase()
                || c.is_ascii_digit()
                || "._-".contains(c)
                || host && (c == ':' || c.is_ascii_uppercase())
        };
        if part.is_empty() || !part.chars().all(allowed) || !part.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return bad("repository names are lower-case letters, digits, '.', '_' and '-'");
        }
    }
    None
}

/// What Evenkeel sees of a cluster, and what it decided.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PostgresClusterStatus {
    /// The generation of the spec that this status speaks of.
    pub observed_generation: i64,
    /// The state of the whole cluster in one word.
    pub phase: ClusterPhase,
    /// The term of the last election.
    pub term: u64,
    /// The instance that takes writes, or is about to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// The primary's timeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// Instances that serve: the writable primary and streaming standbys.
    pub ready_instances: u32,
    /// Each instance as last seen.
    pub instances: Vec<InstanceStatus>,
    /// Where to connect.
    pub endpoints: Endpoints,
    /// The endpoints for whoever routes to this cluster; `epoch` is the term. Absent while it is being deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_set: Option<EndpointSet>,
    /// The last promotion that was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failover: Option<FailoverStatus>,
    /// The last promotion that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_switchover: Option<SwitchoverStatus>,
    /// `Ready`, `Progressing`, `Degraded`, and the reason of each.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// What was decided and must not be forgotten; the only part of the status that the planner reads back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decisions: Option<Decisions>,
}

/// One instance as last seen.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct InstanceStatus {
    /// Name of the instance: `CLUSTER-ORDINAL`.
    pub name: String,
    /// The DockerHost it runs on.
    pub host: String,
    /// What PostgreSQL is there.
    pub role: InstanceRole,
    /// What it is doing.
    pub state: InstanceState,
    /// Its address on the cluster's network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// How far it is behind the primary, in MiB of WAL.
    #[serde(rename = "lag", skip_serializing_if = "Option::is_none")]
    pub lag_mib: Option<u64>,
    /// It takes part in the acknowledgement of commits.
    pub synchronous: bool,
    /// Settings that wait for a restart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pending_restart: Vec<String>,
    /// What is the matter, if something is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

words! {
    /// The state of a whole cluster.
    ClusterPhase {
        /// Nothing is decided yet.
        #[default]
        Pending = "Pending",
        /// The first primary is being made.
        Bootstrapping = "Bootstrapping",
        /// The primary takes writes and every instance is ready.
        Healthy = "Healthy",
        /// The primary takes writes; some instance is not ready.
        Degraded = "Degraded",
        /// A new primary is being chosen or promoted.
        FailingOver = "FailingOver",
        /// The same, because it was asked for.
        SwitchingOver = "SwitchingOver",
        /// Nothing takes writes.
        Unavailable = "Unavailable",
        /// Reconciliation is paused by annotation.
        Paused = "Paused",
        /// The cluster is being deleted.
        Deleting = "Deleting",
    }
}

words! {
    /// What PostgreSQL an instance runs.
    InstanceRole {
        /// A primary.
        Primary = "primary",
        /// A standby.
        Standby = "standby",
        /// None, or nobody can say.
        #[default]
        None = "none",
    }
}

words! {
    /// What an instance is doing.
    InstanceState {
        /// It could not be asked.
        #[default]
        Unknown = "unknown",
        /// Its container is not there.
        Absent = "absent",
        /// Its container was made and never started.
        Created = "created",
        /// Its container is paused.
        Paused = "paused",
        /// PostgreSQL, or its container, is stopped.
        Stopped = "stopped",
        /// PostgreSQL starts.
        Starting = "starting",
        /// PostgreSQL stops.
        Stopping = "stopping",
        /// Its data directory is being made.
        Initialising = "initialising",
        /// Its data directory is being copied from the primary.
        Cloning = "cloning",
        /// It recovers by itself before it can be rewound.
        Recovering = "recovering",
        /// Its data directory is being rewound to the primary's history.
        Rewinding = "rewinding",
        /// It is the primary and takes writes.
        Running = "running",
        /// It is a primary and takes no connections.
        Gated = "gated",
        /// It is a standby on its way to primary.
        Promoting = "promoting",
        /// It is a standby that streams from the primary.
        Streaming = "streaming",
        /// It is a standby that does not stream yet.
        CatchingUp = "catching up",
    }
}

/// Where to connect, as `host:port` reachable from the Docker host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoints {
    /// The primary; empty while nothing takes writes.
    pub read_write: Vec<String>,
    /// Streaming standbys.
    pub read_only: Vec<String>,
}

/// A promotion as it went.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailoverStatus {
    /// Why: what was seen of the old primary.
    pub cause: String,
    /// The old primary.
    pub from: String,
    /// The new primary; empty until it is chosen.
    #[serde(default)]
    pub to: String,
    /// When the evidence was seen.
    #[schemars(with = "String")]
    pub detected_at: Timestamp,
    /// What was done and how long each took.
    #[serde(default)]
    pub steps: Vec<TimedStep>,
    /// From the evidence to the open gate, in seconds; absent until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage: Option<f64>,
    /// With `async` or a degraded `preferred`: no acknowledged commit is lost but in this many bytes of the old primary's WAL. Absent while that is not known; it is known once the old primary is back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub possible_loss_bytes: Option<u64>,
    /// What is known of the loss, in words. Absent where nothing acknowledged can be lost, since standbys had acknowledged it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub possible_loss: Option<String>,
}

/// One step of a promotion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TimedStep {
    /// What was done.
    pub step: String,
    /// Seconds it took.
    pub took: f64,
}

/// A promotion that was asked for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SwitchoverStatus {
    /// The annotation's value that this answers.
    pub request: String,
    /// Why it was not done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// How it went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<FailoverStatus>,
}

/// What the planner decided and reads back: written by compare-and-set before anything is done.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Decisions {
    /// The term of the last election.
    pub term: u64,
    /// Grows with every change of what an order may follow from, so that an older order, or an older record, is known as such.
    #[serde(default)]
    pub revision: u64,
    /// Where the protocol stands.
    pub stage: Stage,
    /// The members and where they live.
    pub members: Vec<MemberPlace>,
    /// PostgreSQL's identity of this cluster, once it is initialised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<String>,
    /// The member that holds, or is being given, the grant of the current term.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<Voter>,
    /// The leader that clients were served by last; it too holds every acknowledged commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<Voter>,
    /// The election set E with its w: what an election must gather promises from.
    pub election: Quorum,
    /// The commit set G with its w: what the leader must gather acknowledgements from. Always a subset of E with no smaller w.
    pub commit: Quorum,
    /// Only while establishing: becomes election and commit when the leader has passed its barrier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Quorum>,
    /// Timelines and where each was left for the next, oldest first.
    #[serde(default)]
    pub history: Vec<Fork>,
    /// Voters that do not stream, and since when.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub absent: BTreeMap<String, Timestamp>,
    /// An ongoing planned switchover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switchover: Option<SwitchoverDecision>,
    /// The loss of a promotion that is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsettled: Option<Unsettled>,
    /// When the current stage was entered.
    #[schemars(with = "String")]
    pub since: Timestamp,
}

impl Decisions {
    /// Whether this member is the leader.
    pub fn is_leader(&self, member: &str) -> bool {
        self.leader_name() == Some(member)
    }

    /// The leader's name.
    pub fn leader_name(&self) -> Option<&str> {
        self.leader.as_ref().map(|leader| leader.member.as_str())
    }
}

/// A promotion after which only the old primary's WAL says what is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Unsettled {
    /// The old primary.
    pub old: Voter,
    /// `detectedAt` of the promotion.
    #[schemars(with = "String")]
    pub detected_at: Timestamp,
}

/// Where the protocol of a cluster stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, Hash)]
pub enum Stage {
    /// Nothing is decided: looking whether there is data already.
    #[default]
    New,
    /// Promises of the current term are being gathered.
    Electing,
    /// The leader of the current term is being made primary, its gate still shut.
    Establishing,
    /// The leader serves.
    Steady,
}

/// A member and where it lives; decided once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Hash)]
#[serde(rename_all = "camelCase")]
pub struct MemberPlace {
    /// Name of the member.
    pub name: String,
    /// Its ordinal, from 1.
    pub ordinal: u32,
    /// The DockerHost.
    pub host: String,
    /// Its fixed address on the cluster's network, once the network is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
}

/// A data-directory incarnation and the member that carries it. Names are not voters: incarnations are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Voter {
    /// The member.
    pub member: String,
    /// UUID of its data directory, also its `application_name`; empty until known.
    pub incarnation: String,
}

/// A set of voters and how many of them a commit needs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Quorum {
    /// The voters; the leader is not among them.
    pub voters: Vec<Voter>,
    /// w: acknowledgements that a commit needs.
    pub w: u32,
}

/// A planned switchover under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Hash)]
#[serde(rename_all = "camelCase")]
pub struct SwitchoverDecision {
    /// The annotation's value, or the reason of our own.
    pub request: String,
    /// Who is to become primary; empty = the best.
    pub to: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(yaml: &str) -> Vec<String> {
        let spec: PostgresClusterSpec = serde_saphyr::from_str(yaml).unwrap_or_else(|e| panic!("{e}"));
        spec.validate().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_plain_cluster_is_accepted_and_waits_for_one_standby() {
        let spec: PostgresClusterSpec =
            serde_saphyr::from_str("{image: 'postgres:15', instances: 3}").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(spec.validate(), vec![]);
        assert_eq!(spec.synchronous_replicas(), 1);
    }

    #[test]
    fn a_single_instance_waits_for_nobody() {
        let spec: PostgresClusterSpec =
            serde_saphyr::from_str("{image: 'postgres:15'}").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((spec.validate(), spec.synchronous_replicas()), (vec![], 0));
    }

    #[test]
    fn all_problems_are_told_at_once_each_with_its_path() {
        let found = problems(
            "{image: 'Postgres:15', instances: 2, durability: {synchronousReplicas: 2}, parameters: {port: '1', wal_level: minimal}, expose: {hostPort: 65535, bindAddress: here}}",
        );
        let paths: Vec<_> = found.iter().map(|problem| problem.split(": ").next().unwrap_or_default()).collect();
        assert_eq!(
            paths,
            [
                "spec.durability.synchronousReplicas",
                "spec.image",
                "spec.parameters[port]",
                "spec.parameters[wal_level]",
                "spec.expose.hostPort",
                "spec.expose.bindAddress"
            ]
        );
    }

    #[test]
    fn image_references_of_all_shapes_are_told_apart() {
        for good in [
            "postgres",
            "postgres:15",
            "r.example:5000/a/b:1.2-x",
            "postgres@sha256:0123456789012345678901234567890123456789012345678901234567890123",
        ] {
            assert_eq!(image_problem(good), None, "{good}");
        }
        for bad in ["", "postgres:", "post gres:15", "UPPER:1", "a//b", "postgres:15:16", "postgres@sha256:12"] {
            assert!(image_problem(bad).is_some(), "{bad}");
        }
    }
}
