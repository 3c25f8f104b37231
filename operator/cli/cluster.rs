//! `evenkeel cluster`: what concerns several operators over one store.

mod backup;
mod leave;
mod remove;
mod renew_keys;
mod reset;
mod restore;
mod snapshots;
mod status;
pub(super) mod stopped;

use std::io::Write;
use std::time::Duration;

use serde_json::json;

use super::error::Error;
use super::session::{Session, duration};
use crate::api::join::{JOIN_TOKENS, Made, Wanted};

/// Shows, adds and removes the nodes of several operators.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Prints a new token for nodes that join, and what to run on them; it is shown this once
    Token {
        /// How long nodes can join with it
        #[arg(long, value_parser = duration, default_value = "24h", value_name = "TIME")]
        ttl: Duration,
    },
    /// Prints the nodes, what their members of etcd do, and how many nodes may be lost now
    Status {
        /// Output format
        #[arg(short, long, value_enum, default_value = "table", value_name = "FORMAT")]
        output: status::Format,
    },
    /// Removes a node, for example one that is lost, and prints what is left to do there
    Remove(remove::Args),
    /// Makes a cluster of this one node, when a majority of the others is lost for good; its operator must be stopped
    Reset(reset::Args),
    /// Writes a copy of the store of the running operators into a file
    Backup(backup::Args),
    /// Lists the snapshots of the store that operators with --snapshot-store have stored
    Snapshots(snapshots::Args),
    /// Writes the objects of a backup or a snapshot into an empty store; the operators must be stopped
    Restore(restore::Args),
    /// Takes all objects out of etcd into a store of this node's operator alone; the operators must be stopped
    Leave(leave::Args),
    /// Makes new keys for everything that a stolen node knows, on the node that goes on; the operators must be stopped
    RenewKeys(renew_keys::Args),
}

/// A verb that works on this machine, without an operator.
pub enum Local {
    /// `reset`
    Reset(reset::Args),
    /// `snapshots`
    Snapshots(snapshots::Args),
    /// `restore`
    Restore(restore::Args),
    /// `leave`
    Leave(leave::Args),
    /// `renew-keys`
    RenewKeys(renew_keys::Args),
}

impl Args {
    /// The verb, if it works on this machine without an operator.
    pub fn local(self) -> Result<Local, Self> {
        match self.verb {
            Verb::Reset(args) => Ok(Local::Reset(args)),
            Verb::Snapshots(args) => Ok(Local::Snapshots(args)),
            Verb::Restore(args) => Ok(Local::Restore(args)),
            Verb::Leave(args) => Ok(Local::Leave(args)),
            Verb::RenewKeys(args) => Ok(Local::RenewKeys(args)),
            verb => Err(Self { verb }),
        }
    }
}

impl Local {
    /// Runs the verb.
    pub async fn run(&self, out: &mut (dyn Write + Send)) -> Result<(), Error> {
        match self {
            Self::Reset(args) => reset::run(args, out).await,
            Self::Snapshots(args) => snapshots::run(args, out).await,
            Self::Restore(args) => restore::run(args, out).await,
            Self::Leave(args) => leave::run(args, out).await,
            Self::RenewKeys(args) => renew_keys::run(args, out).await,
        }
    }
}

/// Runs a verb that asks an operator.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    match args.verb {
        Verb::Token { ttl } => token(ttl, session).await,
        Verb::Status { output } => status::run(output, session).await,
        Verb::Remove(args) => remove::run(args, session).await,
        Verb::Backup(args) => backup::run(&args, session).await,
        Verb::Reset(args) => reset::run(&args, session.out).await,
        Verb::Snapshots(args) => snapshots::run(&args, session.out).await,
        Verb::Restore(args) => restore::run(&args, session.out).await,
        Verb::Leave(args) => leave::run(&args, session.out).await,
        Verb::RenewKeys(args) => renew_keys::run(&args, session.out).await,
    }
}

async fn token(ttl: Duration, session: &mut Session<'_>) -> Result<(), Error> {
    let seconds = ttl.as_secs().try_into().map_err(|_| Error::Usage("--ttl: at most a year".to_owned()))?;
    let answer = session.client.post(JOIN_TOKENS, &[], &json!(Wanted { seconds })).await?;
    let made = serde_json::from_value(answer.body);
    let Made { token, name, expires, address } =
        made.map_err(|error| Error::Failed(format!("the server's answer is no join token: {error}")))?;
    writeln!(session.out, "{token}")?;
    writeln!(
        session.err,
        "valid until {expires}; it is not shown again; revoke it with `evenkeel token revoke {name}`. Whoever has it can read \
         everything: bring it to the next node in a private file, and run there\n  evenkeel operator --join {address} \
         --token-file FILE"
    )?;
    Ok(())
}
