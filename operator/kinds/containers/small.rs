//! The code that a new kind needs, shown by a small one in the form of Redis with Sentinels: data members, one of them
//! the primary, sentinels beside them, a connection to each data member, and one rollout at a time, the primary last.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::converge::{self, Common, Volumes};
use super::{Deed, Docker, DockerSeen, DockerStep, HOME, Member, Needs, WorkSeen};
use crate::api::conditions::{self, Conditions};
use crate::api::docker_host::DockerHost;
use crate::api::failure::{Class, Failure};
use crate::api::labels;
use crate::api::object::Object;
use crate::api::sync::lock;
use crate::engine::docker::OwnBinary;
use crate::engine::fake::FakeEngine;
use crate::engine::hosts::Hosts;
use crate::engine::{ContainerSpec, ContainerState, ExecResult};
use crate::kinds::{host_state, network_of, network_spec};
use crate::runtime::clock::TestClock;
use crate::runtime::companions::{Companions, Heard, Wake};
use crate::runtime::{Concern, Keeper, Kind, Manager, Plan, Planned, Significance, Want};
use crate::store::{Key, MemoryStore, Objects};

// The kind starts here.

const GRACE: u64 = 10;
const POLL: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Deserialize)]
struct Ensemble {
    metadata: ObjectMeta,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Clone, Deserialize)]
struct Spec {
    image: String,
    replicas: u32,
    watchers: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Status {
    generation: i64,
    primary: Option<String>,
    conditions: Vec<Condition>,
}

impl Object for Ensemble {
    const KIND: &'static str = "Ensemble";
    const RESOURCE: &'static str = "ensembles.test";

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Conditions for Status {
    fn generation(&self) -> i64 {
        self.generation
    }

    fn conditions(&mut self) -> &mut Vec<Condition> {
        &mut self.conditions
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Primary,
    Replica,
}

enum Step {
    Docker(DockerStep),
    /// Make the data member a replica of the primary.
    Follow {
        container: String,
        primary: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Docker(step) => step.fmt(f),
            Self::Follow { container, primary } => write!(f, "make {container} a replica of {primary}"),
        }
    }
}

impl Significance for Step {
    fn event_reason(&self) -> Option<&'static str> {
        match self {
            Self::Docker(step) => step.event_reason(),
            Self::Follow { .. } => Some("RoleChanged"),
        }
    }

    fn lane(&self) -> Option<&str> {
        match self {
            Self::Docker(step) => step.lane(),
            Self::Follow { container, .. } => Some(container),
        }
    }
}

struct Observed {
    hosts: BTreeMap<String, DockerSeen>,
    work: WorkSeen,
    roles: BTreeMap<String, Heard<Role>>,
}

struct EnsembleKind {
    docker: Docker,
    roles: Companions<String, Role>,
}

impl EnsembleKind {
    fn new(hosts: Arc<Hosts>, objects: Objects, wake: Wake) -> Self {
        Self { docker: Docker::new(hosts, objects, wake.clone()), roles: Companions::new(wake) }
    }

