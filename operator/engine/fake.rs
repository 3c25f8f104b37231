//! An engine in memory, with the same rules as the real one and faults on demand; for in-process tests.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use tokio::io::DuplexStream;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    Attachment, ConnectionSeen, ContainerSeen, ContainerSpec, ContainerState, Conversation, Daemon, Engine, Error,
    EventHint, Everything, ExecResult, File, HostInfo, Identity, ImageSeen, LogOptions, Mount, MountSource,
    NetworkSeen, NetworkSpec, Output, Outputs, RegistryLogin, VolumeSpec,
};
use crate::api::labels::Owner;
use crate::api::sync::lock;

/// Buffer of a connection, in bytes.
const BUFFER: usize = 64 * 1024;

/// Time-out of a list without a response.
const PATIENCE: Duration = Duration::from_secs(10);
/// The volume with Evenkeel's binary.
const BINARY_VOLUME: &str = "evenkeel-bin-fake";

/// Gets the container's end of a connection.
type Answer = Arc<dyn Fn(DuplexStream) + Send + Sync>;
/// Runs a command of a container.
type Program = Arc<dyn Fn(&FakeContainer, &[String]) -> ExecResult + Send + Sync>;

/// How a verb must fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Not done; the host does not answer.
    Unreachable,
    /// Not done; reports that the thing does not exist.
    NotFound,
    /// Not done; reports a change in between.
    Conflict,
    /// Not done; the engine refuses.
    Refused,
    /// Done, but the response is lost.
    LostReply,
}

/// A container of the fake.
pub struct FakeContainer {
    /// Its spec.
    pub spec: ContainerSpec,
    /// Its ID; a new one each time it is created.
    pub id: String,
    /// Its state.
    pub state: ContainerState,
    /// The exit code of its last run.
    pub exit_code: Option<i64>,
    /// The exit code of its next end; `None`: 1.
    pub ends_with: Option<i64>,
    /// Its address in each of its networks, unless that is fixed.
    pub address: Ipv4Addr,
    /// Its connections by the name of the network.
    pub connections: BTreeMap<String, ConnectionSeen>,
    /// Files that were put into it, by absolute path.
    pub files: BTreeMap<String, File>,
    /// The signals that it received.
    pub signals: Vec<String>,
    /// The container it joins: its ID if it existed when this one was created, else its name.
    joined: Option<String>,
    /// Ends the connections of this run.
    run: CancellationToken,
}

/// Everything on the fake host.
#[derive(Default)]
pub struct World {
    /// By name.
    pub containers: BTreeMap<String, FakeContainer>,
    /// By name.
    pub networks: BTreeMap<String, (NetworkSpec, NetworkSeen)>,
    /// By name.
    pub volumes: BTreeMap<String, VolumeSpec>,
    /// References on the host.
    pub images: BTreeSet<String>,
    /// IDs of images whose ID is not their reference.
    pub ids: BTreeMap<String, String>,
    /// IDs that references get at the next pull.
    pub pushed: BTreeMap<String, String>,
    /// The registry accepts connections and never answers.
    pub registry_hangs: bool,
    /// The images that a pull finds; `None`: every image.
    pub registry: Option<BTreeSet<String>>,
    /// Paths that the host does not have.
    pub missing_paths: BTreeSet<String>,
    /// Whether the host is down: every verb fails as unreachable.
    pub away: bool,
    /// Whether lists get no response and time out after 10 s.
    pub hangs: bool,
    /// How long each answer takes.
    pub slow: Duration,
    /// The engine's ID, if it tells one.
    pub engine_id: Option<String>,
    /// The ID that it told last.
    pub told: Option<String>,
    /// Whether the binary was injected.
    pub binary: bool,
    made: u64,
    faults: BTreeMap<String, VecDeque<Fault>>,
    calls: Vec<String>,
    answers: BTreeMap<(String, String), Answer>,
    program: Option<Program>,
    listeners: Vec<mpsc::UnboundedSender<EventHint>>,
}

/// One Docker host in memory.
pub struct FakeEngine {
    host: String,
    world: Mutex<World>,
    stirs: Arc<Notify>,
}

