//! Tests that every read of the store by an `observe` is declared, so that a change of the read object wakes its reader
//! at once.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::backup::BackupKind;
use super::deployment::DeploymentKind;
use super::docker_host::DockerHostKind;
use super::load_balancer::LoadBalancerKind;
use super::postgres_cluster::PostgresClusterKind;
use super::redis_cluster::RedisClusterKind;
use super::redis_sentinel::RedisSentinelKind;
use super::scheduled_backup::ScheduledBackupKind;
use super::volume_restore::VolumeRestoreKind;
use crate::engine::docker::OwnBinary;
use crate::engine::fake::FakeEngine;
use crate::engine::hosts::Hosts;
use crate::runtime::clock::TestClock;
use crate::runtime::companions::Wake;
use crate::runtime::{Clock, Kind};
use crate::store::{Error, Expect, Key, Listed, MemoryStore, Objects, Store, Watch};

/// A store that records reads: `get KEY` and `list RESOURCE`.
#[derive(Default)]
struct ReadLog {
    inner: MemoryStore,
    gets: Mutex<Vec<Key>>,
    lists: Mutex<Vec<String>>,
}

#[async_trait::async_trait]
impl Store for ReadLog {
    async fn get(&self, key: &Key) -> Result<Option<Value>, Error> {
        self.gets.lock().unwrap().push(key.clone());
        self.inner.get(key).await
    }

    async fn list_at(&self, resources: &[&str], namespace: Option<&str>, at: Option<u64>) -> Result<Listed, Error> {
        self.lists.lock().unwrap().extend(resources.iter().map(|resource| (*resource).to_owned()));
        self.inner.list_at(resources, namespace, at).await
    }

    async fn owned_by(&self, uid: &str) -> Result<Vec<(Key, Value)>, Error> {
        self.inner.owned_by(uid).await
    }

    async fn put(&self, key: &Key, expect: Expect, value: Value) -> Result<Value, Error> {
        self.inner.put(key, expect, value).await
    }

    async fn delete(&self, key: &Key, revision: u64) -> Result<Value, Error> {
        self.inner.delete(key, revision).await
    }

    async fn watch_of(&self, resources: &[&str], namespace: Option<&str>, since: u64) -> Result<Watch, Error> {
        self.inner.watch_of(resources, namespace, since).await
    }

    async fn revision(&self) -> Result<u64, Error> {
        self.inner.revision().await
    }

    async fn all(&self) -> Result<Vec<(Key, Arc<Value>)>, Error> {
        self.inner.all().await
    }

    async fn compact(&self, through: u64) -> Result<(), Error> {
        self.inner.compact(through).await
    }
}

/// Observes an object of a kind and asserts that each read is covered by the kind's declaration. Returns the keys read.
async fn reads<K: Kind>(
    make: impl FnOnce(Arc<Hosts>, Objects, Arc<dyn Clock>, Wake) -> K,
    object: Value,
) -> Vec<String> {
    let clock: Arc<dyn Clock> = Arc::new(TestClock::still(jiff::Timestamp::UNIX_EPOCH));
    let log = Arc::new(ReadLog::default());
    let objects = Objects::new(log.clone(), clock.clone());
    let hosts = Arc::new(Hosts::new(Arc::new(OwnBinary::running())));
    hosts.insert("local", Arc::new(FakeEngine::new("local")));
    let host = Key { resource: "dockerhosts.evenkeel.dev".into(), namespace: String::new(), name: "local".into() };
    let declared = json!({"metadata": {"name": "local"}, "spec": {"endpoint": "unix:///run/x.sock"}});
    objects.create(&host, declared).await.unwrap();
    let kind = make(hosts, objects, clock, Wake::new(|_| {}));
    let object: K::Object = serde_json::from_value(object).unwrap();
    log.gets.lock().unwrap().clear();
    kind.observe(&object).await.unwrap();
    let (concerns, references) = (K::concerns(), K::references(&object));
    for resource in log.lists.lock().unwrap().iter() {
        let listed = concerns.iter().any(|concern| concern.resource == resource && concern.allows_list());
        assert!(listed, "{} lists {resource} and does not declare it", K::NAME);
    }
    let gets = log.gets.lock().unwrap();
    for key in gets.iter() {
        let concerned = concerns.iter().any(|concern| concern.resource == key.resource);
        assert!(concerned && references.contains(key), "{} reads {key} and does not declare it", K::NAME);
    }
    gets.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_cluster_declares_its_secrets() {
    let object = json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "PostgresCluster",
        "metadata": {"name": "db", "namespace": "here"},
        "spec": {"image": "postgres:15", "instances": 2, "bootstrap": {"initdb": {"secret": {"name": "given"}}}},
    });
    let reads = reads(PostgresClusterKind::new, object).await;
    for secret in ["db-app", "db-internal", "given"] {
        assert!(reads.contains(&format!("secrets/here/{secret}")), "{secret} in {reads:?}");
    }
}

