//! `evenkeel operator`: puts the rooms together: store, hosts, controllers, API; and takes them apart in order.
//! The wiring alone: it decides nothing, and no other file knows so many rooms.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::datadir::{self, DataDir};
use super::error::Error;
use super::logging;
use crate::api::docker_host::DockerHost;
use crate::api::failure::Failure;
use crate::api::labels::Owner;
use crate::engine;
use crate::engine::docker::OwnBinary;
use crate::engine::hosts::{Hosts, local_endpoint};
use crate::kinds::docker_host::{DockerHostKind, local_host};
use crate::kinds::{deployment, load_balancer, postgres_cluster};
use crate::runtime::companions::WakeOwner;
use crate::runtime::{Clock, Controller, Kind, SystemClock, Trigger, janitor};
use crate::server::containers::{self, Containers, Place};
use crate::server::{self, identity};
use crate::store::{self, Change, Key, Objects, SqliteStore, Store};

/// Hints that wait for a controller; more make the engines wait.
const HINTS: usize = 256;
/// Reconciles and requests under way may go on this long after shutdown was asked for (controllers bound themselves to 10 s).
const GRACE: Duration = Duration::from_secs(15);

/// Runs the long-running controller and its API.
#[derive(Debug, Clone, clap::Args)]
// Also a part of `up`, whose arguments are named the same.
#[group(skip)]
pub struct Args {
    /// Where the state, the keys and the kubeconfig are kept [default: /var/lib/evenkeel as root, else the XDG data folder]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where the API listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7443")]
    pub listen: SocketAddr,
}

impl Args {
    /// The data directory, the default filled in.
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| datadir::default_dir(|name| std::env::var(name).ok()))
    }
}

/// Runs the verb until SIGTERM or SIGINT.
pub fn run(args: &Args) -> Result<(), Error> {
    logging::init("info");
    runtime()?.block_on(async {
        let mut signals = Signals::new()?;
        let mut running = start(args).await?;
        tracing::info!(address = %running.address, kubeconfig = %running.kubeconfig.display(), "serving");
        let ended = tokio::select! {
            name = signals.next() => {
                tracing::info!("{name}: finishing what is under way; once more ends at once");
                Ok(())
            }
            error = running.ended() => Err(error),
        };
        tokio::select! {
            () = running.stop() => ended,
            _ = signals.next() => Err(Error::Failed("ended before everything was finished".to_owned())),
        }
    })
}

/// The runtime of the operator: several threads, so that one busy reconcile holds up no other; two, so that an idle operator stays small.
pub fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|source| Error::Io { doing: "start the runtime".to_owned(), source })
}

/// SIGTERM and SIGINT, heard from the moment this is made.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Begins to listen.
    pub fn new() -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(|source| Error::Io { doing: "listen for signals".to_owned(), source });
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// The next signal's name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

type Part = (&'static str, Result<(), Error>);

/// An operator at work.
pub struct Running {
    /// Where the API is.
    pub address: SocketAddr,
    /// How to get at it.
    pub kubeconfig: PathBuf,
    shutdown: CancellationToken,
    parts: JoinSet<Part>,
    store: Arc<SqliteStore>,
    // Given back last of all.
    _data_dir: DataDir,
}

impl Running {
    /// Waits until a part stops by itself, which none should.
    pub async fn ended(&mut self) -> Error {
        match self.parts.join_next().await {
            Some(Ok((_, Err(error)))) => error,
            Some(Ok((part, Ok(())))) => Error::Failed(format!("{part} stopped by itself")),
            Some(Err(panic)) => {
                Error::Operator { doing: "a part of the operator broke".to_owned(), source: panic.into() }
            }
            None => Error::Failed("nothing runs".to_owned()),
        }
    }

    /// Takes no more requests, lets reconciles finish, closes the store.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        let all = async { while self.parts.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, all).await.is_err() {
            tracing::warn!("something was not finished in time; it is repeated at the next start");
            self.parts.shutdown().await;
        }
        self.store.close().await;
        tracing::info!("stopped; what runs in Docker goes on");
    }
}

