//! The test world: the production loop and this kind over hosts in memory. Time advances only when every task waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::DeploymentKind;
use crate::api::deployment::{Deployment, DeploymentStatus};
use crate::api::endpoints::EndpointState;
use crate::api::object::{Object as _, RECONCILE_ANNOTATION};
use crate::engine::docker::OwnBinary;
use crate::engine::fake::FakeEngine;
use crate::engine::hosts::Hosts;
use crate::engine::{ContainerState, ExecResult};
use crate::runtime::Manager;
use crate::runtime::clock::TestClock;
use crate::store::objects::Part;
use crate::store::{Clock, Error, Key, MemoryStore, Objects};

/// Poll interval of the tests.
const LOOK: Duration = Duration::from_millis(50);
/// Longest wait for a condition, in the world's own time.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Hosts, the store, and an operator that can be stopped.
pub struct World {
    pub engines: BTreeMap<String, Arc<FakeEngine>>,
    pub objects: Objects,
    pub clock: Arc<TestClock>,
    operator: Option<(CancellationToken, JoinSet<()>)>,
    manager: Option<Arc<Manager>>,
}

impl World {
    /// A world with these hosts and a running operator.
    pub async fn new(hosts: &[&str]) -> Self {
        let clock = Arc::new(TestClock::following_tokio("2026-01-01T00:00:00Z".parse().unwrap()));
        let objects = Objects::new(Arc::new(MemoryStore::default()), clock.clone());
        let mut world = Self { engines: BTreeMap::new(), objects, clock, operator: None, manager: None };
        for host in hosts {
            let engine = Arc::new(FakeEngine::new(host));
            engine.on_exec(|container, command| {
                // A probe of these tests: it succeeds unless the container got a file that makes it fail.
                let command = command.rsplit(|word| word == "--").next().unwrap_or_default();
                let broken = container.files.keys().any(|path| path.ends_with(&format!("/not-{}", command.join("-"))));
                ExecResult { code: i64::from(broken), output: "broken".into() }
            });
            world.engines.insert((*host).to_owned(), engine);
            let object = json!({
                "apiVersion": "evenkeel.dev/v1alpha1", "kind": "DockerHost",
                "metadata": {"name": host}, "spec": {"endpoint": "unix:///run/x.sock"},
            });
            world.objects.create(&host_key(host), object).await.unwrap();
        }
        world.start();
        world
    }

    /// Starts the operator.
    pub fn start(&mut self) {
        let hosts = Arc::new(Hosts::new(Arc::new(OwnBinary::running())));
        for (name, engine) in &self.engines {
            hosts.insert(name, engine.clone());
        }
        let mut manager = Manager::new(self.objects.clone(), self.clock.clone());
        manager.add(DeploymentKind::new(hosts.clone(), self.objects.clone(), manager.wake()));
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let stop = shutdown.clone();
        let manager = Arc::new(manager);
        self.manager = Some(manager.clone());
        tasks.spawn(async move { manager.run(hosts.events(), stop).await });
        self.operator = Some((shutdown, tasks));
    }

    /// Number of entries about objects in the operator's memory.
    pub fn kept(&self) -> usize {
        self.manager.as_ref().map(|manager| manager.kept()).unwrap_or_default()
    }

    /// kill -9 of the operator.
    pub async fn crash(&mut self) {
        self.manager = None;
        if let Some((_, mut tasks)) = self.operator.take() {
            tasks.shutdown().await;
        }
    }

    /// Declares a Deployment `web`, or changes its spec.
    pub async fn apply(&self, spec: Value) {
        self.change(|mut object| {
            object["spec"] = spec.clone();
            object
        })
        .await;
    }

