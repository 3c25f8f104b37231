//! The wire format as version 0.1.0 read and wrote it, for tests: an older supervisor, or an older operator. Never edited; a new
//! release gets a copy of its own, and the copy before the previous release goes.

#![allow(missing_docs)]

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A command as a supervisor of the release hears it; `None` if it does not understand it.
pub fn heard(command: &super::Command) -> Option<super::Command> {
    Some(translated(&translated::<Command>(command)?).expect("today's supervisor reads the release's words"))
}

/// A report as a supervisor of the release says it.
pub fn said(report: &super::Report) -> super::Report {
    let said: Option<Report> = translated(report);
    said.as_ref().and_then(translated).expect("today's operator reads the release's reports")
}

fn translated<T: DeserializeOwned>(value: &impl Serialize) -> Option<T> {
    serde_json::from_value(serde_json::to_value(value).ok()?).ok()
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Command {
    Order(Order),
    Credentials(Credentials),
    Restart { run: String },
    Renew { term: u64, clock_ms: u64 },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    pub term: u64,
    #[serde(default)]
    pub revision: u64,
    pub task: Task,
    pub settings: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Task {
    Prepare,
    Lead(Lead),
    Follow(Follow),
    Stop { graceful: bool },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lead {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<Init>,
    pub commit: Rule,
    pub confirm: Rule,
    pub slots: Vec<String>,
    pub database: String,
    pub owner: String,
    pub open: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Init {
    pub encoding: String,
    pub locale: String,
    pub data_checksums: bool,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    pub names: Vec<String>,
    pub count: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Follow {
    pub leader: String,
    pub address: String,
    pub slot: String,
    pub slots: Vec<String>,
    #[serde(default)]
    pub begun: BTreeMap<u32, u64>,
    pub lineage: Option<Lineage>,
    pub rewindable: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lineage {
    pub timeline: u32,
    pub history: Vec<Fork>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    pub hash: String,
    pub replication_password: String,
    pub owner_password: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    pub boot: String,
    pub clock_ms: u64,
    pub promised: u64,
    pub order: Option<Order>,
    pub begun: BTreeMap<u32, u64>,
    pub incarnation: Option<String>,
    pub system_identifier: Option<String>,
    pub data: Data,
    pub postgres: Postgres,
    pub run: String,
    pub server_version: Option<String>,
    pub timeline: Option<u32>,
    pub lsn: Option<String>,
    pub clean: bool,
    pub promise: Option<Promise>,
    pub cannot_promise: bool,
    pub receiver: Option<Receiver>,
    pub leading: Option<Leading>,
    pub gate_open: bool,
    pub job: Option<Job>,
    pub left: Option<Fork>,
    pub pending_restart: Vec<String>,
    pub setting_errors: Vec<String>,
    pub credentials: Option<String>,
    pub disk_free: u64,
    pub problem: Option<String>,
    pub start_pending: bool,
    pub terminating: bool,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Data {
    #[default]
    Unknown,
    None,
    Standby,
    Primary,
    Broken,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Postgres {
    #[default]
    Stopped,
    Starting,
    Standby,
    Primary,
    Stopping,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Promise {
    pub term: u64,
    pub timeline: u32,
    pub lsn: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receiver {
    pub streaming: bool,
    pub from: String,
    pub quiet_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leading {
    pub term: u64,
    pub commit: Option<Rule>,
    pub barrier: bool,
    pub confirmed: bool,
    pub history: Vec<Fork>,
    pub checkpointed: bool,
    pub replicas: Vec<Replica>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    pub incarnation: String,
    pub streaming: bool,
    pub silent_ms: u64,
    pub lsn: String,
    pub lag: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    pub kind: JobKind,
    pub error: Option<String>,
    pub failures: u32,
    pub running: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum JobKind {
    Init,
    Clone,
    Recover,
    Rewind,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fork {
    pub timeline: u32,
    pub ended_at: String,
}

/// `durable.json` on the data volume.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Durable {
    pub incarnation: Option<String>,
    pub promised: u64,
    pub order: Option<Order>,
    pub unfinished: Option<JobKind>,
    pub rewound: Option<u32>,
    pub begun: BTreeMap<u32, u64>,
    pub left: Option<Fork>,
}
