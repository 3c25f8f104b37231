//! Performs one step: one command to a supervisor, or one write of a throw-away cluster; no policy.

use super::{BackupKind, Step, command};
use crate::api::backup::Backup;
use crate::api::failure::Failure;
use crate::api::object::Object as _;
use crate::api::postgres_cluster::PostgresCluster;
use crate::store::objects::Preconditions;
use crate::store::{Error, Key};

/// Performs `step`; the failure of a command names the member.
pub async fn act(controller: &BackupKind, object: &Backup, step: &Step) -> Result<(), Failure> {
    let key = |name: &str| Key::beside(object, PostgresCluster::RESOURCE, name);
    match step {
        Step::CreateTest { name, cluster } => match controller.objects.create(&key(name), (**cluster).clone()).await {
            // One that is not of this Backup is seen by the next plan.
            Ok(_) | Err(Error::AlreadyExists { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        },
        Step::RemoveTest { name, uid } => {
            let only_if = Preconditions { uid: uid.clone(), revision: None };
            return match controller.objects.delete(&key(name), &only_if).await {
                Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            };
        }
        // What people are told is the Event of the step itself.
        _ => {}
    }
    let Some((member, command)) = command(step) else { return Ok(()) };
    let sent = controller.links.send(&object.owner(), member, command);
    sent.map_err(|failure| Failure::new(failure.class, format!("{member}: {failure}")))
}
