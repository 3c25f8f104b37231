//! Plans a host: registers it if needed, and judges how it is. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Answer, DockerHostKind, Observed, Registration, Step, agent, found, register};
use crate::api::conditions::{Status, Verdict, no, set, unknown, yes};
use crate::api::docker_host::{Capacity, DockerHost, DockerHostStatus, is_plain};
use crate::api::failure::Failure;
use crate::api::labels::Owner;
use crate::api::object::Object as _;
use crate::engine::HostInfo;
use crate::runtime::{Plan, Planned, Significance as _, Want};

/// Time until a healthy host is looked at again; changes wake it sooner.
const CALM: Duration = Duration::from_secs(30);
/// The same of a host in trouble.
const ALERT: Duration = Duration::from_secs(5);
/// The same of a host that somebody waits for.
const AWAITED: Duration = Duration::from_secs(2);
/// Age of `lastHeard` while the host answers: it is not written for each answer.
const HEARD: SignedDuration = SignedDuration::from_secs(300);
/// Difference of `lastHeard` that is only the resolution of a measurement.
const SAME: SignedDuration = SignedDuration::from_secs(2);
/// Offset of a clock from which on people are told, in seconds.
const SKEWED: f64 = 1.0;
/// Change of an offset that is only the resolution of a measurement, in seconds.
const STEADY: f64 = 0.2;
const READY: &str = "Ready";
const INSECURE: &str = "InsecureTransport";
const IDENTITY: &str = "IdentityChanged";
const CLOCK: &str = "ClockSkewed";
const DRAINED: &str = "Drained";

/// Pure: what to record about the host and what to do.
pub fn plan(object: &DockerHost, observed: &Observed, want: Want, now: Timestamp) -> Planned<DockerHostKind> {
    let mut status = object.status.clone().unwrap_or_default();
    status.observed_generation = object.metadata.generation;
    if want == Want::Absent {
        return leaving(object, status, observed, now);
    }
    let mut steps = Vec::new();
    let mut requeue = ALERT;
    let ready = match (&observed.registration, &observed.answer) {
        (Registration::Impossible(reason, message), _) => no(reason, message.clone()),
        // While the object is paused, the registered engine stays.
        (Registration::Differs, _) if want == Want::Paused => {
            unknown("Paused", "reconciliation is paused by annotation")
        }
        (Registration::Absent | Registration::Differs, _) => {
            let (host, endpoint) = (object.name().to_owned(), object.spec.endpoint.clone());
            steps.push(Step::Register { host, endpoint });
            // The requeue looks at the engine right after the step.
            requeue = Duration::ZERO;
            unknown("Registering", format!("registering the engine at {}", object.spec.endpoint))
        }
        (Registration::Same, Answer::Stranger(found))
            if want == Want::Present && register::accepted(object) == Some(found) =>
        {
            steps.push(Step::Accept { host: object.name().to_owned(), engine: found.clone() });
            requeue = Duration::ZERO;
            unknown("Accepting", format!("engine {found} was accepted and is looked at"))
        }
        (Registration::Same, Answer::Stranger(found)) => no(IDENTITY, changed(object, found)),
        (Registration::Same, Answer::Info(info)) => {
            requeue = CALM;
            tell(&mut status, info);
            yes("Reachable", format!("Docker Engine {} answers", info.engine_version))
        }
        (Registration::Same, Answer::Trouble(trouble)) => no(trouble.reason, trouble.message.clone()),
        (Registration::Same, Answer::NotAsked) => unknown("Connecting", "the engine has not answered yet"),
    };
    status.reachable = ready.status == Status::True;
    if object.spec.drain || object.spec.maintenance {
        requeue = requeue.min(AWAITED);
    }
    if let Some(all) = &observed.containers {
        status.containers = Some(all.values().sum());
    }
    note_heard(&mut status, observed, now);
    let skewed = note_clock(&mut status, observed, now);
    status.found_engine_id = match &observed.answer {
        Answer::Stranger(found) => Some(found.clone()),
        _ => None,
    };
    let stranger = status.found_engine_id.as_ref().map(|found| yes("AnotherEngine", changed(object, found)));
    let ready = out_of_service(object, &status, ready);
    let rebooted = found::record(object, &observed.agent, &mut status);
    let mut no_port = None;
    if want == Want::Present && status.reachable {
        let (more, problem) = agent::steps(object, &observed.agent);
        steps.extend(rebooted.into_iter().chain(more));
        no_port = problem;
    }
    let found = found::verdicts(object, &observed.agent, &status, no_port);
    let conditions = [
        (READY, Some(ready)),
        (IDENTITY, stranger),
        (CLOCK, skewed),
        (DRAINED, drained(object, observed)),
        (INSECURE, plain(object)),
    ];
    for (kind, verdict) in conditions.into_iter().chain(found) {
        let generation = status.observed_generation.unwrap_or_default();
        match verdict {
            Some(verdict) => set(&mut status.conditions, kind, verdict, generation, now),
            None => status.conditions.retain(|condition| condition.type_ != kind),
        }
    }
    Plan { status, steps, requeue: Some(requeue), finished: false }
}

