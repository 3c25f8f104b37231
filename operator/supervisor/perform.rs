//! Performing one act of `next`. Each may be repeated; the next look sees what came of it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use super::conf::{self, Facts};
use super::jobs::{self, Made, Site, chain};
use super::poll::sweep;
use super::process;
use super::shell::{Note, Postmaster, Run, Settings, Shell, Stop, Stopping, Work, boottime, boottime_ms, new_id};
use super::sql::{self, SLOT_PREFIX, Session};
use super::state::{Act, Config, Durable, Gate, Upstream};
use super::tools;
use super::wire::{JobKind, PORT};
use super::{durable, identify, place};

/// What the loop does after an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Look again at once.
    Again,
    /// Look again when something happens, at the latest after so many milliseconds.
    Pause(u64),
    /// The supervisor's work is done.
    Exit,
}

/// Interval between turns of the loop without events, in milliseconds.
const IDLE_MS: u64 = 250;
/// Timeout for a reload to be visible in a new session.
const RELOAD: Duration = Duration::from_secs(2);
/// Timeout for sessions to end; a promotion gets four times this. Then the loop polls again.
const PATIENCE: Duration = Duration::from_millis(500);
/// Interval between questions while such a timeout runs.
const STEP: Duration = Duration::from_millis(2);
/// Timeout of the checkpoint before a graceful stop.
const STOP_CHECKPOINT: Duration = Duration::from_secs(10);
/// Bytes of the server's log that are passed on at once; a longer line goes in pieces.
const LONGEST_LINE: u64 = 16 << 10;
/// Timeout of any other checkpoint.
const CHECKPOINT: Duration = Duration::from_secs(3_600);

type Done = Result<After, String>;

fn words(error: impl std::error::Error) -> String {
    chain(&error)
}

impl Shell {
    /// Performs; a failure becomes a problem of the report and holds the next act back for a moment.
    pub async fn perform(&mut self, act: Act) -> After {
        if matches!(act, Act::Wait | Act::Poll | Act::Exit) {
            return self.idle(&act);
        }
        self.quick_polls = 0;
        let now = boottime_ms();
        if now < self.act_at && !matches!(act, Act::StopFast | Act::StopImmediate) {
            return After::Pause(self.act_at - now);
        }
        let name = act.to_string();
        let begun = boottime();
        let result = self.try_perform(act).await;
        tracing::debug!(act = %name, took_ms = (boottime() - begun).as_secs_f64() * 1e3, ok = result.is_ok(), "act");
        match result {
            Ok(after) => {
                self.failed_acts = 0;
                self.problems.act = None;
                after
            }
            Err(words) => {
                let words = format!("{name}: {words}");
                tracing::warn!(problem = %words, "an act failed");
                self.problems.act = Some(words);
                self.failed_acts += 1;
                let pause = 100 << self.failed_acts.min(3);
                self.act_at = boottime_ms() + pause;
                self.poll_at = 0;
                After::Pause(pause)
            }
        }
    }

    fn idle(&mut self, act: &Act) -> After {
        match act {
            Act::Exit => After::Exit,
            Act::Poll => {
                // Eager at first; a transition that takes long is not worth a busy processor.
                let pause = match self.quick_polls {
                    0..500 => 2,
                    500..1_500 => 10,
                    _ => 50,
                };
                self.quick_polls = self.quick_polls.saturating_add(1);
                self.poll_at = boottime_ms() + pause;
                After::Pause(pause)
            }
            _ => {
                self.quick_polls = 0;
                After::Pause(IDLE_MS)
            }
        }
    }