impl FakeEngine {
    /// An empty host; a pull finds every image.
    pub fn new(host: &str) -> Self {
        Self { host: host.to_owned(), world: Mutex::default(), stirs: Arc::default() }
    }

    /// Reads or changes the world without the engine; causes no event.
    pub fn world<R>(&self, look: impl FnOnce(&mut World) -> R) -> R {
        look(&mut lock(&self.world))
    }

    /// Makes the next `times` calls of a verb (the method's name) fail like this.
    pub fn fail_next(&self, verb: &str, times: usize, fault: Fault) {
        self.world(|world| world.faults.entry(verb.to_owned()).or_default().extend(std::iter::repeat_n(fault, times)));
    }

    /// Returns the calls so far, as `verb subject`, and clears the list.
    pub fn take_calls(&self) -> Vec<String> {
        self.world(|world| std::mem::take(&mut world.calls))
    }

    /// Whether a recorded call changed nothing.
    pub fn only_reads(call: &str) -> bool {
        let verb = call.split(' ').next().unwrap_or_default();
        matches!(
            verb,
            "info"
                | "ping"
                | "list_all"
                | "list_owned"
                | "list_containers"
                | "list_volumes"
                | "network"
                | "image"
                | "logs"
                | "volume"
        )
    }

    /// From now on `answer` gets the container's end of every connection to that address.
    pub fn on_dial(&self, container: &str, address: &str, answer: impl Fn(DuplexStream) + Send + Sync + 'static) {
        self.world(|world| world.answers.insert((container.to_owned(), address.to_owned()), Arc::new(answer)));
    }

    /// Answers every exec from now on; by default each succeeds without output.
    pub fn on_exec(&self, run: impl Fn(&FakeContainer, &[String]) -> ExecResult + Send + Sync + 'static) {
        self.world(|world| world.program = Some(Arc::new(run)));
    }

    /// Lets the container exit; its connections end, and an event is sent.
    pub fn die(&self, container: &str) {
        self.world(|world| {
            world.end(container, ContainerState::Exited);
            if let Some(found) = world.containers.get_mut(container) {
                found.exit_code = Some(found.ends_with.take().unwrap_or(1));
            }
        });
    }

    /// Takes the container off its network; an event is sent.
    pub fn disconnect(&self, container: &str, network: &str) {
        self.world(|world| {
            if let Some(found) = world.containers.get_mut(container) {
                found.connections.remove(network);
            }
            world.tell_owner_of(container);
        });
    }

    /// Freezes the container; an event is sent.
    pub fn pause(&self, container: &str) {
        self.world(|world| world.set_state(container, ContainerState::Paused));
    }

    /// Sends this hint to all readers of events.
    pub fn hint(&self, hint: EventHint) {
        self.world(|world| world.tell(&hint));
    }

    /// Tells that a volume, network or image came or went.
    pub fn stir(&self) {
        self.stirs.notify_one();
    }

    /// One call of a verb: recorded, failed if a fault is set, else done.
    fn call<T>(
        &self,
        verb: &str,
        subject: &str,
        deed: impl FnOnce(&mut World) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.world(|world| {
            world.calls.push(format!("{verb} {subject}").trim_end().to_owned());
            let doing = format!("{verb} {subject}");
            if world.away {
                return Err(Error::unreachable(&self.host, doing, "the host is away"));
            }
            match world.faults.get_mut(verb).and_then(VecDeque::pop_front) {
                None => deed(world),
                Some(Fault::Unreachable) => Err(Error::unreachable(&self.host, doing, "a fault was asked for")),
                Some(Fault::NotFound) => Err(Error::not_found(&self.host, doing, "a fault was asked for")),
                Some(Fault::Conflict) => Err(Error::conflict(&self.host, doing, "a fault was asked for")),
                Some(Fault::Refused) => Err(Error::refused(&self.host, doing, "a fault was asked for")),
                Some(Fault::LostReply) => {
                    deed(world)?;
                    Err(Error::unreachable(&self.host, doing, "the reply was lost"))
                }
            }
        })
    }

