//! A Docker host through its API, with bollard: translates, classifies errors, sets time-outs; nothing else.
//! One file per noun.

mod binary;
mod classify;
mod containers;
mod create;
mod dial;
mod events;
mod execs;
mod files;
mod images;
mod logs;
mod networks;
mod ssh;
mod ssh_words;
mod transport;
mod volumes;

pub use binary::OwnBinary;
pub use ssh::{SshKeys, sweep};
pub use transport::{Keys, Tls};

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::Docker;
use futures::Stream;
use tokio::sync::{Notify, OnceCell};
use tokio::time::Instant;

use self::transport::Transport;
use super::instant::instant;
use super::{
    Attachment, ClockSeen, ContainerSeen, ContainerSpec, Conversation, Daemon, Engine, Error, EventHint, Everything,
    ExecRequest, ExecResult, ExecSession, File, HostInfo, Identity, ImageSeen, LogOptions, NetworkSeen, NetworkSpec,
    Outputs, RegistryLogin, VolumeSpec,
};
use crate::api::docker_host::Endpoint;
use crate::api::labels::{self, Owner};
use crate::api::sync::lock;

/// Time-out of a small request; an engine on a healthy host answers in milliseconds.
const ANSWER: Duration = Duration::from_secs(10);

/// A request that takes longer than this is accompanied by pings, each with this limit.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pings in a row without an answer that end a request.
const MISSED: u32 = 2;

/// One Docker host, reached through its API. Clones share connection, caches and locks.
#[derive(Clone)]
pub struct DockerEngine {
    host: Arc<str>,
    transport: Arc<Transport>,
    client: Arc<OnceCell<Docker>>,
    binary: Arc<binary::Injection>,
    pulls: Arc<images::Pulls>,
    /// Networks are created in two steps that must not interleave.
    networks: Arc<tokio::sync::Mutex<()>>,
    /// The last answer about the engine itself.
    daemon: Arc<Mutex<Option<Daemon>>>,
    /// Who answers, and the host's clock.
    told: Arc<Mutex<Told>>,
    /// Notified when memory of the host may be old.
    stirs: Arc<Notify>,
    /// DNS names of the connections that were inspected, by Docker's ID of the connection.
    aliases: Arc<Mutex<containers::Aliases>>,
}

/// What the engine told last about itself.
struct Told {
    identity: Identity,
    clock: Option<ClockSeen>,
    /// When it last answered a request or sent an event.
    heard: Instant,
}

impl DockerEngine {
    /// An engine at `endpoint`; errors name it `host`. Sends nothing before the first request;
    /// [`Error::Refused`] if the keys cannot be used.
    pub fn connect(
        host: &str,
        endpoint: &Endpoint,
        keys: Option<&Keys>,
        binary: Arc<OwnBinary>,
    ) -> Result<Self, Error> {
        Self::connect_below(host, endpoint, keys, binary, &std::env::temp_dir())
    }

    /// Like [`DockerEngine::connect`], with the folder for what a connection keeps on this machine.
    pub fn connect_below(
        host: &str,
        endpoint: &Endpoint,
        keys: Option<&Keys>,
        binary: Arc<OwnBinary>,
        run: &Path,
    ) -> Result<Self, Error> {
        let told = Told { identity: Identity::Lost, clock: None, heard: instant() };
        Ok(Self {
            host: host.into(),
            transport: Arc::new(Transport::new(host, endpoint, keys, run)?),
            told: Arc::new(Mutex::new(told)),
            stirs: Arc::default(),
            client: Arc::default(),
            binary: Arc::new(binary::Injection::new(binary)),
            pulls: Arc::default(),
            networks: Arc::default(),
            daemon: Arc::default(),
            aliases: Arc::default(),
        })
    }

    /// The client; the first successful contact negotiates the API version.
    async fn client(&self, doing: &str) -> Result<&Docker, Error> {
        self.transport.ready(doing).await?;
        self.client.get_or_try_init(|| self.transport.negotiate(&self.host, doing)).await
    }

