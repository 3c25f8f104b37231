//! The status of a RedisCluster: what was observed, and what was decided.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::placement::{Network, Replacement, ToleratedLosses};
use super::postgres_status::{ClusterPhase, is_zero};
use super::postgres_tls::CertificatesStatus;
use super::redis_status::{RedisPlace, RedisRole, RedisState};
use super::words::words;

/// The observed state of a RedisCluster, and the decisions.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RedisClusterStatus {
    /// The generation of the spec that this status is about.
    pub observed_generation: i64,
    /// The state of the whole as one word.
    pub phase: ClusterPhase,
    /// Number of members that the spec asks for.
    pub wanted_members: u32,
    /// Number of ready members: masters that serve slots, and replicas that are in sync.
    pub ready_members: u32,
    /// Slots whose master answers, of 16384.
    pub slots_served: u32,
    /// Each member as last observed.
    pub members: Vec<ClusterMemberStatus>,
    /// Nodes that members still know and that do not exist any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stale_nodes: Vec<String>,
    /// The migration of slots that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migration: Option<ClusterMigration>,
    /// Where to connect: every member, as `ADDRESS:PORT`.
    pub endpoints: Vec<String>,
    /// How many losses it survives by itself now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerated_losses: Option<ToleratedLosses>,
    /// The certificates, with TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates: Option<CertificatesStatus>,
    /// The last failover.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failover: Option<ClusterFailover>,
    /// `Ready`, `Progressing`, `Degraded`, each with its reason.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The planner's memory; besides the last failover the only part of the status that the planner reads back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decisions: Option<ClusterDecisions>,
}

/// One member as last observed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterMemberStatus {
    /// Name of the member: `NAME-ORDINAL`.
    pub name: String,
    /// The DockerHost it runs on.
    pub host: String,
    /// Its address and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The id of its node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its role.
    pub role: RedisRole,
    /// The master that it replicates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// Its state.
    pub state: RedisState,
    /// Slots that it serves.
    pub slots: u32,
    /// Number of its keys.
    pub keys: u64,
    /// Its replication offset.
    pub offset: u64,
    /// Memory that its data uses, in bytes.
    pub used_memory: u64,
    /// The current problem, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A migration of slots. It is safe to interrupt: every slot is at one member at any time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterMigration {
    /// Slots to move when it began.
    pub total: u32,
    /// Slots that are still to move.
    pub left: u32,
    /// Time when it began.
    #[schemars(with = "String")]
    pub since: Timestamp,
}

/// A failover of one master.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterFailover {
    /// The evidence that the old master failed.
    pub cause: String,
    /// The old master.
    pub from: String,
    /// The replica that was asked to take over.
    pub to: String,
    /// Time when the evidence was observed.
    #[schemars(with = "String")]
    pub detected_at: Timestamp,
    /// Seconds from the evidence until another member was seen to own the slots; absent until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage: Option<f64>,
}

/// The planner's memory: written by compare-and-set before anything is done.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterDecisions {
    /// The stage.
    pub stage: ClusterStage,
    /// The members.
    pub members: Vec<RedisPlace>,
    /// The network that they are on.
    #[serde(default, skip_serializing_if = "Network::is_bridge")]
    pub network: Network,
    /// The highest ordinal that a member ever had; 0 on a Docker network, where ordinals are used again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub last_ordinal: u32,
    /// A member that another one takes the place of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<Replacement>,
    /// What was last known of each member's node.
    #[serde(default)]
    pub nodes: Vec<ClusterNode>,
    /// The failover that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failover: Option<ClusterFailover>,
    /// The migration that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<ClusterMigration>,
    /// Time when the current stage began.
    #[schemars(with = "String")]
    pub since: Timestamp,
}

words! {
    /// The stage of a RedisCluster.
    ClusterStage {
        /// Nothing was decided: looking for data.
        #[default]
        New = "New",
        /// The nodes are new: they meet, and get their slots.
        Creating = "Creating",
        /// The slots are assigned.
        Steady = "Steady",
    }
}

/// What was last known of a member's node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterNode {
    /// The member.
    pub member: String,
    /// Its id.
    pub id: String,
    /// The id of the master that it replicates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// Of a replica: it was in sync when its master was last seen to serve.
    pub in_sync: bool,
}
