//! Plans a Backup: whose turn it is, which member is read, and what its report means. Pure.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{BackupKind, LinkSeen, Observed, Other, Step, failure};
use crate::api::backup::{Backup, BaseBackupPhase, BaseBackupStatus};
use crate::api::conditions::{self, no, yes};
use crate::api::object::Object as _;
use crate::api::postgres_backup::{BackupSpec, BackupTarget, rate_bytes};
use crate::api::postgres_cluster::{Decisions, InstanceRole, InstanceState, PostgresCluster, Stage};
use crate::api::quantity::shown;
use crate::kinds::waits::waited;
use crate::runtime::{Plan, Planned, Want};
use crate::supervisor::wire::{BackupOrder, BackupPhase, BackupState};

/// The condition of a Backup.
pub const COMPLETED: &str = "Completed";
/// Attempts before a Backup fails.
const ATTEMPTS: u32 = 3;
/// A member that has not answered for this long, or is not there for this long, is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// An attempt without progress for this long is given up: nothing more is read or stored, or its WAL does not come. That is a
/// little more than the supervisor waits for its WAL, whose own error says more.
const PATIENCE: Duration = Duration::from_secs(630);
/// Time from the first failed attempt to the next one, and from every later one: a member may be lost, and a store away.
const RETRIES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// Supervisors answer within this time, so that a standby is not passed over because the primary answers faster.
const CALL: Duration = Duration::from_secs(5);
/// Poll intervals: while supervisors are called, while a backup runs, and while it cannot.
const POLLS: (Duration, Duration, Duration) =
    (Duration::from_millis(250), Duration::from_secs(2), Duration::from_secs(10));

/// Whether a Backup may run now, as far as the others of its cluster are concerned.
pub fn may_run(object: &Backup, others: &[Other]) -> bool {
    blocker(object, others).is_none()
}

/// The other Backup that this one waits for: the one that runs, or the oldest one that has not ended.
fn blocker<'a>(object: &Backup, others: &'a [Other]) -> Option<&'a Other> {
    if object.status.as_ref().is_some_and(|status| status.member.is_some()) {
        return None;
    }
    let own = (object.metadata.creation_timestamp.as_ref().map(|time| time.0), object.name());
    let before = |other: &&Other| other.runs || !other.paused && (other.created, other.name.as_str()) < own;
    others.iter().filter(|other| !other.ended).filter(before).min_by_key(|one| (!one.runs, one.created, &one.name))
}

/// Pure: what to record about the Backup, and what to tell the supervisors.
pub fn plan(object: &Backup, observed: &Observed, want: Want, now: Timestamp) -> Planned<BackupKind> {
    let before = object.status.clone().unwrap_or_default();
    if want == Want::Absent {
        return tear_down(object, observed, before);
    }
    if before.phase.is_terminal() {
        return Plan { status: before, steps: Vec::new(), requeue: None, finished: false };
    }
    let status = BaseBackupStatus { observed_generation: object.metadata.generation.unwrap_or_default(), ..before };
    let mut planner = Planner { object, observed, now, status, steps: Vec::new(), requeue: POLLS.2 };
    if want == Want::Paused {
        planner.say("Paused", "reconciliation is paused by annotation; a base backup that runs goes on");
    } else {
        if let Some(member) = planner.status.member.clone() {
            planner.follow(&member);
        }
        if planner.status.member.is_none() && !planner.status.phase.is_terminal() {
            planner.begin();
        }
    }
    planner.finish()
}

