//! Docker hosts behind a real SSH server, against the machine's Docker. Runs only with EVENKEEL_TEST_DOCKER=1.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use evenkeel::engine::docker::{DockerEngine, Keys, OwnBinary};
use evenkeel::engine::hosts::{Hosts, local_endpoint};
use evenkeel::engine::{BINARY_DIR, ContainerSpec, Engine, Error};
use futures::StreamExt as _;
use futures::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::docker_engine::{DockerBench, bench, within};
use super::sshd::{Sshd, processes_with};

fn binary() -> Arc<OwnBinary> {
    Arc::new(OwnBinary::at(env!("CARGO_BIN_EXE_evenkeel"), evenkeel::CONTAINER_IDENTITY))
}

/// The socket of the machine's Docker.
fn socket() -> String {
    local_endpoint().unwrap().to_string().strip_prefix("unix://").unwrap().to_owned()
}

/// The machine's Docker through this server, with its files below `run`.
fn through(sshd: &Sshd, keys: &Keys, run: &std::path::Path) -> DockerEngine {
    DockerEngine::connect_below("far", &sshd.endpoint(&socket()), Some(keys), binary(), run).unwrap()
}

/// A bench and a server; `None` without a Docker.
fn start(test: &str, more: &str) -> Option<(DockerBench, Sshd, tempfile::TempDir)> {
    let bench = bench(test)?;
    Some((bench, Sshd::start(more), tempfile::tempdir().unwrap()))
}

