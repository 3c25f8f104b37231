//! RedisSentinel: the spec of a Redis with replicas, watched by Sentinels.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::duration::Span;
use super::invalid::Invalid;
use super::placement::Placement;
use super::postgres_cluster::Storage;
use super::postgres_tls::SecretRef;
use super::redis_backup::{RedisBackupSpec, RedisBootstrap};
pub use super::redis_directives::Persistence;
use super::redis_directives::{self, Basis};
pub use super::redis_status::*;
use super::resources::Resources;

/// A Redis with replicas: one master, Sentinels that watch it, automatic failover.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "evenkeel.dev",
    version = "v1alpha1",
    kind = "RedisSentinel",
    plural = "redissentinels",
    shortname = "rsent",
    category = "all",
    namespaced,
    status = "RedisSentinelStatus",
    derive = "PartialEq",
    doc = "A Redis with replicas: one master, Sentinels that watch it, automatic failover.",
    printcolumn = r#"{"name":"Replicas","type":"integer","jsonPath":".spec.replicas"}"#,
    printcolumn = r#"{"name":"Ready","type":"integer","jsonPath":".status.readyReplicas"}"#,
    printcolumn = r#"{"name":"Sentinels","type":"integer","jsonPath":".status.readySentinels"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Master","type":"string","jsonPath":".status.master"}"#,
    printcolumn = r#"{"name":"Epoch","type":"integer","jsonPath":".status.epoch","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisSentinelSpec {
    /// Image with Redis 7 or Valkey 8 that follows the conventions of the official one, e.g. `redis:7`.
    #[schemars(length(min = 1))]
    pub image: String,
    /// Number of data members: one master, the others replicas. 1 to 9.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 9))]
    pub replicas: u32,
    /// Number of Sentinels. 1 to 9; an odd number of at least 3 survives the loss of one.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 9))]
    pub sentinels: u32,
    /// Sentinels that must agree that the master is down. Default: a majority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 9))]
    pub quorum: Option<u32>,
    /// The name by which clients ask Sentinels for the master.
    #[serde(default = "mymaster")]
    #[schemars(length(min = 1, max = 63))]
    pub master_name: String,
    /// Time without an answer after which a Sentinel takes a member for down. A death that Evenkeel has seen is acted on at
    /// once; this is for everything else. 500ms to 5m.
    #[serde(default = "five_seconds")]
    pub down_after: Span,
    /// Sentinel's `failover-timeout`: after a failover that did not succeed the next one begins after twice this time. 2s to
    /// 10m.
    #[serde(default = "ten_seconds")]
    pub failover_timeout: Span,
    /// Replicas that copy from a new master at the same time. 1 to 9.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 9))]
    pub parallel_syncs: u32,
    /// The application's user.
    #[serde(default, skip_serializing_if = "Auth::is_default")]
    pub auth: Auth,
    /// `aof` (default): every write goes to a log on disk, at most one second later. `rdb`: snapshots by the directive
    /// `save`. `none`: nothing is on disk; the data exists while one member that has it runs.
    #[serde(default)]
    pub persistence: Persistence,
    /// Replicas that must have acknowledged in the last `minReplicasMaxLag` for the master to take writes. Default: 1 with
    /// three or more data members, else 0. It bounds what a failover can lose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 8))]
    pub min_replicas_to_write: Option<u32>,
    /// See `minReplicasToWrite`. Whole seconds, 1s to 1m.
    #[serde(default = "three_seconds")]
    pub min_replicas_max_lag: Span,
    /// Directives of redis.conf; set while the server runs where Redis can, else by a rolling restart that switches the
    /// master over first.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, String>,
    /// Limits of each data member. From a memory limit follows `maxmemory`, unless `config` has it.
    #[serde(default, skip_serializing_if = "Resources::is_empty")]
    pub resources: Resources,
    /// What happens to the volumes.
    #[serde(default)]
    pub storage: Storage,
    /// On which hosts the data members and the Sentinels live.
    #[serde(default, skip_serializing_if = "Placement::is_default")]
    pub placement: Placement,
    /// TLS of all connections: clients, replication and Sentinels. Off by default.
    #[serde(default, skip_serializing_if = "RedisTls::is_default")]
    pub tls: RedisTls,
    /// Where backups go. Default: nothing is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<RedisBackupSpec>,
    /// How the first data comes about. It cannot be changed.
    #[serde(default, skip_serializing_if = "RedisBootstrap::is_default")]
    pub bootstrap: RedisBootstrap,
}

/// Memory of a member below which a backup may not fit beside its data: a quarter of it is for what is not data.
const BACKUP_MEMORY: i64 = 192 << 20;

fn one() -> u32 {
    1
}

fn three() -> u32 {
    3
}

fn mymaster() -> String {
    "mymaster".into()
}

