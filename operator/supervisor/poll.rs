//! Polls before each decision: the server, its pid file, its control file, the clock.

use tokio_util::task::AbortOnDropHandle;

use super::clock::boottime;
use super::conf;
use super::identify;
use super::jobs::chain;
use super::place::Place;
use super::process;
use super::shell::{Note, Postmaster, Reply, Shell, Stop};
use super::snapshot::{self, live_timeline};
use super::sql::{self, Poll, Session};
use super::state::{Durable, Gate};
use super::tools;
use super::wire::{CONFIRMATION_MS, Data, Task};
use crate::api::lsn::Fork;
use crate::archive::history::History;

/// Interval between polls of a steady server, in milliseconds.
const STEADY_MS: u64 = 500;
/// Interval between polls while a change is expected, and the length of that time, in milliseconds.
const HURRIED_MS: u64 = 3;
pub const HURRY_MS: u64 = 200;
/// Interval between polls of a server that starts, and of one that does not answer, in milliseconds.
const STARTING_MS: u64 = 3;
const NOT_ANSWERING_MS: u64 = 200;
/// Interval between the heartbeats of a leader, each a little WAL, in milliseconds.
pub const HEARTBEAT_MS: u64 = 1_000;
/// Interval between readings of settings and versions, in milliseconds.
const DETAILS_MS: u64 = 10_000;
/// A pause of the loop longer than this (twice its longest own pause), in milliseconds, means that the container was
/// frozen; another instance may lead by now.
const STOOD_STILL_MS: u64 = 3_000;
/// Time after which a fast stop becomes immediate, and an immediate one a kill, in milliseconds.
const FAST_MS: u64 = 5_000;
const IMMEDIATE_MS: u64 = 2_000;

impl Shell {
    /// Updates the shell's memory of the server. Errors become problems in the report.
    pub async fn observe(&mut self, now: u64) {
        if self.notice_jump(now, true) {
            // The gate stays open until a decision is made, so the decision must not wait for the server's answer.
            return;
        }
        self.press_stop(now);
        let steady = self.serves_steadily(now);
        match &mut self.server.postmaster {
            Some(postmaster) if postmaster.stopping.is_some() => {}
            Some(postmaster) if !postmaster.ready => {
                postmaster.ready = is_ready(&self.place, postmaster);
                self.clocks.poll_at = if postmaster.ready { now } else { now + STARTING_MS };
                if postmaster.ready {
                    self.poll(now).await;
                }
            }
            Some(_) if now < self.clocks.poll_at => {}
            Some(_) if steady => self.poll_beside(now),
            Some(_) => self.poll(now).await,
            None if !self.server.down.read => self.read_control_file().await,
            None => {}
        }
        self.heartbeat_or_details(now).await;
    }

    /// I8: after a pause of the container or the machine no older confirmation counts. `slept`: the loop had nothing to
    /// do meanwhile, so a slow disk is not the cause. Returns whether there was such a pause.
    pub fn notice_jump(&mut self, now: u64, slept: bool) -> bool {
        let gap = now.saturating_sub(self.clocks.turned);
        self.clocks.turned = now;
        if gap < if slept { STOOD_STILL_MS } else { CONFIRMATION_MS / 2 } {
            return false;
        }
        tracing::warn!(gap_ms = gap, slept, "the clock jumped: this container stood still; confirmations begin anew");
        self.operator.renewed = None;
        self.clocks.jumped = true;
        self.server.run.confirmed_at = None;
        self.server.run.proving.interrupted();
        self.server.run.polling = None;
        for reply in self.server.run.replies.values_mut() {
            reply.seen = None;
        }
        self.clocks.poll_at = 0;
        true
    }

    /// Escalates a stop that takes too long.
    fn press_stop(&mut self, now: u64) {
        let Some(postmaster) = &mut self.server.postmaster else { return };
        let Some(stopping) = postmaster.stopping else { return };
        let (limit, harder) = match stopping.how {
            Stop::Fast => (FAST_MS, Stop::Immediate),
            Stop::Immediate | Stop::Kill => (IMMEDIATE_MS, Stop::Kill),
        };
        if now.saturating_sub(stopping.since) >= limit {
            tracing::warn!(how = ?stopping.how, "the stop takes too long, escalating");
            self.signal_stop(harder, now);
        }
    }