    async fn try_perform(&mut self, act: Act) -> Done {
        match act {
            Act::Wait | Act::Poll | Act::Exit => Ok(After::Again),
            Act::InitDb(init) => self.begin(JobKind::Init, BTreeMap::new(), |site| site.init(init)),
            Act::Clone(follow) => {
                self.begin(JobKind::Clone, follow.timeline_terms.clone(), |site| site.clone_leader(follow))
            }
            Act::Recover => {
                let settings = self.durable.order.as_ref().map(|order| order.settings.clone()).unwrap_or_default();
                self.configure(&Config { settings, ..Config::default() }, &BTreeMap::new()).await?;
                self.begin(JobKind::Recover, BTreeMap::new(), Site::recover)
            }
            Act::RecordWalEnd(end) => {
                self.save(Durable { former_wal_end: Some(end), ..self.durable.clone() }).map_err(words)?;
                Ok(After::Again)
            }
            Act::Rewind(follow) => {
                self.begin(JobKind::Rewind, follow.timeline_terms.clone(), |site| site.rewind(follow))
            }
            Act::Start { standby, config } => self.start(standby, config).await,
            Act::Apply(config) => self.apply(config).await,
            Act::EndSessions => self.end_sessions().await,
            Act::EnsureSlots(wanted) => {
                let settled = self.run.settled(boottime_ms());
                self.session().await?.ensure_slots(&wanted, settled).await.map_err(words)?;
                self.polled().await
            }
            Act::Promote => self.promote().await,
            Act::EnsureApp { database, owner } => {
                let secrets = self.secrets.clone().ok_or("there are no credentials yet")?;
                self.session().await?.ensure_app(&database, &owner, &secrets).await.map_err(words)?;
                self.run.app_ensured = true;
                Ok(After::Again)
            }
            Act::SetBarrier => {
                let lsn = self.session().await?.barrier().await.map_err(words)?;
                self.run.barrier_lsn = Some(lsn);
                self.run.barrier_at = boottime_ms();
                self.polled().await
            }
            Act::Checkpoint => {
                self.run.checkpoint_started = true;
                self.checkpoint(CHECKPOINT, false);
                Ok(After::Again)
            }
            Act::CheckpointForStop => {
                if !std::mem::replace(&mut self.run.stop_checkpoint, true) {
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
            Act::Restore(remembered) => self.restore(remembered),
        }
    }

    /// Our folder is made again, as at the start.
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
        self.save(remembered).map_err(words)?;
        Ok(After::Again)
    }

    /// The session with the server, opened if there is none.
    async fn session(&mut self) -> Result<&mut Session, String> {
        let postmaster = self.postmaster.as_mut().ok_or("the server does not run")?;
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
        // The marker is on disk before the first byte changes. A directory that a base backup is to replace is of no
        // use even if it stays whole for a while.
        match kind {
            JobKind::Init | JobKind::Recover => {}
            JobKind::Clone => self
                .save(Durable { unfinished: Some(kind), incarnation: None, rewound: None, ..self.durable.clone() })
                .map_err(words)?,
            JobKind::Rewind => {
                self.save(Durable { unfinished: Some(kind), ..self.durable.clone() }).map_err(words)?;
            }
        }
        let last = self.work.take().filter(|work| work.kind == kind);
        let (failures, tries) = last.as_ref().map_or((0, 0), |work| (work.failures, work.tries));
        let error = last.and_then(|work| work.error);
        self.work = Some(Work { kind, running: true, error, failures, tries, due: 0, timeline_terms });
        tracing::info!(?kind, "job begins");
        let job = job(Site { place: self.place.clone(), reaper: self.reaper.clone() });
        let notes = self.notes.clone();
        tokio::spawn(async move {
            // The loop is there as long as the process is.
            let _ = notes.send(Note::Job(kind, job.await)).await;
        });
        Ok(After::Again)
    }

    /// A job ended: what it made becomes ours.
    pub fn job_ended(&mut self, kind: JobKind, result: Result<Made, jobs::Failure>) {
        self.down.read = false;
        (self.down.clean, self.down.control) = (None, None);
        let durable = Durable { unfinished: None, ..self.durable.clone() };
        let new = || Some(new_id());
        let timeline_terms = self.work.as_ref().map(|work| work.timeline_terms.clone()).unwrap_or_default();
        let (durable, failure) = match result {
            Ok(Made::New | Made::Copy) => (Durable { incarnation: new(), timeline_terms, ..durable }, None),
            Ok(Made::Recovered) => (durable, None),
            Ok(Made::Rewound(timeline)) => (Durable { rewound: Some(timeline), timeline_terms, ..durable }, None),
            // A copy that failed leaves nothing to go back to; a rewind that changed nothing leaves what was.
            Err(failure) if kind == JobKind::Clone || failure.spoiled => {
                (Durable { unfinished: Some(JobKind::Clone), ..durable }, Some(failure))
            }
            Err(failure) => (durable, Some(failure)),
        };
        if let Err(error) = self.save(durable) {
            self.problems.act = Some(words(error));
        }
        let Some(work) = &mut self.work else { return };
        work.running = false;
        match failure {
            None => {
                tracing::info!(?kind, "job done");
                self.fresh = kind == JobKind::Init;
                self.work = None;
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

    // Configuration.

    /// primary_conninfo towards an upstream.
    pub fn conninfo(&self, upstream: &Upstream) -> String {
        conf::conninfo(upstream, &self.facts(&BTreeMap::new(), &self.place.passfile()))
    }

    fn facts<'a>(&'a self, minima: &'a BTreeMap<String, u64>, passfile: &'a Path) -> Facts<'a> {
        Facts {
            member: &self.member,
            incarnation: self.durable.incarnation.as_deref().unwrap_or_default(),
            generation: self.generation,
            minima,
            settings: &self.settings.accepted,
            passfile,
        }
    }

    /// Writes all configuration files for a new generation.
    async fn configure(&mut self, config: &Config, minima: &BTreeMap<String, u64>) -> Result<(), String> {
        if self.settings.asked != config.settings {
            self.check_settings(config, minima).await?;
        }
        self.generation += 1;
        let passfile = self.place.passfile();
        let text = conf::postgresql_conf(config, &self.facts(minima, &passfile));
        self.write_file("postgresql.conf", &text)?;
        self.write_file("pg_hba.conf", &conf::pg_hba(config.gate))?;
        self.write_file("pg_ident.conf", conf::pg_ident())?;
        self.clear_auto_conf()
    }

    /// Leaves out settings that PostgreSQL would refuse: one bad value must stop neither a start nor a reload.
    async fn check_settings(&mut self, config: &Config, minima: &BTreeMap<String, u64>) -> Result<(), String> {
        let asked = config.settings.clone();
        self.settings = Settings { asked: asked.clone(), accepted: asked, errors: Vec::new() };
        while !self.settings.accepted.is_empty() {
            let passfile = self.place.passfile();
            let text = conf::postgresql_conf(config, &self.facts(minima, &passfile));
            self.write_file("check.conf", &text)?;
            let file = self.place.configuration().join("check.conf");
            let Err(said) = tools::check_configuration(&self.place, &self.reaper, &file).await else { break };
            let mut bad = refused(&said, &self.settings.accepted);
            if bad.is_empty() {
                let last = said.lines().last().unwrap_or_default().to_owned();
                bad = self.settings.accepted.keys().map(|name| (name.clone(), last.clone())).collect();
            }
            for (name, why) in bad {
                tracing::warn!(setting = %name, reason = %why, "PostgreSQL refuses a setting; running without it");
                self.settings.accepted.remove(&name);
                self.settings.errors.push(format!("{name}: {why}"));
            }
        }
        Ok(())
    }

    fn write_file(&self, name: &str, text: &str) -> Result<(), String> {
        use std::os::unix::fs::{OpenOptionsExt, chown};
        let path = self.place.configuration().join(name);
        let beside = path.with_extension("new");
        let write = || {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.create(true).truncate(true).write(true).mode(0o640).open(&beside)?;
            file.write_all(text.as_bytes())?;
            chown(&beside, Some(0), Some(self.place.gid.as_raw()))?;
            std::fs::rename(&beside, &path)
        };
        write().map_err(|error| format!("writing {}: {error}", path.display()))
    }

    /// ALTER SYSTEM would win over our file; copies of a leader's directory bring its own along.
    fn clear_auto_conf(&self) -> Result<(), String> {
        const EMPTY: &str = "# Evenkeel keeps this file empty: settings belong into the object's spec.parameters.\n";
        let path = self.place.pgdata().join("postgresql.auto.conf");
        if std::fs::read(&path).is_ok_and(|text| text == EMPTY.as_bytes()) {
            return Ok(());
        }
        std::fs::write(&path, EMPTY)
            .and_then(|()| {
                std::os::unix::fs::chown(&path, Some(self.place.uid.as_raw()), Some(self.place.gid.as_raw()))
            })
            .map_err(|error| format!("writing {}: {error}", path.display()))
    }

    // The postmaster.

    async fn start(&mut self, standby: bool, config: Config) -> Done {
        if !sweep(self).await {
            return Err("processes of an earlier server do not end".to_owned());
        }
        self.clear_leftovers(standby)?;
        if self.durable.incarnation.is_none() {
            // A directory that was there before us: whoever voted with it, it was not this incarnation.
            let incarnation = Some(new_id());
            self.save(Durable { incarnation, ..self.durable.clone() }).map_err(words)?;
        }
        let minima = self.down.control.as_ref().filter(|_| standby).map(|control| control.minima.clone());
        let minima = minima.unwrap_or_default();
        if self.failed_starts >= 2 && !self.settings.accepted.is_empty() {
            self.blame_settings();
        }
        self.configure(&config, &minima).await?;
        let mut command = self.place.tool("postgres");
        command.arg("-D").arg(self.place.pgdata()).current_dir(self.place.pgdata());
        for (setting, file) in
            [("config_file", "postgresql.conf"), ("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")]
        {
            command.arg("-c").arg(format!("{setting}={}", self.place.configuration().join(file).display()));
        }
        let child = self.reaper.spawn(command, Some(self.place.uid)).map_err(words)?;
        self.starts += 1;
        let id = format!("{}-{}", self.boot, self.starts);
        tracing::info!(run = %id, standby, "postgres starts");
        pass_log_on(child.output, self.notes.clone(), id.clone());
        self.run = Run::begin(id, &config);
        self.postmaster =
            Some(Postmaster { pid: child.pid, exit: child.exit, ready: false, session: None, stopping: None, minima });
        self.fresh = false;
        self.ordered_since_stop = false;
        self.problems.poll = None;
        Ok(After::Pause(1))
    }

    /// After starts that failed, the user's settings are the first suspects: those that the last words name, else all.
    fn blame_settings(&mut self) {
        let said = self.run.fatal.clone().unwrap_or_else(|| "the server did not start with it".to_owned());
        let named: Vec<String> =
            self.settings.accepted.keys().filter(|name| said.contains(name.as_str())).cloned().collect();
        let blamed = if named.is_empty() { self.settings.accepted.keys().cloned().collect() } else { named };
        for name in blamed {
            tracing::warn!(setting = %name, reason = %said, "starting without a setting");
            self.settings.accepted.remove(&name);
            self.settings.errors.push(format!("{name}: {said}"));
        }
    }

    /// The lock is ours, so whatever a postmaster left is stale. A standby keeps no slots of ours from a time as primary.
    fn clear_leftovers(&self, standby: bool) -> Result<(), String> {
        let pgdata = self.place.pgdata();
        let remove = |path: &Path| match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("removing {}: {error}", path.display()))
            }
            _ => Ok(()),
        };
        let socket = sql::socket();
        remove(&pgdata.join("postmaster.pid"))?;
        remove(&socket.with_extension(format!("{PORT}.lock")))?;
        remove(&socket)?;
        remove(&pgdata.join("recovery.signal"))?;
        let signal = pgdata.join("standby.signal");
        if standby {
            let owner = (Some(self.place.uid.as_raw()), Some(self.place.gid.as_raw()));
            std::fs::File::create(&signal)
                .and_then(|file| file.sync_all())
                .and_then(|()| std::os::unix::fs::chown(&signal, owner.0, owner.1))
                .map_err(|error| format!("writing {}: {error}", signal.display()))?;
            for slot in std::fs::read_dir(pgdata.join("pg_replslot")).into_iter().flatten().flatten() {
                if slot.file_name().to_string_lossy().starts_with(SLOT_PREFIX) {
                    std::fs::remove_dir_all(slot.path()).map_err(words)?;
                }
            }
        } else {
            remove(&signal)?;
        }
        durable::sync_folder(&pgdata).map_err(words)
    }

    /// Sends the signal of a stop.
    pub fn signal_stop(&mut self, how: Stop, now: u64) -> After {
        let Some(postmaster) = &mut self.postmaster else { return After::Again };
        let signal = match how {
            Stop::Fast => Signal::SIGINT,
            Stop::Immediate => Signal::SIGQUIT,
            Stop::Kill => Signal::SIGKILL,
        };
        tracing::info!(?how, "postgres is stopped");
        // Gone already is as good.
        let _ = kill(postmaster.pid, signal);
        if how == Stop::Kill {
            process::kill_all_of(self.place.uid);
        }
        postmaster.stopping = Some(Stopping { since: now, how });
        postmaster.session = None;
        After::Pause(IDLE_MS)
    }

    /// The postmaster ended; everything of it was killed the moment it was reaped.
    pub fn postmaster_ended(&mut self, status: nix::sys::wait::WaitStatus) {
        let Some(postmaster) = self.postmaster.take() else { return };
        let now = boottime_ms();
        process::kill_all_of(self.place.uid);
        let how = process::describe(status);
        tracing::info!(run = %self.run.id, status = %how, asked = postmaster.stopping.is_some(), "postgres ended");
        self.down = super::shell::Down { since: now, untold: postmaster.stopping.is_none(), ..Default::default() };
        self.ordered_since_stop = false;
        self.problems.poll = None;
        if postmaster.stopping.is_some() {
            self.failed_starts = 0;
            self.problems.ended = None;
            return;
        }
        let said = self.run.fatal.as_deref().map_or(String::new(), |line| format!("; its last words: {line}"));
        if self.run.poll.is_none() {
            self.failed_starts += 1;
            self.start_held_until = now + (500_u64 << self.failed_starts.min(5)).min(15_000);
            self.problems.ended = Some(format!("postgres did not start ({how}){said}"));
        } else {
            self.problems.ended = Some(format!("postgres ended by itself ({how}){said}"));
        }
    }

    /// Renders, reloads, and believes it when a session begun afterwards shows it.
    async fn apply(&mut self, config: Config) -> Done {
        let postmaster = self.postmaster.as_ref().ok_or("the server does not run")?;
        let standby = self.run.poll.as_ref().is_none_or(|poll| poll.recovery);
        // A primary has no primary to keep up with: what it was held up to now waits for a restart.
        let minima = if standby { postmaster.minima.clone() } else { BTreeMap::new() };
        let pid = postmaster.pid;
        let before = self.run.applied.take();
        if before.as_ref().is_none_or(|before| before.commit != config.commit) {
            self.run.barrier_lsn = None;
        }
        if before.as_ref().is_none_or(|before| before.upstream != config.upstream) {
            // It was said of the leader before.
            self.run.wal_missing = false;
        }
        if config.gate == Gate::Open {
            self.run.sessions_ended = false;
            self.run.opened.get_or_insert(boottime_ms());
        } else {
            self.run.opened = None;
        }
        self.configure(&config, &minima).await?;
        kill(pid, Signal::SIGHUP).map_err(words)?;
        self.reloaded().await?;
        // Whatever was polled before says nothing about the time after. This look compares the settings, too.
        self.run.applied = Some(config);
        if let Some(poll) = &mut self.run.poll {
            poll.startup = None;
        }
        // Whoever waits for a promise or a barrier does not wait for the rest.
        self.details_at = boottime_ms() + IDLE_MS;
        self.poll(boottime_ms()).await;
        if self.run.applied.is_some() {
            self.problems.overridden = None;
        }
        Ok(After::Again)
    }

    /// Waits until a session begun now has the generation written last. The postmaster hands its own settings to a new
    /// session; an old one would show its own moment of reload. When one has it, the signal is on its way to all others.
    async fn reloaded(&self) -> Result<(), String> {
        let (socket, wanted) = (sql::socket(), self.generation.to_string());
        let begun = boottime();
        loop {
            let asked = identify::setting(&socket, sql::ROLE, "evenkeel.generation");
            let loaded = tokio::time::timeout(RELOAD, asked).await.map_err(|_| "the server does not answer")?;
            if loaded.map_err(|error| format!("asking for the configuration loaded: {error}"))? == wanted {
                return Ok(());
            }
            if boottime() - begun > RELOAD {
                return Err("the server does not take the new configuration; see its log".to_owned());
            }
            tokio::time::sleep(STEP).await;
        }
    }

    async fn end_sessions(&mut self) -> Done {
        let begun = boottime();
        loop {
            let postmaster = self.postmaster.as_ref().ok_or("the server does not run")?.pid;
            let not_yet = process::not_yet_sessions(postmaster, self.place.uid);
            for pid in &not_yet {
                // Gone already is as good.
                let _ = kill(*pid, Signal::SIGTERM);
            }
            if self.session().await?.end_sessions().await.map_err(words)? == 0 && not_yet.is_empty() {
                self.run.sessions_ended = true;
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

    /// In the background and in its own session; the loop is told when it is done.
    fn checkpoint(&self, limit: Duration, for_stop: bool) {
        let (notes, run) = (self.notes.clone(), self.run.id.clone());
        tokio::spawn(async move {
            let written = async { Session::open().await?.checkpoint(limit).await }.await;
            let error = written.err().map(|error| chain(&error));
            // The loop is there as long as the process is.
            let _ = notes.send(Note::Checkpoint { run, for_stop, error }).await;
        });
    }
}

/// Which of the user's settings PostgreSQL names in its refusal, with its words.
fn refused(said: &str, settings: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let named = |name: &String| {
        let line = said.lines().find(|line| line.contains(&format!("\"{name}\"")))?;
        let words = ["LOG:", "FATAL:", "ERROR:"].iter().find_map(|level| Some(line.split_once(level)?.1.trim()));
        // The file it names is one of ours, not one that the user knows.
        let words = words.unwrap_or(line).split(" in file \"").next().unwrap_or_default();
        Some((name.clone(), words.to_owned()))
    };
    settings.keys().filter_map(named).collect()
}

/// Passes the server's log on to ours and listens for what matters. A thread of its own: neither a full pipe of
/// `docker logs` nor a busy loop may hold up the other.
fn pass_log_on(output: std::os::fd::OwnedFd, notes: tokio::sync::mpsc::Sender<Note>, run: String) {
    let pass = move || {
        let mut lines = BufReader::new(std::fs::File::from(output));
        let mut line = Vec::new();
        while lines.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            if let Some(note) = listen(&String::from_utf8_lossy(&line), &run) {
                // A full queue has heard the same already.
                let _ = notes.try_send(note);
            }
            // Nobody reads the log any more: the server is not to stop for that.
            let _ = std::io::stderr().write_all(&line);
            line.clear();
        }
    };
    let spawned = std::thread::Builder::new().name("server log".into()).stack_size(128 << 10).spawn(pass);
    if let Err(error) = spawned {
        tracing::error!(%error, "the server's log is not read");
    }
}

fn listen(line: &str, run: &str) -> Option<Note> {
    // A leader has the history of its own timeline, but if it is a copy itself not those of the timelines before.
    let removed = line.contains("requested WAL segment") && line.contains("has already been removed");
    let unknown =
        line.contains("could not receive timeline history file") && line.contains("No such file or directory");
    // With FATAL it is our receiver that says so; a walsender here would say it of its own other side.
    if line.contains("FATAL:") && (removed || unknown) {
        return Some(Note::WalMissing(run.to_owned()));
    }
    // A warning, or, where warnings are not logged, what is said with the pause.
    if line.contains("hot standby is not possible because of insufficient parameter settings")
        || line.contains("If recovery is unpaused, the server will shut down")
    {
        return Some(Note::Stuck(run.to_owned()));
    }
    if line.contains("could not receive data from WAL stream") {
        return Some(Note::ReceiverEnded(run.to_owned()));
    }
    let (_, said) = line.split_once("FATAL:").or_else(|| line.split_once("PANIC:"))?;
    // Said to clients every day, no sign of trouble.
    let routine = [
        "terminating connection",
        "pg_hba.conf rejects",
        "password authentication failed",
        "is starting up",
        "is shutting down",
        "the database system is not",
    ];
    let said = said.trim();
    (!routine.iter().any(|phrase| said.contains(phrase))).then(|| Note::Fatal(run.to_owned(), said.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_setting_is_found_with_its_reason() {
        let said = "2026 GMT [7] LOG:  invalid value for parameter \"max_connections\": \"many\"\n\
                    2026 GMT [7] FATAL:  configuration file \"/v/check.conf\" contains errors\n";
        let settings = [("max_connections".into(), "many".into()), ("work_mem".into(), "8MB".into())].into();
        let expected = vec![(
            "max_connections".to_owned(),
            "invalid value for parameter \"max_connections\": \"many\"".to_owned(),
        )];
        assert_eq!(refused(said, &settings), expected);
    }

    /// Regression 20: with `log_min_messages = log` nobody heard that the replay of both standbys stood still for a setting,
    /// and an election waited for their promises for ever. Now the pause is heard, too, and looked for where it matters.
    #[test]
    fn a_replay_that_pauses_for_a_setting_is_heard_with_warnings_and_without() {
        let warning = "2026 [678] WARNING:  hot standby is not possible because of insufficient parameter settings\n";
        let without = "2026 [678] DETAIL:  If recovery is unpaused, the server will shut down.\n";
        for line in [warning, without] {
            assert!(matches!(listen(line, "r"), Some(Note::Stuck(run)) if run == "r"), "{line}");
        }
        assert!(listen("2026 [678] LOG:  recovery has paused\n", "r").is_none());
    }

    #[test]
    fn wal_that_the_leader_lacks_is_heard_in_the_log() {
        let line = "2026 [33] FATAL:  could not receive data from WAL stream: ERROR:  requested WAL segment 000000010000000000000003 has already been removed\n";
        assert!(matches!(listen(line, "r"), Some(Note::WalMissing(run)) if run == "r"));
        let walsender =
            "2026 [33] x@[unknown] ERROR:  requested WAL segment 000000010000000000000003 has already been removed\n";
        assert!(listen(walsender, "r").is_none());
    }

    /// Regression 10: a standby on timeline 12 came back to a leader that is a copy made on timeline 39: it lacks the histories
    /// between, and the receiver asked for the first of them for ever. Now that counts as WAL that is missing.
    #[test]
    fn a_timeline_history_that_the_leader_lacks_is_heard_in_the_log() {
        let said =
            |why| format!("2026 [9] FATAL:  could not receive timeline history file from the primary server: {why}");
        let missing = said("ERROR:  could not open file \"pg_wal/0000000D.history\": No such file or directory\n");
        assert!(matches!(listen(&missing, "r"), Some(Note::WalMissing(run)) if run == "r"));
        let gone = said("server closed the connection unexpectedly\n");
        assert!(matches!(listen(&gone, "r"), Some(Note::Fatal(..))));
    }

    #[test]
    fn routine_refusals_are_no_trouble() {
        assert!(listen("2026 [33] FATAL:  password authentication failed for user \"x\"", "r").is_none());
        assert!(matches!(listen("2026 [1] FATAL:  could not map anonymous shared memory", "r"), Some(Note::Fatal(..))));
    }
}
