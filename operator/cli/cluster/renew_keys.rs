//! `evenkeel cluster renew-keys`: new keys for everything that a stolen node knows, on the one node that goes on. Takes the objects out of
//! etcd, seals them with a new key, and removes the CAs, certificates and tokens, which the next start makes anew. Works on the data
//! directory of a stopped operator.

use std::io::Write;

use super::leave;
use crate::cli::datadir::DataDir;
use crate::cli::error::{Error, failed};
use crate::cli::operator::Home;
use crate::cli::secrets;
use crate::server::identity::shared;

/// New keys.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do it; without this, only what would be done is told
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    home: Home,
}

/// Renews them. Interrupted, it is finished by running it again.
pub async fn run(args: &Args, out: &mut (dyn Write + Send)) -> Result<(), Error> {
    let (home, dir) = (&args.home, args.home.dir());
    let shares = leave::is_to_do(&dir)? || leave::is_done(&dir);
    if !shares && !home.store().exists() {
        return Err(Error::Failed(format!("{} has no store; name the data directory by --data-dir", dir.display())));
    }
    if !args.yes {
        return Err(Error::Usage(format!(
            "nothing was done. With --yes, the objects are taken out of etcd into {}, Secrets are sealed with a new key, and all CAs, \
             certificates and tokens of the administrator are made anew: every kubeconfig and every other node needs the new ones",
            home.store().display()
        )));
    }
    if leave::is_to_do(&dir)? {
        leave::take_out(home).await?;
    }
    let _claimed = DataDir::claim(&dir)?;
    let key = match home.keys().renews() {
        true => Some(secrets::rotate(home).await?),
        false => None,
    };
    shared::remove(&dir).map_err(failed(|| "cannot remove the old keys; run this again".to_owned()))?;
    match key {
        Some(id) => {
            writeln!(out, "every Secret is sealed with the new key {id}; the next start makes new CAs and tokens")?
        }
        None => writeln!(
            out,
            "the next start makes new CAs and tokens. Secrets are still sealed with the key of {}: put a new key on its first line, and \
             remove the old one after that start",
            home.keys().first().display()
        )?,
    }
    if shares {
        writeln!(
            out,
            "To go on as the first of several operators: docker rm -f evenkeel-etcd; docker volume rm evenkeel-etcd; then start this \
             operator with --cluster-init. With an etcd of your own: give it a new CA and new client certificates, and start the operator \
             with --etcd-endpoints and another --etcd-prefix. Then let the other nodes join from empty data directories"
        )?;
    }
    Ok(())
}
