//! Secrets and ConfigMaps that pods use: which exist, and a hash of each.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use serde_json::{Value, json};

use super::blueprint;
use crate::api::endpoints::private_network;
use crate::api::hash::short_hash_of_parts;
use crate::api::object::Object as _;
use crate::api::postgres_cluster::PostgresCluster;
use crate::api::redis_cluster::RedisCluster;
use crate::api::redis_sentinel::RedisSentinel;
use crate::kinds::containers::InputRef;
use crate::kinds::containers::inputs::{contents, object};
use crate::store::Error;
use crate::store::objects::Objects;

/// What is known of Secrets and ConfigMaps, without their values.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Inputs(BTreeMap<InputRef, Input>);

/// One Secret or ConfigMap that exists; the others are not listed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Input {
    /// Changes with its contents. Of a Secret it is keyed with the uid, which only those can read who can read the values:
    /// it becomes part of names that all may see, and nobody shall try words against it.
    pub hash: String,
    /// The hash without a key, as in names of the version before.
    pub unkeyed: String,
    /// Its keys.
    pub keys: BTreeSet<String>,
    /// The network of the database that this Secret belongs to: a pod that uses the Secret joins the network.
    pub network: Option<String>,
}

impl Inputs {
    /// What is known of it; empty if it does not exist.
    pub fn get(&self, input: &InputRef) -> Input {
        self.0.get(input).cloned().unwrap_or_default()
    }

    /// What a template needs and does not exist, as text for people.
    pub fn missing(&self, template: &PodTemplateSpec) -> Option<String> {
        let spec = template.spec.clone().unwrap_or_default();
        let used = blueprint::inputs(&spec);
        let absent = used.iter().find(|(input, optional)| !**optional && !self.0.contains_key(input));
        if let Some((input, _)) = absent {
            return Some(format!("{input} does not exist; create it"));
        }
        let keys = blueprint::keys(&spec);
        let lacking =
            keys.into_iter().find(|(input, key)| self.0.get(input).is_some_and(|known| !known.keys.contains(key)));
        lacking.map(|(input, key)| format!("{input} has no key {key}"))
    }

    /// The networks of databases that a pod joins because it uses their Secrets.
    pub fn networks(&self, spec: &PodSpec) -> BTreeSet<String> {
        let used = blueprint::inputs(spec);
        used.keys().filter_map(|input| self.0.get(input)?.network.clone()).collect()
    }
}

/// Kinds with a network of their own, which a pod joins that uses their Secret: kind and resource.
pub const DATABASES: [(&str, &str); 3] = [
    (PostgresCluster::KIND, PostgresCluster::RESOURCE),
    (RedisSentinel::KIND, RedisSentinel::RESOURCE),
    (RedisCluster::KIND, RedisCluster::RESOURCE),
];

/// The part of a database that matters to the pods that use its Secret.
pub fn joined(database: &Value) -> Value {
    json!([database["metadata"]["uid"], network_of_endpoints(database)])
}

/// The network of the endpoints of a database, as it tells balancers: empty if its members are on their hosts' networks, null if
/// it has told nothing yet.
pub fn network_of_endpoints(database: &Value) -> &Value {
    &database["status"]["endpointSet"]["network"]
}

