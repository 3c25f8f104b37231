//! The messages between the operator and the supervisors of Redis Cluster's members. Plain data, level-triggered; the rules
//! of [`crate::supervisor::redis::wire`] hold.

use serde::{Deserialize, Serialize};

use crate::supervisor::redis::wire::{Answer, Config, Credentials, Link, Server, Usage};

pub use crate::supervisor::redis::wire::{Address, PORT, SOCKET, VOLUME};

/// The port of the cluster's own connections.
pub const BUS_PORT: u16 = 16379;
/// Number of slots.
pub const SLOTS: u16 = 16384;
/// Most slots of one [`Act::Migrate`]. They are moved one after the other, each by some keys at a time.
pub const BATCH: usize = 256;

/// A message from the operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Command {
    /// The standing order; replaces the previous one.
    Order(Order),
    /// Passwords; kept in memory and in files of mode 0600, never sent back.
    Credentials(Credentials),
    /// One act. It is done once for each `id`, one after the other; its result is [`Report::answer`].
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
    /// The operator is there.
    Here,
}

/// What a member must do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// [`Report::run`] of the server that it is for. A server that is down starts only by an order that names its run.
    pub run: String,
    /// Whether that server may start.
    pub start: Start,
    /// How it is configured.
    pub config: Config,
}

/// Whether a server may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub enum Start {
    /// No: its slots are there with newer data, or will be.
    No,
    /// Yes, and it may serve the slots that its own file gives it.
    Lead,
    /// Yes, but if its own file gives it slots, these are another's: writes are paused until it knows that.
    Yield,
}

impl std::fmt::Display for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.start {
            Start::No => "stay shut",
            Start::Lead => "run, with its slots if it has some",
            Start::Yield => "run, and leave slots to those who have them now",
        })
    }
}

/// One act on the node of a member. Each is idempotent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Act {
    /// `CLUSTER SET-CONFIG-EPOCH`: nodes of a new cluster begin with different epochs.
    Epoch(u64),
    /// `CLUSTER ADDSLOTSRANGE`, from and to.
    AddSlots(u16, u16),
    /// `CLUSTER MEET`.
    Meet(Address),
    /// The same of a node whose second port does not follow from the first.
    MeetAt {
        /// Its address.
        to: Address,
        /// Its second port.
        bus: u16,
    },
    /// `CLUSTER REPLICATE` of the node with this id.
    Replicate(String),
    /// `CLUSTER FAILOVER`.
    Failover {
        /// Do not wait for the master. Refused by a replica that has no complete copy.
        force: bool,
    },
    /// `CLUSTER FAILOVER TAKEOVER`: without the vote of the other masters. Refused by a replica that has no complete copy.
    TakeOver,
    /// `CLUSTER FORGET` of the node with this id.
    Forget(String),
    /// `CLUSTER SETSLOT ... STABLE`: the slot is not being moved.
    Stable(u16),
    /// `CLUSTER RESET SOFT`: a replica without its data, a master without slots.
    Reset,
    /// Move slots with their keys to another master, one after the other. What an earlier migration began is continued.
    Migrate {
        /// The slots, at most [`BATCH`].
        slots: Vec<u16>,
        /// The id of the node.
        to: String,
        /// Its address.
        address: Address,
    },
}

impl std::fmt::Display for Act {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Epoch(epoch) => write!(f, "begin with epoch {epoch}"),
            Self::AddSlots(from, to) => write!(f, "serve slots {from}-{to}"),
            Self::Meet(address) | Self::MeetAt { to: address, .. } => write!(f, "meet {address}"),
            Self::Replicate(master) => write!(f, "replicate {}", short(master)),
            Self::Failover { force: true } => write!(f, "take over from its dead master"),
            Self::Failover { force: false } => write!(f, "take over from its master"),
            Self::TakeOver => write!(f, "take over from its dead master without a vote"),
            Self::Forget(id) => write!(f, "forget {}", short(id)),
            Self::Stable(slot) => write!(f, "end the move of slot {slot}"),
            Self::Reset => write!(f, "leave the cluster"),
            Self::Migrate { slots, to, .. } => write!(f, "move {} slots to {}", slots.len(), short(to)),
        }
    }
}

/// The beginning of an id, for people.
pub fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
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
    /// Its version.
    pub version: Option<String>,
    /// Hash of the credentials in force.
    pub credentials: Option<String>,
    /// Hash of the certificates in force.
    pub tls: Option<String>,
    /// The order in force; durable.
    pub order: Option<Order>,
    /// The node; of a server that does not answer, as its file has it. `None`: there is no file.
    pub node: Option<Node>,
    /// There is data on its volume, or in its memory.
    pub has_data: bool,
    /// Number of keys.
    pub keys: u64,
    /// `master_repl_offset`; the last one known.
    pub offset: u64,
    /// Of a replica that runs.
    pub link: Option<Link>,
    /// Of a server that runs: the replicas that it sends what it acknowledges. A replica is sent nothing before its own first
    /// acknowledgement, up to a second after its copy is complete. `None`: not told.
    pub fed: Option<Vec<Address>>,
    /// What it uses.
    pub usage: Usage,
    /// The act that runs: its id.
    pub acting: Option<String>,
    /// The result of the last act.
    pub answer: Option<Answer>,
    /// Directives that wait for a restart.
    pub pending_restart: Vec<String>,
    /// Directives that Redis refuses, each with its message.
    pub config_errors: Vec<String>,
    /// Bytes free on the data volume.
    pub disk_free: u64,
    /// The current problem, as text, if there is one.
    pub problem: Option<String>,
    /// SIGTERM was received: the container is stopping.
    pub terminating: bool,
    /// Another program of the host listens on one of its ports.
    pub port_taken: bool,
}

/// A node, as it knows the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    /// What it says of itself.
    pub own: Known,
    /// `cluster_state` is ok.
    pub ok: bool,
    /// Slots that it is giving away, and the id of the other node.
    pub migrating: Vec<(u16, String)>,
    /// Slots that it is receiving, and the id of the other node.
    pub importing: Vec<(u16, String)>,
    /// The other nodes that it knows.
    pub known: Vec<Known>,
}

/// A node, as a node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct Known {
    /// Its id.
    pub id: String,
    /// Its address; `None` if it has none.
    pub address: Option<Address>,
    /// The id of its master, if it is a replica.
    pub master: Option<String>,
    /// Its config epoch.
    pub epoch: u64,
    /// Its slots, from and to.
    pub slots: Vec<(u16, u16)>,
    /// It is taken for down.
    pub down: bool,
    /// The connection to it works.
    pub linked: bool,
}

/// The report without the fields that change all the time. A change of the result is sent, and handled, at once.
pub fn significant(report: &Report) -> Report {
    let ended = report.link.as_ref().is_some_and(|link| !link.up);
    let mut rest = Report {
        clock_ms: 0,
        keys: report.keys.min(1),
        offset: if ended { report.offset } else { 0 },
        usage: Usage::default(),
        disk_free: report.disk_free >> 28,
        ..report.clone()
    };
    if let Some(link) = &mut rest.link {
        link.down_s = 0;
    }
    rest
}