/// Asks until the answer is as wanted.
async fn until<T>(mut ask: impl AsyncFnMut() -> T, wanted: impl Fn(&T) -> bool) -> T {
    within(async {
        loop {
            let answer = ask().await;
            if wanted(&answer) {
                return answer;
            }
            tokio::task::spawn_blocking(crate::poll::pause).await.unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn a_docker_behind_ssh_answers_sends_events_and_takes_64_dials_at_once_over_one_connection() {
    let Some((bench, sshd, run)) = start("ssh", "MaxSessions 1") else { return };
    let far = through(&sshd, &sshd.keys("user", "host"), run.path());
    within(far.ping()).await.unwrap();
    assert_eq!(within(far.info()).await.unwrap().engine_id, bench.engine.info().await.unwrap().engine_id);
    let mut events = far.events();
    assert_eq!(within(events.next()).await, Some(None));
    let volumes = vec![(bench.binary().await, BINARY_DIR.to_owned(), true)];
    let echo =
        "/bin/busybox nc -ll -p 7000 -e /bin/busybox cat & trap exit TERM; while :; do /bin/busybox sleep 0.05; done";
    bench.run(&ContainerSpec { volumes, ..bench.container(echo) }).await;
    until(async || within(events.next()).await, |hint| *hint == Some(Some(bench.owner.clone()))).await;
    let container = bench.name("1");
    until(async || far.dial(&container, "tcp:127.0.0.1:7000").await.is_ok(), |listens| *listens).await;
    let dials = (0..64).map(|number| {
        let (far, container) = (far.clone(), container.clone());
        async move {
            let mut stream = far.dial(&container, "tcp:127.0.0.1:7000").await.unwrap();
            stream.write_all(format!("{number:04}").as_bytes()).await.unwrap();
            let mut back = [0; 4];
            stream.read_exact(&mut back).await.unwrap();
            (stream, back == format!("{number:04}").as_bytes())
        }
    });
    let answers = within(join_all(dials)).await;
    assert!(answers.iter().all(|(_, same)| *same));
    assert_eq!(processes_with(&run.path().display().to_string()).len(), 1, "one process for all of it");
}

#[tokio::test]
async fn a_server_that_is_killed_ends_all_streams_and_is_found_again() {
    let Some((_bench, mut sshd, run)) = start("ssh-killed", "") else { return };
    let far = through(&sshd, &sshd.keys("user", "host"), run.path());
    let mut events = far.events();
    assert_eq!(within(events.next()).await, Some(None));
    sshd.kill();
    let error = until(async || far.ping().await, Result::is_err).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    let cause = until(async || far.ping().await.unwrap_err().cause(), |cause| cause.message.contains("refused")).await;
    assert_eq!(cause.reason, "Unreachable");
    sshd.run();
    until(async || far.ping().await, Result::is_ok).await.unwrap();
    assert_eq!(within(events.next()).await, Some(None), "it follows the events anew");
}

#[tokio::test]
async fn what_is_wrong_with_the_keys_is_told_in_plain_words() {
    let Some((_bench, sshd, run)) = start("ssh-keys", "") else { return };
    let told = async |key: &str, host: &str| {
        let far = through(&sshd, &sshd.keys(key, host), &run.path().join(format!("{key}-{host}")));
        let cause = within(far.ping()).await.unwrap_err().cause();
        format!("{}: {cause}\n", cause.reason).replace(&sshd.port.to_string(), "PORT")
    };
    let whole = told("other", "host").await + &told("user", "other").await;
    let me = sshd.endpoint("/x").to_string().split(['/', '@']).nth(2).unwrap().to_owned();
    expect_test::expect![[r#"
        AuthenticationFailed: 127.0.0.1 does not accept the key of the Secret for user ME: add its public half (ssh-keygen -y -f KEY) to ~/.ssh/authorized_keys of that user
        HostKeyUnknown: the host key of 127.0.0.1 is not the one in known_hosts of the Secret: it was reinstalled, or another machine answers. If that is right, replace its line by what this prints: ssh-keyscan -p PORT 127.0.0.1
    "#]].assert_eq(&whole.replace(&format!("user {me}:"), "user ME:"));
    let Keys::Ssh(mut keys) = sshd.keys("user", "host") else { panic!("no keys of ssh") };
    keys.known_hosts = b"elsewhere ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ".to_vec();
    let far = through(&sshd, &Keys::Ssh(keys), run.path());
    let cause = within(far.ping()).await.unwrap_err().cause();
    assert!(cause.reason == "HostKeyUnknown" && cause.message.contains("ssh-keyscan -p"), "{cause:?}");
}

#[tokio::test]
async fn a_server_that_forwards_nothing_and_a_socket_that_is_not_there_are_told() {
    let Some((_bench, sshd, run)) = start("ssh-forward", "AllowStreamLocalForwarding no") else { return };
    let far = through(&sshd, &sshd.keys("user", "host"), run.path());
    let cause = until(async || far.ping().await.unwrap_err().cause(), |cause| cause.reason != "Unreachable").await;
    assert!(cause.reason == "ForwardingRefused" && cause.message.contains("AllowStreamLocalForwarding"), "{cause:?}");
    let sshd = Sshd::start("");
    let (keys, endpoint) = (sshd.keys("user", "host"), sshd.endpoint("/nowhere/docker.sock"));
    let folder = run.path().join("two");
    let far = DockerEngine::connect_below("far", &endpoint, Some(&keys), binary(), &folder).unwrap();
    let cause = until(async || far.ping().await.unwrap_err().cause(), |cause| cause.reason != "Unreachable").await;
    assert!(cause.message.contains("/nowhere/docker.sock"), "{cause:?}");
}

#[tokio::test]
async fn a_forgotten_host_leaves_no_process_and_no_key_behind() {
    let Some((_bench, sshd, run)) = start("ssh-forgotten", "") else { return };
    let hosts = Arc::new(Hosts::new(binary()).below(run.path().join("run")));
    hosts.register("far", &sshd.endpoint(&socket()), Some(&sshd.keys("user", "host")), None).unwrap();
    let mut events = hosts.events();
    let far = hosts.get("far").unwrap();
    until(async || far.ping().await, Result::is_ok).await.unwrap();
    assert!(within(events.next()).await.is_some());
    let (text, folder) = (run.path().display().to_string(), run.path().join("run"));
    let files = || std::fs::read_dir(&folder).unwrap().count();
    assert_eq!((processes_with(&text).len(), files()), (1, 1));
    // Somebody still holds the engine.
    hosts.forget("far");
    until(async || processes_with(&text).len() + files(), |left| *left == 0).await;
    assert!(within(far.ping()).await.is_err());
    assert_eq!(files(), 0, "a late request starts nothing");
}

#[tokio::test]
async fn what_a_killed_operator_left_behind_is_ended_and_removed() {
    let Some((_bench, sshd, run)) = start("ssh-sweep", "") else { return };
    let left = through(&sshd, &sshd.keys("user", "host"), run.path());
    until(async || left.ping().await, Result::is_ok).await.unwrap();
    let text = run.path().display().to_string();
    let before = processes_with(&text);
    assert_eq!(before.len(), 1);
    // The process that owns it goes on here, so it starts another one; the first one is ended.
    evenkeel::engine::docker::sweep(run.path());
    until(async || left.ping().await, Result::is_err).await.unwrap_err();
    drop(left);
    until(async || processes_with(&text).len(), |left| *left == 0).await;
}
