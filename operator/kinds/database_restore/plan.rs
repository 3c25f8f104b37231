//! Plans a DatabaseRestore: whose turn it is, which dump is meant, and what the primary's report means. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::{DatabaseRestoreKind, Observed, Step};
use crate::api::backup::{AttemptFailure, BackupMethod, BaseBackupPhase};
use crate::api::conditions::{self, no, yes};
use crate::api::database_restore::{DatabaseRestore, DatabaseRestorePhase, DatabaseRestoreStatus};
use crate::api::object::Object as _;
use crate::api::postgres_cluster::{Decisions, PostgresCluster, Stage};
use crate::api::quantity::shown;
use crate::kinds::attempts::{
    self, ATTEMPTS, Attempt, Ending, Other, PATIENCE, POLLS, Standing, pause, percent, rate, took,
};
use crate::kinds::waits::waited;
use crate::runtime::{Plan, Planned, Want};
use crate::supervisor::wire::BackupState;

/// The condition of a DatabaseRestore.
pub const COMPLETED: &str = "Completed";

/// Why it cannot begin: the reason and the message.
type Wait = (&'static str, String);

/// Whether a restore may run now, as far as the others into its cluster are concerned.
pub fn may_run(object: &DatabaseRestore, others: &[Other]) -> bool {
    blocker(object, others).is_none()
}

/// The other restore that this one waits for.
fn blocker<'a>(object: &DatabaseRestore, others: &'a [Other]) -> Option<&'a Other> {
    if object.status.as_ref().is_some_and(|status| status.member.is_some()) {
        return None;
    }
    let created = object.metadata.creation_timestamp.as_ref().map(|time| time.0);
    attempts::blocker(created, object.name(), others)
}

/// Pure: what to record about the restore, and what to tell the supervisors.
pub fn plan(object: &DatabaseRestore, observed: &Observed, want: Want, now: Timestamp) -> Planned<DatabaseRestoreKind> {
    let before = object.status.clone().unwrap_or_default();
    if want == Want::Absent {
        return tear_down(object, observed, before);
    }
    if before.phase.is_terminal() {
        return Plan { status: before, steps: Vec::new(), requeue: None, finished: false };
    }
    let status =
        DatabaseRestoreStatus { observed_generation: object.metadata.generation.unwrap_or_default(), ..before };
    let mut planner = Planner { object, observed, now, status, steps: Vec::new(), requeue: POLLS.2 };
    if want == Want::Paused {
        planner.say("Paused", "reconciliation is paused by annotation; a restore that runs goes on");
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

/// Cuts off what runs, for a restore that is being deleted; its database is dropped then. One that is complete stays.
fn tear_down(
    object: &DatabaseRestore,
    observed: &Observed,
    status: DatabaseRestoreStatus,
) -> Planned<DatabaseRestoreKind> {
    let member = status.member.clone().filter(|_| !status.phase.is_terminal());
    let deleted = object.metadata.deletion_timestamp.as_ref().map(|time| waited(&observed.waited, time.0));
    let ending = member.as_ref().map(|member| {
        attempt(object, member, &status, Duration::ZERO, None).ending(&observed.links, deleted.unwrap_or_default())
    });
    match ending {
        None | Some(Ending::Done) => Plan { status, steps: Vec::new(), requeue: None, finished: true },
        Some(Ending::Waits) => Plan { status, steps: Vec::new(), requeue: Some(POLLS.1), finished: false },
        Some(Ending::CutOff { last }) => {
            let steps = member.map(|member| Step::CutOff { member }).into_iter().collect();
            Plan { status, steps, requeue: (!last).then_some(POLLS.0), finished: last }
        }
    }
}

/// The attempt that the status records.
fn attempt<'a>(
    object: &'a DatabaseRestore,
    member: &'a str,
    status: &'a DatabaseRestoreStatus,
    still: Duration,
    moved: Option<&'static str>,
) -> Attempt<'a> {
    Attempt {
        member,
        id: object.metadata.uid.as_deref().unwrap_or_default(),
        number: status.attempt,
        boot: status.boot.as_deref(),
        still,
        moved,
        of: |report| report.restore.as_ref(),
    }
}

fn decisions(cluster: Option<&PostgresCluster>) -> Option<&Decisions> {
    cluster?.status.as_ref()?.decisions.as_ref()
}

struct Planner<'a> {
    object: &'a DatabaseRestore,
    observed: &'a Observed,
    now: Timestamp,
    status: DatabaseRestoreStatus,
    steps: Vec<Step>,
    requeue: Duration,
}

