//! Decides who is master, and the course of a failover or switchover. Pure.
//!
//! A majority of Sentinels is the authority. The operator asks one Sentinel to fail over when a death is proven, and follows
//! what Sentinels decided in all other cases. The protocol and its invariants: `docs/redis.md`.

use std::time::Duration;

use super::decided::{Decided, Told};
use super::loss::last_offset;
use super::recovery;
use super::view::{Member, View, position};
use crate::api::redis_sentinel::{ChangePhase, RedisChange, RedisDecisions, RedisStage};
use crate::supervisor::redis::wire::{Act, Role, Server};

/// Time for replicas to take over their priorities before a Sentinel is asked without waiting for that.
const PREFER_FAILOVER: Duration = Duration::from_millis(300);
/// Time for the Sentinels to learn priorities before a switchover: they ask for them every 10 s.
const PREFER_SWITCHOVER: Duration = Duration::from_secs(12);
/// Longest pause of writes before a switchover is given up.
const PAUSE: Duration = Duration::from_secs(5);
/// Wait after a Sentinel refused, before another is asked.
const AGAIN: Duration = Duration::from_millis(200);
/// Time for a Sentinel to promote; it was told and did not refuse.
const PROMOTE: Duration = Duration::from_secs(10);
/// Time to wait for the data of members that do not answer, before the newest of the others leads.
const GATHER: Duration = Duration::from_secs(10);

/// One decision.
pub fn decide(view: &View) -> Decided {
    match view.before.stage {
        RedisStage::New => found(view),
        RedisStage::Founding => establish(view),
        RedisStage::Steady => steady(view),
    }
}

/// Chooses the first master: the one that Sentinels which run already name, or else the member with the newest data.
fn found(view: &View) -> Decided {
    let unchanged = Decided::unchanged(view.before);
    if view.members.is_empty() || view.members.iter().chain(&view.sentinels).any(|one| one.address().is_none()) {
        return unchanged;
    }
    if let Some(adopted) = adopt_running(view) {
        return adopted;
    }
    // Invariant: a member without data never becomes master while another has data, or was not asked.
    let silent: Vec<&str> = view.members.iter().filter(|one| one.redis().is_none()).map(Member::name).collect();
    if !silent.is_empty() {
        let message = format!("waiting for {}: the member with the newest data becomes master", silent.join(", "));
        return unchanged.blocked("Starting", message);
    }
    let Some(mut newest) = newest(view) else { return unchanged };
    // Invariant: of an object that is to be restored, no member leads without data but one that was restored.
    if newest.redis().is_none_or(|seen| !seen.has_data) {
        if let Some(recovering) = recovery::recover(view) {
            return recovering;
        }
        newest = recovery::restored(view).unwrap_or(newest);
    }
    let Some(report) = newest.live() else { return unchanged };
    let epochs = view.members.iter().filter_map(|one| one.redis()?.order.as_ref()).map(|order| order.epoch);
    let mut decisions = view.before.clone();
    decisions.stage = RedisStage::Founding;
    decisions.epoch = epochs.max().unwrap_or(0) + 1;
    decisions.group = view.object.metadata.uid.clone().unwrap_or_default();
    (decisions.master, decisions.run) = (Some(newest.name().to_owned()), Some(report.run.clone()));
    decisions.since = view.now;
    Decided { decisions, ..unchanged }
}

/// Takes over members that run: the operator has lost its record of them.
fn adopt_running(view: &View) -> Option<Decided> {
    let (address, config_epoch, count) = view.named()?;
    let master = view.at(address).filter(|member| view.is_majority(count) && member.role() == Some(Role::Master))?;
    let group = view.watching().find_map(|(_, seen, _)| Some(seen.watch.as_ref()?.group.clone()))?;
    let epochs = view.members.iter().filter_map(|one| one.redis()?.order.as_ref()).map(|order| order.epoch);
    let mut decisions = view.before.clone();
    (decisions.stage, decisions.group, decisions.config_epoch) = (RedisStage::Steady, group, config_epoch);
    decisions.epoch = epochs.max().unwrap_or(0) + 1;
    (decisions.master, decisions.run) = (Some(master.name().to_owned()), Some(master.live()?.run.clone()));
    decisions.since = view.now;
    Some(Decided { decisions, ..Decided::unchanged(view.before) })
}