    /// Changes the Deployment `web`; creates it if it does not exist.
    pub async fn change(&self, change: impl Fn(Value) -> Value) {
        let outcome = self.objects.modify(&key(), Part::Main, |old| Ok::<_, Error>(change(old))).await;
        if matches!(outcome, Err(Error::NotFound { .. })) {
            let object = json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": "web", "namespace": "default"},
            });
            self.objects.create(&key(), change(object)).await.unwrap();
        } else {
            outcome.unwrap();
        }
    }

    /// Writes an object of another kind into the store unchanged.
    pub async fn put(&self, resource: &str, name: &str, object: Value) {
        let key = Key { resource: resource.into(), namespace: "default".into(), name: name.into() };
        let mut whole = object.clone();
        whole["metadata"] = json!({"name": name, "namespace": "default"});
        let made = self.objects.create(&key, whole.clone()).await;
        if matches!(made, Err(Error::AlreadyExists { .. })) {
            self.objects.update(&key, whole).await.unwrap();
        }
        if object.get("status").is_some() {
            let set = |mut old: Value| {
                old["status"] = object["status"].clone();
                Ok::<_, Error>(old)
            };
            self.objects.modify(&key, Part::Status, set).await.unwrap();
        }
    }

    /// The same for an object that is paused by its annotation.
    pub async fn put_paused(&self, resource: &str, name: &str, object: Value) {
        self.put(resource, name, object).await;
        let key = Key { resource: resource.into(), namespace: "default".into(), name: name.into() };
        let pause = |mut old: Value| {
            old["metadata"]["annotations"] = json!({RECONCILE_ANNOTATION: "paused"});
            Ok::<_, Error>(old)
        };
        self.objects.modify(&key, Part::Main, pause).await.unwrap();
    }

    /// Deletes the Deployment.
    pub async fn delete(&self) {
        self.objects.delete(&key(), &Default::default()).await.unwrap();
    }

    /// The status now; `None` once the Deployment is gone.
    pub async fn status(&self) -> Option<DeploymentStatus> {
        let object: Value = self.objects.get(&key()).await.unwrap()?;
        Some(serde_json::from_value(object["status"].clone()).unwrap_or_default())
    }

    /// Waits until the status fulfils the condition; a time-out fails with the last status.
    pub async fn until(&self, what: &str, is_so: impl Fn(&DeploymentStatus) -> bool) -> DeploymentStatus {
        let mut waited = Duration::ZERO;
        loop {
            let object: Value = self.objects.get(&key()).await.unwrap().unwrap_or_default();
            let generation = object["metadata"]["generation"].as_i64().unwrap_or_default();
            let status: DeploymentStatus = serde_json::from_value(object["status"].clone()).unwrap_or_default();
            // A status of an older generation is no answer.
            if status.observed_generation == generation && is_so(&status) {
                return status;
            }
            if waited >= PATIENCE {
                let mut told = json!(status);
                told["decisions"]["revisions"] = json!(null);
                panic!("never {what}; containers:\n{}the last status: {told:#}", self.containers());
            }
            sleep(LOOK).await;
            waited += LOOK;
        }
    }

    /// Sets a field of the spec of a DockerHost.
    pub async fn declare(&self, host: &str, field: &str, value: Value) {
        let change = |mut object: Value| {
            object["spec"][field] = value.clone();
            Ok::<_, Error>(object)
        };
        self.objects.modify(&host_key(host), Part::Main, change).await.unwrap();
    }

    /// Declares a LoadBalancer `edge` that routes to port 8052, and gives each pod what its endpoint says, a second later.
    pub async fn balanced(&self) -> Balancing {
        let backend = json!({"name": "web", "deployment": {"name": "web", "port": 8052}, "drainTimeout": "20s"});
        let spec = json!({"frontends": [{"name": "web", "port": 80, "backend": "web"}], "backends": [backend]});
        let object =
            json!({"kind": "LoadBalancer", "metadata": {"name": "edge", "namespace": "default"}, "spec": spec});
        self.objects.create(&edge(), object).await.unwrap();
        let objects = self.objects.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            loop {
                balance(&objects).await;
                sleep(Duration::from_secs(1)).await;
            }
        });
        Balancing { _tasks: tasks }
    }

    /// Waits until the observed state equals the declared one.
    pub async fn settled(&self) -> DeploymentStatus {
        let calm = |status: &DeploymentStatus| {
            let whole = matches!(status.phase.word(), "Healthy" | "ScaledToZero");
            whole && status.pods.iter().all(|pod| !pod.terminating)
        };
        self.until("settled", calm).await
    }

    /// The containers on all hosts: name, state and image, one per line.
    pub fn containers(&self) -> String {
        let mut lines = Vec::new();
        for engine in self.engines.values() {
            engine.world(|world| {
                let line = |(name, one): (&String, &crate::engine::fake::FakeContainer)| {
                    let name = name.trim_start_matches("default.");
                    format!("{} {:?} {}\n", short(name), one.state, one.spec.image)
                };
                lines.extend(world.containers.iter().map(line));
            });
        }
        lines.sort();
        lines.concat()
    }

    /// Number of running containers.
    pub fn running(&self) -> usize {
        let on = |engine: &Arc<FakeEngine>| {
            engine.world(|world| world.containers.values().filter(|one| one.state == ContainerState::Running).count())
        };
        self.engines.values().map(on).sum()
    }

    /// The engine of the only host that most tests have.
    pub fn engine(&self) -> &FakeEngine {
        self.engines.values().next().unwrap()
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// A balancer at work, until this is dropped.
pub struct Balancing {
    _tasks: JoinSet<()>,
}

fn edge() -> Key {
    Key::new("loadbalancers.evenkeel.dev", "default", "edge")
}

/// Gives each pod what its endpoint says.
async fn balance(objects: &Objects) {
    let Some(deployment) = objects.get::<Deployment>(&key()).await.unwrap() else { return };
    let set = deployment.status.and_then(|status| status.endpoint_set).unwrap_or_default();
    let state = |state| match state {
        EndpointState::Serving | EndpointState::Unknown => "ready",
        EndpointState::Leaving => "drained",
        EndpointState::Out => "starting",
    };
    let servers = set.endpoints.iter().map(|one| json!({"name": one.name, "state": state(one.state)}));
    let status = json!({"readyReplicas": 1, "backends": [{"name": "web", "servers": servers.collect::<Vec<_>>()}]});
    let change = |mut old: Value| {
        old["status"] = status.clone();
        Ok::<_, Error>(old)
    };
    objects.modify(&edge(), Part::Status, change).await.unwrap();
}

/// Names without the revision's hash; no test depends on the hash.
pub fn short(name: &str) -> String {
    let hex = |part: &&str| part.len() == 10 && part.chars().all(|c| c.is_ascii_hexdigit());
    name.split('-').map(|part| if hex(&part) { "HASH" } else { part }).collect::<Vec<_>>().join("-")
}

pub fn key() -> Key {
    Key { resource: Deployment::RESOURCE.into(), namespace: "default".into(), name: "web".into() }
}

pub fn host_key(host: &str) -> Key {
    Key { resource: "dockerhosts.evenkeel.dev".into(), namespace: String::new(), name: host.into() }
}

/// A spec with one container of this image.
pub fn spec(replicas: u32, image: &str) -> Value {
    json!({
        "replicas": replicas,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": image}]},
        },
    })
}
