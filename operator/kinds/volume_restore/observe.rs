//! Observes a VolumeRestore: its Backup, the Deployments with the claim, the other restores, and what the porter says. Reads only,
//! judges nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Observed, VolumeRestoreKind, plan};
use crate::api::backup::Backup;
use crate::api::deployment::Deployment;
use crate::api::failure::Failure;
use crate::api::object::{Object as _, Want};
use crate::api::volume_claims;
use crate::api::volume_restore::{VolumeRestore, VolumeRestoreStatus};
use crate::archive::access::StoreAccess;
use crate::kinds::attempts::Other;
use crate::kinds::containers::Needs;
use crate::kinds::porters;
use crate::kinds::stores::{self, Declared, OWN, Problem};
use crate::store::objects::Objects;
use crate::store::{Error, Key};

fn backup_key(object: &VolumeRestore) -> Option<Key> {
    Some(Key::beside(object, Backup::RESOURCE, object.spec.from.backup.as_ref()?))
}

/// The objects that it names.
pub fn references(object: &VolumeRestore) -> Vec<Key> {
    let secrets = object
        .spec
        .from
        .store
        .iter()
        .flat_map(|store| stores::keys(object, store, object.spec.from.encryption.as_ref()));
    secrets.chain(backup_key(object)).collect()
}

/// The recorded moments that decisions wait from.
pub fn moments(object: &VolumeRestore, status: Option<&VolumeRestoreStatus>) -> Vec<Timestamp> {
    let deleted = object.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    let progressed = status.and_then(|status| status.progressed_at);
    [deleted, progressed].into_iter().flatten().collect()
}

/// Reads the whole snapshot; of a restore that has ended only what is left of it.
pub async fn observe(controller: &VolumeRestoreKind, object: &VolumeRestore) -> Result<Observed, Failure> {
    let (owner, objects) = (object.owner(), &controller.objects);
    let waited = controller.waits.note(&owner, moments(object, object.status.as_ref()));
    let status = object.status.clone().unwrap_or_default();
    let backup = backup(objects, object).await?;
    let host = status.host.clone().unwrap_or_else(|| plan::host(object, backup.as_ref()));
    let deleted = object.metadata.deletion_timestamp.is_some();
    let mut docker = BTreeMap::new();
    if controller.docker.hosts.get(&host).is_ok() && (!status.cleared || deleted) {
        docker = controller.docker.observe(&owner, [host.clone()], &porters::needs(object.namespace())).await;
    }
    controller.porters.keep(&controller.docker.hosts, &owner, &docker);
    let porters = controller.porters.heard(&owner);
    let work = controller.docker.work.heard(&owner);
    let exists = exists(controller, object, &host).await;
    if status.phase.is_terminal() || deleted {
        return Ok(Observed { docker, porters, work, waited, exists, ..Observed::default() });
    }
    let closed = match &backup {
        None if object.spec.from.backup.is_some() => None,
        backup => access(objects, object, backup.as_ref()).await?.err(),
    };
    let (all, _) = objects.list::<Deployment>(Deployment::RESOURCE, Some(object.namespace())).await?;
    let claimants = all.into_iter().filter(|one| claims(one, &object.spec.claim)).collect();
    let (all, _) = objects.list::<VolumeRestore>(VolumeRestore::RESOURCE, Some(object.namespace())).await?;
    let same = |other: &&VolumeRestore| other.spec.claim == object.spec.claim && other.name() != object.name();
    let others = all.iter().filter(same).map(other).collect();
    Ok(Observed { backup, closed, claimants, others, docker, exists, work, porters, waited })
}

/// Whether the volume of the claim exists.
async fn exists(controller: &VolumeRestoreKind, object: &VolumeRestore, host: &str) -> Option<bool> {
    let (namespace, claim) = (object.namespace(), &object.spec.claim);
    controller.docker.hosts.get(host).ok()?;
    let owner = volume_claims::owner(namespace, claim);
    let seen = controller.docker.observe(&owner, [host.to_owned()], &Needs::default()).await;
    let volumes = seen.get(host)?.volumes.known()?;
    Some(volumes.contains(&volume_claims::volume(namespace, claim)))
}

/// The Backup that it names.
pub async fn backup(objects: &Objects, object: &VolumeRestore) -> Result<Option<Backup>, Error> {
    match backup_key(object) {
        Some(key) => objects.get(&key).await,
        None => Ok(None),
    }
}

/// What opens the store; or why that is not known.
pub async fn access(
    objects: &Objects,
    object: &VolumeRestore,
    backup: Option<&Backup>,
) -> Result<Result<StoreAccess, Problem>, Error> {
    let from = &object.spec.from;
    let of_backup = |backup: &Backup| {
        let status = backup.status.as_ref()?;
        Some((status.store.clone()?, status.encryption.clone()))
    };
    let (found, path) = match (&from.store, backup) {
        (Some(store), _) => (Some((store.clone(), from.encryption.clone())), "spec.from".to_owned()),
        (None, Some(backup)) => (of_backup(backup), format!("status of Backup {}", backup.name())),
        (None, None) => (None, String::new()),
    };
    match found {
        Some((store, encryption)) => {
            let declared = Declared { store: &store, mounted: OWN, encryption: encryption.as_ref(), path: &path };
            stores::access(objects, object, declared).await
        }
        None => Ok(Err(("BackupNotCompleted", "the Backup does not say yet where its copies are".to_owned()))),
    }
}

/// Whether pods of a Deployment claim this volume.
fn claims(deployment: &Deployment, claim: &str) -> bool {
    let volumes = deployment.spec.template.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut claims = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
    claims.any(|one| one.claim_name == claim)
}

fn other(restore: &VolumeRestore) -> Other {
    let status = restore.status.as_ref();
    let ended = status.is_some_and(|status| status.phase.is_terminal());
    Other {
        name: restore.name().to_owned(),
        created: restore.metadata.creation_timestamp.as_ref().map(|time| time.0),
        ended,
        runs: !ended && status.is_some_and(|status| status.attempt > 0),
        paused: restore.want() == Want::Paused,
        backup_id: None,
    }
}
