//! Performs one step: one command to a supervisor, no policy.

use super::{BackupKind, Step, command};
use crate::api::backup::Backup;
use crate::api::failure::Failure;
use crate::api::object::Object as _;

/// Performs `step`; the failure names the member.
pub fn act(controller: &BackupKind, object: &Backup, step: &Step) -> Result<(), Failure> {
    // What people are told is the Event of the step itself.
    let Some((member, command)) = command(step) else { return Ok(()) };
    let sent = controller.links.send(&object.owner(), member, command);
    sent.map_err(|failure| Failure::new(failure.class, format!("{member}: {failure}")))
}
