//! Plans a RedisCluster: a total function of the object, what was observed, what users want, and the time. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::decide::{self, Decided};
use super::view::{Member, Slots, View};
use super::{Facts, Observed, Step, bridge, certificates, container_name, places, status, workload};
use crate::api::conditions;
use crate::api::postgres_status::ClusterPhase;
use crate::api::redis_cluster::{ClusterDecisions, ClusterStage, RedisCluster, RedisClusterStatus};
use crate::api::redis_sentinel::Persistence;
use crate::kinds::certificates::due;
use crate::kinds::containers::{DockerSeen, Work};
use crate::kinds::places::Adopted;
use crate::kinds::unknown;
use crate::runtime::{Plan, Want};
use crate::supervisor::redis::cluster::wire::{Act, Order, Start};
use crate::supervisor::redis::wire::{Config, Server};

/// Requeue after something was done whose result is due at once.
const AT_ONCE: Duration = Duration::from_millis(50);
/// Requeue while something runs whose end sends no event.
const SOON: Duration = Duration::from_millis(500);
/// Requeue while something is wrong but not urgent.
const DEGRADED: Duration = Duration::from_secs(2);

/// The plan of a RedisCluster.
pub fn plan(object: &RedisCluster, observed: &Observed, want: Want, now: Timestamp) -> Plan<Step, RedisClusterStatus> {
    let mut status = object.status.clone().unwrap_or_default();
    if want == Want::Absent {
        return teardown(object, observed, status, now);
    }
    let begin = || ClusterDecisions { since: now, ..ClusterDecisions::default() };
    let mut before = status.decisions.clone().unwrap_or_else(begin);
    let paused = want == Want::Paused;
    let missing = observed.secrets.problem.clone().map(|why| ("SecretNotFound", why));
    let (mut port_steps, mut misplaced) = (Vec::new(), None);
    let unknown = unknown(observed, &view(object, observed, &before, now));
    if !paused && (missing.is_none() && unknown.is_none() || before.stage != ClusterStage::New) {
        let placed = places::placed(&view(object, observed, &before, now), observed);
        (before, port_steps, misplaced) = (placed.decisions, placed.steps, placed.problem);
    }
    let view = view(object, observed, &before, now);
    let mut decisions = before.clone();
    let mut steps = Vec::new();
    let mut blocker = unknown.or(missing);
    // Just after the operator's own start a missing report means nothing.
    let calling = observed.calling && !paused;
    if !paused && !calling && (blocker.is_none() || before.stage != ClusterStage::New) {
        let mut decided = decide::decide(&view);
        let maintenance = if blocker.is_none() { maintain(&view, observed, &mut decided) } else { None };
        status.last_failover = decided.ended.take().or(decided.decisions.failover.clone()).or(status.last_failover);
        decisions = decided.decisions.clone();
        steps.extend(orders(&view, &observed.secrets.hash));
        steps.extend(decided.acts.iter().map(|(member, act)| ask(&view, member, act)));
        steps.extend(maintenance);
        steps.extend(port_steps);
        steps.extend(secrets(&view, observed));
        let (seen, holdings) = (observed.certificates.as_ref(), certificates::holdings(&view));
        steps.extend(seen.and_then(|seen| due::due(object, &holdings, seen, now)).map(Step::Certificates));
        steps.extend(workload::steps(object, observed, &decisions));
        blocker = blocker.or(decided.blocker);
    }
    if !calling || status.conditions.is_empty() {
        status::render(&view, observed, &mut status, &decisions, blocker, paused);
        status::places(&view, &mut status, misplaced);
    }
    let pressing = decisions.stage != before.stage || decisions.failover.is_some();
    let requeue = match () {
        () if pressing => Some(AT_ONCE),
        () if steps.iter().any(|step| matches!(step, Step::Act { .. } | Step::Order { .. })) => Some(AT_ONCE * 4),
        () if !steps.is_empty() || calling || decisions.stage != ClusterStage::Steady => Some(SOON),
        () => (status.phase != ClusterPhase::Healthy).then_some(DEGRADED),
    };
    status.decisions = Some(decisions);
    Plan { status, steps, requeue, finished: false }
}

/// An act. It may be lost on its way, and its result takes a moment to be seen: the id says in which second it was decided.
fn ask(view: &View, member: &str, act: &Act) -> Step {
    let id = format!("{}-{}", view.now.as_second(), crate::api::hash::short_hash(format!("{act:?}"), 12));
    Step::Act { member: member.to_owned(), id, act: act.clone() }
}

/// The steps that send credentials and orders.
fn orders(view: &View, credentials: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for member in &view.members {
        let Some(report) = member.live().filter(|report| !report.terminating && !credentials.is_empty()) else {
            continue;
        };
        if report.credentials.as_deref() != Some(credentials) {
            steps.push(Step::SendCredentials { member: member.name().to_owned() });
        }
        if let Some(order) = order(view, member)
            && report.order.as_ref() != Some(&order)
        {
            steps.push(Step::Order { member: member.name().to_owned(), order: Box::new(order) });
        }
    }
    steps
}

