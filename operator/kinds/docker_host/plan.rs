//! Plans a host: registers it if needed, and judges whether it is ready. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::{Answer, DockerHostKind, Observed, Registration, Step};
use crate::api::conditions::{Status, Verdict, no, set, unknown, yes};
use crate::api::docker_host::{Capacity, DockerHost, DockerHostStatus, is_plain};
use crate::api::failure::Failure;
use crate::api::object::Object as _;
use crate::runtime::{Plan, Planned, Want};

/// Poll interval of a healthy host; events of its containers arrive without polling.
const CALM: Duration = Duration::from_secs(30);
/// Poll interval of a host in trouble, so that its return is noticed soon.
const ALERT: Duration = Duration::from_secs(5);
const READY: &str = "Ready";
const INSECURE: &str = "InsecureTransport";

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
            // The requeue asks the engine right after the step.
            requeue = Duration::ZERO;
            unknown("Registering", format!("registering the engine at {}", object.spec.endpoint))
        }
        (Registration::Same, Answer::Info(info)) => {
            requeue = CALM;
            status.engine_id = Some(info.engine_id.clone()).filter(|id| !id.is_empty());
            status.engine_version = Some(info.engine_version.clone());
            status.api_version = Some(info.api_version.clone());
            status.operating_system = Some(info.operating_system.clone());
            status.architecture = Some(info.architecture.clone());
            status.capacity = Some(Capacity { cpus: info.cpus, memory: info.memory_bytes });
            yes("Reachable", format!("Docker Engine {} answers", info.engine_version))
        }
        (Registration::Same, Answer::Trouble(reason, message)) => no(reason, message.clone()),
        (Registration::Same, Answer::NotAsked) => unknown("NotAsked", "the engine was not asked"),
    };
    status.reachable = ready.status == Status::True;
    set_ready(&mut status, ready, now);
    warn_of_plain(object, &mut status, now);
    Plan { status, steps, requeue: Some(requeue), finished: false }
}

/// For an object that is being deleted: forgets the engine; then the object can be removed.
fn leaving(
    object: &DockerHost,
    mut status: DockerHostStatus,
    observed: &Observed,
    now: Timestamp,
) -> Planned<DockerHostKind> {
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
    set_ready(&mut status, no("StepFailed", format!("{step}: {failure}")), now);
    status
}

/// The condition exists only while the endpoint is plain.
fn warn_of_plain(object: &DockerHost, status: &mut DockerHostStatus, now: Timestamp) {
    if !is_plain(&object.spec) {
        return status.conditions.retain(|condition| condition.type_ != INSECURE);
    }
    let message = format!(
        "{} has no TLS: whoever is on the way reads every password and controls the engine; use spec.tls",
        object.spec.endpoint
    );
    let generation = status.observed_generation.unwrap_or_default();
    set(&mut status.conditions, INSECURE, yes("PlainTcp", message), generation, now);
}

