//! Performs one act of `next`. Each act may be repeated; the next snapshot shows the result.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use tokio_util::task::AbortOnDropHandle;

use super::archiving::ask;
use super::authenticating::{Authenticating, authenticating};
use super::clock::{boottime, boottime_ms, new_id};
use super::jobs::{self, Made, Site, chain};
use super::listen::{self, listen};
use super::poll::sweep;
use super::process;
use super::restore::Restore;
use super::restoring;
use super::secrets::Secrets;
use super::shell::{Note, Postmaster, Run, Shell, Stop, Stopping, Work};
use super::sql::{self, SLOT_PREFIX, Session};
use super::state::{Act, Config, Durable};
use super::wire::JobKind;
use super::{durable, leftovers, place, server_log, tls, tools};
use crate::archive::store::Store;

/// What the loop does after an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Start the next turn at once.
    Again,
    /// Start the next turn at an event, or after this many milliseconds.
    Pause(u64),
    /// The supervisor is done.
    Exit,
}

/// Interval between turns of the loop without events, in milliseconds.
pub const IDLE_MS: u64 = 250;
/// Time-out for sessions to end; four times this before a promotion. Then the loop polls again.
const PATIENCE: Duration = Duration::from_millis(500);
/// Time that a connection gets to prove that it is a standby's, while sessions are ended.
const MEMBERS_PATIENCE: Duration = Duration::from_millis(100);
/// Poll interval during this time-out.
pub const STEP: Duration = Duration::from_millis(2);
/// Pause after a failure to ensure the application's database, in milliseconds.
const APP_AGAIN_MS: u64 = 1_000;
/// Time-out of the checkpoint before a graceful stop.
const STOP_CHECKPOINT: Duration = Duration::from_secs(10);
/// Time-out of any other checkpoint.
const CHECKPOINT: Duration = Duration::from_secs(3_600);

/// What the loop does next, or the error message of the act.
pub type Done = Result<After, String>;

/// An error with its causes as text.
pub fn words(error: impl std::error::Error) -> String {
    chain(&error)
}

impl Shell {
    /// Performs an act; a failure becomes a problem in the report and delays the next act.
    pub async fn perform(&mut self, act: Act) -> After {
        if matches!(act, Act::Wait | Act::Poll | Act::Exit) {
            return self.idle(&act);
        }
        self.clocks.quick_polls = 0;
        let now = boottime_ms();
        if now < self.clocks.act_at && !matches!(act, Act::StopFast | Act::StopImmediate) {
            return After::Pause(self.clocks.act_at - now);
        }
        let name = act.to_string();
        let begun = boottime();
        let result = self.try_perform(act).await;
        tracing::debug!(act = %name, took_ms = (boottime() - begun).as_secs_f64() * 1e3, ok = result.is_ok(), "act");
        match result {
            Ok(after) => {
                self.clocks.failed_acts = 0;
                self.problems.act = None;
                after
            }
            Err(words) => {
                let words = format!("{name}: {words}");
                tracing::warn!(problem = %words, "an act failed");
                self.problems.act = Some(words);
                self.clocks.failed_acts += 1;
                let pause = 100 << self.clocks.failed_acts.min(3);
                self.clocks.act_at = boottime_ms() + pause;
                self.clocks.poll_at = 0;
                After::Pause(pause)
            }
        }
    }

    fn idle(&mut self, act: &Act) -> After {
        match act {
            Act::Exit => After::Exit,
            Act::Poll => {
                // Poll fast at first; a long transition is not worth the CPU time.
                let pause = match self.clocks.quick_polls {
                    0..500 => 2,
                    500..1_500 => 10,
                    _ => 50,
                };
                self.clocks.quick_polls = self.clocks.quick_polls.saturating_add(1);
                self.clocks.poll_at = boottime_ms() + pause;
                After::Pause(pause)
            }
            _ => {
                self.clocks.quick_polls = 0;
                After::Pause(IDLE_MS)
            }
        }
    }

