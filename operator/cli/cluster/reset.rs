//! `evenkeel cluster reset`: on a node that is left when a majority is lost for good, makes a cluster of this one node from its
//! data. Works on the data directory and this machine's Docker, not on the API.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::stopped;
use crate::api::failure::{Class, Classify as _};
use crate::cli::datadir::DataDir;
use crate::cli::error::{Error, failed};
use crate::cli::managed::running::Managed;
use crate::cli::managed::{kept, local_engine};
use crate::cli::operator::Home;
use crate::runtime::SystemClock;
use crate::runtime::clock::instant;
use crate::store::etcd::EtcdConfig;
use crate::store::{Store as _, generation};

/// Limit of the wait until the lease of the last leader is over.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// A reset.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do it; without this, only what would be done is told
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    home: Home,
}

/// Makes a cluster of this node alone.
pub async fn run(args: &Args, out: &mut (dyn Write + Send)) -> Result<(), Error> {
    let dir = args.home.dir();
    let member = match dir.exists() {
        true => kept::read(&dir)?,
        false => None,
    };
    let Some(member) = member.filter(|member| member.ran) else {
        return Err(Error::Failed(format!(
            "{} is no data directory of a node that has run with an etcd of Evenkeel's; name another by --data-dir",
            dir.display()
        )));
    };
    let _claimed = DataDir::claim(&dir)?;
    let (node, engine) = (member.node.clone(), local_engine(&dir)?);
    let mut managed = Managed::new(&dir, member, engine, EtcdConfig::PREFIX, Arc::new(SystemClock))?;
    if let Some(other) = managed.others_that_answer().await?.first() {
        return Err(Error::Failed(format!(
            "the member of etcd at {other} answers: nothing was done, because a reset would make two clusters of one. Start the \
             other machines; if that one is to be given up nevertheless, end etcd there first: docker rm -f evenkeel-etcd"
        )));
    }
    if !args.yes {
        return Err(Error::Usage(format!(
            "nothing was done. With --yes, {node} becomes a cluster of its own with the data that it has; every other node is \
             forgotten, and writes that never reached {node} are lost"
        )));
    }
    managed.reset().await?;
    raise(&args.home).await?;
    writeln!(out, "{node} is a cluster of its own now; start its operator")?;
    writeln!(
        out,
        "On every other machine of the old cluster, before its operator starts again: docker rm -f evenkeel-etcd; docker volume rm \
         evenkeel-etcd; remove its data directory; then join {node} with a new token"
    )?;
    Ok(())
}

/// Raises the generation of the store: a leadership that is forgotten here may have had a higher epoch than the next one would have,
/// and supervisors would refuse that.
async fn raise(home: &Home) -> Result<(), Error> {
    let (dir, doing) = (home.dir(), || "its operators would be refused; run this again".to_owned());
    let Some(etcd) = stopped::etcd(&dir, stopped::keys(home)?).await? else { return Ok(()) };
    let before = etcd.generation().await.map_err(failed(doing))?;
    let next = generation::next(before, &dir).map_err(failed(doing))?;
    let patience = instant() + PATIENCE;
    while let Err(error) = etcd.reopen(next).await {
        // The lease of the last leader may go on for a moment, or etcd has just started.
        if error.class() != Class::Transient || instant() >= patience {
            return Err(failed(doing)(error));
        }
        sleep(PAUSE).await;
    }
    generation::note(&dir, next).map_err(failed(doing))
}
