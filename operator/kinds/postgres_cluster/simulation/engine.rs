//! Production's `Engine` trait over the world: Docker's rules, and random failures.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use tokio::time::sleep;

use super::conversation;
use super::gate::Gate;
use super::sim::{Away, Sim, State};
use crate::api::labels::Owner;
use crate::api::object::Object as _;
use crate::engine::{
    Attachment, ContainerSeen, ContainerSpec, ContainerState, Conversation, Daemon, Engine, Error, EventHint,
    Everything, HostInfo, ImageSeen, NetworkSeen, NetworkSpec, RegistryLogin, VolumeSpec,
};
use crate::kinds::containers::{DockerSeen, DockerStep, HOME as HOST, testing};
use crate::kinds::fact::Fact;
use crate::kinds::postgres_cluster::world::World;
use crate::supervisor::state::Act;

/// Time-out of a call to a host that hangs, as in the real engine.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest duration of a normal call, in milliseconds.
const CALL_MS: u64 = 30;

/// The Docker host as one operator sees it.
pub struct SimEngine {
    pub sim: Arc<Sim>,
    pub gate: Arc<Gate>,
    binary: AtomicBool,
}

/// A random failure of a call.
enum Failure {
    Unreachable,
    LostReply,
    Conflict,
    Refused,
}

fn missing(doing: &str, what: &str) -> Error {
    Error::not_found(HOST, doing, format!("no such {what}"))
}

/// The world numbers the containers of each name; Docker's ids are unique.
fn unique(one: ContainerSeen) -> ContainerSeen {
    ContainerSeen { id: format!("{}#{}", one.name, one.id), ..one }
}

/// The Docker step that starts a container.
pub fn start(container: &str) -> DockerStep {
    let (host, member, container) = (HOST.to_owned(), String::new(), container.to_owned());
    DockerStep::Start { host, member, container, again: None }
}

impl SimEngine {
    pub fn new(sim: Arc<Sim>, gate: Arc<Gate>) -> Self {
        Self { sim, gate, binary: AtomicBool::new(false) }
    }

    /// Waits for the call to reach the host, or fails.
    async fn reach(&self, doing: &str) -> Result<(), Error> {
        self.gate.open().await;
        self.sim.latency(CALL_MS).await;
        self.gate.open().await;
        match self.sim.look(|state| state.away) {
            None => Ok(()),
            Some(away) => {
                if away == Away::Hangs {
                    sleep(PATIENCE).await;
                    self.gate.open().await;
                }
                Err(Error::unreachable(HOST, doing, "the host is away"))
            }
        }
    }

    async fn read<T>(&self, doing: &str, look: impl FnOnce(&State) -> T + Send) -> Result<T, Error> {
        self.reach(doing).await?;
        if self.sim.change_quietly(|state| state.chance.one_in(state.trouble.engine)) {
            return Err(Error::unreachable(HOST, doing, "chance"));
        }
        Ok(self.sim.look(look))
    }

    async fn change<T>(
        &self,
        doing: String,
        deed: impl FnOnce(&mut State, &str) -> Result<T, Error> + Send,
    ) -> Result<T, Error>
    where
        T: Send,
    {
        self.reach(&doing).await?;
        let failure = self.sim.change_quietly(|state| {
            let fails = state.chance.one_in(state.trouble.engine);
            fails.then(|| match state.chance.between(0, 3) {
                0 => Failure::Unreachable,
                1 => Failure::LostReply,
                2 => Failure::Conflict,
                _ => Failure::Refused,
            })
        });
        match failure {
            Some(Failure::Unreachable) => return Err(Error::unreachable(HOST, doing, "chance")),
            Some(Failure::Conflict) => return Err(Error::conflict(HOST, doing, "chance")),
            Some(Failure::Refused) => return Err(Error::refused(HOST, doing, "chance")),
            Some(Failure::LostReply) | None => {}
        }
        let last = self.sim.begin(&self.gate, &doing, false).await;
        let done = self.sim.change(|state| deed(state, &doing));
        self.sim.end(&self.gate, last).await;
        self.sim.latency(CALL_MS).await;
        self.gate.open().await;
        if failure.is_some() && done.is_ok() {
            return Err(Error::unreachable(HOST, doing, "the reply was lost"));
        }
        done
    }

    /// The result of one of Docker's lists.
    async fn seen<T: Send>(&self, doing: &str, of: impl FnOnce(DockerSeen) -> Fact<T> + Send) -> Result<T, Error> {
        let seen = self.read(doing, |state| (!state.blind).then(|| of(state.world.seen_by_docker())));
        match seen.await?.unwrap_or_else(|| Fact::Unknown("lists fail".into())) {
            Fact::Known(value) => Ok(value),
            Fact::Unknown(why) => Err(Error::unreachable(HOST, doing, why)),
        }
    }
}

