//! Scenarios as users see them: the production loop over a Docker host in memory, whose containers answer like HAProxy.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::fixture::{obey, started};
use super::seen::{Admin, Answer, Health};
use super::{LoadBalancer, LoadBalancerKind, diff, haproxy, text};
use crate::api::load_balancer::{LoadBalancerStatus, ServerState};
use crate::api::object::Object as _;
use crate::engine::docker::OwnBinary;
use crate::engine::fake::{FakeContainer, FakeEngine};
use crate::engine::hosts::Hosts;
use crate::engine::{ContainerState, ExecResult};
use crate::runtime::Manager;
use crate::runtime::clock::{self, TestClock};
use crate::store::objects::Part;
use crate::store::{Error, Key, MemoryStore, Objects};

const RESOURCE: &str = LoadBalancer::RESOURCE;

const WEB: &str = r"
replicas: 2
frontends: [{name: web, port: 80, backend: web}]
backends: [{name: web, deployment: {name: web, port: 8052}, drainTimeout: 20s}]
";

/// Time that a reload takes.
const RELOAD: Duration = Duration::from_millis(150);

/// An HAProxy in a container of the fake engine. Its files are in a real directory, where a real shell runs its
/// scripts.
struct Proxy {
    /// The container's id; another id is a new HAProxy.
    id: String,
    answer: Answer,
    /// Number of signals that were handled.
    reloads: usize,
    /// Start of the handling of the current signal.
    signalled: Option<Instant>,
    /// Failed reloads in a row.
    failed: usize,
}

type Proxies = Arc<Mutex<BTreeMap<String, Proxy>>>;

struct World {
    engine: Arc<FakeEngine>,
    proxies: Proxies,
    volumes: TempDir,
    objects: Objects,
    clock: Arc<TestClock>,
    operator: Option<(CancellationToken, JoinSet<()>, Arc<Manager>)>,
}

impl World {
    async fn new(spec: &str) -> Self {
        let clock = Arc::new(TestClock::following_tokio("2026-01-01T00:00:00Z".parse().unwrap()));
        let objects = Objects::new(Arc::new(MemoryStore::default()), clock.clone());
        let engine = Arc::new(FakeEngine::new("local"));
        let proxies = Proxies::default();
        let volumes = volumes();
        let place = volumes.path().to_owned();
        engine.on_exec(move |container, command| run(&place, container, command));
        for name in ["default.edge-1", "default.edge-2"] {
            let (engine_, proxies, place) = (engine.clone(), proxies.clone(), volumes.path().to_owned());
            engine.on_dial(name, "unix:/run/evenkeel/master.sock", move |stream| {
                tokio::spawn(converse(name, engine_.clone(), proxies.clone(), place.clone(), stream));
            });
        }
        let mut world = Self { engine, proxies, volumes, objects, clock, operator: None };
        let host = Key { resource: "dockerhosts.evenkeel.dev".into(), namespace: String::new(), name: "local".into() };
        let declared = json!({"metadata": {"name": "local"}, "spec": {"endpoint": "unix:///run/x.sock"}});
        world.objects.create(&host, declared).await.unwrap();
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
        let mut manager = Manager::new(self.objects.clone(), self.clock.clone());
        let wake = manager.wake();
        manager.add(LoadBalancerKind::new(hosts.clone(), self.objects.clone(), self.clock.clone(), wake));
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let stop = shutdown.clone();
        let manager = Arc::new(manager);
        let running = manager.clone();
        tasks.spawn(async move { running.run(hosts.events(), stop).await });
        self.operator = Some((shutdown, tasks, manager));
    }

    /// kill -9 of the operator.
    async fn crash(&mut self) {
        if let Some((_, mut tasks, _)) = self.operator.take() {
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

    /// Sets the pods of the Deployment `web`: name, last byte of the address, and whether the pod is leaving.
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

    /// The configuration that a balancer reads when it starts.
    fn file(&self, container: &str) -> String {
        std::fs::read_to_string(file(self.volumes.path(), container)).unwrap()
    }

    /// Changes the port of the only frontend.
    async fn listen(&self, port: u16) {
        let mut spec: Value = serde_saphyr::from_str(WEB).unwrap();
        spec["frontends"][0]["port"] = json!(port);
        self.put(RESOURCE, "edge", json!({"spec": spec})).await;
    }

    fn proxy<R>(&self, container: &str, look: impl FnOnce(&mut Proxy) -> R) -> R {
        look(self.proxies.lock().unwrap().get_mut(container).unwrap())
    }
}

fn state(status: &LoadBalancerStatus, server: &str) -> Option<ServerState> {
    status.backends[0].servers.iter().find(|one| one.name == server).map(|one| one.state)
}

/// Replaces HAProxy in scripts: it refuses to listen on port 666.
const CHECK: &str = r#"#!/bin/sh
if grep -q 'bind :666$' "$4"; then echo '[ALERT] (9) : parsing [haproxy.cfg.new:17]: the number of the beast'; exit 1; fi
"#;

/// The volumes of all balancers, and the replacement program.
fn volumes() -> TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let volumes = TempDir::new().unwrap();
    let program = volumes.path().join("haproxy");
    std::fs::write(&program, CHECK).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    volumes
}

/// A file in the volume of a balancer.
fn file(volumes: &Path, container: &str) -> PathBuf {
    let path = volumes.join(format!("{container}.d/haproxy.cfg"));
    if !path.exists() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, haproxy::BOOTSTRAP).unwrap();
    }
    path
}