/// Starts everything; when it returns the kubeconfig is written and the API listens.
pub async fn start(args: &Args) -> Result<Running, Error> {
    let path = args.data_dir();
    let data_dir = DataDir::claim(&path)?;
    let listener = bind(args.listen).await?;
    let address = listener.local_addr().map_err(|source| Error::Io { doing: "listen".to_owned(), source })?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let identity = identity::prepare(&path, address, clock.as_ref())
        .map_err(failed(|| format!("cannot prepare keys and kubeconfig in {}", path.display())))?;
    let kubeconfig = identity.kubeconfig.clone();
    let file = path.join("store.db");
    let opened = SqliteStore::open(&file).await;
    let store = Arc::new(opened.map_err(failed(|| format!("cannot open the store {}", file.display())))?);
    let objects = Objects::new(store.clone(), clock.clone());
    let hosts = Arc::new(Hosts::new(Arc::new(OwnBinary::running())));
    register(&hosts, &objects).await.map_err(failed(|| "cannot read the Docker hosts".to_owned()))?;
    let shutdown = CancellationToken::new();
    let mut parts = JoinSet::new();
    let planner = start_controllers(&mut parts, &hosts, store.clone(), &objects, &clock, &shutdown);
    let sweeping = janitor::run(objects.clone(), shutdown.clone());
    parts.spawn(async {
        sweeping.await;
        ("the janitor", Ok(()))
    });
    let doors: Arc<dyn Containers> = Arc::new(Doors(hosts));
    let serving = server::run(listener, identity, objects, clock, Some(planner), Some(doors), shutdown.clone());
    parts.spawn(async { ("the API", serving.await.map_err(failed(|| "the API stopped".to_owned()))) });
    Ok(Running { address, kubeconfig, shutdown, parts, store, _data_dir: data_dir })
}

fn failed<E: std::error::Error + Send + Sync + 'static>(doing: impl Fn() -> String) -> impl Fn(E) -> Error {
    move |source| Error::Operator { doing: doing(), source: Box::new(source) }
}

async fn bind(listen: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(listen).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => Error::Failed(format!(
            "{listen} is in use by another process (another operator?); stop it or choose another address with --listen"
        )),
        std::io::ErrorKind::AddrNotAvailable => {
            Error::Failed(format!("{listen} is no address of this machine; choose another with --listen"))
        }
        _ => Error::Io { doing: format!("listen on {listen}"), source },
    })
}

/// Declares this machine's engine if none is declared, and makes the declared ones known before any controller asks.
/// Hosts with a certificate, or that cannot be used, are left to their controller, which says what is wrong.
async fn register(hosts: &Hosts, objects: &Objects) -> Result<(), store::Error> {
    let (mut declared, _) = objects.list::<DockerHost>(DockerHostKind::RESOURCE, None).await?;
    if declared.is_empty() {
        match local_endpoint() {
            Ok(endpoint) => {
                let local = local_host(&endpoint);
                let name = local.metadata.name.clone().unwrap_or_default();
                let key = Key { resource: DockerHostKind::RESOURCE.to_owned(), namespace: String::new(), name };
                objects.create(&key, json!(local)).await?;
                declared.push(local);
            }
            Err(error) => tracing::warn!(%error, "no Docker host; declare one"),
        }
    }
    for host in declared {
        let name = host.metadata.name.unwrap_or_default();
        if let (None, Ok(endpoint)) = (&host.spec.tls, host.spec.endpoint.parse())
            && let Err(error) = hosts.register(&name, &endpoint, None)
        {
            tracing::debug!(%error, host = name, "not registered yet");
        }
    }
    Ok(())
}

