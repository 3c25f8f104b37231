//! RedisCluster: the spec of a Redis Cluster: slots, masters, and their replicas.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::duration::Span;
use super::invalid::Invalid;
use super::placement::Placement;
use super::postgres_cluster::Storage;
pub use super::redis_cluster_status::*;
use super::redis_directives::{self, Basis};
use super::redis_sentinel::{Auth, Persistence, RedisTls};
use super::resources::Resources;

/// Most members: each has an address of its own in the network, and each knows each other.
const MOST: u32 = 20;

/// A Redis Cluster: 16384 slots on masters, each with replicas.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "evenkeel.dev",
    version = "v1alpha1",
    kind = "RedisCluster",
    plural = "redisclusters",
    shortname = "rclu",
    category = "all",
    namespaced,
    status = "RedisClusterStatus",
    derive = "PartialEq",
    doc = "A Redis Cluster: 16384 slots on masters, each with replicas.",
    printcolumn = r#"{"name":"Masters","type":"integer","jsonPath":".spec.masters"}"#,
    printcolumn = r#"{"name":"Members","type":"integer","jsonPath":".status.wantedMembers"}"#,
    printcolumn = r#"{"name":"Ready","type":"integer","jsonPath":".status.readyMembers"}"#,
    printcolumn = r#"{"name":"Slots","type":"integer","jsonPath":".status.slotsServed"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisClusterSpec {
    /// Image with Redis 7 or Valkey 8 that follows the conventions of the official one, e.g. `redis:7`.
    #[schemars(length(min = 1))]
    pub image: String,
    /// Number of masters; the slots are spread over them. 3 to 10: fewer have no majority when one is lost.
    #[serde(default = "three")]
    #[schemars(range(min = 3, max = 10))]
    pub masters: u32,
    /// Replicas of each master. 0 to 4.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 4))]
    pub replicas_per_master: u32,
    /// `cluster-node-timeout`: time without an answer after which a node is taken for down. A death that Evenkeel has seen is
    /// acted on at once; this is for everything else. 1s to 1m.
    #[serde(default = "five_seconds")]
    pub node_timeout: Span,
    /// The application's user.
    #[serde(default, skip_serializing_if = "is_default")]
    pub auth: Auth,
    /// `aof` (default): every write goes to a log on disk, at most one second later. `rdb`: snapshots by the directive
    /// `save`. `none`: nothing is on disk; the data exists while one member that has it runs.
    #[serde(default)]
    pub persistence: Persistence,
    /// Directives of redis.conf; set while the server runs where Redis can, else by a rolling restart, replicas first.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
    /// Limits of each member. From a memory limit follows `maxmemory`, unless `config` has it.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// What happens to the volumes.
    #[serde(default)]
    pub storage: Storage,
    /// On which hosts the members live.
    #[serde(default, skip_serializing_if = "Placement::is_default")]
    pub placement: Placement,
    /// TLS of all connections, also between the members. Nodes with and without TLS do not reach each other, so `enabled`
    /// cannot be changed.
    #[serde(default, skip_serializing_if = "RedisTls::is_default")]
    pub tls: RedisTls,
}

fn one() -> u32 {
    1
}

fn three() -> u32 {
    3
}

