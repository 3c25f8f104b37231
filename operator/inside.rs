//! The verbs that run inside containers: supervisor of a database, agent of a host, porter of a volume, pause of a pod's sandbox, exec probe, bridge
//! of one connection, what PostgreSQL runs for each WAL file.
//!
//! Separate from the other verbs, because a change of anything that this file imports rolls the databases
//! (`identity.rs`).

use std::process::ExitCode;
use std::time::Duration;

use evenkeel::cli::logging;
use evenkeel::engine::bridge;
use evenkeel::supervisor::agent;
use evenkeel::supervisor::archiving::ask;
use evenkeel::supervisor::pause;
use evenkeel::supervisor::porter;
use evenkeel::supervisor::probe;
use evenkeel::supervisor::redis::{self, cluster, sentinel};
use evenkeel::supervisor::run::{self, Identity};

/// Runs the verb if it belongs to containers; `None` if not. `arguments` starts with the program's name.
pub fn run(arguments: &[String]) -> Option<ExitCode> {
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    match words[..] {
        // Runs once for each open connection, so it needs no setup.
        ["dial", address] => Some(bridge::run(address)),
        ["pause"] => Some(pause::run()),
        ["probe", milliseconds, "--", ref command @ ..] => {
            Some(probe::run(Duration::from_millis(milliseconds.parse().ok()?), command))
        }
        // Run by PostgreSQL, for each WAL file.
        ["wal-push", file] => Some(ask::push(file)),
        ["wal-fetch", file, to] => Some(ask::fetch(file, to)),
        ["agent", "--listen", at] => Some(supervise("agent", Some(at), agent::run::run)),
        ["porter"] => Some(supervise("porter", None, porter::run::run)),
        ["supervisor", "--member", member] => Some(supervise(member, None, run::run)),
        ["supervisor", "--member", member, "--listen", at] => Some(supervise(member, Some(at), run::run)),
        ["supervisor-redis", "--member", member] => Some(supervise(member, None, redis::run::run)),
        ["supervisor-redis", "--member", member, "--listen", at] => Some(supervise(member, Some(at), redis::run::run)),
        ["supervisor-cluster", "--member", member] => Some(supervise(member, None, cluster::run::run)),
        ["supervisor-cluster", "--member", member, "--listen", at] => {
            Some(supervise(member, Some(at), cluster::run::run))
        }
        ["supervisor-sentinel", "--member", member] => Some(supervise(member, None, sentinel::run::run)),
        ["supervisor-sentinel", "--member", member, "--listen", at] => {
            Some(supervise(member, Some(at), sentinel::run::run))
        }
        _ => None,
    }
}

/// `listen`: the address and port of the host where the server listens, if the container is on the host's network.
fn supervise<F: Future<Output = ExitCode>>(
    member: &str,
    listen: Option<&str>,
    run: impl FnOnce(Identity) -> F,
) -> ExitCode {
    logging::init("info");
    let Ok(listen) = listen.map(str::parse).transpose() else { return ExitCode::from(2) };
    // One thread: the supervisor's memory use stays small.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let identity = Identity { member: member.to_owned(), listen };
    runtime.map_or(ExitCode::FAILURE, |runtime| runtime.block_on(run(identity)))
}
