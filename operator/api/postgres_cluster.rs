//! PostgresCluster: the spec of a PostgreSQL with streaming replication.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::invalid::Invalid;
pub use super::placement::*;
use super::postgres_backup::BackupSpec;
use super::postgres_bootstrap::Bootstrap;
pub use super::postgres_status::*;
use super::postgres_tls::Tls;
use super::resources::{self, Resources};
use super::{postgres_memory, postgres_settings, quantity};

/// `"true"` keeps running supervisors when the operator brings a new version of them.
pub const DEFER_UPDATE_ANNOTATION: &str = "evenkeel.dev/defer-supervisor-update";

/// A PostgreSQL cluster: one primary, streaming standbys, automatic failover.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "evenkeel.dev",
    version = "v1alpha1",
    kind = "PostgresCluster",
    plural = "postgresclusters",
    shortname = "pg",
    category = "all",
    namespaced,
    status = "PostgresClusterStatus",
    derive = "PartialEq",
    doc = "A PostgreSQL cluster: one primary, streaming standbys, automatic failover.",
    printcolumn = r#"{"name":"Instances","type":"integer","jsonPath":".spec.instances"}"#,
    printcolumn = r#"{"name":"Ready","type":"integer","jsonPath":".status.readyInstances"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Primary","type":"string","jsonPath":".status.primary"}"#,
    printcolumn = r#"{"name":"Term","type":"integer","jsonPath":".status.term","priority":1}"#,
    printcolumn = r#"{"name":"Read-Write","type":"string","jsonPath":".status.endpoints.readWrite[0]","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PostgresClusterSpec {
    /// Image with PostgreSQL 14 to 17 that follows the conventions of the official one, e.g. `postgres:15`.
    #[schemars(length(min = 1))]
    pub image: String,
    /// `Refuse` (default): no container is made of an image whose C library or ICU differs from the primary's, while text
    /// indexes depend on it. `Allow`: it is made, and you rebuild these indexes.
    #[serde(default, skip_serializing_if = "CollationChange::is_default")]
    pub collation_change: CollationChange,
    /// Number of instances: one primary, the others standbys. 1 to 9.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 9))]
    pub instances: u32,
    /// When a commit is acknowledged to the client.
    #[serde(default)]
    pub durability: Durability,
    /// How the first data directory is created.
    #[serde(default)]
    pub bootstrap: Bootstrap,
    /// PostgreSQL settings (`postgresql.conf`); applied by reload, or by a rolling restart if a setting needs one.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// What happens to the data volumes.
    #[serde(default)]
    pub storage: Storage,
    /// Limits of each instance. Default: it may use all that the Docker host has.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// Size of `/dev/shm` of each instance, which parallel queries use. What is in it counts to the memory limit. Default:
    /// half of the memory limit, without one half of the host's memory; but 1Gi if that is more and fits the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "resources::amount")]
    pub shm_size: Option<Quantity>,
    /// Limits of each process of an instance. Default: those of the Docker host.
    #[serde(default, skip_serializing_if = "Ulimits::is_default")]
    pub ulimits: Ulimits,
    /// TLS of clients.
    #[serde(default, skip_serializing_if = "Tls::is_default")]
    pub tls: Tls,
    /// Where the instances live. Default: on the host `local`, or spread over the hosts if several have an address.
    #[serde(default, skip_serializing_if = "Placement::is_default")]
    pub placement: Placement,
    /// Publishes the instances on ports of the Docker host; without it they are reachable only on their Docker network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expose: Option<Expose>,
    /// Where WAL and base backups go. Default: nowhere; only the volumes have the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupSpec>,
}

fn one() -> u32 {
    1
}

/// See [`PostgresClusterSpec::collation_change`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum CollationChange {
    /// No such container is made.
    #[default]
    Refuse,
    /// It is made; the indexes must be rebuilt by hand.
    Allow,
}

impl CollationChange {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Limits of each process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ulimits {
    /// Open files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 1_048_576))]
    pub nofile: Option<u32>,
}

impl Ulimits {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// When a commit is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Durability {
    /// `required` (default): only when enough standbys have it on disk; writes wait if standbys are missing.
    /// `preferred`: the same, but writes continue with fewer standbys. `async`: at once.
    #[serde(default)]
    pub mode: DurabilityMode,
    /// Number of standbys that must have a commit on disk. Default 1, or 0 with a single instance or `async`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synchronous_replicas: Option<u32>,
}

/// See [`Durability::mode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DurabilityMode {
    /// Writes always wait for standbys.
    #[default]
    Required,
    /// Writes wait for standbys while there are any.
    Preferred,
    /// Writes do not wait.
    Async,
}

