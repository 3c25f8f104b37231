//! Computes what a promotion without acknowledgements (w = 0) may have lost, once the old primary's WAL end is known.
//! Pure.
//!
//! A figure is given only if it is an upper bound of all lost acknowledged commits: the old primary's WAL from the
//! position where the new primary took over to its true end. The old primary's supervisor reads that end before the
//! directory follows another leader (`Report::former_wal_end`). Until then, and if the directory never comes back, the
//! status says that the loss is unknown.

use jiff::Timestamp;

use super::decided::Told;
use super::view::{ClusterView, LastLeader};
use crate::api::postgres_cluster::{Decisions, Stage, Unsettled, Voter};

/// At the election of `leader`: compares it with the leader that served clients last. Returns the loss that is unknown
/// from now on, and what is told.
pub(super) fn suspect(view: &ClusterView, leader: &Voter) -> (Option<Unsettled>, Vec<Told>) {
    let before = view.before;
    let old = before.served.as_ref().or(before.leader.as_ref()).filter(|old| *old != leader);
    let Some(old) = old.filter(|_| before.election.w == 0) else { return (before.unsettled.clone(), Vec::new()) };
    let unknown = "not known: another instance was promoted in the meantime";
    let earlier = before.unsettled.as_ref().map(|earlier| loss(earlier.detected_at, None, unknown));
    let (was, from) = (LastLeader::seen(view, before.term, old), &old.member);
    let promise = view.member(&leader.member).and_then(|member| member.live()?.promise);
    let whole = was.clean_end.zip(promise).is_some_and(|((_, end), has)| end <= (has.timeline, has.lsn));
    // The election began when the failure was detected.
    let detected_at = before.since;
    let (unsettled, told) = if whole {
        let words = format!("nothing: {from} ended cleanly, and {} has all of it", leader.member);
        (None, loss(detected_at, Some(0), words))
    } else {
        let more = promise.map_or(0, |has| was.lsn.0.saturating_sub(has.lsn.0));
        let least = if more > 0 { format!("; at least {more} bytes of WAL by its last report") } else { String::new() };
        let unsettled = Unsettled { old: old.clone(), detected_at };
        (Some(unsettled), loss(detected_at, None, format!("not known before {from} is back{least}")))
    };
    (unsettled, earlier.into_iter().chain([told]).collect())
}

/// The figure, once it can be known, or that it never will be: the last event about an unknown loss.
pub(super) fn settle(view: &ClusterView, decisions: &Decisions) -> Option<Told> {
    let Unsettled { old, detected_at } = decisions.unsettled.as_ref().filter(|_| decisions.stage == Stage::Steady)?;
    let from = &old.member;
    let unknown = |why: String| loss(*detected_at, None, format!("not known: {why}"));
    let Some(member) = view.member(from) else { return Some(unknown(format!("{from} is no member any more"))) };
    let report = member.live()?;
    let Some(end) = &report.former_wal_end else {
        return member.replaced(old).then(|| unknown(format!("{from} came back without its old data")));
    };
    let Some(fork) = decisions.history.iter().find(|fork| fork.timeline == end.timeline) else {
        return Some(unknown(format!("the new primary never was on the timeline of {from}")));
    };
    let bytes = end.ended_at.0.saturating_sub(fork.ended_at.0);
    let words = match bytes {
        0 => format!("nothing: the WAL of {from} ended where the new primary took over"),
        _ => format!("at most the commits in the last {bytes} bytes of the WAL of {from}"),
    };
    Some(loss(*detected_at, Some(bytes), words))
}

fn loss(detected_at: Timestamp, bytes: Option<u64>, words: impl Into<String>) -> Told {
    Told::Loss { detected_at, bytes, words: words.into() }
}
