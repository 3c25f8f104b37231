//! The messages between the operator and the supervisors of Redis and of Sentinels: newline-delimited JSON over one stream.
//! Plain data. The rules of compatibility are those of [`crate::supervisor::wire`].
//!
//! The operator sends [`Command`]s; a supervisor answers with complete [`Report`]s, at once when a [`significant`] field
//! changed and otherwise every second. Both are level-triggered: the last message is sufficient.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

pub use self::backups::*;

mod backups;

/// The supervisor's socket inside its container.
pub const SOCKET: &str = "/run/evenkeel/supervisor.sock";
/// Mount path of the data volume.
pub const VOLUME: &str = "/data";
/// Redis' port inside the container.
pub const PORT: u16 = 6379;
/// Sentinel's port inside the container.
pub const SENTINEL_PORT: u16 = 26379;

/// The supervisor's own user, with all rights.
pub const ADMIN: &str = "evenkeel";
/// The user by which a replica replicates.
pub const REPLICATION: &str = "evenkeel_replication";
/// The user by which Sentinels watch the members and each other.
pub const SENTINEL: &str = "evenkeel_sentinel";

/// A server that has not answered for this long is hung, in milliseconds.
pub const HUNG_MS: u64 = 2_000;
/// Without a word of an operator for this long, a supervisor asks the Sentinels, in milliseconds.
pub const ALONE_MS: u64 = 3_000;

/// A message from the operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Command {
    /// The standing order of a data member; replaces the previous one.
    Order(Order),
    /// The standing order of a Sentinel; replaces the previous one.
    Watch(Watch),
    /// Passwords; kept in memory and in files of mode 0600, never sent back.
    Credentials(Credentials),
    /// One act of a Sentinel. It is done once for each `id`; its result is [`SentinelSeen::answer`].
    Act {
        /// Identifies the request.
        id: String,
        /// What to do.
        act: Act,
    },
    /// Restart the server of this run, because settings changed that need it. Ignored for any other run.
    Restart {
        /// [`Report::run`] of the server meant.
        run: String,
    },
    /// Where backups go, and where the first data comes from. Kept in memory and in a file of mode 0600, never sent back. Only for a
    /// data member that has reported [`Report::archives`].
    Archives(Box<Archives>),
    /// The snapshot to store; `None`: none, and one that runs is cut off. Only for a data member that has reported
    /// [`Report::archives`].
    Backup(Option<BackupOrder>),
    /// The backup to make the first data from. Only for a data member that has reported [`Report::archives`].
    Restore(RestoreOrder),
    /// The operator is there. The link sends it every second, so that a supervisor knows when it is alone.
    Here,
}

/// A host address and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Hash)]
pub struct Address {
    /// The address.
    pub ip: Ipv4Addr,
    /// The port.
    pub port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.ip, self.port)
    }
}

/// What a data member must do. An order of an older epoch, or of an older revision in one epoch, is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// Grows whenever another member may become master.
    pub epoch: u64,
    /// The revision of the decisions that it follows from.
    pub revision: u64,
    /// [`Report::run`] of the server that it is for. A server that is down starts only by an order that names its run.
    pub run: String,
    /// What to do.
    pub task: Task,
    /// How the server is configured.
    pub config: Config,
    /// The Sentinels to ask when there is no operator.
    pub sentinels: Sentinels,
}

/// The tasks of an [`Order`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Task {
    /// Start as master, or stay one. It makes no running replica a master: only a Sentinel does that.
    Lead {
        /// Writes are paused for this switchover.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pause: Option<String>,
    },
    /// Be a replica of this master.
    Follow {
        /// The master's member name, for people.
        master: String,
        /// Its address.
        address: Address,
    },
    /// Do not start the server. One that runs stays as it is.
    Wait,
    /// Stop the server.
    Stop,
}

impl std::fmt::Display for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let epoch = self.epoch;
        match &self.task {
            Task::Lead { pause: None } => write!(f, "lead in epoch {epoch}"),
            Task::Lead { pause: Some(_) } => write!(f, "pause writes before the switchover of epoch {epoch}"),
            Task::Follow { master, .. } => write!(f, "follow {master} in epoch {epoch}"),
            Task::Wait => write!(f, "stay shut in epoch {epoch}"),
            Task::Stop => write!(f, "stop in epoch {epoch}"),
        }
    }
}

