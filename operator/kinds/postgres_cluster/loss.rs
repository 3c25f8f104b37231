//! What a promotion without acknowledgements (w = 0) may lose: known when the end of the old primary's WAL is. Pure.
//!
//! A figure is given only when it bounds every acknowledged commit that is lost: the old primary's WAL from where the new
//! one took over to its true end, which its supervisor reads before the directory follows somebody (`Report::left`). Until
//! then, and if that directory never comes back, the loss is unknown and said to be.

use super::protocol::last;
use super::scene::Scene;
use crate::api::postgres_cluster::{Decisions, FailoverStatus, PostgresClusterStatus, Stage, Unsettled, Voter};

/// A leader is named: what of the one that clients were served by last it may not have.
pub(super) fn suspect(scene: &Scene, status: &mut PostgresClusterStatus, d: &mut Decisions, leader: &Voter) {
    let Some(old) = d.served.clone().or_else(|| d.leader.clone()).filter(|old| old != leader) else { return };
    if d.election.w > 0 {
        return;
    }
    conclude(status, d, None, "not known: somebody else was promoted meanwhile".into());
    let since = story(status, d.switchover.is_some()).map(|story| story.detected_at);
    let Some(detected_at) = since else { return };
    let from = old.member.clone();
    let was = last(scene, d, &old);
    let promise = scene.member(&leader.member).and_then(|member| member.live()?.promise);
    let whole = was.clean_end.zip(promise).is_some_and(|((_, end), has)| end <= (has.timeline, has.lsn));
    d.unsettled = Some(Unsettled { old, detected_at });
    if whole {
        return conclude(
            status,
            d,
            Some(0),
            format!("nothing: {from} ended cleanly, and {} has all of it", leader.member),
        );
    }
    let more = promise.map_or(0, |has| was.lsn.0.saturating_sub(has.lsn.0));
    let least = if more > 0 { format!("; at least {more} bytes of WAL by its last report") } else { String::new() };
    if let Some(story) = story(status, d.switchover.is_some()) {
        story.possible_loss = Some(format!("not known before {from} is back{least}"));
    }
}

/// Gives the figure as soon as it can be known, or says that it never will.
pub(super) fn settle(scene: &Scene, status: &mut PostgresClusterStatus, d: &mut Decisions) {
    let Some(Unsettled { old, .. }) = d.unsettled.as_ref().filter(|_| d.stage == Stage::Steady) else { return };
    let from = old.member.clone();
    let Some(member) = scene.member(&from) else {
        return conclude(status, d, None, format!("not known: {from} is no member any more"));
    };
    let Some(report) = member.live() else { return };
    let Some(left) = &report.former_wal_end else {
        if member.replaced(old) {
            conclude(status, d, None, format!("not known: {from} came back without its old data"));
        }
        return;
    };
    match d.history.iter().find(|fork| fork.timeline == left.timeline) {
        Some(fork) => {
            let bytes = left.ended_at.0.saturating_sub(fork.ended_at.0);
            let words = match bytes {
                0 => format!("nothing: the WAL of {from} ended where the new primary took over"),
                _ => format!("at most the commits in the last {bytes} bytes of the WAL of {from}"),
            };
            conclude(status, d, Some(bytes), words);
        }
        None => conclude(status, d, None, format!("not known: the new primary never was on the timeline of {from}")),
    }
}

/// Writes the last word into the story that waits for it.
fn conclude(status: &mut PostgresClusterStatus, d: &mut Decisions, bytes: Option<u64>, words: String) {
    let Some(Unsettled { detected_at, .. }) = d.unsettled.take() else { return };
    for switchover in [false, true] {
        // An election since then tells another story.
        if let Some(story) = story(status, switchover).filter(|story| story.detected_at == detected_at) {
            (story.possible_loss_bytes, story.possible_loss) = (bytes, Some(words.clone()));
        }
    }
}

fn story(status: &mut PostgresClusterStatus, switchover: bool) -> Option<&mut FailoverStatus> {
    match switchover {
        true => status.last_switchover.as_mut()?.result.as_mut(),
        false => status.last_failover.as_mut(),
    }
}
