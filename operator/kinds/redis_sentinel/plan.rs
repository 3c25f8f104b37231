//! Plans a RedisSentinel: a total function of the object, what was observed, what users want, and the time. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::decide;
use super::decided::{Decided, Told};
use super::view::{Member, View};
use super::{
    Observed, Step, bridge, certificates, container_name, cut_off, orders, places, promotion, recovery, sentinels,
    status, workload, yielding,
};
use crate::api::conditions;
use crate::api::placement::Replacement;
use crate::api::postgres_status::ClusterPhase;
use crate::api::redis_sentinel::{
    ChangePhase, RedisDecisions, RedisPlace, RedisSentinel, RedisSentinelStatus, RedisStage, RedisSwitchoverStatus,
};
use crate::api::switchover::{self, Request};
use crate::kinds::certificates::due;
use crate::kinds::containers::{DockerSeen, Work};
use crate::kinds::places::Adopted;
use crate::kinds::unknown;
use crate::runtime::{Plan, Want};
use crate::supervisor::redis::wire::Role;

/// Requeue after a decision was recorded: its next steps may be due already.
const AT_ONCE: Duration = Duration::from_millis(20);
/// Requeue while something runs whose end sends no event.
const SOON: Duration = Duration::from_millis(500);
/// Requeue while something is wrong but not urgent.
const DEGRADED: Duration = Duration::from_secs(2);
/// Time that a failover may take before dead containers are started too.
const ALONE: Duration = Duration::from_secs(1);

/// Wait before the switchover away from a host is tried again.
const AGAIN: Duration = Duration::from_secs(30);

/// The plan of a RedisSentinel.
pub fn plan(
    object: &RedisSentinel,
    observed: &Observed,
    want: Want,
    now: Timestamp,
) -> Plan<Step, RedisSentinelStatus> {
    let mut status = object.status.clone().unwrap_or_default();
    if want == Want::Absent {
        return teardown(object, observed, status, now);
    }
    let begin = || RedisDecisions { since: now, ..RedisDecisions::default() };
    let mut before = status.decisions.clone().unwrap_or_else(begin);
    let paused = want == Want::Paused;
    let missing = observed.secrets.problem.clone().map(|why| ("SecretNotFound", why));
    let (mut port_steps, mut misplaced) = (Vec::new(), None);
    let unknown = unknown(observed, &view(object, observed, &before, now));
    if !paused && (missing.is_none() && unknown.is_none() || before.stage != RedisStage::New) {
        let placed = places::placed(&view(object, observed, &before, now), observed);
        (before, port_steps, misplaced) = (placed.decisions, placed.steps, placed.problem);
    }
    let view = view(object, observed, &before, now);
    let mut decisions = before.clone();
    let mut steps = Vec::new();
    let no_source = recovery::no_source(object, &before, &observed.archives);
    let mut blocker = unknown.clone().or(missing).or(no_source);
    // Just after the operator's own start a missing report means nothing.
    let calling = observed.calling && !paused;
    if !paused && !calling && (blocker.is_none() || before.stage != RedisStage::New) {
        let (mut decided, maintenance) = decide(&view, observed, blocker.is_none());
        let (reset, forget) = sentinels::forget(&view, &decided.decisions);
        decided.decisions.reset = reset.filter(|_| decided.decisions.change.is_none());
        let act = decided.act.take().or(forget.filter(|_| decided.decisions.reset.is_some()));
        promotion::record(&mut status, &view, &decided, writable(&view));
        decisions = revised(&before, decided.decisions.clone());
        let acts = act.into_iter().chain(sentinels::announce(&view, &decisions));
        steps.extend(acts.map(|(member, id, act)| Step::Act { member, id, act }));
        steps.extend(recovery::archives(&view, &observed.archives));
        steps.extend(recovery::order(&view, &decisions, &observed.archives, observed.backup.as_ref()));
        steps.extend(orders::orders(&view, &decisions, &observed.secrets.hash));
        steps.extend(maintenance);
        steps.extend(port_steps);
        steps.extend(secrets(observed, &decisions));
        let (seen, holdings) = (observed.certificates.as_ref(), certificates::holdings(&view));
        steps.extend(seen.and_then(|seen| due::due(object, &holdings, seen, now)).map(Step::Certificates));
        steps.extend(workload::steps(object, observed, &decisions, restart_dead(&view, &decisions)));
        blocker = blocker.or(decided.blocker);
    }
    if !calling || status.conditions.is_empty() {
        status::render(&view, observed, &mut status, &decisions, blocker, paused);
        status::places(&view, &mut status, misplaced);
    }
    let requeue = requeue(&status, &before, &decisions, &steps).or_else(|| unknown.map(|_| DEGRADED));
    let requeue = requeue.or(calling.then_some(SOON));
    status.decisions = Some(decisions);
    Plan { status, steps, requeue, finished: false }
}

