//! The part of the messages that is about backups and the restore of one. Plain data, compatible like [`super`].

use serde::{Deserialize, Serialize};

pub use crate::supervisor::wire::{Archives, BackupOrder, BackupPhase, BackupState, RdbState};

/// The backup that the first data is made from, before any server has run. The archive is [`Archives::source`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct RestoreOrder {
    /// UID of the object.
    pub id: String,
    /// Counts the attempts; one that failed is not repeated by the supervisor.
    pub attempt: u32,
    /// The ID of the backup; `None`: the newest one that is complete.
    pub backup: Option<String>,
}
