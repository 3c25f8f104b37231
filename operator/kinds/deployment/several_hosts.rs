//! Scenarios over several hosts: pods that balancers elsewhere reach, hosts that fall silent, come back or are drained.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use expect_test::expect;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::world::{World, short, spec};
use crate::api::deployment::DeploymentStatus;
use crate::api::endpoints::EndpointSet;
use crate::engine::ContainerState;
use crate::kinds::ports;
use crate::store::Key;
use crate::store::objects::Part;

/// Hosts `h1`, `h2`, … with the addresses 192.0.2.1, 192.0.2.2, …
async fn hosts(count: usize) -> World {
    let names: Vec<String> = (1..=count).map(|number| format!("h{number}")).collect();
    let world = World::new(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for (number, name) in (1..).zip(&names) {
        world.declare(name, "address", json!(format!("192.0.2.{number}"))).await;
    }
    world
}

fn away(world: &World, host: &str, away: bool) {
    world.engines[host].world(|world| world.away = away);
}

/// The pods that run, by host, with their published ports.
fn pods(world: &World) -> String {
    let mut lines = Vec::new();
    for (host, engine) in &world.engines {
        engine.world(|world| {
            for one in world.containers.values().filter(|one| one.state == ContainerState::Running) {
                let ports: Vec<_> =
                    one.spec.ports.iter().map(|(at, port, inside)| format!("{inside}={at}:{port}")).collect();
                lines.push(format!(
                    "{host} {} {}\n",
                    short(one.spec.name.trim_start_matches("default.")),
                    ports.join(" ")
                ));
            }
        });
    }
    lines.sort();
    lines.concat()
}

async fn reserved(world: &World) -> Vec<(String, String)> {
    let all = ports::read(&world.objects).await.unwrap();
    let kept = all.values().filter(|one| !one.released);
    kept.map(|one| (one.spec.host.clone(), short(&one.spec.member))).collect()
}

/// Numbers that depend on the object's uid.
fn masked(text: &str, status: &DeploymentStatus) -> String {
    let mut ports: Vec<u16> =
        status.decisions.iter().flat_map(|d| &d.pods).flat_map(|pod| pod.ports.values().map(|at| at.port())).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
        .iter()
        .zip('A'..)
        .fold(text.to_owned(), |text, (port, name)| text.replace(&port.to_string(), &format!("PORT-{name}")))
}

/// The states of the endpoints by host.
fn endpoints(set: &EndpointSet) -> String {
    set.endpoints.iter().map(|one| format!("{} {} {}\n", one.host, short(&one.name), one.state)).collect()
}

fn condition(status: &DeploymentStatus, kind: &str) -> Option<String> {
    status.conditions.iter().find(|one| one.type_ == kind).map(|one| one.message.clone())
}

fn on(status: &DeploymentStatus) -> BTreeMap<String, usize> {
    let mut on = BTreeMap::new();
    for pod in status.pods.iter().filter(|pod| pod.ready) {
        *on.entry(pod.host.clone()).or_default() += 1;
    }
    on
}

/// Regression 334: the endpoints of pods had an address on the bridge of their host only, so no balancer on another host
/// reached them. Their ports are reserved and published there.
#[tokio::test(start_paused = true)]
async fn pods_that_balancers_elsewhere_route_to_have_reserved_ports() {
    let world = hosts(2).await;
    let _balancer = world.balanced().await;
    world.apply(spec(4, "web:1")).await;
    let status = world.settled().await;
    expect![[r#"
        h1 web-HASH-2.web 8052=192.0.2.1:PORT-A
        h1 web-HASH-4.web 8052=192.0.2.1:PORT-B
        h2 web-HASH-1.web 8052=192.0.2.2:PORT-A
        h2 web-HASH-3.web 8052=192.0.2.2:PORT-B
    "#]]
    .assert_eq(&masked(&pods(&world), &status));
    assert_eq!(reserved(&world).await.len(), 4);
    let set = status.endpoint_set.unwrap();
    let published: BTreeSet<_> =
        set.endpoints.iter().flat_map(|one| &one.published).map(|one| (one.port, one.address.to_string())).collect();
    assert_eq!(published.into_iter().collect::<Vec<_>>(), [(8052, "192.0.2.1".into()), (8052, "192.0.2.2".into())]);
    // A pod that is gone gives its port back.
    world.apply(spec(1, "web:1")).await;
    world.settled().await;
    sleep(Duration::from_secs(20)).await;
    assert_eq!(reserved(&world).await.len(), 1);
    world.delete().await;
    world.until("gone", |_| world.containers().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn on_one_host_nothing_is_published_and_no_container_is_made_again() {
    let world = World::new(&["local"]).await;
    world.apply(spec(2, "web:1")).await;
    world.settled().await;
    let made = || {
        world
            .engine()
            .world(|world| world.containers.values().map(|one| (one.id.clone(), one.spec.hash())).collect::<Vec<_>>())
    };
    let before = made();
    let _balancer = world.balanced().await;
    world.declare("local", "address", json!("192.0.2.1")).await;
    sleep(Duration::from_secs(60)).await;
    world.settled().await;
    assert_eq!((made(), reserved(&world).await), (before, Vec::new()));
    assert!(pods(&world).lines().all(|line| !line.contains('=')), "{}", pods(&world));
}

#[tokio::test(start_paused = true)]
async fn when_a_second_host_comes_the_pods_are_replaced_by_published_ones_and_never_fewer_serve() {
    let world = hosts(2).await;
    world.declare("h2", "unschedulable", json!(true)).await;
    world.declare("h2", "address", json!(null)).await;
    let _balancer = world.balanced().await;
    world.apply(spec(3, "web:1")).await;
    world.settled().await;
    world.declare("h2", "address", json!("192.0.2.2")).await;
    let status = world
        .until("published", |status| {
            assert!(status.pods.iter().filter(|pod| pod.ready).count() >= 3, "{:#?}", status.pods);
            let d = status.decisions.as_ref().unwrap();
            d.pods.len() == 3 && d.pods.iter().all(|pod| pod.ports.contains_key(&8052))
        })
        .await;
    assert_eq!(on(&status), BTreeMap::from([("h1".to_owned(), 3)]));
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_lost_host_are_replaced_and_removed_when_it_is_back() {
    let mut world = hosts(3).await;
    let _balancer = world.balanced().await;
    world.apply(spec(3, "web:1")).await;
    world.settled().await;
    away(&world, "h3", true);
    let silent = world.now();
    sleep(Duration::from_secs(50)).await;
    // An operator that has just started counts anew.
    world.crash().await;
    world.start();
    let ours = |status: &DeploymentStatus| {
        on(status).iter().filter(|(host, _)| *host != "h3").map(|(_, count)| count).sum::<usize>()
    };
    let status = world.until("replaced", |status| ours(status) == 3 && status.phase == "Healthy").await;
    let waited = world.now().duration_since(silent).as_secs();
    assert!((110..130).contains(&waited), "{waited}");
    expect![[r#"
        h2 web-HASH-1 serving
        h1 web-HASH-2 serving
        h3 web-HASH-3 out
        h2 web-HASH-4 serving
    "#]]
    .assert_eq(&endpoints(&status.endpoint_set.unwrap()));
    // Regression 335: a count of silence that begins anew must not bring pods back that were replaced long ago.
    world.crash().await;
    world.start();
    sleep(Duration::from_secs(30)).await;
    assert_eq!(ours(&world.status().await.unwrap()), 3);
    let kept: Vec<_> =
        world.status().await.unwrap().pods.iter().filter(|pod| pod.host != "h3").map(|pod| pod.name.clone()).collect();
    away(&world, "h3", false);
    let status = world.until("no more than wanted", |status| status.pods.len() == 3 && status.phase == "Healthy").await;
    assert_eq!(status.pods.iter().map(|pod| pod.name.clone()).collect::<Vec<_>>(), kept, "those that replaced it stay");
    assert!(world.engines["h3"].world(|world| world.containers.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn many_hosts_that_fall_silent_together_are_not_replaced_until_a_person_says_so() {
    let world = hosts(3).await;
    world.apply(spec(3, "web:1")).await;
    world.settled().await;
    away(&world, "h2", true);
    away(&world, "h3", true);
    sleep(Duration::from_secs(600)).await;
    let status = world.status().await.unwrap();
    assert_eq!(on(&status).len(), 3, "{status:#?}");
    expect!["hosts h2, h3 fell silent together, more than a third of all: nothing of them is replaced, because this operator may be the one that is cut off. Set spec.outOfService on a host that is off"].assert_eq(&condition(&status, "ManyHostsSilent").unwrap_or_default());
    world.declare("h2", "outOfService", json!(true)).await;
    // One is explained now. The other one alone is a loss as any other.
    world.until("replaced", |status| on(status) == BTreeMap::from([("h1".to_owned(), 3)])).await;
}

fn writer(replicas: u32) -> Value {
    let mut spec = spec(replicas, "web:1");
    spec["template"]["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    spec["template"]["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    spec
}

#[tokio::test(start_paused = true)]
async fn the_one_writer_of_a_volume_moves_only_if_its_host_is_out_of_service_and_another_has_the_volume() {
    let world = hosts(2).await;
    world.apply(writer(1)).await;
    let home = world.settled().await.pods[0].host.clone();
    let other = if home == "h1" { "h2" } else { "h1" };
    away(&world, &home, true);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(world.status().await.unwrap().pods.len(), 1, "silence is not death");
    world.declare(&home, "outOfService", json!(true)).await;
    let status = world.until("told", |status| status.phase == "Degraded" && status.replicas == 0).await;
    let why = condition(&status, "Available").unwrap().replace(&home, "HOME");
    expect!["0 of 1 replicas are available: its volume is on host HOME, which is out of service; give the volume to the namespace in spec.volumes of another DockerHost"].assert_eq(&why);
    world.declare(other, "volumes", json!([{"name": "data", "namespaces": ["default"]}])).await;
    let status = world.until("moved", |status| status.ready_replicas == 1).await;
    assert_eq!(status.decisions.unwrap().home.unwrap(), other);
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_drained_host_are_replaced_before_they_stop() {
    for field in ["drain", "maintenance"] {
        let world = hosts(3).await;
        let _balancer = world.balanced().await;
        world.apply(spec(3, "web:1")).await;
        world.settled().await;
        world.declare("h1", field, json!(true)).await;
        let status = world
            .until("moved", |status| {
                assert!(status.available_replicas >= 3, "{:#?}", status.pods);
                !status.pods.iter().any(|pod| pod.host == "h1")
            })
            .await;
        assert_eq!(on(&status).values().sum::<usize>(), 3);
        assert_eq!(condition(&status, "DrainBlocked"), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_another_place_stops_nothing_and_says_why() {
    let world = hosts(2).await;
    world.declare("h2", "unschedulable", json!(true)).await;
    world.apply(spec(2, "web:1")).await;
    world.settled().await;
    let before = pods(&world);
    world.declare("h1", "drain", json!(true)).await;
    let status = world.until("blocked", |status| condition(status, "DrainBlocked").is_some()).await;
    sleep(Duration::from_secs(120)).await;
    assert_eq!(pods(&world), before);
    expect![
        "web-HASH-1 stays, although host h1 is drained: no host will take it: 2 declared, 2 closed, 0 not answering"
    ]
    .assert_eq(&short(&condition(&status, "DrainBlocked").unwrap()));
    // It goes on as soon as there is a place.
    world.declare("h2", "unschedulable", json!(false)).await;
    let status = world.until("moved", |status| on(status) == BTreeMap::from([("h2".to_owned(), 2)])).await;
    assert_eq!(condition(&status, "DrainBlocked"), None);
    // A volume for one writer keeps its pod.
    let world = hosts(2).await;
    world.apply(writer(1)).await;
    let home = world.settled().await.pods[0].host.clone();
    world.declare(&home, "drain", json!(true)).await;
    let status = world.until("blocked", |status| condition(status, "DrainBlocked").is_some()).await;
    expect!["web-HASH-1 stays, although host HOME is drained: its volume is on host HOME, which takes no pod now"]
        .assert_eq(&short(&condition(&status, "DrainBlocked").unwrap().replace(&home, "HOME")));
    assert_eq!(world.running(), 1);
}

#[tokio::test(start_paused = true)]
async fn with_recreate_a_drained_pod_stops_before_its_successor_starts() {
    let world = hosts(2).await;
    let mut recreate = spec(1, "web:1");
    recreate["strategy"] = json!({"type": "Recreate"});
    world.apply(recreate).await;
    let home = world.settled().await.pods[0].host.clone();
    world.declare(&home, "drain", json!(true)).await;
    world
        .until("moved", |status| {
            assert!(world.running() <= 1);
            status.pods.len() == 1 && status.pods[0].ready && status.pods[0].host != home
        })
        .await;
}

/// Regression 338: a pull that failed on a host kept a Deployment `Degraded` after its pods had gone to other hosts, for ever.
/// Nobody waited for the image there, so nobody tried again.
#[tokio::test(start_paused = true)]
async fn a_failed_pull_where_no_pod_is_any_more_is_no_trouble() {
    let world = hosts(2).await;
    world.declare("h2", "unschedulable", json!(true)).await;
    world.engines["h1"].world(|world| world.registry = Some(BTreeSet::new()));
    world.apply(spec(1, "web:1")).await;
    world.until("in trouble", |status| status.phase == "Degraded").await;
    world.declare("h2", "unschedulable", json!(false)).await;
    world.declare("h1", "drain", json!(true)).await;
    assert_eq!(on(&world.settled().await), BTreeMap::from([("h2".to_owned(), 1)]));
}

/// Regression 411: a pod whose `hostPath` its host did not have was tried there for ever, beside a host that had it.
#[tokio::test(start_paused = true)]
async fn pods_move_to_a_host_that_has_the_path_that_they_mount_and_the_other_is_named() {
    let world = World::new(&["h1", "h2"]).await;
    let paths = |host: &str, missing: &[&str]| {
        let missing = missing.iter().map(|path| (*path).to_owned()).collect();
        world.engines[host].world(|world| world.missing_paths = missing);
    };
    paths("h1", &["/srv/app"]);
    let mut mounting = spec(2, "web:1");
    let pod = &mut mounting["template"]["spec"];
    pod["volumes"] = json!([{"name": "app", "hostPath": {"path": "/srv/app"}}]);
    pod["containers"][0]["volumeMounts"] = json!([{"name": "app", "mountPath": "/app"}]);
    world.apply(mounting.clone()).await;
    let status = world.settled().await;
    assert_eq!(on(&status), BTreeMap::from([("h2".to_owned(), 2)]));
    let told = |status: &DeploymentStatus| {
        let missing = status.conditions.iter().find(|one| one.type_ == "HostPathMissing");
        missing.map(|one| one.message.clone()).unwrap_or_default()
    };
    assert!(told(&status).starts_with("host h1 has no /srv/app; pods are placed on hosts that have it"), "{status:#?}");
    // Where no host has it, the pods wait, and start as soon as one has.
    paths("h2", &["/srv/other"]);
    paths("h1", &["/srv/other"]);
    mounting["template"]["spec"]["volumes"][0]["hostPath"]["path"] = json!("/srv/other");
    world.apply(mounting).await;
    world.until("told", |status| told(status).contains("host h1 has no /srv/other, host h2 has no /srv/other")).await;
    paths("h1", &[]);
    let status = world.settled().await;
    assert!(on(&status).contains_key("h1"), "{status:#?}");
}

/// Regression 310: a `hostPort` of pods was reserved by nobody, so a database could get the same port of the host, and whoever
/// came second was tried there for ever.
#[tokio::test(start_paused = true)]
async fn a_host_port_is_reserved_and_pods_keep_off_hosts_where_another_object_has_it() {
    let world = hosts(2).await;
    let taken = |host: &str| {
        let owner =
            json!({"kind": "RedisSentinel", "resource": "r", "namespace": "default", "name": "cache", "uid": "1"});
        json!({
            "apiVersion": "evenkeel.dev/v1alpha1", "kind": "PortReservation", "metadata": {},
            "spec": {"host": host, "port": 8080, "owner": owner, "member": "cache-1", "purpose": "redis"},
        })
    };
    let reserve = async |host: &str| {
        let key = Key::new("portreservations.evenkeel.dev", "", &format!("{host}.8080"));
        world.objects.create(&key, taken(host)).await.unwrap();
    };
    reserve("h1").await;
    let ported = |replicas: u32, image: &str| {
        let mut spec = spec(replicas, image);
        spec["template"]["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 8080}]);
        spec
    };
    world.apply(ported(1, "web:1")).await;
    assert_eq!(on(&world.settled().await), BTreeMap::from([("h2".to_owned(), 1)]));
    let all = ports::read(&world.objects).await.unwrap();
    let ours = &all[&("h2".to_owned(), 8080)].spec;
    assert_eq!((ours.owner.name.as_str(), ours.purpose.as_str(), ours.named), ("web", "hostPort", true));
    // The port goes from pod to pod, once the container of the first is seen gone.
    world.apply(ported(1, "web:2")).await;
    let waits = |status: &DeploymentStatus| status.pods.iter().find_map(|pod| pod.message.clone()).unwrap_or_default();
    world.until("waits", |status| waits(status).contains("is reserved for web-")).await;
    let key = Key::new("portreservations.evenkeel.dev", "", "h2.8080");
    let change = |mut value: Value| {
        value["metadata"]["finalizers"] = json!([]);
        Ok::<_, crate::store::Error>(value)
    };
    world.objects.modify(&key, Part::Main, change).await.unwrap();
    world.until("rolled out", |status| status.phase == "Healthy" && status.updated_replicas == 1).await;
    // A second pod waits for the other host, and says for whom.
    world.apply(ported(2, "web:2")).await;
    let status = world.until("waits", |status| waits(status).contains("cache")).await;
    assert_eq!(waits(&status), "port 8080 of host h1 is reserved for cache-1 of RedisSentinel cache");
    assert_eq!(world.running(), 1);
}