/// The decisions with a new revision, if an order depends on what changed.
fn revised(before: &RedisDecisions, after: RedisDecisions) -> RedisDecisions {
    let orders = |of: &RedisDecisions| {
        let change = of.change.as_ref().map(|change| (change.phase, change.to.clone(), change.request.clone()));
        (of.stage, of.epoch, of.master.clone(), of.run.clone(), change)
    };
    let changed = orders(before) != orders(&after);
    RedisDecisions { revision: before.revision + u64::from(changed), ..after }
}

/// The decisions of this reconcile, and the maintenance step that is due.
fn decide(view: &View, observed: &Observed, all_known: bool) -> (Decided, Option<Step>) {
    let decided = decide::decide(view);
    // A container that is being removed for re-creation is still seen running for a while.
    let removing = observed.work.iter().any(|(work, heard)| matches!(work, Work::Remove { .. }) && heard.runs());
    let settled = view.before.stage == RedisStage::Steady && decided.decisions == *view.before;
    // A request is answered first.
    let calm = settled && decided.blocker.is_none() && view.before.change.is_none() && open_request(view).is_none();
    if let Some(yields) = calm.then(|| yielding::begin(view)).flatten() {
        return (yields, None);
    }
    if !settled || !all_known || removing || decided.blocker.is_some() || view.before.change.is_some() {
        return (decided, None);
    }
    maintain(view, observed)
}

/// Maintenance of a healthy object: a requested switchover, then changes that need a restart. One member at a time, Sentinels
/// and replicas first; the master's change comes after a switchover.
fn maintain(view: &View, observed: &Observed) -> (Decided, Option<Step>) {
    let asked = asked_switchover(view);
    if asked.decisions != *view.before || !asked.told.is_empty() {
        return (asked, None);
    }
    if let Some((best, lacks)) = cut_off::cut_off(view) {
        let request = cut_off::request(view);
        if last_switchover(view).is_none_or(|last| last.request != request) {
            return (decide::switch_over(view, request, ""), None);
        }
        let blocker = Some(("CutOff", cut_off::message(view, best, lacks)));
        return (Decided { blocker, ..asked }, None);
    }
    let can = |name: &str| decide::cannot_switch_to(view, name).is_none();
    if let Some((request, to)) =
        places::leaves_its_host(view, observed, can).filter(|(asks, _)| !just_tried(view, asks))
    {
        return (decide::switch_over(view, request, &to), None);
    }
    let master = view.before.master.as_deref();
    let staying = |one: &&Member| !one.leaving;
    let knows = |one: &Member| one.sentinel().is_some_and(|seen| sentinels::knows_all(view, seen));
    let whole = view.sentinels.iter().filter(staying).all(knows)
        && view.members.iter().filter(staying).all(|one| Some(one.name()) == master || view.follows(one.name()));
    if let Some(leaves) = view.members.iter().chain(&view.sentinels).find(|one| one.leaving) {
        // One at a time, and only while all that stays is well; the next one when this one is forgotten. One that does not answer
        // is not waited for: while it is wanted and down, no Sentinel forgets anything.
        let now = whole && (sentinels::all_stale(view).is_empty() || leaves.live().is_none());
        return (if now { without(view, leaves.name()) } else { asked }, None);
    }
    let pending = view.members.iter().any(|one| one.serving().is_none_or(|seen| seen.config_pending));
    if !whole || pending {
        return (asked, None);
    }
    let order = view.sentinels.iter().chain(view.members.iter().filter(|one| Some(one.name()) != master));
    let step = order.into_iter().find_map(|member| replacement(view, observed, member));
    if step.is_some() {
        return (asked, step);
    }
    let Some(step) = view.master().and_then(|master| replacement(view, observed, master)) else { return (asked, None) };
    let request = format!("restart for generation {}", view.object.metadata.generation.unwrap_or_default());
    let tried = last_switchover(view).is_some_and(|last| last.request == request);
    if view.members.len() == 1 || tried || decide::cannot_switch_to(view, "").is_some() {
        return (asked, (view.members.len() == 1 || tried).then_some(step));
    }
    (decide::switch_over(view, request, ""), None)
}

