//! What is known of a data member, for decisions and for the operator; no decisions.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::supervisor::beside::Beside;
use crate::supervisor::clock::boottime_ms;
use crate::supervisor::listen::listen_or;
use crate::supervisor::process::is_stopped;
use crate::supervisor::redis::conf;
use crate::supervisor::redis::next;
use crate::supervisor::redis::shell::{AT_START, LONGEST, MOVING_REPORT_MS, REPORT_MS, Shell, TEXTS, key};
use crate::supervisor::redis::state::{CUT_S, Pause, Seen};
use crate::supervisor::redis::wire::{
    ALONE_MS, Credentials, HUNG_MS, Link, Order, PORT, RedisSeen, Report, Role, Server, Task, significant,
};

impl Shell {
    pub fn role(&self) -> Option<Role> {
        let process = self.process.as_ref()?;
        let began = if process.began_with.is_some() { Role::Replica } else { Role::Master };
        process.info.as_ref().filter(|_| process.ready).map_or(Some(began), |info| info.role)
    }

    /// The state of the server.
    pub fn server(&self) -> Server {
        let Some(process) = &self.process else { return Server::Stopped };
        let silent = boottime_ms().saturating_sub(process.answered_at) >= HUNG_MS;
        let loading = process.info.as_ref().is_some_and(|info| info.loading);
        match (process.stopping, process.ready, loading) {
            (Some(_), _, _) => Server::Stopping,
            (_, _, true) if !silent => Server::Loading,
            (_, false, false) => Server::Starting,
            _ if silent => Server::Hung,
            _ => Server::Running,
        }
    }

    /// Whether there are the passwords, and with TLS the certificates.
    pub fn has_credentials(&self) -> bool {
        let tls = self.durable.order.as_ref().is_some_and(|order| order.config.tls);
        self.credentials.as_ref().is_some_and(|credentials| !tls || credentials.tls.is_some())
    }

    pub fn seen(&self) -> Seen {
        let now = boottime_ms();
        let process = self.process.as_ref();
        let info = process.and_then(|process| process.info.as_ref());
        let link = info.and_then(|info| info.link.as_ref());
        Seen {
            durable: self.durable.clone(),
            run: self.run(),
            credentials: self.has_credentials(),
            server: self.server(),
            halted: process.is_some_and(|process| self.server() == Server::Hung && is_stopped(process.pid)),
            due: now >= self.clocks.due_at,
            terminating: self.terminating,
            restart: self.restart_asked,
            role: self.role(),
            follows: link.map(|link| link.master).or(process.and_then(|process| process.began_with)),
            cut: link.is_some_and(|link| !link.up && !link.syncing && link.down_s >= CUT_S),
            promoted: process.and_then(|process| process.promoted),
            settled: process.is_some_and(|process| process.settled == key(self.durable.order.as_ref())),
            tuned: self.tuned(),
            paused: process.and_then(|process| process.paused.clone()),
            lifted: self.lifted.clone(),
            alone: now.saturating_sub(self.heard_at) >= ALONE_MS,
            doubt: self.doubt,
            has_data: self.has_data,
            named: self.named,
            confirmed: process.and_then(|process| process.confirmed),
        }
    }

    /// The directives that the order wants, and those of Evenkeel.
    pub fn wanted(&self) -> BTreeMap<String, String> {
        let (Some(order), Some(credentials)) = (&self.durable.order, &self.credentials) else {
            return BTreeMap::new();
        };
        let mut wanted = order.config.directives.clone();
        wanted.extend(conf::ours(&order.config, credentials, &self.place.configuration()));
        wanted.insert("replica-priority".to_owned(), self.priority(order).to_string());
        let has = self.process.as_ref().is_some_and(|process| process.applied.contains_key(conf::TLS_PORT));
        wanted.extend(conf::ports(&order.config, has, listen_or(PORT).port));
        wanted
    }

    fn priority(&self, order: &Order) -> u32 {
        let process = self.process.as_ref();
        let leads = self.role().map_or(matches!(order.task, Task::Lead { .. }), |role| role == Role::Master);
        let keys = process.and_then(|process| process.info.as_ref()).map_or(0, |info| info.keys);
        let synced = process.is_some_and(|process| process.synced);
        next::priority(order.config.priority, leads, self.has_data || keys > 0, synced)
    }

    /// Why a new client cannot write, as the server says.
    fn not_writable(&self) -> Option<String> {
        let result = self.process.as_ref()?.proof.result.as_ref()?;
        result.as_ref().err().map(|words| format!("a new client cannot write: {words}"))
    }

    /// Whether a server that runs has taken over the certificates of this hash, and shows them.
    fn shows(&self, hash: &str) -> bool {
        let Some(process) = &self.process else { return true };
        let file = process.applied.get(conf::CERTIFICATE).is_some_and(|file| file.contains(&conf::prefix(hash)));
        file && process.applied.get(conf::TLS_PORT).is_some_and(|port| port != "0")
    }

    /// Directives that can be changed now, differ, and were not refused.
    pub fn differing(&self) -> Vec<(String, String)> {
        let Some(process) = &self.process else { return Vec::new() };
        let differs = |(name, value): &(String, String)| {
            let refused = process.refused.get(name).is_some_and(|(refused, _)| refused == value);
            process.applied.get(name) != Some(value) && !refused
        };
        self.wanted().into_iter().filter(differs).collect()
    }

