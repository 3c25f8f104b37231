//! Arguments to subcommand.

use std::process::ExitCode;

use evenkeel::supervisor::run::{Identity, run};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        // Before anything else is set up: it runs once for each open conversation.
        [_, "dial", address] => evenkeel::engine::bridge::run(address),
        [_, "supervisor", "--member", member] => {
            let filter = tracing_subscriber::EnvFilter::try_from_env("EVENKEEL_LOG").unwrap_or_else(|_| "info".into());
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(run(Identity { member: (*member).to_owned() })),
                Err(_) => ExitCode::FAILURE,
            }
        }
        _ => ExitCode::FAILURE,
    }
}