    async fn try_perform(&mut self, act: Act) -> Done {
        match act {
            Act::Wait | Act::Poll | Act::Exit => Ok(After::Again),
            Act::InitDb(init) => self.begin(JobKind::Init, BTreeMap::new(), |site| site.init(init)),
            Act::Recovery(recovery) => {
                let source = self.archives.as_ref().and_then(|archives| archives.source.clone());
                let source = source.ok_or("what opens the archive has not arrived yet")?;
                let store = Store::open_archive(&source).map_err(words)?;
                let reading = self.archiver.as_ref().ok_or("there is no socket for a recovery")?.reads();
                // A library may be needed to replay its own WAL. Other settings are judged when there is a directory.
                let asked = self.durable.order.as_ref().map(|order| order.settings.clone()).unwrap_or_default();
                let settings = asked.into_iter().filter(|(name, _)| name == "shared_preload_libraries").collect();
                self.configure(&Config { settings, ..Config::default() }, &BTreeMap::new())?;
                let configuration = Some(self.place.configuration().join("postgresql.conf"));
                let command = ask::RESTORE_COMMAND.to_owned();
                let progress = restoring::begin(&self.place, self.recovery.as_ref()).map_err(words)?;
                self.recovery = Some(progress.clone());
                self.begin(JobKind::Restore, BTreeMap::new(), |site| async move {
                    let restore = Restore { store, recovery, command, configuration };
                    restoring::run(site, restore, &|fetcher| reading.from(fetcher), &progress).await?;
                    Ok(Made::New)
                })
            }
            Act::Clone(follow) => {
                self.lose_slots();
                self.begin(JobKind::Clone, follow.timeline_terms.clone(), |site| site.clone_leader(follow))
            }
            Act::Recover => {
                let asked = self.durable.order.as_ref().map(|order| order.settings.clone()).unwrap_or_default();
                let settings = self.settings_to_start_with(asked).await?;
                self.configure(&Config { settings, ..Config::default() }, &BTreeMap::new())?;
                self.begin(JobKind::Recover, BTreeMap::new(), Site::recover)
            }
            Act::RecordWalEnd(end) => {
                self.save(Durable { former_wal_end: Some(end), ..self.durable.clone() }).map_err(words)?;
                Ok(After::Again)
            }
            Act::Rewind(follow) => {
                self.lose_slots();
                self.begin(JobKind::Rewind, follow.timeline_terms.clone(), |site| site.rewind(follow))
            }
            Act::Start { standby, config } => self.start(standby, config).await,
            Act::Apply(config) => self.apply(config).await,
            Act::EndSessions => self.end_sessions().await,
            Act::EnsureSlots(wanted) => {
                let settled = self.server.run.settled(boottime_ms());
                self.session().await?.ensure_slots(&wanted, settled).await.map_err(words)?;
                self.polled().await
            }
            Act::Promote => self.promote().await,
            Act::ResumeReplay => {
                self.session().await?.resume_replay().await.map_err(words)?;
                self.polled().await
            }
            Act::EnsureApp { database, owner } => {
                let secrets = self.secrets.clone().ok_or("there are no credentials yet")?;
                self.begin_app(database, owner, secrets);
                Ok(After::Again)
            }
            Act::SetBarrier => {
                let lsn = self.session().await?.barrier().await.map_err(words)?;
                self.server.run.barrier_lsn = Some(lsn);
                self.server.run.barrier_at = boottime_ms();
                self.polled().await
            }
            Act::Checkpoint => {
                self.server.run.checkpoint_started = true;
                self.checkpoint(CHECKPOINT, false);
                Ok(After::Again)
            }
            Act::CheckpointForStop => {
                if !std::mem::replace(&mut self.server.run.stop_checkpoint, true) {
                    self.checkpoint(STOP_CHECKPOINT, true);
                }
                Ok(After::Pause(IDLE_MS))
            }
            Act::StopFast => Ok(self.signal_stop(Stop::Fast, boottime_ms())),
            Act::StopImmediate => Ok(self.signal_stop(Stop::Immediate, boottime_ms())),
            Act::RecordTimelineTerms(timeline_terms) => {
                self.save(Durable { timeline_terms, ..self.durable.clone() }).map_err(words)?;
                Ok(After::Again)
            }
            Act::Condemn => {
                tracing::warn!("the data directory is of no use any more: a new copy of the leader will replace it");
                self.save(Durable { unfinished: Some(JobKind::Clone), rewound: None, ..self.durable.clone() })
                    .map_err(words)?;
                Ok(After::Again)
            }
            Act::Restore(remembered) => self.restore(*remembered),
            Act::DryStart(asked) => {
                self.begin_dry_start(asked);
                Ok(After::Again)
            }
            Act::LoadTls => Ok(self.load_tls().await),
        }
    }