/// Records what the engine says about itself.
fn tell(status: &mut DockerHostStatus, info: &HostInfo) {
    status.engine_id = Some(info.engine_id.clone()).filter(|id| !id.is_empty());
    status.engine_version = Some(info.engine_version.clone());
    status.api_version = Some(info.api_version.clone());
    status.operating_system = Some(info.operating_system.clone());
    status.architecture = Some(info.architecture.clone());
    status.capacity = Some(Capacity { cpus: info.cpus, memory: info.memory_bytes });
}

/// What people must know when another engine answers.
fn changed(object: &DockerHost, found: &str) -> String {
    let known = object.status.as_ref().and_then(|status| status.engine_id.as_deref()).unwrap_or("another");
    if object.spec.endpoint.starts_with("unix://") {
        return format!(
            "another engine answers at {}: its ID is {found}, and it was {known}. To each of several operators over one store, a socket \
             is that of its own machine, and another operator may lead now: give the host an endpoint that all of them reach (ssh:// \
             or tcp://). Nothing there is believed or changed. Only if this machine's Docker has a new data root, and what the old one \
             had is gone for good: evenkeel host accept {}",
            object.spec.endpoint,
            object.name()
        );
    }
    format!(
        "another engine answers at {}: its ID is {found}, and it was {known}. The host was reinstalled, its Docker has a new \
         data root, or another machine has its address. Nothing there is believed or changed. If it is right, and what the \
         old engine had is gone for good: evenkeel host accept {}",
        object.spec.endpoint,
        object.name()
    )
}

/// A host that a person has declared lost is not ready, even if it answers.
fn out_of_service(object: &DockerHost, status: &DockerHostStatus, ready: Verdict) -> Verdict {
    let name = object.name();
    match (object.spec.out_of_service, status.reachable) {
        (false, _) => ready,
        (true, false) => no(
            "OutOfService",
            format!("a person says that it is off for good; if it comes back: evenkeel host found {name}"),
        ),
        (true, true) => no(
            "OutOfServiceAnswers",
            format!(
                "a person says that it is off, and it answers: what runs there may exist twice. Turn it off, or take the \
                 word back: evenkeel host found {name}"
            ),
        ),
    }
}

fn note_heard(status: &mut DockerHostStatus, observed: &Observed, now: Timestamp) {
    let Some(age) = observed.heard.and_then(|age| SignedDuration::try_from(age).ok()) else { return };
    let heard = now - age;
    let tolerance = if status.reachable { HEARD } else { SAME };
    let known = status.last_heard.as_ref().map(|known| known.0);
    if known.is_none_or(|known| heard.duration_since(known).abs() > tolerance) {
        status.last_heard = Timestamp::from_second(heard.as_second()).ok().map(Time);
    }
}

/// Records by how much the host's clock differs, and judges it.
fn note_clock(status: &mut DockerHostStatus, observed: &Observed, now: Timestamp) -> Option<Verdict> {
    if let Some((time, age)) = observed.clock
        && let Ok(age) = SignedDuration::try_from(age)
    {
        let offset = (time + age).duration_since(now).as_secs_f64();
        if status.clock_offset.is_none_or(|known| (known - offset).abs() > STEADY) {
            status.clock_offset = Some((offset * 10.0).round() / 10.0);
        }
    }
    let offset = status.clock_offset.filter(|offset| offset.abs() > SKEWED)?;
    let direction = if offset > 0.0 { "ahead of" } else { "behind" };
    let message = format!(
        "its clock is {:.1} s {direction} the operator's: certificates may not be valid there yet or any more, and times in \
         its logs mislead. Let both follow a time server (NTP)",
        offset.abs()
    );
    Some(yes("ClockDiffers", message))
}