#[tokio::test]
async fn a_backup_declares_its_cluster_and_a_schedule_only_lists() {
    let object = json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "Backup",
        "metadata": {"name": "today", "namespace": "here"}, "spec": {"cluster": {"name": "db"}},
    });
    let make = |hosts, objects, _, wake| BackupKind::new(hosts, objects, wake);
    assert_eq!(reads(make, object).await, ["postgresclusters.evenkeel.dev/here/db"]);
    let object = json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "ScheduledBackup",
        "metadata": {"name": "daily", "namespace": "here"},
        "spec": {"cluster": {"name": "db"}, "schedule": "0 3 * * *"},
    });
    let make = |_, objects, _, _| ScheduledBackupKind::new(objects);
    assert!(reads(make, object).await.is_empty());
}

#[tokio::test]
async fn a_backup_over_several_objects_and_a_volume_restore_declare_what_they_name() {
    let store = json!({"s3": {"bucket": "backups", "credentials": {"secretName": "s3"}}});
    let deployments = json!([{"name": "web", "claims": ["files"]}]);
    let object = json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "Backup", "metadata": {"name": "today", "namespace": "here"},
        "spec": {"together": {"store": store, "deployments": deployments, "clusters": [{"name": "db"}]}},
    });
    let make = |hosts, objects, _, wake| BackupKind::new(hosts, objects, wake);
    assert_eq!(reads(make, object).await, ["postgresclusters.evenkeel.dev/here/db", "secrets/here/s3"]);
    let object = json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "VolumeRestore", "metadata": {"name": "back", "namespace": "here"},
        "spec": {"from": {"store": store, "path": "here.claim.files/volumes/1"}, "claim": "files"},
    });
    let make = |hosts, objects, _, wake| VolumeRestoreKind::new(hosts, objects, wake);
    assert_eq!(reads(make, object).await, ["secrets/here/s3"]);
    let object = json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "VolumeRestore", "metadata": {"name": "back", "namespace": "here"},
        "spec": {"from": {"backup": "today"}, "claim": "files"},
    });
    let make = |hosts, objects, _, wake| VolumeRestoreKind::new(hosts, objects, wake);
    assert_eq!(reads(make, object).await, ["backups.evenkeel.dev/here/today"]);
}

#[tokio::test]
async fn a_redis_declares_its_secrets() {
    let object = json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "RedisSentinel",
        "metadata": {"name": "cache", "namespace": "here"},
        "spec": {"image": "redis:7", "auth": {"secret": {"name": "given"}}},
    });
    let reads = reads(RedisSentinelKind::new, object).await;
    for secret in ["cache-app", "cache-internal", "given"] {
        assert!(reads.contains(&format!("secrets/here/{secret}")), "{secret} in {reads:?}");
    }
}

#[tokio::test]
async fn a_redis_cluster_declares_its_secrets() {
    let object = json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "RedisCluster",
        "metadata": {"name": "shop", "namespace": "here"},
        "spec": {"image": "redis:7", "auth": {"secret": {"name": "given"}}},
    });
    let reads = reads(RedisClusterKind::new, object).await;
    for secret in ["shop-app", "shop-internal", "given"] {
        assert!(reads.contains(&format!("secrets/here/{secret}")), "{secret} in {reads:?}");
    }
}

#[tokio::test]
async fn a_deployment_declares_hosts_balancers_secrets_and_configmaps() {
    let container = json!({
        "name": "web", "image": "web:1",
        "envFrom": [{"secretRef": {"name": "login"}}, {"configMapRef": {"name": "settings"}}],
    });
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "here"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}},
        },
    });
    let make = |hosts, objects, _, wake| DeploymentKind::new(hosts, objects, wake);
    let reads = reads(make, object).await;
    assert_eq!(reads, ["configmaps/here/settings", "secrets/here/login", "namespaces/here"]);
}

#[tokio::test]
async fn a_balancer_declares_what_it_routes_to_and_its_secrets() {
    let object = json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "LoadBalancer",
        "metadata": {"name": "edge", "namespace": "here"},
        "spec": {
            "stats": {"port": 8404},
            "frontends": [
                {"name": "web", "port": 443, "tls": {"secretName": "certificate"}, "backend": "web"},
                {"name": "db", "port": 5432, "mode": "tcp", "backend": "db"},
                {"name": "cache", "port": 6379, "mode": "tcp", "backend": "cache"},
            ],
            "backends": [
                {"name": "web", "deployment": {"name": "web", "port": 8052}},
                {"name": "db", "postgres": {"name": "db", "role": "primary"}},
                {"name": "cache", "redisSentinel": {"name": "cache", "role": "master"}},
            ],
        },
    });
    let reads = reads(LoadBalancerKind::new, object).await;
    let keys = [
        "deployments.apps/here/web",
        "postgresclusters.evenkeel.dev/here/db",
        "redissentinels.evenkeel.dev/here/cache",
    ];
    for key in keys.into_iter().chain(["secrets/here/certificate", "secrets/here/edge-stats"]) {
        assert!(reads.iter().any(|read| read == key), "{key} in {reads:?}");
    }
}

#[tokio::test]
async fn a_host_declares_the_secret_of_its_certificate() {
    let object = json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "DockerHost", "metadata": {"name": "far"},
        "spec": {
            "endpoint": "tcp://far:2376",
            "tls": {"secretName": "certificate", "secretNamespace": "there"},
        },
    });
    let make = |hosts, objects, _, wake| DockerHostKind::new(hosts, objects, wake);
    assert_eq!(reads(make, object).await, ["secrets/there/certificate"]);
}
