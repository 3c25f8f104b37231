//! Parses the arguments, runs the verb, and converts its result to an exit code.

mod inside;

use std::future::Future;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use evenkeel::api;
use evenkeel::cli::error::{EXIT_CODES, Error};
use evenkeel::cli::session::{Connection, Session};
use evenkeel::cli::{
    about, apply, backup, backups, cluster, delete, describe, events, exec, get, host, logs, operator, preview,
    restore, restore_dump, rollouts, scale, secrets, switchover, token, up, verify, wait,
};
use evenkeel::runtime::clock::{Clock as _, SystemClock};

/// Keeps high-availability topologies alive on plain Docker hosts.
#[derive(Parser)]
#[command(name = "evenkeel", version, after_help = EXIT_CODES)]
struct Evenkeel {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Operator(operator::Args),
    Up(up::Args),
    #[command(flatten)]
    Client(Client),
    Secrets(secrets::Args),
    Kubeconfig(about::KubeconfigArgs),
    /// Prints the versions of this program and of the server, and the identity of the binary in containers
    Version,
    Completion(about::CompletionArgs),
    /// Prints the CustomResourceDefinitions
    #[command(hide = true)]
    Crds,
}

/// The verbs that talk to a server.
#[derive(Subcommand)]
enum Client {
    Apply(apply::Args),
    Get(get::Args),
    Describe(describe::Args),
    Delete(delete::Args),
    Plan(preview::Args),
    Switchover(switchover::Args),
    Backup(backup::Args),
    Backups(backups::Args),
    Restore(restore::Args),
    Verify(verify::Args),
    RestoreDump(restore_dump::Args),
    Events(events::Args),
    Wait(wait::Args),
    Logs(logs::Args),
    Exec(exec::Args),
    Rollout(rollouts::Args),
    Scale(scale::Args),
    Host(host::Args),
    Token(token::Args),
    Cluster(cluster::Args),
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    // Before any setup: one of these verbs runs once for each open connection.
    if let Some(ended) = inside::run(&arguments) {
        return ended;
    }
    let Evenkeel { connection, verb } = Evenkeel::parse();
    match run(connection, verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If this fails too, there is no way to report it.
            let _ = std::io::stderr().write_all(error.report().as_bytes());
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(connection: Connection, verb: Verb) -> Result<(), Error> {
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    match verb {
        Verb::Client(Client::Cluster(args)) => match args.local() {
            Ok(local) => block_on_current_thread(local.run(&mut out)),
            Err(args) => {
                let mut session = connection.open(now, &mut out, &mut err)?;
                block_on_current_thread(cluster::run(args, &mut session))
            }
        },
        Verb::Client(verb) => block_on_current_thread(ask(verb, &mut connection.open(now, &mut out, &mut err)?)),
        Verb::Kubeconfig(args) => match args.create() {
            Ok(args) => {
                let mut session = connection.open(now, &mut out, &mut err)?;
                block_on_current_thread(about::create_kubeconfig(args, &mut session))
            }
            Err(args) => about::print_kubeconfig(&args, &connection, &mut out),
        },
        Verb::Secrets(args) => block_on_current_thread(secrets::run(&args, &mut out)),
        Verb::Version => block_on_current_thread(about::version(&connection, &mut out)),
        Verb::Completion(args) => about::completion(&args, &mut Evenkeel::command(), &mut out),
        Verb::Operator(args) => operator::run(&args),
        Verb::Up(args) => up::run(&args, connection.namespace.as_deref(), now),
        Verb::Crds => {
            for (_, definition) in api::registry::crds() {
                write!(out, "---\n{}", evenkeel::cli::render::yaml(&definition)?)?;
            }
            Ok(())
        }
    }
}

async fn ask(verb: Client, session: &mut Session<'_>) -> Result<(), Error> {
    let done = perform(verb, session).await;
    session.warn(&session.client.warnings())?;
    done
}

async fn perform(verb: Client, session: &mut Session<'_>) -> Result<(), Error> {
    match verb {
        Client::Apply(args) => apply::run(args, session).await,
        Client::Get(args) => get::run(args, session).await,
        Client::Describe(args) => describe::run(args, session).await,
        Client::Delete(args) => delete::run(args, session).await,
        Client::Plan(args) => preview::run(args, session).await,
        Client::Switchover(args) => switchover::run(args, session).await,
        Client::Backup(args) => backup::run(args, session).await,
        Client::Backups(args) => backups::run(args, session).await,
        Client::Restore(args) => restore::run(args, session).await,
        Client::Verify(args) => verify::run(args, session).await,
        Client::RestoreDump(args) => restore_dump::run(args, session).await,
        Client::Events(args) => events::run(args, session).await,
        Client::Wait(args) => wait::run(args, session).await,
        Client::Logs(args) => logs::run(args, session).await,
        Client::Exec(args) => exec::run(args, session).await,
        Client::Rollout(args) => rollouts::run(args, session).await,
        Client::Scale(args) => scale::run(args, session).await,
        Client::Host(args) => host::run(args, session).await,
        Client::Token(args) => token::run(args, session).await,
        Client::Cluster(args) => cluster::run(args, session).await,
    }
}

/// Runs on this thread only: clients stay small.
fn block_on_current_thread<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|source| Error::Io { doing: "start the runtime".to_owned(), source })?.block_on(work)
}

/// The time of day; the only place of the command line that reads it.
fn now() -> jiff::Timestamp {
    SystemClock.now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verbs_and_their_arguments_fit_together() {
        Evenkeel::command().debug_assert();
    }
}
