//! The engines by DockerHost name, kept in sync with the DockerHost objects, and all their events as one stream.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures::future::join_all;
use futures::{Stream, StreamExt as _, stream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::docker::{DockerEngine, Keys, OwnBinary, sweep};
use super::mirror::{Glance, Mirror, Permit};
use super::{Engine, Error, EventHint};
use crate::api::docker_host::{Endpoint, LOCAL};

/// Docker's default socket, unless DOCKER_HOST is set.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// Length of the queue; when it is full, the engines wait.
const QUEUE: usize = 256;
/// Limit of the answer to [`Hosts::greet`].
const GREETING: Duration = Duration::from_millis(300);

/// The engines by DockerHost name.
pub struct Hosts {
    binary: Arc<OwnBinary>,
    /// Folder for what connections keep on this machine.
    run: PathBuf,
    known: Arc<RwLock<Known>>,
    /// Counts registrations; readers of events follow it.
    version: watch::Sender<u64>,
    /// Whether the engines may be changed; `None`: always.
    permit: Option<Permit>,
}

#[derive(Default)]
struct Known {
    engines: BTreeMap<String, Registered>,
    /// The hosts that are declared and not registered, with the reason.
    waiting: BTreeMap<String, String>,
}

struct Registered {
    /// Its endpoint and keys; `None` for an engine that a test inserted.
    way: Option<(Endpoint, Option<Keys>)>,
    /// Distinguishes an engine from its successor with the same name.
    version: u64,
    engine: Arc<Mirror>,
}

impl Hosts {
    /// An empty set. `binary` is injected into each host.
    pub fn new(binary: Arc<OwnBinary>) -> Self {
        Self { binary, run: std::env::temp_dir(), known: Arc::default(), version: watch::Sender::new(0), permit: None }
    }

    /// The same hosts for somebody who may change the engines only as long as the permit says so.
    pub fn permitted(&self, permit: Permit) -> Self {
        let (binary, run, known) = (self.binary.clone(), self.run.clone(), self.known.clone());
        Self { binary, run, known, version: self.version.clone(), permit: Some(permit) }
    }

    /// Puts what connections keep on this machine below this folder; what a killed operator left there is removed.
    pub fn below(self, run: PathBuf) -> Self {
        sweep(&run);
        Self { run, ..self }
    }

    /// Registers or replaces a host; with the same endpoint and keys it keeps its engine and the engine's caches.
    /// `engine_id`: the ID of the engine that the host is known as. [`Error::Refused`] if the keys cannot be used.
    pub fn register(
        &self,
        name: &str,
        endpoint: &Endpoint,
        keys: Option<&Keys>,
        engine_id: Option<&str>,
    ) -> Result<(), Error> {
        if self.is_registered(name, endpoint, keys) {
            return Ok(());
        }
        let engine = DockerEngine::connect_below(name, endpoint, keys, self.binary.clone(), &self.run)?;
        let mirror = Mirror::new(name, Arc::new(engine));
        engine_id.into_iter().for_each(|id| mirror.know(id));
        self.put(name, Some((endpoint.clone(), keys.cloned())), mirror);
        Ok(())
    }

    /// Notes that a host of this name is declared, and why it is not registered: what it has is unknown, and not absent.
    pub fn declare(&self, name: &str, why: &str) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.waiting.insert(name.to_owned(), why.to_owned());
    }

    /// Registers an existing engine, in tests.
    pub fn insert(&self, name: &str, engine: Arc<dyn Engine>) {
        self.put(name, None, Mirror::new(name, engine));
    }

    fn put(&self, name: &str, way: Option<(Endpoint, Option<Keys>)>, engine: Mirror) {
        self.change(|known, version| {
            known.waiting.remove(name);
            known.engines.insert(name.to_owned(), Registered { way, version, engine: Arc::new(engine) })
        });
    }

    /// Forgets a host; its containers keep running.
    pub fn forget(&self, name: &str) {
        self.change(|known, _| {
            known.waiting.remove(name);
            known.engines.remove(name)
        });
    }

    /// Changes the set; what `change` returns is closed.
    fn change(&self, change: impl FnOnce(&mut Known, u64) -> Option<Registered>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let next = *self.version.borrow() + 1;
        let gone = change(&mut known, next);
        drop(known);
        if let Some(gone) = gone {
            gone.engine.close();
        }
        self.version.send_replace(next);
    }

    /// The engine of this name. [`Error::Unreachable`] if the host is declared and not registered yet;
    /// [`Error::NotFound`] if there is no such host.
    pub fn get(&self, name: &str) -> Result<Arc<dyn Engine>, Error> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(registered) = known.engines.get(name) {
            return Ok(match &self.permit {
                Some(permit) => Arc::new(registered.engine.permitted(permit.clone())),
                None => registered.engine.clone(),
            });
        }
        let doing = "looking it up";
        if let Some(why) = known.waiting.get(name) {
            return Err(Error::unreachable(name, doing, format!("it is not connected yet: {why}")));
        }
        let names: Vec<_> = known.engines.keys().chain(known.waiting.keys()).cloned().collect();
        let message = format!("no DockerHost of that name is declared (there are: {})", names.join(", "));
        Err(Error::not_found(name, doing, message))
    }

    /// Asks all hosts at once whether they answer, for a moment: what begins now need not wait for those that do not.
    pub async fn greet(&self) {
        let all: Vec<_> = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            known.engines.values().map(|registered| registered.engine.clone()).collect()
        };
        join_all(all.iter().map(|engine| engine.greet(GREETING))).await;
    }

    /// What is known of a registered host, without asking it.
    pub fn glance(&self, name: &str) -> Option<Glance> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.engines.get(name).map(|registered| registered.engine.glance())
    }

    /// From now on the host is the engine with this ID.
    pub fn accept(&self, name: &str, engine_id: &str) {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(registered) = known.engines.get(name) {
            registered.engine.know(engine_id);
        }
    }

    /// Whether the host is registered with exactly this endpoint and keys.
    pub fn is_registered(&self, name: &str, endpoint: &Endpoint, keys: Option<&Keys>) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let way = known.engines.get(name).and_then(|registered| registered.way.as_ref());
        way.is_some_and(|(known, material)| known == endpoint && material.as_ref() == keys)
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
        let known = hosts.known.read().unwrap_or_else(PoisonError::into_inner);
        let engines = &known.engines;
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
        hosts.register("a", &unix("/run/a.sock"), None, None).unwrap();
        let first = hosts.get("a").unwrap();
        hosts.register("a", &unix("/run/a.sock"), None, None).unwrap();
        assert_eq!(engine(&hosts), Arc::as_ptr(&first).cast::<()>() as usize);
        hosts.register("a", &unix("/run/b.sock"), None, None).unwrap();
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

    /// Regression 321: after a restart of the operator a host with a certificate was "not declared" for others until its own
    /// reconcile had read the Secret.
    #[test]
    fn a_host_that_is_declared_and_not_registered_is_unknown_and_not_absent() {
        let hosts = hosts();
        hosts.declare("far", "its Secret was not read");
        let error = hosts.get("far").err().unwrap();
        assert!(matches!(error, Error::Unreachable { .. }));
        assert_eq!(error.cause().message, "it is not connected yet: its Secret was not read");
        hosts.insert("far", Arc::new(FakeEngine::new("far")));
        assert!(hosts.get("far").is_ok());
        hosts.forget("far");
        assert!(matches!(hosts.get("far").err().unwrap(), Error::NotFound { .. }));
    }

    #[tokio::test]
    async fn events_of_a_host_registered_later_are_heard_and_of_a_forgotten_one_not() {
        let hosts = hosts();
        // The host's own object is woken too; that is not meant here.
        let mut events = hosts.events().filter(|hint| {
            let other = hint.as_ref().is_none_or(|owner| owner.kind == "K");
            std::future::ready(other)
        });
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
