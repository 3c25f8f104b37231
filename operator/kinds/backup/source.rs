//! What is backed up, of whatever kind: its members, who of them leads, and where its backups go. Pure.

use crate::api::backup::BackedUpKind;
use crate::api::backup_store::{BackupStore, Encryption};
use crate::api::postgres_backup::{BackupTarget, rate_bytes};
use crate::api::postgres_cluster::{InstanceRole, InstanceState, PostgresCluster, Stage};
use crate::api::redis_sentinel::{RedisSentinel, RedisStage, RedisState};

/// The object that is backed up.
#[derive(Debug, Clone, PartialEq)]
pub enum Cluster {
    /// A PostgresCluster.
    Postgres(Box<PostgresCluster>),
    /// A RedisSentinel.
    Redis(Box<RedisSentinel>),
}

/// The words of a kind.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    /// The kind.
    pub kind: &'static str,
    /// A member.
    pub member: &'static str,
    /// The one that leads.
    pub leader: &'static str,
}

impl Words {
    /// Those of this kind.
    pub fn of(kind: BackedUpKind) -> Self {
        match kind {
            BackedUpKind::PostgresCluster => Self { kind: kind.word(), member: "instance", leader: "primary" },
            BackedUpKind::RedisSentinel => Self { kind: kind.word(), member: "member", leader: "master" },
        }
    }
}

/// What `spec.backup` says.
pub struct Declared<'a> {
    /// Where backups go.
    pub store: &'a BackupStore,
    /// What they are encrypted with.
    pub encryption: Option<&'a Encryption>,
    /// Which member is read.
    pub target: BackupTarget,
    /// Bytes a second at most.
    pub max_rate: Option<u64>,
}

/// What matters of the object that is backed up.
pub struct Source<'a> {
    /// It is not being deleted.
    pub lives: bool,
    /// Its `spec.backup`.
    pub declared: Option<Declared<'a>>,
    /// The folder of its backups, once it has one.
    pub archive: Option<String>,
    /// The number of its last election.
    pub term: u64,
    /// Its members.
    pub members: Vec<&'a str>,
    /// The one that leads.
    pub leader: Option<&'a str>,
    /// That one can be read.
    pub leads: bool,
    /// The others that have the leader's data, those with the least lag first.
    pub copies: Vec<&'a str>,
}

impl Cluster {
    /// The PostgresCluster that it is.
    pub fn postgres(&self) -> Option<&PostgresCluster> {
        match self {
            Self::Postgres(cluster) => Some(cluster),
            Self::Redis(_) => None,
        }
    }

    /// What matters of it.
    pub fn source(&self) -> Source<'_> {
        match self {
            Self::Postgres(cluster) => of_postgres(cluster),
            Self::Redis(redis) => of_redis(redis),
        }
    }

    /// The names of its members with their hosts.
    pub fn places(&self) -> Vec<(&str, &str)> {
        match self {
            Self::Postgres(cluster) => {
                let decided = cluster.status.iter().filter_map(|status| status.decisions.as_ref());
                let members = decided.flat_map(|decisions| &decisions.members);
                members.map(|member| (member.name.as_str(), member.host.as_str())).collect()
            }
            Self::Redis(redis) => {
                let decided = redis.status.iter().filter_map(|status| status.decisions.as_ref());
                let members = decided.flat_map(|decisions| &decisions.members);
                members.map(|member| (member.name.as_str(), member.host.as_str())).collect()
            }
        }
    }
}

impl Source<'_> {
    /// Whether this member leads.
    pub fn is_leader(&self, member: &str) -> bool {
        self.leader == Some(member)
    }
}

/// The names, those with the least lag first.
fn sorted<'a>(copies: impl Iterator<Item = (u64, &'a str)>) -> Vec<&'a str> {
    let mut copies: Vec<_> = copies.collect();
    copies.sort_unstable();
    copies.into_iter().map(|(_, name)| name).collect()
}

fn of_postgres(cluster: &PostgresCluster) -> Source<'_> {
    let status = cluster.status.as_ref();
    let decisions = status.and_then(|status| status.decisions.as_ref());
    let leader = decisions.and_then(|decisions| decisions.leader_name());
    let standbys = status.into_iter().flat_map(|status| &status.instances);
    let standbys = standbys
        .filter(|one| one.role == InstanceRole::Standby && one.state == InstanceState::Streaming)
        .filter(|one| Some(one.name.as_str()) != leader)
        .map(|one| (one.lag_mib.unwrap_or_default(), one.name.as_str()));
    Source {
        lives: cluster.metadata.deletion_timestamp.is_none(),
        declared: cluster.spec.backup.as_ref().map(|backup| Declared {
            store: &backup.store,
            encryption: backup.encryption.as_ref(),
            target: backup.target,
            max_rate: rate_bytes(backup.max_rate.as_ref()),
        }),
        archive: decisions.and_then(|decisions| decisions.archive.clone()),
        term: decisions.map(|decisions| decisions.term).unwrap_or_default(),
        members: decisions.iter().flat_map(|one| &one.members).map(|member| member.name.as_str()).collect(),
        leader,
        leads: decisions.is_some_and(|decisions| decisions.stage == Stage::Steady),
        copies: sorted(standbys),
    }
}

fn of_redis(redis: &RedisSentinel) -> Source<'_> {
    let status = redis.status.as_ref();
    let decisions = status.and_then(|status| status.decisions.as_ref());
    let leader = decisions.and_then(|decisions| decisions.master.as_deref());
    let replicas = status.into_iter().flat_map(|status| &status.members);
    let replicas = replicas
        .filter(|one| one.state == RedisState::Synced && Some(one.name.as_str()) != leader)
        .map(|one| (one.lag_bytes.unwrap_or_default(), one.name.as_str()));
    Source {
        lives: redis.metadata.deletion_timestamp.is_none(),
        declared: redis.spec.backup.as_ref().map(|backup| Declared {
            store: &backup.store,
            encryption: backup.encryption.as_ref(),
            target: backup.target,
            max_rate: rate_bytes(backup.max_rate.as_ref()),
        }),
        // Before there are members nobody can write there.
        archive: decisions.and(redis.spec.backup.as_ref()).and_then(|backup| backup.archive(&redis.metadata)),
        term: decisions.map(|decisions| decisions.epoch).unwrap_or_default(),
        members: decisions.iter().flat_map(|one| &one.members).map(|member| member.name.as_str()).collect(),
        leader,
        leads: decisions.is_some_and(|decisions| decisions.stage == RedisStage::Steady && decisions.change.is_none()),
        copies: sorted(replicas),
    }
}
