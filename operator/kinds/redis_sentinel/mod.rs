//! RedisSentinel: one master, replicas, and Sentinels that watch them.
//!
//! `observe` takes one snapshot of Docker and of the supervisors' reports, `plan` decides (members and containers in
//! `workload.rs`, who is master in `decide.rs`, the Sentinels' membership in `sentinels.rs`, the orders in `orders.rs`, the
//! text for people in `status.rs`, `promotion.rs` and `loss.rs`), `act` performs. The protocol and its invariants: `docs/redis.md`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::api::backup::Backup;
use crate::api::docker_host::DockerHost;
use crate::api::endpoints::private_network;
use crate::api::failure::{Class, Failure};
use crate::api::labels::Owner;
use crate::api::object::Object as _;
use crate::api::port_reservation::PortReservation;
use crate::api::redis_sentinel::{RedisDecisions, RedisPlace, RedisSentinel, RedisSentinelStatus};
use crate::engine::hosts::Hosts;
use crate::kinds::certificates::authority::{self, Authorities, Authority};
use crate::kinds::certificates::due::{CertificatesSeen, Due};
use crate::kinds::containers::{Docker, DockerSeen, DockerStep, Needs, WorkSeen, container_name};
use crate::kinds::host_state;
use crate::kinds::hosts::{self, DeclaredHosts};
use crate::kinds::kept::Kept;
use crate::kinds::links::{LinkSeen, Links};
use crate::kinds::loss::Silent;
use crate::kinds::ports::{self, PortStep, Reserved};
use crate::kinds::redis_certificates;
use crate::kinds::sentinel_reports::RedisSpeech;
use crate::kinds::silence::Silence;
use crate::kinds::stores::ArchivesSeen;
use crate::kinds::waits::{Waited, Waits};
use crate::runtime::{Concern, Keeper, Kind, Planned, Significance, Wake, Want, clock};
use crate::store::objects::Objects;
use crate::store::{Clock, Error, Key};
use crate::supervisor::redis::wire::{Act, Address, Command, Order, Report, RestoreOrder, Server, Watch};

mod bridge;
mod certificates;
mod cut_off;
mod decide;
mod decided;
mod definition;
mod loss;
#[cfg(test)]
mod model;
mod orders;
mod places;
mod plan;
mod promotion;
mod recovery;
#[cfg(test)]
mod scenarios;
mod secrets;
mod sentinels;
#[cfg(test)]
mod simulation;
mod status;
mod stores;
mod view;
mod workload;
#[cfg(test)]
mod world;
mod yielding;

pub use secrets::{Facts, SecretsSeen};

/// The kind of RedisSentinel objects.
pub struct RedisSentinelKind {
    docker: Docker,
    objects: Objects,
    clock: Arc<dyn Clock>,
    links: Links<RedisSpeech>,
    /// The offset that each data member last reported, and when.
    offsets: Kept<(u64, Instant)>,
    /// The certificates that were verified.
    authorities: Authorities,
    /// Since when hosts do not answer.
    silence: Silence,
    /// Since when this operator has known of what is recorded.
    waits: Waits,
}

impl RedisSentinelKind {
    /// The kind over these hosts and objects; `wake` is called with an object whose supervisors have news.
    pub fn new(hosts: Arc<Hosts>, objects: Objects, clock: Arc<dyn Clock>, wake: Wake) -> Self {
        let docker = Docker::new(hosts, objects.clone(), wake.clone());
        let (links, offsets) = (Links::new(wake, &objects), Kept::default());
        Self {
            docker,
            objects,
            clock,
            links,
            offsets,
            authorities: Authorities::default(),
            silence: Silence::default(),
            waits: Waits::default(),
        }
    }
}

/// The recorded moments that decisions wait from.
fn moments(object: &RedisSentinel) -> Vec<Timestamp> {
    let decisions = object.status.iter().filter_map(|status| status.decisions.as_ref());
    let of = |one: &RedisDecisions| {
        let change = one.change.as_ref().map(|change| change.since);
        let restored = one.recovery.as_ref().map(|recovery| recovery.since);
        [Some(one.since), change, one.reset.as_ref().map(|reset| reset.since), restored]
    };
    decisions.flat_map(of).flatten().collect()
}

impl RedisSentinelKind {
    /// The certificates; `None` without TLS.
    async fn certificates(&self, object: &RedisSentinel) -> Result<Option<Arc<Authority>>, Error> {
        let now = self.clock.now();
        redis_certificates::authority(&self.authorities, &self.objects, object, &object.spec.tls, now).await
    }

    /// The last offsets, also of members whose container is gone.
    fn offsets(&self, owner: &Owner, heard: &BTreeMap<String, LinkSeen<Report>>) -> BTreeMap<String, (u64, u64)> {
        let now = clock::instant();
        let heard = heard.iter().filter_map(|(member, link)| {
            let seen = link.report.redis.as_ref().filter(|_| link.report.server == Server::Running)?;
            let at = now.checked_sub(std::time::Duration::from_millis(link.silent_ms))?;
            Some((member.clone(), (seen.offset, at)))
        });
        let ms = |at: Instant| u64::try_from(now.duration_since(at).as_millis()).unwrap_or(u64::MAX);
        let kept = self.offsets.keep(owner, heard);
        kept.into_iter().map(|(member, (offset, at))| (member, (offset, ms(at)))).collect()
    }
}