    /// Whether clients are served and no change is under way: then the loop does not wait for the answer to a poll, so
    /// that a server that hangs is told in time.
    fn serves_steadily(&self, now: u64) -> bool {
        let run = &self.server.run;
        now >= self.clocks.hurry_until
            && self.clocks.quick_polls == 0
            && run.poll.as_ref().is_some_and(|poll| !poll.recovery)
            && run.applied.as_ref().is_some_and(|applied| applied.gate == Gate::Open)
    }

    /// Polls in the background; its end is a [`Note::Polled`].
    fn poll_beside(&mut self, now: u64) {
        self.clocks.poll_at = now + STEADY_MS;
        let run = &mut self.server.run;
        let Some(postmaster) = self.server.postmaster.as_mut().filter(|_| run.polling.is_none()) else { return };
        run.polls += 1;
        run.own_asked = run.proving.own();
        let (session, notes, id) = (postmaster.session.take(), self.notes.clone(), (run.id.clone(), run.polls));
        let asked = async move {
            let mut session = match session {
                Some(session) => session,
                None => Session::open().await?,
            };
            let poll = session.poll().await?;
            Ok::<_, sql::Error>((session, poll))
        };
        let task = tokio::spawn(async move {
            let result = asked.await.map_err(|error| chain(&error));
            // The loop exists as long as the process.
            let _ = notes.send(Note::Polled { of: id, asked_at: now, result }).await;
        });
        run.polling = Some(AbortOnDropHandle::new(task));
    }

    /// A poll in the background ended. Whatever was asked before a later poll, or before a pause of the container, counts
    /// no more.
    pub fn polled_beside(&mut self, number: u64, asked_at: u64, result: Result<(Session, Poll), String>) {
        if self.server.run.polling.is_none() || number != self.server.run.polls {
            return;
        }
        self.server.run.polling = None;
        let result = result.map(|(session, poll)| {
            if let Some(postmaster) = self.server.postmaster.as_mut().filter(|one| one.stopping.is_none()) {
                postmaster.session = Some(session);
            }
            // A reply is as old as the question, however long the answer has waited.
            self.take_poll(poll, asked_at);
        });
        self.poll_ended(result, asked_at);
    }

    /// Polls the server; a failed poll keeps the last result, whose confirmations age.
    pub async fn poll(&mut self, now: u64) {
        self.server.run.polling = None;
        self.server.run.own_asked = self.server.run.proving.own();
        let result = self.try_poll().await;
        self.poll_ended(result, now);
    }

    fn poll_ended(&mut self, result: Result<(), String>, now: u64) {
        self.clocks.poll_at = now + if now < self.clocks.hurry_until { HURRIED_MS } else { STEADY_MS };
        self.clocks.jumped = false;
        match result {
            Ok(()) => self.problems.poll = None,
            Err(words) => {
                self.clocks.poll_at = now + NOT_ANSWERING_MS;
                if let Some(postmaster) = &mut self.server.postmaster {
                    postmaster.session = None;
                }
                if self.problems.poll.as_ref() != Some(&words) {
                    tracing::debug!(problem = %words, "the server does not answer a poll");
                }
                self.problems.poll = Some(words);
            }
        }
    }

    async fn try_poll(&mut self) -> Result<(), String> {
        let begun = boottime();
        let result = self.ask().await;
        tracing::trace!(took_ms = (boottime() - begun).as_secs_f64() * 1e3, ok = result.is_ok(), "poll");
        result
    }

    async fn ask(&mut self) -> Result<(), String> {
        let Some(postmaster) = &mut self.server.postmaster else { return Ok(()) };
        let session = match &mut postmaster.session {
            Some(session) => session,
            none => none.insert(Session::open().await.map_err(|error| chain(&error))?),
        };
        let poll = session.poll().await.map_err(|error| chain(&error))?;
        self.identify(&poll).await?;
        self.take_poll(poll, super::clock::boottime_ms());
        Ok(())
    }