/// What happens to the data volumes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Storage {
    /// `Retain` (default): the volumes stay, and a new object with this name adopts them. `Delete`: they are removed.
    #[serde(default)]
    pub reclaim_policy: ReclaimPolicy,
}

/// See [`Storage::reclaim_policy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum ReclaimPolicy {
    /// Keep the volumes.
    #[default]
    Retain,
    /// Remove the volumes.
    Delete,
}

/// Ports on the Docker host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expose {
    /// Port of the first instance; instance `n` gets `hostPort + n - 1`. On the hosts' networks every instance listens on
    /// `hostPort` of its host's address, and no two are on one host.
    #[schemars(range(min = 1, max = 65535))]
    pub host_port: u16,
    /// Address to listen on.
    #[serde(default = "loopback")]
    pub bind_address: String,
}

fn loopback() -> String {
    "127.0.0.1".into()
}

impl PostgresClusterSpec {
    /// Number of standbys that must have a commit on disk before it is acknowledged (w); the default if it is not set.
    pub fn synchronous_replicas(&self) -> u32 {
        match self.durability.mode {
            DurabilityMode::Async => 0,
            _ => self.durability.synchronous_replicas.unwrap_or_else(|| 1.min(self.instances.saturating_sub(1))),
        }
    }

    /// The declared size of `/dev/shm`, in bytes.
    pub fn shm_bytes(&self) -> Option<i64> {
        quantity::whole(&self.shm_size.as_ref()?.0).ok()
    }

    /// Every problem that the schema cannot express. `name`: that of the cluster.
    pub fn validate(&self, name: Option<&str>) -> Vec<Invalid> {
        let mut problems = Vec::new();
        if self.instances == 0 || self.instances > 9 {
            problems.push(Invalid::new("spec.instances", format!("is {}, must be from 1 to 9", self.instances)));
        }
        problems.extend(self.durability_problems());
        problems.extend(self.placement.validate());
        if let Some(problem) = image_problem(&self.image) {
            problems.push(Invalid::new("spec.image", problem));
        }
        for (name, value) in &self.parameters {
            if let Some(problem) = postgres_settings::problem(name, value) {
                problems.push(Invalid::new(format!("spec.parameters[{name}]"), problem));
            }
        }
        let shared_buffers = self.parameters.get("shared_buffers").map(String::as_str);
        problems.extend(postgres_memory::problems(&self.resources, self.shm_size.as_ref(), shared_buffers));
        problems.extend(self.bootstrap.problems(name));
        problems.extend(self.backup.iter().flat_map(BackupSpec::problems));
        if let Some(expose) = &self.expose {
            if u32::from(expose.host_port).saturating_add(self.instances) > 65536 {
                problems.push(Invalid::new("spec.expose.hostPort", "hostPort + instances - 1 must not be above 65535"));
            }
            if expose.bind_address.parse::<std::net::IpAddr>().is_err() {
                problems.push(Invalid::new(
                    "spec.expose.bindAddress",
                    format!("{:?} is not an IP address", expose.bind_address),
                ));
            }
        }
        problems
    }

    fn durability_problems(&self) -> Option<Invalid> {
        let path = "spec.durability.synchronousReplicas";
        let asked = self.durability.synchronous_replicas?;
        match self.durability.mode {
            DurabilityMode::Async if asked > 0 => Some(Invalid::new(
                path,
                format!(
                    "is {asked}, but mode async does not wait for standbys: leave it out or choose required or preferred"
                ),
            )),
            DurabilityMode::Async => None,
            _ if asked >= self.instances => Some(Invalid::new(
                path,
                format!(
                    "is {asked}, must be less than spec.instances ({}): the primary is not its own standby",
                    self.instances
                ),
            )),
            _ if asked == 0 && self.instances > 1 => {
                Some(Invalid::new(path, "is 0, which means mode async: say so, or ask for at least 1"))
            }
            _ => None,
        }
    }
}

