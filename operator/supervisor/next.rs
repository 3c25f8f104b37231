//! The supervisor's decisions: what it has seen in, one act out. Pure and total; `run.rs` performs.
//!
//! Invariants, each named where it is kept:
//! - **I3** a promise is monotonic and durable before any answer ([`accept`]; the shell persists before it reports).
//! - **I5** no read-write postmaster without a grant of a term at least as high as every promise ([`next`] starts or
//!   promotes only under [`Task::Lead`], which [`accept`] takes only at or above the promise).
//! - **I8** the gate opens only when the commit rule is in force and its barrier passed in this very run, and no
//!   session older than the promotion survives it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::wire::{
    CONFIRMATION_MS, Data, Follow, Init, Job, JobKind, Lead, Order, Postgres, Promise, Replica, Rule, Task,
};
use crate::api::lsn::Lsn;
use crate::api::postgres_cluster::Fork;

/// After the death of a primary's postmaster the operator has this long to decide before the supervisor starts it again by itself, gate shut.
const OPERATOR_DECIDES_MS: u64 = 5_000;
/// A new primary whose barrier takes longer than this checkpoints meanwhile.
const BARRIER_ALONE_MS: u64 = 1_000;
/// For so long a barrier is looked for eagerly; whoever is missing then is away.
const BARRIER_EAGER_MS: u64 = 5_000;

/// What the supervisor must never forget; written and fsynced before anything follows from it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Hash)]
#[serde(rename_all = "camelCase", default)]
pub struct Durable {
    /// UUID of the data directory.
    pub incarnation: Option<String>,
    /// The highest term promised.
    pub promised: u64,
    /// The order in force.
    pub order: Option<Order>,
    /// A base backup or rewind has begun and not ended: the directory is unusable.
    pub unfinished: Option<JobKind>,
    /// It was rewound onto a leader of this timeline and has not been consistent since: it needs that leader's WAL to
    /// become so, and answers nothing before.
    pub rewound: Option<u32>,
    /// The term in which each timeline of this directory was begun, as far as known.
    pub begun: BTreeMap<u32, u64>,
    /// Where its WAL ended when it last ceased to be a primary's: the operator tells people what may be lost by it.
    pub left: Option<Fork>,
}

/// Why an order is not taken.
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
    /// It would undo what the same term already decided.
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

/// Takes an order or refuses it. I3: the promise only grows; within a term a task never goes backwards, a role never
/// flips, and an older revision (late on another stream) brings back no older commit rule (I4). `standby`: the timeline
/// of the standby that is to lead; that the next one begins in this term is written down with the order.
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
    let mut begun = durable.begun.clone();
    if let (Task::Lead(_), Some(timeline)) = (&order.task, standby) {
        begun.entry(timeline + 1).or_insert(order.term);
    }
    // Of a former time as primary; whoever leads (again) has left nothing.
    let left = durable.left.filter(|_| !matches!(order.task, Task::Lead(_)));
    Ok(Durable { promised: order.term, order: Some(order.clone()), begun, left, ..durable.clone() })
}

/// Who may connect by `pg_hba.conf`; replication and the supervisor always may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Gate {
    /// Nobody else.
    #[default]
    Shut,
    /// Every role with its password.
    Open,
}

/// Where a standby streams from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// Address of the leader.
    pub address: String,
    /// Our slot there.
    pub slot: String,
}

/// The configuration a server is to run with; rendered to files by the shell and verified in a new session.
#[derive(Debug, Clone, PartialEq, Default, Hash)]
pub struct Config {
    /// synchronous_standby_names.
    pub commit: Rule,
    /// pg_hba.conf.
    pub gate: Gate,
    /// primary_conninfo and primary_slot_name.
    pub upstream: Option<Upstream>,
    /// The user's settings.
    pub settings: BTreeMap<String, String>,
}

/// A running server, as its last poll found it. All of it belongs to the run under way.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Server {
    /// Not in recovery.
    pub primary: bool,
    /// Live timeline (standby: of what it received or replayed last).
    pub timeline: u32,
    /// End of the WAL, as in `Report::lsn`.
    pub lsn: Lsn,
    /// Standby: a WAL receiver process exists.
    pub receiver: bool,
    /// Standby: the receiver streams.
    pub streaming: bool,
    /// Standby: everything received is replayed (a positive signal, not a guess).
    pub replayed: bool,
    /// Standby: replay stands still because a setting is lower than the leader's; a restart takes the higher one.
    pub stuck: bool,
    /// Standby: replay is paused, whoever did it.
    pub paused: bool,
    /// Sessions of clients that are connected now.
    pub sessions: u32,
    /// Primary: who streams from it.
    pub replicas: Vec<Replica>,
    /// Primary: names of the slots it has.
    pub slots: Vec<String>,
    /// Primary: its timeline history.
    pub history: Vec<Fork>,
    /// Primary: control file's timeline is the live one.
    pub checkpointed: bool,
}