    /// Without a receiver only a replication session shows the timeline of a standby.
    async fn identify(&mut self, poll: &Poll) -> Result<(), String> {
        let streams = poll.stream.as_ref().is_some_and(|stream| stream.timeline > 0);
        let known = self.server.run.identified.is_some_and(|(at, _)| at == poll.lsn);
        if !poll.recovery || streams || known {
            return Ok(());
        }
        let socket = sql::socket();
        let asked = identify::replayed_timeline(&socket, sql::ROLE);
        let limit = std::time::Duration::from_secs(1);
        let answer = tokio::time::timeout(limit, asked).await.map_err(|_| "asking for the timeline took too long")?;
        let timeline = answer.map_err(|error| format!("asking for the timeline: {error}"))?;
        self.server.run.identified = Some((poll.lsn, timeline));
        Ok(())
    }

    fn take_poll(&mut self, poll: Poll, now: u64) {
        self.take_replies(&poll, now);
        if poll.lsn != self.server.run.moved.0 {
            self.server.run.moved = (poll.lsn, now);
        }
        if let Some(live) = poll.segment.as_deref().and_then(live_timeline)
            && self.server.run.history.0 != live
        {
            self.server.run.history = (live, history(&self.place, live));
        }
        let first = self.server.run.poll.is_none();
        if first {
            self.server.run.applied = self.server.run.started.clone();
            self.clocks.details_at = 0;
            self.server.failed_starts = 0;
            self.problems.ended = None;
            if poll.recovery && self.durable.rewound.is_some() {
                // It answers, so it is consistent: from now on it is a normal standby.
                let consistent = Durable { rewound: None, ..self.durable.clone() };
                if let Err(error) = self.save(consistent) {
                    self.problems.act = Some(chain(&error));
                }
            }
        }
        self.notice_override(&poll);
        self.server.run.own = self.server.run.own_asked;
        self.server.run.poll = Some(poll);
    }

    /// An ALTER SYSTEM may override the applied configuration: then nothing counts as applied.
    fn notice_override(&mut self, poll: &Poll) {
        let Some(applied) = &self.server.run.applied else { return };
        let names = conf::standby_names(&applied.commit);
        let conninfo = applied.upstream.as_ref().map_or(String::new(), |upstream| self.conninfo(upstream));
        let generation = Some(self.server.generation.to_string());
        if poll.names == names && poll.conninfo == conninfo && poll.generation == generation {
            return;
        }
        tracing::warn!(names = %poll.names, "the server runs with another configuration than ours; applying ours again");
        self.problems.overridden =
            Some("settings that Evenkeel sets were changed by hand (ALTER SYSTEM); they are set back".to_owned());
        self.server.run.applied = None;
        self.server.run.barrier_lsn = None;
    }

    /// Records when each walsender's standby last replied, by our clock. A row that appears between two polls has just
    /// replied, unless the clock jumped meanwhile.
    fn take_replies(&mut self, poll: &Poll, now: u64) {
        let old = std::mem::take(&mut self.server.run.replies);
        for walsender in &poll.replicas {
            let seen = match old.get(&walsender.pid) {
                Some(last) if last.reply == walsender.reply => last.seen,
                None if self.clocks.jumped => None,
                _ => walsender.reply.as_ref().map(|_| now),
            };
            self.server.run.replies.insert(walsender.pid, Reply { reply: walsender.reply.clone(), seen });
        }
    }

