//! The status of a RedisSentinel: what was observed, and what was decided.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::endpoints::EndpointSet;
use super::placement::{Network, Replacement, ToleratedLosses};
use super::postgres_status::{ClusterPhase, TimedStep, is_zero};
use super::postgres_tls::CertificatesStatus;
use super::redis_backup::{RedisBackupStatus, RedisRecoveryDecision, RedisRecoveryStatus};
use super::words::words;

/// The observed state of a RedisSentinel, and the decisions.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RedisSentinelStatus {
    /// The generation of the spec that this status is about.
    pub observed_generation: i64,
    /// The state of the whole as one word.
    pub phase: ClusterPhase,
    /// The member that takes writes, or will.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// Grows whenever another member may become master.
    pub epoch: u64,
    /// The Sentinels' config epoch of the master.
    pub config_epoch: u64,
    /// Number of ready data members: the writable master, and replicas that are in sync.
    pub ready_replicas: u32,
    /// Number of ready Sentinels: they know the master, every member and each other.
    pub ready_sentinels: u32,
    /// Each data member as last observed.
    pub members: Vec<RedisMemberStatus>,
    /// Each Sentinel as last observed.
    pub sentinels: Vec<SentinelStatus>,
    /// Members and Sentinels that the Sentinels still know and that do not exist any more, as `ADDRESS:PORT`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stale_members: Vec<String>,
    /// Where to connect.
    pub endpoints: RedisEndpoints,
    /// The endpoints for load balancers. Absent while the object is being deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_set: Option<EndpointSet>,
    /// The certificates, with TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates: Option<CertificatesStatus>,
    /// How many losses it survives by itself now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerated_losses: Option<ToleratedLosses>,
    /// What a failover can lose now, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub possible_loss: Option<String>,
    /// The last failover.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failover: Option<RedisFailoverStatus>,
    /// The last requested switchover.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_switchover: Option<RedisSwitchoverStatus>,
    /// The restore that its first data comes from, or will.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RedisRecoveryStatus>,
    /// Where its backups are; absent without `spec.backup`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<RedisBackupStatus>,
    /// `Ready`, `Progressing`, `Degraded`, each with its reason.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The planner's memory; besides the last promotions the only part of the status that the planner reads back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decisions: Option<RedisDecisions>,
}

/// One data member as last observed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RedisMemberStatus {
    /// Name of the member: `NAME-ORDINAL`.
    pub name: String,
    /// The DockerHost it runs on.
    pub host: String,
    /// Its address and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Its role.
    pub role: RedisRole,
    /// Its state.
    pub state: RedisState,
    /// Its replication offset.
    pub offset: u64,
    /// Its lag behind the master, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<u64>,
    /// Memory that its data uses, in bytes.
    pub used_memory: u64,
    /// `maxmemory` in bytes; 0: no limit.
    pub max_memory: u64,
    /// Keys that were evicted for want of memory.
    pub evicted_keys: u64,
    /// Memory that the process takes, relative to what its data uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fragmentation: Option<f64>,
    /// Directives that wait for a restart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pending_restart: Vec<String>,
    /// The current problem, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// One Sentinel as last observed: what it takes for true.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SentinelStatus {
    /// Name of the member: `NAME-sentinel-ORDINAL`.
    pub name: String,
    /// The DockerHost it runs on.
    pub host: String,
    /// Its address and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Its state.
    pub state: RedisState,
    /// The master, as it tells clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// The config epoch of that master.
    pub config_epoch: u64,
    /// Replicas that it knows.
    pub known_replicas: u32,
    /// Other Sentinels that it knows.
    pub known_sentinels: u32,
    /// Quorum and majority can be reached, as it sees it.
    pub quorum_ok: bool,
    /// The current problem, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

words! {
    /// The role of a data member.
    RedisRole {
        /// A master.
        Master = "master",
        /// A replica.
        Replica = "replica",
        /// Neither, or unknown.
        #[default]
        None = "none",
    }
}

words! {
    /// The state of a member.
    RedisState {
        /// It did not answer.
        #[default]
        Unknown = "unknown",
        /// Its container does not exist.
        Absent = "absent",
        /// Its container was created but never started.
        Created = "created",
        /// Its container is paused.
        Paused = "paused",
        /// The server, or its container, is stopped.
        Stopped = "stopped",
        /// The server is starting.
        Starting = "starting",
        /// The server loads its data from disk.
        Loading = "loading",
        /// The server does not answer.
        Hung = "hung",
        /// It is the master and takes writes, or it is a Sentinel that answers.
        Running = "running",
        /// It is the master and takes no writes now.
        ReadOnly = "read-only",
        /// It is a replica that is in sync.
        Synced = "in sync",
        /// It is a replica that copies all data from the master.
        Copying = "copying",
        /// It is a replica that is not connected to the master.
        Disconnected = "disconnected",
    }
}

/// Where to connect, as `ADDRESS:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RedisEndpoints {
    /// The Sentinels.
    pub sentinels: Vec<String>,
    /// The master; empty while no member takes writes.
    pub master: Vec<String>,
    /// Replicas that are in sync.
    pub replicas: Vec<String>,
}