/// Cuts off what runs, for a Backup that is being deleted. What is in the archive stays there.
fn tear_down(object: &Backup, observed: &Observed, status: BaseBackupStatus) -> Planned<BackupKind> {
    let done = |status, steps| Plan { status, steps, requeue: None, finished: true };
    let Some(member) = status.member.clone().filter(|_| !status.phase.is_terminal()) else {
        return done(status, Vec::new());
    };
    let deleted = object.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    let Some(link) = observed.links.get(&member).filter(|link| link.live()) else {
        // A supervisor that never hears of this completes the backup: it is in the archive then, and retention counts it.
        let finished = deleted.is_some_and(|deleted| waited(&observed.waited, deleted) >= SILENCE);
        return Plan { status, steps: Vec::new(), requeue: Some(POLLS.1), finished };
    };
    let id = status.backup_id.clone().unwrap_or_default();
    let cut_off = vec![Step::CutOff { member, id }];
    match ours(link, &status) {
        Some(state) if is_running(state) => Plan { status, steps: cut_off, requeue: Some(POLLS.0), finished: false },
        // It may just have been told.
        None if status.boot.is_none() && !link.report.backup.as_ref().is_some_and(is_running) => done(status, cut_off),
        _ => done(status, Vec::new()),
    }
}

/// What the supervisor says about the current attempt.
fn ours<'a>(link: &'a LinkSeen, status: &BaseBackupStatus) -> Option<&'a BackupState> {
    let id = status.backup_id.as_deref()?;
    link.report.backup.as_ref().filter(|state| state.id == id && state.attempt == status.attempt)
}

fn is_running(state: &BackupState) -> bool {
    matches!(state.phase, BackupPhase::Running | BackupPhase::WaitingForWal)
}

fn decisions(cluster: Option<&PostgresCluster>) -> Option<&Decisions> {
    cluster?.status.as_ref()?.decisions.as_ref()
}

/// The member to read.
struct Chosen {
    name: String,
    of_primary: bool,
}

struct Planner<'a> {
    object: &'a Backup,
    observed: &'a Observed,
    now: Timestamp,
    status: BaseBackupStatus,
    steps: Vec<Step>,
    requeue: Duration,
}

