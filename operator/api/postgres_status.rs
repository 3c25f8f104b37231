//! The status of a PostgresCluster: what was observed, and what was decided.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::endpoints::EndpointSet;
use super::lsn::Fork;
use super::placement::{Network, Replacement, ToleratedLosses};
use super::postgres_backup::BackupStatus;
use super::postgres_recovery::RecoveryStatus;
use super::postgres_settings;
use super::postgres_tls::CertificatesStatus;
use super::words::words;

/// The observed state of a cluster, and the decisions.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PostgresClusterStatus {
    /// The generation of the spec that this status is about.
    pub observed_generation: i64,
    /// The state of the whole cluster as one word.
    pub phase: ClusterPhase,
    /// The term of the last election.
    pub term: u64,
    /// The instance that takes writes, or will.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// The primary's timeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// Number of ready instances: the writable primary and streaming standbys.
    pub ready_instances: u32,
    /// Each instance as last observed.
    pub instances: Vec<InstanceStatus>,
    /// How many losses it survives by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerated_losses: Option<ToleratedLosses>,
    /// Where to connect.
    pub endpoints: Endpoints,
    /// The endpoints for load balancers; `epoch` is the term. Absent while the cluster is being deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_set: Option<EndpointSet>,
    /// The last failover.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failover: Option<FailoverStatus>,
    /// The last requested switchover.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_switchover: Option<SwitchoverStatus>,
    /// The certificates of the instances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates: Option<CertificatesStatus>,
    /// The recovery from an archive that its data comes from, or will.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryStatus>,
    /// The archive of WAL and base backups; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupStatus>,
    /// `Ready`, `Progressing`, `Degraded`, each with its reason.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The planner's memory; the only part of the status that the planner reads back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decisions: Option<Decisions>,
}

/// One instance as last observed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct InstanceStatus {
    /// Name of the instance: `CLUSTER-ORDINAL`.
    pub name: String,
    /// The DockerHost it runs on.
    pub host: String,
    /// The role of its PostgreSQL.
    pub role: InstanceRole,
    /// Its state.
    pub state: InstanceState,
    /// Its address on the cluster's network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Its lag behind the primary, in MiB of WAL.
    #[serde(rename = "lag", skip_serializing_if = "Option::is_none")]
    pub lag_mib: Option<u64>,
    /// It acknowledges commits.
    pub synchronous: bool,
    /// Settings that wait for a restart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pending_restart: Vec<String>,
    /// The current problem, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

words! {
    /// The state of a whole cluster.
    ClusterPhase {
        /// Nothing was decided yet.
        #[default]
        Pending = "Pending",
        /// The first primary is being created.
        Bootstrapping = "Bootstrapping",
        /// The first data is restored from a backup.
        Recovering = "Recovering",
        /// The primary takes writes and every instance is ready.
        Healthy = "Healthy",
        /// The primary takes writes; not every instance is ready.
        Degraded = "Degraded",
        /// A new primary is being chosen or promoted.
        FailingOver = "FailingOver",
        /// A switchover to a new primary is in progress.
        SwitchingOver = "SwitchingOver",
        /// No instance takes writes.
        Unavailable = "Unavailable",
        /// Reconciliation is paused by annotation.
        Paused = "Paused",
        /// The cluster is being deleted.
        Deleting = "Deleting",
    }
}

words! {
    /// The role of an instance's PostgreSQL.
    InstanceRole {
        /// A primary.
        Primary = "primary",
        /// A standby.
        Standby = "standby",
        /// Neither, or unknown.
        #[default]
        None = "none",
    }
}

words! {
    /// The state of an instance.
    InstanceState {
        /// It did not answer.
        #[default]
        Unknown = "unknown",
        /// Its container does not exist.
        Absent = "absent",
        /// Its container was created but never started.
        Created = "created",
        /// Its container is paused.
        Paused = "paused",
        /// PostgreSQL, or its container, is stopped.
        Stopped = "stopped",
        /// PostgreSQL is starting.
        Starting = "starting",
        /// PostgreSQL is stopping.
        Stopping = "stopping",
        /// Its data directory is being created.
        Initialising = "initialising",
        /// Its data directory is being cloned from the primary.
        Cloning = "cloning",
        /// It runs crash recovery before it can be rewound.
        Recovering = "recovering",
        /// Its data directory is being rewound to the primary's history.
        Rewinding = "rewinding",
        /// Its data directory is being recovered from an archive.
        Restoring = "restoring",
        /// It is the primary and takes writes.
        Running = "running",
        /// It is a primary that admits no clients.
        Gated = "gated",
        /// It is a standby that is being promoted.
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
    /// The primary; empty while no instance takes writes.
    pub read_write: Vec<String>,
    /// Streaming standbys.
    pub read_only: Vec<String>,
}

/// A promotion with its steps.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailoverStatus {
    /// The evidence that the old primary failed, or the reason of a switchover.
    pub cause: String,
    /// The old primary.
    pub from: String,
    /// The new primary; empty until it is chosen.
    #[serde(default)]
    pub to: String,
    /// Time when the evidence was observed.
    #[schemars(with = "String")]
    pub detected_at: Timestamp,
    /// Time of the last write of a new session to the old primary, as its supervisor proved it (every 0.5 s). Absent for a
    /// switchover, or if none is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub last_write_at: Option<Timestamp>,
    /// The steps, with the time that each took.
    #[serde(default)]
    pub steps: Vec<TimedStep>,
    /// Seconds from the last proven write (`lastWriteAt`, or else the evidence) to the open gate; absent until then. It
    /// contains the time before the evidence, and up to 0.5 s in which nobody had tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage: Option<f64>,
    /// With `async` or a reduced `preferred`: only commits in the last bytes (this many) of the old primary's WAL can
    /// be lost. Absent until it is known, which needs the old primary to be back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub possible_loss_bytes: Option<u64>,
    /// What is known about the loss, as text. Absent if standbys had acknowledged every commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub possible_loss: Option<String>,
}

