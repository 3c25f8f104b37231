//! What opens the archives of a cluster, from its spec and the Secrets that it names. The values are sent to supervisors and shown
//! nowhere.

use super::{ArchivesSeen, RESOURCE};
use crate::api::hash::short_hash_of_parts;
use crate::api::postgres_backup::OnBacklog;
use crate::api::postgres_cluster::PostgresCluster;
use crate::archive::access::ArchiveAccess;
use crate::kinds::stores::{self, OWN, Problem, access};
use crate::store::objects::Objects;
use crate::store::{Error, Key};
use crate::supervisor::wire::{Archives, Retention};

/// Where a directory is mounted in the containers that the cluster is recovered from.
pub const SOURCE: &str = "/evenkeel-source";

/// The Secrets that the stores of a cluster name.
pub fn keys(object: &PostgresCluster) -> Vec<Key> {
    let own = object.spec.backup.as_ref().map(|backup| &backup.store);
    let source = object.spec.bootstrap.recovery.as_ref().and_then(|recovery| recovery.source.store.as_ref());
    own.into_iter().chain(source).flat_map(|store| stores::keys(object, store)).collect()
}

/// The hash of what the supervisors must hold, without its values.
pub async fn read(objects: &Objects, object: &PostgresCluster) -> Result<ArchivesSeen, Error> {
    Ok(match archives(objects, object).await? {
        Ok(archives) => ArchivesSeen { hash: Some(archives.hash), problem: None },
        Err(problem) => ArchivesSeen { hash: None, problem: Some(problem) },
    })
}

/// What the supervisors must hold.
pub async fn archives(objects: &Objects, object: &PostgresCluster) -> Result<Result<Archives, Problem>, Error> {
    let mut archives = Archives::default();
    if let Some((spec, path)) = object.spec.backup.as_ref().zip(archive(object)) {
        let access = match access(objects, object, (&spec.store, OWN), "spec.backup.store").await? {
            Ok(access) => access,
            Err(problem) => return Ok(Err(problem)),
        };
        archives.own = Some(ArchiveAccess { access, path });
        archives.max_age_ms = spec.wal.max_age.as_millis();
        archives.backlog_limit = spec.wal.backlog_limit_bytes();
        archives.keep_wal = spec.wal.on_backlog == OnBacklog::KeepWal;
        archives.retention = spec
            .retention
            .as_ref()
            .map(|kept| Retention { window_seconds: kept.window_seconds(), minimum: kept.newest() });
    }
    if is_new(object) && object.spec.bootstrap.recovery.is_some() {
        archives.source = match source(objects, object).await? {
            Ok(source) => source,
            Err(problem) => return Ok(Err(problem)),
        };
    }
    if archives != Archives::default() {
        let text = serde_json::to_string(&archives).unwrap_or_default();
        archives.hash = short_hash_of_parts([&text], 16);
    }
    Ok(Ok(archives))
}

/// The folder of a cluster's archive.
pub fn archive(object: &PostgresCluster) -> Option<String> {
    object.status.as_ref()?.decisions.as_ref()?.archive.clone()
}

/// Whether the cluster has no data yet, so that its source is needed.
pub fn is_new(object: &PostgresCluster) -> bool {
    let decisions = object.status.as_ref().and_then(|status| status.decisions.as_ref());
    decisions.is_none_or(|decisions| decisions.system_identifier.is_none())
}

/// The cluster that this one is recovered from, while it is needed.
pub fn source_cluster(object: &PostgresCluster) -> Option<Key> {
    let name = object.spec.bootstrap.recovery.as_ref().filter(|_| is_new(object))?.source.cluster.as_ref()?;
    Some(Key::beside(object, RESOURCE, name))
}

/// What opens the archive that the first data directory is recovered from.
async fn source(objects: &Objects, object: &PostgresCluster) -> Result<Result<Option<ArchiveAccess>, Problem>, Error> {
    let Some(recovery) = &object.spec.bootstrap.recovery else { return Ok(Ok(None)) };
    let at = "spec.bootstrap.recovery.source";
    let (store, path, store_at) = match source_cluster(object) {
        Some(key) => {
            let missing = |what: &str| {
                let message = format!("{at}.cluster: PostgresCluster {} {what}", key.name);
                Ok(Err(("RecoverySourceNotFound", message)))
            };
            let Some(found) = objects.get::<PostgresCluster>(&key).await? else {
                return missing("does not exist: give its store and the folder of its archive instead");
            };
            let Some((backup, path)) = found.spec.backup.as_ref().zip(archive(&found)) else {
                return missing("has no archive: it has no spec.backup, or has archived nothing yet");
            };
            if backup.store.directory.is_some() {
                return missing(
                    "has its archive in a directory of the hosts: give that as source.store.directory, with source.path",
                );
            }
            (backup.store.clone(), path, format!("{at}.cluster: spec.backup.store of {}", key.name))
        }
        None => {
            let Some(store) = recovery.source.store.clone() else { return Ok(Ok(None)) };
            (store, recovery.source.path.clone().unwrap_or_default(), format!("{at}.store"))
        }
    };
    let access = access(objects, object, (&store, SOURCE), &store_at).await?;
    Ok(access.map(|access| Some(ArchiveAccess { access, path })))
}