    /// Creates the supervisor's folder again, as at the start.
    fn restore(&mut self, remembered: Durable) -> Done {
        if remembered != self.durable {
            tracing::warn!("the data directory is gone: only what was promised is kept");
        }
        self.place.prepare().map_err(words)?;
        if place::is_gone(&self.place.own().join(durable::LOCK)) {
            self.lock = durable::lock(&self.place.own()).map_err(words)?;
        }
        if let Some(secrets) = &self.secrets {
            secrets.save(&self.place).map_err(words)?;
        }
        if let Some(proven) = &self.server.tls {
            tls::save(&self.place.own(), proven).map_err(words)?;
        }
        self.save(remembered).map_err(words)?;
        Ok(After::Again)
    }

    /// The session with the server; opens it if needed.
    async fn session(&mut self) -> Result<&mut Session, String> {
        let postmaster = self.server.postmaster.as_mut().ok_or("the server does not run")?;
        match &mut postmaster.session {
            Some(session) => Ok(session),
            none => Ok(none.insert(Session::open().await.map_err(words)?)),
        }
    }

    async fn polled(&mut self) -> Done {
        self.poll(boottime_ms()).await;
        Ok(After::Again)
    }

    // Jobs.

    fn begin<F: Future<Output = Result<Made, jobs::Failure>> + Send + 'static>(
        &mut self,
        kind: JobKind,
        timeline_terms: BTreeMap<u32, u64>,
        job: impl FnOnce(Site) -> F,
    ) -> Done {
        // The marker is on disk before the first byte changes. A directory that a base backup must replace is
        // unusable even while it is still complete.
        match kind {
            JobKind::Init | JobKind::Recover | JobKind::Restore => {}
            JobKind::Clone => self
                .save(Durable { unfinished: Some(kind), incarnation: None, rewound: None, ..self.durable.clone() })
                .map_err(words)?,
            JobKind::Rewind => {
                self.save(Durable { unfinished: Some(kind), ..self.durable.clone() }).map_err(words)?;
            }
        }
        // A copy of the leader's data needs the client's certificate.
        if let Some(wanted) = self.tls_wanted().cloned() {
            self.write_tls(&wanted)?;
        }
        let last = self.job.take().filter(|work| work.kind == kind);
        let (failures, tries) = last.as_ref().map_or((0, 0), |work| (work.failures, work.tries));
        let error = last.and_then(|work| work.error);
        self.job = Some(Work { kind, running: true, error, failures, tries, due: 0, timeline_terms });
        tracing::info!(?kind, "job begins");
        let job = job(self.site());
        let notes = self.notes.clone();
        tokio::spawn(async move {
            // The loop exists as long as the process.
            let _ = notes.send(Note::Job(kind, job.await)).await;
        });
        Ok(After::Again)
    }

    /// Handles the end of a job: its result becomes the instance's state.
    pub fn job_ended(&mut self, kind: JobKind, result: Result<Made, jobs::Failure>) {
        self.server.down.read = false;
        (self.server.down.clean, self.server.down.control) = (None, None);
        let durable = Durable { unfinished: None, ..self.durable.clone() };
        let new = || Some(new_id());
        let timeline_terms = self.job.as_ref().map(|work| work.timeline_terms.clone()).unwrap_or_default();
        let (durable, failure) = match result {
            Ok(Made::New | Made::Copy) => (Durable { incarnation: new(), timeline_terms, ..durable }, None),
            Ok(Made::Recovered) => (durable, None),
            Ok(Made::Rewound(timeline)) => (Durable { rewound: Some(timeline), timeline_terms, ..durable }, None),
            // A failed copy leaves nothing to go back to; a rewind that changed nothing leaves the old directory.
            Err(failure) if kind == JobKind::Clone || failure.spoiled => {
                (Durable { unfinished: Some(JobKind::Clone), ..durable }, Some(failure))
            }
            Err(failure) => (durable, Some(failure)),
        };
        if let Err(error) = self.save(durable) {
            self.problems.act = Some(words(error));
        }
        let Some(work) = &mut self.job else { return };
        work.running = false;
        match failure {
            None => {
                tracing::info!(?kind, "job done");
                self.server.fresh = matches!(kind, JobKind::Init | JobKind::Restore);
                if matches!(kind, JobKind::Init | JobKind::Clone) {
                    restoring::forget(&self.place, &mut self.recovery);
                }
                self.job = None;
            }
            Some(failure) => {
                tracing::warn!(?kind, problem = %failure.words, "job failed");
                work.tries += 1;
                work.failures += u32::from(!failure.unreached);
                work.due = boottime_ms() + (500_u64 << work.tries.min(5)).min(15_000);
                work.error = Some(failure.words);
            }
        }
    }

    // The postmaster.

    async fn start(&mut self, standby: bool, mut config: Config) -> Done {
        if !sweep(self).await {
            return Err("processes of an earlier server do not end".to_owned());
        }
        let free = listen::check(listen());
        self.problems.port_taken = matches!(free, Err(listen::Error::Taken { .. }));
        free.map_err(words)?;
        let missing = self.server.run.fatal.as_deref().and_then(leftovers::missing_directory).filter(|_| standby);
        if let Some(directory) = missing.map(Path::to_owned) {
            self.make_tablespace_directory(&directory).await?;
        }
        self.clear_leftovers(standby)?;
        if self.durable.incarnation.is_none() {
            // An existing directory: whatever voted with it had another incarnation.
            let incarnation = Some(new_id());
            self.save(Durable { incarnation, ..self.durable.clone() }).map_err(words)?;
        }
        let minima = self.server.down.control.as_ref().filter(|_| standby).map(|control| control.minima.clone());
        let minima = minima.unwrap_or_default();
        if self.server.failed_starts >= 2 {
            self.blame_settings();
        }
        config.settings = self.settings_to_start_with(config.settings).await?;
        if let Some(proven) = self.server.tls.clone() {
            self.write_tls(&proven)?;
        }
        self.configure(&config, &minima)?;
        let mut command = self.place.tool("postgres");
        command.arg("-D").arg(self.place.pgdata()).current_dir(self.place.pgdata());
        for (setting, file) in
            [("config_file", "postgresql.conf"), ("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")]
        {
            command.arg("-c").arg(format!("{setting}={}", self.place.configuration().join(file).display()));
        }
        let child = self.reaper.spawn(command, Some(self.place.uid)).map_err(words)?;
        self.server.starts += 1;
        let id = format!("{}-{}", self.boot, self.server.starts);
        tracing::info!(run = %id, standby, "postgres starts");
        server_log::pass_on(child.output, self.notes.clone(), id.clone(), self.server.own_log_prefix.clone());
        self.server.run = Run::begin(id, &config);
        self.server.run.tls = self.server.tls.as_ref().map(|tls| tls.hash.clone());
        self.server.postmaster =
            Some(Postmaster { pid: child.pid, exit: child.exit, ready: false, session: None, stopping: None, minima });
        self.server.fresh = false;
        self.server.ordered_since_stop = false;
        self.problems.poll = None;
        Ok(After::Pause(1))
    }

    /// Makes the directory that the replay of CREATE TABLESPACE misses. Only with the rights of the server's user.
    async fn make_tablespace_directory(&self, directory: &Path) -> Result<(), String> {
        let mut command = self.place.tool("/bin/mkdir");
        command.args(["-p", "-m", "0700", "--"]).arg(directory);
        let made = tools::run_within(&self.reaper, command, Duration::from_secs(5)).await;
        tracing::info!(directory = %directory.display(), ok = made.is_ok(), "a tablespace needs a directory here");
        made.map(drop).map_err(|error| {
            format!(
                "the primary has a tablespace in {0}, and user postgres cannot make that directory here ({1}): as root, make it in this container with owner postgres (docker exec -u root CONTAINER install -d -o postgres -m 700 {0})",
                directory.display(),
                chain(&error)
            )
        })
    }

    /// Remembers the logical slots that this directory loses because it was a primary's and no longer is.
    fn lose_slots(&mut self) -> Vec<String> {
        let lost = leftovers::logical_slots(&self.place);
        if !lost.is_empty() {
            tracing::warn!(slots = %lost.join(", "), "logical slots are lost with the change of the primary");
            self.server.lost_slots = (lost.clone(), boottime_ms());
        }
        lost
    }

    /// We hold the lock, so files of a postmaster are stale. A standby keeps no logical slots, and no slots of ours, from its
    /// time as primary.
    fn clear_leftovers(&mut self, standby: bool) -> Result<(), String> {
        let (pgdata, theirs) = (self.place.pgdata(), self.place.theirs());
        let failed = |doing: &str, path: &Path, error| format!("{doing} {}: {error}", path.display());
        let remove = |path: &Path| theirs.remove(path).map_err(|error| failed("removing", path, error));
        let socket = sql::socket();
        remove(&pgdata.join("postmaster.pid"))?;
        remove(&socket.with_extension(format!("{}.lock", listen().port)))?;
        remove(&socket)?;
        remove(&pgdata.join("recovery.signal"))?;
        let signal = pgdata.join("standby.signal");
        if standby {
            let slots = pgdata.join("pg_replslot");
            let drop = |slot: &Path| theirs.remove_folder(slot).map_err(|error| failed("removing", slot, error));
            for slot in self.lose_slots() {
                drop(&slots.join(slot))?;
            }
            theirs.write(&signal, "").map_err(|error| failed("writing", &signal, error))?;
            for slot in theirs.names(&slots) {
                if slot.to_string_lossy().starts_with(SLOT_PREFIX) {
                    drop(&slots.join(slot))?;
                }
            }
        } else {
            remove(&signal)?;
        }
        durable::sync_folder(&pgdata).map_err(words)
    }

    /// Sends the signal for a stop.
    pub fn signal_stop(&mut self, how: Stop, now: u64) -> After {
        let signal = match how {
            Stop::Fast => Signal::SIGINT,
            Stop::Immediate => Signal::SIGQUIT,
            Stop::Kill => Signal::SIGKILL,
        };
        self.cut_off("the server of this instance is being stopped");
        let Some(postmaster) = &mut self.server.postmaster else { return After::Again };
        // First: who waits for the store holds up the stop.
        if let Some(archiver) = &self.archiver {
            archiver.stopping();
        }
        tracing::info!(?how, "postgres is stopped");
        // If it is already gone, that is fine.
        let _ = kill(postmaster.pid, signal);
        if how == Stop::Kill {
            process::kill_all_of(self.place.uid);
        }
        postmaster.stopping = Some(Stopping { since: now, how });
        postmaster.session = None;
        self.server.run.app_task = None;
        After::Pause(IDLE_MS)
    }

    /// Handles the end of the postmaster; all its processes were killed when it was reaped.
    pub fn postmaster_ended(&mut self, status: nix::sys::wait::WaitStatus) {
        let Some(postmaster) = self.server.postmaster.take() else { return };
        self.cut_off("the server of this instance ended");
        let now = boottime_ms();
        let how = process::describe(status);
        tracing::info!(run = %self.server.run.id, status = %how, asked = postmaster.stopping.is_some(), "postgres ended");
        self.server.down =
            super::shell::Down { since: now, untold: postmaster.stopping.is_none(), ..Default::default() };
        self.server.ordered_since_stop = false;
        self.problems.poll = None;
        if postmaster.stopping.is_some() {
            self.server.failed_starts = 0;
            self.problems.ended = None;
            return;
        }
        let said = self.server.run.fatal.as_deref().map_or(String::new(), |line| format!("; its last error: {line}"));
        if self.server.run.poll.is_none() {
            self.server.failed_starts += 1;
            self.server.start_held_until = now + (500_u64 << self.server.failed_starts.min(5)).min(15_000);
            self.problems.ended = Some(format!("postgres did not start ({how}){said}"));
        } else {
            self.problems.ended = Some(format!("postgres ended by itself ({how}){said}"));
        }
    }

    async fn end_sessions(&mut self) -> Done {
        let begun = boottime();
        loop {
            let postmaster = self.server.postmaster.as_ref().ok_or("the server does not run")?.pid;
            let authenticating = authenticating(postmaster, self.place.uid);
            // A standby is left to finish: then the server's own view tells whether it is one. A client that only
            // says so gets no more time than that.
            let patient = (boottime() - begun) < MEMBERS_PATIENCE;
            for (pid, who) in &authenticating {
                if *who == Authenticating::Client || !patient {
                    // If it is already gone, that is fine.
                    let _ = kill(*pid, Signal::SIGTERM);
                }
            }
            if self.session().await?.end_sessions().await.map_err(words)? == 0 && authenticating.is_empty() {
                self.server.run.sessions_ended = true;
                return Ok(After::Again);
            }
            if (boottime() - begun) > PATIENCE {
                return Err("some sessions do not end".to_owned());
            }
            tokio::time::sleep(STEP).await;
        }
    }

    async fn promote(&mut self) -> Done {
        self.session().await?.promote().await.map_err(words)?;
        let begun = boottime();
        while self.session().await?.in_recovery().await.map_err(words)? {
            if (boottime() - begun) > 4 * PATIENCE {
                return Err("the promotion takes long".to_owned());
            }
            tokio::time::sleep(STEP).await;
        }
        self.polled().await
    }

    /// Ensures the application's roles and database in the background and in its own session: CREATE DATABASE may take
    /// long, and the loop must be able to stop the server meanwhile. A stop, or another order than Lead, cuts it.
    fn begin_app(&mut self, database: String, owner: String, secrets: Secrets) {
        let (notes, run) = (self.notes.clone(), self.server.run.id.clone());
        let task = tokio::spawn(async move {
            let ensured = async { Session::open().await?.ensure_app(&database, &owner, &secrets).await }.await;
            // The loop exists as long as the process.
            let _ = notes.send(Note::App(run, ensured.map_err(|error| chain(&error)))).await;
        });
        self.server.run.app_task = Some(AbortOnDropHandle::new(task));
    }

    /// The end of that task.
    pub fn app_ended(&mut self, result: Result<Option<String>, String>) {
        self.server.run.app_task = None;
        self.problems.app = result.as_ref().err().cloned();
        match result {
            Ok(missing) => {
                self.server.run.app_ensured = true;
                self.server.run.app_missing = missing;
            }
            Err(problem) => {
                tracing::warn!(%problem, "the application's database and owner are not ensured");
                self.server.run.app_due = boottime_ms() + APP_AGAIN_MS;
            }
        }
    }

    /// A backend crashed, so PostgreSQL ends: it must recover from its WAL. It would wait for its other processes, for
    /// seconds if one is slow. No more can be acknowledged by them than by those of a postmaster that was killed.
    pub fn kill_crashed(&mut self) {
        if self.server.postmaster.as_ref().is_some_and(|postmaster| postmaster.stopping.is_none()) {
            tracing::warn!(run = %self.server.run.id, "a backend of postgres crashed: all its processes are killed");
            process::kill_all_of(self.place.uid);
        }
    }

    /// Runs in the background and in its own session; the loop gets a note when it is done.
    fn checkpoint(&self, limit: Duration, for_stop: bool) {
        let (notes, run) = (self.notes.clone(), self.server.run.id.clone());
        tokio::spawn(async move {
            if !for_stop {
                tokio::time::sleep(jobs::CLIENTS_FIRST).await;
            }
            let written = async {
                let mut session = Session::open().await?;
                // A checkpoint late in a segment prepares the file of the next one, which the stop begins.
                let filled = if for_stop { session.fill_segment().await } else { Ok(()) };
                session.checkpoint(limit).await.and(filled)
            };
            let written = written.await;
            let error = written.err().map(|error| chain(&error));
            // The loop exists as long as the process.
            let _ = notes.send(Note::Checkpoint { run, for_stop, error }).await;
        });
    }
}