/// The decisions without a member: its container is removed.
fn without(view: &View, name: &str) -> Decided {
    let mut decided = Decided::unchanged(view.before);
    decided.decisions.members.retain(|place| place.name != name);
    decided.decisions.sentinels.retain(|place| place.name != name);
    decided
}

/// The step that changes a member as declared; not if another member has this change and refuses a directive since.
fn replacement(view: &View, observed: &Observed, member: &Member) -> Option<Step> {
    let step = workload::due(view, observed, member.name())?;
    let refuses = view.members.iter().any(|one| one.redis().is_some_and(|seen| !seen.config_errors.is_empty()));
    (!refuses || matches!(step, Step::Docker(_))).then_some(step)
}

/// Whether this switchover was tried a short time ago, and the master stayed.
fn just_tried(view: &View, request: &str) -> bool {
    let last = last_switchover(view).filter(|last| last.request == request && last.refused.is_some());
    let began = last.and_then(|last| last.result.as_ref()).map(|result| result.detected_at);
    began.is_some_and(|began| view.now.duration_since(began).unsigned_abs() < AGAIN)
}

/// Starts or refuses a switchover that the annotation requests.
fn asked_switchover(view: &View) -> Decided {
    let Some(Request { text, to }) = open_request(view) else { return Decided::unchanged(view.before) };
    let request = text.to_owned();
    match decide::cannot_switch_to(view, to) {
        Some(why) => Decided { told: vec![Told::Refused { request, why }], ..Decided::unchanged(view.before) },
        None => decide::switch_over(view, request, to),
    }
}

/// The annotation, if it was not answered yet.
fn open_request<'a>(view: &View<'a>) -> Option<Request<'a>> {
    let last = last_switchover(view)
        .map(|last| (last.request.as_str(), last.result.as_ref().map(|result| result.detected_at)));
    switchover::open(view.object, last)
}

fn last_switchover<'a>(view: &View<'a>) -> Option<&'a RedisSwitchoverStatus> {
    view.object.status.as_ref()?.last_switchover.as_ref()
}

fn view<'a>(object: &'a RedisSentinel, observed: &'a Observed, before: &'a RedisDecisions, now: Timestamp) -> View<'a> {
    let spec = &object.spec;
    let new = before.stage == RedisStage::New;
    let leaves = |places: &'a [RedisPlace], wanted: u32, replacement: Option<&'a Replacement>| match new {
        true => Default::default(),
        false => workload::leaving(places, wanted, replacement, before.master.as_deref()),
    };
    let data = leaves(&before.members, spec.replicas, before.replacement.as_ref());
    let watchers = leaves(&before.sentinels, spec.sentinels, before.sentinel_replacement.as_ref());
    let member = |place: &'a RedisPlace| {
        let host = observed.hosts.get(&place.host);
        Member {
            place,
            container: host.and_then(|host| host.container(&container_name(object, &place.name))),
            container_known: host.is_some_and(|host| host.containers.known().is_some()),
            out_of_service: observed.declared.get(&place.host).is_some_and(|host| host.lost),
            link: observed.links.get(&place.name),
            offset: observed.offsets.get(&place.name).copied(),
            leaving: data.contains(place.name.as_str()) || watchers.contains(place.name.as_str()),
        }
    };
    View {
        object,
        before,
        members: before.members.iter().map(member).collect(),
        sentinels: before.sentinels.iter().map(member).collect(),
        waited: &observed.waited,
        now,
    }
}