/// The member with the newest data; of equal ones the recorded master, then the first.
fn newest<'v, 'a>(view: &'v View<'a>) -> Option<&'v Member<'a>> {
    let asked = view.members.iter().filter_map(|member| Some((member, member.redis()?)));
    let rank = |member: &Member, seen: &crate::supervisor::redis::wire::RedisSeen| {
        let server = member.live().map(|report| report.server).unwrap_or_default();
        let position = position(seen, server);
        let recorded = view.before.master.as_deref() == Some(member.name());
        // Without data its position is worth nothing.
        let position = Some((position.epoch, position.offset)).filter(|_| seen.has_data);
        (position, recorded, std::cmp::Reverse(member.place.ordinal))
    };
    asked.max_by_key(|(member, seen)| rank(member, seen)).map(|(member, _)| member)
}

/// Waits until the first master runs and Sentinels watch it.
fn establish(view: &View) -> Decided {
    let unchanged = Decided::unchanged(view.before);
    let Some(master) = view.master() else { return unchanged };
    let watched =
        view.named().is_some_and(|(address, _, count)| Some(address) == master.address() && view.is_majority(count));
    let mut decisions = view.before.clone();
    if watched && master.role() == Some(Role::Master) {
        (decisions.stage, decisions.since) = (RedisStage::Steady, view.now);
        decisions.config_epoch = view.named().map_or(0, |(_, epoch, _)| epoch);
        return Decided { decisions, ..unchanged };
    }
    // It ended before it was established. If no Sentinel knows it, the choice is made anew, by the data that there is now.
    let ended = master.dead().is_some() && master.live().map(|report| &report.run) != view.before.run.as_ref();
    if ended {
        // Sentinels that know it already are not told of another one: they promote a replica, if there is one.
        let known = view.named().map(|(_, epoch, _)| epoch);
        let stage = if known.is_some() { RedisStage::Steady } else { RedisStage::New };
        (decisions.stage, decisions.since, decisions.config_epoch) = (stage, view.now, known.unwrap_or(0));
        return Decided { decisions, ..unchanged };
    }
    unchanged
}

fn steady(view: &View) -> Decided {
    if let Some(moved) = moved(view) {
        return moved;
    }
    if let Some(adopted) = adopt(view) {
        return adopted;
    }
    match &view.before.change {
        Some(change) if change.request.is_some() => switching(view, change),
        Some(change) => failing(view, change),
        None => watch(view),
    }
}

/// All addresses have changed, because the network was made again: the Sentinels watch one that does not exist. They begin
/// anew, as another group, at the master that runs.
fn moved(view: &View) -> Option<Decided> {
    let before = view.before;
    let master = view.master().filter(|master| master.role() == Some(Role::Master))?;
    let lost = view.watching().all(|(_, _, one)| view.at(one.address).is_none());
    if before.change.is_some() || !lost || !view.is_majority(view.watching().count()) {
        return None;
    }
    let mut decisions = before.clone();
    decisions.epoch += 1;
    decisions.group = format!("{}.{}", before.group.split('.').next().unwrap_or_default(), decisions.epoch);
    (decisions.stage, decisions.since, decisions.config_epoch) = (RedisStage::Founding, view.now, 0);
    decisions.run = master.live().map(|report| report.run.clone());
    Some(Decided { decisions, ..Decided::unchanged(before) })
}