impl Planner<'_> {
    fn say(&mut self, reason: &str, message: impl Into<String>) {
        (self.status.reason, self.status.message) = (reason.to_owned(), message.into());
    }

    fn finish(mut self) -> Planned<BackupKind> {
        let (reason, message) = (self.status.reason.clone(), self.status.message.clone());
        let verdict = match self.status.phase {
            BaseBackupPhase::Completed => yes(&reason, message),
            _ => no(&reason, message),
        };
        let generation = self.status.observed_generation;
        conditions::set(&mut self.status.conditions, COMPLETED, verdict, generation, self.now);
        let requeue = (!self.status.phase.is_terminal()).then_some(self.requeue);
        Plan { status: self.status, steps: self.steps, requeue, finished: false }
    }

    /// Time since the attempt last made progress, as this operator knows it.
    fn still(&self) -> Duration {
        self.status.progressed_at.map(|since| waited(&self.observed.waited, since)).unwrap_or_default()
    }

    /// Follows the attempt on this member.
    fn follow(&mut self, member: &str) {
        self.requeue = POLLS.1;
        let Some(link) = self.observed.links.get(member) else {
            match self.still() >= SILENCE {
                true => self.fail(member, "its container is gone"),
                false => self.say("MemberSilent", format!("the supervisor of {member} has not answered yet")),
            }
            return;
        };
        if Duration::from_millis(link.silent_ms) >= SILENCE {
            return self.fail(member, "its supervisor has not answered for 30 s");
        }
        if !link.live() {
            return self.say("MemberSilent", format!("the supervisor of {member} does not answer"));
        }
        match ours(link, &self.status) {
            Some(state) => match state.phase {
                BackupPhase::Completed => self.complete(member, state),
                BackupPhase::Failed => {
                    let error = state.error.as_deref().unwrap_or("its supervisor gives no reason");
                    self.fail(member, error);
                }
                BackupPhase::Running | BackupPhase::WaitingForWal => self.progress(member, link, state),
            },
            None => match (&self.status.boot, self.moved(member)) {
                (Some(boot), _) if *boot != link.report.boot => self.fail(member, "its supervisor was started again"),
                (Some(_), _) => self.fail(member, "its supervisor does not take it any more"),
                (None, Some(why)) => self.fail(member, why),
                (None, None) if self.still() >= SILENCE => {
                    self.fail(member, "its supervisor did not begin within 30 s")
                }
                (None, None) => self.start(member),
            },
        }
    }

    /// Why the member is not what it was chosen for.
    fn moved(&self, member: &str) -> Option<&'static str> {
        let decisions = decisions(self.observed.cluster.as_ref())?;
        match (self.status.of_primary, decisions.is_leader(member)) {
            _ if !decisions.members.iter().any(|one| one.name == member) => {
                Some("it is no member of the cluster any more")
            }
            (true, false) => Some("it is not the primary any more"),
            (false, true) => Some("it became the primary"),
            _ => None,
        }
    }

    fn progress(&mut self, member: &str, link: &LinkSeen, state: &BackupState) {
        let before = (self.status.phase, self.status.bytes, self.status.stored_bytes);
        self.note(state);
        self.status.boot = Some(link.report.boot.clone());
        self.status.phase = match state.phase {
            BackupPhase::WaitingForWal => BaseBackupPhase::WaitingForWal,
            _ => BaseBackupPhase::Running,
        };
        let waits = self.status.phase == BaseBackupPhase::WaitingForWal;
        if before != (self.status.phase, self.status.bytes, self.status.stored_bytes) {
            self.status.progressed_at = Some(self.now);
        } else if self.still() >= PATIENCE {
            return self.fail(
                member,
                match waits {
                    true => "the WAL that it needs did not come into the archive within 10 min",
                    false => "nothing more was read or stored for 10 min",
                },
            );
        }
        if let Some(why) = self.moved(member) {
            return self.fail(member, why);
        }
        if waits {
            self.status.progress = Some("100%".into());
            self.say("WaitingForWal", format!("the data of {member} is stored; the WAL that it needs is not yet"));
            self.switch_wal(state);
            return;
        }
        let percent = (u128::from(state.bytes) * 100).checked_div(u128::from(state.total)).unwrap_or_default().min(99);
        self.status.progress = Some(format!("{percent}%"));
        let passed = self.status.started_at.map(|started| self.now.duration_since(started).as_secs());
        self.status.rate = rate(state.bytes, passed);
        let at = self.status.rate.as_ref().map(|rate| format!(", {rate}")).unwrap_or_default();
        let of = if state.total > 0 { format!(": {percent}% of {}", shown(state.total)) } else { String::new() };
        self.say("Running", format!("reading {member}{of}{at}"));
    }

    /// What is known of the attempt, as its supervisor says.
    fn note(&mut self, state: &BackupState) {
        let status = &mut self.status;
        status.started_at = Timestamp::from_second(state.started_at).ok();
        (status.bytes, status.stored_bytes) = (Some(state.bytes), Some(state.stored));
        if let Some(span) = &state.span {
            (status.begin_wal, status.end_wal) = (Some(span.begin_wal.clone()), Some(span.end_wal.clone()));
            (status.begin_lsn, status.end_lsn) = (Some(span.begin), Some(span.end));
            status.timeline = Some(span.timeline);
        }
    }

    /// Only the primary can end a WAL segment. It is told until the backup is complete; a second time it does nothing.
    fn switch_wal(&mut self, state: &BackupState) {
        let leader = decisions(self.observed.cluster.as_ref()).and_then(Decisions::leader_name);
        let link = leader.and_then(|leader| self.observed.links.get(leader)).filter(|link| link.live());
        if let (Some(leader), Some(link), Some(span)) = (leader, link, &state.span)
            && link.report.archives
        {
            self.steps.push(Step::SwitchWal { member: leader.to_owned(), past: span.end });
        }
    }

    fn complete(&mut self, member: &str, state: &BackupState) {
        self.note(state);
        let status = &mut self.status;
        status.phase = BaseBackupPhase::Completed;
        status.stopped_at = state.stopped_at.and_then(|at| Timestamp::from_second(at).ok()).or(Some(self.now));
        status.progress = Some("100%".into());
        let took = state.stopped_at.map(|stopped| stopped.saturating_sub(state.started_at));
        status.rate = rate(state.bytes, took);
        let took = took.filter(|took| *took > 0).map(|took| format!(" in {took} s")).unwrap_or_default();
        let (bytes, stored) = (shown(state.bytes), shown(state.stored));
        let message = format!("base backup {} of {member} is complete: {bytes}, stored as {stored}{took}", state.id);
        self.say("Completed", message.clone());
        self.steps.push(Step::Tell { completed: true, message });
    }

    /// The attempt failed: the next one follows, unless this was the last one.
    fn fail(&mut self, member: &str, why: &str) {
        let link = self.observed.links.get(member).filter(|link| link.live());
        if link.and_then(|link| ours(link, &self.status)).is_some_and(is_running) {
            let id = self.status.backup_id.clone().unwrap_or_default();
            self.steps.push(Step::CutOff { member: member.to_owned(), id });
        }
        let attempt = self.status.attempt;
        let status = &mut self.status;
        (status.member, status.boot, status.term, status.of_primary) = (None, None, None, false);
        (status.started_at, status.bytes, status.stored_bytes) = (None, None, None);
        (status.progress, status.rate, status.timeline) = (None, None, None);
        (status.begin_wal, status.end_wal, status.begin_lsn, status.end_lsn) = (None, None, None, None);
        (status.phase, status.progressed_at) = (BaseBackupPhase::Pending, Some(self.now));
        status.last_failure = Some(failure(member, why));
        if attempt < ATTEMPTS {
            return self.say("Retrying", format!("attempt {attempt} of {ATTEMPTS} on {member} failed: {why}"));
        }
        (self.status.phase, self.status.stopped_at) = (BaseBackupPhase::Failed, Some(self.now));
        let message = format!("{ATTEMPTS} attempts failed, the last one on {member}: {why}");
        self.say("AttemptsFailed", message.clone());
        self.steps.push(Step::Tell { completed: false, message });
    }

    /// Decides the next attempt, or says what it waits for.
    fn begin(&mut self) {
        let cluster = self.observed.cluster.as_ref().filter(|cluster| cluster.metadata.deletion_timestamp.is_none());
        let name = &self.object.spec.cluster.name;
        let Some(cluster) = cluster else {
            return self.say("ClusterNotFound", format!("PostgresCluster {name} does not exist in this namespace"));
        };
        let Some(backup) = &cluster.spec.backup else {
            return self
                .say("NoBackupStore", format!("PostgresCluster {name} has no spec.backup: say where backups go"));
        };
        let decided = decisions(Some(cluster)).filter(|decisions| decisions.archive.is_some());
        let Some(decisions) = decided else {
            return self.say("ArchiveNotReady", format!("PostgresCluster {name} has no archive in its store yet"));
        };
        if let Some(other) = blocker(self.object, &self.observed.others) {
            let what = if other.runs { "runs" } else { "comes first" };
            return self.say("AnotherBackupRuns", format!("Backup {} of this cluster {what}", other.name));
        }
        let since = *self.status.progressed_at.get_or_insert(self.now);
        let known = waited(&self.observed.waited, since);
        let pause = match self.status.attempt {
            0 => Duration::ZERO,
            1 => RETRIES.0,
            _ => RETRIES.1,
        };
        if known < pause {
            self.requeue = pause.saturating_sub(known).min(POLLS.2);
            return;
        }
        match self.choose(cluster, decisions, backup, known < CALL) {
            Ok(chosen) => self.decide(chosen, decisions.term),
            Err((reason, message)) => self.say(reason, message),
        }
    }

    /// The member to read: a streaming standby with the least lag, or the primary; another one than that of the attempt before
    /// if there is one. `calling`: those that have not answered yet are waited for.
    fn choose(
        &mut self,
        cluster: &PostgresCluster,
        decisions: &Decisions,
        backup: &BackupSpec,
        calling: bool,
    ) -> Result<Chosen, (&'static str, String)> {
        let instances = cluster.status.iter().flat_map(|status| &status.instances);
        let mut standbys: Vec<_> = instances
            .filter(|one| one.role == InstanceRole::Standby && one.state == InstanceState::Streaming)
            .filter(|one| !decisions.is_leader(&one.name))
            .map(|one| (one.lag_mib.unwrap_or_default(), one.name.as_str()))
            .collect();
        standbys.sort_unstable();
        let standbys = standbys.into_iter().map(|(_, name)| name);
        let standbys = standbys.filter(|_| self.object.spec.target.unwrap_or(backup.target) != BackupTarget::Primary);
        let leader = decisions.leader_name().filter(|_| decisions.stage == Stage::Steady);
        let wanted: Vec<&str> = standbys.chain(leader).collect();
        if calling && wanted.iter().any(|name| !self.observed.links.contains_key(*name)) {
            self.requeue = POLLS.0;
            return Err(("CallingMembers", "the supervisors of the cluster have not all answered yet".into()));
        }
        let unfit: Vec<_> = wanted.iter().filter_map(|name| self.unfit(name)).collect();
        let fit: Vec<&str> = wanted.into_iter().filter(|name| self.unfit(name).is_none()).collect();
        let last = self.status.last_failure.as_ref().map(|failure| failure.member.as_str());
        let other = fit.iter().find(|name| Some(**name) != last);
        let Some(name) = other.or(fit.first()) else {
            let why = if unfit.is_empty() { "the cluster has no primary now".to_owned() } else { unfit.join("; ") };
            return Err(("NoMember", format!("no instance can be read: {why}")));
        };
        Ok(Chosen { name: (*name).to_owned(), of_primary: decisions.is_leader(name) })
    }

    /// Why a member cannot take a base backup.
    fn unfit(&self, name: &str) -> Option<String> {
        let link = self.observed.links.get(name).filter(|link| link.live());
        let Some(link) = link else { return Some(format!("the supervisor of {name} does not answer")) };
        match (link.report.archives, &link.report.archives_held) {
            (false, _) => Some(format!("the supervisor of {name} is of a version without backups")),
            (true, None) => Some(format!("{name} does not know the store yet")),
            (true, Some(_)) => None,
        }
    }

    fn decide(&mut self, chosen: Chosen, term: u64) {
        let Chosen { name, of_primary } = chosen;
        self.status.attempt += 1;
        self.status.backup_id = Some(self.new_id());
        self.status.member = Some(name.clone());
        (self.status.term, self.status.of_primary) = (Some(term), of_primary);
        self.status.progressed_at = Some(self.now);
        self.requeue = POLLS.1;
        self.start(&name);
    }

    /// Tells the member to begin. It is told until it reports the attempt; a second time it does nothing.
    fn start(&mut self, member: &str) {
        let cluster = self.observed.cluster.as_ref().and_then(|cluster| cluster.spec.backup.as_ref());
        let own = self.object.spec.max_rate.as_ref();
        let max_rate = rate_bytes(own.or(cluster.and_then(|backup| backup.max_rate.as_ref())));
        let id = self.status.backup_id.clone().unwrap_or_default();
        let order = BackupOrder { id, attempt: self.status.attempt, max_rate };
        self.say("Starting", format!("{member} is told to take a base backup"));
        self.steps.push(Step::Start { member: member.to_owned(), order });
    }

    /// The ID of a new attempt. Each has its own: what is left of an attempt before may still be written.
    fn new_id(&self) -> String {
        let taken = |id: &str| {
            let others = self.observed.others.iter().filter_map(|other| other.backup_id.as_deref());
            others.chain(self.status.backup_id.as_deref()).any(|other| other == id)
        };
        let id = |second: i64| {
            let at = Timestamp::from_second(second).unwrap_or(self.now);
            at.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%S").to_string()
        };
        let mut second = self.now.as_second();
        // Each of the others takes one at most, and the attempt before.
        for _ in 0..self.observed.others.len() + 2 {
            if !taken(&id(second)) {
                break;
            }
            second = second.saturating_add(1);
        }
        id(second)
    }
}

/// Bytes a second, for people.
fn rate(bytes: u64, seconds: Option<i64>) -> Option<String> {
    let seconds = u64::try_from(seconds?).ok().filter(|seconds| *seconds > 0)?;
    Some(format!("{}/s", shown(bytes / seconds)))
}
