//! The engines by DockerHost name, kept in sync with the DockerHost objects, and all their events as one stream.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};

use futures::{Stream, StreamExt as _, stream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::docker::{DockerEngine, OwnBinary, Tls};
use super::mirror::Mirror;
use super::{Engine, Error, EventHint};
use crate::api::docker_host::{Endpoint, LOCAL};

/// Docker's default socket, unless DOCKER_HOST is set.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// Length of the queue; when it is full, the engines wait.
const QUEUE: usize = 256;

/// The engines by DockerHost name.
pub struct Hosts {
    binary: Arc<OwnBinary>,
    engines: RwLock<BTreeMap<String, Registered>>,
    /// Counts registrations; readers of events follow it.
    version: watch::Sender<u64>,
}

struct Registered {
    /// Its endpoint and TLS; `None` for an engine that a test inserted.
    way: Option<(Endpoint, Option<Tls>)>,
    /// Distinguishes an engine from its successor with the same name.
    version: u64,
    engine: Arc<dyn Engine>,
}

impl Hosts {
    /// An empty set. `binary` is injected into each host.
    pub fn new(binary: Arc<OwnBinary>) -> Self {
        Self { binary, engines: RwLock::default(), version: watch::Sender::new(0) }
    }

    /// Registers or replaces a host; with the same endpoint and TLS it keeps its engine and the engine's caches.
    /// [`Error::Refused`] if the TLS material cannot be used.
    pub fn register(&self, name: &str, endpoint: &Endpoint, tls: Option<&Tls>) -> Result<(), Error> {
        if self.is_registered(name, endpoint, tls) {
            return Ok(());
        }
        let engine = DockerEngine::connect(name, endpoint, tls, self.binary.clone())?;
        self.put(name, Some((endpoint.clone(), tls.cloned())), Arc::new(engine));
        Ok(())
    }

    /// Registers an existing engine, in tests.
    pub fn insert(&self, name: &str, engine: Arc<dyn Engine>) {
        self.put(name, None, engine);
    }

    fn put(&self, name: &str, way: Option<(Endpoint, Option<Tls>)>, engine: Arc<dyn Engine>) {
        self.change(|engines, version| {
            let engine = Arc::new(Mirror::new(name, engine));
            engines.insert(name.to_owned(), Registered { way, version, engine });
        });
    }

    /// Forgets a host; its containers keep running.
    pub fn forget(&self, name: &str) {
        self.change(|engines, _| {
            engines.remove(name);
        });
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Registered>, u64)) {
        let mut engines = self.engines.write().unwrap_or_else(PoisonError::into_inner);
        let next = *self.version.borrow() + 1;
        change(&mut engines, next);
        drop(engines);
        self.version.send_replace(next);
    }

    /// The engine of this name; [`Error::NotFound`] if no such host is registered.
    pub fn get(&self, name: &str) -> Result<Arc<dyn Engine>, Error> {
        let engines = self.engines.read().unwrap_or_else(PoisonError::into_inner);
        match engines.get(name) {
            Some(registered) => Ok(registered.engine.clone()),
            None => {
                let known: Vec<_> = engines.keys().cloned().collect();
                let message = format!("no DockerHost of that name is declared (there are: {})", known.join(", "));
                Err(Error::not_found(name, "looking it up", message))
            }
        }
    }

    /// Whether the host is registered with exactly this endpoint and TLS.
    pub fn is_registered(&self, name: &str, endpoint: &Endpoint, tls: Option<&Tls>) -> bool {
        let engines = self.engines.read().unwrap_or_else(PoisonError::into_inner);
        let way = engines.get(name).and_then(|registered| registered.way.as_ref());
        way.is_some_and(|(known, material)| known == endpoint && material.as_ref() == tls)
    }

    /// The events of all hosts, including those registered later. Never ends.
    pub fn events(self: &Arc<Self>) -> Pin<Box<dyn Stream<Item = EventHint> + Send>> {
        let (hints, receiver) = mpsc::channel(QUEUE);
        let hosts = self.clone();
        tokio::spawn(async move {
            let mut readers = Readers::default();
            let mut version = hosts.version.subscribe();
            loop {
                readers.follow(&hosts, &hints);
                tokio::select! {
                    biased;
                    () = hints.closed() => return,
                    changed = version.changed() => if changed.is_err() { return },
                }
            }
        });
        Box::pin(stream::unfold(
            receiver,
            |mut receiver| async move { receiver.recv().await.map(|hint| (hint, receiver)) },
        ))
    }
}

/// One task per engine, by the version of the registration.
#[derive(Default)]
struct Readers(BTreeMap<u64, AbortHandle>);

