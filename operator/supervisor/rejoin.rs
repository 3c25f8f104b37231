//! How a data directory becomes a standby of a leader: it follows unchanged, is rewound, or is cloned. Pure;
//! used by `next`.

use std::collections::BTreeMap;

use super::state::{Act, Config, Gate, Seen, Settings, Upstream};
use super::wire::{Data, Follow, JobKind, Lineage, Postgres, Rule};
use crate::api::lsn::{Fork, Lsn};

/// After this many failed rewinds the instance is cloned instead.
const REWINDS_BEFORE_CLONE: u32 = 2;

/// The next act of an instance that must follow a leader.
pub fn follow(seen: &Seen, term: u64, follow: &Follow, settings: Settings) -> Act {
    let config = Config {
        gate: Gate::Open,
        upstream: Some(Upstream { source: follow.into(), slot: follow.slot.clone() }),
        settings,
        commit: Rule::never(),
        access: seen.access(),
    };
    // Only this leader's WAL makes a rewound directory consistent.
    let same_leader = seen.durable.rewound == follow.lineage.as_ref().map(|lineage| lineage.timeline);
    let started_for_another = seen.started.as_ref().is_some_and(|started| started.upstream != config.upstream);
    match (seen.postgres, seen.data) {
        (Postgres::Primary, Data::Primary) if on_a_branch_of_its_own(seen) => Act::Condemn,
        (Postgres::Primary, _) | (Postgres::Standby | Postgres::Starting, Data::Broken) => Act::StopImmediate,
        // It waits for the WAL of another leader, which will not come.
        (Postgres::Starting, _) if seen.durable.rewound.is_some() && started_for_another => Act::StopImmediate,
        // It can never become consistent: the leader no longer has the WAL that it needs.
        (Postgres::Starting, _) if seen.wal_missing => Act::Condemn,
        // An interrupted rewind is not repeated: the first one may have overwritten the WAL that the
        // second one needs to find the changed pages.
        (Postgres::Stopped, Data::None | Data::Broken) => when_due(seen, Act::Clone(follow.clone())),
        // Its server would end at the first record about it.
        (Postgres::Stopped, Data::Standby | Data::Primary) if seen.tablespace_gone && follow.lineage.is_some() => {
            Act::Condemn
        }
        (Postgres::Stopped, Data::Primary) => match (was_primary(seen, follow), wal_end(seen)) {
            (Kinship::Unknown, _) => Act::Wait,
            (Kinship::Clashing, _) => Act::Condemn,
            (_, Some(end)) if seen.durable.former_wal_end != Some(end) => Act::RecordWalEnd(end),
            (Kinship::Same, _) if seen.start_held => Act::Wait,
            (Kinship::Same, _) => Act::Start { standby: true, config },
            (Kinship::Diverged, _) if rewind_given_up(seen) => Act::Condemn,
            (Kinship::Diverged, _) if !follow.rewindable => Act::Wait,
            (Kinship::Diverged, None) => when_due(seen, Act::Recover),
            (Kinship::Diverged, Some(_)) => when_due(seen, Act::Rewind(follow.clone())),
        },
        (Postgres::Stopped, Data::Standby) if seen.start_held => Act::Wait,
        (Postgres::Stopped, Data::Standby) if seen.durable.rewound.is_some() => match &follow.lineage {
            None => Act::Wait,
            Some(_) if same_leader => Act::Start { standby: true, config },
            Some(_) => Act::Condemn,
        },
        // Started without an upstream, so that it is compared with the leader's history before it receives
        // WAL from there.
        (Postgres::Stopped, Data::Standby) => Act::Start { standby: true, config: Config { upstream: None, ..config } },
        (Postgres::Standby, _) => follow_running(seen, term, follow, config),
        _ => Act::Wait,
    }
}

fn when_due(seen: &Seen, act: Act) -> Act {
    if seen.job_due && seen.credentials.is_some() { act } else { Act::Wait }
}