/// One step of a promotion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TimedStep {
    /// The step.
    pub step: String,
    /// Its duration in seconds.
    pub took: f64,
}

/// A requested promotion.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SwitchoverStatus {
    /// The value of the annotation that this answers.
    pub request: String,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Its result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<FailoverStatus>,
}

/// The planner's memory: written by compare-and-set before anything is done.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Decisions {
    /// The term of the last election.
    pub term: u64,
    /// Grows with every change that an order depends on, so that an older order, or an older record, is recognised.
    #[serde(default)]
    pub revision: u64,
    /// The stage of the protocol.
    pub stage: Stage,
    /// The members with host and address.
    pub members: Vec<MemberPlace>,
    /// The network that they are on.
    #[serde(default, skip_serializing_if = "Network::is_bridge")]
    pub network: Network,
    /// The highest ordinal that a member ever had; 0 on a Docker network, where ordinals are used again. A name that was used
    /// on one host must never be used on another.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub last_ordinal: u32,
    /// A member that another one takes the place of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<Replacement>,
    /// PostgreSQL's system identifier, once the cluster is initialised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<String>,
    /// The folder of its archive in the store; decided once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
    /// The member that has, or is getting, the grant of the current term.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<Voter>,
    /// The last leader that served clients; it too has every acknowledged commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<Voter>,
    /// The election set E with its w: an election needs promises from it.
    pub election: Quorum,
    /// The commit set G with its w: the leader needs acknowledgements from it. A subset of E with no smaller w.
    pub commit: Quorum,
    /// Only while establishing: becomes election and commit when the leader has passed its barrier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Quorum>,
    /// Timelines and the position where the next one left each, oldest first.
    #[serde(default)]
    pub history: Vec<Fork>,
    /// Voters that do not stream, with the time since when.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub absent: BTreeMap<String, Timestamp>,
    /// The current planned switchover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switchover: Option<SwitchoverDecision>,
    /// A promotion whose loss is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsettled: Option<Unsettled>,
    /// Time when the current stage began.
    #[schemars(with = "String")]
    pub since: Timestamp,
}

pub(super) fn is_zero(number: &u32) -> bool {
    *number == 0
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

/// A promotion whose loss only the old primary's WAL can show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Unsettled {
    /// The old primary.
    pub old: Voter,
    /// `detectedAt` of the promotion.
    #[schemars(with = "String")]
    pub detected_at: Timestamp,
}

/// The stage of the protocol of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, Hash)]
pub enum Stage {
    /// Nothing was decided: checking whether data exists.
    #[default]
    New,
    /// Promises of the current term are being collected.
    Electing,
    /// The leader of the current term is becoming primary, its gate still shut.
    Establishing,
    /// The leader serves clients.
    Steady,
}

/// A member with host and address; decided once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Hash)]
#[serde(rename_all = "camelCase")]
pub struct MemberPlace {
    /// Name of the member.
    pub name: String,
    /// Its ordinal, from 1.
    pub ordinal: u32,
    /// The DockerHost.
    pub host: String,
    /// The network that its container is on.
    #[serde(default, skip_serializing_if = "Network::is_bridge")]
    pub network: Network,
    /// Its fixed address on the cluster's network, once the network exists; on its host's network the host's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv4Addr>,
    /// Its fixed address on the members' network, once it has certificates: from then on it replicates by TLS only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Ipv4Addr>,
    /// Its reserved port on its host's network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl MemberPlace {
    /// The port that it listens on, at its address.
    pub fn listens_on(&self) -> u16 {
        self.port.unwrap_or(postgres_settings::PORT)
    }
}

/// An incarnation of a data directory and the member that has it. Voters are incarnations, not names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Voter {
    /// The member.
    pub member: String,
    /// UUID of its data directory, also its `application_name`; empty until known.
    pub incarnation: String,
}

/// A set of voters, and the number of them that a commit needs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Quorum {
    /// The voters; the leader is not among them.
    pub voters: Vec<Voter>,
    /// w: number of acknowledgements that a commit needs.
    pub w: u32,
}

/// The current planned switchover.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Hash)]
#[serde(rename_all = "camelCase")]
pub struct SwitchoverDecision {
    /// The value of the annotation, or the operator's own reason.
    pub request: String,
    /// The new primary; empty = the best standby.
    pub to: String,
}
