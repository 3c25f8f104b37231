//! What is backed up, and what is taken of it: the parts of a spec that a Backup and a ScheduledBackup share. Pure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::invalid::Invalid;

/// What is backed up: an object in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackedUp {
    /// Its kind.
    #[serde(default, skip_serializing_if = "BackedUpKind::is_default")]
    pub kind: BackedUpKind,
    /// Its name.
    #[schemars(length(min = 1))]
    pub name: String,
}

/// The kinds that Backups are taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum BackedUpKind {
    /// A PostgresCluster.
    #[default]
    PostgresCluster,
    /// A RedisSentinel.
    RedisSentinel,
}

impl BackedUpKind {
    /// Whether it is the default.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Its name.
    pub fn word(self) -> &'static str {
        match self {
            Self::PostgresCluster => "PostgresCluster",
            Self::RedisSentinel => "RedisSentinel",
        }
    }
}

impl BackedUp {
    /// What is taken of it.
    pub fn method(&self, method: Option<BackupMethod>) -> BackupMethod {
        method.unwrap_or(match self.kind {
            BackedUpKind::PostgresCluster => BackupMethod::Base,
            BackedUpKind::RedisSentinel => BackupMethod::Rdb,
        })
    }

    /// The problems with it, and with what is to be taken of it.
    pub fn problems(&self, method: Option<BackupMethod>, database: Option<&str>, verify: bool) -> Vec<Invalid> {
        let kind = self.kind.word();
        let unnamed = self.name.is_empty();
        let unnamed = unnamed.then(|| Invalid::new("spec.cluster.name", format!("must be the name of a {kind}")));
        let method = self.method(method);
        let message = match (self.kind, method) {
            (BackedUpKind::PostgresCluster, BackupMethod::Rdb) => Some("rdb is for a RedisSentinel: use base or dump"),
            (BackedUpKind::RedisSentinel, BackupMethod::Base | BackupMethod::Dump) => {
                Some("base and dump are for a PostgresCluster: use rdb, or leave it out")
            }
            _ => None,
        };
        // What else is wrong is wrong for another method.
        let rest = if message.is_some() { Vec::new() } else { method.problems(database, verify) };
        unnamed.into_iter().chain(message.map(|message| Invalid::new("spec.method", message))).chain(rest).collect()
    }
}

/// What a Backup takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum BackupMethod {
    /// The data directory. With the archived WAL every later time can be restored, into a new cluster.
    Base,
    /// One database, by `pg_dump`: as of one moment, restored into any cluster of the same or a later version.
    Dump,
    /// All data of a RedisSentinel as of one moment, as Redis writes it for a replica: restored into a new RedisSentinel.
    Rdb,
}

impl BackupMethod {
    /// The problems with `spec.database` and `spec.verify` beside this method.
    fn problems(self, database: Option<&str>, verify: bool) -> Vec<Invalid> {
        let untested = match self {
            _ if !verify => None,
            Self::Base => None,
            Self::Dump => Some("is for method base alone: a DatabaseRestore shows what is in a dump"),
            Self::Rdb => Some("is for method base alone: a new RedisSentinel shows what is in a snapshot"),
        };
        let untested = untested.map(|message| Invalid::new("spec.verify", message));
        self.database_problem(database).into_iter().chain(untested).collect()
    }

    fn database_problem(self, database: Option<&str>) -> Option<Invalid> {
        let message = match (self, database) {
            (Self::Base | Self::Rdb, None) => return None,
            (Self::Base, Some(_)) => "is for method dump alone: a base backup has all databases".to_owned(),
            (Self::Rdb, Some(_)) => "is for method dump alone: a snapshot has all databases".to_owned(),
            (Self::Dump, None) => "is missing: method dump takes one database".to_owned(),
            (Self::Dump, Some(name)) => database_problem(name)?,
        };
        Some(Invalid::new("spec.database", message))
    }
}

/// Most bytes of the name of a database: the limit of PostgreSQL.
const DATABASE: usize = 63;

/// What is wrong with the name of a database.
pub fn database_problem(name: &str) -> Option<String> {
    match name {
        "" => Some("must be the name of a database".to_owned()),
        "template0" | "template1" => Some("must not be a template".to_owned()),
        _ if name.len() > DATABASE => Some(format!("must have {DATABASE} bytes at most")),
        _ if name.contains(char::is_control) => Some("must have no control characters".to_owned()),
        _ => None,
    }
}
