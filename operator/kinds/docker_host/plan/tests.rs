//! Tests of the plan of a host.
#![allow(clippy::unwrap_used)]

use expect_test::{Expect, expect};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::*;
use crate::api::docker_host::ACCEPT_ANNOTATION;
use crate::api::docker_host::{DockerHostSpec, TlsReference};
use crate::api::failure::Class;
use crate::engine::Trouble;

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
    Answer::Trouble(Trouble { reason: "Unreachable", message: "connection refused".into() })
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A registered host that answers like this.
fn seen(answer: Answer) -> Observed {
    let (heard, clock, containers, leaders, agent) = Default::default();
    Observed { registration: Registration::Same, answer, heard, clock, containers, leaders, agent }
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
    let observed = Observed { registration, ..seen(answer) };
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
    let status = plan(&host(), &seen(info()), host().want(), at(10)).status;
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
    let observed = seen(info());
    let mut mended = host();
    mended.status = Some(plan(&plain, &observed, Want::Present, at(1)).status);
    assert_eq!(plan(&mended, &observed, Want::Present, at(2)).status.conditions.len(), 1);
}

#[test]
fn a_host_that_went_away_keeps_what_was_known_of_it() {
    let mut known = host();
    known.status = Some(plan(&known, &seen(info()), known.want(), at(1)).status);
    check(
        &known,
        Registration::Same,
        away(),
        expect![[r#"
        Ready=False Unreachable since 10: connection refused
        again in 5s, finished: false
    "#]],
    );
    let status = plan(&known, &seen(away()), known.want(), at(10)).status;
    assert_eq!((status.reachable, status.engine_version.as_deref()), (false, Some("20.10.24")));
    assert_eq!(status.engine_id.as_deref(), Some("4Z2K:one"));
}

#[test]
fn a_missing_certificate_is_a_condition_and_nothing_is_done() {
    let missing = Registration::Impossible("SecretNotFound", "Secret default/cert of spec.tls does not exist".into());
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
    let observed = Observed { registration: impossible, ..seen(Answer::NotAsked) };
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

/// The conditions and figures of a plan as text.
fn shown(object: &DockerHost, observed: &Observed, now: i64) -> String {
    let plan = plan(object, observed, object.want(), at(now));
    let status = &plan.status;
    let heard = status.last_heard.as_ref().map(|heard| heard.0.as_second());
    let figures = format!("heard {heard:?}, offset {:?}, containers {:?}\n", status.clock_offset, status.containers);
    said(&plan) + &figures
}

fn with_status(mut object: DockerHost, observed: &Observed) -> DockerHost {
    object.status = Some(plan(&object, observed, Want::Present, at(1)).status);
    object
}

#[test]
fn another_engine_is_not_used_until_a_person_accepts_it() {
    let mut host = with_status(host(), &seen(info()));
    let stranger = seen(Answer::Stranger("9XYZ:two".into()));
    expect![[r#"
        Ready=False IdentityChanged since 10: another engine answers at tcp://far:2376: its ID is 9XYZ:two, and it was 4Z2K:one. The host was reinstalled, its Docker has a new data root, or another machine has its address. Nothing there is believed or changed. If it is right, and what the old engine had is gone for good: evenkeel host accept far
        IdentityChanged=True AnotherEngine since 10: another engine answers at tcp://far:2376: its ID is 9XYZ:two, and it was 4Z2K:one. The host was reinstalled, its Docker has a new data root, or another machine has its address. Nothing there is believed or changed. If it is right, and what the old engine had is gone for good: evenkeel host accept far
        again in 5s, finished: false
        heard None, offset None, containers None
    "#]].assert_eq(&shown(&host, &stranger, 10));
    assert_eq!(plan(&host, &stranger, Want::Present, at(10)).status.engine_id.as_deref(), Some("4Z2K:one"));
    host.metadata.annotations = Some([(ACCEPT_ANNOTATION.to_owned(), "1ABC:three".to_owned())].into());
    assert!(
        plan(&host, &stranger, Want::Present, at(10)).steps.is_empty(),
        "a third engine was accepted, not this one"
    );
    host.metadata.annotations = Some([(ACCEPT_ANNOTATION.to_owned(), "9XYZ:two".to_owned())].into());
    let accepted = plan(&host, &stranger, Want::Present, at(10));
    assert_eq!(accepted.steps[0].to_string(), "accept engine 9XYZ:two as Docker host far");
    assert!(plan(&host, &stranger, Want::Paused, at(10)).steps.is_empty());
}

/// Regression 315: two operators over an etcd of the user's had the host `local` that the first one had made by itself. When the
/// second one led, it was told that the host was reinstalled, and to accept the Docker of its own machine.
#[test]
fn a_socket_where_another_engine_answers_may_be_that_of_another_operator() {
    let mut host = host();
    host.spec.endpoint = "unix:///var/run/docker.sock".into();
    let host = with_status(host, &seen(info()));
    let told = shown(&host, &seen(Answer::Stranger("9XYZ:two".into())), 10);
    assert!(told.contains("a socket is that of its own machine") && told.contains("ssh:// or tcp://"), "{told}");
}

#[test]
fn a_clock_that_differs_by_more_than_a_second_is_told_and_small_changes_are_not_written() {
    let read = |time: i64, age: u64| Observed { clock: Some((at(time), Duration::from_secs(age))), ..seen(info()) };
    expect![[r#"
        Ready=True Reachable since 100: Docker Engine 20.10.24 answers
        ClockSkewed=True ClockDiffers since 100: its clock is 90.0 s behind the operator's: certificates may not be valid there yet or any more, and times in its logs mislead. Let both follow a time server (NTP)
        again in 30s, finished: false
        heard None, offset Some(-90.0), containers None
    "#]].assert_eq(&shown(&host(), &read(5, 5), 100));
    let known = with_status(host(), &read(0, 1));
    let offset = |millis: i64| {
        let clock = Some((at(100) + SignedDuration::from_millis(millis), Duration::ZERO));
        plan(&known, &Observed { clock, ..seen(info()) }, Want::Present, at(100)).status.clock_offset
    };
    assert_eq!((offset(0), offset(150), offset(-300)), (Some(0.0), Some(0.0), Some(-0.3)));
}

#[test]
fn the_time_of_the_last_answer_is_exact_when_the_host_is_silent() {
    let heard = |ago: u64, answer: Answer| Observed { heard: Some(Duration::from_secs(ago)), ..seen(answer) };
    let known = with_status(host(), &heard(0, info()));
    let told = |observed: &Observed, now: i64| {
        plan(&known, observed, Want::Present, at(now)).status.last_heard.map(|heard| heard.0.as_second())
    };
    assert_eq!(told(&heard(0, info()), 200), Some(1), "not written for each answer");
    assert_eq!(told(&heard(0, info()), 302), Some(302));
    assert_eq!(told(&heard(50, away()), 200), Some(150));
}

#[test]
fn a_drained_host_says_what_is_left() {
    let mut host = host();
    host.spec.drain = true;
    let owner = |name: &str| Owner { kind: "Deployment".into(), namespace: "default".into(), name: name.into() };
    let left = |names: &[&str]| Observed {
        containers: Some(names.iter().map(|name| (owner(name), name.len())).collect()),
        ..seen(info())
    };
    let told = [
        shown(&host, &left(&["a", "bb", "c", "d", "e", "f", "g"]), 10),
        shown(&host, &left(&[]), 10),
        shown(&host, &Observed { answer: away(), ..left(&[]) }, 10),
    ];
    expect![[r#"
        Ready=True Reachable since 10: Docker Engine 20.10.24 answers
        Drained=False Remaining since 10: still there: Deployment default/a (1 container), Deployment default/bb (2 containers), Deployment default/c (1 container), Deployment default/d (1 container), Deployment default/e (1 container) and 2 more
        again in 2s, finished: false
        heard None, offset None, containers Some(8)
        Ready=True Reachable since 10: Docker Engine 20.10.24 answers
        Drained=True Empty since 10: nothing of Evenkeel is left there: it can be taken out of service
        again in 2s, finished: false
        heard None, offset None, containers Some(0)
        Ready=False Unreachable since 10: connection refused
        Drained=Unknown HostSilent since 10: what is left there is not known while it does not answer
        again in 2s, finished: false
        heard None, offset None, containers Some(0)
    "#]].assert_eq(&told.concat());
}

#[test]
fn a_host_in_maintenance_waits_for_primaries_and_pods_alone() {
    let mut host = host();
    host.spec.maintenance = true;
    let owner = Owner { kind: "PostgresCluster".into(), namespace: "default".into(), name: "db".into() };
    let observed = Observed { containers: Some([(owner, 2)].into()), ..seen(info()) };
    let waits = Observed { leaders: ["primary default/db-1".to_owned()].into(), ..observed.clone() };
    let told = |observed: &Observed| {
        let plan = plan(&host, observed, Want::Present, at(1));
        plan.status.conditions.iter().find(|one| one.type_ == DRAINED).map(|one| one.message.clone()).unwrap()
    };
    assert_eq!(told(&waits), "still there: primary default/db-1");
    assert_eq!(told(&observed), "no primary, master or pod is left there: it can be restarted");
}

#[test]
fn a_host_out_of_service_is_not_ready_even_if_it_answers() {
    let mut host = host();
    host.spec.out_of_service = true;
    let told = |answer: Answer| shown(&host, &seen(answer), 10);
    expect![[r#"
        Ready=False OutOfServiceAnswers since 10: a person says that it is off, and it answers: what runs there may exist twice. Turn it off, or take the word back: evenkeel host found far
        again in 30s, finished: false
        heard None, offset None, containers None
        Ready=False OutOfService since 10: a person says that it is off for good; if it comes back: evenkeel host found far
        again in 5s, finished: false
        heard None, offset None, containers None
    "#]].assert_eq(&(told(info()) + &told(away())));
}
