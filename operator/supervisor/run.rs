//! The supervisor's loop: observe, report, call `next`, perform; woken by children, signals, commands and the clock.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::wait::WaitStatus;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::archiving::decide::{self, Written};
use super::archiving::{Archiver, Pulse, ask};
use super::clock::{boottime, boottime_ms};
use super::collations::{self, Counted};
use super::control;
use super::durable;
use super::fence::Fence;
use super::jobs::chain;
use super::listen::{self, Listen};
use super::next;
use super::perform::After;
use super::place::Place;
use super::poll::{HURRY_MS, sweep};
use super::process::{self, Reaper};
use super::report::report;
use super::secrets::Secrets;
use super::shell::{Note, Shell};
use super::snapshot::snapshot;
use super::state::{Act, Remembered, Seen};
use super::wire::{self, Archives, Command, Credentials, Order, Task, significant};
use crate::archive::names::WalFile;

/// Interval of reports when nothing significant changes, in milliseconds.
const REPORT_MS: u64 = 1_000;

/// The identity of this instance.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Name of the member, e.g. `awx-db-1`.
    pub member: String,
    /// The address and port of the host where the server listens, if the container is on the host's network.
    pub listen: Option<Listen>,
}

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

type Fatal = Box<dyn std::error::Error + Send + Sync>;

/// Errors occur only before the loop starts: a wrong container, a volume in use.
async fn serve(identity: Identity) -> Result<(), Fatal> {
    if std::process::id() != 1 {
        // The supervisor kills every process of the server's user; outside a container's own PID namespace it
        // would hit others.
        return Err("`evenkeel supervisor` must be PID 1 of its container (no --init, no --pid=host)".into());
    }
    // A file of the server's user is used with its rights, and those are not root's groups.
    nix::unistd::setgroups(&[])?;
    listen::set(identity.listen);
    let place = Place::find()?;
    place.prepare()?;
    let lock = durable::lock(&place.own())?;
    let fence = Fence::load(&place.own())?;
    let durable = durable::load(&place.own())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let reaper = Reaper::default();
    tokio::spawn(reaper.clone().run());
    let (reports, seen) = watch::channel(Arc::from(""));
    let (notes, mut heard) = mpsc::channel(64);
    let (said, mut commands) = mpsc::channel(64);
    let mut shell = Shell::new((place, lock), reaper, identity.member, durable, (reports, notes));
    tracing::info!(member = %shell.member, boot = %shell.boot, promised = shell.durable.promised, "supervisor begins");
    let archiver = Archiver::start(shell.place.clone(), ask::SOCKET.as_ref())?;
    archiver.archives(shell.archives.clone());
    shell.archiver = Some(archiver);
    // The first turn comes before the socket, so that the first report is complete.
    shell.turn().await;
    tokio::spawn(control::serve(control::bind(wire::SOCKET.as_ref())?, fence, said, seen));
    loop {
        let after = shell.turn().await;
        shell.notice_jump(boottime_ms(), false);
        let pause = match after {
            After::Exit => break,
            After::Again => 0,
            After::Pause(milliseconds) => milliseconds,
        };
        tokio::select! {
            biased;
            status = ended(&mut shell) => shell.postmaster_ended(status),
            () = told(&mut terminate, &mut interrupt) => shell.terminate(),
            Some(command) = commands.recv() => shell.hear(command),
            Some(note) = heard.recv() => shell.note(note),
            () = tokio::time::sleep(Duration::from_millis(pause)), if pause > 0 => {}
            () = tokio::task::yield_now(), if pause == 0 => {}
        }
    }
    sweep(&shell).await;
    tracing::info!("supervisor ends");
    Ok(())
}

/// Resolves when the postmaster has ended; never while none runs.
async fn ended(shell: &mut Shell) -> WaitStatus {
    match &mut shell.server.postmaster {
        Some(postmaster) => {
            let pid = postmaster.pid;
            // If the reaper did not tell, it has reaped all the same.
            (&mut postmaster.exit).await.unwrap_or(WaitStatus::Exited(pid, -1))
        }
        None => std::future::pending().await,
    }
}