    async fn answers(&self, doing: &str) -> Result<(), Error> {
        let slow = self.world(|world| world.slow);
        if slow > Duration::ZERO {
            tokio::time::sleep(slow).await;
        }
        if !self.world(|world| world.hangs) {
            return Ok(());
        }
        tokio::time::sleep(PATIENCE).await;
        Err(Error::unreachable(&self.host, doing, "no answer within 10 s"))
    }

    fn missing(&self, doing: &str, what: &str) -> Error {
        Error::not_found(&self.host, doing, format!("no such {what}"))
    }
}

impl FakeContainer {
    fn seen(&self) -> ContainerSeen {
        let hash = (crate::api::labels::SPEC_HASH.to_owned(), self.spec.hash());
        ContainerSeen {
            id: self.id.clone(),
            name: self.spec.name.clone(),
            labels: self.spec.labels.clone().into_iter().chain([hash]).collect(),
            state: self.state,
            image: self.spec.image.clone(),
            networks: self.connections.clone(),
            exit_code: self.exit_code.filter(|_| self.state == ContainerState::Exited),
        }
    }

    /// The connection that Docker makes for this attachment.
    fn connection(&self, to: &Attachment, network: &str) -> ConnectionSeen {
        let address = Some(to.address.unwrap_or(self.address));
        ConnectionSeen { network: network.to_owned(), address, aliases: Some(to.aliases.clone()) }
    }

    /// Names of the volumes that it mounts.
    fn volumes(&self) -> impl Iterator<Item = &String> {
        let mounts = self.spec.mounts.iter().filter_map(|mount| Some(mount.source.volume()?.0));
        self.spec.volumes.iter().map(|(volume, ..)| volume).chain(mounts)
    }
}

impl World {
    /// The containers that have an owner.
    fn owned(&self) -> BTreeMap<Owner, Vec<ContainerSeen>> {
        let mut owned: BTreeMap<Owner, Vec<ContainerSeen>> = BTreeMap::new();
        for found in self.containers.values() {
            if let Some(owner) = owner_of(&found.spec.labels) {
                owned.entry(owner).or_default().push(found.seen());
            }
        }
        owned
    }

    fn tell(&mut self, hint: &EventHint) {
        self.listeners.retain(|listener| listener.send(hint.clone()).is_ok());
    }

    fn tell_owner_of(&mut self, container: &str) {
        let owner = self.containers.get(container).and_then(|found| owner_of(&found.spec.labels));
        if let Some(owner) = owner {
            self.tell(&Some(owner));
        }
    }

    fn set_state(&mut self, container: &str, state: ContainerState) {
        if let Some(found) = self.containers.get_mut(container)
            && found.state != state
        {
            found.state = state;
            self.tell_owner_of(container);
        }
    }

    /// Ends everything that runs in it.
    fn end(&mut self, container: &str, state: ContainerState) {
        if let Some(found) = self.containers.get_mut(container)
            && !matches!(found.state, ContainerState::Created | ContainerState::Exited | ContainerState::Dead)
        {
            std::mem::take(&mut found.run).cancel();
            self.set_state(container, state);
        }
    }
}

fn owner_of(labels: &BTreeMap<String, String>) -> Option<Owner> {
    Owner::from_labels(|key| labels.get(key).map(String::as_str))
}

#[async_trait::async_trait]
impl Engine for FakeEngine {
    async fn info(&self) -> Result<HostInfo, Error> {
        self.answers("info").await?;
        self.call("info", "", |world| {
            world.told = world.engine_id.clone();
            Ok(HostInfo {
                engine_id: world.engine_id.clone().unwrap_or_else(|| "fake".to_owned()),
                engine_version: "20.10.24".to_owned(),
                api_version: "1.41".to_owned(),
                operating_system: "Fake".to_owned(),
                architecture: "x86_64".to_owned(),
                cpus: 2,
                memory_bytes: 4 << 30,
            })
        })
    }

    async fn ping(&self) -> Result<(), Error> {
        self.answers("ping").await?;
        self.call("ping", "", |_| Ok(()))
    }