fn three_seconds() -> Span {
    Span::seconds(3)
}

fn five_seconds() -> Span {
    Span::seconds(5)
}

fn ten_seconds() -> Span {
    Span::seconds(10)
}

/// The application's user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Auth {
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub username: String,
    /// A Secret with the key `password`, and `username` if it has one. Without it a password is generated. In both cases the
    /// Secret `NAME-app` has the connection data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
}

impl Default for Auth {
    fn default() -> Self {
        Self { username: "app".into(), secret: None }
    }
}

impl Auth {
    /// What is wrong with the name, if anything.
    pub fn problem(&self) -> Option<Invalid> {
        let username = self.username.to_ascii_lowercase();
        let problem = if !is_word(&username) {
            format!("{:?} {WORD}", self.username)
        } else if username == "default" || username.starts_with("evenkeel") {
            format!("{:?} is reserved; choose another name", self.username)
        } else {
            return None;
        };
        Some(Invalid::new("spec.auth.username", problem))
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// TLS of all connections.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RedisTls {
    /// Every connection uses TLS: Sentinels and nodes name one port to clients, so there is no port without it.
    pub enabled: bool,
    /// A Secret with your own certificate: `tls.crt`, `tls.key` and `ca.crt`. It needs the names of all members.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_secret: Option<SecretRef>,
}

impl RedisTls {
    /// Nothing is declared.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What is wrong with it.
    pub fn problem(&self) -> Option<Invalid> {
        let message = "is not used while spec.tls.enabled is false: set it to true";
        (self.server_secret.is_some() && !self.enabled).then(|| Invalid::new("spec.tls.serverSecret", message))
    }
}

impl RedisSentinelSpec {
    /// Sentinels that must agree that the master is down; the default if it is not set.
    pub fn quorum(&self) -> u32 {
        self.quorum.unwrap_or(self.sentinels / 2 + 1)
    }

    /// `min-replicas-to-write`; the default if it is not set.
    pub fn min_replicas_to_write(&self) -> u32 {
        self.min_replicas_to_write.unwrap_or(u32::from(self.replicas >= 3))
    }

    /// What the directives of redis.conf follow from.
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
        // A master that is cut off stops to take writes after this lag, so that it acknowledges no more that would be lost.
        directives.insert("min-replicas-to-write".into(), self.min_replicas_to_write().to_string());
        directives.insert("min-replicas-max-lag".into(), self.min_replicas_max_lag.get().as_secs().to_string());
        directives
    }

    /// What is allowed and has a consequence that its author may not expect.
    pub fn warnings(&self) -> Vec<String> {
        let sentinels = self.sentinels;
        let mut warnings = Vec::new();
        if sentinels < 3 {
            warnings.push(format!(
                "spec.sentinels is {sentinels}: with fewer than 3, the loss of one Sentinel ends automatic failover"
            ));
        } else if sentinels.is_multiple_of(2) {
            warnings.push(format!(
                "spec.sentinels is {sentinels}, an even number: it survives the loss of no more Sentinels than {} do",
                sentinels - 1
            ));
        }
        if self.quorum() < sentinels / 2 + 1 {
            warnings.push(format!(
                "spec.quorum is {}: fewer than a majority of the Sentinels can begin a failover of a master that others reach",
                self.quorum()
            ));
        }
        if self.backup.is_some() && self.resources.memory().is_some_and(|bytes| bytes < BACKUP_MEMORY) {
            warnings.push(
                "spec.resources.limits.memory is less than 192Mi: a backup takes some 40 MiB of it beside the data, and pages that \
                 change while the server writes a snapshot count twice"
                    .into(),
            );
        }
        if self.replicas == 1 {
            warnings.push("spec.replicas is 1: without a replica there is no failover, and no second copy".into());
        } else if self.min_replicas_to_write() == 0 {
            warnings.push(
                "minReplicasToWrite is 0: a master that is cut off takes writes until Sentinel or Evenkeel demotes it; \
                 these are lost"
                    .into(),
            );
        }
        warnings
    }

