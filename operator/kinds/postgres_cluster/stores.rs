//! What opens the archives of a cluster, from its spec and the Secrets that it names. The values are sent to supervisors and shown
//! nowhere.

use super::RESOURCE;
use crate::api::hash::short_hash_of_parts;
use crate::api::postgres_backup::{BackupSpec, OnBacklog};
use crate::api::postgres_cluster::PostgresCluster;
use crate::archive::access::ArchiveAccess;
use crate::kinds::stores::{self, ArchivesSeen, Declared, OWN, Problem, SOURCE, access};
use crate::store::objects::Objects;
use crate::store::{Error, Key};
use crate::supervisor::wire::{Archives, Retention};

/// The Secrets that the stores of a cluster name.
pub fn keys(object: &PostgresCluster) -> Vec<Key> {
    let own = object.spec.backup.as_ref().map(|backup| (&backup.store, backup.encryption.as_ref()));
    let source = object.spec.bootstrap.recovery.as_ref().map(|recovery| &recovery.source);
    let source = source.and_then(|source| Some((source.store.as_ref()?, source.encryption.as_ref())));
    own.into_iter().chain(source).flat_map(|(store, encryption)| stores::keys(object, store, encryption)).collect()
}

/// The hash of what the supervisors must hold, without its values.
pub async fn read(objects: &Objects, object: &PostgresCluster) -> Result<ArchivesSeen, Error> {
    Ok(match archives(objects, object).await? {
        Ok(archives) => ArchivesSeen { hash: Some(archives.hash), problem: None },
        Err(problem) => ArchivesSeen { hash: closed(object).map(|closed| closed.hash), problem: Some(problem) },
    })
}

/// What the supervisors must hold while the keys of an encrypted archive are not known, so that nobody writes to it: they may still have
/// what opens it without encryption. `None`: they go on with what they have.
pub fn closed(object: &PostgresCluster) -> Option<Archives> {
    let spec = object.spec.backup.as_ref()?;
    spec.encryption.as_ref()?;
    Some(hashed(settings(spec)))
}

/// What is said of the archive beside what opens it.
fn settings(spec: &BackupSpec) -> Archives {
    Archives {
        max_age_ms: spec.wal.max_age.as_millis(),
        backlog_limit: spec.wal.backlog_limit_bytes(),
        keep_wal: spec.wal.on_backlog == OnBacklog::KeepWal,
        retention: spec
            .retention
            .as_ref()
            .map(|kept| Retention { window_seconds: kept.window_seconds(), minimum: kept.newest() }),
        ..Archives::default()
    }
}

fn hashed(archives: Archives) -> Archives {
    if archives == Archives::default() {
        return archives;
    }
    let text = serde_json::to_string(&archives).unwrap_or_default();
    Archives { hash: short_hash_of_parts([&text], 16), ..archives }
}

