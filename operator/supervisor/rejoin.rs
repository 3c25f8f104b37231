//! The way of a data directory behind a leader: follow as it is, rewind, or be copied anew. Pure; part of `next`.

use std::collections::BTreeMap;

use super::next::{Act, Config, Gate, Seen, Settings, Upstream, when_due};
use super::wire::{Data, Follow, JobKind, Lineage, Postgres, Rule};
use crate::api::lsn::Lsn;
use crate::api::postgres_cluster::Fork;

/// A rewind that failed this often is given up for a base backup.
const REWINDS_BEFORE_CLONE: u32 = 2;

/// One act of an instance that is to follow a leader.
pub fn follow(seen: &Seen, term: u64, follow: &Follow, settings: Settings) -> Act {
    let config = Config {
        gate: Gate::Open,
        upstream: Some(Upstream { address: follow.address.clone(), slot: follow.slot.clone() }),
        settings,
        commit: Rule::never(),
    };
    // Whether this leader can make a rewound directory consistent.
    let same_leader = seen.durable.rewound == follow.lineage.as_ref().map(|lineage| lineage.timeline);
    let started_for_another = seen.started.as_ref().is_some_and(|started| started.upstream != config.upstream);
    match (seen.postgres, seen.data) {
        (Postgres::Primary, Data::Primary) if on_a_branch_of_its_own(seen) => Act::Condemn,
        (Postgres::Primary, _) | (Postgres::Standby | Postgres::Starting, Data::Broken) => Act::StopImmediate,
        // It waits for WAL that will not come.
        (Postgres::Starting, _) if seen.durable.rewound.is_some() && started_for_another => Act::StopImmediate,
        // It can never be consistent: the leader has not got what it needs for that.
        (Postgres::Starting, _) if seen.wal_missing => Act::Condemn,
        // A rewind that was cut off is not tried again: the first one may have overwritten the WAL that tells the
        // second one which pages differ.
        (Postgres::Stopped, Data::None | Data::Broken) => when_due(seen, Act::Clone(follow.clone())),
        (Postgres::Stopped, Data::Primary) => match (was_primary(seen, follow), left(seen)) {
            (Kinship::Unknown, _) => Act::Wait,
            (Kinship::Clashing, _) => Act::Condemn,
            (_, Some(left)) if seen.durable.left.as_ref() != Some(&left) => Act::Leave(left),
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
        // Started without an upstream, so that it is compared with the leader's history before it takes WAL from there.
        (Postgres::Stopped, Data::Standby) => Act::Start { standby: true, config: Config { upstream: None, ..config } },
        (Postgres::Standby, _) => follow_running(seen, term, follow, config),
        _ => Act::Wait,
    }
}

fn follow_running(seen: &Seen, term: u64, follow: &Follow, config: Config) -> Act {
    let Some(server) = &seen.server else { return Act::Poll };
    if seen.restart_asked {
        return Act::StopFast;
    }
    let known = |begun: &BTreeMap<u32, u64>| (seen.durable.begun != *begun).then(|| Act::Remember(begun.clone()));
    if server.streaming && seen.applied.as_ref() == Some(&config) {
        if follow.lineage.is_some() {
            // It may have come to this address before we could compare. What we foresaw of this very term does not count.
            let ours = seen.durable.begun.range(..=server.timeline).filter(|(_, begun)| **begun != term);
            if ours.into_iter().any(|(timeline, begun)| follow.begun.get(timeline) != Some(begun)) {
                return Act::Condemn;
            }
            if let Some(act) = known(&follow.begun) {
                return act;
            }
        }
        let ready = server.slots == follow.slots;
        return if ready { Act::Wait } else { Act::EnsureSlots(follow.slots.clone()) };
    }
    let kin = match &follow.lineage {
        // The leader was chosen as the furthest of those that promised this term, and we are one of them; but another branch
        // of the same number may have promised, too (Regression 22).
        None if seen.durable.promised == term && !on_a_branch_of_its_own(seen) && same_branch(seen, follow) => {
            Kinship::Same
        }
        None => Kinship::Unknown,
        Some(_) if !server.replayed => return Act::Poll,
        Some(lineage) if clashes(lineage, &follow.begun, &seen.durable.begun, server.timeline) => Kinship::Clashing,
        Some(lineage) => kinship(lineage, server.timeline, server.lsn),
    };
    match kin {
        Kinship::Unknown => Act::Wait,
        // A slot that was lost or a WAL that forked away: only a new copy helps. A standby holds nothing that its leader lacks.
        Kinship::Diverged | Kinship::Clashing => Act::Condemn,
        Kinship::Same if seen.wal_missing => Act::Condemn,
        Kinship::Same if seen.applied.as_ref() == Some(&config) => Act::Wait,
        // On disk before the first record of another branch is.
        Kinship::Same => match &follow.lineage {
            Some(_) => known(&follow.begun),
            None => known(&promoted_here(&seen.durable.begun, server.timeline, term)),
        }
        .unwrap_or(Act::Apply(config)),
    }
}

/// What a leader that is about to be promoted from where we are will say of its timelines.
fn promoted_here(begun: &BTreeMap<u32, u64>, timeline: u32, term: u64) -> BTreeMap<u32, u64> {
    let mut begun: BTreeMap<_, _> = begun.range(..=timeline).map(|(timeline, term)| (*timeline, *term)).collect();
    begun.insert(timeline + 1, term);
    begun
}

/// It runs on a timeline that no grant began, as far as timelines were written down here.
pub fn on_a_branch_of_its_own(seen: &Seen) -> bool {
    let begun = &seen.durable.begun;
    !begun.is_empty() && seen.server.as_ref().is_some_and(|server| !begun.contains_key(&server.timeline))
}

enum Kinship {
    /// A prefix of the leader's.
    Same,
    /// It left the leader's WAL somewhere; pg_rewind can tell where.
    Diverged,
    /// Another branch under a number that the leader's branch bears too: PostgreSQL cannot tell them apart, and neither
    /// streaming nor pg_rewind would notice (Regression 3).
    Clashing,
    /// The leader's lineage is not known yet.
    Unknown,
}

/// Every timeline that we are on or came through was begun in the same term as the leader's of that number.
fn same_branch(seen: &Seen, follow: &Follow) -> bool {
    let Some(server) = &seen.server else { return false };
    let mut ours = seen.durable.begun.range(..=server.timeline);
    ours.all(|(timeline, term)| follow.begun.get(timeline) == Some(term))
}

/// Whether WAL that ends at `lsn` on `timeline` is a prefix of the leader's, if their branches are the same.
fn kinship(leader: &Lineage, timeline: u32, lsn: Lsn) -> Kinship {
    let ended = leader.history.iter().find(|fork| fork.timeline == timeline);
    match ended {
        Some(fork) if lsn <= fork.ended_at => Kinship::Same,
        None if timeline == leader.timeline => Kinship::Same,
        _ => Kinship::Diverged,
    }
}

/// A timeline that both went through was begun in different terms. A directory from before this was written down knows none.
fn clashes(leader: &Lineage, theirs: &BTreeMap<u32, u64>, begun: &BTreeMap<u32, u64>, timeline: u32) -> bool {
    let mut shared = begun.range(..=timeline.min(leader.timeline));
    shared.any(|(timeline, term)| theirs.get(timeline) != Some(term))
        || !begun.is_empty() && timeline <= leader.timeline && begun.get(&timeline) != theirs.get(&timeline)
}

/// A directory that was a primary's: only a clean end at or before the fork may follow as it is. On the leader's own
/// timeline it can only be a copy that grew apart.
fn was_primary(seen: &Seen, follow: &Follow) -> Kinship {
    match (&follow.lineage, seen.clean) {
        (None, _) => Kinship::Unknown,
        (Some(leader), _) if clashes(leader, &follow.begun, &seen.durable.begun, u32::MAX) => Kinship::Clashing,
        (Some(leader), Some((timeline, lsn))) if timeline != leader.timeline => kinship(leader, timeline, lsn),
        _ => Kinship::Diverged,
    }
}

/// Where the WAL of a directory that ended cleanly, or recovered, ends.
fn left(seen: &Seen) -> Option<Fork> {
    seen.clean.map(|(timeline, ended_at)| Fork { timeline, ended_at })
}

fn rewind_given_up(seen: &Seen) -> bool {
    seen.job.as_ref().is_some_and(|job| match job.kind {
        JobKind::Clone => true,
        JobKind::Recover | JobKind::Rewind => job.failures >= REWINDS_BEFORE_CLONE,
        JobKind::Init => false,
    })
}
