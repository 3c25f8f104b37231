//! What opens the stores of a RedisSentinel, from its spec, the Secrets that it names, and the object that it is restored from. The
//! values are sent to supervisors and shown nowhere.

use crate::api::backup::{BackedUpKind, Backup, BaseBackupPhase};
use crate::api::backup_store::{BackupStore, Encryption};
use crate::api::hash::short_hash_of_parts;
use crate::api::object::Object as _;
use crate::api::redis_backup::{RedisBackupSpec, RedisRecoverySpec};
use crate::api::redis_sentinel::{RedisSentinel, RedisStage};
use crate::archive::access::ArchiveAccess;
use crate::engine::Mount;
use crate::kinds::stores::{self, ArchivesSeen, Declared, OWN, Problem, SOURCE, access};
use crate::store::objects::Objects;
use crate::store::{Error, Key};
use crate::supervisor::redis::wire::Archives;
use crate::supervisor::wire::Retention;

/// Where a manifest has the source.
const AT: &str = "spec.bootstrap.recovery.source";

/// What opens the stores, and which backup is meant.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stores {
    /// For the supervisors.
    pub archives: Archives,
    /// The ID of the backup to restore; `None`: the newest one.
    pub backup: Option<String>,
}

/// The Secrets and objects that are read.
pub fn keys(object: &RedisSentinel) -> Vec<Key> {
    let own = object.spec.backup.iter().map(|backup| (&backup.store, backup.encryption.as_ref()));
    let recovery = recovery(object);
    let source = recovery.map(|recovery| &recovery.source);
    let source = source.and_then(|source| Some((source.store.as_ref()?, source.encryption.as_ref())));
    let secrets = own.chain(source).flat_map(|(store, encryption)| stores::keys(object, store, encryption));
    secrets.chain(recovery.and_then(|recovery| named(object, recovery))).collect()
}

/// The `spec.backup` of an object, and the folder of its backups.
fn own(object: &RedisSentinel) -> Option<(&RedisBackupSpec, String)> {
    let spec = object.spec.backup.as_ref()?;
    Some((spec, spec.archive(&object.metadata)?))
}

/// What the spec restores from, while nobody has data yet.
fn recovery(object: &RedisSentinel) -> Option<&RedisRecoverySpec> {
    let decisions = object.status.as_ref().and_then(|status| status.decisions.as_ref());
    let is_new = decisions.is_none_or(|decisions| decisions.stage == RedisStage::New);
    object.spec.bootstrap.recovery.as_ref().filter(|_| is_new)
}

/// The object that it restores from.
fn named(object: &RedisSentinel, recovery: &RedisRecoverySpec) -> Option<Key> {
    let backup = recovery.source.backup.as_ref().map(|name| Key::beside(object, Backup::RESOURCE, name));
    backup.or_else(|| Some(Key::beside(object, RedisSentinel::RESOURCE, recovery.source.cluster.as_ref()?)))
}

/// The hash of what the supervisors must hold, without its values; and which backup is to be restored.
pub async fn read(objects: &Objects, object: &RedisSentinel) -> Result<(ArchivesSeen, Option<String>), Error> {
    Ok(match stores(objects, object).await? {
        Ok(Stores { archives, backup }) => (ArchivesSeen { hash: Some(archives.hash), problem: None }, backup),
        Err(problem) => {
            let hash = closed(object).map(|closed| closed.hash);
            (ArchivesSeen { hash, problem: Some(problem) }, None)
        }
    })
}

/// What the supervisors must hold while the keys of encrypted backups are not known, so that nothing is written in the clear: they may
/// still have what opens the store without encryption. `None`: they go on with what they have.
pub fn closed(object: &RedisSentinel) -> Option<Archives> {
    object.spec.backup.as_ref()?.encryption.as_ref()?;
    Some(Archives::default())
}

