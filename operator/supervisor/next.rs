//! The supervisor's decisions: [`Seen`] in, one [`Act`] and [`Remembered`] out. Pure and total; `run.rs`
//! performs the act.
//!
//! Invariants, each named where it is kept:
//! - **I3** a promise is monotonic and durable before it is reported ([`accept`]; the shell persists before
//!   it reports).
//! - **I5** no read-write postmaster without a grant of a term at least as high as every promise ([`next`]
//!   starts or
//!   promotes only under [`Task::Lead`], which [`accept`] takes only at or above the promise).
//! - **I8** the gate opens only when the commit rule is in force and its barrier was passed in this run, and
//!   no
//!   session older than the promotion survives it.

use super::rejoin;
use super::state::{Act, Config, Durable, Gate, Remembered, Seen, Settings};
use super::wire::{CONFIRMATION_MS, Data, Lead, Order, Postgres, Promise, Rule, Task};

/// Grace for the operator to decide after the primary's postmaster died, in milliseconds; then the supervisor
/// restarts it, gate shut.
const OPERATOR_DECIDES_MS: u64 = 5_000;
/// After waiting this long for its barrier, in milliseconds, a new primary does its other work meanwhile
/// (database, checkpoint).
const BARRIER_ALONE_MS: u64 = 1_000;
/// Time of polling for a barrier without a pause, in milliseconds; after that a missing voter counts as down.
const BARRIER_EAGER_MS: u64 = 5_000;

/// Why an order is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its term is below the promise.
    #[error("order of term {order} refused: term {promised} is promised")]
    OldTerm {
        /// The order's term.
        order: u64,
        /// The promise.
        promised: u64,
    },
    /// It would undo a decision of the same term.
    #[error("order to {order} refused: term {term} already has this instance {accepted}")]
    Backwards {
        /// The term of both.
        term: u64,
        /// The refused task.
        order: &'static str,
        /// The accepted one.
        accepted: &'static str,
    },
}

/// Accepts or refuses an order. I3: the promise only grows; within a term a task never goes backwards, a role never
/// flips, and an older revision (late on another stream) cannot bring back an older commit rule (I4). `standby`: the
/// timeline of the standby that must lead; the timeline after it begins in this term, which is recorded with the order.
pub fn accept(durable: &Durable, order: &Order, standby: Option<u32>) -> Result<Durable, Refused> {
    if order.term < durable.promised {
        return Err(Refused::OldTerm { order: order.term, promised: durable.promised });
    }
    if let Some(accepted) = durable.order.as_ref().filter(|accepted| accepted.term == order.term) {
        let flips = matches!(
            (&accepted.task, &order.task),
            (Task::Lead(_), Task::Follow(_)) | (Task::Follow(_), Task::Lead(_))
        );
        if flips || order.task.rank() < accepted.task.rank() || order.revision < accepted.revision {
            return Err(Refused::Backwards {
                term: order.term,
                order: order.task.name(),
                accepted: accepted.task.name(),
            });
        }
    }
    let mut timeline_terms = durable.timeline_terms.clone();
    if let (Task::Lead(_), Some(timeline)) = (&order.task, standby) {
        // Later timelines were foreseen and never began: this grant may begin one with the same number.
        timeline_terms.split_off(&(timeline + 1));
        timeline_terms.insert(timeline + 1, order.term);
    }
    // An instance that must lead is no longer a former primary.
    let former_wal_end = durable.former_wal_end.filter(|_| !matches!(order.task, Task::Lead(_)));
    let (promised, order) = (order.term, Some(order.clone()));
    Ok(Durable { promised, order, timeline_terms, former_wal_end, ..durable.clone() })
}

/// The next act, and what this snapshot adds to the memory of the run.
pub fn next(seen: &Seen) -> (Act, Remembered) {
    let remembered = remembered(seen);
    let act = match (act(seen, remembered), &seen.durable.order) {
        // Beside everything else, and only when there is nothing else to do.
        (Act::Wait | Act::Poll, _) if seen.tls_due => Act::LoadTls,
        (Act::Wait | Act::Poll, Some(order)) if seen.settings_due => Act::DryStart(order.settings.clone()),
        (act, _) => act,
    };
    (act, remembered)
}

