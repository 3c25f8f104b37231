//! Observes a Backup: its cluster, the other Backups of that, and what its supervisors say. Reads only, judges nothing.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{BackupKind, Observed, Other, plan};
use crate::api::backup::{Backup, BaseBackupStatus};
use crate::api::failure::Failure;
use crate::api::object::{Object as _, Want};
use crate::api::postgres_cluster::PostgresCluster;
use crate::kinds::containers::Needs;
use crate::store::Key;

/// The key of the cluster.
pub fn cluster_key(object: &Backup) -> Key {
    Key::beside(object, PostgresCluster::RESOURCE, &object.spec.cluster.name)
}

/// The recorded moments that decisions wait from.
pub fn moments(object: &Backup, status: Option<&BaseBackupStatus>) -> Vec<Timestamp> {
    let deleted = object.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    let created = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let progressed = status.and_then(|status| status.progressed_at);
    [created, deleted, progressed].into_iter().flatten().collect()
}

/// Reads the whole snapshot; nothing for a Backup that has ended.
pub async fn observe(controller: &BackupKind, object: &Backup) -> Result<Observed, Failure> {
    let owner = object.owner();
    let waited = controller.waits.note(&owner, moments(object, object.status.as_ref()));
    if object.status.as_ref().is_some_and(|status| status.phase.is_terminal()) {
        controller.links.keep(&controller.docker.hosts, &owner, &BTreeMap::new());
        return Ok(Observed { waited, ..Observed::default() });
    }
    let cluster: Option<PostgresCluster> = controller.objects.get(&cluster_key(object)).await?;
    let (all, _) = controller.objects.list::<Backup>(Backup::RESOURCE, Some(object.namespace())).await?;
    let same = |other: &&Backup| other.spec.cluster == object.spec.cluster && other.name() != object.name();
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
    Ok(Observed { cluster, others, links: controller.links.heard(&owner), waited })
}

fn other(backup: &Backup) -> Other {
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