impl Kind for RedisSentinelKind {
    type Object = RedisSentinel;
    type Status = RedisSentinelStatus;
    type Observed = Observed;
    type Step = Step;

    fn concerns() -> Vec<Concern> {
        vec![
            Concern::referenced("secrets"),
            // What it is restored from.
            Concern::referenced(Backup::RESOURCE),
            Concern::referenced(Self::Object::RESOURCE),
            Concern::all(DockerHost::RESOURCE).only(host_state),
            Concern::all(PortReservation::RESOURCE).only(ports::claim),
        ]
    }

    fn references(object: &RedisSentinel) -> Vec<Key> {
        secrets::keys(object).chain(stores::keys(object)).collect()
    }

    async fn observe(&self, object: &RedisSentinel) -> Result<Observed, Failure> {
        let owner = object.owner();
        let networks = [network_name(object)].into();
        let needs = Needs { images: [object.spec.image.clone()].into(), networks, ..Default::default() };
        let (declared, reserved) = (hosts::read(&self.objects).await?, ports::read(&self.objects).await?);
        let (hosts, authority) = tokio::join!(
            self.docker.observe(&owner, places::hosts(object, &declared), &needs),
            self.certificates(object),
        );
        let authority = authority?;
        let secrets = secrets::read(&self.objects, object, authority.as_deref()).await?;
        let (archives, backup) = stores::read(&self.objects, object).await?;
        self.links.keep(&self.docker.hosts, &owner, &hosts);
        let links = self.links.heard(&owner);
        Ok(Observed {
            declared,
            reserved,
            offsets: self.offsets(&owner, &links),
            links,
            calling: self.links.calling(&owner),
            refused: self.links.refused(&owner),
            work: self.docker.work.heard(&owner),
            waited: self.waits.note(&owner, moments(object)),
            silent: self.silence.note(&hosts),
            hosts,
            secrets,
            archives,
            backup,
            certificates: authority.as_deref().map(Authority::seen),
        })
    }

    fn plan(&self, object: &RedisSentinel, observed: &Observed, want: Want, now: Timestamp) -> Planned<Self> {
        plan::plan(object, observed, want, now)
    }

    async fn act(&self, object: &RedisSentinel, step: &Step) -> Result<(), Failure> {
        let send = |member: &str, command| {
            let sent = self.links.send(&object.owner(), member, command);
            sent.map_err(|failure| Failure::new(failure.class, format!("{member}: {failure}")))
        };
        match step {
            Step::Certificates(due) => authority::perform(&self.objects, self.clock.now(), object, *due).await,
            Step::EnsureSecrets(facts) => {
                let authority = self.certificates(object).await?;
                secrets::ensure(&self.objects, &*self.clock, object, authority.as_deref(), facts).await
            }
            Step::Port(step) => ports::act(&self.objects, step).await,
            Step::Docker(step) => self.docker.act(&object.owner(), step).await,
            Step::Order { member, order } => send(member, Command::Order((**order).clone())),
            Step::Watch { member, watch } => send(member, Command::Watch((**watch).clone())),
            Step::Act { member, id, act } => send(member, Command::Act { id: id.clone(), act: act.clone() }),
            Step::SendCredentials { member } => {
                let authority = self.certificates(object).await?;
                let credentials =
                    secrets::credentials(&self.objects, object, authority.as_deref()).await?.ok_or_else(|| {
                        Failure::new(Class::Transient, "the Secrets of the RedisSentinel do not exist yet")
                    })?;
                send(member, Command::Credentials(credentials))
            }
            Step::SendArchives { member } => {
                let stores = stores::stores(&self.objects, object).await?;
                let archives = match (stores, stores::closed(object)) {
                    (Ok(stores), _) => stores.archives,
                    (Err(_), Some(closed)) => closed,
                    (Err((_, message)), None) => return Err(Failure::new(Class::Transient, message)),
                };
                send(member, Command::Archives(Box::new(archives)))
            }
            Step::Restore { member, order } => send(member, Command::Restore(order.clone())),
            Step::Restart { member, run, .. } => send(member, Command::Restart { run: run.clone() }),
        }
    }

    fn companions(&self) -> Vec<&dyn Keeper> {
        vec![&self.docker.work, &self.links, &self.offsets, &self.authorities, &self.waits]
    }
}

