//! What this program is inside a container: supervisor of a database, holder of a pod's network, bridge of one conversation.
//!
//! Kept apart from the other verbs, because a change of anything that this file reaches rolls the databases (`identity.rs`).

use std::process::ExitCode;

use evenkeel::cli::logging;
use evenkeel::engine::bridge;
use evenkeel::supervisor::pause;
use evenkeel::supervisor::run::{self, Identity};

/// Runs the verb if it is one of a container's; `None` if it is not. `arguments` are those of the program, its name first.
pub fn run(arguments: &[String]) -> Option<ExitCode> {
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    match words[..] {
        // Runs once for each open conversation, so nothing is set up for it.
        ["dial", address] => Some(bridge::run(address)),
        ["pause"] => Some(pause::run()),
        ["supervisor", "--member", member] => Some(supervise(member)),
        _ => None,
    }
}

fn supervise(member: &str) -> ExitCode {
    logging::init("info");
    // One thread: what runs beside a database stays small.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let identity = Identity { member: member.to_owned() };
    runtime.map_or(ExitCode::FAILURE, |runtime| runtime.block_on(run::run(identity)))
}