/// Everything a decision may rest on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Seen {
    /// What is on disk of ours.
    pub durable: Durable,
    /// The data directory.
    pub data: Data,
    /// Something of ours that was on the volume is not there any more.
    pub own_gone: bool,
    /// Of a server that is down: shut down cleanly, with its timeline and the end of its WAL.
    pub clean: Option<(u32, Lsn)>,
    /// The postmaster.
    pub postgres: Postgres,
    /// The run under way or last; new at boot.
    pub run: String,
    /// Milliseconds since the postmaster ended (or since boot, if it has not run yet).
    pub stopped_ms: u64,
    /// The directory was made by initdb in this boot and no postmaster has run on it yet.
    pub fresh: bool,
    /// The start is held back: it failed just now.
    pub start_held: bool,
    /// The operator asked to restart this very run.
    pub restart_asked: bool,
    /// An order of a new term came since the postmaster ended (or since boot): the operator has decided.
    pub ordered_since_stop: bool,
    /// Poll of the running server; `None` until the first one of this run.
    pub server: Option<Server>,
    /// The configuration this run was started with.
    pub started: Option<Config>,
    /// The configuration verified in this run.
    pub applied: Option<Config>,
    /// Sessions were ended since the gate was last shut in this run, and none is left.
    pub sessions_ended: bool,
    /// Standby: the leader no longer has the WAL or the timeline history that we need (said in the log of this run).
    pub wal_missing: bool,
    /// Primary: the log position up to which the commit rule's voters must have flushed; `None` until the rule is in force.
    pub barrier_lsn: Option<Lsn>,
    /// Primary: milliseconds since [`Seen::barrier_lsn`] was set.
    pub barrier_ms: u64,
    /// Primary: a barrier was passed in this run.
    pub barrier_passed_once: bool,
    /// Primary: the application's database and owner are as the credentials say, in this run.
    pub app_ensured: bool,
    /// Primary: a checkpoint was started in this run.
    pub checkpoint_started: bool,
    /// Primary: a checkpoint was done for the graceful stop that is ordered.
    pub checkpointed_for_stop: bool,
    /// Job under way or failed.
    pub job: Option<Job>,
    /// The next try of a failed job may begin.
    pub job_due: bool,
    /// Credentials are there.
    pub credentials: bool,
    /// Milliseconds since the operator last said anything; `None`: not since boot.
    pub operator_ms: Option<u64>,
    /// Primary: milliseconds since enough voters confirmed it, in this run; `None`: never, or the clock jumped since.
    pub confirmed_ms: Option<u64>,
    /// Milliseconds since the operator renewed the grant's own term; `None`: never.
    pub renewed_ms: Option<u64>,
    /// SIGTERM came.
    pub terminating: bool,
}

/// One act of the shell. Each may be repeated; the next look decides what follows.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// Nothing until something happens or the next poll is due.
    Wait,
    /// Poll the server again almost at once: a transition is under way.
    Poll,
    /// Make a data directory (job).
    InitDb(Init),
    /// Copy the leader into a new directory, new incarnation (job).
    Clone(Follow),
    /// Let the old directory recover from its crash by itself, so that the end of its WAL is known (job).
    Recover,
    /// Write down where its WAL ended, before it follows somebody.
    Leave(Fork),
    /// Rewind the old directory, which ended cleanly, onto the leader (job).
    Rewind(Follow),
    /// Start the postmaster; `standby` says whether standby.signal is to be there.
    Start {
        /// As a standby.
        standby: bool,
        /// Rendered before the start.
        config: Config,
    },
    /// Render, reload, verify in a new session.
    Apply(Config),
    /// End all sessions of clients.
    EndSessions,
    /// Make and drop slots until there are these.
    EnsureSlots(Vec<String>),
    /// pg_promote.
    Promote,
    /// Make the application's database and owner, and set its password.
    EnsureApp {
        /// Database.
        database: String,
        /// Owner.
        owner: String,
    },
    /// Write and flush a record, and take the position after it as the barrier.
    SetBarrier,
    /// Checkpoint in the background.
    Checkpoint,
    /// Checkpoint (bounded) while clients are still served, so that the shutdown checkpoint is short.
    CheckpointForStop,
    /// Stop fast: standbys get everything; immediate if that takes too long.
    StopFast,
    /// Write down in which term each timeline was begun.
    Remember(BTreeMap<u32, u64>),
    /// Mark the data directory as to be made anew.
    Condemn,
    /// Make our folder on the volume again, with this in it.
    Restore(Durable),
    /// Stop now, without a checkpoint.
    StopImmediate,
    /// End the supervisor itself.
    Exit,
}