/// One controller a kind, and the hints of the engines and of conversations to whom they concern.
fn start_controllers(
    parts: &mut JoinSet<Part>,
    hosts: &Arc<Hosts>,
    store: Arc<dyn Store>,
    objects: &Objects,
    clock: &Arc<dyn Clock>,
    shutdown: &CancellationToken,
) -> server::Planner {
    let mut hints = Hints::default();
    let docker_hosts = Arc::new(DockerHostKind::new(hosts.clone(), store));
    let wake = hints.wake::<postgres_cluster::PostgresClusterKind>(parts, shutdown);
    let postgres = Arc::new(postgres_cluster::PostgresClusterKind::new(
        hosts.clone(),
        objects.clone(),
        clock.clone(),
        by_owner(wake),
    ));
    let wake = hints.wake::<deployment::DeploymentKind>(parts, shutdown);
    let deployments = Arc::new(deployment::DeploymentKind::new(hosts.clone(), objects.clone(), by_owner(wake)));
    let wake = by_owner(hints.wake::<load_balancer::LoadBalancerKind>(parts, shutdown));
    let balancers = Arc::new(load_balancer::LoadBalancerKind::new(hosts.clone(), objects.clone(), clock.clone(), wake));

    let controller = Controller::new(docker_hosts.clone(), objects.clone(), clock.clone());
    let controller = controller.also_watch("secrets", |_| Some(Trigger::All));
    drive(parts, &mut hints, controller, shutdown);
    let controller = Controller::new(postgres.clone(), objects.clone(), clock.clone())
        .also_watch("secrets", owner::<postgres_cluster::PostgresClusterKind>)
        .also_watch(DockerHostKind::RESOURCE, |_| Some(Trigger::All));
    drive(parts, &mut hints, controller, shutdown);
    let controller = Controller::new(deployments.clone(), objects.clone(), clock.clone())
        .also_watch("secrets", |_| Some(Trigger::All))
        .also_watch("configmaps", |_| Some(Trigger::All))
        .also_watch("loadbalancers.evenkeel.dev", |_| Some(Trigger::All))
        .also_watch(DockerHostKind::RESOURCE, |_| Some(Trigger::All));
    drive(parts, &mut hints, controller, shutdown);

    let controller = Controller::new(balancers.clone(), objects.clone(), clock.clone())
        .also_watch("secrets", owner::<load_balancer::LoadBalancerKind>)
        .also_watch(deployment::DeploymentKind::RESOURCE, |_| Some(Trigger::All))
        .also_watch(postgres_cluster::RESOURCE, |_| Some(Trigger::All));
    drive(parts, &mut hints, controller, shutdown);

    let passing = pass_on(hosts.clone(), hints, shutdown.clone());
    parts.spawn(async {
        passing.await;
        ("the passing on of hints", Ok(()))
    });
    planner(docker_hosts, postgres, deployments, balancers, clock.clone())
}

fn by_owner(wake: mpsc::UnboundedSender<(String, String)>) -> WakeOwner {
    // Nobody listens once the operator ends.
    Arc::new(move |owner: &Owner| drop(wake.send((owner.namespace.clone(), owner.name.clone()))))
}

/// Starts a controller, and lets it hear what concerns its kind.
fn drive<K: Kind>(
    parts: &mut JoinSet<Part>,
    hints: &mut Hints,
    controller: Controller<K>,
    shutdown: &CancellationToken,
) {
    let (sender, receiver) = match hints.waiting.remove(K::NAME) {
        Some(receiver) => (hints.by_kind.get(K::NAME).cloned(), receiver),
        None => {
            let (sender, receiver) = mpsc::channel(HINTS);
            (Some(sender), receiver)
        }
    };
    hints.by_kind.extend(sender.map(|sender| (K::NAME, sender)));
    let running = controller.run(receiver, shutdown.clone());
    parts.spawn(async {
        running.await;
        (K::NAME, Ok(()))
    });
}

/// Where each kind's controller hears of hints.
#[derive(Default)]
struct Hints {
    by_kind: BTreeMap<&'static str, mpsc::Sender<Trigger>>,
    /// Of those that are not started yet.
    waiting: BTreeMap<&'static str, mpsc::Receiver<Trigger>>,
}

impl Hints {
    /// What wakes the objects of a kind from its own conversations: (namespace, name).
    fn wake<K: Kind>(
        &mut self,
        parts: &mut JoinSet<Part>,
        shutdown: &CancellationToken,
    ) -> mpsc::UnboundedSender<(String, String)> {
        let (sender, receiver) = mpsc::channel(HINTS);
        self.by_kind.insert(K::NAME, sender.clone());
        self.waiting.insert(K::NAME, receiver);
        let (wake, mut woken) = mpsc::unbounded_channel::<(String, String)>();
        let shutdown = shutdown.clone();
        parts.spawn(async move {
            loop {
                let (namespace, name) = tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return ("the passing on of news", Ok(())),
                    Some(of) = woken.recv() => of,
                };
                // A controller that is gone is reported by its own part.
                let _ = sender.send(Trigger::Object { namespace, name }).await;
            }
        });
        wake
    }
}

/// Whom a changed Secret concerns: the object that owns it; all, if none does and so any spec may name it.
fn owner<K: Kind>(change: &Change) -> Option<Trigger> {
    let object = change.new.as_ref().or(change.old.as_ref())?;
    let owners = object["metadata"]["ownerReferences"].as_array();
    let owner = owners.into_iter().flatten().find(|owner| owner["kind"] == K::NAME);
    Some(match owner.and_then(|owner| owner["name"].as_str()) {
        Some(name) => Trigger::Object { namespace: change.key.namespace.clone(), name: name.to_owned() },
        None => Trigger::All,
    })
}

