//! Stage `New`, and every record that is lost or old: is there data, and which is the newest? Pure.

use std::collections::BTreeSet;

use super::super::decided::Decided;
use super::super::view::{ClusterView, Member};
use super::{Switchover, elect, enter};
use crate::api::postgres_cluster::{Decisions, Quorum, Stage, Voter};
use crate::supervisor::wire::Data;

/// Nothing is decided yet: without any data the first member leads the first term (I1) and makes it; otherwise the
/// existing data is adopted.
pub(super) fn new(view: &ClusterView, known: u64) -> Decided {
    let before = view.before;
    let blank = |member: &Member| member.live().is_some_and(|report| report.data == Data::None);
    let Some(first) = view.members.first().filter(|_| view.members.iter().all(blank)) else {
        return adopt(view, known, "existing data volumes are taken over");
    };
    let decisions = Decisions {
        term: before.term.max(known) + 1,
        leader: Some(Voter { member: first.place.name.clone(), incarnation: String::new() }),
        next: Some(Quorum { voters: Vec::new(), w: if view.preferred() { 0 } else { view.w() } }),
        ..enter(before, Stage::Establishing, view.now)
    };
    Decided { decisions, ..Decided::unchanged(before) }
}

/// Asks every member with data to promise; the furthest one leads. For a record that is new, lost or old (I10).
pub(super) fn adopt(view: &ClusterView, known: u64, why: &str) -> Decided {
    let before = view.before;
    // Nothing is known of the data before every supervisor has reported.
    let silent = |member: &&Member| member.live().is_none_or(|report| report.data == Data::Unknown);
    let silent: Vec<_> = view.members.iter().filter(silent).map(|member| member.place.name.as_str()).collect();
    if !silent.is_empty() || view.members.is_empty() {
        return Decided::blocked(before, "Starting", format!("waiting for the supervisors of {}", silent.join(", ")));
    }
    let nameless = |member: &&Member| {
        member.live().is_some_and(|report| report.data != Data::None && report.incarnation.is_none())
    };
    if let Some(member) = view.members.iter().find(nameless) {
        let message = format!("the data volume of {} cannot be identified yet", member.place.name);
        return Decided::blocked(before, "Starting", message);
    }
    let systems: BTreeSet<_> =
        view.members.iter().filter_map(|member| member.live()?.system_identifier.clone()).collect();
    if systems.len() > 1 {
        let message = format!(
            "the data volumes belong to different clusters (system identifiers {}): remove the volumes that are not meant",
            systems.into_iter().collect::<Vec<_>>().join(", ")
        );
        return Decided::blocked(before, "ForeignData", message);
    }
    let elected = elect(view, why, Switchover::Drop);
    let decisions = Decisions {
        term: before.term.max(known) + 1,
        system_identifier: systems.into_iter().next(),
        leader: None,
        served: None,
        // w = 1 makes re = |E|: because the record is unknown, no voter may be missing.
        election: Quorum { voters: view.members.iter().filter_map(Member::voter).collect(), w: 1 },
        commit: Quorum::default(),
        ..elected.decisions
    };
    Decided { decisions, ..elected }
}
