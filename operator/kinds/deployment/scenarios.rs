//! Scenarios as users see them: a Deployment from its creation to its deletion, with the faults and changes between.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use expect_test::expect;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::world::{World, host_key, key, short, spec};
use crate::api::deployment::DeploymentStatus;
use crate::api::hash::{short_hash_of_json, short_hash_of_parts};
use crate::engine::ContainerState;
use crate::engine::fake::FakeEngine;
use crate::engine::fake::Fault;
use crate::store::Error;
use crate::store::objects::Part;

#[tokio::test(start_paused = true)]
async fn replicas_are_made_and_a_settled_set_is_left_alone() {
    let world = World::new(&["local"]).await;
    world.apply(spec(3, "web:1")).await;
    let status = world.settled().await;
    assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (3, 3, 3));
    expect![[r#"
        web-HASH-1.web Running web:1
        web-HASH-2.web Running web:1
        web-HASH-3.web Running web:1
    "#]]
    .assert_eq(&world.containers());
    world.engine().take_calls();
    sleep(Duration::from_secs(25)).await;
    let calls = world.engine().take_calls();
    assert!(calls.iter().all(|call| FakeEngine::only_reads(call)), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_new_image_is_rolled_out_without_fewer_pods_than_allowed() {
    let world = World::new(&["local"]).await;
    world.apply(spec(4, "web:1")).await;
    world.settled().await;
    let mut changed = spec(4, "web:2");
    changed["strategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    world.apply(changed).await;
    world
        .until("rolled out", |status| {
            assert!(world.running() >= 4 && world.running() <= 6, "{} run", world.running());
            assert!(status.replicas <= 5, "{status:#?}");
            status.phase == "Healthy" && status.updated_replicas == 4 && status.pods.len() == 4
        })
        .await;
    expect![[r#"
        web-HASH-1.web Running web:2
        web-HASH-2.web Running web:2
        web-HASH-3.web Running web:2
        web-HASH-4.web Running web:2
    "#]]
    .assert_eq(&world.containers());
}

#[tokio::test(start_paused = true)]
async fn what_keeps_ending_is_started_later_and_later_and_an_operators_restart_forgets_nothing() {
    let mut world = World::new(&["local"]).await;
    world.apply(spec(1, "web:1")).await;
    let name = world.settled().await.pods[0].containers[0].container.clone();
    world.engine().die(&name);
    let status =
        world.until("started again at once", |status| status.pods[0].restarts == 1 && status.pods[0].ready).await;
    assert_eq!(status.pods[0].phase, "Running");
    world.engine().die(&name);
    let status = world.until("backing off", |status| status.pods[0].phase == "CrashLoopBackOff").await;
    let next_try = status.pods[0].next_try.unwrap();
    assert_eq!(next_try.duration_since(world.now()).as_secs_f64().round(), 10.0);
    world.crash().await;
    world.start();
    sleep(Duration::from_secs(5)).await;
    let still = world.status().await.unwrap();
    assert_eq!((still.pods[0].phase.word(), still.pods[0].next_try), ("CrashLoopBackOff", Some(next_try)));
    world.until("started again in the end", |status| status.pods[0].ready && status.pods[0].restarts == 2).await;
    assert!(world.now() >= next_try);
    world.engine().die(&name);
    let status = world.until("backing off longer", |status| status.pods[0].next_try.is_some()).await;
    assert_eq!(status.pods[0].next_try.unwrap().duration_since(world.now()).as_secs_f64().round(), 20.0);
}

#[tokio::test(start_paused = true)]
async fn what_was_changed_by_hand_is_put_right() {
    let world = World::new(&["local"]).await;
    world.apply(spec(3, "web:1")).await;
    let names: Vec<_> = world.settled().await.pods.iter().map(|pod| pod.containers[0].container.clone()).collect();
    world.engine().world(|world| {
        world.containers.remove(&names[0]);
        let mut renamed = world.containers.remove(&names[1]).unwrap();
        renamed.spec.name = "mine".into();
        world.containers.insert("mine".into(), renamed);
    });
    world.engine().pause(&names[2]);
    world.until("noticed", |_| world.running() != 3 || !world.containers().contains("mine")).await;
    world.settled().await;
    sleep(Duration::from_secs(15)).await;
    expect![[r#"
        web-HASH-1.web Running web:1
        web-HASH-2.web Running web:1
        web-HASH-3.web Running web:1
    "#]]
    .assert_eq(&world.containers());
}

#[tokio::test(start_paused = true)]
async fn an_image_that_cannot_be_had_leaves_the_old_pods_and_is_given_up_after_its_deadline() {
    let world = World::new(&["local"]).await;
    world.engine().world(|world| world.registry = Some(["web:1".to_owned()].into()));
    world.apply(spec(2, "web:1")).await;
    world.settled().await;
    world
        .change(|mut object| {
            object["spec"] = spec(2, "web:none");
            object["spec"]["progressDeadlineSeconds"] = json!(60);
            object["metadata"]["annotations"] = json!({"evenkeel.dev/rollback-on-failure": "true"});
            object
        })
        .await;
    let status = world.until("in trouble", |status| status.phase == "Degraded").await;
    assert!(status.conditions.iter().any(|c| c.message.contains("no image web:none")), "{:#?}", status.conditions);
    assert_eq!(world.running(), 2);
    let status =
        world.until("rolled back", |status| status.decisions.as_ref().is_some_and(|d| d.given_up.is_some())).await;
    let status = if status.phase == "Healthy" { status } else { world.settled().await };
    let degraded = status.conditions.iter().find(|c| c.type_ == "Degraded").unwrap();
    assert_eq!(degraded.reason, "RolledBack");
    assert_eq!(status.updated_replicas, 2);
}

/// A LoadBalancer that routes to the Deployment, with these states of its servers.
pub fn balancer(states: serde_json::Value) -> serde_json::Value {
    json!({
        "apiVersion": "evenkeel.dev/v1alpha1",
        "kind": "LoadBalancer",
        "metadata": {},
        "spec": {"frontends": [{"name": "web", "port": 80, "backend": "web"}], "backends": [{"name": "web", "deployment": {"name": "web", "port": 80}, "drainTimeout": "20s"}]},
        "status": {"readyReplicas": 1, "backends": [{"name": "web", "servers": states}]},
    })
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_stopped_only_when_no_balancer_gives_it_anything_any_more() {
    let world = World::new(&["local"]).await;
    world.apply(spec(2, "web:1")).await;
    let names: Vec<_> = world.settled().await.pods.iter().map(|pod| pod.name.clone()).collect();
    let state = |first: &str| json!([{"name": names[0], "state": first}, {"name": names[1], "state": "ready"}]);
    world.put("loadbalancers.evenkeel.dev", "edge", balancer(state("ready"))).await;
    world
        .change(|mut object| {
            object["metadata"]["annotations"] = json!({"evenkeel.dev/evict": names[0]});
            object
        })
        .await;
    let status = world.until("on its way out", |status| status.pods.iter().any(|pod| pod.terminating)).await;
    assert!(!status.pods.iter().find(|pod| pod.name == names[0]).unwrap().ready);
    world.put("loadbalancers.evenkeel.dev", "edge", balancer(state("draining"))).await;
    sleep(Duration::from_secs(12)).await;
    assert!(world.containers().contains("web-HASH-1.web Running"), "{}", world.containers());
    world.put("loadbalancers.evenkeel.dev", "edge", balancer(state("drained"))).await;
    world.until("gone", |status| !status.pods.iter().any(|pod| pod.name == names[0])).await;
    // Its replacement is available only once the balancer sends it connections.
    let status = world.until("replaced", |status| status.ready_replicas == 2).await;
    assert_eq!(status.available_replicas, 1);
}

#[tokio::test(start_paused = true)]
async fn a_balancer_that_says_nothing_holds_a_pod_up_for_its_drain_timeout_and_no_longer() {
    let world = World::new(&["local"]).await;
    world.apply(spec(1, "web:1")).await;
    world.settled().await;
    world.put("loadbalancers.evenkeel.dev", "edge", balancer(json!([]))).await;
    let asked = world.now();
    world.delete().await;
    world.until("gone", |_| world.containers().is_empty()).await;
    assert_eq!(world.now().duration_since(asked).as_secs_f64().round(), 30.0);
}

/// Regression 83: a paused balancer drains nothing, and still a pod waited 10 s longer than the whole `drainTimeout` for
/// it, without a word; meanwhile new connections went on to that pod.
#[tokio::test(start_paused = true)]
async fn a_paused_balancer_is_not_waited_for_when_a_pod_goes_and_is_named_when_one_comes() {
    let world = World::new(&["local"]).await;
    world.apply(spec(2, "web:1")).await;
    let names: Vec<_> = world.settled().await.pods.iter().map(|pod| pod.name.clone()).collect();
    let edge = balancer(json!([{"name": names[0], "state": "ready"}, {"name": names[1], "state": "ready"}]));
    world.put_paused("loadbalancers.evenkeel.dev", "edge", edge).await;
    let asked = world.now();
    world
        .change(|mut object| {
            object["metadata"]["annotations"] = json!({"evenkeel.dev/evict": names[0]});
            object
        })
        .await;
    let status = world.until("gone", |status| !status.pods.iter().any(|pod| pod.name == names[0])).await;
    assert!(world.now().duration_since(asked).as_secs() < 10, "it waited");
    let words = "LoadBalancer edge is paused and gives it no connections, so it does not become available";
    let status =
        if status.ready_replicas == 2 { status } else { world.until("ready", |s| s.ready_replicas == 2).await };
    let new = status.pods.iter().find(|pod| !names.contains(&pod.name)).unwrap();
    assert_eq!((status.available_replicas, new.message.as_deref()), (1, Some(words)));
    let available = status.conditions.iter().find(|one| one.type_ == "Degraded").unwrap();
    assert!(available.message.contains(words), "{}", available.message);
}

#[tokio::test(start_paused = true)]
async fn a_host_port_makes_old_pods_stop_first() {
    let world = World::new(&["local"]).await;
    let ported = |image: &str| {
        let mut spec = spec(1, image);
        spec["template"]["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 8080}]);
        spec
    };
    world.apply(ported("web:1")).await;
    world.settled().await;
    world.apply(ported("web:2")).await;
    world
        .until("rolled out", |status| {
            assert!(world.running() <= 1);
            status.phase == "Healthy" && status.updated_replicas == 1
        })
        .await;
    assert_eq!(world.containers(), "web-HASH-1.web Running web:2\n");
}

#[tokio::test(start_paused = true)]
async fn an_old_template_is_its_old_revision_with_a_new_number() {
    let world = World::new(&["local"]).await;
    for image in ["web:1", "web:2", "web:1"] {
        world.apply(spec(1, image)).await;
        world.settled().await;
    }
    let d = world.status().await.unwrap().decisions.unwrap();
    let numbers: Vec<_> = d.revisions.iter().map(|one| (one.revision, one.images["web"].clone(), one.good)).collect();
    assert_eq!(numbers, [(2, "web:2".to_owned(), true), (3, "web:1".to_owned(), true)]);
}

#[tokio::test(start_paused = true)]
async fn a_missing_secret_is_waited_for_and_a_changed_one_rolls_what_asks_for_it() {
    let world = World::new(&["local"]).await;
    let mut asking = spec(1, "web:1");
    asking["template"]["metadata"]["annotations"] = json!({"evenkeel.dev/roll-on-change": "true"});
    asking["template"]["spec"]["containers"][0]["env"] =
        json!([{"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "word", "key": "word"}}}]);
    world.apply(asking).await;
    let status = world.until("waiting", |status| status.pods.iter().any(|pod| pod.message.is_some())).await;
    assert_eq!(status.pods[0].phase, "CreateContainerConfigError");
    assert_eq!(status.pods[0].message.as_deref(), Some("Secret word does not exist; create it"));
    let secret = |word: &str| json!({"kind": "Secret", "data": {"word": word}});
    let word = |world: &World| {
        world.engine().world(|world| {
            let running = world.containers.values().find(|one| one.state == ContainerState::Running);
            running.map(|one| one.spec.chosen.env["WORD"].clone())
        })
    };
    world.put("secrets", "word", secret("b25l")).await;
    world.settled().await;
    assert_eq!(word(&world).as_deref(), Some("one"));
    // Regression 182: the label `spec-hash` was a hash over the environment with the values of Secrets, and whoever saw
    // only labels (metrics carry them) could try words against it. No value of a Secret is in a part that is hashed.
    let hashed = world.engine().world(|world| world.containers.values().any(|one| one.spec.env.contains_key("WORD")));
    assert!(!hashed);
    world.put("secrets", "word", secret("dHdv")).await;
    world.until("rolled", |status| word(&world).as_deref() == Some("two") && status.phase == "Healthy").await;
}

/// Regression 99: the hash in the names of pods that roll with their Secrets was one over the plain values, without a key:
/// who saw a name could try words against it, on another computer. Two Secrets with the same value gave the same name.
#[tokio::test(start_paused = true)]
async fn no_name_lets_anybody_try_words_against_a_secret_and_an_upgrade_replaces_no_pod() {
    let world = World::new(&["local"]).await;
    let mut asking = spec(1, "web:1");
    asking["template"]["metadata"]["annotations"] = json!({"evenkeel.dev/roll-on-change": "true"});
    asking["template"]["spec"]["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "word"}}]);
    let secret = |word: &str| json!({"kind": "Secret", "data": {"word": word}});
    let target = |status: &DeploymentStatus| status.decisions.as_ref().map(|d| d.target.clone()).unwrap_or_default();
    world.put("secrets", "word", secret("b25l")).await;
    world.apply(asking.clone()).await;
    let one = target(&world.settled().await);
    // What anybody who knows the template can compute of a word.
    let template: PodTemplateSpec = serde_json::from_value(asking["template"].clone()).unwrap();
    let guess = |word: &[u8]| {
        let inputs = BTreeMap::from([("Secret word", short_hash_of_parts([b"word".as_slice(), word], 16))]);
        short_hash_of_json(&(&template, inputs), 10)
    };
    assert_ne!(one, guess(b"one"));
    // The same words again are no change.
    world.put("secrets", "word", secret("b25l")).await;
    assert_eq!(target(&world.settled().await), one);
    world.put("secrets", "word", secret("dHdv")).await;
    world.until("rolled", |status| target(status) != one && status.phase == "Healthy").await;

    // A revision that the version before named by the plain hash keeps its name until the next change.
    let mut world = World::new(&["local"]).await;
    world.crash().await;
    world.put("secrets", "word", secret("b25l")).await;
    world.apply(asking).await;
    let old = guess(b"one");
    let revision = json!({"revision": 1, "hash": old, "template": template, "good": true});
    let set = |mut object: Value| {
        object["status"] = json!({"decisions": {"target": old, "revisions": [revision]}});
        Ok::<_, Error>(object)
    };
    world.objects.modify(&key(), Part::Status, set).await.unwrap();
    world.start();
    assert_eq!(target(&world.settled().await), old);
    world.put("secrets", "word", secret("dHdv")).await;
    let new = world.until("rolled", |status| target(status) != old && status.phase == "Healthy").await;
    assert_ne!(target(&new), guess(b"two"));
}

#[tokio::test(start_paused = true)]
async fn a_group_is_prepared_in_order_and_goes_with_its_own_volumes_only() {
    let world = World::new(&["local"]).await;
    world.put("secrets", "word", json!({"kind": "Secret", "data": {"word": "b25l"}})).await;
    let mut group = spec(1, "web:1");
    group["template"]["spec"] = json!({
        "initContainers": [{"name": "first", "image": "init:1"}, {"name": "second", "image": "init:1"}],
        "containers": [
            {"name": "web", "image": "web:1", "volumeMounts": [{"name": "run", "mountPath": "/run/x"}]},
            {"name": "redis", "image": "redis:7", "volumeMounts": [
                {"name": "run", "mountPath": "/run/x"}, {"name": "word", "mountPath": "/word"}, {"name": "data", "mountPath": "/data"},
            ]},
        ],
        "volumes": [
            {"name": "run", "emptyDir": {}},
            {"name": "word", "secret": {"secretName": "word", "defaultMode": 256}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "kept"}},
        ],
    });
    world.apply(group).await;
    for init in ["first", "second"] {
        let name = format!("-1.{init} Running");
        world.until("preparing", |_| world.containers().contains(&name)).await;
        assert!(!world.containers().contains("redis"), "{}", world.containers());
        let container = world.status().await.unwrap().pods[0].name.clone();
        let container = format!("default.{container}.{init}");
        world.engine().world(|world| world.containers.get_mut(&container).unwrap().ends_with = Some(0));
        world.engine().die(&container);
    }
    world.settled().await;
    expect![[r#"
        web-HASH-1 Running web:1
        web-HASH-1.first Exited init:1
        web-HASH-1.redis Running redis:7
        web-HASH-1.second Exited init:1
        web-HASH-1.web Running web:1
    "#]]
    .assert_eq(&world.containers());
    let filled = world.engine().world(|world| {
        let sandbox = world.containers.values().find(|one| one.spec.joins.is_none()).unwrap();
        sandbox.files.iter().map(|(path, file)| format!("{path} {:o}\n", file.mode)).collect::<String>()
    });
    expect![[r#"
        /volumes/run/./ 1777
        /volumes/word/word 400
    "#]]
    .assert_eq(&filled);
    world.engine().die(&format!("default.{}", world.status().await.unwrap().pods[0].name));
    world.until("noticed", |status| !status.pods[0].ready).await;
    let prepare = |world: &World| {
        world.engine().world(|world| {
            let init: Vec<_> = world
                .containers
                .iter()
                .filter(|(_, one)| one.spec.image == "init:1" && one.state == ContainerState::Running)
                .map(|(name, _)| name.clone())
                .collect();
            for name in &init {
                world.containers.get_mut(name).unwrap().ends_with = Some(0);
            }
            init
        })
    };
    world
        .until("made anew", |status| {
            prepare(&world).iter().for_each(|name| world.engine().die(name));
            status.pods[0].ready
        })
        .await;
    world.delete().await;
    world.until("gone", |_| world.containers().is_empty()).await;
    sleep(Duration::from_secs(1)).await;
    let left = world.engine().world(|world| (world.volumes.keys().cloned().collect::<Vec<_>>(), world.networks.len()));
    assert_eq!(left, (vec!["default.claim.kept".to_owned()], 0));
    assert!(world.status().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn pods_are_spread_over_failure_domains_and_a_host_that_is_closed_gets_none() {
    let world = World::new(&["a1", "a2", "b1"]).await;
    for (host, domain) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
        let change = |mut object: serde_json::Value| {
            object["spec"]["failureDomain"] = json!(domain);
            Ok::<_, crate::store::Error>(object)
        };
        world.objects.modify(&host_key(host), Part::Main, change).await.unwrap();
    }
    let on = |status: &crate::api::deployment::DeploymentStatus| {
        let mut hosts: Vec<_> = status.pods.iter().map(|pod| pod.host.clone()).collect();
        hosts.sort();
        hosts.join(" ")
    };
    world.apply(spec(4, "web:1")).await;
    assert_eq!(on(&world.settled().await), "a1 a2 b1 b1");
    let close = |mut object: serde_json::Value| {
        object["spec"]["unschedulable"] = json!(true);
        Ok::<_, crate::store::Error>(object)
    };
    world.objects.modify(&host_key("b1"), Part::Main, close).await.unwrap();
    world.apply(spec(6, "web:1")).await;
    assert_eq!(on(&world.settled().await), "a1 a1 a2 a2 b1 b1");
}

#[tokio::test(start_paused = true)]
async fn a_silent_host_loses_nothing_at_first_and_is_replaced_after_a_minute() {
    let world = World::new(&["one", "two"]).await;
    world.apply(spec(2, "web:1")).await;
    world.settled().await;
    world.engines["two"].world(|world| world.away = true);
    let silent = world.now();
    let status = world.until("noticed", |status| status.pods.iter().any(|pod| pod.phase == "Unknown")).await;
    assert!(status.pods.iter().all(|pod| pod.ready), "not heard of is not gone: {status:#?}");
    world
        .until("replaced", |status| status.pods.iter().filter(|pod| pod.host == "one" && pod.ready).count() == 2)
        .await;
    assert!(world.now().duration_since(silent).as_secs() >= 60);
    world.engines["two"].world(|world| world.away = false);
    world.until("no more than wanted", |status| status.pods.len() == 2 && status.phase == "Healthy").await;
}

#[tokio::test(start_paused = true)]
async fn readiness_keeps_a_pod_out_and_liveness_starts_it_again() {
    let world = World::new(&["local"]).await;
    let mut probed = spec(1, "web:1");
    let probe = |word: &str| json!({"exec": {"command": [word]}, "periodSeconds": 1, "failureThreshold": 2});
    probed["template"]["spec"]["containers"][0]["readinessProbe"] = probe("ready");
    probed["template"]["spec"]["containers"][0]["livenessProbe"] = probe("alive");
    world.apply(probed).await;
    let name = world.settled().await.pods[0].containers[0].container.clone();
    let break_it = |word: &str| {
        let file = crate::engine::File { path: String::new(), mode: 0, owner: (0, 0), bytes: Vec::new() };
        let path = format!("/not-{word}");
        world.engine().world(|world| world.containers.get_mut(&name).unwrap().files.insert(path, file));
    };
    break_it("ready");
    let status = world.until("not ready", |status| status.ready_replicas == 0).await;
    assert_eq!(
        (status.pods[0].restarts, status.pods[0].message.as_deref()),
        (0, Some("web is not ready: exit code 1: broken"))
    );
    world.engine().world(|world| world.containers.get_mut(&name).unwrap().files.clear());
    world.settled().await;
    break_it("alive");
    let began = world.now();
    world
        .until("stopped", |_| {
            world.running() == 0 || world.engine().world(|world| world.containers[&name].files.is_empty())
        })
        .await;
    world.engine().world(|world| world.containers.get_mut(&name).unwrap().files.clear());
    world.until("started again", |status| status.pods[0].ready && status.pods[0].restarts >= 1).await;
    assert!(world.now().duration_since(began).as_secs() < 30);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_docker_cannot_start_is_made_anew_and_holds_up_no_other() {
    let world = World::new(&["local"]).await;
    world.apply(spec(2, "web:1")).await;
    let names: Vec<_> = world.settled().await.pods.iter().map(|pod| pod.containers[0].container.clone()).collect();
    let id = |name: &str| world.engine().world(|world| world.containers.get(name).map(|one| one.id.clone()));
    let before = id(&names[0]);
    world.engine().fail_next("start_container", 1, Fault::Conflict);
    world.engine().die(&names[0]);
    sleep(Duration::from_millis(10)).await;
    world.engine().die(&names[1]);
    world.until("both are back", |status| status.ready_replicas == 2 && world.running() == 2).await;
    assert_ne!(id(&names[0]), before, "{}", short(&world.containers()));
}

fn always(replicas: u32) -> serde_json::Value {
    let mut spec = spec(replicas, "web:1");
    spec["template"]["spec"]["containers"][0]["imagePullPolicy"] = json!("Always");
    spec
}

/// Regression 24: the result of a finished pull was reused, so a restarted rollout, or a Deployment deleted and created
/// again, got the first image. Now a pull belongs to a revision, and the image is read from the host.
#[tokio::test(start_paused = true)]
async fn a_new_revision_asks_the_registry_again() {
    let world = World::new(&["local"]).await;
    let push = |id: &str| world.engine().world(|world| world.pushed.insert("web:1".into(), id.to_owned()));
    push("sha256:1");
    world.apply(always(1)).await;
    world.settled().await;
    assert_eq!(world.containers(), "web-HASH-1.web Running sha256:1\n");
    push("sha256:2");
    let mut restarted = always(1);
    restarted["template"]["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/restartedAt": "now"});
    world.apply(restarted).await;
    world.settled().await;
    assert_eq!(world.containers(), "web-HASH-1.web Running sha256:2\n");
    world.delete().await;
    while world.status().await.is_some() {
        sleep(Duration::from_secs(1)).await;
    }
    push("sha256:3");
    world.apply(always(1)).await;
    world.settled().await;
    assert_eq!(world.containers(), "web-HASH-1.web Running sha256:3\n");
}

/// Regression 24: after a tag was rebuilt on the host, pods that ran the old image were shown as `ImagePullBackOff`.
#[tokio::test(start_paused = true)]
async fn a_tag_that_is_built_anew_disturbs_no_pod_that_runs() {
    let world = World::new(&["local"]).await;
    let build = |id: &str| {
        world.engine().world(|world| {
            world.images.extend(["web:1".to_owned(), id.to_owned()]);
            world.ids.insert("web:1".into(), id.to_owned());
        });
    };
    build("sha256:1");
    world.apply(spec(2, "web:1")).await;
    world.settled().await;
    build("sha256:2");
    sleep(Duration::from_secs(60)).await;
    let status = world.status().await.unwrap();
    let told: Vec<_> = status.pods.iter().map(|pod| (pod.phase.word(), pod.ready)).collect();
    assert_eq!(told, vec![("Running", true); 2]);
    assert_eq!(status.phase, "Healthy");
}

/// Regression 111: a pod that was disconnected from its network was deleted and made again, and one that was connected
/// again by hand without its DNS name was left so. It is connected again, and its process goes on.
#[tokio::test(start_paused = true)]
async fn a_pod_that_lost_its_network_or_its_name_there_is_connected_again_and_keeps_running() {
    let world = World::new(&["local"]).await;
    world.apply(spec(2, "web:1")).await;
    let names: Vec<_> = world.settled().await.pods.iter().map(|pod| pod.containers[0].container.clone()).collect();
    let ids = || world.engine().world(|world| world.containers.values().map(|one| one.id.clone()).collect::<Vec<_>>());
    let before = ids();
    world.engine().take_calls();
    world.engine().disconnect(&names[0], "evenkeel-default");
    sleep(Duration::from_secs(1)).await;
    world.engine().world(|world| {
        let found = world.containers.get_mut(&names[1]).unwrap();
        found.connections.get_mut("evenkeel-default").unwrap().aliases = Some(Vec::new());
    });
    // No event tells about this one.
    sleep(Duration::from_secs(15)).await;
    let calls = world.engine().take_calls();
    let changes: Vec<_> = calls.iter().filter(|call| !FakeEngine::only_reads(call)).collect();
    let connect = |name: &String| format!("connect_network {name} evenkeel-default");
    assert_eq!(changes, [&connect(&names[0]), &connect(&names[1])]);
    assert_eq!(ids(), before);
    world.settled().await;
}

/// Regression 112: a pod whose network was removed while it was stopped could never be started again.
#[tokio::test(start_paused = true)]
async fn a_network_that_was_removed_while_the_pods_were_stopped_is_made_again() {
    let mut world = World::new(&["local"]).await;
    world.apply(spec(2, "web:1")).await;
    let names: Vec<_> = world.settled().await.pods.iter().map(|pod| pod.containers[0].container.clone()).collect();
    world.crash().await;
    for name in &names {
        world.engine().die(name);
    }
    world.engine().world(|world| world.networks.clear());
    world.start();
    world.until("running again", |status| status.ready_replicas == 2 && world.running() == 2).await;
}

/// A network of that name that somebody else made, without our labels, serves as well.
#[tokio::test(start_paused = true)]
async fn pods_use_a_network_that_was_made_by_hand() {
    let world = World::new(&["local"]).await;
    world.apply(spec(2, "web:1")).await;
    let names: Vec<_> = world.settled().await.pods.iter().map(|pod| pod.containers[0].container.clone()).collect();
    world.engine().world(|world| {
        let (spec, seen) = world.networks.get_mut("evenkeel-default").unwrap();
        spec.labels.clear();
        (seen.id, seen.ours) = ("made by hand".into(), false);
    });
    for name in &names {
        world.engine().disconnect(name, "evenkeel-default");
    }
    world
        .until("connected", |_| {
            world.engine().world(|world| {
                names.iter().all(|name| world.containers[name].connections.contains_key("evenkeel-default"))
            })
        })
        .await;
    world.apply(spec(3, "web:1")).await;
    assert_eq!(world.settled().await.ready_replicas, 3);
}

/// Regression 82: a pod of one container with a ConfigMap volume never started. It had no sandbox, its only container
/// mounts the volume read-only, and Docker fills no volume through a read-only mount. So did an empty directory that an
/// init container writes and the only container reads.
#[tokio::test(start_paused = true)]
async fn a_volume_is_filled_through_a_mount_that_may_be_written_for_every_kind_of_pod() {
    let volumes = [
        ("configMap", json!({"configMap": {"name": "files"}})),
        ("secret", json!({"secret": {"secretName": "files"}})),
        ("emptyDir", json!({"emptyDir": {}})),
        ("memory", json!({"emptyDir": {"medium": "Memory"}})),
    ];
    for (kind, volume) in &volumes {
        for (containers, inits, read_only) in [(1, 0, false), (1, 0, true), (1, 1, true), (2, 0, true), (2, 1, false)] {
            let world = World::new(&["local"]).await;
            world.put("configmaps", "files", json!({"kind": "ConfigMap", "data": {"a": "1"}})).await;
            world.put("secrets", "files", json!({"kind": "Secret", "data": {"a": "MQ=="}})).await;
            let mut spec = spec(1, "web:1");
            let pod = &mut spec["template"]["spec"];
            pod["volumes"] = json!([{"name": "files", "emptyDir": {}}]);
            pod["volumes"][0] = volume.clone();
            pod["volumes"][0]["name"] = json!("files");
            let container = |name: String, read_only: bool| {
                let mount = json!({"name": "files", "mountPath": "/files", "readOnly": read_only});
                json!({"name": name, "image": "web:1", "volumeMounts": [mount]})
            };
            pod["containers"] = (0..containers).map(|at| container(format!("c{at}"), read_only)).collect();
            pod["initContainers"] = (0..inits).map(|at| container(format!("i{at}"), false)).collect();
            world.apply(spec).await;
            let case = format!("{kind}: {containers} containers, {inits} init containers, read-only {read_only}");
            if inits > 0 {
                let init = |world: &World| world.containers().contains("i0 Running");
                world.until(&case, |_| init(&world)).await;
                let pod = world.status().await.unwrap().pods[0].name.clone();
                let name = format!("default.{pod}.i0");
                world.engine().world(|world| world.containers.get_mut(&name).unwrap().ends_with = Some(0));
                world.engine().die(&name);
            }
            world.until(&case, |status| status.ready_replicas == 1).await;
            world.engine().world(|world| {
                let files = world.containers.values().flat_map(|one| one.files.keys());
                let filled = files.filter(|path| path.ends_with("/a")).count();
                let wanted = usize::from(matches!(*kind, "configMap" | "secret"));
                assert_eq!(filled, wanted, "{case}");
            });
        }
    }
}