    /// One request with the time-out `limit`.
    async fn call<'a, T, F>(
        &'a self,
        doing: &str,
        limit: Duration,
        request: impl FnOnce(&'a Docker) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, bollard::errors::Error>>,
    {
        let answered = tokio::time::timeout(limit, async {
            let client = self.client(doing).await?;
            request(client).await.map_err(|error| classify::classify(&self.host, doing, error))
        });
        let answered = tokio::select! {
            answered = answered => answered,
            () = self.falls_silent() => {
                return Err(Error::unreachable(&self.host, doing, "it stopped answering".to_owned()));
            }
        };
        match answered {
            Ok(Err(error)) => Err(self.transport.explained(doing, error).await),
            Ok(answer) => {
                self.transport.works();
                lock(&self.told).heard = instant();
                answer
            }
            Err(_) => Err(Error::unreachable(&self.host, doing, format!("no answer within {} s", limit.as_secs()))),
        }
    }

    /// Resolves when a host that is busy with a request answers nothing else either, so that nobody waits for the time-out of a
    /// request to a host that has just died.
    async fn falls_silent(&self) {
        let mut missed = 0;
        while missed < MISSED {
            tokio::time::sleep(if missed == 0 { PATIENCE } else { Duration::ZERO }).await;
            let Some(client) = self.client.get() else { continue };
            let answered = tokio::time::timeout(PATIENCE, client.ping()).await.is_ok_and(|answer| answer.is_ok());
            missed = if answered { 0 } else { missed + 1 };
        }
    }
}

/// Docker's filter for everything that an owner has.
fn owner_filter(owner: &Owner) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), owner.labels().iter().map(|(key, value)| format!("{key}={value}")).collect())])
}

/// Docker's filter for everything that has any owner.
fn any_owner_filter() -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![labels::KIND.to_owned()])])
}

/// The owner in the labels as text, as far as the labels exist.
fn owner_in_words(found: Option<&HashMap<String, String>>) -> String {
    let owner = found.and_then(|found| Owner::from_labels(|key| found.get(key).map(String::as_str)));
    match owner {
        Some(Owner { kind, namespace, name }) if namespace.is_empty() => format!("it belongs to {kind} {name}"),
        Some(Owner { kind, namespace, name }) => format!("it belongs to {kind} {namespace}/{name}"),
        None => "it is not managed by evenkeel".to_owned(),
    }
}

/// Whether the found labels have the wanted owner. The uid may differ: data outlives its object.
fn same_owner(wanted: &std::collections::BTreeMap<String, String>, found: Option<&HashMap<String, String>>) -> bool {
    [labels::KIND, labels::NAMESPACE, labels::NAME]
        .iter()
        .all(|key| wanted.get(*key) == found.and_then(|found| found.get(*key)))
}