/// Reads the Secrets and ConfigMaps that exist.
pub async fn read(objects: &Objects, namespace: &str, used: BTreeSet<InputRef>) -> Result<Inputs, Error> {
    let mut known = BTreeMap::new();
    let mut clusters: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for input in used {
        let Some(value) = object(objects, namespace, &input).await? else { continue };
        let contents = contents(&value);
        let uid = value["metadata"]["uid"].as_str().filter(|_| value["kind"] == "Secret");
        let parts = || contents.iter().flat_map(|(key, bytes)| [key.as_bytes(), bytes]);
        let unkeyed = short_hash_of_parts(parts(), 16);
        let hash = short_hash_of_parts(uid.map(str::as_bytes).into_iter().chain(parts()), 16);
        let owners = value["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        let mut network = None;
        for owner in owners {
            let Some((kind, resource)) = DATABASES.into_iter().find(|(kind, _)| owner["kind"] == *kind) else {
                continue;
            };
            if !clusters.contains_key(kind) {
                clusters.insert(kind, objects.list::<Value>(resource, Some(namespace)).await?.0);
            }
            // Anybody who writes a Secret can name an owner, but nobody chooses the uid of a cluster.
            let is_it = |one: &&Value| ["name", "uid"].iter().all(|field| one["metadata"][field] == owner[field]);
            // Members on their hosts' networks are reached by the addresses in the Secret.
            let bridged = |one: &&Value| network_of_endpoints(one) != "";
            let name = clusters.get(kind).into_iter().flatten().find(is_it).filter(bridged);
            let name = name.and_then(|one| one["metadata"]["name"].as_str());
            network = network.or(name.and_then(|name| private_network(kind, namespace, name)));
        }
        known.insert(input, Input { hash, unkeyed, keys: contents.into_keys().collect(), network });
    }
    Ok(Inputs(known))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::kinds::containers::inputs::secret;
    use crate::runtime::clock::TestClock;
    use crate::store::{Key, MemoryStore};

    /// Regression 195: every Secret that named a PostgresCluster as its owner put the pods that used it on the network of that
    /// cluster. Nobody had asked whether the cluster was really the owner.
    #[tokio::test]
    async fn a_secret_joins_the_network_of_a_cluster_only_if_that_is_its_owner() {
        let clock = Arc::new(TestClock::still(jiff::Timestamp::UNIX_EPOCH));
        let objects = Objects::new(Arc::new(MemoryStore::default()), clock);
        let cluster = json!({"metadata": {"name": "db", "namespace": "here"}});
        let cluster = objects.create(&Key::new(PostgresCluster::RESOURCE, "here", "db"), cluster).await.unwrap();
        let mut told = BTreeMap::new();
        for (name, uid) in [("real", cluster["metadata"]["uid"].clone()), ("forged", json!("made-up"))] {
            let owner =
                json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "PostgresCluster", "name": "db", "uid": uid});
            let object =
                json!({"kind": "Secret", "metadata": {"name": name, "namespace": "here", "ownerReferences": [owner]}});
            objects.create(&Key::new("secrets", "here", name), object).await.unwrap();
            let inputs = read(&objects, "here", [secret(name)].into()).await.unwrap();
            told.insert(name, inputs.0[&secret(name)].network.clone());
        }
        assert_eq!(told, BTreeMap::from([("real", Some("here.db".to_owned())), ("forged", None)]));
    }

    /// Regression 406: on a single host, a pod that used the Secret of a database on the host's network waited for ever for a
    /// Docker network that nobody makes.
    #[tokio::test]
    async fn a_secret_of_a_database_on_its_hosts_networks_joins_no_network() {
        let clock = Arc::new(TestClock::still(jiff::Timestamp::UNIX_EPOCH));
        let objects = Objects::new(Arc::new(MemoryStore::default()), clock);
        let key = Key::new(PostgresCluster::RESOURCE, "here", "db");
        let mut cluster = objects.create(&key, json!({"metadata": {"name": "db", "namespace": "here"}})).await.unwrap();
        let owner = json!({"kind": "PostgresCluster", "name": "db", "uid": cluster["metadata"]["uid"]});
        let metadata = json!({"name": "db-app", "namespace": "here", "ownerReferences": [owner]});
        let app = json!({"kind": "Secret", "metadata": metadata});
        objects.create(&Key::new("secrets", "here", "db-app"), app).await.unwrap();
        cluster["status"] = json!({"endpointSet": {"network": ""}});
        objects.update_status(&key, cluster).await.unwrap();
        let inputs = read(&objects, "here", [secret("db-app")].into()).await.unwrap();
        assert_eq!(inputs.0[&secret("db-app")].network, None);
    }

    /// Regression 331: a pod that used the Secret of a RedisSentinel was on no network of it, so it reached neither members nor
    /// Sentinels. Only PostgresClusters were looked for.
    #[tokio::test]
    async fn a_secret_of_any_database_joins_its_network() {
        for (kind, resource) in DATABASES {
            let clock = Arc::new(TestClock::still(jiff::Timestamp::UNIX_EPOCH));
            let objects = Objects::new(Arc::new(MemoryStore::default()), clock);
            let object = json!({"metadata": {"name": "one", "namespace": "here"}});
            let object = objects.create(&Key::new(resource, "here", "one"), object).await.unwrap();
            let owner = json!({"kind": kind, "name": "one", "uid": object["metadata"]["uid"]});
            let metadata = json!({"name": "one-app", "namespace": "here", "ownerReferences": [owner]});
            let app = json!({"kind": "Secret", "metadata": metadata});
            objects.create(&Key::new("secrets", "here", "one-app"), app).await.unwrap();
            let inputs = read(&objects, "here", [secret("one-app")].into()).await.unwrap();
            assert_eq!(inputs.0[&secret("one-app")].network.as_deref(), Some("here.one"), "{kind}");
        }
    }
}