/// How a data member's server is configured.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    /// The address and port that it announces.
    pub announce: Option<Address>,
    /// Directives of redis.conf, by name: the operator's defaults and the user's.
    pub directives: BTreeMap<String, String>,
    /// `replica-priority`: lower is preferred by Sentinel, 0 never.
    pub priority: u32,
    /// The application's user.
    pub username: String,
    /// Connections use TLS only.
    pub tls: bool,
}

/// The Sentinels of a RedisSentinel, for a supervisor that asks them, and for Sentinels themselves.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct Sentinels {
    /// Their addresses; a majority of these must agree.
    pub addresses: Vec<Address>,
    /// The name that they know the master by.
    pub master_name: String,
    /// Milliseconds after which a silent master is down to a Sentinel.
    pub down_after_ms: u64,
    /// `failover-timeout`, in milliseconds.
    pub failover_timeout_ms: u64,
}

/// The standing order of a Sentinel.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct Watch {
    /// Identifies the group of Sentinels. A Sentinel whose file is of another group starts with a new file; the old one is
    /// kept beside it.
    pub group: String,
    /// The address that it announces.
    pub announce: Option<Address>,
    /// The master, for a Sentinel that does not know the name yet; `None`: it must not learn it now.
    pub monitor: Option<Address>,
    /// The common settings.
    pub sentinels: Sentinels,
    /// Sentinels that must agree that the master is down.
    pub quorum: u32,
    /// `parallel-syncs`.
    pub parallel_syncs: u32,
    /// The application's user.
    pub username: String,
    /// Connections use TLS only.
    pub tls: bool,
}

/// One act of a Sentinel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Act {
    /// `SENTINEL FAILOVER`, once. Refused if the Sentinel takes another address for the master, sees a failover in
    /// progress, or, while `fresh` is set, has INFO of a replica that is younger than a second (it would not ask again).
    Failover {
        /// The master that is to be replaced.
        from: Address,
        /// Replicas differ, so that the Sentinel must ask them before it selects.
        fresh: bool,
    },
    /// A hello that names the new master, as the leader itself sends it one second later: until then clients would be told the
    /// old address. Refused if the Sentinel knows that epoch already.
    Announce {
        /// The new master; its server was seen to be a master.
        to: Address,
        /// The epoch of the failover, as the Sentinel that led it says.
        epoch: u64,
        /// That Sentinel. It names another one as the sender, because a Sentinel must not hear itself.
        leader: Address,
    },
    /// `SENTINEL RESET`, once. Refused by the supervisor unless the master is up, no failover runs, and everything that
    /// would be forgotten and is not in `keep` is down.
    Reset {
        /// The members and Sentinels that must be known again afterwards.
        keep: Vec<Address>,
    },
}

/// Passwords and certificates. `Debug` shows none of them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// Changes when any of the others changes; safe to show.
    pub hash: String,
    /// Password of [`ADMIN`].
    pub admin_password: String,
    /// Password of [`REPLICATION`].
    pub replication_password: String,
    /// Password of [`SENTINEL`].
    pub sentinel_password: String,
    /// The application's password.
    pub app_password: String,
    /// Certificates and keys; absent without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.hash)
    }
}

/// Certificates and keys, as PEM texts. `Debug` shows none of them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Changes when any of the others changes; safe to show.
    pub hash: String,
    /// The CA certificates to trust.
    pub ca: String,
    /// The certificate that the server shows, and by which it connects to other members.
    pub cert: String,
    /// Its key.
    pub key: String,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({})", self.hash)
    }
}