/// Runs a command in a real shell.
fn run(volumes: &Path, container: &FakeContainer, command: &[String]) -> ExecResult {
    let folder = file(volumes, &container.spec.name).parent().unwrap().to_owned();
    let here = format!("{}/", folder.display());
    if command.iter().any(|word| word.contains("haproxy -c")) {
        for (path, file) in &container.files {
            let name = path.rsplit('/').next().unwrap();
            std::fs::write(folder.join(name), &file.bytes).unwrap();
        }
    }
    let words: Vec<_> = command.iter().map(|word| word.replace("/etc/evenkeel/", &here)).collect();
    let path = format!("{}:{}", volumes.display(), std::env::var("PATH").unwrap_or_default());
    let ran = std::process::Command::new(&words[0]).args(&words[1..]).env("PATH", path).output().unwrap();
    let output = String::from_utf8([ran.stdout, ran.stderr].concat()).unwrap();
    ExecResult { code: ran.status.code().unwrap_or(-1).into(), output }
}

/// Answers on the socket of HAProxy's master process.
async fn converse(
    name: &'static str,
    engine: Arc<FakeEngine>,
    proxies: Proxies,
    volumes: PathBuf,
    stream: DuplexStream,
) {
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
            // It starts with the file in its volume.
            let kept = std::fs::read_to_string(file(&volumes, name)).unwrap();
            let fresh = || Proxy { id: id.clone(), answer: started(&kept), reloads: 0, signalled: None, failed: 0 };
            let proxy = proxies.entry(name.to_owned()).or_insert_with(fresh);
            if proxy.id != id {
                *proxy = fresh();
            }
            let signalled = *proxy.signalled.get_or_insert_with(clock::instant);
            if proxy.reloads == signals {
                proxy.signalled = None;
            } else if signalled.elapsed() >= RELOAD {
                (proxy.reloads, proxy.signalled) = (signals, None);
                // Another process has the port.
                if kept.contains("bind :667\n") {
                    proxy.failed += 1;
                } else {
                    (proxy.failed, proxy.answer) = (0, started(&kept));
                }
            }
            for command in line.split(';') {
                let _ = write!(said, "{}\nmaster> ", answer(proxy, command));
            }
        }
        if writer.write_all(said.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn answer(proxy: &mut Proxy, command: &str) -> String {
    let failed = proxy.failed;
    let proxy = &mut proxy.answer;
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
        ["show", "proc"] => format!("1 master 1 [failed: {failed}]\n# workers\n1 worker\n# programs\n"),
        ["@1", verb @ ..] => {
            let known = |command: &diff::Command| command.line() == verb.join(" ");
            let Some(command) = commands(proxy, verb).into_iter().find(known) else { return String::new() };
            obey(proxy, &command);
            if matches!(command.verb, diff::Verb::Add(..)) { "New server registered.\n".into() } else { String::new() }
        }
        _ => "Unknown command".into(),
    }
}

/// The commands that these words can mean.
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
    // After `drainTimeout` the open connections are closed.
    let status = world.until("drained", |status| state(status, "web-a") == Some(ServerState::Drained)).await;
    assert_eq!(status.reloads, 2);
    world.pods(&[("web-b", 2, false)]).await;
    world.until("forgotten", |status| state(status, "web-a").is_none()).await;
    sleep(Duration::from_secs(15)).await;
    for container in ["default.edge-1", "default.edge-2"] {
        world.proxy(container, |proxy| {
            let names: Vec<_> = proxy.answer.of("web").map(|(name, _)| name.to_owned()).collect();
            assert_eq!(names, ["web-b"]);
        });
        let file = world.file(container);
        assert!(!file.contains("web-a") && file.contains("web-b"), "{file}");
    }
    let key = Key { resource: RESOURCE.into(), namespace: "default".into(), name: "edge".into() };
    world.objects.delete(&key, &Default::default()).await.unwrap();
    while world.objects.get::<Value>(&key).await.unwrap().is_some() {
        sleep(Duration::from_millis(50)).await;
    }
    world.engine.world(|world| {
        assert!(world.containers.is_empty() && world.volumes.is_empty() && world.networks.is_empty());
    });
    // The operator keeps nothing of it in memory.
    sleep(Duration::from_secs(120)).await;
    assert_eq!(world.operator.as_ref().map(|(_, _, manager)| manager.kept()), Some(0));
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
    let reads = ["list_", "network ", "image ", "dial ", "exec ", "ensure_binary ", "logs "];
    let writes: Vec<_> = calls.iter().filter(|call| !reads.iter().any(|read| call.starts_with(read))).collect();
    assert!(writes.is_empty(), "{writes:?}");
    assert_eq!(world.status().await.reloads, 2);
}

