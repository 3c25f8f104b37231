//! Docker hosts that accept connections and say nothing, through real sockets.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use evenkeel::api::chain::chain;
use evenkeel::api::docker_host::Endpoint;
use evenkeel::api::labels::Owner;
use evenkeel::engine::docker::{DockerEngine, OwnBinary};
use evenkeel::engine::hosts::Hosts;
use evenkeel::engine::{Engine, Error};
use evenkeel::runtime::clock;
use futures::StreamExt as _;
use futures::future::{join_all, pending};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

fn owner(number: usize) -> Owner {
    Owner { kind: "Deployment".into(), namespace: "default".into(), name: format!("web-{number}") }
}

/// Reads for a number of objects at once; returns how long it took. Each read must say that nothing is known.
async fn reads(engine: &Arc<dyn Engine>, count: usize) -> Duration {
    let owners: Vec<_> = (0..count).map(owner).collect();
    let began = clock::instant();
    for read in join_all(owners.iter().map(|owner| engine.list_containers(owner))).await {
        assert!(matches!(read, Err(Error::Unreachable { .. })), "{read:?}");
    }
    clock::instant() - began
}

#[tokio::test]
async fn a_socket_that_accepts_and_says_nothing_costs_all_objects_a_second_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hole.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    let hosts = Arc::new(Hosts::new(Arc::new(OwnBinary::running())));
    hosts.register("hole", &Endpoint::Unix { path: path.display().to_string() }, None, None).unwrap();
    let mut events = hosts.events();
    tokio::spawn(async move { while events.next().await.is_some() {} });
    let engine = hosts.get("hole").unwrap();
    let first = reads(&engine, 50).await;
    assert!(first < Duration::from_secs(3), "{first:?}");
    let later = reads(&engine, 50).await;
    assert!(later < Duration::from_millis(300), "{later:?}");
    assert_eq!(hosts.glance("hole").unwrap().trouble.unwrap().reason, "Unreachable");
}

/// Answers small requests, until the first POST; from then on nothing at all.
async fn until_the_first_post(listener: UnixListener) {
    let dead = Arc::new(AtomicBool::new(false));
    while let Ok((mut stream, _)) = listener.accept().await {
        let dead = dead.clone();
        tokio::spawn(async move {
            let mut head = [0; 4096];
            let read = stream.read(&mut head).await.unwrap_or_default();
            dead.fetch_or(head[..read].starts_with(b"POST"), Ordering::SeqCst);
            if dead.load(Ordering::SeqCst) {
                return pending().await;
            }
            let body = r#"{"ApiVersion":"1.41","MinAPIVersion":"1.12"}"#;
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length";
            let answer = format!("{head}: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        });
    }
}

/// Regression 308 (campaign, drain during a failover): a container was being created on a standby's new host when that host died.
/// The request waited 10 s for its time-out, and with it the reconcile that was to begin the failover.
#[tokio::test]
async fn a_request_to_a_host_that_dies_meanwhile_ends_long_before_its_time_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dying.sock");
    tokio::spawn(until_the_first_post(UnixListener::bind(&path).unwrap()));
    let endpoint = Endpoint::Unix { path: path.display().to_string() };
    let engine = DockerEngine::connect("dying", &endpoint, None, Arc::new(OwnBinary::running())).unwrap();
    engine.ping().await.unwrap();
    let began = clock::instant();
    let error = chain(&engine.start_container("any").await.unwrap_err());
    let took = clock::instant() - began;
    assert!(error.ends_with("it stopped answering"), "{error}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}
