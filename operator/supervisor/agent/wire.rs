//! The messages between operator and agent. Plain data; the rule of compatibility is that of `supervisor/wire.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;

use serde::{Deserialize, Serialize};

use crate::api::hash::short_hash;
use crate::api::reach::Reach;

/// The agent's socket inside its container.
pub const SOCKET: &str = "/run/evenkeel/agent.sock";

/// A message from the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Command {
    /// What to look at; replaces the previous order.
    Order(Order),
}

/// What an agent looks at.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Order {
    /// The first and the last port whose listeners are reported.
    pub ports: (u16, u16),
    /// Where the agents of the other hosts listen, by host.
    pub peers: BTreeMap<String, SocketAddrV4>,
}

impl Order {
    /// Its hash, by which a report says which order it follows.
    pub fn hash(&self) -> String {
        let peers: String = self.peers.iter().map(|(host, at)| format!("{host}={at}\n")).collect();
        short_hash(format!("{}-{}\n{peers}", self.ports.0, self.ports.1), 16)
    }
}

/// What an agent sees. It is sent at once when it changes, and otherwise every second.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// The hash of the order that it follows; empty before the first one.
    pub order: String,
    /// The kernel's boot id of the host.
    pub boot_id: String,
    /// Whether its peers can connect to it.
    pub listening: Listening,
    /// The ports of the order's range at which a program listens on the host's address, on loopback or on every address.
    pub listeners: BTreeSet<u16>,
    /// Whether its peers accept connections, as far as it is known.
    pub reach: BTreeMap<String, Reach>,
}

/// Whether an agent listens for its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Listening {
    /// It listens.
    Yes,
    /// Another program has its port.
    Taken,
    /// The host does not have the address.
    NotHere,
    /// It does not listen, for another reason.
    #[default]
    No,
}