    /// Every problem that the schema cannot express.
    pub fn validate(&self) -> Vec<Invalid> {
        let mut problems = Vec::new();
        let mut say = |path: &str, message: String| problems.push(Invalid::new(path, message));
        if let Some(problem) = super::postgres_cluster::image_problem(&self.image) {
            say("spec.image", problem.replace("postgres:15", "redis:7"));
        }
        if let Some(quorum) = self.quorum.filter(|quorum| *quorum > self.sentinels) {
            say(
                "spec.quorum",
                format!(
                    "is {quorum}, must be no more than spec.sentinels ({}): it would never be reached",
                    self.sentinels
                ),
            );
        }
        if let Some(asked) = self.min_replicas_to_write.filter(|asked| *asked >= self.replicas) {
            say(
                "spec.minReplicasToWrite",
                format!(
                    "is {asked}, must be less than spec.replicas ({}): the master is not its own replica, so it would take \
                     no write",
                    self.replicas
                ),
            );
        }
        if !is_word(&self.master_name) {
            say("spec.masterName", format!("{:?} {WORD}", self.master_name));
        }
        problems.extend(self.auth.problem());
        let mut say = |path: &str, message: String| problems.push(Invalid::new(path, message));
        for (path, span, least, most) in [
            ("spec.downAfter", self.down_after, Span::millis(500), Span::seconds(300)),
            ("spec.failoverTimeout", self.failover_timeout, Span::seconds(2), Span::seconds(600)),
            ("spec.minReplicasMaxLag", self.min_replicas_max_lag, Span::seconds(1), Span::seconds(60)),
        ] {
            if span < least || span > most {
                say(path, format!("is {span}, must be from {least} to {most}"));
            }
        }
        if !self.min_replicas_max_lag.as_millis().is_multiple_of(1000) {
            say(
                "spec.minReplicasMaxLag",
                format!("is {}, must be whole seconds: Redis knows no less", self.min_replicas_max_lag),
            );
        }
        problems.extend(self.tls.problem());
        problems.extend(self.placement.validate());
        problems.extend(self.resources.problems("spec.resources"));
        problems.extend(redis_directives::problems(&self.basis()));
        problems.extend(self.backup.iter().flat_map(RedisBackupSpec::problems));
        problems.extend(self.bootstrap.problems());
        if self.bootstrap.recovery.is_some() && self.keeps_nothing() {
            let message = "needs data on disk, and nothing is kept there: restore with persistence aof or rdb, and set none when it is Ready";
            problems.push(Invalid::new("spec.bootstrap.recovery", message));
        }
        problems
    }

    /// Whether a server has nothing on disk.
    fn keeps_nothing(&self) -> bool {
        let directives = self.directives();
        let is = |name: &str, values: &[&str]| {
            directives.get(name).is_some_and(|value| values.contains(&value.trim().trim_matches('"')))
        };
        is("appendonly", &["no"]) && is("save", &[""])
    }

    /// Every problem with a change of `self` to `new`.
    fn change_problems(&self, new: &Self) -> Vec<Invalid> {
        let mut problems = Vec::new();
        if self.bootstrap != new.bootstrap {
            let message = "cannot be changed: the first data comes about once; make a new object";
            problems.push(Invalid::new("spec.bootstrap", message));
        }
        if self.master_name != new.master_name {
            let message = "cannot be changed: Sentinels and clients know the master by it; make a new object";
            problems.push(Invalid::new("spec.masterName", message));
        }
        let databases = |spec: &Self| spec.config.get("databases").map_or(Some(16), |count| count.parse::<u32>().ok());
        if let (Some(before), Some(after)) = (databases(self), databases(new))
            && after < before
        {
            let message = format!("cannot be lowered from {before}: Redis does not start with data of a higher number");
            problems.push(Invalid::new("spec.config[databases]", message));
        }
        problems
    }
}

/// Every problem with a change of one object to another.
pub fn change_problems(old: &Value, new: &Value) -> Vec<Invalid> {
    let spec = |object: &Value| RedisSentinelSpec::deserialize(&object["spec"]);
    spec(old).and_then(|old| Ok(old.change_problems(&spec(new)?))).unwrap_or_default()
}

/// What [`is_word`] asks for.
const WORD: &str = "must be 1 to 63 letters, digits, '.', '_' or '-'";