impl Readers {
    fn follow(&mut self, hosts: &Hosts, hints: &mpsc::Sender<EventHint>) {
        let engines = hosts.engines.read().unwrap_or_else(PoisonError::into_inner);
        self.0.retain(|version, reader| {
            let stays = engines.values().any(|registered| registered.version == *version);
            if !stays {
                reader.abort();
            }
            stays
        });
        for registered in engines.values() {
            self.0.entry(registered.version).or_insert_with(|| {
                let (mut events, hints) = (registered.engine.events(), hints.clone());
                let reader = tokio::spawn(async move {
                    while let Some(hint) = events.next().await {
                        if hints.send(hint).await.is_err() {
                            return;
                        }
                    }
                });
                reader.abort_handle()
            });
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.0.values().for_each(AbortHandle::abort);
    }
}

/// The endpoint of this machine's engine: DOCKER_HOST, or Docker's default socket.
pub fn local_endpoint() -> Result<Endpoint, Error> {
    endpoint_from(std::env::var("DOCKER_HOST").ok(), std::env::var("DOCKER_TLS_VERIFY").ok())
}

fn endpoint_from(host: Option<String>, tls_verify: Option<String>) -> Result<Endpoint, Error> {
    let Some(host) = host.filter(|host| !host.is_empty()) else {
        return Ok(Endpoint::Unix { path: DEFAULT_SOCKET.to_owned() });
    };
    let refused = |message| Error::refused(LOCAL, "the environment variable DOCKER_HOST", message);
    let endpoint = host.parse().map_err(refused)?;
    if matches!(endpoint, Endpoint::Tcp { .. }) && tls_verify.is_some_and(|verify| !verify.is_empty()) {
        return Err(refused("with DOCKER_TLS_VERIFY set; declare a DockerHost with tls.secretName instead".to_owned()));
    }
    Ok(endpoint)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::fake::FakeEngine;
    use super::*;
    use crate::api::labels::Owner;

    fn hosts() -> Arc<Hosts> {
        Arc::new(Hosts::new(Arc::new(OwnBinary::running())))
    }

    fn unix(path: &str) -> Endpoint {
        Endpoint::Unix { path: path.to_owned() }
    }

    #[test]
    fn a_host_registered_again_the_same_way_keeps_its_engine() {
        let hosts = hosts();
        let engine = |hosts: &Hosts| Arc::as_ptr(&hosts.get("a").unwrap()).cast::<()>() as usize;
        hosts.register("a", &unix("/run/a.sock"), None).unwrap();
        let first = hosts.get("a").unwrap();
        hosts.register("a", &unix("/run/a.sock"), None).unwrap();
        assert_eq!(engine(&hosts), Arc::as_ptr(&first).cast::<()>() as usize);
        hosts.register("a", &unix("/run/b.sock"), None).unwrap();
        assert_ne!(engine(&hosts), Arc::as_ptr(&first).cast::<()>() as usize);
    }

    #[test]
    fn an_unknown_host_is_told_with_those_there_are() {
        let hosts = hosts();
        hosts.insert("east", Arc::new(FakeEngine::new("east")));
        hosts.insert("west", Arc::new(FakeEngine::new("west")));
        hosts.forget("east");
        let error = hosts.get("east").err().unwrap();
        assert_eq!(
            error.to_string(),
            "Docker host east: not found while looking it up: no DockerHost of that name is declared (there are: west)"
        );
    }

    #[tokio::test]
    async fn events_of_a_host_registered_later_are_heard_and_of_a_forgotten_one_not() {
        let hosts = hosts();
        let mut events = hosts.events();
        let (east, west) = (Arc::new(FakeEngine::new("east")), Arc::new(FakeEngine::new("west")));
        let owner = |name: &str| Owner { kind: "K".into(), namespace: String::new(), name: name.into() };
        hosts.insert("east", east.clone());
        assert_eq!(events.next().await, Some(None));
        east.hint(Some(owner("one")));
        assert_eq!(events.next().await, Some(Some(owner("one"))));
        hosts.forget("east");
        hosts.insert("west", west.clone());
        assert_eq!(events.next().await, Some(None));
        east.hint(Some(owner("unheard")));
        west.hint(Some(owner("two")));
        assert_eq!(events.next().await, Some(Some(owner("two"))));
    }

    #[test]
    fn the_environment_chooses_the_local_engine() {
        let chosen = |host: Option<&str>, verify: Option<&str>| match endpoint_from(
            host.map(str::to_owned),
            verify.map(str::to_owned),
        ) {
            Ok(endpoint) => endpoint.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(chosen(None, None), "unix:///var/run/docker.sock");
        assert_eq!(chosen(Some(""), Some("1")), "unix:///var/run/docker.sock");
        assert_eq!(chosen(Some("unix:///run/user/1000/docker.sock"), None), "unix:///run/user/1000/docker.sock");
        assert_eq!(
            chosen(Some("tcp://10.0.0.7:2376"), Some("1")),
            "Docker host local refused the environment variable DOCKER_HOST: with DOCKER_TLS_VERIFY set; declare a DockerHost with tls.secretName instead"
        );
    }
}