/// A barrier that was passed stays passed in this run; the youngest confirmation by the leader's voters counts.
fn remembered(seen: &Seen) -> Remembered {
    let Seen { barrier_passed_once, confirmed_ms, .. } = *seen;
    match &seen.durable.order {
        Some(Order { task: Task::Lead(lead), .. }) => Remembered {
            barrier_passed_once: barrier_passed_once || barrier(seen, lead),
            confirmed_ms: [confirmed_ms, voters_confirm(seen, lead)].into_iter().flatten().min(),
        },
        _ => Remembered { barrier_passed_once, confirmed_ms },
    }
}

fn act(seen: &Seen, remembered: Remembered) -> Act {
    if seen.terminating {
        return match seen.postgres {
            Postgres::Stopped => Act::Exit,
            Postgres::Stopping => Act::Wait,
            _ => Act::StopFast,
        };
    }
    if seen.job.as_ref().is_some_and(|job| job.running) || seen.postgres == Postgres::Stopping {
        return Act::Wait;
    }
    if let Some(act) = emptied(seen) {
        return act;
    }
    // A promise and a promotion wait for the end of the replay. A standby that only follows may stay paused.
    let order = seen.durable.order.as_ref();
    let waits = order.is_some_and(|order| matches!(order.task, Task::Prepare | Task::Lead(_)));
    match seen.server.as_ref().filter(|_| seen.postgres == Postgres::Standby) {
        // In this state a server neither replays nor stops its receiver. The WAL it received is on disk.
        Some(server) if server.stuck => return Act::StopFast,
        Some(server) if server.paused && waits => return Act::ResumeReplay,
        _ => {}
    }
    let Some(order) = order else { return Act::Wait };
    let settings = || seen.settings.as_ref().unwrap_or(&order.settings).clone();
    match &order.task {
        Task::Stop { graceful } => stop(seen, *graceful, settings()),
        Task::Prepare => prepare(seen, settings()),
        Task::Follow(follow) => rejoin::follow(seen, order.term, follow, settings()),
        Task::Lead(lead) => self::lead(seen, remembered, order.term, lead, settings()),
    }
}

/// The volume was emptied, partly or completely. First the server on it is stopped: it would acknowledge commits that
/// are on no disk. I3: this process still remembers the promise; it drops the incarnation, because that directory never
/// comes back (I9).
fn emptied(seen: &Seen) -> Option<Act> {
    let mut kept = seen.durable.clone();
    if seen.data == Data::None {
        if seen.postgres != Postgres::Stopped {
            return Some(Act::StopImmediate);
        }
        kept = Durable { promised: kept.promised, order: kept.order, ..Durable::default() };
    }
    (seen.own_gone || kept != seen.durable).then(|| Act::Restore(Box::new(kept)))
}

fn stop(seen: &Seen, graceful: bool, settings: Settings) -> Act {
    match seen.postgres {
        Postgres::Stopped | Postgres::Stopping => Act::Wait,
        _ if !graceful => Act::StopImmediate,
        Postgres::Starting => Act::StopFast,
        Postgres::Primary | Postgres::Standby => {
            let Some(server) = &seen.server else { return Act::Poll };
            if server.primary && !seen.checkpointed_for_stop {
                return Act::CheckpointForStop;
            }
            let mut shut = seen.applied.clone().unwrap_or_default();
            shut.gate = Gate::Shut;
            shut.settings = settings;
            ended_behind(seen, shut).unwrap_or(Act::StopFast)
        }
    }
}

/// The act that shuts the gate by `config` and ends all sessions; `None` when both are done.
fn ended_behind(seen: &Seen, config: Config) -> Option<Act> {
    if seen.applied.as_ref() != Some(&config) {
        return Some(Act::Apply(config));
    }
    (!seen.sessions_ended).then_some(Act::EndSessions)
}

