//! `evenkeel backup`: creates a Backup of a PostgresCluster, and follows it until it has ended.

use serde_json::json;

use super::error::Error;
use super::once::{self, Wait};
use super::session::Session;

/// Takes a base backup of a PostgresCluster, or a dump of one of its databases: creates a Backup object.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The PostgresCluster
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

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    let catalog = session.client.catalog().await?;
    let (clusters, backups) =
        (catalog.resolve("postgresclusters.evenkeel.dev")?, catalog.resolve("backups.evenkeel.dev")?.clone());
    if session.client.object(clusters, &session.namespace, &args.cluster).await?.is_none() {
        let message = format!("no PostgresCluster {:?} in namespace {}", args.cluster, session.namespace);
        return Err(Error::NotFound(message));
    }
    let name = args.name.unwrap_or_else(|| once::default_name(&args.cluster, (session.now)()));
    let mut spec = json!({"cluster": {"name": args.cluster}});
    if let Some(database) = args.database {
        (spec["method"], spec["database"]) = (json!("dump"), json!(database));
    }
    let backup = json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "Backup", "metadata": {"name": name}, "spec": spec,
    });
    once::create((&backups, "backup"), &backup, "evenkeel-backup", args.wait, session).await
}