/// One act, from everything seen.
pub fn next(seen: &Seen) -> Act {
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
    // A promise and a promotion wait for the end of the replay; who follows may be paused by somebody.
    let order = seen.durable.order.as_ref();
    let waits = order.is_some_and(|order| matches!(order.task, Task::Prepare | Task::Lead(_)));
    let stands = |server: &Server| server.stuck || server.paused && waits;
    if seen.postgres == Postgres::Standby && seen.server.as_ref().is_some_and(stands) {
        // It neither replays nor stops its receiver; what it received is on disk.
        return Act::StopFast;
    }
    let Some(order) = order else { return Act::Wait };
    let settings = || order.settings.clone();
    match &order.task {
        Task::Stop { graceful } => stop(seen, *graceful, settings()),
        Task::Prepare => prepare(seen, settings()),
        Task::Follow(follow) => super::rejoin::follow(seen, order.term, follow, settings()),
        Task::Lead(lead) => self::lead(seen, order.term, lead, settings()),
    }
}

/// The volume was emptied, in part or whole. What runs on it acknowledges what is nowhere, so it ends first. I3: a promise is
/// remembered for as long as this process lives; who the directory was is not, for that one never comes back (I9).
fn emptied(seen: &Seen) -> Option<Act> {
    let mut remembered = seen.durable.clone();
    if seen.data == Data::None {
        if seen.postgres != Postgres::Stopped {
            return Some(Act::StopImmediate);
        }
        remembered = Durable { promised: remembered.promised, order: remembered.order, ..Durable::default() };
    }
    (seen.own_gone || remembered != seen.durable).then_some(Act::Restore(remembered))
}

pub(super) type Settings = BTreeMap<String, String>;

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

/// With the gate shut by `config`, no session left: `None` when that is so.
fn ended_behind(seen: &Seen, config: Config) -> Option<Act> {
    if seen.applied.as_ref() != Some(&config) {
        return Some(Act::Apply(config));
    }
    (!seen.sessions_ended).then_some(Act::EndSessions)
}

fn prepare(seen: &Seen, settings: Settings) -> Act {
    // A gate that is open for reads may stay so; a primary that is asked to promise must be down first.
    let gate = seen.applied.as_ref().map_or(Gate::Shut, |applied| applied.gate);
    let config = Config { gate, settings, commit: Rule::never(), upstream: None };
    match (seen.postgres, seen.data) {
        (Postgres::Primary, _) => Act::StopImmediate,
        // What was rewound and never consistent has nothing to promise, and without a leader's WAL it answers nothing.
        (Postgres::Stopped, _) if seen.start_held || seen.durable.rewound.is_some() => Act::Wait,
        (Postgres::Stopped, Data::Standby | Data::Primary) => Act::Start { standby: true, config },
        (Postgres::Standby, _) if seen.applied.as_ref() != Some(&config) => Act::Apply(config),
        (Postgres::Standby, _) if promise(seen).is_none() => Act::Poll,
        _ => Act::Wait,
    }
}

/// The promise that holds now, if one does: no upstream configured, no receiver left, all that came is replayed.
/// Only then can an older leader get no acknowledgement from here (EXP-1 of the studied facts).
pub fn promise(seen: &Seen) -> Option<Promise> {
    let server = seen.server.as_ref()?;
    let order = seen.durable.order.as_ref()?;
    let quiet = seen.applied.as_ref()?.upstream.is_none() && !server.receiver && server.replayed;
    let asked = matches!(order.task, Task::Prepare) && order.term == seen.durable.promised && !server.primary;
    let promise = Promise { term: order.term, timeline: server.timeline, lsn: server.lsn };
    (asked && quiet && !cannot_promise(seen)).then_some(promise)
}

/// What was rewound and not consistent since answers nothing. On a branch that no grant began (somebody promoted it by
/// hand) its WAL is not comparable.
pub fn cannot_promise(seen: &Seen) -> bool {
    seen.durable.rewound.is_some() || super::rejoin::on_a_branch_of_its_own(seen)
}

pub(super) fn when_due(seen: &Seen, act: Act) -> Act {
    if seen.job_due && seen.credentials { act } else { Act::Wait }
}

