//! Many objects: the cost of a settled set, the time to repair a drift, and that deleted objects leave nothing in
//! memory.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::world::{World, spec};
use crate::api::deployment::Deployment;
use crate::api::object::Object as _;
use crate::engine::ContainerState;
use crate::runtime::clock;
use crate::store::Key;

const OBJECTS: usize = 200;
const REPLICAS: u32 = 5;
/// Rounds of create and delete, unless `EVENKEEL_ROUNDS` sets them.
const ROUNDS: usize = 200;
/// After this many rounds the test lets the Events about them expire, as in production.
const ROUNDS_OF_EVENTS: usize = 250;

fn key(name: &str) -> Key {
    Key { resource: Deployment::RESOURCE.into(), namespace: "default".into(), name: name.into() }
}

async fn create(world: &World, name: &str, replicas: u32) {
    create_of(world, name, replicas, "web:1").await;
}

async fn create_of(world: &World, name: &str, replicas: u32, image: &str) {
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"}, "spec": spec(replicas, image),
    });
    world.objects.create(&key(name), object).await.unwrap();
}

/// The calls of one minute, by verb.
async fn a_minute(world: &World) -> BTreeMap<String, usize> {
    world.engine().take_calls();
    sleep(Duration::from_secs(60)).await;
    let mut counts = BTreeMap::new();
    for call in world.engine().take_calls() {
        *counts.entry(call.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    counts
}

#[tokio::test(start_paused = true)]
async fn a_settled_operator_makes_no_request_per_object_and_repairs_a_drift_at_once() {
    let world = World::new(&["local"]).await;
    for number in 0..OBJECTS {
        create_of(&world, &format!("web-{number}"), REPLICAS, &format!("web:{number}")).await;
    }
    while world.running() < OBJECTS * REPLICAS as usize {
        sleep(Duration::from_millis(500)).await;
    }
    sleep(Duration::from_secs(60)).await;
    let counts = a_minute(&world).await;
    println!("{OBJECTS} objects of {REPLICAS} containers, requests in a minute: {counts:?}");
    // The lists of the mirror; their number does not depend on the number of objects and images.
    let lists = ["list_owned", "list_all", "info", "ping"];
    assert!(counts.keys().all(|call| lists.contains(&call.as_str())), "{counts:?}");
    assert!(counts.values().sum::<usize>() <= 6, "{counts:?}");
    let victim = world.engine().world(|world| world.containers.keys().nth(321).cloned()).unwrap();
    let running = |name: &str| {
        world.engine().world(|world| world.containers.get(name).is_some_and(|one| one.state == ContainerState::Running))
    };
    let began = clock::instant();
    world.engine().die(&victim);
    while !running(&victim) {
        sleep(Duration::from_millis(1)).await;
    }
    assert!(began.elapsed() <= Duration::from_millis(100), "{:?}", began.elapsed());
}

/// Resident memory of this process, in KiB.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4
}

/// Regression 25: a stop job for every pod that ever existed, and jobs, files, lists and connections of deleted
/// objects, stayed in memory. Companions of an object are forgotten with it.
#[tokio::test(start_paused = true)]
async fn what_is_created_and_deleted_again_and_again_leaves_nothing_in_memory() {
    let asked = std::env::var("EVENKEEL_ROUNDS").ok().and_then(|text| text.parse().ok());
    let rounds = asked.unwrap_or(ROUNDS);
    let world = World::new(&["local"]).await;
    let mut at_first = 0;
    for round in 0..rounds {
        let name = format!("web-{round}");
        create(&world, &name, 1).await;
        while world.running() == 0 {
            sleep(Duration::from_millis(50)).await;
        }
        world.objects.delete(&key(&name), &Default::default()).await.unwrap();
        while world.objects.get::<serde_json::Value>(&key(&name)).await.unwrap().is_some() {
            sleep(Duration::from_millis(50)).await;
        }
        world.engine().take_calls();
        if (round + 1) % ROUNDS_OF_EVENTS == 0 {
            sleep(Duration::from_secs(3700)).await;
            world.objects.sweep().await.unwrap();
        }
        if round == rounds / 5 {
            at_first = resident();
        }
    }
    sleep(Duration::from_secs(120)).await;
    println!("{rounds} rounds: {} KiB resident, {at_first} KiB after a fifth of them", resident());
    assert_eq!(world.kept(), 0);
    // Checked only if no other test shares the process; the store's window of changes is full after a fifth of the
    // rounds.
    if asked.is_some_and(|rounds| rounds >= 5000) {
        assert!(resident() <= at_first + at_first / 20, "{} KiB after {at_first} KiB", resident());
    }
}
