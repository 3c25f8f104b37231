//! Observes a DatabaseRestore: its cluster, the dump's Backup and cluster, the other restores, and what the supervisors say. Reads
//! only, judges nothing.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{DatabaseRestoreKind, Observed, plan};
use crate::api::backup::{BackedUpKind, Backup};
use crate::api::database_restore::{DatabaseRestore, DatabaseRestoreStatus};
use crate::api::failure::Failure;
use crate::api::object::{Object as _, Want};
use crate::api::postgres_cluster::PostgresCluster;
use crate::archive::access::StoreAccess;
use crate::kinds::attempts::{self, Other};
use crate::kinds::containers::Needs;
use crate::kinds::stores::{self, Declared, OWN, Problem};
use crate::store::objects::Objects;
use crate::store::{Error, Key};

fn cluster_key(object: &DatabaseRestore, name: &str) -> Key {
    Key::beside(object, PostgresCluster::RESOURCE, name)
}

fn backup_key(object: &DatabaseRestore) -> Option<Key> {
    Some(Key::beside(object, Backup::RESOURCE, object.spec.from.backup.as_ref()?))
}

/// The objects that it names.
pub fn references(object: &DatabaseRestore) -> Vec<Key> {
    let clusters = [Some(&object.spec.cluster.name), object.spec.from.cluster.as_ref()].into_iter().flatten();
    clusters.map(|name| cluster_key(object, name)).chain(backup_key(object)).collect()
}

/// The recorded moments that decisions wait from.
pub fn moments(object: &DatabaseRestore, status: Option<&DatabaseRestoreStatus>) -> Vec<Timestamp> {
    let deleted = object.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    let progressed = status.and_then(|status| status.progressed_at);
    [deleted, progressed].into_iter().flatten().collect()
}

/// Reads the whole snapshot; nothing for a restore that has ended.
pub async fn observe(controller: &DatabaseRestoreKind, object: &DatabaseRestore) -> Result<Observed, Failure> {
    let owner = object.owner();
    let waited = controller.waits.note(&owner, moments(object, object.status.as_ref()));
    if object.status.as_ref().is_some_and(|status| status.phase.is_terminal()) {
        controller.links.keep(&controller.docker.hosts, &owner, &BTreeMap::new());
        return Ok(Observed { waited, ..Observed::default() });
    }
    let cluster: Option<PostgresCluster> =
        controller.objects.get(&cluster_key(object, &object.spec.cluster.name)).await?;
    let (backup, source) = source(&controller.objects, object).await?;
    let closed = match &source {
        Some(source) => access(&controller.objects, source).await?.err(),
        None => None,
    };
    let (all, _) =
        controller.objects.list::<DatabaseRestore>(DatabaseRestore::RESOURCE, Some(object.namespace())).await?;
    let same = |other: &&DatabaseRestore| other.spec.cluster == object.spec.cluster && other.name() != object.name();
    let others: Vec<_> = all.iter().filter(same).map(other).collect();
    let decided = cluster.iter().filter_map(|cluster| cluster.status.as_ref()?.decisions.as_ref());
    let members = decided.flat_map(|decisions| &decisions.members);
    // A supervisor holds only some conversations at once: those who wait for their turn have none.
    let members = members.filter(|_| plan::may_run(object, &others));
    let hosts: BTreeSet<String> = members.map(|member| member.host.clone()).collect();
    let seen = match &cluster {
        Some(cluster) => controller.docker.observe(&cluster.owner(), hosts, &Needs::default()).await,
        None => BTreeMap::new(),
    };
    controller.links.keep(&controller.docker.hosts, &owner, &seen);
    let links = attempts::told(&controller.links.heard(&owner));
    Ok(Observed { cluster, backup, source, closed, others, links, waited })
}

/// The Backup that it names, and the cluster whose archive has the dump.
pub async fn source(
    objects: &Objects,
    object: &DatabaseRestore,
) -> Result<(Option<Backup>, Option<PostgresCluster>), Error> {
    let backup: Option<Backup> = match backup_key(object) {
        Some(key) => objects.get(&key).await?,
        None => None,
    };
    let from = &object.spec.from;
    let name = match (&from.backup, &backup) {
        (Some(_), None) => return Ok((None, None)),
        (Some(_), Some(backup)) if backup.cluster().kind != BackedUpKind::PostgresCluster => {
            return Ok((Some(backup.clone()), None));
        }
        (Some(_), Some(backup)) => &backup.cluster().name,
        (None, _) => from.cluster.as_ref().unwrap_or(&object.spec.cluster.name),
    };
    let source = objects.get(&cluster_key(object, name)).await?;
    Ok((backup, source))
}

/// What opens the store of a cluster; or why that is not known.
pub async fn access(objects: &Objects, cluster: &PostgresCluster) -> Result<Result<StoreAccess, Problem>, Error> {
    let Some(backup) = &cluster.spec.backup else {
        let message = format!("PostgresCluster {} has no spec.backup, so it has no dumps", cluster.name());
        return Ok(Err(("NoBackupStore", message)));
    };
    let path = format!("in PostgresCluster {}, spec.backup", cluster.name());
    let (store, encryption) = (&backup.store, backup.encryption.as_ref());
    stores::access(objects, cluster, Declared { store, mounted: OWN, encryption, path: &path }).await
}

fn other(restore: &DatabaseRestore) -> Other {
    let status = restore.status.as_ref();
    let ended = status.is_some_and(|status| status.phase.is_terminal());
    Other {
        name: restore.name().to_owned(),
        created: restore.metadata.creation_timestamp.as_ref().map(|time| time.0),
        ended,
        runs: !ended && status.is_some_and(|status| status.member.is_some()),
        paused: restore.want() == Want::Paused,
        backup_id: None,
    }
}
