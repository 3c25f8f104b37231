//! What the supervisor of a data member knows, and what it does next, as values. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::supervisor::redis::wire::{Address, Order, Role, Server};

/// Seconds after which a replica without a link to its master has lost it. Sentinels hear of a promotion within two.
pub const CUT_S: u64 = 3;

/// What survives: `durable.json`. Written and fsynced before anything follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Durable {
    /// The order in force.
    pub order: Option<Order>,
    /// The directives of the order that a server last started with.
    pub good: Option<BTreeMap<String, String>>,
    /// The newest data is in the append-only file (`true`) or in the snapshot; `None`: no server has run here.
    pub appends: Option<bool>,
}

/// Why writes are paused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Pause {
    /// For this switchover.
    Switchover(String),
    /// The container stood still, and another may be master since.
    Doubt,
}

/// What a majority of the Sentinels says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Named {
    /// The master that they name.
    pub master: Address,
    /// A majority names it in this config epoch or a higher one.
    pub config_epoch: u64,
    /// They see no replica that could be promoted, and have seen none for long.
    pub hopeless: bool,
}

/// What one Sentinel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Said {
    /// The master that it names.
    pub master: Address,
    /// The config epoch of that.
    pub config_epoch: u64,
    /// It sees a replica that could be promoted.
    pub promotable: bool,
}

/// All that a decision needs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Seen {
    /// What survives.
    pub durable: Durable,
    /// Identifies the server that runs, or that will be started next.
    pub run: String,
    /// There are the passwords, and with TLS the certificates.
    pub credentials: bool,
    /// The server.
    pub server: Server,
    /// A signal has stopped its process, so that it will not answer.
    pub halted: bool,
    /// The pause after a failure is over.
    pub due: bool,
    /// SIGTERM was received.
    pub terminating: bool,
    /// A restart of this run was asked for.
    pub restart: bool,
    /// The role of the running server, as it last said; before that, the one that it was started in.
    pub role: Option<Role>,
    /// The master that it follows.
    pub follows: Option<Address>,
    /// Its link to that master has been down for [`CUT_S`].
    pub cut: bool,
    /// The epoch of the order in force when it turned from a replica into a master in this run.
    pub promoted: Option<u64>,
    /// The task of the order in force was carried out in this run: what differs now, a Sentinel has changed.
    pub settled: bool,
    /// The configuration and the passwords of the order are in force, or were refused.
    pub tuned: bool,
    /// Writes are paused.
    pub paused: Option<Pause>,
    /// The switchover for which writes were paused, and resumed without the operator.
    pub lifted: Option<String>,
    /// No operator has spoken for [`ALONE_MS`](crate::supervisor::redis::wire::ALONE_MS).
    pub alone: bool,
    /// The container stood still while the server was a master, and nobody has confirmed since that it is the one.
    pub doubt: bool,
    /// There is data on the volume.
    pub has_data: bool,
    /// What a majority of the Sentinels says now; `None`: not asked, or no majority agrees.
    pub named: Option<Named>,
    /// The highest config epoch in which a majority has named this member in this run.
    pub confirmed: Option<u64>,
}

/// What the supervisor does next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Act {
    /// Nothing.
    Wait,
    /// Start the server, as a replica of this master, or as a master.
    Start(Option<Address>),
    /// Stop it; it saves what its persistence says.
    Stop,
    /// SIGKILL: it does not answer, and will not, or must not go on in its role.
    Kill,
    /// Make it a replica of this master.
    Follow(Address),
    /// Pause writes, and keep them paused.
    Pause(Pause),
    /// Resume writes.
    Resume,
    /// Bring configuration and passwords into force.
    Tune,
    /// End: the server has ended.
    Exit,
}
