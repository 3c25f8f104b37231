//! `evenkeel cluster remove`: takes a node out of the cluster, for example one that is lost.

use serde_json::json;

use crate::api::cluster::{REMOVE, REMOVE_STOLEN, Removal, Removed};
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
    /// Others may have the node's files: also replaces the administrator's token, revokes the join tokens, and says what remains to
    /// be done
    #[arg(long)]
    stolen: bool,
}

/// Removes the node, and says what is left to do.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    let removal = Removal { node: args.node, force: args.force };
    let path = if args.stolen { REMOVE_STOLEN } else { REMOVE };
    let answer = session.client.post(path, &[], &json!(removal)).await?;
    let Removed { node, peer, runs, verdict, revoked } = serde_json::from_value(answer.body)
        .map_err(|error| Error::Failed(format!("the server's answer cannot be understood: {error}")))?;
    // Without a member that Evenkeel manages, nobody knows whether there ever was such a node.
    let done = if peer.is_empty() { "is not known any more" } else { "was removed" };
    writeln!(session.out, "{node} {done}; {verdict}")?;
    if args.stolen {
        let tokens = if revoked.is_empty() { "none was there".to_owned() } else { revoked.join(", ") };
        writeln!(session.out, "the administrator's token was replaced at every operator; the one before is refused")?;
        writeln!(session.out, "join tokens that were revoked: {tokens}")?;
        write!(session.err, "{}", remains(&node))?;
        return Ok(());
    }
    let state = if runs { "Its operator ends by itself. On that machine" } else { "If that machine comes back: there" };
    writeln!(
        session.err,
        "{state}, stop the operator, `docker rm -f evenkeel-etcd`, `docker volume rm evenkeel-etcd`, and remove its data directory, \
         before it joins again. It has all keys of the cluster until then; if others may have them: --stolen"
    )?;
    Ok(())
}

/// What no operator can do while it runs with the keys that the node has, too.
fn remains(node: &str) -> String {
    format!(
        "
What remains. Whoever has the files of {node} can still read and change everything: they have the certificate for etcd, the keys of
the CAs (with which they make certificates of any user), the key of the Secrets, and so the keys to the Docker hosts. Only new keys
end that:
  1. Now: cut its machine off from ports 2379, 2380 and 7443 of every node, and from the Docker hosts.
  2. On every node: systemctl stop evenkeel (its etcd goes on)
  3. On one node, which keeps all objects: evenkeel cluster renew-keys --yes
     and what that command says. Databases and applications go on meanwhile.
  4. On every other node: docker rm -f evenkeel-etcd; docker volume rm evenkeel-etcd; remove its data directory; then join again.
  5. Replace the ssh keys and certificates to the Docker hosts, on the hosts and in their Secrets (kubectl get dockerhosts -o yaml
     names them), and every password that is in a Secret: databases, registries, applications.
  6. Give people and programs new kubeconfigs; certificates of `evenkeel kubeconfig create` end with step 3.
"
    )
}
