//! The server's configuration: writes the files, leaves out settings that PostgreSQL refuses, verifies a
//! reload in a new session.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use super::conf::{self, Facts};
use super::identify;
use super::perform::{After, Done, IDLE_MS, STEP, words};
use super::shell::{AskedSettings, Shell, boottime, boottime_ms};
use super::sql;
use super::state::{Config, Gate, Upstream};
use super::tools;

/// Timeout for a reload to be visible in a new session.
const RELOAD: Duration = Duration::from_secs(2);

impl Shell {
    /// primary_conninfo for an upstream.
    pub fn conninfo(&self, upstream: &Upstream) -> String {
        conf::conninfo(upstream, &self.facts(&BTreeMap::new(), &self.place.passfile()))
    }

    fn facts<'a>(&'a self, minima: &'a BTreeMap<String, u64>, passfile: &'a Path) -> Facts<'a> {
        Facts {
            member: &self.member,
            incarnation: self.durable.incarnation.as_deref().unwrap_or_default(),
            generation: self.server.generation,
            minima,
            settings: &self.server.settings.accepted,
            passfile,
        }
    }

    /// Writes all configuration files for a new generation.
    pub async fn configure(&mut self, config: &Config, minima: &BTreeMap<String, u64>) -> Result<(), String> {
        if self.server.settings.asked != config.settings {
            self.check_settings(config, minima).await?;
        }
        self.server.generation += 1;
        let passfile = self.place.passfile();
        let text = conf::postgresql_conf(config, &self.facts(minima, &passfile));
        self.write_file("postgresql.conf", &text)?;
        self.write_file("pg_hba.conf", &conf::pg_hba(config.gate))?;
        self.write_file("pg_ident.conf", conf::pg_ident())?;
        self.clear_auto_conf()
    }

    /// Leaves out settings that PostgreSQL would refuse: one bad value must not prevent a start or a reload.
    async fn check_settings(&mut self, config: &Config, minima: &BTreeMap<String, u64>) -> Result<(), String> {
        let asked = config.settings.clone();
        self.server.settings = AskedSettings { asked: asked.clone(), accepted: asked, errors: Vec::new() };
        while !self.server.settings.accepted.is_empty() {
            let passfile = self.place.passfile();
            let text = conf::postgresql_conf(config, &self.facts(minima, &passfile));
            self.write_file("check.conf", &text)?;
            let file = self.place.configuration().join("check.conf");
            let Err(said) = tools::check_configuration(&self.place, &self.reaper, &file).await else { break };
            let mut bad = refused(&said, &self.server.settings.accepted);
            if bad.is_empty() {
                let last = said.lines().last().unwrap_or_default().to_owned();
                bad = self.server.settings.accepted.keys().map(|name| (name.clone(), last.clone())).collect();
            }
            for (name, why) in bad {
                tracing::warn!(setting = %name, reason = %why, "PostgreSQL refuses a setting; running without it");
                self.server.settings.accepted.remove(&name);
                self.server.settings.errors.push(format!("{name}: {why}"));
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

    /// ALTER SYSTEM would override our file; a copy of a leader's directory contains the leader's.
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

    /// Renders and reloads; done when a session that was started afterwards shows the new generation.
    pub async fn apply(&mut self, config: Config) -> Done {
        let postmaster = self.server.postmaster.as_ref().ok_or("the server does not run")?;
        let standby = self.server.run.poll.as_ref().is_none_or(|poll| poll.recovery);
        // A primary has no minimum values: those that it had as a standby wait for a restart.
        let minima = if standby { postmaster.minima.clone() } else { BTreeMap::new() };
        let pid = postmaster.pid;
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
        self.configure(&config, &minima).await?;
        kill(pid, Signal::SIGHUP).map_err(words)?;
        self.reloaded().await?;
        // An earlier poll says nothing about the time after the reload. The new poll also compares the settings.
        self.server.run.applied = Some(config);
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

    /// After failed starts the user's settings are suspects: those in the last error message, else all.
    pub fn blame_settings(&mut self) {
        let said = self.server.run.fatal.clone().unwrap_or_else(|| "the server did not start with it".to_owned());
        let named: Vec<String> =
            self.server.settings.accepted.keys().filter(|name| said.contains(name.as_str())).cloned().collect();
        let blamed = if named.is_empty() { self.server.settings.accepted.keys().cloned().collect() } else { named };
        for name in blamed {
            tracing::warn!(setting = %name, reason = %said, "starting without a setting");
            self.server.settings.accepted.remove(&name);
            self.server.settings.errors.push(format!("{name}: {said}"));
        }
    }
}

/// The user's settings that PostgreSQL names in its refusal, with its message.
fn refused(said: &str, settings: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let named = |name: &String| {
        let line = said.lines().find(|line| line.contains(&format!("\"{name}\"")))?;
        let words = ["LOG:", "FATAL:", "ERROR:"].iter().find_map(|level| Some(line.split_once(level)?.1.trim()));
        // The message names a file of the supervisor, which means nothing to the user.
        let words = words.unwrap_or(line).split(" in file \"").next().unwrap_or_default();
        Some((name.clone(), words.to_owned()))
    };
    settings.keys().filter_map(named).collect()
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
}