#[tokio::test(start_paused = true)]
async fn a_configuration_that_the_engine_refuses_is_said_once_and_servers_still_come_and_go() {
    let world = World::new(WEB).await;
    world.pods(&[("web-a", 1, false)]).await;
    world.healthy().await;
    world.listen(666).await;
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
    let file = world.file("default.edge-1");
    assert!(file.contains("bind :80\n") && file.contains("web-b"), "{file}");
    world.put(RESOURCE, "edge", json!({"spec": serde_saphyr::from_str::<Value>(WEB).unwrap()})).await;
    world.healthy().await;
}

/// Whether the status reports the configuration as refused.
fn refused(status: &LoadBalancerStatus) -> bool {
    status.conditions.iter().any(|one| one.type_ == "ConfigValid" && one.status == "False")
}

/// Regression 27: an operator was killed after it had put a configuration in place, before it knew that no process took
/// it up. Its successor kept it as the last good one, so a restarted balancer had none that it could run.
#[tokio::test(start_paused = true)]
async fn wherever_an_operator_dies_over_a_configuration_its_successor_comes_to_the_same_end() {
    for port in [667, 666, 81] {
        for deeds in 1..14 {
            let mut world = World::new(WEB).await;
            world.pods(&[("web-a", 1, false)]).await;
            world.healthy().await;
            sleep(Duration::from_secs(5)).await;
            let good = world.proxy("default.edge-1", |proxy| proxy.answer.hash.clone());
            world.engine.take_calls();
            world.listen(port).await;
            let mut done = 0;
            for _ in 0..2000 {
                let deed =
                    |call: &&String| ["put_files ", "signal_", "exec "].iter().any(|verb| call.starts_with(verb));
                done += world.engine.take_calls().iter().filter(deed).count();
                if done >= deeds {
                    break;
                }
                sleep(Duration::from_millis(1)).await;
            }
            world.crash().await;
            world.start();
            if port == 81 {
                let taken = |world: &World| {
                    let hash = |name: &str| world.proxy(name, |proxy| proxy.answer.hash.clone());
                    hash("default.edge-1") != good && hash("default.edge-2") != good
                };
                for _ in 0..2000 {
                    if taken(&world) {
                        break;
                    }
                    sleep(Duration::from_millis(20)).await;
                }
                assert!(taken(&world), "killed after {deeds} deeds: the new configuration is not taken up");
            } else {
                world.until("refused", refused).await;
            }
            sleep(Duration::from_secs(15)).await;
            for name in ["default.edge-1", "default.edge-2"] {
                let (file, hash) = (world.file(name), world.proxy(name, |proxy| proxy.answer.hash.clone()));
                assert_eq!(
                    text::hash_in(&file),
                    Some(hash.as_str()),
                    "port {port}, killed after {deeds} deeds: {file}"
                );
                assert_eq!(hash == good, port != 81);
                assert_eq!(world.proxy(name, |proxy| proxy.failed), 0, "its master waits");
            }
            let tried = world.status().await.reloads;
            sleep(Duration::from_secs(60)).await;
            assert_eq!(world.status().await.reloads, tried, "it is tried again and again");
        }
    }
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

/// Regression 23: a balancer awaited the pull of its new image, and its servers were not changed in the meantime.
#[tokio::test(start_paused = true)]
async fn a_registry_that_never_answers_keeps_no_server_from_coming_and_going() {
    let world = World::new(WEB).await;
    world.pods(&[("web-a", 1, false)]).await;
    world.healthy().await;
    world.engine.world(|world| world.registry_hangs = true);
    let mut spec: Value = serde_saphyr::from_str(WEB).unwrap();
    spec["image"] = json!("haproxy:9");
    world
        .put(RESOURCE, "edge", json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "LoadBalancer", "spec": spec}))
        .await;
    sleep(Duration::from_secs(3)).await;
    world.pods(&[("web-a", 1, true), ("web-b", 2, false)]).await;
    sleep(Duration::from_secs(3)).await;
    let status = world.status().await;
    let servers: Vec<_> = status.backends[0].servers.iter().map(|one| (one.name.as_str(), one.state)).collect();
    assert_eq!(servers, [("web-a", ServerState::Drained), ("web-b", ServerState::Ready)]);
    let progressing = status.conditions.iter().find(|one| one.type_ == "Progressing").unwrap();
    assert_eq!(progressing.message, "getting image haproxy:9 on local");
}
