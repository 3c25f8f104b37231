//! PostgresCluster: one primary, streaming standbys, automatic failover.
//!
//! `observe` takes one snapshot of Docker and of the supervisors' reports, `plan` decides (members and containers in
//! `workload.rs`, the protocol in `protocol/` with its arithmetic in `quorum.rs`, the text for people in `status.rs`
//! and `promotion.rs`), `act` performs. The protocol and its invariants: `docs/protocol.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::api::backup::Backup;
use crate::api::docker_host::DockerHost;
use crate::api::endpoints::private_network;
use crate::api::failure::Failure;
use crate::api::libraries::Libraries;
use crate::api::object::Object as _;
use crate::api::port_reservation::PortReservation;
use crate::api::postgres_cluster::{PostgresCluster, PostgresClusterStatus};
use crate::engine::hosts::Hosts;
use crate::kinds::certificates::authority::Authorities;
use crate::kinds::certificates::due::{CertificatesSeen, Due};
use crate::kinds::containers::{Docker, DockerSeen, DockerStep, WorkSeen, container_name};
use crate::kinds::host_state;
use crate::kinds::hosts::DeclaredHosts;
use crate::kinds::kept::Kept;
use crate::kinds::links::{self, Links};
use crate::kinds::loss::Silent;
use crate::kinds::ports::{self, PortStep, Reserved};
use crate::kinds::postgres_reports::PostgresSpeech;
use crate::kinds::silence::Silence;
use crate::kinds::stores::ArchivesSeen;
use crate::kinds::waits::{Waited, Waits};
use crate::runtime::companions::Companions;
use crate::runtime::{Concern, Keeper, Kind, Planned, Significance, Wake, Want};
use crate::store::objects::Objects;
use crate::store::{Clock, Key};
use crate::supervisor::wire::{Order, Report};

mod act;
mod archive;
mod bridge;
mod certificates;
mod collations;
mod decided;
mod definition;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod hostile;
mod invariants;
mod loss;
#[cfg(test)]
mod model;
mod observe;
mod orders;
mod outlook;
mod places;
pub mod plan;
mod promotion;
mod protocol;
pub mod quorum;
mod recovery;
mod restore_tests;
mod routing;
#[cfg(test)]
mod scenarios;
mod secrets;
#[cfg(test)]
mod simulation;
mod status;
mod stores;
mod target;
mod upgrade;
mod view;
pub mod workload;
#[cfg(test)]
mod world;

/// The resource in the store.
pub const RESOURCE: &str = "postgresclusters.evenkeel.dev";

/// The kind of PostgresCluster objects.
pub struct PostgresClusterKind {
    docker: Docker,
    objects: Objects,
    clock: Arc<dyn Clock>,
    links: Links<PostgresSpeech>,
    /// When a new session last wrote to each member.
    proofs: Kept<Instant>,
    /// The libraries of images that were asked for.
    libraries: Companions<collations::ImageOn, Libraries>,
    /// The certificates that were verified.
    authorities: Authorities,
    /// Since when hosts do not answer.
    silence: Silence,
    /// Since when this operator has known of what is recorded.
    waits: Waits,
}

impl PostgresClusterKind {
    /// The kind over these hosts and objects; `wake` is called with a cluster whose supervisors have news.
    pub fn new(hosts: Arc<Hosts>, objects: Objects, clock: Arc<dyn Clock>, wake: Wake) -> Self {
        let docker = Docker::new(hosts, objects.clone(), wake.clone());
        let libraries = Companions::new(wake.clone());
        let (links, proofs) = (Links::new(wake, &objects), Kept::default());
        let (authorities, silence, waits) = Default::default();
        Self { docker, objects, clock, links, proofs, libraries, authorities, silence, waits }
    }
}

impl Kind for PostgresClusterKind {
    type Object = PostgresCluster;
    type Status = PostgresClusterStatus;
    type Observed = Observed;
    type Step = Step;

    fn concerns() -> Vec<Concern> {
        vec![
            Concern::referenced("secrets"),
            // What a cluster is recovered from.
            Concern::referenced(RESOURCE),
            Concern::all(DockerHost::RESOURCE).only(host_state),
            Concern::all(PortReservation::RESOURCE).only(ports::claim),
            Concern::named_in(Backup::RESOURCE, restore_tests::cluster_of).only(restore_tests::part),
        ]
    }