    /// Polls a data member for its role.
    fn follow(&self, object: &Ensemble, container: &str) {
        let (Ok(engine), name) = (self.docker.hosts.get(HOME), container.to_owned()) else { return };
        self.roles.ensure(&object.owner(), container.to_owned(), |voice| async move {
            loop {
                if let Ok(ExecResult { code: 0, output }) = engine.exec(&name, &["role".into()], POLL).await {
                    let role = if output == "master" { Role::Primary } else { Role::Replica };
                    voice.tell(|known| known.replace(role) != Some(role));
                }
                sleep(POLL).await;
            }
        });
    }
}

fn is_data(name: &str) -> bool {
    !name.contains("-watcher-")
}

/// The members; the primary is last, so that it is replaced last.
fn members(object: &Ensemble, observed: &Observed) -> Vec<Member> {
    let data = (1..=object.spec.replicas).map(|ordinal| format!("{}-{ordinal}", object.name()));
    let watchers = (1..=object.spec.watchers).map(|ordinal| format!("{}-watcher-{ordinal}", object.name()));
    let mut names: Vec<_> = watchers.chain(data).collect();
    names.sort_by_key(|name| object.status.primary.as_ref() == Some(name));
    names.into_iter().map(|name| member(object, observed, name)).collect()
}

fn member(object: &Ensemble, observed: &Observed, name: String) -> Member {
    let container = format!("{}.{name}", object.namespace());
    let mut labels = object.owner().labels();
    labels.insert(labels::MEMBER.into(), name.clone());
    let binary = observed.hosts.get(HOME).and_then(|host| host.binary.clone());
    let spec = binary.map(|binary| ContainerSpec {
        name: container.clone(),
        image: object.spec.image.clone(),
        cmd: vec![if is_data(&name) { "redis-server" } else { "redis-sentinel" }.into()],
        labels: labels.clone(),
        volumes: vec![(container.clone(), "/data".into(), false), (binary, "/evenkeel".into(), true)],
        network: network_of(object.namespace()),
        stop_timeout_seconds: GRACE as i64,
        ..Default::default()
    });
    Member { name, host: HOME.into(), volume: Some(labels), container, on_host: false, spec }
}

fn plan(object: &Ensemble, observed: &Observed, want: Want, now: Timestamp) -> Plan<Step, Status> {
    let mut status = object.status.clone();
    status.generation = object.metadata.generation.unwrap_or_default();
    let network = network_spec(object.namespace());
    let (hosts, work, image) = (&observed.hosts, &observed.work, object.spec.image.as_str());
    let volumes = Volumes::Data;
    let common = Common { hosts, work, image, network: &network, shares_network: true, volumes, grace: GRACE };
    if want == Want::Absent {
        let (steps, finished) = converge::teardown(&common, "the Ensemble is deleted");
        return Plan { status, steps: steps.into_iter().map(Step::Docker).collect(), requeue: None, finished };
    }
    let members = members(object, observed);
    let running = |member: &Member| {
        hosts[HOME].container(&member.container).is_some_and(|seen| seen.state == ContainerState::Running)
    };
    let role = |member: &Member| observed.roles.get(&member.container).and_then(|heard| heard.value);
    let ready = |member: &Member| running(member) && (!is_data(&member.name) || role(member).is_some());
    let data = || members.iter().filter(|member| is_data(&member.name) && ready(member));
    let stays = data().find(|member| status.primary.as_ref() == Some(&member.name));
    status.primary = stays.or_else(|| data().next()).map(|member| member.name.clone());
    let mut steps = converge::removals(&common, &members);
    let mut replaced = false;
    steps.extend(converge::converge(&common, &members, |name, deed| {
        let now = *deed != Deed::Replace || !replaced && members.iter().all(|one| one.name == name || ready(one));
        replaced |= now && *deed == Deed::Replace;
        now
    }));
    let mut steps: Vec<_> = steps.into_iter().map(Step::Docker).collect();
    if let Some(primary) = &status.primary {
        let wrong = data().filter(|member| member.name != *primary && role(member) == Some(Role::Primary));
        steps.extend(wrong.map(|one| Step::Follow { container: one.container.clone(), primary: primary.clone() }));
    }
    let away: Vec<_> = members.iter().filter(|member| !ready(member)).map(|member| member.name.as_str()).collect();
    let verdict = match super::problem(work) {
        Some((reason, message)) => conditions::no(reason, message),
        None if away.is_empty() => conditions::yes("Ready", "all members run"),
        None => conditions::no("Starting", format!("waiting for {}", away.join(", "))),
    };
    conditions::set(&mut status.conditions, "Ready", verdict, status.generation, now);
    let steps = if want == Want::Paused { Vec::new() } else { steps };
    Plan { status, steps, requeue: None, finished: false }
}

impl Kind for EnsembleKind {
    type Object = Ensemble;
    type Status = Status;
    type Observed = Observed;
    type Step = Step;

    fn concerns() -> Vec<Concern> {
        vec![Concern::referenced(DockerHost::RESOURCE).only(host_state)]
    }

    fn references(_: &Ensemble) -> Vec<Key> {
        vec![Key { resource: DockerHost::RESOURCE.into(), namespace: String::new(), name: HOME.into() }]
    }

    async fn observe(&self, object: &Ensemble) -> Result<Observed, Failure> {
        let owner = object.owner();
        let needs = Needs {
            images: [object.spec.image.clone()].into(),
            networks: [network_of("default")].into(),
            ..Default::default()
        };
        let hosts = self.docker.observe(&owner, [HOME.to_owned()], &needs).await;
        let running: Vec<_> = hosts[HOME].containers.known().into_iter().flatten().map(|(name, _)| name).collect();
        self.roles.retain(&owner, |container| running.contains(&container));
        running.iter().filter(|name| is_data(name)).for_each(|name| self.follow(object, name));
        Ok(Observed { work: self.docker.work.heard(&owner), roles: self.roles.heard(&owner), hosts })
    }