/// The problem with an image reference, by Docker's grammar (simplified).
pub(crate) fn image_problem(image: &str) -> Option<String> {
    let bad = |why: &str| Some(format!("{image:?} is not an image reference such as postgres:15: {why}"));
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    if digest.is_some_and(|digest| !digest.starts_with("sha256:") || digest.len() != 71) {
        return bad("the digest must be sha256: and 64 hexadecimal digits");
    }
    let last_slash = name.rfind('/').map_or(0, |at| at + 1);
    let (repository, tag) = match name[last_slash..].split_once(':') {
        Some((_, tag)) => (&name[..name.len() - tag.len() - 1], Some(tag)),
        None => (name, None),
    };
    if tag.is_some_and(|tag| {
        tag.is_empty() || tag.len() > 128 || !tag.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    }) {
        return bad("the tag has characters that a tag cannot have");
    }
    let mut parts = repository.split('/').peekable();
    let mut first = true;
    while let Some(part) = parts.next() {
        let host = first && parts.peek().is_some();
        first = false;
        let allowed = |c: char| {
            c.is_ascii_lowercase()
                || c.is_ascii_digit()
                || "._-".contains(c)
                || host && (c == ':' || c.is_ascii_uppercase())
        };
        if part.is_empty() || !part.chars().all(allowed) || !part.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return bad("repository names are lower-case letters, digits, '.', '_' and '-'");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(yaml: &str) -> Vec<String> {
        let spec: PostgresClusterSpec = serde_saphyr::from_str(yaml).unwrap_or_else(|e| panic!("{e}"));
        spec.validate(None).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_plain_cluster_is_accepted_and_waits_for_one_standby() {
        let spec: PostgresClusterSpec =
            serde_saphyr::from_str("{image: 'postgres:15', instances: 3}").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(spec.validate(None), vec![]);
        assert_eq!(spec.synchronous_replicas(), 1);
    }

    #[test]
    fn a_single_instance_waits_for_nobody() {
        let spec: PostgresClusterSpec =
            serde_saphyr::from_str("{image: 'postgres:15'}").unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((spec.validate(None), spec.synchronous_replicas()), (vec![], 0));
    }

    #[test]
    fn all_problems_are_told_at_once_each_with_its_path() {
        let found = problems(
            "{image: 'Postgres:15', instances: 2, durability: {synchronousReplicas: 2}, parameters: {port: '1', wal_level: minimal}, expose: {hostPort: 65535, bindAddress: here}}",
        );
        let paths: Vec<_> = found.iter().map(|problem| problem.split(": ").next().unwrap_or_default()).collect();
        assert_eq!(
            paths,
            [
                "spec.durability.synchronousReplicas",
                "spec.image",
                "spec.parameters[port]",
                "spec.parameters[wal_level]",
                "spec.expose.hostPort",
                "spec.expose.bindAddress"
            ]
        );
    }

    /// Regression 92: memory that cannot fit was accepted, and the instances never started or were killed.
    #[test]
    fn memory_that_does_not_fit_is_refused_with_its_path() {
        let found = |spec: &str| problems(&format!("{{image: 'postgres:15', {spec}}}"));
        assert_eq!(found("resources: {limits: {memory: 4Gi, cpu: 2}}, shmSize: 1Gi"), Vec::<String>::new());
        let refused = [
            "resources: {limits: {memory: 4Gi}}, parameters: {shared_buffers: 8GB}",
            "resources: {limits: {memory: 150Mi}}",
            "resources: {limits: {memory: 5Mi, cpu: 1m}}",
            "resources: {limits: {memory: 1Gi}}, shmSize: 2Gi",
            "resources: {limits: {memory: lots, gpu: 1}}, shmSize: 1",
        ];
        let found: Vec<_> = refused.iter().flat_map(|spec| found(spec)).collect();
        let paths: Vec<_> = found.iter().map(|problem| problem.split(": ").next().unwrap_or_default()).collect();
        assert_eq!(
            paths,
            [
                "spec.parameters[shared_buffers]",
                "spec.resources.limits.memory",
                "spec.resources.limits.memory",
                "spec.resources.limits.cpu",
                "spec.resources.limits.memory",
                "spec.shmSize",
                "spec.resources.limits.gpu",
                "spec.resources.limits.memory",
                "spec.shmSize",
            ]
        );
    }

    #[test]
    fn image_references_of_all_shapes_are_told_apart() {
        for good in [
            "postgres",
            "postgres:15",
            "r.example:5000/a/b:1.2-x",
            "postgres@sha256:0123456789012345678901234567890123456789012345678901234567890123",
        ] {
            assert_eq!(image_problem(good), None, "{good}");
        }
        for bad in ["", "postgres:", "post gres:15", "UPPER:1", "a//b", "postgres:15:16", "postgres@sha256:12"] {
            assert!(image_problem(bad).is_some(), "{bad}");
        }
    }

    /// Regression 193: the owners `public` and `none` were accepted. PostgreSQL reserves both words, so the first start of the
    /// cluster failed for ever.
    #[test]
    fn an_owner_that_postgresql_reserves_is_refused() {
        for owner in ["public", "none", "postgres", "pg_owner", "evenkeel_x"] {
            let told = problems(&format!("{{image: 'postgres:15', bootstrap: {{initdb: {{owner: {owner}}}}}}}"));
            assert!(told.len() == 1 && told[0].starts_with("spec.bootstrap.initdb.owner: "), "{owner}: {told:?}");
        }
    }
}
