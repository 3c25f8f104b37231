//! The loop of the supervisor: woken by its child, signals, commands, the end of an act and the clock.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::wait::WaitStatus;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::api::chain::chain;
use crate::supervisor::fence::Fence;
use crate::supervisor::process::Reaper;
use crate::supervisor::redis::cluster::shell::{CREDENTIALS, Shell};
use crate::supervisor::redis::cluster::wire;
use crate::supervisor::redis::place::Place;
use crate::supervisor::run::Identity;
use crate::supervisor::{control, durable, listen};

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
        return Err("`evenkeel supervisor-cluster` must be PID 1 of its container (no --init, no --pid=host)".into());
    }
    listen::set(identity.listen);
    // A file of the server's user is used with its rights, and those are not root's groups.
    nix::unistd::setgroups(&[])?;
    let place = Place::find()?;
    place.prepare(&place.data())?;
    let own = place.own();
    let lock = durable::lock(&own)?;
    let fence = Fence::load(&own)?;
    let kept = (durable::load(&own)?, durable::read(&own.join(CREDENTIALS)).unwrap_or_default());
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let reaper = Reaper::default();
    tokio::spawn(reaper.clone().run());
    let (reports, seen) = watch::channel(Arc::from(""));
    let (notes, mut done) = mpsc::channel(16);
    let (said, mut commands) = mpsc::channel(64);
    let mut shell = Shell::new((place, lock), reaper, kept, (reports, notes));
    tracing::info!(member = %identity.member, "supervisor of a Redis Cluster's member begins");
    // The first turn comes before the socket, so that the first report is complete.
    shell.turn().await;
    tokio::spawn(control::serve(control::bind(wire::SOCKET.as_ref())?, fence, said, seen));
    while let Some(pause) = shell.turn().await {
        tokio::select! {
            biased;
            status = ended(&mut shell) => shell.ended(status),
            _ = terminate.recv() => shell.terminate(),
            _ = interrupt.recv() => shell.terminate(),
            Some(command) = commands.recv() => shell.hear(command),
            Some(answer) = done.recv() => shell.done(answer),
            () = tokio::time::sleep(Duration::from_millis(pause)) => {}
        }
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