async fn told(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

impl Shell {
    /// One turn: observe, report, decide, perform.
    async fn turn(&mut self) -> After {
        if std::mem::take(&mut self.server.down.untold) {
            // A death is reported before anything else is looked at: the pause lets the report out.
            let now = boottime_ms();
            self.publish(&snapshot(self, now), now);
            tokio::task::yield_now().await;
        }
        if self.server.postmaster.is_none() && !self.server.down.read {
            // They were killed when the postmaster was reaped; one that was being forked just then was not.
            process::kill_all_of(self.place.uid);
        }
        self.observe(boottime_ms()).await;
        let now = boottime_ms();
        self.prove(now);
        self.count(now);
        self.sweep_restores(now);
        let seen = snapshot(self, now);
        self.publish(&seen, now);
        let (act, remembered) = next::next(&seen);
        self.server.run.barrier_passed_once = remembered.barrier_passed_once;
        self.server.run.confirmed_at = remembered.confirmed_ms.map(|ms| now.saturating_sub(ms));
        self.tell_archiver(&seen, remembered);
        if act != Act::Wait && act != Act::Poll {
            tracing::trace!(?act, "next");
        }
        self.perform(act).await
    }

    /// Counts what depends on collations, if that is due; on a primary not before it has let clients in for a while.
    fn count(&mut self, now: u64) {
        let run = &mut self.server.run;
        let ready = run.settled(now) || run.poll.as_ref().is_some_and(|poll| poll.recovery);
        if self.server.postmaster.as_ref().is_none_or(|postmaster| postmaster.stopping.is_some()) {
            run.counting.task = None;
        } else if ready && run.counting.due(now) {
            let (notes, id) = (self.notes.clone(), run.id.clone());
            let count = collations::count(self.place.clone(), self.reaper.clone(), self.server.libraries.clone());
            run.counting.task = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                // The loop exists as long as the process.
                let _ = notes.send(Note::Counted(id, count.await)).await;
            })));
        }
    }

    fn counted(&mut self, (libraries, sorted): Counted) {
        let problem = libraries.as_ref().err().or(sorted.as_ref().err()).cloned();
        self.server.libraries = libraries.ok().or(self.server.libraries.take());
        self.server.run.counting.counted(sorted.ok(), problem, boottime_ms());
    }

    fn publish(&mut self, seen: &Seen, now: u64) {
        let report = report(seen);
        let due = now.saturating_sub(self.told.reported.1) >= REPORT_MS;
        if !due && significant(&report) == significant(&self.told.reported.0) {
            return;
        }
        match serde_json::to_string(&report) {
            Ok(mut line) => {
                line.push('\n');
                // An error means that there is no reader.
                self.told.reports.send_replace(Arc::from(line));
            }
            Err(error) => tracing::error!(%error, "a report cannot be written"),
        }
        self.told.reported = (report, now);
    }

    fn hear(&mut self, command: Command) {
        let now = boottime_ms();
        self.operator.heard_at = Some(now);
        match command {
            Command::Order(order) => self.obey(&order),
            Command::Credentials(credentials) => {
                if self.secrets.as_ref().is_some_and(|secrets| secrets.credentials == credentials) {
                    return;
                }
                let passwords = |known: &Credentials| {
                    known.owner_password == credentials.owner_password
                        && known.replication_password == credentials.replication_password
                };
                let same = self.secrets.as_ref().is_some_and(|secrets| passwords(&secrets.credentials));
                (self.clocks.tls_at, self.problems.tls) = (0, None);
                let secrets = Secrets::new(credentials);
                if let Err(error) = secrets.save(&self.place) {
                    self.problems.act = Some(format!("saving the credentials: {error}"));
                    return;
                }
                self.secrets = Some(secrets);
                if !same {
                    self.server.run.app_task = None;
                    self.server.run.app_ensured = false;
                }
            }
            Command::Restart { run } if run == self.server.run.id => self.server.run.restart_asked = true,
            Command::Restart { .. } => {}
            Command::Archives(archives) => self.take_archives(*archives),
            Command::Backup(order) => self.order_backup(order),
            Command::RestoreDump(order) => self.order_restore(order.map(|order| *order)),
            Command::RestorePoint(order) => self.order_point(order),
            Command::SwitchWal { past } => {
                if let Some(archiver) = &self.archiver {
                    archiver.switch_past(past);
                }
            }
            // It counts from the time of our report, so that a message that was delayed for long confirms nothing.
            Command::Renew { term, clock_ms } if clock_ms <= now => {
                self.operator.renewed = self.operator.renewed.max(Some((term, clock_ms)))
            }
            Command::Renew { .. } => {}
        }
    }

    /// The archiver learns what this turn decided before the act, which may stop the server.
    fn tell_archiver(&self, seen: &Seen, remembered: Remembered) {
        let Some(archiver) = &self.archiver else { return };
        let run = &self.server.run;
        let barrier = run.poll.as_ref().is_some_and(|poll| poll.barrier);
        archiver.guard(decide::guard(seen, remembered, self.server.details.segment_size, barrier));
        let pulse = run.poll.as_ref().filter(|poll| !poll.recovery).and_then(|poll| {
            let Ok(WalFile::Segment(segment)) = poll.segment.as_deref()?.parse() else { return None };
            let (own, proving) = (run.own.committed, run.own.under_way);
            let written = Written { next_xid: poll.next_xid, own, proving, segment };
            Some(Pulse { written, lsn: poll.lsn, committed_at: run.own.committed_at })
        });
        archiver.written(pulse);
    }

    fn take_archives(&mut self, archives: Archives) {
        if self.archives.as_deref() == Some(&archives) {
            return;
        }
        let keys = |archives: &Archives| archives.own().map(|own| own.access.encryption.clone());
        if self.archives.as_deref().and_then(keys) != keys(&archives) {
            // I21: what is written from now on is as it is wanted now, even if that cannot be saved.
            self.hold_archives(None);
            if let Some(backup) = &mut self.backup {
                backup.cut_off("the encryption of the archive has changed");
            }
        }
        let path = self.place.own().join(Archives::FILE);
        let saved = serde_json::to_vec(&archives).map_err(std::io::Error::from);
        match saved.and_then(|bytes| durable::write(&path, &bytes)) {
            Ok(()) => self.hold_archives(Some(Arc::new(archives))),
            Err(error) => self.problems.act = Some(format!("saving what opens the archive: {error}")),
        }
    }

    fn hold_archives(&mut self, archives: Option<Arc<Archives>>) {
        self.archives = archives;
        if let Some(archiver) = &self.archiver {
            archiver.archives(self.archives.clone());
        }
    }

    /// I3: on disk before anything follows from it.
    fn obey(&mut self, order: &Order) {
        if self.durable.order.as_ref() == Some(order) {
            self.problems.refused = None;
            return;
        }
        let standby =
            self.server.run.poll.as_ref().is_some_and(|poll| poll.recovery) && self.server.postmaster.is_some();
        let timeline = self.server.run.identified.map(|(_, timeline)| timeline).filter(|_| standby);
        let accepted = match next::accept(&self.durable, order, timeline) {
            Ok(accepted) => accepted,
            Err(refused) => {
                tracing::warn!(%refused, "an order is refused");
                self.problems.refused = Some(refused.to_string());
                return;
            }
        };
        let last = self.durable.order.as_ref();
        let new_term = last.is_none_or(|last| last.term != order.term);
        let new_task = last.is_none_or(|last| last.task.name() != order.task.name());
        let begun = boottime();
        if let Err(error) = self.save(accepted) {
            self.problems.act = Some(format!("saving the order: {}", chain(&error)));
            return;
        }
        let saved_ms = (boottime() - begun).as_secs_f64() * 1e3;
        tracing::info!(term = order.term, task = order.task.name(), saved_ms, "order");
        self.problems.refused = None;
        self.server.ordered_since_stop |= new_term;
        if new_term || new_task {
            self.cut_off("this instance got another order");
        }
        if !matches!(order.task, Task::Lead(_)) {
            // Nobody but a leader writes.
            self.server.run.app_task = None;
        }
        if new_task {
            self.server.checkpointed_for_stop = false;
        }
        // A changed decision must not wait for the delay after a failure.
        (self.clocks.act_at, self.clocks.failed_acts) = (0, 0);
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Job(kind, result) => self.job_ended(kind, result),
            Note::Checkpoint { run, for_stop, error } if run == self.server.run.id => {
                if let Some(words) = &error {
                    tracing::warn!(problem = %words, "a checkpoint failed");
                }
                self.server.run.stop_checkpoint = false;
                if for_stop {
                    // The checkpoint only shortens the stop; without it the stop is just as correct.
                    self.server.checkpointed_for_stop = true;
                } else if error.is_some() {
                    self.server.run.checkpoint_started = false;
                }
                self.clocks.poll_at = 0;
            }
            Note::Judged(verdict) => self.dry_start_ended(verdict),
            Note::App(run, result) if run == self.server.run.id => self.app_ended(result),
            Note::Crashed(run) if run == self.server.run.id => self.kill_crashed(),
            Note::ReceiverEnded(run) if run == self.server.run.id => {
                self.clocks.hurry_until = boottime_ms() + HURRY_MS;
                self.clocks.poll_at = 0;
            }
            Note::WalMissing(run) if run == self.server.run.id => self.server.run.wal_missing = true,
            Note::Stuck(run) if run == self.server.run.id => self.server.run.stuck = true,
            Note::Fatal(run, line) if run == self.server.run.id => self.server.run.fatal = Some(line),
            Note::Polled { of: (run, number), asked_at, result } if run == self.server.run.id => {
                self.polled_beside(number, asked_at, result);
            }
            Note::Proof(run, result) if run == self.server.run.id => self.proved(result, boottime_ms()),
            Note::Counted(run, counted) if run == self.server.run.id => self.counted(counted),
            Note::Checkpoint { .. }
            | Note::ReceiverEnded(_)
            | Note::WalMissing(_)
            | Note::Stuck(_)
            | Note::App(..)
            | Note::Crashed(_)
            | Note::Fatal(..)
            | Note::Proof(..)
            | Note::Polled { .. }
            | Note::Counted(..) => {}
        }
    }

    fn terminate(&mut self) {
        tracing::info!("SIGTERM: going down");
        self.terminating = true;
    }
}
