//! Plans a Backup: whose turn it is, which member is read, and what its report means. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::source::{Cluster, Declared, Source, Words};
use super::{BackupKind, Observed, Step, failure, verify};
use crate::api::backup::{BackedUpKind, Backup, BackupMethod, BaseBackupPhase, BaseBackupStatus};
use crate::api::backup_id::backup_id;
use crate::api::conditions::{self, no, yes};
use crate::api::object::Object as _;
use crate::api::postgres_backup::{BackupTarget, rate_bytes};
use crate::api::quantity::shown;
use crate::kinds::attempts::{
    self, ATTEMPTS, Attempt, Ending, LinkSeen, Other, PATIENCE, POLLS, Standing, pause, percent, rate, took,
};
use crate::kinds::waits::waited;
use crate::runtime::{Plan, Planned, Want};
use crate::supervisor::wire::{BackupOrder, BackupPhase, BackupState};

/// The condition of a Backup.
pub const COMPLETED: &str = "Completed";
/// Supervisors answer within this time, so that a standby is not passed over because the primary answers faster.
const CALL: Duration = Duration::from_secs(5);

/// Whether a Backup may run now, as far as the others of its cluster are concerned.
pub fn may_run(object: &Backup, others: &[Other]) -> bool {
    blocker(object, others).is_none()
}

/// The other Backup that this one waits for.
fn blocker<'a>(object: &Backup, others: &'a [Other]) -> Option<&'a Other> {
    if object.status.as_ref().is_some_and(|status| status.member.is_some()) {
        return None;
    }
    let created = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
    attempts::blocker(created, object.name(), others)
}

/// Pure: what to record about the Backup, and what to tell the supervisors.
pub fn plan(object: &Backup, observed: &Observed, want: Want, now: Timestamp) -> Planned<BackupKind> {
    let before = object.status.clone().unwrap_or_default();
    if want == Want::Absent {
        return tear_down(object, observed, before);
    }
    if before.phase.is_terminal() {
        return verify::plan(object, observed, want, now);
    }
    let status = BaseBackupStatus { observed_generation: object.metadata.generation.unwrap_or_default(), ..before };
    let mut planner = Planner { object, observed, now, status, steps: Vec::new(), requeue: POLLS.2 };
    if want == Want::Paused {
        planner.say("Paused", "reconciliation is paused by annotation; a backup that runs goes on");
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
    let member = status.member.clone().filter(|_| !status.phase.is_terminal());
    let deleted = object.metadata.deletion_timestamp.as_ref().map(|time| waited(&observed.waited, time.0));
    let ending = member.as_ref().map(|member| {
        attempt(member, &status, Duration::ZERO, None).ending(&observed.links, deleted.unwrap_or_default())
    });
    let id = status.backup_id.clone().unwrap_or_default();
    let cut_off = |member: Option<String>| member.map(|member| Step::CutOff { member, id }).into_iter().collect();
    match ending {
        None | Some(Ending::Done) => Plan { status, steps: Vec::new(), requeue: None, finished: true },
        // One that is completed is in the archive, and retention counts it.
        Some(Ending::Waits) => Plan { status, steps: Vec::new(), requeue: Some(POLLS.1), finished: false },
        Some(Ending::CutOff { last }) => {
            Plan { status, steps: cut_off(member), requeue: (!last).then_some(POLLS.0), finished: last }
        }
    }
}

/// The attempt that the status records.
fn attempt<'a>(
    member: &'a str,
    status: &'a BaseBackupStatus,
    still: Duration,
    moved: Option<&'static str>,
) -> Attempt<'a> {
    Attempt {
        member,
        id: status.backup_id.as_deref().unwrap_or_default(),
        number: status.attempt,
        boot: status.boot.as_deref(),
        still,
        moved,
        of: |report| report.backup.as_ref(),
    }
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