/// The complete state of a member, as its supervisor observes it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// New at each start of the supervisor.
    pub boot: String,
    /// The supervisor's clock when it sent this, in milliseconds.
    pub clock_ms: u64,
    /// Identifies the server that runs, or the one that will be started next: new at boot, and when a server has ended.
    pub run: String,
    /// The server.
    pub server: Server,
    /// Its version, e.g. `7.0.15`.
    pub version: Option<String>,
    /// Hash of the credentials in force.
    pub credentials: Option<String>,
    /// Hash of the certificates in force.
    pub tls: Option<String>,
    /// Of a data member.
    pub redis: Option<RedisSeen>,
    /// Of a Sentinel.
    pub sentinel: Option<SentinelSeen>,
    /// Bytes free on the data volume.
    pub disk_free: u64,
    /// The current problem, as text, if there is one.
    pub problem: Option<String>,
    /// SIGTERM was received: the container is stopping.
    pub terminating: bool,
    /// Another program of the host listens on its port.
    pub port_taken: bool,
    /// It is a data member that stores and restores backups.
    pub archives: bool,
    /// [`Archives::hash`] of what it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archives_held: Option<String>,
    /// The snapshot that is stored, or was last stored in this boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupState>,
    /// The restore that runs, or ran last in this boot, or that its data comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore: Option<BackupState>,
}

/// The state of a server process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub enum Server {
    /// It does not run.
    #[default]
    Stopped,
    /// It was started and does not answer yet.
    Starting,
    /// It loads its data and refuses commands.
    Loading,
    /// It answers.
    Running,
    /// It runs and has not answered for [`HUNG_MS`].
    Hung,
    /// It is being stopped.
    Stopping,
}

/// The state of a data member.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct RedisSeen {
    /// The order in force; durable.
    pub order: Option<Order>,
    /// Its role, as the server says; `None` while it does not answer.
    pub role: Option<Role>,
    /// The epoch of the order in force when this run's server turned from a replica into a master: a Sentinel has promoted it.
    pub promoted: Option<u64>,
    /// The offset at which it turned: `second_repl_offset` - 1.
    pub promoted_offset: u64,
    /// The history that it had in common with its master until then: `master_replid2`.
    pub promoted_replid: Option<String>,
    /// Where the data of its server ended when that was last made a replica out of a master. Durable.
    pub demoted: Option<Position>,
    /// There is data on its volume, or in its memory.
    pub has_data: bool,
    /// Number of keys in all databases; the last one known.
    pub keys: u64,
    /// `master_replid`.
    pub replid: Option<String>,
    /// `master_repl_offset`.
    pub offset: u64,
    /// Where its data was when it was last known, durable: what a server that is down would come back with at best.
    pub last: Option<Position>,
    /// Milliseconds, at least 1, from the last word of a server until it ended: what it acknowledged in them is not in
    /// [`RedisSeen::last`]. `None`: it runs, or that is not known.
    pub ended_ms: Option<u64>,
    /// Of a replica.
    pub link: Option<Link>,
    /// Of a master: its replicas.
    pub replicas: Vec<Replica>,
    /// `replica-priority` in force.
    pub priority: u32,
    /// The switchover for which writes are paused: nothing was acknowledged since, and [`RedisSeen::offset`] stands still.
    pub paused: Option<String>,
    /// Of a master: a new client wrote, as the application's user, in the last second. `None`: not tried yet.
    pub writable: Option<bool>,
    /// What it uses.
    pub usage: Usage,
    /// Directives that wait for a restart.
    pub pending_restart: Vec<String>,
    /// Directives that Redis refuses, each with its message.
    pub config_errors: Vec<String>,
    /// The directives of the order are not judged, or not in force yet.
    pub config_pending: bool,
    /// What a supervisor without an operator waits for.
    pub alone: Option<String>,
}

/// The role of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// It takes writes.
    Master,
    /// It replicates.
    Replica,
}

/// A position in the history of the data.
#[derive(Debug, Clone, PartialEq, Eq, Default, PartialOrd, Ord, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct Position {
    /// The epoch of the order in force then.
    pub epoch: u64,
    /// `master_repl_offset` then.
    pub offset: u64,
    /// `master_replid` then.
    pub replid: String,
}

/// A replica's link to its master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// The master that it follows.
    pub master: Address,
    /// It is connected and in sync.
    pub up: bool,
    /// A full copy is being received.
    #[serde(default)]
    pub syncing: bool,
    /// Seconds since the link broke.
    #[serde(default)]
    pub down_s: u64,
    /// It has had a complete copy of the data in this run.
    #[serde(default)]
    pub synced: bool,
}