/// A new client was seen to write at the recorded master.
fn writable(view: &View) -> bool {
    let seen = view.master().and_then(Member::serving);
    seen.is_some_and(|seen| seen.role == Some(Role::Master) && seen.writable == Some(true))
}

/// What stops decisions: a host that matters and does not answer, or data whose place is not clear.
fn unknown(observed: &Observed, view: &View) -> Option<(&'static str, String)> {
    let adopted = |volume: &str| bridge::ordinal_of(view.object, volume);
    let network = places::network(view.object, observed, view.before);
    let new = (view.before.stage == RedisStage::New).then_some((&adopted as Adopted, network));
    let stays =
        |host: &str| view.members.iter().chain(&view.sentinels).any(|one| one.place.host == host && !one.leaving);
    unknown::unknown(&observed.hosts, &observed.declared, new, stays)
}

/// Dead containers are restarted (or recreated) unless a failover runs that may succeed without them.
fn restart_dead(view: &View, decisions: &RedisDecisions) -> bool {
    let Some(change) = &decisions.change else { return true };
    change.phase == ChangePhase::Gathering || view.past(change.since, ALONE)
}

/// The step that corrects the Secret for applications, if needed.
fn secrets(observed: &Observed, decisions: &RedisDecisions) -> Option<Step> {
    let facts = super::facts(decisions)?;
    (!observed.secrets.complete || observed.secrets.facts.as_ref() != Some(&facts))
        .then_some(Step::EnsureSecrets(facts))
}

fn requeue(
    status: &RedisSentinelStatus,
    before: &RedisDecisions,
    after: &RedisDecisions,
    steps: &[Step],
) -> Option<Duration> {
    if after != before {
        return Some(AT_ONCE);
    }
    match after.change.as_ref().map(|change| change.phase) {
        // Writes wait for an offset, which wakes nobody.
        Some(ChangePhase::Pausing) => return Some(AT_ONCE),
        Some(ChangePhase::Promoting | ChangePhase::Yielding) => return Some(AT_ONCE * 5),
        _ => {}
    }
    if after.stage != RedisStage::Steady || after.change.is_some() || after.reset.is_some() || !steps.is_empty() {
        return Some(SOON);
    }
    (status.phase != ClusterPhase::Healthy || !status.stale_members.is_empty()).then_some(DEGRADED)
}

fn teardown(
    object: &RedisSentinel,
    observed: &Observed,
    mut status: RedisSentinelStatus,
    now: Timestamp,
) -> Plan<Step, RedisSentinelStatus> {
    let (steps, finished) = workload::teardown(object, observed);
    status.phase = ClusterPhase::Deleting;
    // Balancers that route here leave everything unchanged until the object is gone.
    status.endpoint_set = None;
    let silent = observed.hosts.values().find_map(DockerSeen::silence).filter(|_| !finished);
    if let Some((reason, message)) = silent.map(|why| ("HostUnreachable", why.to_owned())) {
        let verdict = conditions::no(reason, message);
        conditions::set(&mut status.conditions, "Ready", verdict, status.observed_generation, now);
    }
    let steps = steps.into_iter().map(Step::Docker).collect();
    Plan { status, steps, requeue: (!finished).then_some(SOON), finished }
}
