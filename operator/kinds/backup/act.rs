//! Performs one step: one command to a supervisor, or one write of a throw-away cluster; no policy.

use super::{BackupKind, Step, command, redis_command};
use crate::api::backup::{BackedUpKind, Backup};
use crate::api::failure::{Class, Failure};
use crate::api::object::Object as _;
use crate::api::postgres_cluster::PostgresCluster;
use crate::archive::access::ArchiveAccess;
use crate::kinds::backup::together_seen::declared;
use crate::kinds::stores;
use crate::store::objects::Preconditions;
use crate::store::{Error, Key};
use crate::supervisor::porter::wire::{Command, Order, Way};

/// Performs `step`; the failure of a command names the member.
pub async fn act(controller: &BackupKind, object: &Backup, step: &Step) -> Result<(), Failure> {
    let key = |name: &str| Key::beside(object, PostgresCluster::RESOURCE, name);
    match step {
        Step::CreateTest { name, cluster } => {
            // One that is not of this Backup is seen by the next plan.
            return Ok(controller.objects.create_if_absent(&key(name), (**cluster).clone()).await?);
        }
        Step::RemoveTest { name, uid } => {
            let only_if = Preconditions { uid: uid.clone(), revision: None };
            return match controller.objects.delete(&key(name), &only_if).await {
                Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            };
        }
        Step::Docker(step) => return controller.docker.act(&object.owner(), step).await,
        Step::Copy { porter, claim, path, begin } => {
            return copy(controller, object, (porter, claim, path), *begin).await;
        }
        // What people are told is the Event of the step itself.
        _ => {}
    }
    let owner = object.owner();
    let (member, sent) = match object.cluster().kind {
        BackedUpKind::PostgresCluster => match command(step) {
            Some((member, command)) => (member, controller.links.send(&owner, member, command)),
            None => return Ok(()),
        },
        BackedUpKind::RedisSentinel => match redis_command(step) {
            Some((member, command)) => (member, controller.redis.send(&owner, member, command)),
            None => return Ok(()),
        },
    };
    sent.map_err(|failure| Failure::new(failure.class, format!("{member}: {failure}")))
}

/// Tells a porter what to do, with what opens the store.
async fn copy(
    controller: &BackupKind,
    object: &Backup,
    (porter, claim, path): (&str, &str, &str),
    begin: bool,
) -> Result<(), Failure> {
    let Some(together) = &object.spec.together else { return Ok(()) };
    let access = stores::access(&controller.objects, object, declared(together)).await?;
    let access = access.map_err(|(_, message)| Failure::new(Class::Transient, message))?;
    let status = object.status.clone().unwrap_or_default();
    let order = Order {
        id: status.backup_id.unwrap_or_default(),
        attempt: status.attempt,
        way: Way::Store,
        claim: claim.to_owned(),
        copy: ArchiveAccess { access, path: path.to_owned() },
        begin,
    };
    let sent = controller.porters.send(&object.owner(), porter, Command::Order(Box::new(order)));
    sent.map_err(|failure| Failure::new(failure.class, format!("{porter}: {failure}")))
}
