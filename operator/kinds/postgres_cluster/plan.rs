//! Plans a cluster: a total function of the object, what was observed, what users want, and the time. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::decided::{Blocker, Decided, Told};
use super::view::{ClusterView, Member};
use super::{
    Observed, Step, archive, bridge, certificates, collations, container_name, invariants, orders, places, promotion,
    protocol, recovery, restore_tests, status, upgrade, workload,
};
use crate::api::conditions;
use crate::api::postgres_cluster::{
    ClusterPhase, Decisions, MemberPlace, PostgresCluster, PostgresClusterStatus, Stage, SwitchoverDecision,
    SwitchoverStatus,
};
use crate::api::postgres_settings::lowered_on_primary_first;
use crate::api::switchover::{self, Request};
use crate::engine::ContainerState;
use crate::kinds::certificates::due;
use crate::kinds::containers::{DockerSeen, Work, replace};
use crate::kinds::places::Adopted;
use crate::kinds::unknown;
use crate::runtime::{Plan, Want};
use crate::supervisor::wire::{Order, Postgres, Report};

/// Requeue after a decision was recorded: its next steps may be due already.
const AT_ONCE: Duration = Duration::from_millis(20);
/// Requeue while something runs whose end sends no event.
const SOON: Duration = Duration::from_millis(500);
/// Requeue while something is wrong but not urgent.
const DEGRADED: Duration = Duration::from_secs(2);
/// Time that an election may take before dead containers are started too.
const ELECTION_ALONE: Duration = Duration::from_secs(1);

/// The reason of the condition about a decision that would break an invariant.
const INVARIANT_VIOLATED: &str = "InvariantViolated";

/// The plan of a cluster.
pub fn plan(
    object: &PostgresCluster,
    observed: &Observed,
    want: Want,
    now: Timestamp,
) -> Plan<Step, PostgresClusterStatus> {
    let mut status = object.status.clone().unwrap_or_default();
    if want == Want::Absent {
        return teardown(object, observed, status, now);
    }
    let mut before = status.decisions.clone().unwrap_or_else(|| protocol::begin(now));
    let paused = want == Want::Paused;
    let missing_secret = observed.secrets.source_problem.as_deref().map(|why| Blocker::new("SecretNotFound", why));
    let missing_secret = missing_secret.or_else(|| archive::no_source(object, &before, &observed.archives));
    let (mut port_steps, mut misplaced) = (Vec::new(), None);
    let mut blocker = unknown(object, observed, &before);
    if !paused && (missing_secret.is_none() && blocker.is_none() || before.stage != Stage::New) {
        let placed = places::placed(object, observed, &before);
        (before, port_steps, misplaced) = (placed.decisions, placed.steps, placed.problem);
    }
    let view = view(object, observed, &before, now);
    let mut decisions = before.clone();
    let mut steps = Vec::new();
    blocker = blocker.or(missing_secret);
    if paused {
        steps.extend(orders::renewal(&view, &before));
    } else if blocker.is_none() || before.stage != Stage::New {
        let held = collations::held(&view, observed);
        let waits = held.is_some() || !workload::has_peers_network(object, observed);
        let (mut decided, maintenance) = decide(&view, observed, blocker.is_none(), waits);
        decided.decisions.archive = archive::path(&view, &decided.decisions);
        promotion::record(&mut status, &before, &decided, now);
        decisions = orders::revised(&before, decided.decisions);
        let broken = invariants::violations(&before, &decisions);
        if !broken.is_empty() {
            return refused(&view, &broken, observed);
        }
        steps.extend(maintenance);
        steps.extend(orders::orders(&view, &decisions, &observed.secrets.hash));
        steps.extend(orders::renewal(&view, &decisions));
        steps.extend(archive::steps(&view, &observed.archives));
        steps.extend(archive::after_gap(&view, &decisions, observed.backups.as_ref()));
        steps.extend(port_steps);
        steps.extend(workload::secrets(observed, &decisions));
        let seen = observed.certificates.as_ref();
        let holdings = certificates::holdings(&view);
        steps.extend(seen.and_then(|seen| due::due(object, &holdings, seen, now)).map(Step::Certificates));
        let restart_dead = restart_dead(&status, &decisions, view.age(decisions.since));
        steps.extend(workload::steps(object, observed, &decisions, restart_dead, waits));
        let (ask, held) = held.map(|held| (held.ask, held.blocker)).unwrap_or_default();
        steps.extend(ask);
        blocker = blocker.or(decided.blocker).or(held);
    }
    // Just after the operator's own start a missing report means nothing: keep the old status until it can be known.
    let calling = observed.calling && !paused && before.stage == Stage::Steady && decisions.stage == Stage::Steady;
    if !calling || status.conditions.is_empty() {
        status::render(&view, &mut status, &decisions, blocker, paused, &observed.work);
        status::certificates(&view, &mut status, observed.certificates.as_ref());
        status::places(&view, &mut status, misplaced);
        archive::render(&view, &mut status, &decisions, &observed.archives);
        recovery::render(&view, &mut status);
        restore_tests::render(&view, &mut status, observed.backups.as_ref());
    }
    upgrade::tell(object, observed, &before.members, &mut status, now);
    status::refusals(&observed.refused, &mut status, now);
    let requeue =
        requeue(&status, &before, &decisions, &steps).or_else(|| unknown(object, observed, &before).map(|_| DEGRADED));
    let requeue = requeue.or(calling.then_some(SOON));
    status.decisions = Some(decisions);
    Plan { status, steps, requeue, finished: false }
}

