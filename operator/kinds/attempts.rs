//! Attempts at long work that the supervisor of one member does for an object: whose turn it is, what the member's report means, and
//! when the next attempt follows. For Backup and DatabaseRestore. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::api::quantity::shown;
use crate::kinds::links;
use crate::supervisor::redis::wire::Report as RedisReport;
use crate::supervisor::wire::{BackupPhase, BackupState, Report as PostgresReport};

/// Attempts before an object fails.
pub const ATTEMPTS: u32 = 3;
/// A member that has not answered for this long, or is not there for this long, is given up.
pub const SILENCE: Duration = Duration::from_secs(30);
/// An attempt without progress for this long is given up: nothing more is read or stored, or its WAL does not come. That is a
/// little more than the supervisor waits for its WAL, whose own error says more.
pub const PATIENCE: Duration = Duration::from_secs(630);
/// Time from the first failed attempt to the next one, and from every later one: a member may be lost, and a store away.
const RETRIES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// Poll intervals: while supervisors are called, while work runs, and while it cannot.
pub const POLLS: (Duration, Duration, Duration) =
    (Duration::from_millis(250), Duration::from_secs(2), Duration::from_secs(10));

/// What the report of a supervisor, of whatever kind, says about such work.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Told {
    /// New at each start of the supervisor.
    pub boot: String,
    /// It is of a version that does such work.
    pub archives: bool,
    /// The hash of what opens the store, once it has that.
    pub archives_held: Option<String>,
    /// Clients may connect to it.
    pub gate_open: bool,
    /// The backup that runs, or ran last.
    pub backup: Option<BackupState>,
    /// The restore that runs, or ran last.
    pub restore: Option<BackupState>,
    /// The restore point that was made last.
    pub point: Option<BackupState>,
}

impl From<&PostgresReport> for Told {
    fn from(report: &PostgresReport) -> Self {
        Self {
            boot: report.boot.clone(),
            archives: report.archives,
            archives_held: report.archives_held.clone(),
            gate_open: report.gate_open,
            backup: report.backup.clone(),
            restore: report.restore.clone(),
            point: report.point.clone(),
        }
    }
}

impl From<&RedisReport> for Told {
    fn from(report: &RedisReport) -> Self {
        Self {
            boot: report.boot.clone(),
            archives: report.archives,
            archives_held: report.archives_held.clone(),
            gate_open: report.redis.as_ref().is_some_and(|seen| seen.writable == Some(true)),
            backup: report.backup.clone(),
            restore: report.restore.clone(),
            point: None,
        }
    }
}

/// The state of a link to a supervisor.
pub type LinkSeen = links::LinkSeen<Told>;

/// What the links say about such work.
pub fn told<R>(heard: &BTreeMap<String, links::LinkSeen<R>>) -> BTreeMap<String, LinkSeen>
where
    for<'r> Told: From<&'r R>,
{
    let of = |link: &links::LinkSeen<R>| LinkSeen {
        report: Told::from(&link.report),
        connected: link.connected,
        silent_ms: link.silent_ms,
    };
    heard.iter().map(|(member, link)| (member.clone(), of(link))).collect()
}

/// The names in the state of work, which a decision or a status compares.
pub fn names(work: &BackupState) -> impl Iterator<Item = &String> {
    let span = work.span.iter().flat_map(|span| [&span.begin_wal, &span.end_wal]);
    let rdb = work.rdb.iter().flat_map(|rdb| [&rdb.backup, &rdb.server, &rdb.replid]);
    [&work.id].into_iter().chain(span).chain(rdb)
}

/// Another object of the same kind and cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// Its name.
    pub name: String,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// It has ended.
    pub ended: bool,
    /// A member was chosen for it, and it has not ended.
    pub runs: bool,
    /// It is paused by annotation.
    pub paused: bool,
    /// The ID of its last attempt, if it has one.
    pub backup_id: Option<String>,
}

/// The other one that an object waits for which has no member yet: the one that runs, or the oldest one that has not ended.
pub fn blocker<'a>(created: Option<Timestamp>, name: &str, others: &'a [Other]) -> Option<&'a Other> {
    let before = |other: &&Other| other.runs || !other.paused && (other.created, other.name.as_str()) < (created, name);
    others.iter().filter(|other| !other.ended).filter(before).min_by_key(|one| (!one.runs, one.created, &one.name))
}

/// The time between an attempt that failed and the next one.
pub fn pause(attempts: u32) -> Duration {
    match attempts {
        0 => Duration::ZERO,
        1 => RETRIES.0,
        _ => RETRIES.1,
    }
}

