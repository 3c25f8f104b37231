//! `evenkeel cluster remove`: takes a node out of the cluster, for example one that is lost.

use serde_json::json;

use crate::api::cluster::{REMOVE, Removal, Removed};
use crate::cli::error::Error;
use crate::cli::session::Session;

/// A node to remove.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its name, as `cluster status` shows it
    node: String,
    /// Also if those that remain and work are no majority: the store stands still then
    #[arg(long)]
    force: bool,
}

/// Removes the node, and says what is left to do.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    let removal = Removal { node: args.node, force: args.force };
    let answer = session.client.post(REMOVE, &[], &json!(removal)).await?;
    let Removed { node, runs, verdict, .. } = serde_json::from_value(answer.body)
        .map_err(|error| Error::Failed(format!("the server's answer cannot be understood: {error}")))?;
    writeln!(session.out, "{node} was removed; {verdict}")?;
    let state = if runs { "Its operator ends by itself. On that machine" } else { "If that machine comes back: there" };
    writeln!(
        session.err,
        "{state}, stop the operator, `docker rm -f evenkeel-etcd`, `docker volume rm evenkeel-etcd`, and remove its data directory, \
         before it joins again. It has all keys of the cluster until then"
    )?;
    Ok(())
}
