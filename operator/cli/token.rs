//! `evenkeel token`: makes, lists and revokes the tokens of users, and replaces the administrator's.

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::client::TABLE;
use super::error::Error;
use super::render;
use super::session::{Session, duration};

const TOKENS: &str = "/apis/evenkeel.dev/v1alpha1/tokens";

/// Makes, lists and revokes tokens of users.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Prints a new token; it is shown this once
    Create {
        /// Name of the token, to revoke it by
        name: String,
        /// The user, as RBAC knows it [default: the name of the token]
        #[arg(long)]
        user: Option<String>,
        /// A group of the user; `system:masters` may do everything
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
        /// How long it is valid, at most a year
        #[arg(long, value_parser = duration, default_value = "24h", value_name = "TIME")]
        ttl: Duration,
    },
    /// Lists the tokens, without their secrets
    List,
    /// Revokes tokens: their open watches and sessions end, too
    Revoke {
        /// Names of tokens
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Replaces the administrator's token at every operator over this store; the one before is valid for another hour
    Rotate {
        /// The one before is refused at once: whoever has a copy of an old kubeconfig needs the new one
        #[arg(long)]
        revoke_old: bool,
    },
}

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    match args.verb {
        Verb::Create { name, user, groups, ttl } => {
            let life = SignedDuration::try_from(ttl).ok().and_then(|ttl| (session.now)().checked_add(ttl).ok());
            let expires = life.ok_or_else(|| Error::Usage("--ttl: at most a year".to_owned()))?;
            let wanted = json!({
                "apiVersion": "evenkeel.dev/v1alpha1",
                "kind": "Token",
                "metadata": {"name": name},
                "spec": {
                    "user": user.unwrap_or_else(|| name.clone()),
                    "groups": groups,
                    "expires": format!("{expires:.0}"),
                },
            });
            let answer = session.client.post(TOKENS, &[("fieldValidation", "Strict")], &wanted).await?;
            session.warn(&answer.warnings)?;
            writeln!(session.out, "{}", render::cell(&answer.body["status"]["token"]))?;
            writeln!(
                session.err,
                "valid until {expires:.0}; it is not shown again; revoke it with `evenkeel token revoke {name}`"
            )?;
        }
        Verb::List => {
            let table = session.client.get(TOKENS, &[], TABLE).await?;
            let texts = |cells: &Value| cells.as_array().into_iter().flatten().map(render::cell).collect::<Vec<_>>();
            let titles: Vec<String> = table["columnDefinitions"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|column| render::cell(&column["name"]).to_uppercase())
                .collect();
            let rows: Vec<_> = table["rows"].as_array().into_iter().flatten().map(|row| texts(&row["cells"])).collect();
            let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
            write!(session.out, "{}", render::table("", &titles, &rows))?;
        }
        Verb::Revoke { names } => {
            for name in names {
                session.client.delete(&format!("{TOKENS}/{name}"), &[], &json!({})).await?;
                writeln!(session.out, "token {name} revoked")?;
            }
        }
        Verb::Rotate { revoke_old } => {
            let answer = session.client.post("/evenkeel/v1/admintoken", &[], &json!({"revokeOld": revoke_old})).await?;
            let kubeconfig = render::cell(&answer.body["kubeconfig"]);
            let everywhere = if answer.body["shared"] == true { ", and in that of every other node" } else { "" };
            let old = if revoke_old { "refused from now on" } else { "valid for another hour" };
            writeln!(session.out, "the new token is in {kubeconfig}{everywhere}; the one before is {old}")?;
        }
    }
    Ok(())
}