    /// The passwords and the application's user that are wanted.
    pub fn login(&self) -> Option<(Credentials, String)> {
        Some((self.credentials.clone()?, self.durable.order.as_ref()?.config.username.clone()))
    }

    pub fn tuned(&self) -> bool {
        let login = self.process.as_ref().map(|process| &process.login);
        login.is_none() || login == self.login().as_ref() && self.differing().is_empty()
    }

    pub fn report(&self, seen: &Seen) -> Report {
        let problems = &self.problems;
        let process = self.process.as_ref();
        let info = process.and_then(|process| process.info.as_ref());
        let first = [&problems.refused, &problems.act, &problems.ended].into_iter().flatten().next();
        let waits = next::waits(seen).map(str::to_owned);
        let in_force = process.map(|process| &process.login.0).or(self.credentials.as_ref());
        Report {
            boot: self.boot.clone(),
            clock_ms: boottime_ms(),
            run: self.run(),
            server: self.server(),
            version: info.map(|info| info.version.clone()).filter(|version| !version.is_empty()),
            credentials: in_force.map(|credentials| credentials.hash.clone()),
            tls: in_force
                .and_then(|credentials| credentials.tls.as_ref())
                .map(|tls| tls.hash.clone())
                .filter(|hash| self.shows(hash)),
            redis: Some(self.redis(waits.clone())),
            disk_free: self.place.disk_free(),
            problem: first.cloned().or(waits).or_else(|| self.not_writable()),
            terminating: self.terminating,
            port_taken: self.problems.port_taken,
            archives: true,
            archives_held: self.archives.as_ref().map(|archives| archives.hash.clone()),
            backup: self.backup.as_ref().map(Beside::state),
            restore: self.restore.as_ref().map(Beside::state).or_else(|| self.restored.clone()),
            ..Report::default()
        }
    }

    pub fn redis(&self, waits: Option<String>) -> RedisSeen {
        let order = self.durable.order.clone();
        let last = self.kept.position.clone();
        let down = RedisSeen {
            order,
            has_data: self.has_data,
            keys: self.kept.keys.unwrap_or_default(),
            last: last.clone(),
            demoted: self.kept.demoted.clone(),
            ended_ms: self.ended_ms.filter(|_| self.process.is_none()),
            config_errors: self.problems.start.iter().cloned().collect(),
            config_pending: self.process.is_some(),
            alone: waits,
            ..RedisSeen::default()
        };
        let Some(process) = self.process.as_ref().filter(|process| process.ready) else { return down };
        let Some(info) = &process.info else { return down };
        let answers = self.server() == Server::Running;
        let wanted = self.wanted();
        // What is left of TLS has no effect without its port.
        let gone = |name: &&String| !wanted.contains_key(*name) && !name.starts_with("tls-");
        let removed = process.applied.keys().filter(gone);
        let refused = process.refused.iter().filter(|(name, (value, _))| wanted.get(*name) == Some(value));
        let (later, refused): (Vec<_>, Vec<_>) = refused.partition(|(_, (_, words))| words.contains(AT_START));
        let pending = removed.chain(later.into_iter().map(|(name, _)| name));
        let errors = refused.into_iter().map(|(name, (value, words))| format!("{name} {value}: {words}"));
        let errors = errors.chain(self.problems.start.clone());
        let paused = match &process.paused {
            Some(Pause::Switchover(id)) => Some(id.clone()),
            _ => None,
        };
        let link = info.link.clone().map(|link| Link { synced: process.synced, ..link });
        let proof = process.proof.result.as_ref().filter(|_| answers);
        RedisSeen {
            role: info.role.filter(|_| answers),
            promoted: process.promoted,
            promoted_offset: process.promoted_offset,
            promoted_replid: process.promoted_replid.clone(),
            has_data: info.keys > 0 || info.role == Some(Role::Replica) && !process.synced && self.has_data,
            keys: info.keys,
            replid: Some(info.replid.clone()),
            // A master goes on to ping its replicas, which may be out of reach.
            offset: if process.paused.is_some() { process.data_end } else { info.offset },
            link,
            replicas: info.replicas.clone(),
            priority: process.applied.get("replica-priority").and_then(|value| value.parse().ok()).unwrap_or_default(),
            paused,
            writable: proof.map(Result::is_ok),
            usage: info.usage.clone(),
            pending_restart: pending.take(TEXTS).cloned().collect(),
            config_errors: errors.take(TEXTS).map(|text| text.chars().take(LONGEST).collect()).collect(),
            config_pending: !self.tuned(),
            ..down
        }
    }

    pub fn publish(&mut self, seen: &Seen) {
        let (report, now) = (self.report(seen), boottime_ms());
        let offset = |report: &Report| report.redis.as_ref().map(|redis| redis.offset);
        let interval = match offset(&report) != offset(&self.reported) {
            // While something changes, a switchover may wait for this very offset.
            true if now < self.clocks.hurry_until => 0,
            true => MOVING_REPORT_MS,
            false => REPORT_MS,
        };
        let due = now.saturating_sub(self.clocks.reported) >= interval;
        if !due && significant(&report) == significant(&self.reported) {
            return;
        }
        match serde_json::to_string(&report) {
            // An error means that there is no reader.
            Ok(line) => drop(self.reports.send_replace(Arc::from(line + "\n"))),
            Err(error) => tracing::error!(%error, "a report cannot be written"),
        }
        (self.reported, self.clocks.reported) = (report, now);
    }
}