/// One snapshot of everything that the plan needs.
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
    /// The link to each member's supervisor, by member name.
    pub links: BTreeMap<String, LinkSeen<Report>>,
    /// The offset that each data member last reported, and how many milliseconds ago, by member name.
    pub offsets: BTreeMap<String, (u64, u64)>,
    /// This operator has just started, and a supervisor has not answered it yet.
    pub calling: bool,
    /// Why the last report of a member was refused, by member name.
    pub refused: BTreeMap<String, String>,
    /// Its Secrets.
    pub secrets: SecretsSeen,
    /// What opens its stores.
    pub archives: ArchivesSeen,
    /// The ID of the backup that it is restored from; `None`: the newest one, or none.
    pub backup: Option<String>,
    /// Its certificates; `None` without TLS.
    pub certificates: Option<CertificatesSeen>,
}

/// One step. All are idempotent; `Display` is the log line, the Event, the dry run and the test's expectation.
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Generate missing passwords, and write the connection data into the application's Secret.
    EnsureSecrets(Facts),
    /// Reserve or release a port of a host.
    Port(PortStep),
    /// One change of the certificates.
    Certificates(Due),
    /// A step on its containers, volumes or network.
    Docker(DockerStep),
    /// Send a data member its order.
    Order { member: String, order: Box<Order> },
    /// Send a Sentinel its order.
    Watch { member: String, watch: Box<Watch> },
    /// Let a Sentinel act.
    Act { member: String, id: String, act: Act },
    /// Send a member the passwords.
    SendCredentials { member: String },
    /// Send a data member what opens the stores.
    SendArchives { member: String },
    /// Let a data member make the first data from a backup.
    Restore { member: String, order: RestoreOrder },
    /// Restart the server of a data member, if this `run` is still its current one.
    Restart { member: String, run: String, why: String },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EnsureSecrets(_) => write!(f, "write the Secrets"),
            Self::Certificates(due) => due.fmt(f),
            Self::Port(step) => step.fmt(f),
            Self::Docker(step) => step.fmt(f),
            Self::Order { member, order } => write!(f, "order {member}: {order}"),
            Self::Watch { member, watch } => match watch.monitor {
                Some(master) => write!(f, "let {member} watch {master}"),
                None => write!(f, "tell {member} its settings"),
            },
            Self::Act { member, act: Act::Failover { from, .. }, .. } => {
                write!(f, "ask {member} to promote a replica of {from}")
            }
            Self::Act { member, act: Act::Announce { to, .. }, .. } => write!(f, "tell {member} that {to} is master"),
            Self::Act { member, act: Act::Reset { .. }, .. } => {
                write!(f, "let {member} forget members that do not exist any more")
            }
            Self::SendCredentials { member } => write!(f, "give {member} its credentials"),
            Self::SendArchives { member } => write!(f, "give {member} what opens the store"),
            Self::Restore { member, order } => match &order.backup {
                Some(id) => write!(f, "let {member} restore backup {id}, attempt {}", order.attempt),
                None => write!(f, "let {member} restore the newest backup, attempt {}", order.attempt),
            },
            Self::Restart { member, why, .. } => write!(f, "restart the server of {member}: {why}"),
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
            Self::Restart { .. } => Some("Restarting"),
            Self::Restore { .. } => Some("Recovering"),
            Self::Certificates(due) => due.event_reason(),
            Self::Act { act: Act::Failover { .. }, .. } => Some("Promoting"),
            Self::Act { act: Act::Reset { .. }, .. } => Some("Forgetting"),
            Self::Act { .. }
            | Self::EnsureSecrets(_)
            | Self::Port(_)
            | Self::Order { .. }
            | Self::Watch { .. }
            | Self::SendArchives { .. }
            | Self::SendCredentials { .. } => None,
        }
    }

    /// Members are independent of each other: one that cannot be reached or started delays no other.
    fn lane(&self) -> Option<&str> {
        match self {
            Self::Docker(step) => step.lane(),
            Self::Order { member, .. }
            | Self::Watch { member, .. }
            | Self::Act { member, .. }
            | Self::SendCredentials { member }
            | Self::SendArchives { member }
            | Self::Restore { member, .. }
            | Self::Restart { member, .. } => Some(member),
            Self::EnsureSecrets(_) | Self::Certificates(_) => Some("Secrets"),
            Self::Port(_) => Some("ports"),
        }
    }
}

impl From<DockerStep> for Step {
    fn from(step: DockerStep) -> Self {
        Self::Docker(step)
    }
}

/// The network of the object.
pub fn network_name(object: &RedisSentinel) -> String {
    private_network(RedisSentinelKind::NAME, object.namespace(), object.name()).unwrap_or_default()
}

/// What applications need to connect, once the master and every Sentinel have an address.
fn facts(decisions: &RedisDecisions) -> Option<Facts> {
    let address = |place: &RedisPlace| Some(Address { ip: place.address?, port: place.port });
    let master = decisions.master.as_ref().or(decisions.members.first().map(|place| &place.name))?;
    let sentinels: Option<Vec<_>> = decisions.sentinels.iter().map(address).collect();
    let place = decisions.members.iter().find(|place| place.name == *master)?;
    Some(Facts { master: address(place)?, sentinels: sentinels? })
}
