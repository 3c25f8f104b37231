//! The restore of the first data from a backup: which member makes it, and when it is told again. Pure.
//!
//! It happens before anything else: no order was given, so no server runs, and none may start. The member that has the data then
//! becomes the first master by the rule that holds for any data: the newest leads, and a member without data never does while another
//! has some.

use super::decided::Decided;
use super::view::{Member, View};
use super::{ArchivesSeen, Step};
use crate::api::postgres_recovery::RecoveryPhase;
use crate::api::quantity::shown;
use crate::api::redis_backup::{RedisRecoveryDecision, RedisRecoveryStatus};
use crate::api::redis_sentinel::{RedisDecisions, RedisSentinel, RedisSentinelStatus, RedisStage};
use crate::kinds::attempts::{pause, percent};
use crate::supervisor::redis::wire::{BackupPhase, BackupState, RestoreOrder};

/// The reason of what is told while it goes on.
pub const RECOVERING: &str = "Recovering";
/// The reason when it cannot go on by itself.
const FAILED: &str = "RecoveryFailed";

/// Why the backup cannot be reached that the first data is to come from. Nothing is made instead of it.
pub fn no_source(
    object: &RedisSentinel,
    before: &RedisDecisions,
    seen: &ArchivesSeen,
) -> Option<(&'static str, String)> {
    let needed = object.spec.bootstrap.recovery.is_some() && before.stage == RedisStage::New;
    seen.problem.clone().filter(|_| needed)
}

/// What supervisors call the restore of this object.
fn id(view: &View) -> String {
    view.object.metadata.uid.clone().unwrap_or_default()
}

/// What a member says about the restore, if it has heard of it; that of an earlier attempt if it is complete.
fn state<'a>(view: &View<'a>, decided: &RedisRecoveryDecision) -> Option<&'a BackupState> {
    let state = view.member(&decided.member)?.live()?.restore.as_ref()?;
    let this = state.id == id(view) && (state.attempt == decided.attempt || state.phase == BackupPhase::Completed);
    this.then_some(state)
}

/// The member that was restored, also one whose backup has no key in it.
pub fn restored<'v, 'a>(view: &'v View<'a>) -> Option<&'v Member<'a>> {
    let decided = view.before.recovery.as_ref()?;
    let complete = state(view, decided)?.phase == BackupPhase::Completed;
    view.member(&decided.member).filter(|_| complete)
}

/// Nobody has data, every member was asked, and the spec wants that of a backup: which member makes it, and how far that is. `None`:
/// it is not wanted, or it is done.
pub fn recover(view: &View) -> Option<Decided> {
    view.object.spec.bootstrap.recovery.as_ref().filter(|_| restored(view).is_none())?;
    let unchanged = Decided::unchanged(view.before);
    let with = |recovery| Decided {
        decisions: RedisDecisions { recovery: Some(recovery), ..view.before.clone() },
        ..unchanged.clone()
    };
    let Some(decided) = &view.before.recovery else {
        let first = view.members.first()?;
        let recovery =
            RedisRecoveryDecision { member: first.name().to_owned(), attempt: 1, failed: false, since: view.now };
        return Some(with(recovery).blocked(RECOVERING, format!("{} is to restore the backup", first.name())));
    };
    let member = &decided.member;
    let Some(state) = state(view, decided) else {
        let message = match decided.failed {
            // Its supervisor was started again.
            true => format!("{member} is told to restore the backup again"),
            false => format!("{member} is told to restore the backup"),
        };
        return Some(unchanged.blocked(RECOVERING, message));
    };
    if state.phase != BackupPhase::Failed {
        return Some(unchanged.blocked(RECOVERING, message(member, state)));
    }
    let error = format!("{}; no data is served", message(member, state));
    if state.lasting {
        let error = format!("{error}: delete this object, and restore another backup, or with another image");
        return Some(unchanged.blocked(FAILED, error));
    }
    if !decided.failed {
        let recovery = RedisRecoveryDecision { failed: true, since: view.now, ..decided.clone() };
        return Some(with(recovery).blocked(FAILED, format!("{error}; it is tried again")));
    }
    if view.past(decided.since, pause(decided.attempt)) {
        let recovery = RedisRecoveryDecision {
            attempt: decided.attempt.saturating_add(1),
            failed: false,
            since: view.now,
            ..decided.clone()
        };
        return Some(with(recovery).blocked(RECOVERING, format!("{member} is to restore the backup once more")));
    }
    Some(unchanged.blocked(FAILED, format!("{error}; it is tried again")))
}

