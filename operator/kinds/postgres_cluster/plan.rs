//! What to do about a cluster: a total function from the object, what was observed, what is wanted and now to a plan. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::scene::{Member, Scene, Trouble};
use super::{Observed, Step, container_name, invariants, loss, orders, protocol, status, upgrade, workload};
use crate::api::conditions;
use crate::api::object::Object as _;
use crate::api::postgres_cluster::{
    ClusterPhase, Decisions, PostgresCluster, PostgresClusterStatus, SWITCHOVER_ANNOTATION, Stage, SwitchoverDecision,
    SwitchoverStatus,
};
use crate::api::postgres_settings::lowered_on_primary_first;
use crate::engine::ContainerState;
use crate::kinds::containers::{DockerSeen, Work, replace};
use crate::runtime::{Plan, Want};
use crate::supervisor::wire::{Postgres, Report};

/// A decision was recorded: what follows from it may be due already.
const AT_ONCE: Duration = Duration::from_millis(20);
/// Something is under way whose end nobody announces.
const SOON: Duration = Duration::from_millis(500);
/// Something is not as it should be, but not urgent.
const DEGRADED: Duration = Duration::from_secs(2);
/// How long an election may do without a container that could be started, before it is.
const ELECTION_ALONE: Duration = Duration::from_secs(1);

/// The reason of the condition about a decision that would break an invariant.
pub const INVARIANT_VIOLATED: &str = "InvariantViolated";

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
    let mut d = status.decisions.clone().unwrap_or_else(|| protocol::begin(now));
    let paused = want == Want::Paused;
    let missing_secret =
        observed.secrets.source_problem.clone().map(|message| Trouble { reason: "SecretNotFound", message });
    if !paused && (missing_secret.is_none() || d.stage != Stage::New) {
        workload::place(object, observed, &mut d);
    }
    let before = d.clone();
    let places = d.members.clone();
    let scene = scene(object, observed, &places, &d, now);
    let mut steps = Vec::new();
    let mut trouble = unknown(observed).or(missing_secret);
    if paused {
        steps.extend(orders::renewal(&scene, &d));
    } else if trouble.as_ref().is_none_or(|_| d.stage != Stage::New) {
        let stands = protocol::advance(&scene, &mut status, &mut d);
        loss::settle(&scene, &mut status, &mut d);
        if d == before && stands.is_none() && trouble.is_none() {
            maintain(&scene, observed, &mut status, &mut d, &mut steps);
        }
        protocol::revise(&before, &mut d);
        let broken = invariants::violations(&before, &d);
        if !broken.is_empty() {
            return refused(&scene, before, &broken, observed);
        }
        steps.extend(orders::orders(&scene, &d, &observed.secrets.hash));
        steps.extend(orders::renewal(&scene, &d));
        steps.extend(workload::secrets(observed, &d));
        steps.extend(workload::steps(object, observed, &d, restart_dead(&status, &d, now)));
        trouble = trouble.or(stands);
    }
    let changing = d != before;
    // A silence that is only ours is no news: what was said before we began stands until we can know better.
    let calling = observed.calling && !paused && before.stage == Stage::Steady && d.stage == Stage::Steady;
    if !calling || status.conditions.is_empty() {
        status::render(&scene, &mut status, &d, trouble, paused, &observed.work);
    }
    upgrade::tell(object, observed, &places, &mut status, now);
    let requeue = requeue(&status, &d, &steps, changing).or_else(|| unknown(observed).map(|_| DEGRADED));
    let requeue = requeue.or(calling.then_some(SOON));
    status.decisions = Some(d);
    Plan { status, steps, requeue, finished: false }
}

/// Nothing is done, and why: what was decided would break an invariant, which is a fault of this program.
fn refused(
    scene: &Scene,
    before: Decisions,
    broken: &[&str],
    observed: &Observed,
) -> Plan<Step, PostgresClusterStatus> {
    let mut status = scene.object.status.clone().unwrap_or_default();
    let message = format!(
        "nothing is done, for it would break what must always hold: {}; this is a fault of Evenkeel, please report it",
        broken.join(", ")
    );
    let trouble = Trouble { reason: INVARIANT_VIOLATED, message };
    status::render(scene, &mut status, &before, Some(trouble), false, &observed.work);
    let steps = orders::renewal(scene, &before).into_iter().collect();
    status.decisions = Some(before);
    Plan { status, steps, requeue: Some(DEGRADED), finished: false }
}

fn scene<'a>(
    object: &'a PostgresCluster,
    observed: &'a Observed,
    places: &'a [crate::api::postgres_cluster::MemberPlace],
    d: &Decisions,
    now: Timestamp,
) -> Scene<'a> {
    let leaving = if d.stage == Stage::New { Default::default() } else { workload::leaving(object, d) };
    let members = places
        .iter()
        .map(|place| Member {
            place,
            container: observed
                .hosts
                .get(&place.host)
                .and_then(|host| host.container(&container_name(object, &place.name))),
            container_known: observed.hosts.get(&place.host).is_some_and(|host| host.containers.known().is_some()),
            link: observed.links.get(&place.name),
            leaving: leaving.contains(&place.name),
        })
        .collect();
    Scene { object, members, now }
}

fn unknown(observed: &Observed) -> Option<Trouble> {
    let why = observed.hosts.values().find_map(DockerSeen::silence)?.to_owned();
    Some(Trouble { reason: "HostUnreachable", message: why })
}