/// Takes over what Sentinels decided: another master, or only a newer config epoch of the same.
fn adopt(view: &View) -> Option<Decided> {
    let before = view.before;
    // A Sentinel promoted it in this very epoch, on our request: waiting until the others have heard of it would take a second.
    let asked = before.change.as_ref().is_some_and(|change| change.phase == ChangePhase::Promoting);
    let promoted = view.members.iter().find(|member| {
        let turned = member.serving().is_some_and(|seen| seen.promoted == Some(before.epoch));
        asked && before.master.as_deref() != Some(member.name()) && turned && member.role() == Some(Role::Master)
    });
    if let Some(member) = promoted {
        return Some(promotion(view, member, before.config_epoch));
    }
    let (address, config_epoch, count) = view.named()?;
    let told = before.leader.is_some() && view.watching().all(|(_, _, one)| one.config_epoch == before.config_epoch);
    if told && config_epoch == before.config_epoch && view.master().is_none_or(|one| one.address() == Some(address)) {
        let decisions = RedisDecisions { leader: None, ..before.clone() };
        return Some(Decided { decisions, ..Decided::unchanged(before) });
    }
    if config_epoch <= before.config_epoch {
        return None;
    }
    let member = view.at(address)?;
    if before.master.as_deref() == Some(member.name()) {
        let all = view.watching().all(|(_, _, one)| (one.address, one.config_epoch) == (address, config_epoch));
        let leader = before.leader.clone().filter(|_| !all);
        let decisions = RedisDecisions { config_epoch, leader, ..before.clone() };
        return Some(Decided { decisions, ..Decided::unchanged(before) });
    }
    let agreed = view.is_majority(count) || member.role() == Some(Role::Master);
    agreed.then(|| promotion(view, member, config_epoch))
}

/// Records that this member is master now.
fn promotion(view: &View, member: &Member, config_epoch: u64) -> Decided {
    let before = view.before;
    let from = before.master.clone().unwrap_or_default();
    let mut told = Vec::new();
    let heard = view.master().map(last_offset);
    // The Sentinels were faster than a switchover for which none was asked yet.
    let overtaken = before.change.as_ref().filter(|change| change.phase != ChangePhase::Promoting);
    let overtaken = overtaken.and_then(|change| change.request.clone());
    let own = before.change.as_ref().filter(|_| overtaken.is_none());
    if let Some(request) = overtaken {
        let why = "the Sentinels chose a new master by themselves before one was asked: see lastFailover".to_owned();
        told.push(Told::Refused { request, why });
    }
    if own.is_none() {
        let why = view.master().and_then(Member::dead);
        let why = why.unwrap_or_else(|| "the Sentinels agreed that it is down".to_owned());
        let cause = format!("{from}: {why}; the Sentinels chose a new master");
        // With a pause it began when the Sentinels took the master for down; else when that was last heard.
        let paused = before.change.as_ref().filter(|change| change.phase == ChangePhase::Yielding);
        let paused = paused.map(|change| view.now.duration_since(change.since).as_millis());
        let paused = paused.map(|ms| u64::try_from(ms).unwrap_or(0));
        let ago_ms = paused.or(heard.and_then(|(_, age)| age)).unwrap_or(0);
        told.push(Told::Began { cause, from, request: None, ago_ms });
    }
    let change = own.map(|change| (change.offset, change.heard_ms));
    let (had, heard_ms) = change.or(heard).filter(|(offset, _)| *offset > 0).unzip();
    let has = member.serving().map(|seen| seen.promoted.map_or(seen.offset, |_| seen.promoted_offset));
    let lost = had.zip(has).map(|(had, has)| had.saturating_sub(has));
    let lives = own.is_none() && view.master().is_some_and(|old| old.dead().is_none());
    told.push(Told::Promoted { to: member.name().to_owned(), lost, heard_ms: heard_ms.flatten(), lives });
    let mut decisions = before.clone();
    decisions.epoch += 1;
    decisions.config_epoch = config_epoch;
    decisions.master = Some(member.name().to_owned());
    decisions.run = member.live().map(|report| report.run.clone());
    decisions.leader = own.map(|change| change.asked.clone());
    (decisions.change, decisions.since) = (None, view.now);
    Decided { decisions, told, ..Decided::unchanged(before) }
}