/// What the supervisors must hold.
pub async fn archives(objects: &Objects, object: &PostgresCluster) -> Result<Result<Archives, Problem>, Error> {
    let mut archives = Archives::default();
    if let Some((spec, path)) = object.spec.backup.as_ref().zip(archive(object)) {
        let (store, encryption) = (&spec.store, spec.encryption.as_ref());
        let declared = Declared { store, mounted: OWN, encryption, path: "spec.backup" };
        let access = match access(objects, object, declared).await? {
            Ok(access) => access,
            Err(problem) => return Ok(Err(problem)),
        };
        archives = settings(spec).with_own(ArchiveAccess { access, path });
    }
    if is_new(object) && object.spec.bootstrap.recovery.is_some() {
        archives.source = match source(objects, object).await? {
            Ok(source) => source,
            Err(problem) => return Ok(Err(problem)),
        };
    }
    Ok(Ok(hashed(archives)))
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
    let (store, encryption, path, declared_at) = match source_cluster(object) {
        Some(key) => {
            let missing = |what: &str| {
                let message = format!("{at}.cluster: PostgresCluster {} {what}", key.name);
                Ok(Err(("RecoverySourceNotFound", message)))
            };
            let Some(found) = objects.get::<PostgresCluster>(&key).await? else {
                return missing("does not exist: give its store and the folder of its archive instead");
            };
            let path = archive(&found);
            let Some((backup, path)) = found.spec.backup.zip(path) else {
                return missing("has no archive: it has no spec.backup, or has archived nothing yet");
            };
            if backup.store.directory.is_some() {
                return missing(
                    "has its archive in a directory of the hosts: give that as source.store.directory, with source.path",
                );
            }
            (
                backup.store,
                backup.encryption,
                path,
                format!("{at}.cluster: in PostgresCluster {}, spec.backup", key.name),
            )
        }
        None => {
            let Some(store) = recovery.source.store.clone() else { return Ok(Ok(None)) };
            let path = recovery.source.path.clone().unwrap_or_default();
            (store, recovery.source.encryption.clone(), path, at.to_owned())
        }
    };
    let (store, encryption) = (&store, encryption.as_ref());
    let declared = Declared { store, mounted: SOURCE, encryption, path: &declared_at };
    let access = access(objects, object, declared).await?;
    Ok(access.map(|access| Some(ArchiveAccess { access, path })))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::api::postgres_cluster::{Decisions, PostgresClusterStatus};
    use crate::runtime::clock::TestClock;
    use crate::store::MemoryStore;

    /// What age-keygen makes; everybody knows it.
    const KEY: &str = "AGE-SECRET-KEY-1VXCGKQ9LF4U2DLYP3TCJA2PYRZX7TFWJ2AQVARYG7YDY3F5JA8JQM7NUL3";

    fn cluster(encryption: Value) -> PostgresCluster {
        let backup = json!({"store": {"directory": {"path": "/srv"}}, "encryption": encryption});
        let declared = json!({
            "apiVersion": "evenkeel.dev/v1alpha1", "kind": "PostgresCluster",
            "metadata": {"name": "db", "namespace": "here"},
            "spec": {"image": "postgres:15", "instances": 1, "backup": backup},
        });
        let mut cluster: PostgresCluster = serde_json::from_value(declared).unwrap();
        let decisions = Decisions { archive: Some("here.db/7-1".into()), ..Decisions::default() };
        cluster.status = Some(PostgresClusterStatus { decisions: Some(decisions), ..PostgresClusterStatus::default() });
        cluster
    }

    async fn with(secret: Option<Value>) -> Objects {
        let clock = Arc::new(TestClock::still(jiff::Timestamp::UNIX_EPOCH));
        let objects = Objects::new(Arc::new(MemoryStore::default()), clock);
        if let Some(texts) = secret {
            let key = Key::beside(&cluster(json!(null)), "secrets", "key");
            let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key", "namespace": "here"}, "data": texts});
            objects.create(&key, secret).await.unwrap();
        }
        objects
    }

    fn data(identity: &str) -> Option<Value> {
        Some(Value::Object(crate::api::secret::encoded(&[("identity", identity)])))
    }

    /// With a Secret that is missing the supervisors would keep what they had before encryption was switched on, and go on to archive in
    /// the clear. They get an archive that nobody can write to, and WAL waits.
    #[tokio::test]
    async fn while_the_key_of_an_encrypted_archive_is_not_known_nobody_can_write_to_it() {
        let object = cluster(json!({"secretName": "key"}));
        let mut told = String::new();
        for secret in [None, Some(json!({})), data("# empty"), data("AGE-SECRET-KEY-1SECRET")] {
            let objects = with(secret).await;
            let (reason, message) = archives(&objects, &object).await.unwrap().unwrap_err();
            told += &format!("{reason}: {message}\n");
            let seen = read(&objects, &object).await.unwrap();
            let closed = closed(&object).unwrap();
            assert_eq!((seen.hash.as_ref(), closed.own()), (Some(&closed.hash), None));
            assert_eq!(closed.max_age_ms, 60_000, "what else is declared still counts");
        }
        expect_test::expect![[r#"
            SecretNotFound: spec.backup.encryption.secretName names Secret key, which does not exist: create it with the key identity, as age-keygen writes it
            KeyMissing: spec.backup.encryption.secretName names Secret key, which lacks the key identity, with lines as age-keygen writes them
            KeyMissing: spec.backup.encryption.secretName names Secret key, which has no usable key identity: it has no line AGE-SECRET-KEY-1..., as age-keygen writes one
            KeyMissing: spec.backup.encryption.secretName names Secret key, which has no usable key identity: line 1 is no identity AGE-SECRET-KEY-1..., as age-keygen writes one, and no comment
        "#]]
        .assert_eq(&told);
        let plain = cluster(json!(null));
        assert!(closed(&plain).is_none(), "a Secret of another store that is gone for a moment stops nothing");
    }

    #[tokio::test]
    async fn a_supervisor_that_knows_no_encryption_gets_no_archive_instead_of_a_clear_one() {
        let objects = with(data(KEY)).await;
        let archives = archives(&objects, &cluster(json!({"secretName": "key"}))).await.unwrap().unwrap();
        assert!(archives.own().unwrap().access.encryption.is_some());
        let sent = serde_json::to_value(&archives).unwrap();
        assert_eq!(sent["own"], Value::Null, "the field that such a supervisor reads");
        assert_eq!(serde_json::from_value::<Archives>(sent).unwrap(), archives);
        assert!(!format!("{archives:?}").contains("1VXCG"));
        assert_eq!(
            keys(&cluster(json!({"secretName": "key"}))).iter().map(|key| key.name.as_str()).collect::<Vec<_>>(),
            ["key"]
        );
        let clear = self::archives(&objects, &cluster(json!(null))).await.unwrap().unwrap();
        assert!(clear.own.is_some() && clear.own().unwrap().access.encryption.is_none() && clear.hash != archives.hash);
    }
}
