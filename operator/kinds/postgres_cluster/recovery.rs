//! The recovery of the first data directory from an archive, as people see it: `status.recovery`. Pure; decides nothing.

use jiff::{SignedDuration, Timestamp};

use super::view::{ClusterView, Member};
use crate::api::postgres_cluster::PostgresClusterStatus;
use crate::api::postgres_recovery::{ReachedStatus, RecoveryPhase, RecoveryStatus};
use crate::api::quantity::shown;
use crate::supervisor::wire::{RecoveryPart, RecoveryState};

/// Figures alone are written this often at most.
const FIGURES: SignedDuration = SignedDuration::from_secs(2);

/// Fills in `status.recovery`. What the instance said last stays when it does not answer, or has other data since.
pub fn render(view: &ClusterView, status: &mut PostgresClusterStatus) {
    if view.object.spec.bootstrap.recovery.is_none() {
        status.recovery = None;
        return;
    }
    let said = |member: &Member| Some((member.live()?.recovery.clone()?, member.place.name.clone()));
    let Some((state, instance)) = view.members.iter().filter_map(said).max_by_key(|(state, _)| state.started_at) else {
        return;
    };
    let told = Some(next(status.recovery.take(), told(&state, instance), view.now));
    status.recovery = told;
}

/// What is written: figures that have changed wait until they are worth it.
fn next(before: Option<RecoveryStatus>, told: RecoveryStatus, now: Timestamp) -> RecoveryStatus {
    let Some(before) = before else { return RecoveryStatus { progressed_at: Some(now), ..told } };
    let figures = |one: &RecoveryStatus| RecoveryStatus {
        message: one.message.clone(),
        progress: one.progress.clone(),
        steps: one.steps,
        progressed_at: one.progressed_at,
        ..told.clone()
    };
    let only_figures = figures(&before) == before;
    let young = before.progressed_at.is_some_and(|at| now.duration_since(at).abs() < FIGURES);
    let same = only_figures && (before.steps, &before.message) == (told.steps, &told.message);
    match same || only_figures && young {
        true => before,
        false => RecoveryStatus { progressed_at: Some(now), ..told },
    }
}

/// A report in the words of the status.
fn told(state: &RecoveryState, instance: String) -> RecoveryStatus {
    let time = |seconds: i64| Timestamp::from_second(seconds).ok();
    let phase = match state.phase {
        RecoveryPart::Preparing => RecoveryPhase::Preparing,
        RecoveryPart::Downloading => RecoveryPhase::Downloading,
        RecoveryPart::Checking => RecoveryPhase::Checking,
        RecoveryPart::Replaying => RecoveryPhase::Replaying,
        RecoveryPart::Completed => RecoveryPhase::Completed,
        RecoveryPart::Retrying => RecoveryPhase::Retrying,
        RecoveryPart::Failed => RecoveryPhase::Failed,
    };
    let progress = match (phase, &state.wal) {
        (RecoveryPhase::Downloading, _) => percent(state),
        (RecoveryPhase::Replaying, Some(wal)) => wal.clone(),
        _ => String::new(),
    };
    RecoveryStatus {
        phase,
        message: message(phase, state),
        instance,
        backup_id: state.backup.clone(),
        timelines: state.path.clone(),
        progress,
        reached: state.reached.as_ref().map(|reached| ReachedStatus {
            lsn: reached.lsn,
            timeline: reached.timeline,
            last_commit: reached.last_commit,
        }),
        checks: state.checks.clone(),
        unchecked: state.unchecked.clone(),
        failures: state.failures,
        last_failure: state.error.clone(),
        started_at: time(state.started_at),
        stopped_at: state.stopped_at.and_then(time),
        progressed_at: None,
        steps: state.steps,
    }
}

fn percent(state: &RecoveryState) -> String {
    let percent = (u128::from(state.bytes) * 100).checked_div(u128::from(state.total)).unwrap_or_default().min(100);
    format!("{percent}%")
}

fn message(phase: RecoveryPhase, state: &RecoveryState) -> String {
    let RecoveryState { backup, last_wal, .. } = state;
    match phase {
        RecoveryPhase::Preparing => "listing the archive".into(),
        RecoveryPhase::Downloading => {
            format!("downloading base backup {backup}: {} of {}", percent(state), shown(state.total))
        }
        RecoveryPhase::Checking => state.doing.clone(),
        RecoveryPhase::Replaying => match &state.wal {
            None => format!("replaying WAL up to {last_wal}"),
            Some(wal) => format!("replaying WAL: {wal} of {last_wal}"),
        },
        RecoveryPhase::Completed => match &state.reached {
            None => format!("recovered base backup {backup}"),
            Some(reached) => {
                let commit = reached.last_commit.map(|at| format!(", last commit at {at}")).unwrap_or_default();
                format!("recovered base backup {backup} up to {} of timeline {}{commit}", reached.lsn, reached.timeline)
            }
        },
        RecoveryPhase::Retrying | RecoveryPhase::Failed => {
            let error = state.error.as_deref().unwrap_or("the instance gives no reason");
            format!("{error}; it is tried again")
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::supervisor::wire::Reached;

    #[test]
    fn a_recovery_tells_where_it_is_and_is_not_written_for_each_figure() {
        let mut state = RecoveryState { started_at: 1, ..RecoveryState::default() };
        let (mut status, mut shown) = (None, String::new());
        let mut look = |second: i64, state: &RecoveryState| {
            let now = Timestamp::from_second(second).unwrap();
            let before = status.take();
            let after = next(before.clone(), told(state, "db-1".into()), now);
            let written = if before.as_ref() == Some(&after) { "" } else { ", written" };
            shown.push_str(&format!("{second} {} [{}]: {}{written}\n", after.phase, after.progress, after.message));
            status = Some(after);
        };
        look(0, &state);
        (state.phase, state.backup, state.path) = (RecoveryPart::Downloading, "B".into(), vec![1, 3]);
        (state.total, state.last_wal) = (400 << 20, "C".into());
        look(0, &state);
        (state.bytes, state.steps) = (100 << 20, 1);
        look(1, &state);
        look(2, &state);
        look(9, &state);
        // A program that says nothing.
        state.steps = 2;
        look(11, &state);
        (state.phase, state.doing) = (RecoveryPart::Checking, "comparing all files".into());
        look(11, &state);
        (state.phase, state.wal) = (RecoveryPart::Replaying, Some("A".into()));
        look(11, &state);
        (state.phase, state.error, state.failures) = (RecoveryPart::Failed, Some("no space".into()), 1);
        look(11, &state);
        state.phase = RecoveryPart::Completed;
        let last_commit = Some(Timestamp::UNIX_EPOCH);
        state.reached = Some(Reached { lsn: crate::api::lsn::Lsn(0x500_0028), timeline: 3, last_commit });
        look(12, &state);
        expect_test::expect![[r#"
            0 Preparing []: listing the archive, written
            0 Downloading [0%]: downloading base backup B: 0% of 400Mi, written
            1 Downloading [0%]: downloading base backup B: 0% of 400Mi
            2 Downloading [25%]: downloading base backup B: 25% of 400Mi, written
            9 Downloading [25%]: downloading base backup B: 25% of 400Mi
            11 Downloading [25%]: downloading base backup B: 25% of 400Mi, written
            11 Checking []: comparing all files, written
            11 Replaying [A]: replaying WAL: A of C, written
            11 Failed []: no space; it is tried again, written
            12 Completed []: recovered base backup B up to 0/5000028 of timeline 3, last commit at 1970-01-01T00:00:00Z, written
        "#]]
        .assert_eq(&shown);
    }
}