    /// Writes the heartbeat of a leader, or reads the details that change rarely. A failure of either is only logged.
    async fn heartbeat_or_details(&mut self, now: u64) {
        let leads = self.durable.order.as_ref().is_some_and(|order| matches!(order.task, Task::Lead(_)));
        let primary = self.server.run.poll.as_ref().is_some_and(|poll| !poll.recovery);
        let may_wait = self.server.run.proving.may_wait(now);
        let Some(postmaster) = &mut self.server.postmaster else { return };
        if postmaster.stopping.is_some() || self.server.run.poll.is_none() || !may_wait {
            return;
        }
        let Some(session) = &mut postmaster.session else { return };
        let mut result = Ok(());
        if leads && primary && now >= self.clocks.heartbeat_at {
            self.clocks.heartbeat_at = now + HEARTBEAT_MS;
            result = session.heartbeat().await;
        } else if now >= self.clocks.details_at && self.clocks.quick_polls == 0 {
            self.clocks.details_at = now + DETAILS_MS;
            result = session.details().await.map(|details| self.server.details = details);
            self.server.run.details_read = result.is_ok();
            self.reread_minima().await;
        }
        if let Err(error) = result {
            tracing::debug!(problem = %chain(&error), "the session broke");
            if let Some(postmaster) = &mut self.server.postmaster {
                postmaster.session = None;
            }
        }
    }

    /// A standby with raised minimum values is rendered again when the primary has lowered its own.
    async fn reread_minima(&mut self) {
        let recovery = self.server.run.poll.as_ref().is_some_and(|poll| poll.recovery);
        let settings = self.server.judged.as_ref().map(|judged| &judged.accepted);
        let (Some(postmaster), Some(settings)) = (&mut self.server.postmaster, settings) else { return };
        if !recovery || !conf::held_up(settings, &postmaster.minima) {
            return;
        }
        if let Ok(control) = tools::control(&self.place, &self.reaper).await
            && control.minima != postmaster.minima
        {
            postmaster.minima = control.minima;
            self.server.run.applied = None;
        }
    }

    /// For a server that is down: reads whether it ended cleanly, and where its WAL ends.
    async fn read_control_file(&mut self) {
        self.server.down.read = true;
        if snapshot::data(&self.place, false) == Data::None {
            return;
        }
        match tools::control(&self.place, &self.reaper).await {
            Ok(control) => {
                self.server.down.clean = tools::clean_end(&self.place, &self.reaper, &control).await;
                self.server.details.system_identifier.clone_from(&control.system_identifier);
                self.server.down.control = Some(control);
            }
            Err(error) => self.problems.act = Some(chain(&error)),
        }
    }
}

/// Whether the postmaster reports in its pid file that it is ready: line 1 is its pid, line 8 its state.
fn is_ready(place: &Place, postmaster: &Postmaster) -> bool {
    let text = place.theirs().text(&place.pgdata().join("postmaster.pid"));
    let mut lines = text.lines().map(str::trim);
    let pid = lines.next().and_then(|line| line.parse::<i32>().ok());
    pid == Some(postmaster.pid.as_raw()) && lines.nth(6) == Some("ready")
}

/// The history of a timeline: the earlier ones and where each ended. None if the file is not PostgreSQL's.
fn history(place: &Place, timeline: u32) -> Vec<Fork> {
    let text = place.theirs().text(&place.pgdata().join(format!("pg_wal/{timeline:08X}.history")));
    let history = History::parse(timeline, &text).unwrap_or_default();
    history.ancestors.into_iter().map(|(timeline, ended_at)| Fork { timeline, ended_at }).collect()
}

/// Kills every process of the server's user: the postmaster they belonged to is gone.
pub async fn sweep(shell: &Shell) -> bool {
    process::none_left_of(shell.place.uid, &shell.reaper).await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio::sync::{mpsc, watch};

    /// Regression 19: a primary that woke up from a pause first polled its server, which once took half a second;
    /// clients read old rows meanwhile. Now it decides before it polls.
    #[tokio::test]
    async fn who_wakes_up_decides_before_anything_is_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let place = super::super::place::Place::at(folder.path());
        let lock = super::super::durable::lock(folder.path()).unwrap();
        let ways = (watch::channel("".into()).0, mpsc::channel(1).0);
        let mut shell = Shell::new((place, lock), Default::default(), "db-1".into(), Default::default(), ways);
        shell.operator.renewed = Some((1, 0));
        let now = shell.clocks.turned + CONFIRMATION_MS;
        shell.observe(now).await;
        assert_eq!((shell.operator.renewed, shell.server.down.read), (None, false));
        shell.observe(now).await;
        assert!(shell.server.down.read);
    }
}
