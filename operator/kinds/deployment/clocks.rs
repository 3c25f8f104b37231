//! A Deployment whose next operator has another clock: no drain ends early, no available pod is counted as unavailable, and no wait
//! lasts longer than it says.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::json;
use tokio::time::sleep;

use super::scenarios::balancer;
use super::world::{World, spec};
use crate::runtime::clock::TestClock;

/// Another operator goes on, whose clock shows this many seconds more.
async fn succeed(world: &mut World, ahead: i64) {
    world.crash().await;
    let start = world.now().saturating_add(SignedDuration::from_secs(ahead)).unwrap();
    world.clock = Arc::new(TestClock::following_tokio(start));
    world.start();
}

/// Regression 480: the drain of a pod was the difference of two clocks. When an operator with another clock went on, it took the
/// time for over, whichever clock was ahead, and stopped the pod with the connections that it had.
#[tokio::test(start_paused = true)]
async fn a_pod_is_drained_as_long_as_it_says_whatever_the_next_operators_clock_shows() {
    for ahead in [3600, -3600] {
        let mut world = World::new(&["local"]).await;
        world.apply(spec(1, "web:1")).await;
        world.settled().await;
        world.put("loadbalancers.evenkeel.dev", "edge", balancer(json!([]))).await;
        world.delete().await;
        world.until("on its way out", |status| status.pods.iter().any(|pod| pod.terminating)).await;
        succeed(&mut world, ahead).await;
        let began = world.now();
        world.until("gone", |_| world.containers().is_empty()).await;
        let took = world.now().duration_since(began).as_secs();
        assert!((20..40).contains(&took), "clock {ahead} s ahead: {took} s");
    }
}

/// Regression 481: a pod that was ready for an hour was not available for another one, because the clock of the operator before
/// was an hour ahead.
#[tokio::test(start_paused = true)]
async fn an_available_pod_stays_available_and_a_new_one_is_so_after_its_time_whatever_the_clock_shows() {
    for ahead in [3600, -3600] {
        let mut world = World::new(&["local"]).await;
        let mut wanted = spec(2, "web:1");
        wanted["minReadySeconds"] = json!(60);
        world.apply(wanted.clone()).await;
        world.until("available", |status| status.available_replicas == 2).await;
        wanted["replicas"] = json!(3);
        world.apply(wanted).await;
        world.until("ready", |status| status.ready_replicas == 3).await;
        succeed(&mut world, ahead).await;
        let began = world.now();
        sleep(Duration::from_secs(30)).await;
        assert_eq!(world.status().await.unwrap().available_replicas, 2, "clock {ahead} s ahead");
        world.until("available", |status| status.available_replicas == 3).await;
        let took = world.now().duration_since(began).as_secs();
        assert!((60..65).contains(&took), "clock {ahead} s ahead: {took} s");
    }
}

/// Regression 482: a container that had ended was started again an hour later than its back-off, by an operator whose clock was an
/// hour behind that of the one before.
#[tokio::test(start_paused = true)]
async fn a_container_that_ended_waits_no_longer_than_its_back_off_whatever_the_clock_shows() {
    let mut world = World::new(&["local"]).await;
    world.apply(spec(1, "web:1")).await;
    let name = world.settled().await.pods[0].containers[0].container.clone();
    world.engine().die(&name);
    world.until("started again at once", |status| status.pods[0].restarts == 1 && status.pods[0].ready).await;
    world.engine().die(&name);
    world.until("backing off", |status| status.pods[0].phase == "CrashLoopBackOff").await;
    succeed(&mut world, -3600).await;
    let began = world.now();
    world.until("started again", |status| status.pods[0].restarts == 2 && status.pods[0].ready).await;
    let took = world.now().duration_since(began).as_secs();
    assert!((1..=11).contains(&took), "{took} s");
}
