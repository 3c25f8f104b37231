//! PID 1 of a pod's sandbox: holds the pod's network and volumes until SIGTERM or SIGINT.

use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};

/// Waits for SIGTERM or SIGINT.
pub fn run() -> ExitCode {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    // Block the signals first: the kernel delivers to PID 1 only signals that it waits for or handles.
    match signals.thread_block().and_then(|()| signals.wait()) {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