    fn references(object: &PostgresCluster) -> Vec<Key> {
        secrets::keys(object).chain(stores::keys(object)).chain(stores::source_cluster(object)).collect()
    }

    async fn observe(&self, object: &PostgresCluster) -> Result<Observed, Failure> {
        observe::observe(self, object).await
    }

    fn plan(&self, object: &PostgresCluster, observed: &Observed, want: Want, now: Timestamp) -> Planned<Self> {
        plan::plan(object, observed, want, now)
    }

    /// What was recorded is waited for from now. A refused decision is a fault of Evenkeel: it is logged once, when the condition
    /// appears or changes.
    fn recorded(&self, before: &PostgresCluster, status: &PostgresClusterStatus) {
        self.waits.note(&before.owner(), observe::moments(Some(status)));
        let told = before.status.as_ref().and_then(plan::violation);
        if let Some(message) = plan::violation(status).filter(|message| told != Some(*message)) {
            tracing::error!(cluster = before.name(), "{message}");
        }
    }

    async fn act(&self, object: &PostgresCluster, step: &Step) -> Result<(), Failure> {
        act::act(self, object, step).await
    }

    async fn outlook(&self, object: &PostgresCluster) -> Result<Value, Failure> {
        Ok(json!(outlook::outlook(&self.objects, object, self.clock.now()).await?))
    }

    fn companions(&self) -> Vec<&dyn Keeper> {
        vec![&self.docker.work, &self.links, &self.proofs, &self.libraries, &self.authorities, &self.waits]
    }
}

/// One snapshot of everything that the plan of a cluster needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// What the DockerHosts declare.
    pub declared: DeclaredHosts,
    /// The reserved ports.
    pub reserved: Reserved,
    /// How long this operator has known of the recorded moments.
    pub waited: Waited,
    /// The hosts that do not answer.
    pub silent: Silent,
    /// What was observed on the hosts of its members.
    pub hosts: BTreeMap<String, DockerSeen>,
    /// Background work on its containers that runs, or that failed.
    pub work: WorkSeen,
    /// The libraries of images, as far as they were asked for.
    pub libraries: collations::LibrariesSeen,
    /// The link to each member's supervisor, by member name.
    pub links: BTreeMap<String, LinkSeen>,
    /// Milliseconds since a new session last wrote to each member, as far as heard, by member name.
    pub proven_ms: BTreeMap<String, u64>,
    /// This operator has just started, and a supervisor has not answered it yet.
    pub calling: bool,
    /// Why the last report of a member was refused, by member name.
    pub refused: BTreeMap<String, String>,
    /// The cluster's Secrets.
    pub secrets: SecretsSeen,
    /// What opens its archives.
    pub archives: ArchivesSeen,
    /// Its Backups; `None`: not looked at.
    pub backups: Option<BackupsSeen>,
    /// Its certificates; `None`: not looked at.
    pub certificates: Option<CertificatesSeen>,
}

/// The Backups of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BackupsSeen {
    /// Their names.
    pub names: BTreeSet<String>,
    /// Their restore tests that have ended.
    pub tests: Vec<RestoreTest>,
}

/// A restore test of a Backup of the cluster, which has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreTest {
    /// The Backup.
    pub backup: String,
    /// When it ended.
    pub at: Timestamp,
    /// Why it failed; `None`: it passed.
    pub failure: Option<String>,
    /// When the Backup last passed one.
    pub passed_at: Option<Timestamp>,
}

/// The state of a link to a supervisor.
pub type LinkSeen = links::LinkSeen<Report>;

/// The state of a cluster's Secrets, without their values.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SecretsSeen {
    /// Why the Secret that the user named for the owner's password is missing or lacks a key.
    pub source_problem: Option<String>,
    /// Both of Evenkeel's Secrets exist.
    pub complete: bool,
    /// Hash of the passwords in use.
    pub hash: String,
    /// The current `host` of the application's Secret: addresses, comma-separated.
    pub host: String,
    /// Its current `port`: one, or one for each address.
    pub port: String,
}

