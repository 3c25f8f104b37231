//! Arguments to subcommand.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        // Before anything else is set up: it runs once for each open conversation.
        [_, "dial", address] => evenkeel::engine::bridge::run(address),
        _ => ExitCode::FAILURE,
    }
}