/// No change runs: is the master's death proven?
fn watch(view: &View) -> Decided {
    let unchanged = Decided::unchanged(view.before);
    let Some(master) = view.master() else { return unchanged };
    let Some(evidence) = master.dead() else { return unchanged };
    // It was permitted to start and has not yet: the order is on its way.
    let starting = master.live().is_some_and(|report| Some(&report.run) == view.before.run.as_ref());
    if starting {
        return unchanged;
    }
    fail_over(view, master, &evidence, Vec::new())
}

/// Begins a failover. The first Sentinel is asked in the same reconcile, if the choice is clear.
fn fail_over(view: &View, master: &Member, evidence: &str, mut told: Vec<Told>) -> Decided {
    let candidates = candidates(view);
    told.push(Told::Began {
        cause: format!("{}: {evidence}", master.name()),
        from: master.name().to_owned(),
        request: None,
        ago_ms: 0,
    });
    let (offset, heard_ms) = last_offset(master);
    let change = RedisChange {
        request: None,
        to: preferred(&candidates),
        asked: String::new(),
        attempt: 0,
        phase: phase_for(&candidates),
        offset,
        heard_ms,
        since: view.now,
    };
    ask_again(view, begin(view, change, told))
}

/// The decisions with this change.
pub fn begin(view: &View, change: RedisChange, told: Vec<Told>) -> Decided {
    let decisions = RedisDecisions { change: Some(change), ..view.before.clone() };
    Decided { decisions, told, ..Decided::unchanged(view.before) }
}

/// With equal data any replica may be chosen; else the Sentinel must learn which.
fn phase_for(candidates: &[&Member]) -> ChangePhase {
    let mut offsets = candidates.iter().filter_map(|member| Some(member.serving()?.offset));
    let first = offsets.next();
    match first {
        None => ChangePhase::Gathering,
        Some(first) if offsets.all(|offset| offset == first) => ChangePhase::Promoting,
        Some(_) => ChangePhase::Preferring,
    }
}

/// The replica that the Sentinel is to choose; empty if all are equal.
fn preferred(candidates: &[&Member]) -> String {
    let best = best(candidates).filter(|_| phase_for(candidates) == ChangePhase::Preferring);
    best.map(|member| member.name().to_owned()).unwrap_or_default()
}

/// Replicas that have the master's data and can be promoted. One that copies all data at the moment has none to lead with.
pub fn candidates<'v, 'a>(view: &'v View<'a>) -> Vec<&'v Member<'a>> {
    let master = view.before.master.as_deref();
    let fits = |member: &&Member| {
        let Some(seen) = member.serving() else { return false };
        let linked = seen.link.as_ref();
        // While members were gathered, one was started from its own disk, because nobody has newer data.
        let gathered = view.before.change.as_ref().is_some_and(|change| {
            change.phase != ChangePhase::Preferring && change.request.is_none() && change.to == member.name()
        });
        let has = linked.is_some_and(|link| link.synced && !link.syncing) || gathered && seen.has_data;
        master != Some(member.name()) && seen.role == Some(Role::Replica) && has
    };
    view.members.iter().filter(fits).collect()
}

/// The candidate with the newest data; of equal ones the one that stays, then the first.
pub fn best<'v, 'a>(candidates: &[&'v Member<'a>]) -> Option<&'v Member<'a>> {
    let rank = |member: &&&Member<'a>| {
        let offset = member.serving().map(|seen| seen.offset);
        (offset, !member.leaving, std::cmp::Reverse(member.place.ordinal))
    };
    candidates.iter().max_by_key(rank).copied()
}

