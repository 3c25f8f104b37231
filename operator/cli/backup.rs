//! `evenkeel backup`: creates a Backup of a PostgresCluster or RedisSentinel, and follows it until it has ended.

use serde_json::json;

use super::error::Error;
use super::once::{self, Wait};
use super::session::Session;

/// Takes a base backup of a PostgresCluster, a dump of one of its databases, or a snapshot of a RedisSentinel: creates a Backup object.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The PostgresCluster, or redissentinel/NAME
    cluster: String,
    /// Dump this database alone, instead of a base backup
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// The name of the Backup [default: CLUSTER-YYYYMMDDHHMMSS]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    wait: Wait,
}

/// The kinds that have backups.
const POSTGRES: &str = "postgrescluster.evenkeel.dev";
const REDIS: &str = "redissentinel.evenkeel.dev";

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    let catalog = session.client.catalog().await?;
    let (word, cluster) = args.cluster.split_once('/').unwrap_or((POSTGRES, &args.cluster));
    let (kind, backups) = (catalog.resolve(word)?, catalog.resolve("backups.evenkeel.dev")?.clone());
    if ![POSTGRES, REDIS].contains(&kind.label().as_str()) {
        let message = format!("a {} has no backups: name a PostgresCluster, or redissentinel/NAME", kind.kind);
        return Err(Error::Usage(message));
    }
    if session.client.object(kind, &session.namespace, cluster).await?.is_none() {
        let message = format!("no {} {cluster:?} in namespace {}", kind.kind, session.namespace);
        return Err(Error::NotFound(message));
    }
    let name = args.name.unwrap_or_else(|| once::default_name(cluster, (session.now)()));
    let mut spec = json!({"cluster": {"name": cluster}});
    if kind.label() != POSTGRES {
        spec["cluster"]["kind"] = json!(kind.kind);
    }
    if let Some(database) = args.database {
        (spec["method"], spec["database"]) = (json!("dump"), json!(database));
    }
    let backup = json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "Backup", "metadata": {"name": name}, "spec": spec,
    });
    once::create((&backups, "backup"), &backup, "evenkeel-backup", args.wait, session).await
}