/// Whether Redis, Sentinel and a URI read a name without quotes.
fn is_word(name: &str) -> bool {
    (1..=63).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(yaml: &str) -> RedisSentinelSpec {
        serde_saphyr::from_str(&format!("image: redis:7\n{yaml}")).unwrap_or_else(|error| panic!("{error}"))
    }

    fn problems(yaml: &str) -> String {
        spec(yaml).validate().iter().map(|one| format!("{one}\n")).collect()
    }

    #[test]
    fn a_plain_one_is_accepted_and_bounds_what_a_failover_can_lose() {
        assert_eq!(problems(""), "");
        assert_eq!((spec("").quorum(), spec("").min_replicas_to_write(), spec("").warnings()), (2, 1, vec![]));
        assert_eq!(spec("replicas: 2").min_replicas_to_write(), 0);
    }

    /// Regression 343: a quorum that can never be reached, a name that Sentinel reads as two words and times that it cannot
    /// keep were accepted; no failover ever began, or Sentinels did not start.
    #[test]
    fn what_sentinels_cannot_do_is_refused_with_its_path() {
        expect_test::expect![[r#"
            spec.quorum: is 4, must be no more than spec.sentinels (3): it would never be reached
            spec.minReplicasToWrite: is 3, must be less than spec.replicas (3): the master is not its own replica, so it would take no write
            spec.masterName: "my master" must be 1 to 63 letters, digits, '.', '_' or '-'
            spec.auth.username: "Evenkeel_x" is reserved; choose another name
            spec.downAfter: is 100ms, must be from 500ms to 5m
            spec.failoverTimeout: is 1h, must be from 2s to 10m
            spec.minReplicasMaxLag: is 1s 500ms, must be whole seconds: Redis knows no less
            spec.tls.serverSecret: is not used while spec.tls.enabled is false: set it to true
        "#]]
        .assert_eq(&problems(
            "quorum: 4\nminReplicasToWrite: 3\nmasterName: my master\nauth: {username: Evenkeel_x}\ndownAfter: 100ms\n\
             failoverTimeout: 1h\nminReplicasMaxLag: 1500ms\ntls: {serverSecret: {name: x}}",
        ));
        for name in ["\"a\\nb\"", "\"a\\\"b\"", "\"\"", "a b", "\u{e4}", "default"] {
            assert_ne!(problems(&format!("auth: {{username: {name}}}")), "", "{name}");
        }
    }

    #[test]
    fn what_is_allowed_but_unwise_is_told() {
        expect_test::expect![[r#"
            spec.sentinels is 4, an even number: it survives the loss of no more Sentinels than 3 do
            spec.quorum is 1: fewer than a majority of the Sentinels can begin a failover of a master that others reach
            minReplicasToWrite is 0: a master that is cut off takes writes until Sentinel or Evenkeel demotes it; these are lost
            spec.sentinels is 1: with fewer than 3, the loss of one Sentinel ends automatic failover
            spec.resources.limits.memory is less than 192Mi: a backup takes some 40 MiB of it beside the data, and pages that change while the server writes a snapshot count twice
            spec.replicas is 1: without a replica there is no failover, and no second copy
        "#]]
        .assert_eq(
            &[spec("sentinels: 4\nquorum: 1\nreplicas: 2").warnings(), spec("sentinels: 1\nreplicas: 1\nresources: {limits: {memory: 128Mi}}\nbackup: {store: {directory: {path: /b}}}").warnings()]
                .concat()
                .iter()
                .map(|one| format!("{one}\n"))
                .collect::<String>(),
        );
    }

    #[test]
    fn backups_and_a_restore_are_judged_with_their_paths() {
        let store = "store: {directory: {path: /srv/backups}}";
        let full = format!(
            "backup: {{{store}, retention: {{count: 7}}, maxRate: 50Mi}}\nbootstrap: {{recovery: {{source: {{backup: b}}}}}}"
        );
        assert_eq!(problems(&full), "");
        expect_test::expect![[r#"
            spec.backup.store: give exactly one of s3, directory
            spec.backup.retention: give at least one of window, count
            spec.backup.maxRate: must be from 32Ki to 1Gi (bytes a second), or be left out
            spec.bootstrap.recovery.source: give exactly one of backup, cluster, store (with path)
            spec.bootstrap.recovery: needs data on disk, and nothing is kept there: restore with persistence aof or rdb, and set none when it is Ready
        "#]]
        .assert_eq(&problems(
            "persistence: none\nbackup: {store: {}, retention: {}, maxRate: 1}\nbootstrap: {recovery: {source: {}}}",
        ));
        let unsaved = problems("persistence: rdb\nconfig: {save: ''}\nbootstrap: {recovery: {source: {backup: b}}}");
        assert!(unsaved.contains("spec.bootstrap.recovery: needs data on disk"), "{unsaved}");
        let told = |from, to| spec(from).change_problems(&spec(to)).into_iter().map(|one| one.path).collect::<Vec<_>>();
        let restored = "bootstrap: {recovery: {source: {backup: b}}}";
        assert_eq!(
            (told(restored, ""), told("", restored)),
            (vec!["spec.bootstrap".into()], vec!["spec.bootstrap".into()])
        );
        assert_eq!(told(restored, &format!("{restored}\npersistence: none")), Vec::<String>::new());
    }

    /// Regression 349: `databases` could be lowered. A server that finds data in a higher database does not start.
    #[test]
    fn what_would_part_members_or_data_cannot_be_changed() {
        let told = |yaml| spec("").change_problems(&spec(yaml)).into_iter().map(|one| one.path).collect::<Vec<_>>();
        assert_eq!(told("masterName: other\ntls: {enabled: true}"), ["spec.masterName"]);
        assert_eq!(told("config: {databases: '4'}"), ["spec.config[databases]"]);
        assert_eq!(told("replicas: 5\npersistence: none\nconfig: {databases: '20'}"), Vec::<String>::new());
    }
}