/// A failover runs.
fn failing(view: &View, change: &RedisChange) -> Decided {
    let unchanged = Decided::unchanged(view.before);
    let candidates = candidates(view);
    match change.phase {
        _ if candidates.is_empty() => gather(view, change),
        ChangePhase::Gathering => {
            let to = best(&candidates).map(|member| member.name().to_owned()).unwrap_or_default();
            let phase = phase_for(&candidates);
            ask_again(view, begin(view, RedisChange { to, phase, since: view.now, ..change.clone() }, Vec::new()))
        }
        // The one that was preferred is gone.
        ChangePhase::Preferring if !candidates.iter().any(|member| member.name() == change.to) => {
            let (to, phase) = (preferred(&candidates), phase_for(&candidates));
            ask_again(view, begin(view, RedisChange { to, phase, since: view.now, ..change.clone() }, Vec::new()))
        }
        ChangePhase::Preferring => {
            let preferred = candidates
                .iter()
                .all(|member| member.serving().is_some_and(|seen| seen.priority == priority(change, member.name())));
            if preferred || view.past(change.since, PREFER_FAILOVER) {
                let told = vec![Told::Step("prefer the replica with the newest data")];
                return ask_again(
                    view,
                    begin(view, RedisChange { phase: ChangePhase::Promoting, ..change.clone() }, told),
                );
            }
            unchanged
        }
        ChangePhase::Pausing | ChangePhase::Promoting | ChangePhase::Yielding => ask_again(view, unchanged),
    }
}

/// `replica-priority` of a member: while one is preferred, the others come after it.
pub fn priority(change: &RedisChange, member: &str) -> u32 {
    if change.to == member && change.phase != ChangePhase::Gathering { PREFERRED } else { NORMAL }
}

/// Redis' default, and that of a replica that a Sentinel is to choose.
pub const NORMAL: u32 = 100;
const PREFERRED: u32 = 10;

/// No running replica can be promoted: the member with the newest data on its disk leads.
fn gather(view: &View, change: &RedisChange) -> Decided {
    let before = view.before;
    let waits = |message: String| {
        let gathering = RedisChange {
            phase: ChangePhase::Gathering,
            since: if change.phase == ChangePhase::Gathering { change.since } else { view.now },
            ..change.clone()
        };
        begin(view, gathering, Vec::new()).blocked("NoMaster", message)
    };
    // A Sentinel that was told may still promote: the old master must not start beside that.
    if change.phase != ChangePhase::Gathering && change.attempt > 0 && !view.past(change.since, PROMOTE) {
        return Decided::unchanged(before)
            .blocked("NoMaster", "a Sentinel was asked to promote a replica, and none is left");
    }
    let silent: Vec<&str> = view.members.iter().filter(|one| one.redis().is_none()).map(Member::name).collect();
    let Some(newest) = newest(view) else { return waits("no member answers".to_owned()) };
    let has_data = newest.redis().is_some_and(|seen| seen.has_data);
    let patient = change.phase != ChangePhase::Gathering || !view.past(change.since, GATHER);
    // Invariant: a member without data never becomes master while another has data, or was not asked.
    if !silent.is_empty() && (patient || !has_data) {
        let silent = silent.join(", ");
        return waits(format!("waiting for {silent}: the member with the newest data becomes master"));
    }
    let Some(report) = newest.live() else { return waits("no member answers".to_owned()) };
    if before.master.as_deref() == Some(newest.name()) {
        // Not all Sentinels had heard of its promotion, and if they ended too, none may know of it any more.
        if before.leader.is_some() {
            let named = view.named().filter(|(.., count)| view.is_majority(*count));
            let named = named.and_then(|(address, ..)| view.at(address)).map(Member::name);
            if named.is_none() && patient {
                let name = newest.name();
                return waits(format!("waiting for the Sentinels: not all of them had heard that {name} is master"));
            }
            if let Some(former) = named.filter(|named| *named != newest.name()) {
                // A Sentinel can be asked to replace only the one that it names.
                let (master, run) = (Some(former.to_owned()), None);
                let mut gathering = waits(format!("the Sentinels name {former}, and {} has newer data", newest.name()));
                gathering.decisions = RedisDecisions { master, run, leader: None, ..gathering.decisions };
                return gathering;
            }
        }
        // The Sentinels still take it for the master, and nobody has newer data.
        if report.server != Server::Stopped {
            return waits(format!("{} is starting", newest.name()));
        }
        let mut decisions = before.clone();
        // Its offsets begin anew: those of the epoch before must not be compared with them.
        decisions.epoch += 1;
        decisions.run = Some(report.run.clone());
        (decisions.change, decisions.since) = (None, view.now);
        return Decided {
            decisions,
            told: vec![Told::Restarted(view.object.spec.persistence)],
            ..Decided::unchanged(before)
        };
    }
    // It starts as a replica of the master that is shut; then a Sentinel promotes it.
    let to = newest.name().to_owned();
    let message = format!("{to} has the newest data and starts, so that a Sentinel can promote it");
    let since = if change.phase == ChangePhase::Gathering { change.since } else { view.now };
    let change = RedisChange { phase: ChangePhase::Gathering, to, since, ..change.clone() };
    begin(view, change, Vec::new()).blocked("NoMaster", message)
}

