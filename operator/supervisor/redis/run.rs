//! The loop of a data member's supervisor: woken by its child, signals, commands and the clock.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::wait::WaitStatus;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::api::chain::chain;
use crate::supervisor::clock::boottime_ms;
use crate::supervisor::control;
use crate::supervisor::durable;
use crate::supervisor::fence::Fence;
use crate::supervisor::listen;
use crate::supervisor::process::Reaper;
use crate::supervisor::redis::place::Place;
use crate::supervisor::redis::shell::Shell;
use crate::supervisor::redis::wire;
use crate::supervisor::run::Identity;

/// A pause that was this much longer than asked for: the container stood still. In milliseconds.
const JUMP_MS: u64 = 2_000;

/// Runs as PID 1 until SIGTERM.
pub async fn run(identity: Identity) -> ExitCode {
    match serve(identity).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %chain(error.as_ref()), "the supervisor cannot work here");
            ExitCode::FAILURE
        }
    }
}

/// Errors occur only before the loop starts: a wrong container, a volume in use.
async fn serve(identity: Identity) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    if std::process::id() != 1 {
        return Err("`evenkeel supervisor-redis` must be PID 1 of its container (no --init, no --pid=host)".into());
    }
    listen::set(identity.listen);
    // A file of the server's user is used with its rights, and those are not root's groups.
    nix::unistd::setgroups(&[])?;
    let place = Place::find()?;
    place.prepare(&place.data())?;
    let own = place.own();
    let lock = durable::lock(&own)?;
    let fence = Fence::load(&own)?;
    let durable = durable::load(&own)?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let reaper = Reaper::default();
    tokio::spawn(reaper.clone().run());
    let (reports, seen) = watch::channel(Arc::from(""));
    let (notes, mut heard) = mpsc::channel(16);
    let (said, mut commands) = mpsc::channel(64);
    let mut shell = Shell::new((place, lock), reaper, identity.member.clone(), durable, (reports, notes));
    tracing::info!(member = %identity.member, run = %shell.run(), "supervisor of Redis begins");
    // The first turn comes before the socket, so that the first report is complete.
    shell.turn().await;
    tokio::spawn(control::serve(control::bind(wire::SOCKET.as_ref())?, fence, said, seen));
    let mut turned = boottime_ms();
    while let Some(pause) = shell.turn().await {
        let waits = boottime_ms();
        tokio::select! {
            biased;
            status = ended(&mut shell) => shell.ended(status),
            _ = terminate.recv() => shell.terminate(),
            _ = interrupt.recv() => shell.terminate(),
            Some(command) = commands.recv() => shell.hear(command),
            Some(note) = heard.recv() => shell.note(note),
            () = tokio::time::sleep(Duration::from_millis(pause)) => {}
        }
        let now = boottime_ms();
        // A turn has some exchanges with the server, each of a second at most.
        if now.saturating_sub(waits) > pause + JUMP_MS || now.saturating_sub(turned) > pause + 3 * JUMP_MS {
            shell.stood_still();
        }
        turned = now;
    }
    tracing::info!("supervisor ends");
    Ok(())
}

/// Resolves when the server has ended; never while none runs.
async fn ended(shell: &mut Shell) -> WaitStatus {
    match &mut shell.process {
        Some(process) => {
            let pid = process.pid;
            // If the reaper did not tell, it has reaped all the same.
            (&mut process.exit).await.unwrap_or(WaitStatus::Exited(pid, -1))
        }
        None => std::future::pending().await,
    }
}
