//! Observes a Backup: its cluster, the other Backups of that, and what its supervisors say. Reads only, judges nothing.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::others::other;
use super::source::Cluster;
use super::{BackupKind, Observed, plan, together_seen, verify};
use crate::api::backup::{BackedUpKind, Backup, BaseBackupStatus, VerificationPhase};
use crate::api::failure::Failure;
use crate::api::object::Object as _;
use crate::api::postgres_cluster::PostgresCluster;
use crate::api::redis_sentinel::RedisSentinel;
use crate::kinds::attempts::{self, LinkSeen, Other};
use crate::kinds::containers::{DockerSeen, Needs};
use crate::store::Key;

/// The key of the cluster.
pub fn cluster_key(object: &Backup) -> Key {
    let resource = match object.cluster().kind {
        BackedUpKind::PostgresCluster => PostgresCluster::RESOURCE,
        BackedUpKind::RedisSentinel => RedisSentinel::RESOURCE,
    };
    Key::beside(object, resource, &object.cluster().name)
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
    let released = status.and_then(|status| status.together.as_ref()?.released_at);
    [created, deleted, progressed, tested, released].into_iter().flatten().collect()
}

/// Reads the whole snapshot; nothing for a Backup that has ended, and of which no restore test is open.
pub async fn observe(controller: &BackupKind, object: &Backup) -> Result<Observed, Failure> {
    let owner = object.owner();
    let waited = controller.waits.note(&owner, moments(object, object.status.as_ref()));
    if let Some(together) = &object.spec.together {
        let together = Box::new(together_seen::observe(controller, object, together).await?);
        return Ok(Observed { together: Some(together), waited, ..Observed::default() });
    }
    if let Some(status) = object.status.as_ref().filter(|status| status.phase.is_terminal()) {
        keep(controller, object, &BTreeMap::new());
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
    // A supervisor holds only some conversations at once: those who wait for their turn have none.
    let places = cluster.iter().flat_map(Cluster::places).filter(|_| plan::may_run(object, &others));
    let hosts: BTreeSet<String> = places.map(|(_, host)| host.to_owned()).collect();
    let seen = match &cluster {
        Some(Cluster::Postgres(cluster)) => controller.docker.observe(&cluster.owner(), hosts, &Needs::default()).await,
        Some(Cluster::Redis(redis)) => controller.docker.observe(&redis.owner(), hosts, &Needs::default()).await,
        None => BTreeMap::new(),
    };
    let links = keep(controller, object, &seen);
    Ok(Observed { cluster, others, links, waited, ..Observed::default() })
}

/// Keeps the links to these containers alone; what their supervisors say.
fn keep(controller: &BackupKind, object: &Backup, seen: &BTreeMap<String, DockerSeen>) -> BTreeMap<String, LinkSeen> {
    let (owner, hosts) = (object.owner(), &controller.docker.hosts);
    match object.cluster().kind {
        BackedUpKind::PostgresCluster => {
            controller.links.keep(hosts, &owner, seen);
            attempts::told(&controller.links.heard(&owner))
        }
        BackedUpKind::RedisSentinel => {
            controller.redis.keep(hosts, &owner, seen);
            attempts::told(&controller.redis.heard(&owner))
        }
    }
}

/// The cluster, and the other Backups of it.
async fn surroundings(controller: &BackupKind, object: &Backup) -> Result<(Option<Cluster>, Vec<Backup>), Failure> {
    let (objects, key) = (&controller.objects, cluster_key(object));
    let cluster = match object.cluster().kind {
        BackedUpKind::PostgresCluster => objects.get(&key).await?.map(|one| Cluster::Postgres(Box::new(one))),
        BackedUpKind::RedisSentinel => objects.get(&key).await?.map(|one| Cluster::Redis(Box::new(one))),
    };
    let (all, _) = controller.objects.list::<Backup>(Backup::RESOURCE, Some(object.namespace())).await?;
    let same = |other: &&Backup| {
        other.spec.cluster.is_some() && other.spec.cluster == object.spec.cluster && other.name() != object.name()
    };
    Ok((cluster, all.iter().filter(same).cloned().collect()))
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
