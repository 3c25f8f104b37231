//! Docker hosts that accept connections and say nothing, through real sockets.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use evenkeel::api::docker_host::Endpoint;
use evenkeel::api::labels::Owner;
use evenkeel::engine::docker::OwnBinary;
use evenkeel::engine::hosts::Hosts;
use evenkeel::engine::{Engine, Error};
use evenkeel::runtime::clock;
use futures::StreamExt as _;
use futures::future::join_all;
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
