//! Performs one step: one command to a supervisor, no policy.

use super::{DatabaseRestoreKind, Step, observe};
use crate::api::database_restore::DatabaseRestore;
use crate::api::failure::{Class, Failure};
use crate::api::object::Object as _;
use crate::archive::access::ArchiveAccess;
use crate::supervisor::wire::{Command, RestoreOrder};

/// Performs `step`; the failure names the member.
pub async fn act(controller: &DatabaseRestoreKind, object: &DatabaseRestore, step: &Step) -> Result<(), Failure> {
    let send = |member: &str, command: Command| {
        let sent = controller.links.send(&object.owner(), member, command);
        sent.map_err(|failure| Failure::new(failure.class, format!("{member}: {failure}")))
    };
    match step {
        Step::Start { member, attempt, dump, archive } => {
            let (_, source) = observe::source(&controller.objects, object).await?;
            let gone =
                || Failure::new(Class::Transient, "the cluster whose archive has the dump does not exist any more");
            let access = observe::access(&controller.objects, &source.ok_or_else(gone)?).await?;
            let access = access.map_err(|(_, message)| Failure::new(Class::Transient, message))?;
            let order = RestoreOrder {
                id: id(object),
                attempt: *attempt,
                source: ArchiveAccess { access, path: archive.clone() },
                dump: dump.clone(),
                database: object.spec.database.clone(),
                owner: object.spec.owner.clone(),
            };
            send(member, Command::RestoreDump(Some(Box::new(order))))
        }
        Step::CutOff { member } => send(member, Command::RestoreDump(None)),
        // What people are told is the Event of the step itself.
        Step::Tell { .. } => Ok(()),
    }
}

/// What supervisors call a restore.
pub fn id(object: &DatabaseRestore) -> String {
    object.metadata.uid.clone().unwrap_or_default()
}
