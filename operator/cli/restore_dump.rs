//! `evenkeel restore-dump`: creates a DatabaseRestore, and follows it until it has ended.

use serde_json::{Value, json};

use super::error::Error;
use super::once::{self, Wait};
use super::render;
use super::session::Session;

/// Restores a dump into a new database of a PostgresCluster: creates a DatabaseRestore object.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The PostgresCluster that gets the database
    cluster: String,
    /// The Backup whose dump is restored
    #[arg(long, value_name = "BACKUP")]
    dump: String,
    /// The name of the new database; one that exists is refused [default: that of the dump]
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// The role that everything is to belong to [default: owners and privileges as in the dump]
    #[arg(long, value_name = "ROLE")]
    owner: Option<String>,
    /// The name of the DatabaseRestore [default: CLUSTER-YYYYMMDDHHMMSS]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    wait: Wait,
}

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    let catalog = session.client.catalog().await?;
    let (clusters, backups) =
        (catalog.resolve("postgresclusters.evenkeel.dev")?, catalog.resolve("backups.evenkeel.dev")?);
    let restores = catalog.resolve("databaserestores.evenkeel.dev")?.clone();
    let missing = |kind: &str, name: &str, namespace: &str| {
        Error::NotFound(format!("no {kind} {name:?} in namespace {namespace}"))
    };
    if session.client.object(clusters, &session.namespace, &args.cluster).await?.is_none() {
        return Err(missing("PostgresCluster", &args.cluster, &session.namespace));
    }
    let Some(backup) = session.client.object(backups, &session.namespace, &args.dump).await? else {
        return Err(missing("Backup", &args.dump, &session.namespace));
    };
    let database = match (args.database, &backup["spec"]["database"]) {
        (Some(name), _) => name,
        (None, Value::String(name)) => name.clone(),
        (None, _) => {
            let what = "is a base backup: a new cluster with spec.bootstrap.recovery begins with its data";
            return Err(Error::Usage(format!("backup/{} {what}", render::cell(&backup["metadata"]["name"]))));
        }
    };
    let mut spec = json!({
        "cluster": {"name": args.cluster}, "from": {"backup": args.dump}, "database": database,
    });
    if let Some(owner) = args.owner {
        spec["owner"] = json!(owner);
    }
    let name = args.name.unwrap_or_else(|| once::default_name(&args.cluster, (session.now)()));
    let restore = json!({
        "apiVersion": "evenkeel.dev/v1alpha1", "kind": "DatabaseRestore", "metadata": {"name": name}, "spec": spec,
    });
    once::create((&restores, "databaserestore"), &restore, "evenkeel-restore", args.wait, session).await
}