/// Asks one Sentinel to promote, unless one was asked and may still do so.
///
/// Invariant: never two Sentinels at a time. Both would promote.
fn ask_again(view: &View, decided: Decided) -> Decided {
    let Some(change) = &decided.decisions.change else { return decided };
    let Some(from) = view.master().and_then(Member::address) else { return decided };
    if change.phase != ChangePhase::Promoting {
        return decided;
    }
    let id = request_id(view, change);
    let asked = view.sentinels.iter().find(|one| change.attempt > 0 && one.name() == change.asked);
    let answer = asked.and_then(Member::sentinel).and_then(|seen| seen.answer.as_ref()).filter(|one| one.id == id);
    let refused = answer.and_then(|answer| answer.refused.as_ref());
    let patience = match (asked, answer, refused) {
        (None, ..) => Duration::ZERO,
        (_, Some(_), Some(_)) => AGAIN,
        // Its container is gone, so it promotes nobody.
        (Some(member), None, _) if member.dead().is_some() => AGAIN,
        _ => PROMOTE.max(view.object.spec.failover_timeout.get()),
    };
    let act = |change: &RedisChange| Act::Failover { from, fresh: change.to_is_preferred(view) };
    // One that fails over by itself, or still does what it was asked, promotes, too.
    let busy = view.watching().find(|(_, _, master)| master.failing_over);
    if change.attempt > 0 && !view.past(change.since, patience) {
        // Level-triggered: until it answers, it is told again; it does each request once.
        let again = (answer.is_none() && busy.is_none()).then(|| (change.asked.clone(), id, act(change)));
        return Decided { act: again, ..decided };
    }
    if let Some((busy, ..)) = busy {
        return decided.blocked("NoMaster", format!("{} fails over: waiting for its end", busy.name()));
    }
    let fits = |member: &&Member| {
        let seen = member.sentinel().filter(|seen| !seen.tilt);
        seen.is_some_and(|seen| seen.master.as_ref().is_some_and(|master| master.address == from))
    };
    let usable: Vec<&Member> = view.sentinels.iter().filter(fits).collect();
    let before: Vec<&&Member> = usable.iter().filter(|one| one.name() != change.asked).collect();
    // Those with a quorum first: another Sentinel than the last.
    let quorum = |member: &&&Member| member.sentinel().is_some_and(|seen| seen.no_quorum.is_none());
    let next = before.iter().find(|one| quorum(one)).or(before.first()).map(|one| **one).or(usable.first().copied());
    let Some(next) = next else {
        let message = "no Sentinel that answers knows the old master: waiting for the Sentinels";
        return decided.blocked("NoSentinel", message);
    };
    let mut change = change.clone();
    (change.asked, change.attempt, change.since) = (next.name().to_owned(), change.attempt + 1, view.now);
    let act = Some((change.asked.clone(), request_id(view, &change), act(&change)));
    let mut told = decided.told.clone();
    told.push(Told::Step("ask a Sentinel to promote"));
    let decisions = RedisDecisions { change: Some(change), ..decided.decisions.clone() };
    Decided { decisions, act, told, ..decided }
}