fn order(view: &View, member: &Member) -> Option<Order> {
    let (report, spec) = (member.live()?, &view.object.spec);
    let current = report.order.as_ref().filter(|order| order.run == report.run && report.server != Server::Stopped);
    // Before the first decision every supervisor is asked what is on its volume.
    let start = match current {
        Some(order) => order.start,
        None if view.before.stage == ClusterStage::New => Start::No,
        None => decide::start(view, member),
    };
    Some(Order {
        run: report.run.clone(),
        start,
        config: Config {
            announce: Some(member.address()?),
            directives: spec.directives(),
            priority: 100,
            username: spec.auth.username.clone(),
            tls: spec.tls.enabled,
        },
    })
}

/// Changes that need a restart: one member at a time, replicas first; a master only after a replica has taken over.
fn maintain(view: &View, observed: &Observed, decided: &mut Decided) -> Option<Step> {
    // A container that is being removed for re-creation is still seen running for a while.
    let removing = observed.work.iter().any(|(work, heard)| matches!(work, Work::Remove { .. }) && heard.runs());
    if !decided.settled || removing {
        return None;
    }
    let refuses = view.members.iter().any(|one| one.serving().is_some_and(|report| !report.config_errors.is_empty()));
    let due = |one: &&Member| {
        let step = workload::due(view, observed, one)?;
        (!refuses || matches!(step, Step::Docker(_))).then_some(step)
    };
    let replicas = view.members.iter().filter(|one| one.master().is_some());
    if let Some(step) = replicas.into_iter().find_map(|one| due(&one)) {
        return Some(step);
    }
    let (master, step) = view.members.iter().find_map(|one| Some((one, due(&one)?)))?;
    let heir = view.replicas(master.id()?).find(|one| decide::in_sync(view, one));
    match heir {
        Some(heir) => {
            decided.acts.push((heir.name().to_owned(), Act::Failover { force: false }));
            None
        }
        // A stop would end what is in memory only.
        None if view.object.spec.persistence == Persistence::None => {
            let message =
                format!("{} has no replica, and its data is in memory only: it is not restarted", master.name());
            decided.blocker = Some(("DataAtRisk", message));
            None
        }
        None => Some(step),
    }
}

/// The input of the decisions.
pub fn view<'a>(
    object: &'a RedisCluster,
    observed: &'a Observed,
    before: &'a ClusterDecisions,
    now: Timestamp,
) -> View<'a> {
    let leaving = match before.stage {
        ClusterStage::Steady => workload::leaving(&before.members, object.spec.members(), before.replacement.as_ref()),
        _ => Default::default(),
    };
    let member = |place: &'a crate::api::redis_status::RedisPlace| {
        let host = observed.hosts.get(&place.host);
        Member {
            place,
            container: host.and_then(|host| host.container(&container_name(object, &place.name))),
            container_known: host.is_some_and(|host| host.containers.known().is_some()),
            out_of_service: observed.declared.get(&place.host).is_some_and(|host| host.lost),
            host_closes: observed.declared.get(&place.host).is_some_and(|host| host.drains || host.maintained),
            link: observed.links.get(&place.name),
            record: before.nodes.iter().find(|node| node.member == place.name),
            leaving: leaving.contains(place.name.as_str()),
        }
    };
    let members: Vec<Member> = before.members.iter().map(member).collect();
    let nodes: Vec<_> = members.iter().filter_map(Member::node).collect();
    let slots = Slots::of(nodes.into_iter());
    View { object, before, members, slots, waited: &observed.waited, now }
}

/// What stops decisions: a host that matters and does not answer, or data whose place is not clear.
fn unknown(observed: &Observed, view: &View) -> Option<(&'static str, String)> {
    let adopted = |volume: &str| bridge::ordinal_of(view.object, volume);
    let network = places::network(view.object, observed, view.before);
    let new = (view.before.stage == ClusterStage::New).then_some((&adopted as Adopted, network));
    let stays = |host: &str| view.members.iter().any(|one| one.place.host == host && !one.leaving);
    unknown::unknown(&observed.hosts, &observed.declared, new, stays)
}

/// The step that corrects the Secret for applications, if needed.
fn secrets(view: &View, observed: &Observed) -> Option<Step> {
    let addresses: Option<Vec<_>> = view.members.iter().map(Member::address).collect();
    let facts = Facts { members: addresses? };
    let right = observed.secrets.complete && observed.secrets.facts.as_ref() == Some(&facts);
    (!right).then_some(Step::EnsureSecrets(facts))
}

fn teardown(
    object: &RedisCluster,
    observed: &Observed,
    mut status: RedisClusterStatus,
    now: Timestamp,
) -> Plan<Step, RedisClusterStatus> {
    let (steps, finished) = workload::teardown(object, observed);
    status.phase = ClusterPhase::Deleting;
    let silent = observed.hosts.values().find_map(DockerSeen::silence).filter(|_| !finished);
    if let Some((reason, message)) = silent.map(|why| ("HostUnreachable", why.to_owned())) {
        let verdict = conditions::no(reason, message);
        conditions::set(&mut status.conditions, "Ready", verdict, status.observed_generation, now);
    }
    let steps = steps.into_iter().map(Step::Docker).collect();
    Plan { status, steps, requeue: (!finished).then_some(SOON), finished }
}