/// What the supervisors must hold.
pub async fn stores(objects: &Objects, object: &RedisSentinel) -> Result<Result<Stores, Problem>, Error> {
    let mut stores = Stores::default();
    if let Some((spec, path)) = own(object) {
        let (store, encryption) = (&spec.store, spec.encryption.as_ref());
        let declared = Declared { store, mounted: OWN, encryption, path: "spec.backup" };
        let access = match access(objects, object, declared).await? {
            Ok(access) => access,
            Err(problem) => return Ok(Err(problem)),
        };
        stores.archives.own = Some(ArchiveAccess { access, path });
        stores.archives.retention = spec
            .retention
            .as_ref()
            .map(|kept| Retention { window_seconds: kept.window_seconds(), minimum: kept.newest() });
    }
    if let Some(recovery) = recovery(object) {
        let source = match source(objects, object, recovery).await? {
            Ok(source) => source,
            Err(problem) => return Ok(Err(problem)),
        };
        let Source { store, encryption, path, backup, at } = source;
        let declared = Declared { store: &store, mounted: SOURCE, encryption: encryption.as_ref(), path: &at };
        let access = match access(objects, object, declared).await? {
            Ok(access) => access,
            Err(problem) => return Ok(Err(problem)),
        };
        (stores.archives.source, stores.backup) = (Some(ArchiveAccess { access, path }), backup);
    }
    if stores.archives != Archives::default() {
        let text = serde_json::to_string(&stores.archives).unwrap_or_default();
        stores.archives.hash = short_hash_of_parts([&text], 16);
    }
    Ok(Ok(stores))
}

/// Where the backup to restore is.
struct Source {
    store: BackupStore,
    encryption: Option<Encryption>,
    path: String,
    backup: Option<String>,
    /// Where the manifest has it.
    at: String,
}

async fn source(
    objects: &Objects,
    object: &RedisSentinel,
    recovery: &RedisRecoverySpec,
) -> Result<Result<Source, Problem>, Error> {
    let missing = |message: String| Ok(Err(("RecoverySourceNotFound", message)));
    let id = recovery.backup_id.clone();
    let (source, key) = (&recovery.source, named(object, recovery));
    let found = match (&source.backup, key) {
        (_, None) => {
            let (store, path) = (source.store.clone().unwrap_or_default(), source.path.clone().unwrap_or_default());
            let encryption = source.encryption.clone();
            return Ok(Ok(Source { store, encryption, path, backup: id, at: AT.to_owned() }));
        }
        (Some(name), Some(key)) => {
            let Some(backup) = objects.get::<Backup>(&key).await? else {
                return missing(format!(
                    "{AT}.backup: Backup {name} does not exist: give the store and the folder instead"
                ));
            };
            let status = backup.status.clone().unwrap_or_default();
            if backup.cluster().kind != BackedUpKind::RedisSentinel {
                return missing(format!("{AT}.backup: Backup {name} is of no RedisSentinel"));
            }
            if status.phase != BaseBackupPhase::Completed {
                return missing(format!("{AT}.backup: Backup {name} is not complete: it is {}", status.phase));
            }
            let (Some(store), Some(path), Some(id)) = (status.store, status.archive, status.backup_id) else {
                return missing(format!("{AT}.backup: Backup {name} does not say where it is"));
            };
            let at = format!("{AT}.backup: the status of Backup {name}");
            Source { store, encryption: status.encryption, path, backup: Some(id), at }
        }
        (None, Some(key)) => {
            let name = &key.name;
            let Some(redis) = objects.get::<RedisSentinel>(&key).await? else {
                let what = "does not exist: give its store and the folder of its backups instead";
                return missing(format!("{AT}.cluster: RedisSentinel {name} {what}"));
            };
            let Some((backup, path)) = own(&redis) else {
                return missing(format!("{AT}.cluster: RedisSentinel {name} has no spec.backup"));
            };
            let (store, encryption) = (backup.store.clone(), backup.encryption.clone());
            Source { store, encryption, path, backup: id, at: format!("{AT}.cluster: spec.backup of {name}") }
        }
    };
    if found.store.directory.is_some() {
        let what = "is in a directory of the hosts: give that as source.store.directory, with source.path";
        return missing(format!("{}: it {what}", found.at));
    }
    Ok(Ok(found))
}

/// The directories of the host that have backups: its own, and the one that it is restored from.
pub fn directories(object: &RedisSentinel) -> Vec<Mount> {
    let own = object.spec.backup.as_ref().map(|backup| (&backup.store, OWN, false));
    let source = object.spec.bootstrap.recovery.as_ref().and_then(|recovery| recovery.source.store.as_ref());
    stores::mounts(own.into_iter().chain(source.map(|store| (store, SOURCE, true))))
}