    fn identity(&self) -> Identity {
        self.world(|world| match (&world.engine_id, &world.told) {
            (None, _) => Identity::Untold,
            (Some(_), None) => Identity::Lost,
            (Some(_), Some(told)) => Identity::Told(told.clone()),
        })
    }

    fn stirred(&self) -> Option<Arc<Notify>> {
        Some(self.stirs.clone())
    }

    fn daemon(&self) -> Option<Daemon> {
        Some(Daemon { log_driver: "json-file".to_owned(), memory_bytes: 4 << 30 })
    }

    async fn list_containers(&self, owner: &Owner) -> Result<Vec<ContainerSeen>, Error> {
        self.answers("list_containers").await?;
        self.call("list_containers", &owner.name, |world| {
            let owned = world.containers.values().filter(|found| owner_of(&found.spec.labels).as_ref() == Some(owner));
            Ok(owned.map(FakeContainer::seen).collect())
        })
    }

    async fn list_owned(&self) -> Result<BTreeMap<Owner, Vec<ContainerSeen>>, Error> {
        self.answers("list_owned").await?;
        self.call("list_owned", "", |world| Ok(world.owned()))
    }

    async fn list_all(&self) -> Result<Everything, Error> {
        self.answers("list_all").await?;
        self.call("list_all", "", |world| {
            let mut everything = Everything { containers: world.owned(), ..Default::default() };
            for found in world.volumes.values() {
                if let Some(owner) = owner_of(&found.labels) {
                    everything.volumes.entry(owner).or_default().push(found.name.clone());
                }
            }
            everything.networks = world.networks.iter().map(|(name, (_, seen))| (name.clone(), seen.clone())).collect();
            for image in &world.images {
                let id = world.ids.get(image).unwrap_or(image).clone();
                everything.images.entry(id).or_default().push(image.clone());
            }
            Ok(everything)
        })
    }

    async fn list_volumes(&self, owner: &Owner) -> Result<Vec<String>, Error> {
        self.answers("list_volumes").await?;
        self.call("list_volumes", &owner.name, |world| {
            let owned = world.volumes.values().filter(|found| owner_of(&found.labels).as_ref() == Some(owner));
            Ok(owned.map(|found| found.name.clone()).collect())
        })
    }

    async fn network(&self, name: &str) -> Result<Option<NetworkSeen>, Error> {
        self.answers("network").await?;
        self.call("network", name, |world| Ok(world.networks.get(name).map(|(_, seen)| seen.clone())))
    }

    async fn ensure_network(&self, spec: &NetworkSpec) -> Result<NetworkSeen, Error> {
        self.call("ensure_network", &spec.name, |world| {
            let third = u8::try_from(world.networks.len()).unwrap_or(u8::MAX);
            world.made += 1;
            let (name, id) = (spec.name.clone(), format!("network {}", world.made));
            let subnet = (Ipv4Addr::new(10, 77, third, 0), 24);
            let fresh = || (spec.clone(), NetworkSeen { name, id, ours: true, subnet });
            let (there, seen) = world.networks.entry(spec.name.clone()).or_insert_with(fresh);
            if owner_of(&there.labels) == owner_of(&spec.labels) {
                Ok(seen.clone())
            } else {
                Err(Error::conflict(&self.host, "ensure_network", "a network of that name belongs to someone else"))
            }
        })
    }

    async fn connect_network(&self, container: &str, to: &Attachment) -> Result<(), Error> {
        self.call("connect_network", &format!("{container} {}", to.network), |world| {
            let (_, network) =
                world.networks.get(&to.network).ok_or_else(|| self.missing("connect_network", "network"))?;
            let id = network.id.clone();
            let has = |one: &FakeContainer| one.connections.get(&to.network).and_then(|seen| seen.address);
            let taken = |(name, one): (&String, &FakeContainer)| {
                name != container && to.address.is_some() && has(one) == to.address
            };
            if world.containers.iter().any(taken) {
                return Err(Error::refused(&self.host, "connect_network", "Address already in use"));
            }
            let found =
                world.containers.get_mut(container).ok_or_else(|| self.missing("connect_network", "container"))?;
            let connection = found.connection(to, &id);
            found.connections.insert(to.network.clone(), connection);
            world.tell_owner_of(container);
            Ok(())
        })
    }