#[async_trait::async_trait]
impl Engine for DockerEngine {
    async fn info(&self) -> Result<HostInfo, Error> {
        self.host_info().await
    }
    async fn ping(&self) -> Result<(), Error> {
        self.call("seeing whether it answers", ANSWER, Docker::ping).await.map(drop)
    }
    fn identity(&self) -> Identity {
        lock(&self.told).identity.clone()
    }
    fn clock(&self) -> Option<ClockSeen> {
        lock(&self.told).clock
    }
    fn stirred(&self) -> Option<Arc<Notify>> {
        Some(self.stirs.clone())
    }
    fn close(&self) {
        self.transport.close();
    }
    fn daemon(&self) -> Option<Daemon> {
        lock(&self.daemon).clone()
    }
    async fn list_containers(&self, owner: &Owner) -> Result<Vec<ContainerSeen>, Error> {
        self.containers_of(owner).await
    }
    async fn list_volumes(&self, owner: &Owner) -> Result<Vec<String>, Error> {
        self.volumes_of(owner).await
    }
    async fn list_owned(&self) -> Result<BTreeMap<Owner, Vec<ContainerSeen>>, Error> {
        self.containers_of_all().await
    }
    async fn list_all(&self) -> Result<Everything, Error> {
        let (containers, volumes, networks, images) = tokio::try_join!(
            self.containers_of_all(),
            self.volumes_of_all(),
            self.networks_of_all(),
            self.images_of_all()
        )?;
        Ok(Everything { containers, volumes, networks, images })
    }
    async fn network(&self, name: &str) -> Result<Option<NetworkSeen>, Error> {
        self.network_named(name).await
    }
    async fn ensure_network(&self, spec: &NetworkSpec) -> Result<NetworkSeen, Error> {
        self.network_ensured(spec).await
    }
    async fn connect_network(&self, container: &str, to: &Attachment) -> Result<(), Error> {
        self.network_connected(container, to).await
    }
    async fn remove_network(&self, name: &str) -> Result<(), Error> {
        self.network_removed(name).await
    }
    async fn ensure_volume(&self, spec: &VolumeSpec) -> Result<(), Error> {
        self.volume_ensured(spec).await
    }
    async fn volume(&self, name: &str) -> Result<Option<VolumeSpec>, Error> {
        let found = self.volume_named(name, &format!("looking at volume {name}")).await?;
        Ok(found.map(|volume| VolumeSpec { name: volume.name, labels: volume.labels.into_iter().collect() }))
    }
    async fn remove_volume(&self, name: &str) -> Result<(), Error> {
        self.volume_removed(name).await
    }
    async fn ensure_binary(&self, image: &str) -> Result<String, Error> {
        self.binary_ensured(image).await
    }
    fn binary(&self) -> Option<String> {
        self.binary.volume()
    }
    async fn create_container(&self, spec: &ContainerSpec) -> Result<(), Error> {
        self.container_created(spec).await
    }
    async fn start_container(&self, name: &str) -> Result<(), Error> {
        self.container_started(name).await
    }
    async fn stop_container(&self, name: &str, timeout: Duration) -> Result<(), Error> {
        self.container_stopped(name, timeout).await
    }
    async fn unpause_container(&self, name: &str) -> Result<(), Error> {
        self.container_unpaused(name).await
    }
    async fn remove_container(&self, name: &str) -> Result<(), Error> {
        self.container_removed(name).await
    }
    async fn image(&self, image: &str) -> Result<Option<ImageSeen>, Error> {
        self.image_seen(image).await
    }
    async fn pull_image(&self, image: &str, login: Option<&RegistryLogin>) -> Result<(), Error> {
        self.image_pulled(image, login).await
    }
    async fn signal_container(&self, name: &str, signal: &str) -> Result<(), Error> {
        self.container_signalled(name, signal).await
    }
    async fn put_files(&self, container: &str, directory: &str, files: &[File]) -> Result<(), Error> {
        self.files_put(container, directory, files).await
    }
    async fn exec(&self, container: &str, command: &[String], limit: Duration) -> Result<ExecResult, Error> {
        self.exec_ended(container, command, limit).await
    }
    async fn exec_attached(&self, container: &str, request: &ExecRequest) -> Result<ExecSession, Error> {
        self.exec_session(container, request).await
    }
    async fn exec_resize(&self, id: &str, size: (u16, u16)) -> Result<(), Error> {
        self.exec_resized(id, size).await
    }
    async fn exec_code(&self, id: &str) -> Result<Option<i64>, Error> {
        self.exec_code_of(id).await
    }
    async fn logs(&self, container: &str, options: &LogOptions) -> Result<Outputs, Error> {
        self.logs_of(container, options).await
    }
    async fn dial(&self, container: &str, address: &str) -> Result<Box<dyn Conversation>, Error> {
        self.dialed(container, address).await
    }
    fn events(&self) -> Pin<Box<dyn Stream<Item = EventHint> + Send>> {
        self.event_hints()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn an_owner_is_the_same_when_only_other_labels_differ() {
        let owner = Owner { kind: "PostgresCluster".into(), namespace: "default".into(), name: "db".into() };
        let wanted: BTreeMap<_, _> =
            owner.labels().into_iter().chain([(labels::MEMBER.to_owned(), "new".to_owned())]).collect();
        let found: HashMap<_, _> =
            owner.labels().into_iter().chain([(labels::MEMBER.to_owned(), "old".to_owned())]).collect();
        assert!(same_owner(&wanted, Some(&found)));
        assert!(!same_owner(&wanted, None));
        assert_eq!(owner_in_words(Some(&found)), "it belongs to PostgresCluster default/db");
        assert_eq!(owner_in_words(None), "it is not managed by evenkeel");
    }
}