impl Planner<'_> {
    fn say(&mut self, reason: &str, message: impl Into<String>) {
        (self.status.reason, self.status.message) = (reason.to_owned(), message.into());
    }

    fn finish(mut self) -> Planned<DatabaseRestoreKind> {
        let (reason, message) = (self.status.reason.clone(), self.status.message.clone());
        let verdict = match self.status.phase {
            DatabaseRestorePhase::Completed => yes(&reason, message),
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
        let attempt = attempt(self.object, member, &self.status, self.still(), self.moved(member));
        match attempt.standing(&self.observed.links) {
            Standing::Silent(why) => self.say("MemberSilent", why),
            Standing::Lost(why) => self.fail(member, &why, false),
            Standing::Due => self.start(member),
            Standing::Runs(state) => self.progress(member, state),
            Standing::Completed(state) => self.complete(state),
            Standing::Failed(state) => {
                let error = state.error.as_deref().unwrap_or("its supervisor gives no reason");
                self.fail(member, error, state.lasting);
            }
        }
    }

    /// Why the member is not what it was chosen for.
    fn moved(&self, member: &str) -> Option<&'static str> {
        let decisions = decisions(self.observed.cluster.as_ref())?;
        (!decisions.is_leader(member)).then_some("it is not the primary any more")
    }

    fn progress(&mut self, member: &str, state: &BackupState) {
        if (self.status.phase, self.status.bytes) != (DatabaseRestorePhase::Running, Some(state.bytes)) {
            self.status.progressed_at = Some(self.now);
        } else if self.still() >= PATIENCE {
            return self.fail(member, "nothing more was restored for 10 min", false);
        }
        self.note(state);
        self.status.phase = DatabaseRestorePhase::Running;
        self.status.boot = self.observed.links.get(member).map(|link| link.report.boot.clone());
        if let Some(why) = self.moved(member) {
            return self.fail(member, why, false);
        }
        let passed = self.status.started_at.map(|started| self.now.duration_since(started).as_secs());
        let percent = percent(state);
        self.status.progress = Some(format!("{percent}%"));
        self.status.rate = rate(state.bytes, passed);
        let at = self.status.rate.as_ref().map(|rate| format!(", {rate}")).unwrap_or_default();
        let of = if state.total > 0 { format!(": {percent}% of {}", shown(state.total)) } else { String::new() };
        let database = &self.object.spec.database;
        self.say("Running", format!("restoring database {database} on {member}{of}{at}"));
    }

    fn note(&mut self, state: &BackupState) {
        self.status.started_at = Timestamp::from_second(state.started_at).ok();
        self.status.bytes = Some(state.bytes);
    }

    fn complete(&mut self, state: &BackupState) {
        self.note(state);
        let took = took(state);
        let status = &mut self.status;
        status.phase = DatabaseRestorePhase::Completed;
        status.stopped_at = state.stopped_at.and_then(|at| Timestamp::from_second(at).ok()).or(Some(self.now));
        status.progress = Some("100%".into());
        status.rate = rate(state.bytes, took);
        let took = took.filter(|took| *took > 0).map(|took| format!(" in {took} s")).unwrap_or_default();
        let (database, dump) = (&self.object.spec.database, status.dump_id.clone().unwrap_or_default());
        let message = format!("database {database} is restored from dump {dump}: {}{took}", shown(state.bytes));
        self.say("Completed", message.clone());
        self.steps.push(Step::Tell { completed: true, message });
    }

    /// The attempt failed: the next one follows, unless this was the last one, or the failure is `lasting`.
    fn fail(&mut self, member: &str, why: &str, lasting: bool) {
        if attempt(self.object, member, &self.status, Duration::ZERO, None).runs(&self.observed.links) {
            self.steps.push(Step::CutOff { member: member.to_owned() });
        }
        let number = self.status.attempt;
        let status = &mut self.status;
        (status.member, status.boot) = (None, None);
        (status.started_at, status.bytes, status.progress, status.rate) = (None, None, None, None);
        (status.phase, status.progressed_at) = (DatabaseRestorePhase::Pending, Some(self.now));
        status.last_failure = Some(AttemptFailure { member: member.to_owned(), message: why.to_owned() });
        if number < ATTEMPTS && !lasting {
            return self.say("Retrying", format!("attempt {number} of {ATTEMPTS} on {member} failed: {why}"));
        }
        (self.status.phase, self.status.stopped_at) = (DatabaseRestorePhase::Failed, Some(self.now));
        let message = match lasting {
            true => format!("it failed on {member}, and would again: {why}"),
            false => format!("{ATTEMPTS} attempts failed, the last one on {member}: {why}"),
        };
        self.say("AttemptsFailed", message.clone());
        self.steps.push(Step::Tell { completed: false, message });
    }

    /// Decides the next attempt, or says what it waits for.
    fn begin(&mut self) {
        let since = *self.status.progressed_at.get_or_insert(self.now);
        let (known, pause) = (waited(&self.observed.waited, since), pause(self.status.attempt));
        if known < pause {
            self.requeue = pause.saturating_sub(known).min(POLLS.2);
            return;
        }
        match self.choose() {
            Ok((member, dump, archive)) => {
                self.status.attempt += 1;
                self.status.member = Some(member.clone());
                (self.status.dump_id, self.status.archive) = (Some(dump), Some(archive));
                self.status.progressed_at = Some(self.now);
                self.requeue = POLLS.1;
                self.start(&member);
            }
            Err((reason, message)) => self.say(reason, message),
        }
    }

    /// The primary, the dump, and the folder of the archive that it is in.
    fn choose(&self) -> Result<(String, String, String), Wait> {
        let name = &self.object.spec.cluster.name;
        let cluster = self.observed.cluster.as_ref().filter(|cluster| cluster.metadata.deletion_timestamp.is_none());
        let Some(cluster) = cluster else {
            return Err(("ClusterNotFound", format!("PostgresCluster {name} does not exist in this namespace")));
        };
        let (dump, archive) = self.dump()?;
        Ok((self.primary(cluster)?, dump, archive))
    }

    /// The dump, and the folder of the archive that it is in.
    fn dump(&self) -> Result<(String, String), Wait> {
        let (from, observed) = (&self.object.spec.from, self.observed);
        let (dump, archive) = match (&from.backup, &observed.backup) {
            (Some(name), None) => {
                return Err(("BackupNotFound", format!("Backup {name} does not exist in this namespace")));
            }
            (Some(name), Some(backup)) => {
                if backup.method() != BackupMethod::Dump {
                    let message = format!("Backup {name} is a base backup: recover it into a new cluster instead");
                    return Err(("NotADump", message));
                }
                let status = backup.status.as_ref().filter(|status| status.phase == BaseBackupPhase::Completed);
                let Some(status) = status else {
                    let phase = backup.status.as_ref().map(|status| status.phase).unwrap_or_default();
                    return Err(("BackupNotCompleted", format!("Backup {name} is not complete, but {phase}")));
                };
                (status.backup_id.clone().unwrap_or_default(), status.archive.clone())
            }
            (None, _) => (from.dump_id.clone().unwrap_or_default(), None),
        };
        let Some(source) = &observed.source else {
            let message = "the PostgresCluster whose archive has the dump does not exist in this namespace";
            return Err(("SourceNotFound", message.to_owned()));
        };
        if let Some((reason, message)) = &observed.closed {
            return Err((reason, message.clone()));
        }
        self.mounted(source)?;
        let current = || decisions(Some(source))?.archive.clone();
        let none = || ("ArchiveNotReady", format!("PostgresCluster {} has no archive in its store yet", source.name()));
        Ok((dump, archive.or_else(current).ok_or_else(none)?))
    }

    /// A directory of the hosts is read by those whose containers have it.
    fn mounted(&self, source: &PostgresCluster) -> Result<(), Wait> {
        let directory = |cluster: &PostgresCluster| cluster.spec.backup.as_ref()?.store.directory.clone();
        match (directory(source), self.observed.cluster.as_ref().and_then(directory)) {
            (Some(there), here) if here.as_ref() != Some(&there) => Err((
                "ArchiveNotMounted",
                format!(
                    "the archive of {} is in a directory of the hosts, which the containers of {} do not have: give both the same \
                     spec.backup.store.directory",
                    source.name(),
                    self.object.spec.cluster.name
                ),
            )),
            _ => Ok(()),
        }
    }

    /// The primary, if it can restore now.
    fn primary(&self, cluster: &PostgresCluster) -> Result<String, Wait> {
        let name = &self.object.spec.cluster.name;
        if let Some(other) = blocker(self.object, &self.observed.others) {
            let what = if other.runs { "runs" } else { "comes first" };
            return Err(("AnotherRestoreRuns", format!("DatabaseRestore {} into this cluster {what}", other.name)));
        }
        let steady = decisions(Some(cluster)).filter(|decisions| decisions.stage == Stage::Steady);
        let Some(leader) = steady.and_then(Decisions::leader_name) else {
            return Err(("NoPrimary", format!("PostgresCluster {name} has no primary now")));
        };
        if let Some(why) = attempts::unfit(&self.observed.links, leader) {
            return Err(("NoPrimary", why));
        }
        match self.observed.links.get(leader).is_some_and(|link| link.report.gate_open) {
            true => Ok(leader.to_owned()),
            false => Err(("NoPrimary", format!("the primary {leader} takes no clients now"))),
        }
    }

    /// Tells the primary to begin. It is told until it reports the attempt; a second time it does nothing.
    fn start(&mut self, member: &str) {
        let dump = self.status.dump_id.clone().unwrap_or_default();
        let archive = self.status.archive.clone().unwrap_or_default();
        let database = &self.object.spec.database;
        self.say("Starting", format!("{member} is told to restore dump {dump} into database {database}"));
        let (member, attempt) = (member.to_owned(), self.status.attempt);
        self.steps.push(Step::Start { member, attempt, dump, archive });
    }
}