impl<'a> Planner<'a> {
    fn source(&self) -> Option<Source<'a>> {
        let observed: &'a Observed = self.observed;
        observed.cluster.as_ref().map(Cluster::source)
    }

    fn words(&self) -> Words {
        Words::of(self.object.cluster().kind)
    }

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
        let ended = self.status.phase.is_terminal();
        // A restore test may be due.
        let requeue = if ended { POLLS.0 } else { self.requeue };
        let requeue = (!ended || self.object.test_is_open(&self.status)).then_some(requeue);
        Plan { status: self.status, steps: self.steps, requeue, finished: false }
    }

    /// Time since the attempt last made progress, as this operator knows it.
    fn still(&self) -> Duration {
        self.status.progressed_at.map(|since| waited(&self.observed.waited, since)).unwrap_or_default()
    }

    /// Follows the attempt on this member.
    fn follow(&mut self, member: &str) {
        self.requeue = POLLS.1;
        match attempt(member, &self.status, self.still(), self.moved(member)).standing(&self.observed.links) {
            Standing::Silent(why) => self.say("MemberSilent", why),
            Standing::Lost(why) => self.fail(member, &why, false),
            Standing::Due => self.start(member),
            Standing::Runs(state) => self.progress(member, state),
            Standing::Completed(state) => self.complete(member, state),
            Standing::Failed(state) => {
                let error = state.error.as_deref().unwrap_or("its supervisor gives no reason");
                self.fail(member, error, state.lasting);
            }
        }
    }

    /// Why the member is not what it was chosen for.
    fn moved(&self, member: &str) -> Option<&'static str> {
        let source = self.source().filter(|source| !source.members.is_empty())?;
        let is_redis = self.object.cluster().kind == BackedUpKind::RedisSentinel;
        match (self.status.of_primary, source.is_leader(member)) {
            _ if !source.members.contains(&member) => Some("it is no member of the cluster any more"),
            (true, false) if is_redis => Some("it is not the master any more"),
            (true, false) => Some("it is not the primary any more"),
            (false, true) if is_redis => Some("it became the master"),
            (false, true) => Some("it became the primary"),
            _ => None,
        }
    }

    fn progress(&mut self, member: &str, state: &BackupState) {
        let before = (self.status.phase, self.status.bytes, self.status.stored_bytes);
        self.note(state);
        self.status.boot = self.observed.links.get(member).map(|link| link.report.boot.clone());
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
                false,
            );
        }
        if let Some(why) = self.moved(member) {
            return self.fail(member, why, false);
        }
        if waits {
            self.status.progress = Some("100%".into());
            self.say("WaitingForWal", format!("the data of {member} is stored; the WAL that it needs is not yet"));
            self.switch_wal(state);
            return;
        }
        let percent = percent(state);
        self.status.progress = Some(format!("{percent}%"));
        let passed = self.status.started_at.map(|started| self.now.duration_since(started).as_secs());
        self.status.rate = rate(state.bytes, passed);
        let at = self.status.rate.as_ref().map(|rate| format!(", {rate}")).unwrap_or_default();
        let message = match (&self.object.spec.database, state.total) {
            (None, 0) => format!("reading {member}{at}"),
            (None, total) => format!("reading {member}: {percent}% of {}{at}", shown(total)),
            (Some(database), 0) => format!("dumping {database} of {member}{at}"),
            // How large the dump becomes is not known: the database has indexes, too.
            (Some(database), total) => {
                format!(
                    "dumping {database} of {member}: {} so far of a database of {}{at}",
                    shown(state.bytes),
                    shown(total)
                )
            }
        };
        self.say("Running", message);
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
        if let Some(of) = &state.snapshot {
            (status.snapshot_lsn, status.snapshot_time) = (Some(of.lsn), Timestamp::from_second(of.time).ok());
        }
        if let Some(rdb) = &state.rdb {
            status.snapshot_time = Timestamp::from_second(rdb.time).ok();
            (status.server_version, status.keys) = (Some(rdb.server.clone()), Some(rdb.keys));
            (status.replication_id, status.replication_offset) = (Some(rdb.replid.clone()), Some(rdb.offset));
        }
    }

    /// Only the primary can end a WAL segment. It is told until the backup is complete; a second time it does nothing.
    fn switch_wal(&mut self, state: &BackupState) {
        let leader = self.source().and_then(|source| source.leader);
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
        let took = took(state);
        status.rate = rate(state.bytes, took);
        let took = took.filter(|took| *took > 0).map(|took| format!(" in {took} s")).unwrap_or_default();
        let (bytes, stored) = (shown(state.bytes), shown(state.stored));
        let what = match (&self.object.spec.database, self.object.method()) {
            (Some(database), _) => format!("dump {} of {database}", state.id),
            (None, BackupMethod::Rdb) => format!("snapshot {}", state.id),
            (None, _) => format!("base backup {}", state.id),
        };
        let message = format!("{what} of {member} is complete: {bytes}, stored as {stored}{took}");
        self.say("Completed", message.clone());
        self.steps.push(Step::Tell { completed: true, message });
    }

    /// The attempt failed: the next one follows, unless this was the last one, or the failure is `lasting`.
    fn fail(&mut self, member: &str, why: &str, lasting: bool) {
        if attempt(member, &self.status, Duration::ZERO, None).runs(&self.observed.links) {
            let id = self.status.backup_id.clone().unwrap_or_default();
            self.steps.push(Step::CutOff { member: member.to_owned(), id });
        }
        let attempt = self.status.attempt;
        let status = &mut self.status;
        (status.member, status.boot, status.term, status.of_primary) = (None, None, None, false);
        (status.started_at, status.bytes, status.stored_bytes) = (None, None, None);
        (status.progress, status.rate, status.timeline) = (None, None, None);
        (status.begin_wal, status.end_wal, status.begin_lsn, status.end_lsn) = (None, None, None, None);
        (status.snapshot_lsn, status.snapshot_time) = (None, None);
        (status.server_version, status.replication_id) = (None, None);
        (status.replication_offset, status.keys) = (None, None);
        (status.phase, status.progressed_at) = (BaseBackupPhase::Pending, Some(self.now));
        status.last_failure = Some(failure(member, why));
        if attempt < ATTEMPTS && !lasting {
            return self.say("Retrying", format!("attempt {attempt} of {ATTEMPTS} on {member} failed: {why}"));
        }
        (self.status.phase, self.status.stopped_at) = (BaseBackupPhase::Failed, Some(self.now));
        let message = match lasting {
            true => format!("it failed on {member}, and would again: {why}"),
            false => format!("{ATTEMPTS} attempts failed, the last one on {member}: {why}"),
        };
        self.say("AttemptsFailed", message.clone());
        self.steps.push(Step::Tell { completed: false, message });
    }

    /// Decides the next attempt, or says what it waits for.
    fn begin(&mut self) {
        let (kind, name) = (self.words().kind, &self.object.cluster().name);
        let Some(source) = self.source().filter(|source| source.lives) else {
            return self.say("ClusterNotFound", format!("{kind} {name} does not exist in this namespace"));
        };
        let Some(declared) = &source.declared else {
            return self.say("NoBackupStore", format!("{kind} {name} has no spec.backup: say where backups go"));
        };
        if source.archive.is_none() {
            return self.say("ArchiveNotReady", format!("{kind} {name} has no archive in its store yet"));
        }
        if let Some(other) = blocker(self.object, &self.observed.others) {
            let what = if other.runs { "runs" } else { "comes first" };
            return self.say("AnotherBackupRuns", format!("Backup {} of this cluster {what}", other.name));
        }
        let since = *self.status.progressed_at.get_or_insert(self.now);
        let known = waited(&self.observed.waited, since);
        let pause = pause(self.status.attempt);
        if known < pause {
            self.requeue = pause.saturating_sub(known).min(POLLS.2);
            return;
        }
        match self.choose(&source, declared, known < CALL) {
            Ok(chosen) => self.decide(chosen, &source),
            Err((reason, message)) => self.say(reason, message),
        }
    }

    /// The member to read: a streaming standby with the least lag, or the primary; another one than that of the attempt before
    /// if there is one. `calling`: those that have not answered yet are waited for.
    fn choose(
        &mut self,
        source: &Source<'_>,
        declared: &Declared<'_>,
        calling: bool,
    ) -> Result<Chosen, (&'static str, String)> {
        let copies = source.copies.iter().copied();
        let standbys = copies.filter(|_| self.object.spec.target.unwrap_or(declared.target) != BackupTarget::Primary);
        let leader = source.leader.filter(|_| source.leads);
        // The replay of WAL may cancel a dump on a standby again and again; nothing cancels it on the primary.
        let primary_first = self.object.method() == BackupMethod::Dump && self.status.attempt > 0;
        let wanted: Vec<&str> = match primary_first {
            true => leader.into_iter().chain(standbys).collect(),
            false => standbys.chain(leader).collect(),
        };
        if calling && wanted.iter().any(|name| !self.observed.links.contains_key(*name)) {
            self.requeue = POLLS.0;
            return Err(("CallingMembers", "the supervisors of the cluster have not all answered yet".into()));
        }
        let unfit: Vec<_> = wanted.iter().filter_map(|name| self.unfit(name)).collect();
        let fit: Vec<&str> = wanted.into_iter().filter(|name| self.unfit(name).is_none()).collect();
        let last = self.status.last_failure.as_ref().map(|failure| failure.member.as_str());
        let other = fit.iter().find(|name| Some(**name) != last);
        let Some(name) = other.or(fit.first()) else {
            let Words { member, leader, .. } = self.words();
            let why = if unfit.is_empty() { format!("the cluster has no {leader} now") } else { unfit.join("; ") };
            return Err(("NoMember", format!("no {member} can be read: {why}")));
        };
        Ok(Chosen { name: (*name).to_owned(), of_primary: source.is_leader(name) })
    }

    /// Why a member cannot take a backup.
    fn unfit(&self, name: &str) -> Option<String> {
        let held = |link: &LinkSeen| link.report.archives_held.is_some();
        let unknown = || format!("{name} does not know the store yet");
        let links = &self.observed.links;
        attempts::unfit(links, name).or_else(|| (!links.get(name).is_some_and(held)).then(unknown))
    }

    fn decide(&mut self, chosen: Chosen, source: &Source<'_>) {
        let Chosen { name, of_primary } = chosen;
        self.status.attempt += 1;
        self.status.backup_id = Some(self.new_id());
        self.status.member = Some(name.clone());
        (self.status.term, self.status.of_primary) = (Some(source.term), of_primary);
        self.status.archive.clone_from(&source.archive);
        let declared = source.declared.as_ref();
        self.status.store = declared.map(|declared| declared.store.clone());
        self.status.encryption = declared.and_then(|declared| declared.encryption.cloned());
        self.status.progressed_at = Some(self.now);
        self.requeue = POLLS.1;
        self.start(&name);
    }

    /// Tells the member to begin. It is told until it reports the attempt; a second time it does nothing.
    fn start(&mut self, member: &str) {
        let declared = self.source().and_then(|source| source.declared);
        let own = rate_bytes(self.object.spec.max_rate.as_ref());
        let max_rate = own.or(declared.and_then(|declared| declared.max_rate));
        let id = self.status.backup_id.clone().unwrap_or_default();
        let dump = self.object.spec.database.clone();
        let what = match (&dump, self.object.method()) {
            (Some(database), _) => format!("dump {database}"),
            (None, BackupMethod::Rdb) => "store a snapshot".to_owned(),
            (None, _) => "take a base backup".to_owned(),
        };
        let order = BackupOrder { id, attempt: self.status.attempt, max_rate, dump };
        self.say("Starting", format!("{member} is told to {what}"));
        self.steps.push(Step::Start { member: member.to_owned(), order });
    }

    /// The ID of a new attempt. Each has its own: what is left of an attempt before may still be written.
    fn new_id(&self) -> String {
        let taken = |id: &str| {
            let others = self.observed.others.iter().filter_map(|other| other.backup_id.as_deref());
            others.chain(self.status.backup_id.as_deref()).any(|other| other == id)
        };
        let id = |second: i64| backup_id(Timestamp::from_second(second).unwrap_or(self.now));
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