#[async_trait::async_trait]
impl Engine for SimEngine {
    async fn info(&self) -> Result<HostInfo, Error> {
        let info = HostInfo {
            engine_id: "simulated".into(),
            engine_version: "20.10.24".into(),
            api_version: "1.41".into(),
            operating_system: "Simulated".into(),
            architecture: "x86_64".into(),
            cpus: 2,
            memory_bytes: 4 << 30,
        };
        self.read("info", |_| info).await
    }

    fn daemon(&self) -> Option<Daemon> {
        Some(testing::daemon())
    }

    async fn list_containers(&self, _: &Owner) -> Result<Vec<ContainerSeen>, Error> {
        let seen = self.seen("list containers", |seen| seen.containers).await?.into_values();
        Ok(seen.map(unique).collect())
    }

    async fn list_all(&self) -> Result<Everything, Error> {
        let seen = self.seen("list everything", Fact::Known).await?;
        let owner = self.sim.look(|state| state.world.object.owner());
        let containers = seen.containers.known().cloned().unwrap_or_default().into_values().map(unique).collect();
        let volumes = seen.volumes.known().cloned().unwrap_or_default().into_iter().collect();
        Ok(Everything {
            containers: [(owner.clone(), containers)].into(),
            volumes: [(owner, volumes)].into(),
            networks: seen.networks.known().cloned().unwrap_or_default(),
            images: self
                .sim
                .look(|state| state.images.iter().map(|image| (image.clone(), vec![image.clone()])).collect()),
        })
    }

    async fn list_volumes(&self, _: &Owner) -> Result<Vec<String>, Error> {
        Ok(self.seen("list volumes", |seen| seen.volumes).await?.into_iter().collect())
    }

    async fn network(&self, name: &str) -> Result<Option<NetworkSeen>, Error> {
        let networks = self.seen("look at the network", |seen| seen.networks).await?;
        Ok(networks.get(name).cloned())
    }

    async fn ensure_network(&self, spec: &NetworkSpec) -> Result<NetworkSeen, Error> {
        self.change(format!("ensure network {}", spec.name), |state, doing| {
            let (host, name, spec) = (HOST.to_owned(), spec.name.clone(), spec.clone());
            state.world.perform_by_docker(&DockerStep::EnsureNetwork { host, spec });
            let networks = state.world.seen_by_docker().networks;
            networks.known().and_then(|all| all.get(&name).cloned()).ok_or_else(|| missing(doing, "network"))
        })
        .await
    }

    async fn connect_network(&self, container: &str, to: &Attachment) -> Result<(), Error> {
        self.change(format!("connect {container}"), |state, _| {
            let (host, member, container) = (HOST.to_owned(), String::new(), container.to_owned());
            let (to, why) = (to.clone(), String::new());
            state.world.perform_by_docker(&DockerStep::Connect { host, member, container, to, why });
            Ok(())
        })
        .await
    }

    async fn remove_network(&self, name: &str) -> Result<(), Error> {
        self.change(format!("remove network {name}"), |state, doing| {
            if state.world.boxes.values().any(|one| one.runs()) {
                return Err(Error::conflict(HOST, doing, "something is attached to it"));
            }
            let (host, network) = (HOST.to_owned(), name.to_owned());
            state.world.perform_by_docker(&DockerStep::RemoveNetwork { host, network, shared: false });
            Ok(())
        })
        .await
    }

    async fn ensure_volume(&self, spec: &VolumeSpec) -> Result<(), Error> {
        self.change(format!("ensure volume {}", spec.name), |state, _| {
            let (host, member, spec) = (HOST.to_owned(), String::new(), spec.clone());
            state.world.perform_by_docker(&DockerStep::EnsureVolume { host, member, spec });
            Ok(())
        })
        .await
    }

    async fn remove_volume(&self, name: &str) -> Result<(), Error> {
        self.change(format!("remove volume {name}"), |state, doing| {
            if state.world.boxes.contains_key(name) {
                return Err(Error::conflict(HOST, doing, "a container uses it"));
            }
            let (host, member, volume) = (HOST.to_owned(), String::new(), name.to_owned());
            state.world.perform_by_docker(&DockerStep::RemoveVolume { host, member, volume, data: true });
            Ok(())
        })
        .await
    }

    async fn image(&self, image: &str) -> Result<Option<ImageSeen>, Error> {
        let found = self.read("look for the image", |state| state.images.contains(image)).await?;
        Ok(found.then(|| ImageSeen { id: image.to_owned(), ..Default::default() }))
    }