/// One step. All are idempotent; `Display` is the log line, the Event, the dry run and the test's expectation.
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Generate missing passwords, and write the connection data into the application's Secret: `host` are the
    /// addresses of the instances, comma-separated, `port` is one port or one for each.
    EnsureSecrets { host: String, port: String },
    /// Reserve or release a port of a host.
    Port(PortStep),
    /// One change of the cluster's certificates.
    Certificates(Due),
    /// A step on its containers, volumes or network.
    Docker(DockerStep),
    /// Start to ask the image with this ID by which libraries it sorts text.
    AskImage { host: String, image: String },
    /// Send an instance its order.
    Order { member: String, order: Box<Order> },
    /// Send an instance the cluster's passwords.
    SendCredentials { member: String },
    /// Send an instance what opens the cluster's archives.
    SendArchives { member: String },
    /// Create a Backup, because the archive lacks WAL after the last base backup; one of this name is left as it is.
    BackUp { name: String, gap: String },
    /// Restart the postmaster of an instance, if this `run` is still its current one.
    RestartPostgres { member: String, run: String, why: String },
    /// Renew the leader's grant, because too few of its voters can confirm it; `clock_ms` is its clock in the report
    /// that this answers.
    Renew { member: String, term: u64, clock_ms: u64 },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EnsureSecrets { .. } => write!(f, "write the cluster's Secrets"),
            Self::Certificates(due) => due.fmt(f),
            Self::Port(step) => step.fmt(f),
            Self::Docker(step) => step.fmt(f),
            Self::AskImage { host, image } => write!(f, "ask image {image} on {host} by which libraries it sorts text"),
            Self::Order { member, order } => write!(f, "order {member}: {order}"),
            Self::SendCredentials { member } => write!(f, "give {member} its credentials"),
            Self::SendArchives { member } => write!(f, "give {member} what opens the archive"),
            Self::BackUp { name, gap } => write!(f, "create Backup {name}: WAL {gap} is missing in the archive"),
            Self::RestartPostgres { member, why, .. } => write!(f, "restart PostgreSQL of {member}: {why}"),
            Self::Renew { member, term, .. } => write!(f, "confirm {member} as leader of term {term}"),
        }
    }
}

impl Significance for Step {
    fn failure_reason(&self) -> &'static str {
        match self {
            Self::Docker(step) => step.failure_reason(),
            _ => "StepFailed",
        }
    }

    fn event_reason(&self) -> Option<&'static str> {
        match self {
            Self::Docker(step) => step.event_reason(),
            Self::RestartPostgres { .. } => Some("Restarting"),
            Self::BackUp { .. } => Some("BackupCreated"),
            Self::Order { order, .. } => order.event_reason(),
            Self::Certificates(due) => due.event_reason(),
            Self::Port(step) => step.event_reason(),
            Self::EnsureSecrets { .. }
            | Self::AskImage { .. }
            | Self::SendCredentials { .. }
            | Self::SendArchives { .. }
            | Self::Renew { .. } => None,
        }
    }

    /// Members are independent of each other: one that cannot be reached or started delays no other.
    fn lane(&self) -> Option<&str> {
        match self {
            Self::Docker(step) => step.lane(),
            Self::Order { member, .. }
            | Self::SendCredentials { member }
            | Self::SendArchives { member }
            | Self::RestartPostgres { member, .. }
            | Self::Renew { member, .. } => Some(member),
            Self::AskImage { host, .. } => Some(host),
            Self::EnsureSecrets { .. } | Self::Certificates(_) => Some("Secrets"),
            Self::Port(_) => Some("ports"),
            Self::BackUp { name, .. } => Some(name),
        }
    }
}

impl From<DockerStep> for Step {
    fn from(step: DockerStep) -> Self {
        Self::Docker(step)
    }
}

/// The cluster's network.
pub fn network_name(object: &PostgresCluster) -> String {
    private_network(PostgresClusterKind::NAME, object.namespace(), object.name()).unwrap_or_default()
}

/// The network of its members, for replication. No object's own network has this name: names have no underscore.
pub fn peers_network_name(object: &PostgresCluster) -> String {
    format!("{}_peers", network_name(object))
}