    async fn remove_network(&self, name: &str) -> Result<(), Error> {
        self.call("remove_network", name, |world| {
            let runs = |found: &&FakeContainer| {
                !matches!(found.state, ContainerState::Created | ContainerState::Exited | ContainerState::Dead)
            };
            if world.containers.values().filter(runs).any(|found| found.connections.contains_key(name)) {
                return Err(Error::conflict(&self.host, "remove_network", "something is attached to it"));
            }
            world.networks.remove(name);
            Ok(())
        })
    }

    async fn ensure_volume(&self, spec: &VolumeSpec) -> Result<(), Error> {
        self.call("ensure_volume", &spec.name, |world| {
            let there = world.volumes.entry(spec.name.clone()).or_insert_with(|| spec.clone());
            if owner_of(&there.labels) == owner_of(&spec.labels) {
                Ok(())
            } else {
                Err(Error::conflict(&self.host, "ensure_volume", "a volume of that name belongs to someone else"))
            }
        })
    }

    async fn volume(&self, name: &str) -> Result<Option<VolumeSpec>, Error> {
        self.answers("volume").await?;
        self.call("volume", name, |world| Ok(world.volumes.get(name).cloned()))
    }

    async fn remove_volume(&self, name: &str) -> Result<(), Error> {
        self.call("remove_volume", name, |world| {
            if world.containers.values().any(|found| found.volumes().any(|volume| volume == name)) {
                return Err(Error::conflict(&self.host, "remove_volume", "a container uses it"));
            }
            world.volumes.remove(name);
            Ok(())
        })
    }

    async fn ensure_binary(&self, image: &str) -> Result<String, Error> {
        self.call("ensure_binary", image, |world| {
            if !world.images.contains(image) {
                return Err(self.missing("ensure_binary", "image"));
            }
            world.binary = true;
            Ok(BINARY_VOLUME.to_owned())
        })
    }

    fn binary(&self) -> Option<String> {
        self.world(|world| world.binary.then(|| BINARY_VOLUME.to_owned()))
    }

    async fn create_container(&self, spec: &ContainerSpec) -> Result<(), Error> {
        self.call("create_container", &spec.name, |world| {
            if let Some(there) = world.containers.get(&spec.name) {
                return if there.spec.hash() == spec.hash() {
                    Ok(())
                } else {
                    Err(Error::conflict(
                        &self.host,
                        "create_container",
                        "the name is taken by a container made from another spec",
                    ))
                };
            }
            if !world.images.contains(&spec.image) {
                return Err(self.missing("create_container", "image"));
            }
            let foreign = |mount: &Mount| {
                let there = mount.source.volume().and_then(|(name, wanted)| Some((world.volumes.get(name)?, wanted)));
                there.is_some_and(|(there, wanted)| owner_of(&there.labels) != owner_of(wanted))
            };
            if spec.mounts.iter().any(foreign) {
                let message = "a volume of that name belongs to someone else";
                return Err(Error::conflict(&self.host, "create_container", message));
            }
            for mount in &spec.mounts {
                if let MountSource::Bind(path) = &mount.source
                    && world.missing_paths.contains(path)
                {
                    let message =
                        format!("invalid mount config for type \"bind\": bind source path does not exist: {path}");
                    return Err(Error::refused(&self.host, "create_container", message));
                }
            }
            world.made += 1;
            let mut made = FakeContainer {
                spec: spec.clone(),
                connections: BTreeMap::new(),
                id: format!("{:064x}", world.made),
                state: ContainerState::Created,
                exit_code: None,
                ends_with: None,
                address: spec.address.unwrap_or(Ipv4Addr::from(0x0a4d_8000 + u32::try_from(world.made).unwrap_or(0))),
                files: BTreeMap::new(),
                signals: Vec::new(),
                joined: spec
                    .joins
                    .as_ref()
                    .map(|name| world.containers.get(name).map_or(name, |found| &found.id).clone()),
                run: CancellationToken::new(),
            };
            made.connections =
                spec.attachments().iter().map(|to| (to.network.clone(), made.connection(to, ""))).collect();
            for mount in &spec.mounts {
                if let Some((name, labels)) = mount.source.volume() {
                    let volume = VolumeSpec { name: name.clone(), labels: labels.clone() };
                    world.volumes.entry(name.clone()).or_insert(volume);
                }
            }
            world.containers.insert(spec.name.clone(), made);
            world.tell_owner_of(&spec.name);
            Ok(())
        })
    }