    fn plan(&self, object: &Ensemble, observed: &Observed, want: Want, now: Timestamp) -> Planned<Self> {
        plan(object, observed, want, now)
    }

    async fn act(&self, object: &Ensemble, step: &Step) -> Result<(), Failure> {
        match step {
            Step::Docker(step) => self.docker.act(&object.owner(), step).await,
            Step::Follow { container, primary } => {
                let command = ["replicaof".to_owned(), primary.clone()];
                let done = self.docker.hosts.get(HOME)?.exec(container, &command, POLL).await?;
                if done.code == 0 { Ok(()) } else { Err(Failure::new(Class::Transient, done.output)) }
            }
        }
    }

    fn companions(&self) -> Vec<&dyn Keeper> {
        vec![&self.docker.work, &self.roles]
    }
}

// The test world starts here: the production loop over a host in memory.

struct World {
    engine: Arc<FakeEngine>,
    objects: Objects,
    manager: Arc<Manager>,
    _run: JoinHandle<()>,
}

fn key() -> Key {
    Key { resource: Ensemble::RESOURCE.into(), namespace: "default".into(), name: "cache".into() }
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(TestClock::following_tokio("2026-01-01T00:00:00Z".parse().unwrap()));
        let objects = Objects::new(Arc::new(MemoryStore::default()), clock.clone());
        let engine = Arc::new(FakeEngine::new(HOME));
        let roles: Mutex<BTreeMap<String, String>> = Mutex::default();
        engine.on_exec(move |container, command| {
            let mut roles = lock(&roles);
            // A newly created data member is a primary until it gets another role.
            let role = roles.entry(container.id.clone()).or_insert_with(|| "master".into());
            if command[0] == "replicaof" {
                *role = "slave".into();
            }
            ExecResult { code: 0, output: role.clone() }
        });
        let hosts = Arc::new(Hosts::new(Arc::new(OwnBinary::running())));
        hosts.insert(HOME, engine.clone());
        let mut manager = Manager::new(objects.clone(), clock);
        manager.add(EnsembleKind::new(hosts.clone(), objects.clone(), manager.wake()));
        let manager = Arc::new(manager);
        let run = manager.clone();
        let _run = tokio::spawn(async move { run.run(hosts.events(), CancellationToken::new()).await });
        Self { engine, objects, manager, _run }
    }

    async fn object(&self) -> Value {
        self.objects.get(&key()).await.unwrap().unwrap_or_default()
    }

    /// Waits until the object is ready and all running containers have this image; returns the object.
    async fn ready(&self, image: &str) -> Value {
        loop {
            let object = self.object().await;
            let all = self.engine.world(|world| world.containers.values().all(|one| one.spec.image == image));
            if all && object["status"]["conditions"][0]["status"] == "True" {
                return object;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The containers that were created or removed since the last call, in order.
    fn changes(&self) -> Vec<String> {
        let calls = self.engine.take_calls();
        calls.into_iter().filter(|call| call.starts_with("create_c") || call.starts_with("remove_c")).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_small_kind_starts_heals_rolls_its_primary_last_and_leaves_nothing() {
    let world = World::new();
    let object = json!({
        "apiVersion": "test/v1", "kind": "Ensemble", "metadata": {"name": "cache", "namespace": "default"},
        "spec": {"image": "redis:7", "replicas": 2, "watchers": 1},
    });
    world.objects.create(&key(), object).await.unwrap();
    assert_eq!(world.ready("redis:7").await["status"]["primary"], "cache-1");
    assert_eq!(world.changes().len(), 3);

    world.engine.die("default.cache-2");
    let runs = || world.engine.world(|world| world.containers["default.cache-2"].state == ContainerState::Running);
    while !runs() {
        sleep(Duration::from_millis(10)).await;
    }
    assert!(world.changes().is_empty());

    let mut changed = world.object().await;
    changed["spec"]["image"] = "redis:8".into();
    world.objects.update(&key(), changed).await.unwrap();
    world.ready("redis:8").await;
    let rolled = ["watcher-1", "2", "1"]
        .iter()
        .flat_map(|one| ["remove", "create"].map(|verb| format!("{verb}_container default.cache-{one}")));
    assert_eq!(world.changes(), rolled.collect::<Vec<_>>());

    world.objects.delete(&key(), &Default::default()).await.unwrap();
    while world.object().await != Value::Null {
        sleep(Duration::from_millis(50)).await;
    }
    let left = world.engine.world(|world| (world.containers.len(), world.volumes.len(), world.networks.len()));
    assert_eq!((left, world.manager.kept()), ((0, 0, 0), 0));
}