fn prepare(seen: &Seen, settings: Settings) -> Act {
    // A gate that is open for reads may stay open; a primary that must promise must first be down.
    let gate = seen.applied.as_ref().map_or(Gate::Shut, |applied| applied.gate);
    let config = Config { gate, settings, commit: Rule::never(), upstream: None, access: seen.access() };
    match (seen.postgres, seen.data) {
        (Postgres::Primary, _) => Act::StopImmediate,
        // A rewound directory that was never consistent cannot promise, and it answers no query without its
        // leader's WAL.
        (Postgres::Stopped, _) if seen.start_held || seen.durable.rewound.is_some() => Act::Wait,
        (Postgres::Stopped, Data::Standby | Data::Primary) => Act::Start { standby: true, config },
        (Postgres::Standby, _) if seen.applied.as_ref() != Some(&config) => Act::Apply(config),
        (Postgres::Standby, _) if promise(seen).is_none() => Act::Poll,
        _ => Act::Wait,
    }
}

/// The promise, if it holds now: no upstream configured, no receiver left, all received WAL replayed.
/// Only then can an older leader get no acknowledgement from here: a receiver flushes and replies until its
/// process has ended.
pub fn promise(seen: &Seen) -> Option<Promise> {
    let server = seen.server.as_ref()?;
    let order = seen.durable.order.as_ref()?;
    let quiet = seen.applied.as_ref()?.upstream.is_none() && !server.receiver && server.replayed;
    let asked = matches!(order.task, Task::Prepare) && order.term == seen.durable.promised && !server.primary;
    let promise = Promise { term: order.term, timeline: server.timeline, lsn: server.lsn };
    (asked && quiet && !cannot_promise(seen)).then_some(promise)
}

/// A rewound directory that was not consistent since cannot promise. The WAL of a branch that no grant began (a
/// promotion by hand) is not comparable.
pub fn cannot_promise(seen: &Seen) -> bool {
    seen.durable.rewound.is_some() || rejoin::on_a_branch_of_its_own(seen)
}

fn lead(seen: &Seen, remembered: Remembered, term: u64, lead: &Lead, settings: Settings) -> Act {
    let access = seen.access();
    let shut = Config { commit: lead.commit.clone(), gate: Gate::Shut, upstream: None, settings, access };
    match (seen.postgres, seen.data) {
        (Postgres::Stopped, Data::None) => match &lead.init {
            // What the data is recovered from may arrive after the order. Nothing else is made instead.
            Some(_) if lead.recovery.is_some() && !seen.has_source => Act::Wait,
            Some(init) if seen.job_due => match &lead.recovery {
                Some(recovery) => Act::Recovery(recovery.clone()),
                None => Act::InitDb(init.clone()),
            },
            _ => Act::Wait,
        },
        (Postgres::Stopped, Data::Primary) => {
            // I5: the grant is of the promised term. I8: the gate stays shut until this run's own barrier.
            let operator_decides =
                seen.operator_ms.is_some_and(|ms| ms < OPERATOR_DECIDES_MS) || seen.stopped_ms < OPERATOR_DECIDES_MS;
            let start = !seen.start_held && (start_pending(seen) || !operator_decides);
            if start { Act::Start { standby: false, config: shut } } else { Act::Wait }
        }
        (Postgres::Stopped, Data::Standby) if seen.start_held => Act::Wait,
        (Postgres::Stopped, Data::Standby) => Act::Start { standby: true, config: shut },
        (Postgres::Standby, _) => promotion(seen, term, lead, shut),
        (Postgres::Primary, _) => leading(seen, remembered, term, lead, shut),
        _ => Act::Wait,
    }
}

/// The postmaster is down but will start without a further order, so this is no evidence of a failure.
pub fn start_pending(seen: &Seen) -> bool {
    seen.fresh || seen.restart_asked || seen.ordered_since_stop
}

/// The candidate, still a standby: slots, the new term's commit rule, no sessions, all replayed; only then
/// the promotion.
fn promotion(seen: &Seen, term: u64, lead: &Lead, shut: Config) -> Act {
    let Some(server) = &seen.server else { return Act::Poll };
    if server.slots != lead.slots {
        // Slots first: the other standbys may follow already, and they stream through slots of this instance.
        return Act::EnsureSlots(lead.slots.clone());
    }
    if let Some(act) = ended_behind(seen, shut) {
        return act;
    }
    if server.receiver || !server.replayed {
        return Act::Poll;
    }
    record_term(seen, server.timeline + 1, term).unwrap_or(Act::Promote)
}

