//! `evenkeel cluster`: what concerns several operators over one store.

use std::time::Duration;

use serde_json::json;

use super::error::Error;
use super::session::{Session, duration};
use crate::api::join::{JOIN_TOKENS, Made, Wanted};

/// Lets further nodes join the operators.
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
}

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    let Verb::Token { ttl } = args.verb;
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
