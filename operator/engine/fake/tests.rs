//! Tests of the engine in memory: it has the rules of the real one.
#![allow(clippy::unwrap_used)]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

fn owner() -> Owner {
    Owner { kind: "K".into(), namespace: "default".into(), name: "db".into() }
}

fn spec(name: &str, port: u16) -> ContainerSpec {
    ContainerSpec {
        name: name.into(),
        hostname: name.into(),
        image: "image".into(),
        entrypoint: vec!["run".into()],
        labels: owner().labels(),
        network: "net".into(),
        ports: vec![([127, 0, 0, 1].into(), port, 1)],
        stop_timeout_seconds: 1,
        ..Default::default()
    }
}

async fn running(name: &str) -> FakeEngine {
    let engine = FakeEngine::new("fake");
    engine.pull_image("image", None).await.unwrap();
    engine
        .ensure_network(&NetworkSpec { name: "net".into(), labels: owner().labels(), internal: false })
        .await
        .unwrap();
    engine.create_container(&spec(name, 1000)).await.unwrap();
    engine.start_container(name).await.unwrap();
    engine.take_calls();
    engine
}

async fn states(engine: &FakeEngine) -> String {
    let seen = engine.list_containers(&owner()).await.unwrap();
    seen.iter().map(|found| format!("{} {:?}\n", found.name, found.state)).collect()
}

#[tokio::test]
async fn a_lost_reply_did_the_deed_and_a_failed_one_did_not() {
    let engine = running("a").await;
    engine.fail_next("stop_container", 1, Fault::Refused);
    engine.fail_next("stop_container", 1, Fault::LostReply);
    assert!(matches!(engine.stop_container("a", Duration::ZERO).await, Err(Error::Refused { .. })));
    assert_eq!(states(&engine).await, "a Running\n");
    assert!(matches!(engine.stop_container("a", Duration::ZERO).await, Err(Error::Unreachable { .. })));
    assert_eq!(states(&engine).await, "a Exited\n");
    engine.stop_container("a", Duration::ZERO).await.unwrap();
    assert_eq!(engine.take_calls().iter().filter(|call| *call == "stop_container a").count(), 3);
}

#[tokio::test]
async fn a_conversation_ends_with_the_container_and_an_event_tells() {
    let engine = running("a").await;
    engine.on_dial("a", "tcp:localhost:1", |mut stream| {
        tokio::spawn(async move { stream.write_all(b"hello").await });
    });
    let mut events = engine.events();
    assert_eq!(events.next().await, Some(None));
    let mut stream = engine.dial("a", "tcp:localhost:1").await.unwrap();
    let mut greeting = [0; 5];
    stream.read_exact(&mut greeting).await.unwrap();
    engine.die("a");
    assert_eq!(stream.read(&mut greeting).await.unwrap(), 0);
    assert_eq!(events.next().await, Some(Some(owner())));
    assert!(matches!(engine.dial("a", "tcp:localhost:1").await, Err(Error::Conflict { .. })));
}

#[tokio::test]
async fn one_name_one_spec_and_one_port_one_container() {
    let engine = running("a").await;
    engine.create_container(&spec("a", 1000)).await.unwrap();
    assert!(matches!(engine.create_container(&spec("a", 1001)).await, Err(Error::Conflict { .. })));
    engine.create_container(&spec("b", 1000)).await.unwrap();
    assert!(matches!(engine.start_container("b").await, Err(Error::Refused { .. })));
    engine.remove_container("a").await.unwrap();
    engine.start_container("b").await.unwrap();
    assert_eq!(states(&engine).await, "b Running\n");
}

#[tokio::test]
async fn a_host_that_is_away_does_nothing() {
    let engine = running("a").await;
    engine.world(|world| world.away = true);
    assert!(matches!(engine.stop_container("a", Duration::ZERO).await, Err(Error::Unreachable { .. })));
    engine.world(|world| world.away = false);
    assert_eq!(states(&engine).await, "a Running\n");
}
