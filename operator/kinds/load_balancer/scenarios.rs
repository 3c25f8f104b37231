//! What people would see: production's loop over a Docker host in memory, whose containers speak like HAProxy.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::fixture::{obey, started};
use super::seen::{Admin, Answer, Health};
use super::{Controller, RESOURCE, diff, haproxy};
use crate::api::load_balancer::{LoadBalancerStatus, ServerState};
use crate::engine::docker::OwnBinary;
use crate::engine::fake::FakeEngine;
use crate::engine::hosts::Hosts;
use crate::engine::{ContainerState, ExecResult};
use crate::runtime::clock::TestClock;
use crate::runtime::{self, Trigger};
use crate::store::objects::Part;
use crate::store::{Error, Key, MemoryStore, Objects};

const WEB: &str = r"
replicas: 2
frontends: [{name: web, port: 80, backend: web}]
backends: [{name: web, deployment: {name: web, port: 8052}, drainTimeout: 20s}]
";

/// An HAProxy in a container of the fake.
struct Proxy {
    /// The container's id: a new one starts anew.
    id: String,
    file: String,
    answer: Answer,
    /// Signals that were acted upon.
    reloads: usize,
}

type Proxies = Arc<Mutex<BTreeMap<String, Proxy>>>;

struct World {
    engine: Arc<FakeEngine>,
    proxies: Proxies,
    objects: Objects,
    clock: Arc<TestClock>,
    operator: Option<(CancellationToken, JoinSet<()>)>,
}