/// The decisions of this reconcile, and the maintenance step that is due.
fn decide(view: &ClusterView, observed: &Observed, all_known: bool, held: bool) -> (Decided, Option<Step>) {
    let advanced = protocol::advance(view);
    // A container that is being removed for re-creation is still seen running for a while.
    let removing = observed.work.iter().any(|(work, heard)| matches!(work, Work::Remove { .. }) && heard.runs());
    let settled = view.before.stage == Stage::Steady && advanced.decisions == *view.before;
    if !settled || !all_known || removing || advanced.blocker.is_some() {
        return (advanced, None);
    }
    let (maintained, step) = maintain(view, observed, held);
    (Decided { told: [advanced.told, maintained.told].concat(), ..maintained }, step)
}

/// Keeps the old decisions and reports why: the new ones would break an invariant, which is a fault of Evenkeel.
fn refused(view: &ClusterView, broken: &[&str], observed: &Observed) -> Plan<Step, PostgresClusterStatus> {
    let mut status = view.object.status.clone().unwrap_or_default();
    let message = format!(
        "nothing is done, because it would break an invariant: {}; this is a fault of Evenkeel, please report it",
        broken.join(", ")
    );
    let blocker = Blocker::new(INVARIANT_VIOLATED, message);
    status::render(view, &mut status, view.before, Some(blocker), false, &observed.work);
    let steps = orders::renewal(view, view.before).into_iter().collect();
    status.decisions = Some(view.before.clone());
    Plan { status, steps, requeue: Some(DEGRADED), finished: false }
}

/// The invariants that a refused decision would have broken, if the status reports one.
pub fn violation(status: &PostgresClusterStatus) -> Option<&str> {
    let refused = status.conditions.iter().find(|condition| condition.reason == INVARIANT_VIOLATED);
    refused.map(|condition| condition.message.as_str())
}

fn view<'a>(
    object: &'a PostgresCluster,
    observed: &'a Observed,
    before: &'a Decisions,
    now: Timestamp,
) -> ClusterView<'a> {
    let leaving = if before.stage == Stage::New { Default::default() } else { workload::leaving(object, before) };
    let member = |place: &'a MemberPlace| {
        let host = observed.hosts.get(&place.host);
        Member {
            place,
            container: host.and_then(|host| host.container(&container_name(object, &place.name))),
            container_known: host.is_some_and(|host| host.containers.known().is_some()),
            out_of_service: observed.declared.get(&place.host).is_some_and(|host| host.lost),
            link: observed.links.get(&place.name),
            proven_ms: observed.proven_ms.get(&place.name).copied(),
            leaving: leaving.contains(&place.name),
            lost: workload::lost(object, observed, place),
        }
    };
    ClusterView { object, before, members: before.members.iter().map(member).collect(), waited: &observed.waited, now }
}

