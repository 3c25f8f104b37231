//! What the plan of a Backup needs of another one. Pure.

use crate::api::backup::Backup;
use crate::api::object::{Object as _, Want};
use crate::kinds::attempts::Other;

/// What matters of another Backup.
pub fn other(backup: &Backup) -> Other {
    let status = backup.status.as_ref();
    let ended = status.is_some_and(|status| status.phase.is_terminal());
    Other {
        name: backup.name().to_owned(),
        created: backup.metadata.creation_timestamp.as_ref().map(|time| time.0),
        ended,
        runs: !ended && status.is_some_and(|status| status.member.is_some()),
        paused: backup.want() == Want::Paused,
        backup_id: status.and_then(|status| status.backup_id.clone()),
    }
}