impl World {
    async fn new(spec: &str) -> Self {
        let clock = Arc::new(TestClock::following_tokio("2026-01-01T00:00:00Z".parse().unwrap()));
        let objects = Objects::new(Arc::new(MemoryStore::default()), clock.clone());
        let engine = Arc::new(FakeEngine::new("local"));
        let proxies = Proxies::default();
        let files = proxies.clone();
        engine.on_exec(move |container, command| run(&files, container, command));
        for name in ["default.edge-1", "default.edge-2"] {
            let (engine_, proxies) = (engine.clone(), proxies.clone());
            engine.on_dial(name, "unix:/run/evenkeel/master.sock", move |stream| {
                tokio::spawn(converse(name, engine_.clone(), proxies.clone(), stream));
            });
        }
        let mut world = Self { engine, proxies, objects, clock, operator: None };
        let spec: Value = serde_saphyr::from_str(spec).unwrap();
        world
            .put(RESOURCE, "edge", json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "LoadBalancer", "spec": spec}))
            .await;
        world.start();
        world
    }

    fn start(&mut self) {
        let hosts = Arc::new(Hosts::new(Arc::new(OwnBinary::running())));
        hosts.insert("local", self.engine.clone());
        let controller = Arc::new(Controller::new(hosts.clone(), self.objects.clone(), self.clock.clone()));
        let (hints, heard) = mpsc::channel(64);
        let shutdown = CancellationToken::new();
        let all = |_: &crate::store::Change| Some(Trigger::All);
        let running = runtime::Controller::new(controller, self.objects.clone(), self.clock.clone())
            .also_watch("secrets", all)
            .also_watch("deployments.apps", all)
            .run(heard, shutdown.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(running);
        tasks.spawn(async move {
            let mut events = hosts.events();
            while events.next().await.is_some() {
                let _ = hints.send(Trigger::All).await;
            }
        });
        self.operator = Some((shutdown, tasks));
    }

    /// kill -9 of the operator.
    async fn crash(&mut self) {
        if let Some((_, mut tasks)) = self.operator.take() {
            tasks.shutdown().await;
        }
    }

    async fn put(&self, resource: &str, name: &str, mut object: Value) {
        let key = Key { resource: resource.into(), namespace: "default".into(), name: name.into() };
        object["metadata"] = json!({"name": name, "namespace": "default"});
        let status = object["status"].take();
        if matches!(self.objects.create(&key, object.clone()).await, Err(Error::AlreadyExists { .. })) {
            let spec = object["spec"].clone();
            let set = |mut old: Value| {
                old["spec"] = spec.clone();
                Ok::<_, Error>(old)
            };
            self.objects.modify(&key, Part::Main, set).await.unwrap();
        }
        if !status.is_null() {
            let set = |mut old: Value| {
                old["status"] = status.clone();
                Ok::<_, Error>(old)
            };
            self.objects.modify(&key, Part::Status, set).await.unwrap();
        }
    }

    /// The Deployment `web` has these pods: name, last byte of the address, and whether it leaves.
    async fn pods(&self, pods: &[(&str, u8, bool)]) {
        let endpoints: Vec<Value> = pods
            .iter()
            .map(|(name, address, leaving)| {
                let state = if *leaving { "leaving" } else { "serving" };
                json!({"name": name, "host": "local", "address": format!("10.1.0.{address}"), "state": state})
            })
            .collect();
        let set = json!({"network": "evenkeel-default", "epoch": 0, "endpoints": endpoints});
        let spec = json!({"selector": {}, "template": {}});
        self.put("deployments.apps", "web", json!({"spec": spec, "status": {"endpointSet": set}})).await;
    }

    async fn status(&self) -> LoadBalancerStatus {
        let key = Key { resource: RESOURCE.into(), namespace: "default".into(), name: "edge".into() };
        let object: Value = self.objects.get(&key).await.unwrap().unwrap_or_default();
        serde_json::from_value(object["status"].clone()).unwrap_or_default()
    }

    async fn until(&self, what: &str, is_so: impl Fn(&LoadBalancerStatus) -> bool) -> LoadBalancerStatus {
        for _ in 0..4000 {
            let status = self.status().await;
            if is_so(&status) {
                return status;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("never {what}: {:#?}", self.status().await);
    }

    async fn healthy(&self) -> LoadBalancerStatus {
        self.until("healthy", |status| status.phase == "Healthy" && status.ready_replicas == 2).await
    }

    fn proxy<R>(&self, container: &str, look: impl FnOnce(&mut Proxy) -> R) -> R {
        look(self.proxies.lock().unwrap().get_mut(container).unwrap())
    }
}

fn state(status: &LoadBalancerStatus, server: &str) -> Option<ServerState> {
    status.backends[0].servers.iter().find(|one| one.name == server).map(|one| one.state)
}

/// What a shell does with the configuration.
fn run(proxies: &Proxies, container: &crate::engine::fake::FakeContainer, command: &[String]) -> ExecResult {
    let mut proxies = proxies.lock().unwrap();
    let done = |code: i64, output: &str| ExecResult { code, output: output.to_owned() };
    let Some(proxy) = proxies.get_mut(&container.spec.name) else { return done(1, "it does not run") };
    let script = command.get(2).map(String::as_str).unwrap_or_default();
    if script.contains("haproxy -c") {
        let file = container.files.iter().find(|(path, _)| path.ends_with("haproxy.cfg.new"));
        let text = file.map(|(_, file)| String::from_utf8(file.bytes.clone()).unwrap()).unwrap();
        if text.contains("bind :666") {
            return done(9, "[ALERT] (9) : parsing [haproxy.cfg.new:17]: the number of the beast");
        }
        proxy.file = text;
    }
    if script.contains("tail -c") {
        return done(0, &proxy.file);
    }
    done(0, "")
}

/// The master's socket of an HAProxy.
async fn converse(name: &'static str, engine: Arc<FakeEngine>, proxies: Proxies, stream: DuplexStream) {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut lines = BufReader::new(reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut said = String::new();
        if line == "prompt" {
            said.push_str("master> ");
        } else {
            let container = engine.world(|world| {
                let found = world.containers.get(name)?;
                Some((found.id.clone(), found.signals.iter().filter(|signal| *signal == "SIGUSR2").count()))
            });
            let Some((id, signals)) = container else { return };
            let mut proxies = proxies.lock().unwrap();
            // It begins with the file that its volume has.
            let kept = proxies.get(name).map(|proxy| proxy.file.clone()).unwrap_or(haproxy::BOOTSTRAP.into());
            let fresh = |file: String| Proxy { id: id.clone(), answer: started(&file), file, reloads: 0 };
            let proxy = proxies.entry(name.to_owned()).or_insert_with(|| fresh(kept.clone()));
            if proxy.id != id {
                *proxy = fresh(kept);
            }
            if proxy.reloads != signals {
                (proxy.reloads, proxy.answer) = (signals, started(&proxy.file));
            }
            for command in line.split(';') {
                let _ = write!(said, "{}\nmaster> ", answer(&mut proxy.answer, command));
            }
        }
        if writer.write_all(said.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn answer(proxy: &mut Answer, command: &str) -> String {
    let words: Vec<_> = command.split(' ').collect();
    match words.as_slice() {
        ["@1", "show", "info"] => format!("description: {}\n", proxy.hash),
        ["@1", "show", "servers", "state"] => {
            let mut said = "1\n# be_id\n".to_owned();
            for ((backend, name), seen) in &proxy.servers {
                let admin = match seen.admin {
                    Admin::Ready => 0,
                    Admin::Drain => 8,
                    Admin::Maint => 1,
                };
                let check = if seen.health == Health::NoCheck { 0 } else { 6 };
                let address = seen.address.unwrap();
                let _ = writeln!(
                    said,
                    "3 {backend} 1 {name} {address} 2 {admin} 1 1 1 15 3 4 {check} 0 0 0 - {} - 0 0 - - 0",
                    seen.port
                );
            }
            said
        }
        ["@1", "show", "stat", ..] => {
            let servers = proxy.servers.iter();
            let mut said: String = servers.map(|((b, s), seen)| format!("{b},{s},0,0,{},\n", seen.sessions)).collect();
            said.extend(proxy.backends.iter().map(|backend| format!("{backend},BACKEND,0,0,0,\n")));
            said
        }
        ["show", "proc"] => "# workers\n1 worker\n# programs\n".into(),
        ["@1", verb @ ..] => {
            let known = |command: &diff::Command| command.line() == verb.join(" ");
            let Some(command) = commands(proxy, verb).into_iter().find(known) else { return String::new() };
            obey(proxy, &command);
            if matches!(command.verb, diff::Verb::Add(..)) { "New server registered.\n".into() } else { String::new() }
        }
        _ => "Unknown command".into(),
    }
}

/// The commands that these words could be.
fn commands(proxy: &Answer, words: &[&str]) -> Vec<diff::Command> {
    use diff::Verb;
    let Some((backend, server)) = words.iter().find_map(|word| word.split_once('/')) else { return Vec::new() };
    let mut verbs = vec![Verb::Cut, Verb::Delete, Verb::Check];
    verbs.extend([Admin::Ready, Admin::Drain, Admin::Maint].map(Verb::State));
    if let ["add", "server", _, address, options @ ..] = words {
        let (host, port) = address.rsplit_once(':').unwrap();
        let options: String = options.iter().map(|word| format!(" {word}")).collect();
        verbs.push(Verb::Add(host.parse().unwrap(), port.parse().unwrap(), options));
    }
    assert!(proxy.backends.contains(backend), "no backend {backend}");
    let command = |verb| diff::Command { backend: backend.into(), server: server.into(), verb };
    verbs.into_iter().map(command).collect()
}

#[tokio::test(start_paused = true)]
async fn balancers_come_up_follow_the_pods_without_a_reload_and_go_with_the_object() {
    let world = World::new(WEB).await;
    world.pods(&[("web-a", 1, false)]).await;
    let status = world.healthy().await;
    assert_eq!((state(&status, "web-a"), status.reloads), (Some(ServerState::Ready), 2));
    world.pods(&[("web-a", 1, false), ("web-b", 2, false)]).await;
    world.until("both are ready", |status| state(status, "web-b") == Some(ServerState::Ready)).await;
    world.proxy("default.edge-2", |proxy| {
        proxy.answer.servers.get_mut(&("web".into(), "web-a".into())).unwrap().sessions = 1;
    });
    world.pods(&[("web-a", 1, true), ("web-b", 2, false)]).await;
    world.until("draining", |status| state(status, "web-a") == Some(ServerState::Draining)).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(state(&world.status().await, "web-a"), Some(ServerState::Draining));
    // After drainTimeout what goes on is cut.
    let status = world.until("drained", |status| state(status, "web-a") == Some(ServerState::Drained)).await;
    assert_eq!(status.reloads, 2);
    world.pods(&[("web-b", 2, false)]).await;
    world.until("forgotten", |status| state(status, "web-a").is_none()).await;
    sleep(Duration::from_secs(15)).await;
    for container in ["default.edge-1", "default.edge-2"] {
        world.proxy(container, |proxy| {
            let names: Vec<_> = proxy.answer.of("web").map(|(name, _)| name.to_owned()).collect();
            assert_eq!(names, ["web-b"]);
            assert!(!proxy.file.contains("web-a") && proxy.file.contains("web-b"), "{}", proxy.file);
        });
    }
    let key = Key { resource: RESOURCE.into(), namespace: "default".into(), name: "edge".into() };
    world.objects.delete(&key, &Default::default()).await.unwrap();
    while world.objects.get::<Value>(&key).await.unwrap().is_some() {
        sleep(Duration::from_millis(50)).await;
    }
    world.engine.world(|world| {
        assert!(world.containers.is_empty() && world.volumes.is_empty() && world.networks.is_empty());
    });
}

#[tokio::test(start_paused = true)]
async fn a_settled_balancer_is_only_looked_at_and_a_new_operator_changes_nothing() {
    let mut world = World::new(WEB).await;
    world.pods(&[("web-a", 1, false)]).await;
    world.healthy().await;
    sleep(Duration::from_secs(5)).await;
    world.crash().await;
    world.engine.take_calls();
    world.start();
    sleep(Duration::from_secs(25)).await;
    let calls = world.engine.take_calls();
    let reads = ["list_", "network ", "has_image ", "dial ", "exec ", "ensure_binary ", "logs "];
    let writes: Vec<_> = calls.iter().filter(|call| !reads.iter().any(|read| call.starts_with(read))).collect();
    assert!(writes.is_empty(), "{writes:?}");
    assert_eq!(world.status().await.reloads, 2);
}

#[tokio::test(start_paused = true)]
async fn a_configuration_that_the_engine_refuses_is_said_once_and_servers_still_come_and_go() {
    let world = World::new(WEB).await;
    world.pods(&[("web-a", 1, false)]).await;
    world.healthy().await;
    let mut spec: Value = serde_saphyr::from_str(WEB).unwrap();
    spec["frontends"][0]["port"] = json!(666);
    world.put(RESOURCE, "edge", json!({"spec": spec})).await;
    let refused = |status: &LoadBalancerStatus| {
        status.conditions.iter().any(|one| one.type_ == "ConfigValid" && one.message.contains("number of the beast"))
    };
    world.until("refused", refused).await;
    sleep(Duration::from_secs(5)).await;
    world.engine.take_calls();
    sleep(Duration::from_secs(30)).await;
    assert!(!world.engine.take_calls().iter().any(|call| call.starts_with("put_files")), "it is tried again");
    world.pods(&[("web-a", 1, false), ("web-b", 2, false)]).await;
    world.until("ready", |status| state(status, "web-b") == Some(ServerState::Ready)).await;
    sleep(Duration::from_secs(5)).await;
    world.proxy("default.edge-1", |proxy| {
        assert!(proxy.file.contains("bind :80\n") && proxy.file.contains("web-b"), "{}", proxy.file);
    });
    world.put(RESOURCE, "edge", json!({"spec": serde_saphyr::from_str::<Value>(WEB).unwrap()})).await;
    world.healthy().await;
}

#[tokio::test(start_paused = true)]
async fn balancers_are_replaced_one_after_the_other_and_a_dead_one_is_started() {
    let world = World::new(WEB).await;
    world.pods(&[("web-a", 1, false)]).await;
    world.healthy().await;
    let mut spec: Value = serde_saphyr::from_str(WEB).unwrap();
    spec["image"] = json!("haproxy:2.8");
    world.put(RESOURCE, "edge", json!({"spec": spec})).await;
    let images = || {
        world.engine.world(|world| {
            let running = world.containers.values().filter(|one| one.state == ContainerState::Running);
            running.map(|one| one.spec.image.clone()).collect::<Vec<_>>()
        })
    };
    for _ in 0..4000 {
        let running = images();
        assert!(!running.is_empty(), "no balancer runs");
        if running == ["haproxy:2.8", "haproxy:2.8"] {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(images(), ["haproxy:2.8", "haproxy:2.8"]);
    world.healthy().await;
    world.engine.die("default.edge-1");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(images().len(), 2);
    world.healthy().await;
}
