//! Observes a Backup: its cluster, the other Backups of that, and what its supervisors say. Reads only, judges nothing.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{BackupKind, Observed, plan, verify};
use crate::api::backup::{Backup, BaseBackupStatus, VerificationPhase};
use crate::api::failure::Failure;
use crate::api::object::{Object as _, Want};
use crate::api::postgres_cluster::PostgresCluster;
use crate::kinds::attempts::Other;
use crate::kinds::containers::Needs;
use crate::store::Key;

/// The key of the cluster.
pub fn cluster_key(object: &Backup) -> Key {
    Key::beside(object, PostgresCluster::RESOURCE, &object.spec.cluster.name)
}

/// The key of the throw-away cluster of a restore test.
pub fn test_key(object: &Backup) -> Key {
    Key::beside(object, PostgresCluster::RESOURCE, &verify::cluster_name(object.name()))
}

/// The recorded moments that decisions wait from.
pub fn moments(object: &Backup, status: Option<&BaseBackupStatus>) -> Vec<Timestamp> {
    let deleted = object.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    let created = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let progressed = status.and_then(|status| status.progressed_at);
    let tested = status.and_then(|status| status.verification.as_ref()?.progressed_at);
    [created, deleted, progressed, tested].into_iter().flatten().collect()
}

/// Reads the whole snapshot; nothing for a Backup that has ended, and of which no restore test is open.
pub async fn observe(controller: &BackupKind, object: &Backup) -> Result<Observed, Failure> {
    let owner = object.owner();
    let waited = controller.waits.note(&owner, moments(object, object.status.as_ref()));
    if let Some(status) = object.status.as_ref().filter(|status| status.phase.is_terminal()) {
        controller.links.keep(&controller.docker.hosts, &owner, &BTreeMap::new());
        if !object.test_is_open(status) {
            return Ok(Observed { waited, ..Observed::default() });
        }
        let (cluster, others) = surroundings(controller, object).await?;
        let test = controller.objects.get(&test_key(object)).await?;
        let tests = others.iter().map(testing).collect();
        return Ok(Observed { cluster, tests, test, waited, ..Observed::default() });
    }
    let (cluster, others) = surroundings(controller, object).await?;
    let others: Vec<Other> = others.iter().map(other).collect();
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
    Ok(Observed { cluster, others, links: controller.links.heard(&owner), waited, ..Observed::default() })
}

/// The cluster, and the other Backups of it.
async fn surroundings(
    controller: &BackupKind,
    object: &Backup,
) -> Result<(Option<PostgresCluster>, Vec<Backup>), Failure> {
    let cluster: Option<PostgresCluster> = controller.objects.get(&cluster_key(object)).await?;
    let (all, _) = controller.objects.list::<Backup>(Backup::RESOURCE, Some(object.namespace())).await?;
    let same = |other: &&Backup| other.spec.cluster == object.spec.cluster && other.name() != object.name();
    Ok((cluster, all.iter().filter(same).cloned().collect()))
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

/// The restore test of another Backup.
fn testing(backup: &Backup) -> Other {
    let phase = backup.status.as_ref().and_then(|status| status.verification.as_ref()).map(|test| test.phase);
    Other {
        ended: phase.is_none_or(|phase| phase == VerificationPhase::Ended),
        runs: phase.is_some_and(VerificationPhase::runs),
        ..other(backup)
    }
}