/// Passes on what engines hint at, to whom it concerns, until `shutdown`.
async fn pass_on(hosts: Arc<Hosts>, hints: Hints, shutdown: CancellationToken) {
    let mut events = hosts.events();
    loop {
        let hint = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            Some(hint) = events.next() => hint,
        };
        // A controller that is gone is reported by its own part; an owner may be of a kind that this operator does not drive.
        match hint {
            Some(owner) => {
                if let Some(kind) = hints.by_kind.get(owner.kind.as_str()) {
                    let _ = kind.send(Trigger::Object { namespace: owner.namespace, name: owner.name }).await;
                }
            }
            None => {
                for kind in hints.by_kind.values() {
                    let _ = kind.send(Trigger::All).await;
                }
            }
        }
    }
}

/// Answers `evenkeel plan` with the controllers' own eyes and their own planners.
fn planner(
    docker_hosts: Arc<DockerHostKind>,
    postgres: Arc<postgres_cluster::PostgresClusterKind>,
    deployments: Arc<deployment::DeploymentKind>,
    balancers: Arc<load_balancer::LoadBalancerKind>,
    clock: Arc<dyn Clock>,
) -> server::Planner {
    Arc::new(move |object: Value| {
        let (docker_hosts, postgres, clock) = (docker_hosts.clone(), postgres.clone(), clock.clone());
        let (deployments, balancers) = (deployments.clone(), balancers.clone());
        Box::pin(async move {
            let plan = match object["kind"].as_str() {
                Some(DockerHostKind::NAME) => preview(&*docker_hosts, object, &*clock).await,
                Some(postgres_cluster::PostgresClusterKind::NAME) => preview(&*postgres, object, &*clock).await,
                Some(deployment::DeploymentKind::NAME) => preview(&*deployments, object, &*clock).await,
                Some(load_balancer::LoadBalancerKind::NAME) => preview(&*balancers, object, &*clock).await,
                _ => Err("nothing is done about this kind beyond storing it".to_owned()),
            };
            plan.unwrap_or_else(|note| json!({"note": note, "steps": []}))
        })
    })
}

/// See and decide, without recording and doing.
async fn preview<K: Kind>(kind: &K, object: Value, clock: &dyn Clock) -> Result<Value, String> {
    let object: K::Object = serde_json::from_value(object).map_err(|error| format!("not a {}: {error}", K::NAME))?;
    let observed = kind.observe(&object).await.map_err(|failure| failure.message)?;
    let plan = kind.plan(&object, &observed, clock.now());
    let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
    Ok(json!({"status": plan.status, "steps": steps, "requeueSeconds": plan.requeue.map(|after| after.as_secs_f64())}))
}

/// The server's way into containers: the engines.
struct Doors(Arc<Hosts>);

#[async_trait::async_trait]
impl Containers for Doors {
    async fn logs(&self, place: &Place, options: containers::LogOptions) -> Result<containers::Outputs, Failure> {
        let containers::LogOptions { follow, tail, since, timestamps } = options;
        let options = engine::LogOptions { follow, tail, since, timestamps };
        Ok(outputs(self.0.get(&place.host)?.logs(&place.container, &options).await?))
    }

    async fn exec(&self, place: &Place, command: &containers::Command) -> Result<containers::Session, Failure> {
        let containers::Command { words, stdin, tty } = command.clone();
        let request = engine::ExecRequest { command: words, stdin, tty };
        let engine::ExecSession { id, output, input } =
            self.0.get(&place.host)?.exec_attached(&place.container, &request).await?;
        Ok(containers::Session { id, output: outputs(output), input })
    }

    async fn resize(&self, place: &Place, id: &str, size: (u16, u16)) -> Result<(), Failure> {
        Ok(self.0.get(&place.host)?.exec_resize(id, size).await?)
    }

    async fn code(&self, place: &Place, id: &str) -> Result<Option<i64>, Failure> {
        Ok(self.0.get(&place.host)?.exec_code(id).await?)
    }
}

fn outputs(outputs: engine::Outputs) -> containers::Outputs {
    outputs
        .map(|piece| match piece {
            Ok(engine::Output::Stdout(bytes)) => Ok(containers::Output::Stdout(bytes)),
            Ok(engine::Output::Stderr(bytes)) => Ok(containers::Output::Stderr(bytes)),
            Err(error) => Err(error.into()),
        })
        .boxed()
}