fn five_seconds() -> Span {
    Span::seconds(5)
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl RedisClusterSpec {
    /// Number of members.
    pub fn members(&self) -> u32 {
        self.masters * (1 + self.replicas_per_master)
    }

    fn basis(&self) -> Basis<'_> {
        Basis {
            persistence: self.persistence,
            memory: self.resources.memory().and_then(|bytes| u64::try_from(bytes).ok()),
            config: &self.config,
        }
    }

    /// The directives of redis.conf that follow from the spec; what `config` has is taken from it.
    pub fn directives(&self) -> BTreeMap<String, String> {
        let mut directives = redis_directives::directives(&self.basis());
        let ours = [
            ("cluster-enabled", "yes".to_owned()),
            ("cluster-config-file", "nodes.conf".to_owned()),
            ("cluster-node-timeout", self.node_timeout.as_millis().to_string()),
            // Slots whose master is down do not stop the others.
            ("cluster-require-full-coverage", "no".to_owned()),
            // Who replicates whom is decided in one place.
            ("cluster-allow-replica-migration", "no".to_owned()),
        ];
        directives.extend(ours.map(|(name, value)| (name.to_owned(), value)));
        // Until a replica has acknowledged something, nobody knows that its master feeds it, and of a new one that is a ping.
        directives.entry("repl-ping-replica-period".to_owned()).or_insert_with(|| "1".to_owned());
        if self.tls.enabled {
            directives.insert("tls-cluster".to_owned(), "yes".to_owned());
        }
        directives
    }

    /// Every problem that the schema cannot express.
    pub fn validate(&self) -> Vec<Invalid> {
        let mut problems = Vec::new();
        let mut say = |path: &str, message: String| problems.push(Invalid::new(path, message));
        if let Some(problem) = super::postgres_cluster::image_problem(&self.image) {
            say("spec.image", problem.replace("postgres:15", "redis:7"));
        }
        if self.masters < 3 {
            say(
                "spec.masters",
                format!("is {}, must be at least 3: fewer have no majority when one is lost", self.masters),
            );
        }
        if self.members() > MOST {
            let message = format!("makes {} members with spec.masters, must be no more than {MOST}", self.members());
            say("spec.replicasPerMaster", message);
        }
        if self.node_timeout < Span::seconds(1) || self.node_timeout > Span::seconds(60) {
            say("spec.nodeTimeout", format!("is {}, must be from 1s to 60s", self.node_timeout));
        }
        problems.extend(self.auth.problem());
        problems.extend(self.tls.problem());
        problems.extend(self.placement.validate());
        problems.extend(self.resources.problems("spec.resources"));
        problems.extend(redis_directives::problems(&self.basis()));
        if let Some(count) = self.config.get("databases").filter(|count| *count != "1") {
            let message = format!("is {count}: a Redis Cluster has one database; leave it out");
            problems.push(Invalid::new("spec.config[databases]", message));
        }
        problems
    }

    /// What is allowed and has a consequence that its author may not expect.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.replicas_per_master == 0 {
            warnings.push(
                "spec.replicasPerMaster is 0: without replicas there is no failover, and no second copy".to_owned(),
            );
        }
        warnings
    }

    fn change_problems(&self, new: &Self) -> Vec<Invalid> {
        let mut problems = Vec::new();
        if self.masters != new.masters && self.replicas_per_master != new.replicas_per_master {
            let message = "cannot be changed together with spec.masters: change one, wait for Ready, then the other";
            problems.push(Invalid::new("spec.replicasPerMaster", message));
        }
        if self.tls.enabled != new.tls.enabled {
            let message = "cannot be changed: nodes with and without TLS do not reach each other; create another \
                           RedisCluster and move the data";
            problems.push(Invalid::new("spec.tls.enabled", message));
        }
        problems
    }
}

/// Every problem with a change of one object to another.
pub fn change_problems(old: &Value, new: &Value) -> Vec<Invalid> {
    let spec = |object: &Value| RedisClusterSpec::deserialize(&object["spec"]);
    spec(old).and_then(|old| Ok(old.change_problems(&spec(new)?))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(yaml: &str) -> RedisClusterSpec {
        serde_saphyr::from_str(&format!("image: redis:7\n{yaml}")).unwrap_or_else(|error| panic!("{error}"))
    }

    fn problems(yaml: &str) -> String {
        spec(yaml).validate().iter().map(|one| format!("{one}\n")).collect()
    }

    #[test]
    fn a_plain_one_is_accepted_and_has_six_members() {
        assert_eq!((problems("").as_str(), spec("").members(), spec("").warnings()), ("", 6, vec![]));
        assert_eq!(spec("replicasPerMaster: 0").warnings().len(), 1);
        assert_eq!(spec("").directives()["cluster-node-timeout"], "5000");
    }

    /// Regression 390: fewer than three masters, more members than addresses and a time that no node can keep were accepted;
    /// the nodes never agreed, or no failover ever had a majority.
    #[test]
    fn what_a_redis_cluster_cannot_do_is_refused_with_its_path() {
        expect_test::expect![[r#"
            spec.masters: is 2, must be at least 3: fewer have no majority when one is lost
            spec.nodeTimeout: is 500ms, must be from 1s to 60s
            spec.auth.username: "evenkeel_x" is reserved; choose another name
            spec.config[databases]: is 16: a Redis Cluster has one database; leave it out
        "#]]
        .assert_eq(&problems(
            "masters: 2\nnodeTimeout: 500ms\nauth: {username: evenkeel_x}\nconfig: {databases: \"16\"}",
        ));
        assert_eq!(
            problems("masters: 10\nreplicasPerMaster: 2"),
            "spec.replicasPerMaster: makes 30 members with spec.masters, must be no more than 20\n"
        );
        assert_eq!(spec("").change_problems(&spec("masters: 4\nreplicasPerMaster: 2")).len(), 1);
        assert_eq!(spec("").change_problems(&spec("masters: 4")), vec![]);
    }

    #[test]
    fn tls_is_chosen_once() {
        assert_eq!(
            problems("tls: {serverSecret: {name: mine}}"),
            "spec.tls.serverSecret: is not used while spec.tls.enabled is false: set it to true\n"
        );
        let with = spec("tls: {enabled: true}");
        assert_eq!((with.validate(), with.directives()["tls-cluster"].as_str()), (vec![], "yes"));
        let told = with.change_problems(&spec(""));
        assert_eq!(told.iter().map(|one| one.path.as_str()).collect::<Vec<_>>(), ["spec.tls.enabled"]);
        assert_eq!(with.change_problems(&spec("tls: {enabled: true, serverSecret: {name: mine}}")), vec![]);
    }
}