/// What stops decisions: a host that matters and does not answer, or data whose place is not clear.
fn unknown(object: &PostgresCluster, observed: &Observed, before: &Decisions) -> Option<Blocker> {
    let adopted = |volume: &str| bridge::ordinal_of(object, volume);
    let network = places::network(object, observed, before);
    let new = (before.stage == Stage::New).then_some((&adopted as Adopted, network));
    let has_member = |host: &str| before.members.iter().any(|place| place.host == host);
    let unknown = unknown::unknown(&observed.hosts, &observed.declared, new, has_member);
    unknown.map(|(reason, why)| Blocker::new(reason, why))
}

/// Dead containers are restarted (or recreated) unless an election runs that may succeed without them.
fn restart_dead(status: &PostgresClusterStatus, decisions: &Decisions, age: Duration) -> bool {
    let promoting = match decisions.stage {
        Stage::New => false,
        Stage::Electing | Stage::Establishing => true,
        // The gate was not observed open yet: nothing slow may come before that.
        Stage::Steady => status.last_failover.as_ref().is_some_and(|failover| failover.outage.is_none()),
    };
    !promoting || age >= ELECTION_ALONE
}

/// Maintenance of a healthy cluster: a requested switchover, then changes that need a restart. One instance at a time,
/// standbys first; the primary's change comes after a switchover. `held`: no container is replaced.
fn maintain(view: &ClusterView, observed: &Observed, held: bool) -> (Decided, Option<Step>) {
    let asked = asked_switchover(view);
    let whole = view.members.iter().all(|member| {
        member.live().is_some_and(|report| matches!(report.postgres, Postgres::Primary | Postgres::Standby))
            && !member.leaving
    });
    // Until every instance has judged the settings and says what waits for a restart, nobody is the first to try them.
    let settling = view.members.iter().filter_map(Member::live).any(|report| {
        let other = |order: &Order| order.settings != view.object.spec.parameters;
        report.settings_pending || report.order.as_ref().is_some_and(other)
    });
    // An update that leaves an instance without certificates stops at that one.
    let certified = view.members.iter().all(|member| member.place.peer.is_some() || !member.secures());
    if asked.decisions != *view.before || !(whole && certified) || settling || !view.before.absent.is_empty() {
        return (asked, None);
    }
    if let Some((request, others)) = places::leaves_its_host(observed, view.before)
        && let Some(to) = others.into_iter().find(|name| protocol::cannot_switch_to(view, name).is_none())
    {
        return (protocol::switch_over(view, SwitchoverDecision { request, to }), None);
    }
    let (leaders, standbys): (Vec<_>, Vec<_>) =
        view.members.iter().partition(|member| view.before.is_leader(&member.place.name));
    let standby = standbys.into_iter().find_map(|member| replacement(view, observed, member, held));
    let Some(leader) = leaders.first().filter(|_| standby.is_none()) else { return (asked, standby) };
    let Some(step) = replacement(view, observed, leader, held) else { return (asked, None) };
    let request = format!("restart for generation {}", view.object.metadata.generation.unwrap_or_default());
    let tried = asked.told.is_empty() && last_switchover(view).is_some_and(|last| last.request == request);
    let in_place = tried && matches!(step, Step::RestartPostgres { .. }) && primary_first(leader.live());
    if view.members.len() == 1 || in_place || protocol::cannot_switch_to(view, "").is_some() {
        return (asked, Some(step));
    }
    (protocol::switch_over(view, SwitchoverDecision { request, to: String::new() }), None)
}