    async fn start_container(&self, name: &str) -> Result<(), Error> {
        self.call("start_container", name, |world| {
            let found = world.containers.get(name).ok_or_else(|| self.missing("start_container", "container"))?;
            if found.state == ContainerState::Paused {
                return Err(Error::conflict(&self.host, "start_container", "it is paused"));
            }
            let ports = |found: &FakeContainer| {
                found.spec.ports.iter().map(|(address, host, _)| (*address, *host)).collect::<BTreeSet<_>>()
            };
            let wanted = ports(found);
            let taken = |other: &&FakeContainer| {
                other.spec.name != name && other.state == ContainerState::Running && !ports(other).is_disjoint(&wanted)
            };
            if world.containers.values().any(|other| taken(&other)) {
                return Err(Error::refused(&self.host, "start_container", "port is already allocated"));
            }
            // Docker remembers the network's ID from the first start on.
            let there = |(name, seen): (&String, &ConnectionSeen)| {
                let network = world.networks.get(name);
                network.is_some_and(|(_, network)| seen.network.is_empty() || seen.network == network.id)
            };
            if !found.connections.iter().all(there) {
                return Err(self.missing("start_container", "network"));
            }
            if let Some(joined) = &found.joined {
                // Docker remembers the joined container's ID: another container with the same name is not joined.
                let one = world.containers.values().find(|one| one.id == *joined || one.spec.name == *joined);
                let one = one.ok_or_else(|| self.missing("start_container", "container to join"))?;
                if one.state != ContainerState::Running {
                    let message = "cannot join network of a non running container";
                    return Err(Error::conflict(&self.host, "start_container", message));
                }
            }
            let ids: BTreeMap<_, _> =
                world.networks.iter().map(|(name, (_, network))| (name.clone(), network.id.clone())).collect();
            if let Some(found) = world.containers.get_mut(name) {
                for (network, seen) in &mut found.connections {
                    seen.network = ids.get(network).cloned().unwrap_or_default();
                }
            }
            world.set_state(name, ContainerState::Running);
            Ok(())
        })
    }

    async fn stop_container(&self, name: &str, _timeout: Duration) -> Result<(), Error> {
        self.call("stop_container", name, |world| {
            world.end(name, ContainerState::Exited);
            Ok(())
        })
    }

    async fn unpause_container(&self, name: &str) -> Result<(), Error> {
        self.call("unpause_container", name, |world| {
            let found = world.containers.get(name).ok_or_else(|| self.missing("unpause_container", "container"))?;
            if found.state == ContainerState::Paused {
                world.set_state(name, ContainerState::Running);
            }
            Ok(())
        })
    }

    async fn remove_container(&self, name: &str) -> Result<(), Error> {
        self.call("remove_container", name, |world| {
            world.end(name, ContainerState::Dead);
            let owner = world.containers.remove(name).and_then(|gone| owner_of(&gone.spec.labels));
            if owner.is_some() {
                world.tell(&owner);
            }
            Ok(())
        })
    }

    async fn image(&self, image: &str) -> Result<Option<ImageSeen>, Error> {
        self.answers("image").await?;
        self.call("image", image, |world| {
            let id = world.ids.get(image).cloned().unwrap_or_else(|| image.to_owned());
            Ok(world.images.contains(image).then(|| ImageSeen { id, ..Default::default() }))
        })
    }