fn set_ready(status: &mut DockerHostStatus, ready: Verdict, now: Timestamp) {
    let generation = status.observed_generation.unwrap_or_default();
    set(&mut status.conditions, READY, ready, generation, now);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use expect_test::{Expect, expect};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;
    use crate::api::docker_host::{DockerHostSpec, TlsReference};
    use crate::api::failure::Class;
    use crate::engine::HostInfo;

    fn host() -> DockerHost {
        let tls = Some(TlsReference { secret_name: "cert".into(), secret_namespace: "default".into() });
        let mut host =
            DockerHost::new("far", DockerHostSpec { endpoint: "tcp://far:2376".into(), tls, ..Default::default() });
        host.metadata.generation = Some(1);
        host
    }

    fn info() -> Answer {
        Answer::Info(HostInfo {
            engine_id: "4Z2K:one".into(),
            engine_version: "20.10.24".into(),
            api_version: "1.41".into(),
            operating_system: "Debian".into(),
            architecture: "x86_64".into(),
            cpus: 4,
            memory_bytes: 8 << 30,
        })
    }

    fn away() -> Answer {
        Answer::Trouble(
            "Unreachable",
            "Docker host far does not answer while asking for its status: connection refused".into(),
        )
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// The plan as text.
    fn said(plan: &Plan<Step, DockerHostStatus>) -> String {
        let mut said: String = plan.steps.iter().map(|step| format!("step: {step}\n")).collect();
        for condition in &plan.status.conditions {
            let Condition { type_, status, reason, message, .. } = condition;
            said.push_str(&format!(
                "{type_}={status} {reason} since {}: {message}\n",
                condition.last_transition_time.0.as_second()
            ));
        }
        said + &format!("again in {:?}, finished: {}\n", plan.requeue.unwrap(), plan.finished)
    }

    fn check(object: &DockerHost, registration: Registration, answer: Answer, expected: Expect) {
        let observed = Observed { registration, answer };
        let first = plan(object, &observed, object.want(), at(10));
        expected.assert_eq(&said(&first));
        // Planning again from the same observation must give the same plan.
        let mut recorded = object.clone();
        recorded.status = Some(first.status.clone());
        if object.metadata.deletion_timestamp.is_none() {
            assert_eq!(plan(&recorded, &observed, recorded.want(), at(20)), first);
        }
    }

    #[test]
    fn a_new_host_is_registered_and_asked_at_once() {
        check(
            &host(),
            Registration::Absent,
            Answer::NotAsked,
            expect![[r#"
            step: register Docker host far at tcp://far:2376
            Ready=Unknown Registering since 10: registering the engine at tcp://far:2376
            again in 0ns, finished: false
        "#]],
        );
    }

    #[test]
    fn a_host_that_answers_is_ready() {
        check(
            &host(),
            Registration::Same,
            info(),
            expect![[r#"
            Ready=True Reachable since 10: Docker Engine 20.10.24 answers
            again in 30s, finished: false
        "#]],
        );
        let status =
            plan(&host(), &Observed { registration: Registration::Same, answer: info() }, host().want(), at(10)).status;
        assert_eq!((status.reachable, status.capacity), (true, Some(Capacity { cpus: 4, memory: 8 << 30 })));
    }

    #[test]
    fn a_host_without_tls_says_so_as_long_as_it_has_none() {
        let mut plain = host();
        plain.spec.tls = None;
        check(
            &plain,
            Registration::Same,
            info(),
            expect![[r#"
            Ready=True Reachable since 10: Docker Engine 20.10.24 answers
            InsecureTransport=True PlainTcp since 10: tcp://far:2376 has no TLS: whoever is on the way reads every password and controls the engine; use spec.tls
            again in 30s, finished: false
        "#]],
        );
        let observed = Observed { registration: Registration::Same, answer: info() };
        let mut mended = host();
        mended.status = Some(plan(&plain, &observed, Want::Present, at(1)).status);
        assert_eq!(plan(&mended, &observed, Want::Present, at(2)).status.conditions.len(), 1);
    }

    #[test]
    fn a_host_that_went_away_keeps_what_was_known_of_it() {
        let mut known = host();
        known.status = Some(
            plan(&known, &Observed { registration: Registration::Same, answer: info() }, known.want(), at(1)).status,
        );
        check(
            &known,
            Registration::Same,
            away(),
            expect![[r#"
            Ready=False Unreachable since 10: Docker host far does not answer while asking for its status: connection refused
            again in 5s, finished: false
        "#]],
        );
        let status =
            plan(&known, &Observed { registration: Registration::Same, answer: away() }, known.want(), at(10)).status;
        assert_eq!((status.reachable, status.engine_version.as_deref()), (false, Some("20.10.24")));
        assert_eq!(status.engine_id.as_deref(), Some("4Z2K:one"));
    }

    #[test]
    fn a_missing_certificate_is_a_condition_and_nothing_is_done() {
        let missing =
            Registration::Impossible("SecretNotFound", "Secret default/cert of spec.tls does not exist".into());
        check(
            &host(),
            missing,
            Answer::NotAsked,
            expect![[r#"
            Ready=False SecretNotFound since 10: Secret default/cert of spec.tls does not exist
            again in 5s, finished: false
        "#]],
        );
    }

    #[test]
    fn a_deleted_host_is_forgotten_and_then_gone() {
        let mut leaving = host();
        leaving.metadata.deletion_timestamp = Some(Time(at(5)));
        check(
            &leaving,
            Registration::Same,
            info(),
            expect![[r#"
            step: forget Docker host far
            Ready=False Forgotten since 10: the host is no longer used; its containers keep running
            again in 0ns, finished: false
        "#]],
        );
        check(
            &leaving,
            Registration::Absent,
            Answer::NotAsked,
            expect![[r#"
            Ready=False Forgotten since 10: the host is no longer used; its containers keep running
            again in 0ns, finished: true
        "#]],
        );
        let impossible = Registration::Impossible("InvalidEndpoint", "no".into());
        let observed = Observed { registration: impossible, answer: Answer::NotAsked };
        leaving.status = Some(plan(&leaving, &observed, leaving.want(), at(6)).status);
        assert!(plan(&leaving, &observed, leaving.want(), at(7)).finished);
    }

    #[test]
    fn a_paused_host_keeps_the_engine_in_use_and_is_registered_after_a_restart() {
        let mut paused = host();
        paused.metadata.annotations = Some([("evenkeel.dev/reconcile".to_owned(), "paused".to_owned())].into());
        check(
            &paused,
            Registration::Differs,
            Answer::NotAsked,
            expect![[r#"
            Ready=Unknown Paused since 10: reconciliation is paused by annotation
            again in 5s, finished: false
        "#]],
        );
        check(
            &paused,
            Registration::Absent,
            Answer::NotAsked,
            expect![[r#"
            step: register Docker host far at tcp://far:2376
            Ready=Unknown Registering since 10: registering the engine at tcp://far:2376
            again in 0ns, finished: false
        "#]],
        );
    }

    #[test]
    fn a_failed_step_is_told_in_the_condition() {
        let step = Step::Register { host: "far".into(), endpoint: "tcp://far:2376".into() };
        let failure = Failure::new(Class::Transient, "tls.key holds no private key in PEM");
        let status = failed(DockerHostStatus::default(), &step, &failure, at(3));
        assert_eq!(
            (status.conditions[0].reason.as_str(), status.conditions[0].message.as_str()),
            ("StepFailed", "register Docker host far at tcp://far:2376: tls.key holds no private key in PEM")
        );
    }
}
