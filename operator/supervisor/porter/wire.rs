//! The messages between operator and porter. Plain data; the rule of compatibility is that of `supervisor/wire.rs`.

use serde::{Deserialize, Serialize};

use crate::archive::access::ArchiveAccess;
use crate::archive::volumes::Tally;
use crate::supervisor::wire::BackupState;

/// The porter's socket inside its container.
pub const SOCKET: &str = "/run/evenkeel/porter.sock";

/// A message from the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Command {
    /// What to do; replaces the previous order.
    Order(Box<Order>),
}

/// What a porter does. It is kept in memory alone, and never sent back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// The ID of the Backup, or the UID of the VolumeRestore.
    pub id: String,
    /// Counts the attempts of the object.
    pub attempt: u32,
    /// Which way the data goes.
    pub way: Way,
    /// The claim of the volume.
    pub claim: String,
    /// The folder of the copy in the store.
    pub copy: ArchiveAccess,
    /// Begin; otherwise it is only tried whether that will be possible.
    pub begin: bool,
}

/// Which way the data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Way {
    /// The volume is copied into the store.
    Store,
    /// The copy is restored into the volume.
    Restore,
}

/// The complete state of a porter. It is sent at once when it changes, and otherwise every second.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// New at each start.
    pub boot: String,
    /// What was tried last, if it was.
    pub tried: Option<Tried>,
    /// The work that runs, or ran last.
    pub work: Option<BackupState>,
    /// What was copied, once it is complete.
    pub tally: Option<Tally>,
}

/// Whether an order can be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tried {
    /// [`Order::id`].
    pub id: String,
    /// [`Order::attempt`].
    pub attempt: u32,
    /// Bytes of all files.
    pub bytes: u64,
    /// Why it is not possible now; `None`: it is.
    pub problem: Option<String>,
    /// Another try would find the same.
    pub lasting: bool,
}