/// The attempt that is recorded.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// The member.
    pub member: &'a str,
    /// What the supervisor calls it.
    pub id: &'a str,
    /// Its number.
    pub number: u32,
    /// The run of the supervisor that has reported it.
    pub boot: Option<&'a str>,
    /// Time since it last made progress.
    pub still: Duration,
    /// Why the member is not what it was chosen for.
    pub moved: Option<&'static str>,
    /// Where a report has it.
    pub of: fn(&Told) -> Option<&BackupState>,
}

/// What has become of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing<'a> {
    /// The supervisor does not answer now.
    Silent(String),
    /// It is given up.
    Lost(String),
    /// The supervisor is to be told.
    Due,
    /// It runs.
    Runs(&'a BackupState),
    /// It failed.
    Failed(&'a BackupState),
    /// It is complete.
    Completed(&'a BackupState),
}

impl Attempt<'_> {
    /// What the supervisor says about it.
    pub fn reported<'a>(&self, link: &'a LinkSeen) -> Option<&'a BackupState> {
        (self.of)(&link.report).filter(|state| state.id == self.id && state.attempt == self.number)
    }

    /// Whether the supervisor says that it runs.
    pub fn runs(&self, links: &BTreeMap<String, LinkSeen>) -> bool {
        let link = links.get(self.member).filter(|link| link.live());
        link.and_then(|link| self.reported(link)).is_some_and(is_running)
    }

    /// What has become of it.
    pub fn standing<'a>(&self, links: &'a BTreeMap<String, LinkSeen>) -> Standing<'a> {
        let member = self.member;
        let lost = |why: &str| Standing::Lost(why.to_owned());
        let Some(link) = links.get(member) else {
            return match self.still >= SILENCE {
                true => lost("its container is gone"),
                false => Standing::Silent(format!("the supervisor of {member} has not answered yet")),
            };
        };
        if Duration::from_millis(link.silent_ms) >= SILENCE {
            return lost("its supervisor has not answered for 30 s");
        }
        if !link.live() {
            return Standing::Silent(format!("the supervisor of {member} does not answer"));
        }
        match self.reported(link) {
            Some(state) => match state.phase {
                BackupPhase::Completed => Standing::Completed(state),
                BackupPhase::Failed => Standing::Failed(state),
                BackupPhase::Running | BackupPhase::WaitingForWal => Standing::Runs(state),
            },
            None => match (self.boot, self.moved) {
                (Some(boot), _) if boot != link.report.boot => lost("its supervisor was started again"),
                (Some(_), _) => lost("its supervisor does not take it any more"),
                (None, Some(why)) => lost(why),
                (None, None) if self.still >= SILENCE => lost("its supervisor did not begin within 30 s"),
                (None, None) => Standing::Due,
            },
        }
    }

    /// What is left to do for an object that is being deleted, since so long.
    pub fn ending(&self, links: &BTreeMap<String, LinkSeen>, deleted: Duration) -> Ending {
        let Some(link) = links.get(self.member).filter(|link| link.live()) else {
            // A supervisor that never hears of this completes its work.
            return if deleted >= SILENCE { Ending::Done } else { Ending::Waits };
        };
        match self.reported(link) {
            Some(state) if is_running(state) => Ending::CutOff { last: false },
            // It may just have been told.
            None if self.boot.is_none() && !(self.of)(&link.report).is_some_and(is_running) => {
                Ending::CutOff { last: true }
            }
            _ => Ending::Done,
        }
    }
}

/// What is left to do for an object that is being deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Nothing.
    Done,
    /// The supervisor has to answer.
    Waits,
    /// The work is to be cut off; `last`: nothing follows.
    CutOff {
        /// Nothing follows.
        last: bool,
    },
}

fn is_running(state: &BackupState) -> bool {
    matches!(state.phase, BackupPhase::Running | BackupPhase::WaitingForWal)
}

/// Why the supervisor of a member cannot do such work.
pub fn unfit(links: &BTreeMap<String, LinkSeen>, name: &str) -> Option<String> {
    let Some(link) = links.get(name).filter(|link| link.live()) else {
        return Some(format!("the supervisor of {name} does not answer"));
    };
    (!link.report.archives).then(|| format!("the supervisor of {name} is of a version without backups"))
}

/// The part that is done of work that runs, in percent.
pub fn percent(state: &BackupState) -> u128 {
    (u128::from(state.bytes) * 100).checked_div(u128::from(state.total)).unwrap_or_default().min(99)
}

/// Bytes a second, for people.
pub fn rate(bytes: u64, seconds: Option<i64>) -> Option<String> {
    let seconds = u64::try_from(seconds?).ok().filter(|seconds| *seconds > 0)?;
    Some(format!("{}/s", shown(bytes / seconds)))
}

/// Seconds that ended work took.
pub fn took(state: &BackupState) -> Option<i64> {
    state.stopped_at.map(|stopped| stopped.saturating_sub(state.started_at))
}