/// Dead containers are started again (or made anew) unless an election is under way that may succeed without them.
fn restart_dead(status: &PostgresClusterStatus, d: &Decisions, now: Timestamp) -> bool {
    let promoting = match d.stage {
        Stage::New => false,
        Stage::Electing | Stage::Establishing => true,
        // The gate is not seen open yet: nothing slow may stand before that.
        Stage::Steady => status.last_failover.as_ref().is_some_and(|story| story.outage.is_none()),
    };
    !promoting || now.duration_since(d.since).unsigned_abs() >= ELECTION_ALONE
}

/// What may be done to a cluster that is well: a switchover that was asked for, then changes that need a restart, one
/// instance at a time, standbys first.
fn maintain(
    scene: &Scene,
    observed: &Observed,
    status: &mut PostgresClusterStatus,
    d: &mut Decisions,
    steps: &mut Vec<Step>,
) {
    // One that is taken away to be made anew is still seen to run for a while.
    let removing = observed.work.iter().any(|(work, heard)| matches!(work, Work::Remove { .. }) && heard.runs());
    if d.stage != Stage::Steady || removing || asked_switchover(scene, status, d) {
        return;
    }
    let Some(leader) = d.leader.clone() else { return };
    let whole = scene.members.iter().all(|member| {
        member.live().is_some_and(|report| matches!(report.postgres, Postgres::Primary | Postgres::Standby))
            && !member.leaving
    });
    if !whole || !d.absent.is_empty() {
        return;
    }
    let standby = scene
        .members
        .iter()
        .filter(|member| member.place.name != leader.member)
        .find_map(|member| replacement(scene, observed, member));
    if let Some(step) = standby {
        steps.push(step);
        return;
    }
    let Some(member) = scene.members.iter().find(|member| member.place.name == leader.member) else { return };
    let Some(step) = replacement(scene, observed, member) else { return };
    let request = format!("restart for generation {}", scene.object.metadata.generation.unwrap_or_default());
    let tried = status.last_switchover.as_ref().is_some_and(|last| last.request == request);
    let in_place = tried && matches!(step, Step::RestartPostgres { .. }) && primary_first(member.live());
    if scene.members.len() == 1 || in_place || protocol::cannot_switch_to(scene, d, "").is_some() {
        steps.push(step);
    } else {
        protocol::switch_over(scene, status, d, SwitchoverDecision { request, to: String::new() });
    }
}

/// All that waits are settings that were lowered: no standby can lower them before its primary does.
fn primary_first(report: Option<&Report>) -> bool {
    report.is_some_and(|report| report.pending_restart.iter().all(|name| lowered_on_primary_first(name)))
}

/// The step that makes a member what its definition says, if it is not that.
fn replacement(scene: &Scene, observed: &Observed, member: &Member) -> Option<Step> {
    let container = member.container?;
    let (network, wanted) = (workload::network(scene.object), workload::member(scene.object, observed, member.place));
    if let Some(step) = replace(&workload::common(scene.object, observed, &network), &wanted) {
        return Some(Step::Docker(step));
    }
    let report = member.live()?;
    (!report.pending_restart.is_empty() && container.state == ContainerState::Running).then(|| Step::RestartPostgres {
        member: member.place.name.clone(),
        run: report.run.clone(),
        why: format!("{} changed", report.pending_restart.join(", ")),
    })
}

/// Takes up or refuses a switchover that was asked for by annotation; `true` if one begins.
fn asked_switchover(scene: &Scene, status: &mut PostgresClusterStatus, d: &mut Decisions) -> bool {
    let Some(request) = scene.object.annotation(SWITCHOVER_ANNOTATION) else { return false };
    if status.last_switchover.as_ref().is_some_and(|last| last.request == request) || answered(status, request) {
        return false;
    }
    let to = request.split_once('/').map(|(_, to)| to).unwrap_or_default();
    if let Some(refused) = protocol::cannot_switch_to(scene, d, to) {
        status.last_switchover =
            Some(SwitchoverStatus { request: request.into(), refused: Some(refused), result: None });
        return false;
    }
    protocol::switch_over(scene, status, d, SwitchoverDecision { request: request.into(), to: to.into() });
    true
}

/// A request older than the last promotion was answered before, or came too late.
fn answered(status: &PostgresClusterStatus, request: &str) -> bool {
    let asked: Option<Timestamp> = request.split('/').next().and_then(|stamp| stamp.parse().ok());
    let last = status.last_switchover.as_ref().and_then(|last| last.result.as_ref()).map(|result| result.detected_at);
    matches!((asked, last), (Some(asked), Some(last)) if asked <= last)
}

fn requeue(status: &PostgresClusterStatus, d: &Decisions, steps: &[Step], changing: bool) -> Option<Duration> {
    if changing {
        return Some(AT_ONCE);
    }
    if d.stage != Stage::Steady || steps.iter().any(|step| !matches!(step, Step::Renew { .. })) {
        return Some(SOON);
    }
    (status.phase != ClusterPhase::Healthy || !d.absent.is_empty() || !steps.is_empty()).then_some(DEGRADED)
}

fn teardown(
    object: &PostgresCluster,
    observed: &Observed,
    mut status: PostgresClusterStatus,
    now: Timestamp,
) -> Plan<Step, PostgresClusterStatus> {
    let (steps, finished) = workload::teardown(object, observed).unwrap_or_default();
    status.phase = ClusterPhase::Deleting;
    // Whoever routes here leaves everything as it is until the cluster is gone.
    status.endpoint_set = None;
    if let Some(trouble) = unknown(observed) {
        let verdict = conditions::no(trouble.reason, trouble.message);
        conditions::set(&mut status.conditions, "Ready", verdict, status.observed_generation, now);
    }
    Plan { status, steps, requeue: (!finished).then_some(SOON), finished }
}
