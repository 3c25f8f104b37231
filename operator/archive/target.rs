//! How far a recovery goes. Plain data.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::lsn::Lsn;

/// The end of a recovery.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase")]
pub enum Target {
    /// Everything that is in the archive, on the lineage of the highest term.
    #[default]
    Latest,
    /// The transactions that committed before this time, and those of this very time unless it is exclusive.
    Time(Timestamp),
    /// This position in the WAL.
    Lsn(Lsn),
    /// This transaction.
    Xid(u64),
    /// A restore point of `pg_create_restore_point`.
    Name(String),
    /// The end of the base backup: as soon as the data is consistent.
    Immediate,
}

/// What to recover: from which archive is said elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct Recovery {
    /// The base backup to begin with; `None`: the newest one from which the target can be reached.
    #[serde(rename = "backupID", skip_serializing_if = "Option::is_none")]
    pub backup_id: Option<String>,
    /// Where to stop.
    pub target: Target,
    /// Stop before the target and not after it.
    pub exclusive: bool,
    /// The timeline to end on; `None`: that of the lineage of the highest term.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// Check the data by all means that there are, and use it only if it passes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub verify: bool,
}