fn request_id(view: &View, change: &RedisChange) -> String {
    // A Sentinel does each request once, so a later change of the same epoch must not have the id of an earlier one.
    format!("failover-{}-{}-{}", view.before.epoch, change.attempt, change.since.as_millisecond())
}

impl RedisChange {
    /// Whether replicas differ in a way that the Sentinel must see.
    fn to_is_preferred(&self, view: &View) -> bool {
        let offsets: Vec<u64> = candidates(view).iter().filter_map(|one| Some(one.serving()?.offset)).collect();
        self.request.is_none() && offsets.iter().any(|offset| offset != &offsets[0])
    }
}

/// Why a switchover to this member (empty: any) is not possible now.
pub fn cannot_switch_to(view: &View, to: &str) -> Option<String> {
    let master = view.master()?;
    let from = master.address();
    if master.role() != Some(Role::Master) {
        return Some(format!("{} is not a running master", master.name()));
    }
    if master.name() == to {
        return Some(format!("{to} is the master already"));
    }
    if !to.is_empty() && view.member(to).is_none() {
        return Some(format!("there is no member {to}"));
    }
    let ready = |member: &Member| {
        member.serving().is_some_and(|seen| {
            let link = seen.link.as_ref();
            seen.role == Some(Role::Replica) && link.is_some_and(|link| link.up && Some(link.master) == from)
        })
    };
    let others: Vec<&Member> = view.members.iter().filter(|one| one.name() != master.name()).collect();
    if !others.iter().any(|member| (to.is_empty() || member.name() == to) && !member.leaving && ready(member)) {
        return Some(match to {
            "" => "no replica is in sync with the master".to_owned(),
            to => format!("{to} is not in sync with the master, or is being removed"),
        });
    }
    (!agreed(view)).then(|| "no majority of the Sentinels agrees on the master".to_owned())
}

/// Whether a majority of the Sentinels agrees that the master is up.
pub fn agreed(view: &View) -> bool {
    let from = view.master().and_then(Member::address);
    let agreeing = view.watching().filter(|(_, seen, one)| {
        Some(one.address) == from && !one.down && !one.failing_over && !seen.tilt && seen.no_quorum.is_none()
    });
    view.is_majority(agreeing.count())
}

/// Begins a switchover that is possible.
pub fn switch_over(view: &View, request: String, to: &str) -> Decided {
    let Some(master) = view.master() else { return Decided::unchanged(view.before) };
    // Sentinel chooses by priority; a replica that is not in sync must not be chosen, so it comes after the others.
    let ready: Vec<&Member> = candidates(view).into_iter().filter(|one| in_sync(one) && !one.leaving).collect();
    let others = view.members.iter().filter(|one| one.name() != master.name()).count();
    let chosen = match to {
        "" => best(&ready).map(Member::name).unwrap_or_default(),
        to => to,
    };
    let any = to.is_empty() && ready.len() == others;
    let change = RedisChange {
        request: Some(request.clone()),
        to: if any { String::new() } else { chosen.to_owned() },
        asked: String::new(),
        attempt: 0,
        phase: if any || others == 1 { ChangePhase::Pausing } else { ChangePhase::Preferring },
        offset: 0,
        heard_ms: Some(0),
        since: view.now,
    };
    let told =
        vec![Told::Began { cause: request.clone(), from: master.name().to_owned(), request: Some(request), ago_ms: 0 }];
    begin(view, change, told)
}

fn in_sync(member: &Member) -> bool {
    member.serving().is_some_and(|seen| seen.link.as_ref().is_some_and(|link| link.up))
}