/// What opens the stores, to each data member that has something else.
pub fn archives(view: &View, seen: &ArchivesSeen) -> Vec<Step> {
    let Some(wanted) = &seen.hash else { return Vec::new() };
    let lacks = |member: &&Member| {
        member.live().is_some_and(|report| {
            report.archives && report.archives_held.as_deref().unwrap_or_default() != wanted.as_str()
        })
    };
    let members = view.members.iter().filter(lacks);
    members.map(|member| Step::SendArchives { member: member.name().to_owned() }).collect()
}

/// The order to restore. It is given until the member reports the attempt; a second time it does nothing.
pub fn order(view: &View, decisions: &RedisDecisions, seen: &ArchivesSeen, backup: Option<&String>) -> Option<Step> {
    let decided =
        decisions.recovery.as_ref().filter(|decided| decisions.stage == RedisStage::New && !decided.failed)?;
    let report = view.member(&decided.member)?.live()?;
    let ready = report.archives && seen.hash.is_some() && report.archives_held == seen.hash;
    (ready && state(view, decided).is_none()).then(|| Step::Restore {
        member: decided.member.clone(),
        order: RestoreOrder { id: id(view), attempt: decided.attempt, backup: backup.cloned() },
    })
}

/// Fills in `status.recovery`. What the member said last stays.
pub fn render(view: &View, status: &mut RedisSentinelStatus, decisions: &RedisDecisions) {
    if view.object.spec.bootstrap.recovery.is_none() {
        status.recovery = None;
        return;
    }
    let Some(decided) = &decisions.recovery else { return };
    let Some(state) = state(view, decided) else { return };
    let before = status.recovery.take();
    let last_failure = state.error.clone().or(before.and_then(|before| before.last_failure));
    let time = |seconds: i64| jiff::Timestamp::from_second(seconds).ok();
    let phase = phase(state);
    let rdb = state.rdb.as_ref();
    status.recovery = Some(RedisRecoveryStatus {
        phase,
        message: message(&decided.member, state),
        member: decided.member.clone(),
        backup_id: rdb.map(|rdb| rdb.backup.clone()).unwrap_or_default(),
        progress: match phase {
            RecoveryPhase::Downloading => format!("{}%", percent(state)),
            _ => String::new(),
        },
        attempt: state.attempt,
        last_failure,
        snapshot_time: rdb.and_then(|rdb| time(rdb.time)),
        started_at: time(state.started_at),
        stopped_at: state.stopped_at.and_then(time),
    });
}

fn phase(state: &BackupState) -> RecoveryPhase {
    match state.phase {
        BackupPhase::Completed => RecoveryPhase::Completed,
        BackupPhase::Failed => RecoveryPhase::Failed,
        BackupPhase::Running | BackupPhase::WaitingForWal if state.rdb.is_none() => RecoveryPhase::Preparing,
        BackupPhase::Running | BackupPhase::WaitingForWal if state.bytes < state.total => RecoveryPhase::Downloading,
        BackupPhase::Running | BackupPhase::WaitingForWal => RecoveryPhase::Checking,
    }
}

fn message(member: &str, state: &BackupState) -> String {
    let backup = state.rdb.as_ref().map(|rdb| rdb.backup.as_str()).unwrap_or_default();
    match phase(state) {
        RecoveryPhase::Downloading => {
            format!("{member} downloads backup {backup}: {}% of {}", percent(state), shown(state.total))
        }
        RecoveryPhase::Checking => format!("the server of {member} checks backup {backup}"),
        RecoveryPhase::Completed => format!("{member} has the data of backup {backup}"),
        RecoveryPhase::Failed => {
            let error = state.error.as_deref().unwrap_or("its supervisor gives no reason");
            format!("{member} could not restore the backup: {error}")
        }
        _ => format!("{member} looks for the backup in the store"),
    }
}
