//! The small verbs about the program itself: `version`, `kubeconfig`, `completion`, `crds`.

use std::io::Write;

use super::client::{Client, JSON};
use super::error::Error;
use super::kubeconfig;
use super::render;
use super::session::Connection;

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