/// A switchover runs.
fn switching(view: &View, change: &RedisChange) -> Decided {
    let unchanged = Decided::unchanged(view.before);
    let Some(master) = view.master() else { return unchanged };
    let request = change.request.clone().unwrap_or_default();
    if let Some(evidence) = master.dead().filter(|_| change.phase != ChangePhase::Promoting) {
        // It is a failover now; the writes that the pause held back were not acknowledged.
        let why = format!("{} died before another was promoted: a failover follows", master.name());
        return fail_over(view, master, &evidence, vec![Told::Refused { request, why }]);
    }
    let give_up = |why: &str| {
        let mut decisions = view.before.clone();
        (decisions.change, decisions.since) = (None, view.now);
        let told = vec![Told::Refused { request: request.clone(), why: why.to_owned() }];
        Decided { decisions, told, ..Decided::unchanged(view.before) }
    };
    match change.phase {
        ChangePhase::Gathering | ChangePhase::Preferring => {
            let learned = view.watching().all(|(_, seen, _)| {
                seen.replicas.iter().all(|one| {
                    view.at(one.address).is_none_or(|member| {
                        // One without data has 0 until it has a copy.
                        let other = one.priority == 0 && member.name() != change.to;
                        other || one.priority == priority(change, member.name())
                    })
                })
            });
            if learned {
                let told = vec![Told::Step("the Sentinels learn which replica is preferred")];
                return begin(
                    view,
                    RedisChange { phase: ChangePhase::Pausing, since: view.now, ..change.clone() },
                    told,
                );
            }
            if view.past(change.since, PREFER_SWITCHOVER) {
                return give_up("the Sentinels did not learn which replica is preferred within 12 s");
            }
            unchanged
        }
        ChangePhase::Pausing => {
            let paused = master.serving().filter(|seen| seen.paused.as_ref() == change.request.as_ref());
            let offset = paused.map(|seen| seen.offset);
            // Invariant: no Sentinel is asked before every replica that it could choose has all that was acknowledged.
            let received = |offset: u64| {
                candidates(view).iter().all(|member| {
                    member.serving().is_some_and(|seen| seen.offset >= offset)
                        || !change.to.is_empty() && change.to != member.name()
                })
            };
            match offset {
                Some(offset) if received(offset) => {
                    let told = vec![Told::Step("pause writes until the replicas have everything")];
                    let change = RedisChange { phase: ChangePhase::Promoting, offset, ..change.clone() };
                    ask_again(view, begin(view, change, told))
                }
                _ if view.past(change.since, PAUSE) => {
                    give_up("the replicas did not receive everything within 5 s; writes go on at the old master")
                }
                _ => unchanged,
            }
        }
        ChangePhase::Yielding => {
            let turned = |one: &Member| one.serving().is_some_and(|seen| seen.promoted == Some(view.before.epoch));
            let epoch = view.before.config_epoch;
            let fails_over = view.watching().any(|(_, _, one)| one.failing_over || one.config_epoch > epoch);
            // What a Sentinel has just promoted, it names a second later.
            let busy = fails_over || view.members.iter().any(|one| one.name() != master.name() && turned(one));
            let patience = if busy { PROMOTE } else { PAUSE };
            match () {
                () if !busy && agreed(view) => give_up("the Sentinels reach the master again"),
                () if !busy && !view.threatened() => {
                    give_up("the Sentinels cannot promote another; writes go on at the old master")
                }
                () if view.past(change.since, patience) => {
                    give_up("the Sentinels promoted nobody; writes go on at the old master")
                }
                () => unchanged,
            }
        }
        ChangePhase::Promoting => {
            let asked = view.sentinels.iter().find(|one| one.name() == change.asked);
            let seen = asked.and_then(Member::sentinel);
            let answer = seen.and_then(|seen| seen.answer.as_ref()).filter(|one| one.id == request_id(view, change));
            let refused = answer.and_then(|answer| answer.refused.as_deref());
            // Writes go on at the old master only when no Sentinel can still promote another.
            let idle = view.watching().all(|(_, _, master)| !master.failing_over);
            let waited = change.attempt > 0 && view.past(change.since, PROMOTE);
            match (answer, refused) {
                (_, Some(why)) if change.attempt >= 6 && idle => give_up(why),
                (Some(_), None) if waited && idle => {
                    give_up("the Sentinel that was asked promoted no replica within 10 s")
                }
                _ => ask_again(view, unchanged),
            }
        }
    }
}
