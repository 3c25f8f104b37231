//! Random faults from a seed, in the production loop: when the faults end, a Deployment reaches its declared state, and
//! then nothing more is done. One test runs all seeds; `EVENKEEL_SEED=n` runs one.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::world::{World, spec};
use crate::engine::ContainerState;
use crate::engine::fake::{FakeEngine, Fault};
use crate::kinds::ports;
use crate::runtime::clock::TestClock;
use crate::store::Clock as _;

/// Number of seeds.
const SEEDS: u64 = 20;
/// Faults per seed.
const FAULTS: u64 = 25;

struct Chance(TestClock);

impl Chance {
    fn below(&self, bound: u64) -> u64 {
        self.0.random() % bound
    }

    fn of<'a, T>(&self, some: &'a [T]) -> Option<&'a T> {
        some.get(usize::try_from(self.below(some.len().max(1) as u64)).unwrap())
    }
}

fn names(engine: &FakeEngine, state: ContainerState) -> Vec<String> {
    engine.world(|world| {
        world.containers.values().filter(|one| one.state == state).map(|one| one.spec.name.clone()).collect()
    })
}

/// One fault, or one change by a user.
async fn fault(world: &mut World, chance: &Chance, wanted: &mut (u32, u64)) {
    let engines: Vec<_> = world.engines.values().cloned().collect();
    let engine = chance.of(&engines).unwrap().clone();
    let running = names(&engine, ContainerState::Running);
    let one = chance.of(&running).cloned();
    match (chance.below(13), one) {
        (0 | 1, Some(one)) => engine.die(&one),
        (2, Some(one)) => engine.pause(&one),
        (3, Some(one)) => engine.world(|world| drop(world.containers.remove(&one))),
        (4, Some(one)) => engine.world(|world| {
            let mut moved = world.containers.remove(&one).unwrap();
            moved.spec.name = format!("{one}-mine");
            world.containers.insert(moved.spec.name.clone(), moved);
        }),
        (5, _) => {
            let verbs =
                ["create_container", "start_container", "remove_container", "list_containers", "put_files", "image"];
            let kinds = [Fault::Unreachable, Fault::Conflict, Fault::Refused, Fault::LostReply, Fault::NotFound];
            let (verb, kind) = (chance.of(&verbs).unwrap(), chance.of(&kinds).unwrap());
            engine.fail_next(verb, 1 + usize::try_from(chance.below(3)).unwrap(), *kind);
        }
        (6, _) => {
            world.crash().await;
            sleep(Duration::from_millis(chance.below(5000))).await;
            world.start();
        }
        (7, _) => wanted.0 = u32::try_from(chance.below(6)).unwrap(),
        (8, _) => wanted.1 = 1 + chance.below(3),
        (9, _) => {
            engine.world(|world| world.away = true);
            sleep(Duration::from_millis(chance.below(100_000))).await;
            engine.world(|world| world.away = false);
        }
        (10, _) => {
            let status = world.status().await.unwrap();
            if let Some(pod) = chance.of(&status.pods) {
                let name = pod.name.clone();
                world
                    .change(|mut object| {
                        object["metadata"]["annotations"] = json!({"evenkeel.dev/evict": name});
                        object
                    })
                    .await;
            }
        }
        (11, _) => {
            let (host, on) = (
                world.engines.keys().nth(usize::try_from(chance.below(engines.len() as u64)).unwrap()).unwrap(),
                chance.below(2) == 0,
            );
            world.declare(host, "drain", json!(on)).await;
        }
        _ => engine.world(|world| world.images.clear()),
    }
    declare(world, *wanted).await;
}

async fn declare(world: &World, (replicas, image): (u32, u64)) {
    let mut spec = spec(replicas, &format!("web:{image}"));
    if image == 3 {
        let redis = json!({"name": "redis", "image": "redis:7"});
        spec["template"]["spec"]["containers"].as_array_mut().unwrap().push(redis);
    }
    world.apply(spec).await;
}

async fn run(seed: u64) {
    let chance = Chance(TestClock::still(jiff::Timestamp::UNIX_EPOCH).seeded(seed));
    let hosts: &[&str] = chance.of(&[&["local"][..], &["local", "other"], &["local", "other", "third"]]).unwrap();
    let mut world = World::new(hosts).await;
    // Some have addresses, and a balancer that must reach the pods from elsewhere.
    let spans = hosts.len() > 1 && chance.below(2) == 0;
    let mut _balancer = None;
    if spans {
        for (number, host) in (1..).zip(hosts) {
            world.declare(host, "address", json!(format!("192.0.2.{number}"))).await;
        }
        _balancer = Some(world.balanced().await);
    }
    let mut wanted = (1 + u32::try_from(chance.below(4)).unwrap(), 1);
    declare(&world, wanted).await;
    for _ in 0..FAULTS {
        sleep(Duration::from_millis(chance.below(3000))).await;
        fault(&mut world, &chance, &mut wanted).await;
    }
    for host in hosts {
        world.declare(host, "drain", json!(false)).await;
    }
    let status = world.settled().await;
    let each = if wanted.1 == 3 { 3 } else { 1 };
    assert_eq!(status.available_replicas, i32::try_from(wanted.0).unwrap(), "seed {seed}: {}", world.containers());
    // The last pods that were replaced may still be terminating.
    sleep(Duration::from_secs(400)).await;
    let status = world.status().await.unwrap();
    let told: Vec<_> = status.pods.iter().map(|pod| (&pod.name, &pod.host, &pod.phase, &pod.message)).collect();
    assert_eq!(world.running(), wanted.0 as usize * each, "seed {seed}: {told:#?}{}", world.containers());
    let reserved = ports::read(&world.objects).await.unwrap();
    let held = reserved.values().filter(|one| !one.released).count();
    assert_eq!(held, if spans { wanted.0 as usize } else { 0 }, "seed {seed}: {reserved:#?}");
    for engine in world.engines.values() {
        engine.take_calls();
    }
    sleep(Duration::from_secs(60)).await;
    for engine in world.engines.values() {
        let calls = engine.take_calls();
        assert!(calls.iter().all(|call| FakeEngine::only_reads(call)), "seed {seed}: {calls:?}");
    }
    world.delete().await;
    sleep(Duration::from_secs(120)).await;
    let left = world.containers();
    assert!(left.is_empty() && world.status().await.is_none(), "seed {seed}: left behind: {left}");
}

#[tokio::test(start_paused = true)]
async fn left_in_peace_everything_becomes_what_is_declared_and_nothing_more_is_done() {
    match std::env::var("EVENKEEL_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => run(seed).await,
        None => {
            for seed in 0..SEEDS {
                run(seed).await;
            }
        }
    }
}