/// Whether what `drain` or `maintenance` asked for is done.
fn drained(object: &DockerHost, observed: &Observed) -> Option<Verdict> {
    if !object.spec.drain && !object.spec.maintenance {
        return None;
    }
    if !matches!(observed.answer, Answer::Info(_)) {
        return Some(unknown("HostSilent", "what is left there is not known while it does not answer"));
    }
    let Some(containers) = &observed.containers else {
        return Some(unknown("NotListed", "what is there has not been listed yet"));
    };
    let left: Vec<String> = match object.spec.drain {
        // Its agent stays as long as it is declared.
        true => containers
            .iter()
            .filter(|(owner, _)| **owner != object.owner())
            .map(|(owner, count)| of(owner, *count))
            .collect(),
        false => observed.leaders.iter().cloned().collect(),
    };
    if !left.is_empty() {
        return Some(no("Remaining", format!("still there: {}", found::some(&left))));
    }
    Some(match object.spec.drain {
        true => yes("Empty", "nothing of Evenkeel is left there: it can be taken out of service"),
        false => yes("ReadyForRestart", "no primary, master or pod is left there: it can be restarted"),
    })
}

fn of(owner: &Owner, count: usize) -> String {
    let Owner { kind, namespace, name } = owner;
    let containers = if count == 1 { "container" } else { "containers" };
    format!("{kind} {namespace}/{name} ({count} {containers})")
}

/// For an object that is being deleted: removes the agent, if the host answers, and forgets the engine; then the object can be
/// removed.
fn leaving(
    object: &DockerHost,
    mut status: DockerHostStatus,
    observed: &Observed,
    now: Timestamp,
) -> Planned<DockerHostKind> {
    let (steps, gone) = agent::teardown(object, &observed.agent);
    if matches!(observed.answer, Answer::Info(_)) && !gone {
        set_ready(&mut status, no("Terminating", "its agent is removed"), now);
        return Plan { status, steps, requeue: Some(ALERT), finished: false };
    }
    let registered = !matches!(observed.registration, Registration::Absent);
    // An impossible endpoint may have been possible before: forgetting an absent engine once is harmless.
    let forgotten =
        status.conditions.iter().any(|condition| condition.type_ == READY && condition.reason == "Forgotten");
    let steps =
        if registered && !forgotten { vec![Step::Forget { host: object.name().to_owned() }] } else { Vec::new() };
    let finished = steps.is_empty();
    status.reachable = false;
    set_ready(&mut status, no("Forgotten", "the host is no longer used; its containers keep running"), now);
    Plan { status, steps, requeue: Some(Duration::ZERO), finished }
}

/// Records in the status that a step failed.
pub(super) fn failed(mut status: DockerHostStatus, step: &Step, failure: &Failure, now: Timestamp) -> DockerHostStatus {
    let message = format!("{step}: {failure}");
    match step {
        Step::Register { .. } | Step::Accept { .. } | Step::Forget { .. } => {
            set_ready(&mut status, no("StepFailed", message), now);
        }
        // A host without its agent is as good as any other.
        Step::Port(_) | Step::Docker(_) | Step::Order(_) | Step::Rebooted { .. } => {
            let generation = status.observed_generation.unwrap_or_default();
            let verdict = yes(step.failure_reason(), format!("could not {message}; it is tried again"));
            set(&mut status.conditions, found::AGENT, verdict, generation, now);
        }
    }
    status
}

/// The warning of an endpoint without TLS.
fn plain(object: &DockerHost) -> Option<Verdict> {
    let message = format!(
        "{} has no TLS: whoever is on the way reads every password and controls the engine; use spec.tls",
        object.spec.endpoint
    );
    is_plain(&object.spec).then(|| yes("PlainTcp", message))
}

fn set_ready(status: &mut DockerHostStatus, ready: Verdict, now: Timestamp) {
    let generation = status.observed_generation.unwrap_or_default();
    set(&mut status.conditions, READY, ready, generation, now);
}

#[cfg(test)]
mod tests;