fn lead(seen: &Seen, term: u64, lead: &Lead, settings: Settings) -> Act {
    let shut = Config { commit: lead.commit.clone(), gate: Gate::Shut, upstream: None, settings };
    match (seen.postgres, seen.data) {
        (Postgres::Stopped, Data::None) => match &lead.init {
            Some(init) if seen.job_due => Act::InitDb(init.clone()),
            _ => Act::Wait,
        },
        (Postgres::Stopped, Data::Primary) => {
            // I5: this is a grant of the promised term. I8: the gate stays shut until this run's own barrier.
            let operator_decides =
                seen.operator_ms.is_some_and(|ms| ms < OPERATOR_DECIDES_MS) || seen.stopped_ms < OPERATOR_DECIDES_MS;
            match () {
                () if seen.start_held => Act::Wait,
                () if start_pending(seen) || !operator_decides => Act::Start { standby: false, config: shut },
                () => Act::Wait,
            }
        }
        (Postgres::Stopped, Data::Standby) if seen.start_held => Act::Wait,
        (Postgres::Stopped, Data::Standby) => Act::Start { standby: true, config: shut },
        (Postgres::Standby, _) => promotion(seen, term, lead, shut),
        (Postgres::Primary, _) => leading(seen, term, lead, shut),
        _ => Act::Wait,
    }
}

/// The postmaster is down but about to start by itself: nothing is to be concluded from its being down.
pub fn start_pending(seen: &Seen) -> bool {
    seen.fresh || seen.restart_asked || seen.ordered_since_stop
}

/// The candidate, still a standby: slots, the new term's commit rule, no session left, all replayed, and only then the promotion.
fn promotion(seen: &Seen, term: u64, lead: &Lead, shut: Config) -> Act {
    let Some(server) = &seen.server else { return Act::Poll };
    if server.slots != lead.slots {
        // First of all: the other standbys may follow already, and their slots are here.
        return Act::EnsureSlots(lead.slots.clone());
    }
    if let Some(act) = ended_behind(seen, shut) {
        return act;
    }
    if server.receiver || !server.replayed {
        return Act::Poll;
    }
    remember(seen, server.timeline + 1, term).unwrap_or(Act::Promote)
}

/// That this timeline begins in this term, unless that is on disk.
fn remember(seen: &Seen, timeline: u32, term: u64) -> Option<Act> {
    let mut begun = seen.durable.begun.clone();
    (!begun.contains_key(&timeline)).then(|| {
        begun.insert(timeline, term);
        Act::Remember(begun)
    })
}

fn leading(seen: &Seen, term: u64, lead: &Lead, shut: Config) -> Act {
    let Some(server) = &seen.server else { return Act::Poll };
    if seen.restart_asked {
        return Act::StopFast;
    }
    let open_now = seen.applied.as_ref().is_some_and(|applied| applied.gate == Gate::Open);
    if open_now && !confirmed(seen, lead) {
        // The quorum may have moved on: nobody is to read or write here, at once.
        return Act::StopImmediate;
    }
    if let Some(act) = remember(seen, server.timeline, term) {
        return act;
    }
    let gate = if lead.open && seen.barrier_passed_once && confirmed(seen, lead) { Gate::Open } else { Gate::Shut };
    let wanted = Config { gate, ..shut };
    if server.slots != lead.slots {
        return Act::EnsureSlots(lead.slots.clone());
    }
    if seen.applied.as_ref() != Some(&wanted) {
        return Act::Apply(wanted);
    }
    let passed = barrier(seen, lead);
    let served = passed && gate == Gate::Open;
    // A new cluster's clients need it; those of one that failed over have it, and wait for the barrier.
    match (seen.app_ensured, seen.credentials) {
        (false, true) if lead.init.is_some() || served || seen.barrier_ms >= BARRIER_ALONE_MS => {
            return Act::EnsureApp { database: lead.database.clone(), owner: lead.owner.clone() };
        }
        (false, false) if lead.init.is_some() => return Act::Wait,
        _ => {}
    }
    if seen.barrier_lsn.is_none() {
        return Act::SetBarrier;
    }
    if !seen.checkpoint_started && !server.checkpointed && (served || seen.barrier_ms >= BARRIER_ALONE_MS) {
        // pg_rewind needs the new timeline in the control file. Nobody waits for it, unless it is those who must be
        // rewound that the barrier waits for; its writes would only hold up the opening of the gate.
        return Act::Checkpoint;
    }
    if passed || seen.barrier_ms >= BARRIER_EAGER_MS { Act::Wait } else { Act::Poll }
}

/// The commit rule is in force and everything up to the moment it came into force is flushed by enough of its voters.
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

/// How long ago the last of enough voters that stream from here replied, in milliseconds: so old is their confirmation.
/// An empty need is met at once.
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