fn follow_running(seen: &Seen, term: u64, follow: &Follow, config: Config) -> Act {
    let Some(server) = &seen.server else { return Act::Poll };
    if seen.restart_asked {
        return Act::StopFast;
    }
    let record = |terms: &BTreeMap<u32, u64>| {
        (seen.durable.timeline_terms != *terms).then(|| Act::RecordTimelineTerms(terms.clone()))
    };
    if server.streaming && seen.applied.as_ref() == Some(&config) {
        if follow.lineage.is_some() {
            // It may have streamed from this address before it was compared. A timeline that it recorded in
            // advance for this very term does not count.
            let mut ours = seen.durable.timeline_terms.range(..=server.timeline).filter(|(_, began)| **began != term);
            if ours.any(|(timeline, began)| follow.timeline_terms.get(timeline) != Some(began)) {
                return Act::Condemn;
            }
            if let Some(act) = record(&follow.timeline_terms) {
                return act;
            }
        }
        let ready = server.slots == follow.slots;
        return if ready { Act::Wait } else { Act::EnsureSlots(follow.slots.clone()) };
    }
    let kin = match &follow.lineage {
        // The leader had the greatest promise of this term, and this instance promised the same term; but another
        // branch with the same number may have promised, too (Regression 22).
        None if seen.durable.promised == term && !on_a_branch_of_its_own(seen) && same_branch(seen, follow) => {
            Kinship::Same
        }
        None => Kinship::Unknown,
        Some(_) if !server.replayed => return Act::Poll,
        Some(lineage) if clashes(lineage, &follow.timeline_terms, &seen.durable.timeline_terms, server.timeline) => {
            Kinship::Clashing
        }
        Some(lineage) => kinship(lineage, server.timeline, server.lsn),
    };
    match kin {
        Kinship::Unknown => Act::Wait,
        // The slot was lost or the WAL diverged: only a clone helps. A standby has no commit that its leader lacks.
        Kinship::Diverged | Kinship::Clashing => Act::Condemn,
        Kinship::Same if seen.wal_missing => Act::Condemn,
        Kinship::Same if seen.applied.as_ref() == Some(&config) => Act::Wait,
        // Recorded before the first WAL record of another branch is on disk.
        Kinship::Same => match &follow.lineage {
            Some(_) => record(&follow.timeline_terms),
            None => record(&promoted_here(&seen.durable.timeline_terms, server.timeline, term)),
        }
        .unwrap_or(Act::Apply(config)),
    }
}

/// The timeline terms of a leader that is about to be promoted from this timeline.
fn promoted_here(ours: &BTreeMap<u32, u64>, timeline: u32, term: u64) -> BTreeMap<u32, u64> {
    let mut terms: BTreeMap<_, _> = ours.range(..=timeline).map(|(timeline, term)| (*timeline, *term)).collect();
    terms.insert(timeline + 1, term);
    terms
}

/// Whether it runs on a timeline that no grant began, as far as timelines are recorded here.
pub fn on_a_branch_of_its_own(seen: &Seen) -> bool {
    let terms = &seen.durable.timeline_terms;
    !terms.is_empty() && seen.server.as_ref().is_some_and(|server| !terms.contains_key(&server.timeline))
}

enum Kinship {
    /// A prefix of the leader's.
    Same,
    /// It left the leader's WAL at some point; pg_rewind can find it.
    Diverged,
    /// Another branch with a number that the leader's branch also has: PostgreSQL cannot tell them apart, and neither
    /// streaming nor pg_rewind would notice (Regression 3).
    Clashing,
    /// The leader's lineage is not known yet.
    Unknown,
}

/// Whether every timeline of this instance's history began in the same term as the leader's timeline with that number.
fn same_branch(seen: &Seen, follow: &Follow) -> bool {
    let Some(server) = &seen.server else { return false };
    let mut ours = seen.durable.timeline_terms.range(..=server.timeline);
    ours.all(|(timeline, term)| follow.timeline_terms.get(timeline) == Some(term))
}

/// Whether WAL that ends at `lsn` on `timeline` is a prefix of the leader's, provided their branches are the same.
fn kinship(leader: &Lineage, timeline: u32, lsn: Lsn) -> Kinship {
    let ended = leader.history.iter().find(|fork| fork.timeline == timeline);
    match ended {
        Some(fork) if lsn <= fork.ended_at => Kinship::Same,
        None if timeline == leader.timeline => Kinship::Same,
        _ => Kinship::Diverged,
    }
}

/// Whether a timeline in both histories began in different terms. A directory older than this record has no terms.
fn clashes(leader: &Lineage, theirs: &BTreeMap<u32, u64>, ours: &BTreeMap<u32, u64>, timeline: u32) -> bool {
    let mut shared = ours.range(..=timeline.min(leader.timeline));
    shared.any(|(timeline, term)| theirs.get(timeline) != Some(term))
        || !ours.is_empty() && timeline <= leader.timeline && ours.get(&timeline) != theirs.get(&timeline)
}

/// Kinship of a former primary's directory: only if it ended cleanly at or before the fork may it follow unchanged. On
/// the leader's own timeline it can only be a copy that diverged.
fn was_primary(seen: &Seen, follow: &Follow) -> Kinship {
    match (&follow.lineage, seen.clean) {
        (None, _) => Kinship::Unknown,
        (Some(leader), _) if clashes(leader, &follow.timeline_terms, &seen.durable.timeline_terms, u32::MAX) => {
            Kinship::Clashing
        }
        (Some(leader), Some((timeline, lsn))) if timeline != leader.timeline => kinship(leader, timeline, lsn),
        _ => Kinship::Diverged,
    }
}

/// The end of the WAL of a directory that ended cleanly or was recovered.
fn wal_end(seen: &Seen) -> Option<Fork> {
    seen.clean.map(|(timeline, ended_at)| Fork { timeline, ended_at })
}

fn rewind_given_up(seen: &Seen) -> bool {
    seen.job.as_ref().is_some_and(|job| match job.kind {
        JobKind::Clone => true,
        JobKind::Recover | JobKind::Rewind => job.failures >= REWINDS_BEFORE_CLONE,
        JobKind::Init | JobKind::Restore => false,
    })
}