    async fn pull_image(&self, image: &str, _login: Option<&RegistryLogin>) -> Result<(), Error> {
        if self.world(|world| world.registry_hangs) {
            return std::future::pending().await;
        }
        self.call("pull_image", image, |world| {
            let found = world.registry.as_ref().is_none_or(|registry| registry.contains(image));
            if !found && !world.images.contains(image) {
                return Err(Error::refused(&self.host, "pull_image", format!("its registry has no image {image}")));
            }
            world.images.insert(image.to_owned());
            if let Some(id) = world.pushed.get(image).cloned() {
                world.images.insert(id.clone());
                world.ids.insert(image.to_owned(), id);
            }
            Ok(())
        })
    }

    async fn signal_container(&self, name: &str, signal: &str) -> Result<(), Error> {
        self.call("signal_container", &format!("{name} {signal}"), |world| {
            let found = world.containers.get_mut(name).ok_or_else(|| self.missing("signal_container", "container"))?;
            if found.state != ContainerState::Running {
                return Err(Error::conflict(&self.host, "signal_container", "the container is not running"));
            }
            found.signals.push(signal.to_owned());
            Ok(())
        })
    }

    async fn put_files(&self, container: &str, directory: &str, files: &[File]) -> Result<(), Error> {
        self.call("put_files", &format!("{container} {directory}"), |world| {
            let found = world.containers.get_mut(container).ok_or_else(|| self.missing("put_files", "container"))?;
            if found.spec.mounts.iter().any(|mount| mount.read_only && directory.starts_with(&mount.path)) {
                return Err(Error::refused(&self.host, "put_files", "mounted volume is marked read-only"));
            }
            let whole = files.iter().map(|file| (format!("{directory}/{}", file.path), file.clone()));
            found.files.extend(whole);
            Ok(())
        })
    }

    async fn exec(&self, container: &str, command: &[String], _limit: Duration) -> Result<ExecResult, Error> {
        self.call("exec", &format!("{container} {}", command.join(" ")), |world| {
            let found = world.containers.get(container).ok_or_else(|| self.missing("exec", "container"))?;
            if found.state != ContainerState::Running {
                return Err(Error::conflict(&self.host, "exec", format!("the container is {:?}", found.state)));
            }
            let silent = ExecResult { code: 0, output: String::new() };
            Ok(world.program.as_ref().map_or(silent, |run| run(found, command)))
        })
    }

    async fn logs(&self, container: &str, _options: &LogOptions) -> Result<Outputs, Error> {
        self.call("logs", container, |world| {
            let found = world.containers.get(container).ok_or_else(|| self.missing("logs", "container"))?;
            let line = format!("I am {}\n", found.spec.name);
            Ok(Box::pin(stream::iter([Ok(Output::Stdout(line.into()))])) as Outputs)
        })
    }

    async fn dial(&self, container: &str, address: &str) -> Result<Box<dyn Conversation>, Error> {
        self.call("dial", &format!("{container} {address}"), |world| {
            let found = world.containers.get(container).ok_or_else(|| self.missing("dial", "container"))?;
            if found.state != ContainerState::Running {
                return Err(Error::conflict(&self.host, "dial", format!("the container is {:?}", found.state)));
            }
            let Some(answer) = world.answers.get(&(container.to_owned(), address.to_owned())) else {
                return Err(Error::refused(
                    &self.host,
                    "dial",
                    format!("cannot connect to {address}: connection refused"),
                ));
            };
            let (ours, mut near) = tokio::io::duplex(BUFFER);
            let (mut far, theirs) = tokio::io::duplex(BUFFER);
            let run = found.run.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = run.cancelled() => {}
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                }
            });
            answer(theirs);
            Ok(Box::new(ours) as Box<dyn Conversation>)
        })
    }

    fn events(&self) -> Pin<Box<dyn Stream<Item = EventHint> + Send>> {
        let (listener, receiver) = mpsc::unbounded_channel();
        self.world(|world| world.listeners.push(listener));
        let later =
            stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|hint| (hint, receiver)) });
        Box::pin(stream::once(async { None }).chain(later))
    }
}