    async fn pull_image(&self, image: &str, _: Option<&RegistryLogin>) -> Result<(), Error> {
        if self.sim.look(|state| state.registry_hangs) {
            return pending().await;
        }
        self.sim.latency(3_000).await;
        self.change(format!("pull {image}"), |state, _| {
            state.images.insert(image.to_owned());
            Ok(())
        })
        .await
    }

    fn binary(&self) -> Option<String> {
        self.binary.load(Ordering::Relaxed).then(|| "evenkeel-bin-1".to_owned())
    }

    async fn ensure_binary(&self, image: &str) -> Result<String, Error> {
        self.change(format!("put the binary there with {image}"), |state, doing| {
            if !state.images.contains(image) {
                return Err(missing(doing, "image"));
            }
            self.binary.store(true, Ordering::Relaxed);
            Ok("evenkeel-bin-1".to_owned())
        })
        .await
    }

    async fn create_container(&self, spec: &ContainerSpec) -> Result<(), Error> {
        self.change(format!("create {}", spec.name), |state, doing| {
            if let Some(one) = state.world.boxes.get(&spec.name) {
                let same = one.spec.hash() == spec.hash();
                return if same { Ok(()) } else { Err(Error::conflict(HOST, doing, "the name is taken")) };
            }
            if !state.images.contains(&spec.image) {
                return Err(missing(doing, "image"));
            }
            let (host, member, spec, env) = (HOST.to_owned(), String::new(), Box::new(spec.clone()), Vec::new());
            state.world.perform_by_docker(&DockerStep::Create { host, member, spec, env, again: None });
            Ok(())
        })
        .await
    }

    async fn start_container(&self, name: &str) -> Result<(), Error> {
        self.change(format!("start {name}"), |state, doing| match state.world.boxes.get(name).map(|one| one.state) {
            Some(_) if state.stuck.contains(&(name.to_owned(), state.world.boxes[name].id)) => {
                Err(Error::refused(HOST, doing, "id already in use"))
            }
            None => Err(missing(doing, "container")),
            Some(ContainerState::Paused) => Err(Error::conflict(HOST, doing, "it is paused")),
            Some(_) => {
                state.world.perform_by_docker(&start(name));
                Ok(())
            }
        })
        .await
    }

    async fn stop_container(&self, name: &str, _: Duration) -> Result<(), Error> {
        self.sim.latency(2_000).await;
        self.change(format!("stop {name}"), |state, _| {
            let up = state.world.boxes.get(name).is_some_and(|one| one.runs() && one.process.up());
            if up && !state.chance.one_in(4) {
                state.world.perform(name, Act::StopFast);
            }
            state.world.kill_container(&World::member(name));
            Ok(())
        })
        .await
    }

    async fn unpause_container(&self, name: &str) -> Result<(), Error> {
        self.change(format!("unpause {name}"), |state, _| {
            state.world.unpause(&World::member(name));
            Ok(())
        })
        .await
    }

    async fn remove_container(&self, name: &str) -> Result<(), Error> {
        self.change(format!("remove {name}"), |state, _| {
            let (host, member, container, why) = (HOST.to_owned(), String::new(), name.to_owned(), String::new());
            state.world.perform_by_docker(&DockerStep::Remove { host, member, container, grace: None, why });
            Ok(())
        })
        .await
    }

    async fn dial(&self, container: &str, _: &str) -> Result<Box<dyn Conversation>, Error> {
        let doing = format!("dial {container}");
        let (found, silent) = self
            .read(&doing, |state| {
                let found = state.world.boxes.get(container).map(|one| (one.state, (one.id, one.boot)));
                (found, state.world.cut.get(&World::member(container)).copied())
            })
            .await?;
        match (found, silent) {
            (None, _) => Err(missing(&doing, "container")),
            (_, Some(true)) => Err(Error::refused(HOST, doing, "connection refused")),
            (_, Some(false)) => {
                sleep(PATIENCE).await;
                Err(Error::unreachable(HOST, doing, "no answer"))
            }
            (Some((ContainerState::Running, boot)), None) => {
                Ok(Box::new(conversation::open(&self.sim, &self.gate, container, boot)))
            }
            (Some((state, _)), None) => Err(Error::conflict(HOST, doing, format!("the container is {state:?}"))),
        }
    }

    fn events(&self) -> Pin<Box<dyn Stream<Item = EventHint> + Send>> {
        let receiver = self.sim.listen();
        let later =
            stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|hint| (hint, receiver)) });
        Box::pin(stream::once(async { None }).chain(later))
    }
}
