//! The server's configuration: writes the files, has changed settings judged before the server gets them, verifies a
//! reload in a new session.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use super::clock::{boottime, boottime_ms};
use super::conf::{self, Facts};
use super::dry_start::{Judge, blamed};
use super::durable;
use super::identify;
use super::listen;
use super::perform::{After, Done, IDLE_MS, STEP, words};
use super::shell::{Note, Shell};
use super::sql;
use super::state::{Config, Gate, Judged, Settings, Upstream};
use super::tls;
use super::wire::Tls;
use crate::api::postgres_settings::LOG_PREFIX;

/// Timeout for a reload to be visible in a new session.
const RELOAD: Duration = Duration::from_secs(2);
/// Pause after certificates that the server did not load, in milliseconds.
const TLS_AGAIN_MS: u64 = 30_000;

impl Shell {
    /// primary_conninfo for an upstream.
    pub fn conninfo(&self, upstream: &Upstream) -> String {
        let paths = (self.place.passfile(), self.place.configuration());
        conf::conninfo(upstream, &self.facts(&BTreeMap::new(), &Settings::new(), &paths))
    }

    fn facts<'a>(
        &'a self,
        minima: &'a BTreeMap<String, u64>,
        settings: &'a Settings,
        (passfile, certificates): &'a (PathBuf, PathBuf),
    ) -> Facts<'a> {
        Facts {
            member: &self.member,
            incarnation: self.durable.incarnation.as_deref().unwrap_or_default(),
            generation: self.server.generation,
            minima,
            settings,
            passfile,
            certificates,
            ssl: self.server.tls.is_some(),
            listen: listen::listen(),
        }
    }

    /// Writes all configuration files for a new generation.
    pub fn configure(&mut self, config: &Config, minima: &BTreeMap<String, u64>) -> Result<(), String> {
        self.server.generation += 1;
        let paths = (self.place.passfile(), self.place.configuration());
        let text = conf::postgresql_conf(config, &self.facts(minima, &config.settings, &paths));
        self.place.write_configuration("postgresql.conf", &text)?;
        let own = config.settings.get("log_line_prefix").is_none_or(|prefix| prefix == LOG_PREFIX);
        self.server.own_log_prefix.store(own, Ordering::Relaxed);
        self.place.write_configuration("pg_hba.conf", &conf::pg_hba(config.gate, config.access.as_ref()))?;
        self.place.write_configuration("pg_ident.conf", conf::pg_ident())?;
        self.clear_auto_conf()
    }

    /// The settings to start with. Those of a directory that never had any are only checked: its start is their dry start.
    pub async fn settings_to_start_with(&mut self, asked: Settings) -> Result<Settings, String> {
        if self.server.judged.is_none() {
            let judged = self.judge(asked, false).verdict().await?;
            self.judged(judged);
        }
        Ok(self.server.judged.as_ref().map(|judged| judged.accepted.clone()).unwrap_or_default())
    }

    fn judge(&self, asked: Settings, start: bool) -> Judge {
        let in_force = self.server.judged.as_ref().map(|judged| judged.accepted.clone()).unwrap_or_default();
        let site = self.site();
        Judge { site, member: self.member.clone(), in_force, asked, start, ssl: self.server.tls.is_some() }
    }

    /// Judges the settings of an order beside the loop; until then the server keeps those that it has.
    pub fn begin_dry_start(&mut self, asked: Settings) {
        if asked.is_empty() {
            return self.judged(Judged::default());
        }
        tracing::info!("changed settings are judged by a dry start");
        self.server.trial.running = true;
        let (judge, notes) = (self.judge(asked, true), self.notes.clone());
        tokio::spawn(async move {
            let verdict = judge.verdict().await;
            // The loop exists as long as the process.
            let _ = notes.send(Note::Judged(verdict)).await;
        });
    }

    /// The end of a dry start.
    pub fn dry_start_ended(&mut self, verdict: Result<Judged, String>) {
        self.server.trial.running = false;
        match verdict {
            Ok(judged) => {
                self.server.trial.failures = 0;
                self.judged(judged);
            }
            Err(why) => {
                tracing::warn!(problem = %why, "settings could not be judged; this is tried again");
                self.server.trial.failures += 1;
                self.server.trial.due = boottime_ms() + (1_000_u64 << self.server.trial.failures.min(5));
                self.problems.settings = Some(format!("changed settings could not be judged yet: {why}"));
            }
        }
    }

    /// Remembers a verdict, also for the next start of this supervisor.
    fn judged(&mut self, judged: Judged) {
        let saved = serde_json::to_vec(&judged)
            .map_err(std::io::Error::from)
            .and_then(|bytes| durable::write(&self.place.own().join(Judged::FILE), &bytes));
        if let Err(error) = saved {
            tracing::warn!(%error, "the judged settings are not saved");
        }
        self.server.trial.again = false;
        self.problems.settings = None;
        self.server.judged = Some(judged);
    }

    /// ALTER SYSTEM would override our file; a copy of a leader's directory contains the leader's.
    fn clear_auto_conf(&self) -> Result<(), String> {
        const EMPTY: &str = "# Evenkeel keeps this file empty: settings belong into the object's spec.parameters.\n";
        let path = self.place.pgdata().join("postgresql.auto.conf");
        let theirs = self.place.theirs();
        if theirs.text(&path) == EMPTY || theirs.is_gone(&self.place.pgdata()) {
            return Ok(());
        }
        theirs.write(&path, EMPTY).map_err(|error| format!("writing {}: {error}", path.display()))
    }

    /// Brings a configuration into force.
    pub async fn apply(&mut self, config: Config) -> Done {
        if self.server.postmaster.is_none() {
            return Err("the server does not run".to_owned());
        }
        let before = self.server.run.applied.take();
        if before.as_ref().is_none_or(|before| before.commit != config.commit) {
            self.server.run.barrier_lsn = None;
        }
        if before.as_ref().is_none_or(|before| before.upstream != config.upstream) {
            // It was reported about the previous leader.
            self.server.run.wal_missing = false;
        }
        if config.gate == Gate::Open {
            self.server.run.sessions_ended = false;
            self.server.run.opened.get_or_insert(boottime_ms());
        } else {
            self.server.run.opened = None;
        }
        self.reload(&config).await?;
        // An earlier poll says nothing about the time after the reload. The new poll also compares the settings.
        self.server.run.applied = Some(config);
        self.server.run.details_read = false;
        if let Some(poll) = &mut self.server.run.poll {
            poll.startup = None;
        }
        // Whoever waits for a promise or a barrier must not wait for the details.
        self.clocks.details_at = boottime_ms() + IDLE_MS;
        self.poll(boottime_ms()).await;
        if self.server.run.applied.is_some() {
            self.problems.overridden = None;
        }
        Ok(After::Again)
    }

    /// The certificates received last, else those that were proven.
    pub fn tls_wanted(&self) -> Option<&Tls> {
        let received = self.secrets.as_ref().and_then(|secrets| secrets.credentials.tls.as_ref());
        received.or(self.server.tls.as_ref())
    }

    /// Writes the files of these certificates, unless they are written.
    pub fn write_tls(&mut self, tls: &Tls) -> Result<(), String> {
        if self.server.tls_written.as_ref() != Some(&tls.hash) {
            self.server.tls_written = None;
            tls::write(&self.place, tls)?;
            self.server.tls_written = Some(tls.hash.clone());
        }
        Ok(())
    }

    /// Has the server load the certificates received last. If it does not, it gets the former ones again: neither a start
    /// nor a change of roles ever depends on certificates that no server has loaded.
    pub async fn load_tls(&mut self) -> After {
        let Some(wanted) = self.tls_wanted().cloned() else { return After::Again };
        let outcome = match self.server.run.applied.clone().filter(|_| self.server.postmaster.is_some()) {
            Some(config) => self.load_into_server(&wanted, &config).await,
            None => self.write_tls(&wanted),
        };
        self.problems.tls = outcome.err();
        if let Some(why) = &self.problems.tls {
            tracing::warn!(problem = %why, "new certificates are not in force");
            self.clocks.tls_at = boottime_ms() + TLS_AGAIN_MS;
        }
        After::Again
    }

    async fn load_into_server(&mut self, wanted: &Tls, config: &Config) -> Result<(), String> {
        let former = self.server.tls.replace(wanted.clone());
        let loaded = async {
            self.write_tls(wanted)?;
            self.reload(config).await?;
            tls::shown(wanted).await
        };
        if let Err(why) = loaded.await {
            self.server.tls = former;
            if let Some(former) = self.server.tls.clone() {
                self.write_tls(&former)?;
            }
            self.reload(config).await?;
            return Err(why);
        }
        tls::save(&self.place.own(), wanted).map_err(words)?;
        tracing::info!(hash = %wanted.hash, "certificates are in force");
        self.server.run.tls = Some(wanted.hash.clone());
        Ok(())
    }

    /// Renders and reloads; done when a session that was started afterwards shows the new generation.
    async fn reload(&mut self, config: &Config) -> Result<(), String> {
        let postmaster = self.server.postmaster.as_ref().ok_or("the server does not run")?;
        let standby = self.server.run.poll.as_ref().is_none_or(|poll| poll.recovery);
        // A primary has no minimum values: those that it had as a standby wait for a restart.
        let minima = if standby { postmaster.minima.clone() } else { BTreeMap::new() };
        let pid = postmaster.pid;
        self.configure(config, &minima)?;
        kill(pid, Signal::SIGHUP).map_err(words)?;
        self.reloaded().await
    }

    /// Waits until a new session has the last written generation. A new session inherits the postmaster's settings; an
    /// old session would show when it reloaded itself. When a new one has it, all others have been signalled.
    async fn reloaded(&self) -> Result<(), String> {
        let (socket, wanted) = (sql::socket(), self.server.generation.to_string());
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

    /// After failed starts the user's settings are suspects: those that the last error message is about, else all.
    pub fn blame_settings(&mut self) {
        let said = self.server.run.fatal.clone().unwrap_or_else(|| "the server did not start with it".to_owned());
        let Some(mut judged) = self.server.judged.clone() else { return };
        let suspects: Vec<String> = judged.accepted.keys().cloned().collect();
        let mut blamed = blamed(&said, &judged.accepted, &suspects);
        // Without a hint all are left out, and a dry start judges them again.
        let guessed = blamed.is_empty();
        if guessed {
            blamed = suspects.into_iter().map(|name| (name, said.clone())).collect();
        }
        for (name, why) in blamed {
            tracing::warn!(setting = %name, reason = %why, "starting without a setting");
            judged.accepted.remove(&name);
            judged.errors.push(format!("{name}: {why}"));
        }
        self.judged(judged);
        self.server.trial.again = guessed;
    }
}
