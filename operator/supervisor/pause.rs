//! Process 1 of a pod's sandbox: does nothing but hold the pod's network and volumes, until it is told to end.

use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};

/// Waits for SIGTERM or SIGINT.
pub fn run() -> ExitCode {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    // Blocked first, for to process 1 the kernel delivers only what it waits for or handles.
    match signals.thread_block().and_then(|()| signals.wait()) {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