/// A promotion with its steps.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisFailoverStatus {
    /// The evidence that the old master failed, or the reason of a switchover.
    pub cause: String,
    /// The old master.
    pub from: String,
    /// The new master; empty until it is known.
    #[serde(default)]
    pub to: String,
    /// Time when the evidence was observed.
    #[schemars(with = "String")]
    pub detected_at: Timestamp,
    /// The steps, with the time that each took.
    #[serde(default)]
    pub steps: Vec<TimedStep>,
    /// Seconds from the evidence until the new master was seen to take writes; absent until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage: Option<f64>,
    /// Bytes of the replication stream that the old master had and the new one did not: what it acknowledged in them is lost.
    /// As it was last heard, until `lossMeasured`: it may be more. Absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_bytes: Option<u64>,
    /// `lostBytes` is exact: the old master said where its data ended when it could acknowledge nothing any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub loss_measured: bool,
    /// What is known about the loss, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<String>,
}

/// A requested switchover.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RedisSwitchoverStatus {
    /// The value of the annotation that this answers.
    pub request: String,
    /// Why it was refused, or ended without a new master.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Its result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<RedisFailoverStatus>,
}

/// The planner's memory: written by compare-and-set before anything is done.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisDecisions {
    /// The stage.
    pub stage: RedisStage,
    /// Grows whenever another member may become master.
    pub epoch: u64,
    /// Grows with every change that an order depends on.
    pub revision: u64,
    /// Identifies this group of Sentinels: those of an earlier object with this name are of another group.
    pub group: String,
    /// The data members.
    pub members: Vec<RedisPlace>,
    /// The Sentinels.
    pub sentinels: Vec<RedisPlace>,
    /// The network that they are on.
    #[serde(default, skip_serializing_if = "Network::is_bridge")]
    pub network: Network,
    /// The highest ordinal that a data member ever had; 0 on a Docker network, where ordinals are used again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub last_ordinal: u32,
    /// The same of the Sentinels.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub last_sentinel_ordinal: u32,
    /// A data member that another one takes the place of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<Replacement>,
    /// The same of a Sentinel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentinel_replacement: Option<Replacement>,
    /// The master.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// The run of the master's server that may start: no other one may start as master.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The config epoch of the Sentinels when this master was adopted.
    #[serde(default)]
    pub config_epoch: u64,
    /// The Sentinel that led the last failover, until every Sentinel names its result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// The failover or switchover that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<RedisChange>,
    /// The change of the Sentinels' memory that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<RedisReset>,
    /// The member that restores the first data, before any server runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RedisRecoveryDecision>,
    /// Time when the current stage or change began.
    #[schemars(with = "String")]
    pub since: Timestamp,
}

words! {
    /// The stage of a RedisSentinel.
    RedisStage {
        /// Nothing was decided: looking for data.
        #[default]
        New = "New",
        /// The first master is starting; no Sentinel watches it yet.
        Founding = "Founding",
        /// Sentinels watch the master.
        Steady = "Steady",
    }
}

/// A data member or a Sentinel, with host, address and port; decided once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Hash)]
#[serde(rename_all = "camelCase")]
pub struct RedisPlace {
    /// Name of the member.
    pub name: String,
    /// Its ordinal, from 1.
    pub ordinal: u32,
    /// The DockerHost.
    pub host: String,
    /// The network that its container is on.
    #[serde(default, skip_serializing_if = "Network::is_bridge")]
    pub network: Network,
    /// The address that it announces, once the network exists; on its host's network the host's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub address: Option<Ipv4Addr>,
    /// The port that it announces; on its host's network a reserved one, 0 until it is.
    pub port: u16,
    /// The reserved port of a Redis Cluster's bus, on its host's network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus_port: Option<u16>,
}

/// A failover or a switchover that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisChange {
    /// The annotation, or the operator's own reason; absent for a failover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The member that should become master; empty: the one with the newest data.
    #[serde(default)]
    pub to: String,
    /// The Sentinel that was asked last, and the number of the attempt.
    #[serde(default)]
    pub asked: String,
    /// Number of the attempt, from 1; 0: none yet.
    #[serde(default)]
    pub attempt: u32,
    /// How far it is.
    pub phase: ChangePhase,
    /// The offset of the old master when its writes were paused, or when it was last heard.
    #[serde(default)]
    pub offset: u64,
    /// Milliseconds between that and the evidence of its end; absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_ms: Option<u64>,
    /// Time when this phase, or this attempt, began.
    #[schemars(with = "String")]
    pub since: Timestamp,
}

words! {
    /// How far a failover or switchover is.
    ChangePhase {
        /// No running member can become master: every member is asked for the data on its disk.
        #[default]
        Gathering = "Gathering",
        /// The Sentinels learn which replica is preferred.
        Preferring = "Preferring",
        /// Writes are paused; the replica receives the rest.
        Pausing = "Pausing",
        /// A Sentinel was asked to promote.
        Promoting = "Promoting",
        /// Writes are paused, because the Sentinels are about to promote another member by themselves; none is asked.
        Yielding = "Yielding",
    }
}

/// A change of the Sentinels' memory: one after the other forgets what does not exist any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisReset {
    /// The Sentinel that forgets now.
    pub sentinel: String,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Time when it was told.
    #[schemars(with = "String")]
    pub since: Timestamp,
}