/// Records that this timeline begins in this term, unless that is on disk.
fn record_term(seen: &Seen, timeline: u32, term: u64) -> Option<Act> {
    let mut terms = seen.durable.timeline_terms.clone();
    (!terms.contains_key(&timeline)).then(|| {
        terms.insert(timeline, term);
        Act::RecordTimelineTerms(terms)
    })
}

fn leading(seen: &Seen, remembered: Remembered, term: u64, lead: &Lead, shut: Config) -> Act {
    let Some(server) = &seen.server else { return Act::Poll };
    if seen.restart_asked {
        return Act::StopFast;
    }
    let open_now = seen.applied.as_ref().is_some_and(|applied| applied.gate == Gate::Open);
    if open_now && !confirmed(seen, lead) {
        // The voters may already follow another leader: stop reads and writes here at once.
        return Act::StopImmediate;
    }
    if let Some(act) = record_term(seen, server.timeline, term) {
        return act;
    }
    // A new cluster serves nobody before its application can work.
    let complete = seen.app_ensured || !server.without_app;
    let opens = lead.open && remembered.barrier_passed_once && confirmed(seen, lead) && (complete || open_now);
    let gate = if opens { Gate::Open } else { Gate::Shut };
    let wanted = Config { gate, ..shut };
    if server.slots != lead.slots {
        return Act::EnsureSlots(lead.slots.clone());
    }
    if seen.applied.as_ref() != Some(&wanted) {
        return Act::Apply(wanted);
    }
    let passed = barrier(seen, lead);
    let served = passed && gate == Gate::Open;
    // After a failover the database exists, and the barrier comes first.
    let due = !seen.app_ensured && !seen.app_busy && seen.credentials.is_some();
    if due && (!complete || served || seen.barrier_ms >= BARRIER_ALONE_MS) {
        return Act::EnsureApp { database: lead.database.clone(), owner: lead.owner.clone() };
    }
    if seen.barrier_lsn.is_none() {
        return Act::SetBarrier;
    }
    if !seen.checkpoint_started && !server.checkpointed && (served || seen.barrier_ms >= BARRIER_ALONE_MS) {
        // pg_rewind needs the new timeline in the control file. The checkpoint comes after the gate, because its writes
        // would delay the opening; except when the barrier itself waits for standbys that must be rewound.
        return Act::Checkpoint;
    }
    if passed || seen.barrier_ms >= BARRIER_EAGER_MS { Act::Wait } else { Act::Poll }
}

/// The commit rule is in force, and enough of its voters have flushed everything up to the moment when it
/// came into force.
pub fn barrier(seen: &Seen, lead: &Lead) -> bool {
    let (Some(server), Some(lsn), Some(applied)) = (&seen.server, seen.barrier_lsn, &seen.applied) else {
        return false;
    };
    let flushed = server
        .replicas
        .iter()
        .filter(|replica| replica.streaming && replica.lsn >= lsn && lead.commit.names.contains(&replica.incarnation))
        .count();
    server.primary && applied.commit == lead.commit && flushed >= lead.commit.count as usize
}

/// Enough voters confirmed, or the operator renewed the grant, within [`CONFIRMATION_MS`].
pub fn confirmed(seen: &Seen, lead: &Lead) -> bool {
    let within = |since: Option<u64>| since.is_some_and(|ms| ms < CONFIRMATION_MS);
    within(voters_confirm(seen, lead)) || within(seen.confirmed_ms) || within(seen.renewed_ms)
}

/// Age of the voters' confirmation in milliseconds: the oldest of the newest replies that are enough. 0 if
/// none is needed.
pub fn voters_confirm(seen: &Seen, lead: &Lead) -> Option<u64> {
    let replicas = seen.server.iter().flat_map(|server| &server.replicas);
    let voters = replicas.filter(|replica| replica.streaming && lead.confirm.names.contains(&replica.incarnation));
    let mut silent: Vec<u64> = voters.map(|replica| replica.silent_ms).collect();
    silent.sort_unstable();
    match lead.confirm.count as usize {
        0 => Some(0),
        count => silent.get(count - 1).copied(),
    }
}

#[cfg(test)]
mod tests;