/// Whether all pending settings were lowered: no standby can lower them before its primary does.
fn primary_first(report: Option<&Report>) -> bool {
    report.is_some_and(|report| report.pending_restart.iter().all(|name| lowered_on_primary_first(name)))
}

/// The step that changes a member as declared. `None` also if another member has this change and refuses a setting since:
/// the change is not repeated.
fn replacement(view: &ClusterView, observed: &Observed, member: &Member, held: bool) -> Option<Step> {
    let refused = |member: &Member| -> BTreeSet<String> {
        let errors = member.live().map(|report| report.setting_errors.iter()).into_iter().flatten();
        errors.map(|error| error.split(':').next().unwrap_or_default().to_owned()).collect()
    };
    let step = due(view, observed, member, held)?;
    let here = refused(member);
    let mut changed = view.members.iter().filter(|other| due(view, observed, other, held).is_none());
    changed.all(|other| refused(other).is_subset(&here)).then_some(step)
}

/// The step that replaces the container of a member, if it differs from its spec and is not held, or restarts its
/// PostgreSQL.
fn due(view: &ClusterView, observed: &Observed, member: &Member, held: bool) -> Option<Step> {
    let container = member.container?;
    let (network, wanted) = (workload::network(view.object), workload::member(view.object, observed, member.place));
    let step = replace(&workload::common(view.object, observed, &network), &wanted);
    if let Some(step) = step.filter(|_| !held) {
        return Some(Step::Docker(step));
    }
    let report = member.live()?;
    (!report.pending_restart.is_empty() && container.state == ContainerState::Running).then(|| Step::RestartPostgres {
        member: member.place.name.clone(),
        run: report.run.clone(),
        why: format!("{} changed", report.pending_restart.join(", ")),
    })
}

/// Starts or refuses a switchover that the annotation requests.
fn asked_switchover(view: &ClusterView) -> Decided {
    let last = last_switchover(view)
        .map(|last| (last.request.as_str(), last.result.as_ref().map(|result| result.detected_at)));
    let Some(Request { text, to }) = switchover::open(view.object, last) else {
        return Decided::unchanged(view.before);
    };
    let request = text.to_owned();
    match protocol::cannot_switch_to(view, to) {
        Some(why) => Decided { told: vec![Told::Refused { request, why }], ..Decided::unchanged(view.before) },
        None => protocol::switch_over(view, SwitchoverDecision { request, to: to.to_owned() }),
    }
}

fn last_switchover<'a>(view: &ClusterView<'a>) -> Option<&'a SwitchoverStatus> {
    view.object.status.as_ref()?.last_switchover.as_ref()
}

fn requeue(status: &PostgresClusterStatus, before: &Decisions, after: &Decisions, steps: &[Step]) -> Option<Duration> {
    if after != before {
        return Some(AT_ONCE);
    }
    if after.stage != Stage::Steady || steps.iter().any(|step| !matches!(step, Step::Renew { .. })) {
        return Some(SOON);
    }
    (status.phase != ClusterPhase::Healthy || !after.absent.is_empty() || !steps.is_empty()).then_some(DEGRADED)
}

fn teardown(
    object: &PostgresCluster,
    observed: &Observed,
    mut status: PostgresClusterStatus,
    now: Timestamp,
) -> Plan<Step, PostgresClusterStatus> {
    let (steps, finished) = workload::teardown(object, observed);
    status.phase = ClusterPhase::Deleting;
    // Balancers that route here leave everything unchanged until the cluster is gone.
    status.endpoint_set = None;
    let silent = observed.hosts.values().find_map(DockerSeen::silence).filter(|_| !finished);
    if let Some(blocker) = silent.map(|why| Blocker::new("HostUnreachable", why)) {
        let verdict = conditions::no(blocker.reason, blocker.message);
        conditions::set(&mut status.conditions, "Ready", verdict, status.observed_generation, now);
    }
    Plan { status, steps, requeue: (!finished).then_some(SOON), finished }
}