/// A replica, as its master sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// The address that it announces.
    pub address: Address,
    /// It is in state `online`.
    pub online: bool,
    /// The offset that it acknowledged.
    pub offset: u64,
    /// Seconds since it last acknowledged.
    pub lag_s: u64,
}

/// What a server uses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct Usage {
    /// `used_memory`, in bytes.
    pub memory: u64,
    /// `maxmemory`, in bytes; 0: no limit.
    pub max_memory: u64,
    /// `maxmemory_policy`.
    pub eviction_policy: String,
    /// `evicted_keys`.
    pub evicted: u64,
    /// `mem_fragmentation_ratio`, in hundredths.
    pub fragmentation_percent: u32,
    /// `connected_clients`.
    pub clients: u64,
}

/// The state of a Sentinel.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct SentinelSeen {
    /// The order in force; durable.
    pub watch: Option<Watch>,
    /// Its id.
    pub id: Option<String>,
    /// Its current epoch; that of the failover that it leads.
    pub epoch: u64,
    /// It takes no decision, because its clock jumped.
    pub tilt: bool,
    /// What it knows of the master; `None`: it does not know the name.
    pub master: Option<MasterSeen>,
    /// The replicas that it knows.
    pub replicas: Vec<KnownReplica>,
    /// The other Sentinels that it knows.
    pub sentinels: Vec<KnownSentinel>,
    /// Why `SENTINEL CKQUORUM` is not OK.
    pub no_quorum: Option<String>,
    /// The result of the last act.
    pub answer: Option<Answer>,
}

/// What a Sentinel knows of the master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct MasterSeen {
    /// The address that it gives to clients.
    pub address: Address,
    /// The config epoch of that address: the higher one is the newer.
    pub config_epoch: u64,
    /// The quorum in force.
    pub quorum: u32,
    /// It takes the master for down.
    #[serde(default)]
    pub down: bool,
    /// A failover runs on this Sentinel.
    #[serde(default)]
    pub failing_over: bool,
    /// The role that the master reports is not master.
    #[serde(default)]
    pub not_master: bool,
}

/// A replica, as a Sentinel knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct KnownReplica {
    /// Its address.
    pub address: Address,
    /// It is down to this Sentinel.
    #[serde(default)]
    pub down: bool,
    /// `replica-priority`, as last asked.
    #[serde(default)]
    pub priority: u32,
}

/// Another Sentinel, as a Sentinel knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct KnownSentinel {
    /// Its id.
    pub id: String,
    /// Its address; port 0: another one has taken its address.
    pub address: Address,
    /// It is down to this Sentinel.
    #[serde(default)]
    pub down: bool,
}

/// The result of an act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The request.
    pub id: String,
    /// The refusal; `None`: done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Steps in which numbers that change all the time count as changed: free disk 256 MiB, memory 16 MiB, offsets none.
const DISK_BITS: u32 = 28;
const MEMORY_BITS: u32 = 24;

/// The report without the fields that change all the time. A change of the result is sent, and handled, at once.
pub fn significant(report: &Report) -> Report {
    let mut rest = Report { clock_ms: 0, disk_free: report.disk_free >> DISK_BITS, ..report.clone() };
    for work in rest.backup.iter_mut().chain(&mut rest.restore) {
        (work.bytes, work.stored) = (0, 0);
    }
    if let Some(redis) = &mut rest.redis {
        // The end of a replica's data matters once its master is gone, and that of a master once its writes are paused.
        let ended = redis.paused.is_some() || redis.link.as_ref().is_some_and(|link| !link.up);
        if !ended {
            redis.offset = 0;
        }
        (redis.last, redis.keys) = (None, redis.keys.min(1));
        redis.usage = Usage {
            memory: redis.usage.memory >> MEMORY_BITS,
            evicted: 0,
            fragmentation_percent: 0,
            clients: 0,
            ..redis.usage.clone()
        };
        if let Some(link) = &mut redis.link {
            link.down_s = 0;
        }
        for replica in &mut redis.replicas {
            (replica.offset, replica.lag_s) = (0, u64::from(replica.lag_s > 1));
        }
    }
    rest
}
