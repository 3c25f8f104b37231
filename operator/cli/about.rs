//! The small verbs about the program itself: `version`, `kubeconfig`, `completion`, `crds`.

use std::io::Write;
use std::time::Duration;

use serde_json::json;

use super::client::{Client, JSON};
use super::error::Error;
use super::kubeconfig;
use super::render;
use super::session::{Connection, Session, duration};

/// `evenkeel version`: the version of this program, the identity of what runs in containers, and the server's
/// version if it answers.
pub async fn version(connection: &Connection, out: &mut (dyn Write + Send)) -> Result<(), Error> {
    writeln!(out, "client: {}", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "in containers: {}", crate::CONTAINER_IDENTITY)?;
    let asked = async {
        let client = Client::new(connection.server()?)?;
        client.get("/version", &[], JSON).await
    };
    match asked.await {
        Ok(version) => writeln!(out, "server: {}", render::cell(&version["gitVersion"]))?,
        Err(error) => writeln!(out, "server: not known ({})", crate::api::chain::chain(&error))?,
    }
    Ok(())
}

/// Prints the kubeconfig, or its path.
#[derive(Debug, clap::Args)]
pub struct KubeconfigArgs {
    /// Print the path instead of the content
    #[arg(long)]
    path: bool,
    #[command(subcommand)]
    verb: Option<KubeconfigVerb>,
}

/// `evenkeel kubeconfig VERB`.
#[derive(Debug, clap::Subcommand)]
pub enum KubeconfigVerb {
    /// Prints a kubeconfig with a new client certificate of a user
    Create(Box<CreateArgs>),
}

/// Whose kubeconfig.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// The user's name, as RBAC knows it
    #[arg(long)]
    user: String,
    /// A group of the user; `system:masters` may do everything
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// How long it is valid; it cannot be revoked, so keep this short
    #[arg(long, value_parser = duration, default_value = "8h", value_name = "TIME")]
    ttl: Duration,
}

impl KubeconfigArgs {
    /// The kubeconfig that is to be created, if one is.
    pub fn create(self) -> Result<CreateArgs, Self> {
        match self.verb {
            Some(KubeconfigVerb::Create(args)) => Ok(*args),
            None => Err(self),
        }
    }
}

/// `evenkeel kubeconfig create`.
pub async fn create_kubeconfig(args: CreateArgs, session: &mut Session<'_>) -> Result<(), Error> {
    let wanted = json!({"user": args.user, "groups": args.groups, "seconds": args.ttl.as_secs()});
    let mut made = session.client.post("/evenkeel/v1/clientcertificates", &[], &wanted).await?.body;
    let server = &session.client.kubeconfig().server;
    if server.starts_with("https://") {
        made["clusters"][0]["cluster"]["server"] = server.clone().into();
    }
    made["contexts"][0]["context"]["namespace"] = session.namespace.clone().into();
    write!(session.out, "{}", render::yaml(&made)?)?;
    Ok(())
}

/// `evenkeel kubeconfig`.
pub fn print_kubeconfig(
    args: &KubeconfigArgs,
    connection: &Connection,
    out: &mut (dyn Write + Send),
) -> Result<(), Error> {
    let path = connection.kubeconfig();
    if args.path {
        return Ok(writeln!(out, "{}", path.display())?);
    }
    kubeconfig::load(&path)?;
    let doing = format!("read {}", path.display());
    let text = std::fs::read_to_string(&path).map_err(|source| Error::Io { doing, source })?;
    Ok(out.write_all(text.as_bytes())?)
}

/// Prints the completion script of a shell.
#[derive(Debug, clap::Args)]
pub struct CompletionArgs {
    /// bash, zsh, fish, elvish or powershell
    shell: clap_complete::Shell,
}

/// `evenkeel completion SHELL`.
pub fn completion(
    args: &CompletionArgs,
    command: &mut clap::Command,
    out: &mut (dyn Write + Send),
) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "evenkeel", &mut script);
    Ok(out.write_all(&script)?)
}
