//! `evenkeel operator`: starts the store, hosts, controllers and the API, and stops them in order.
//! Wiring only: it decides nothing, and no other file imports so many rooms.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::datadir::{self, DataDir};
use super::error::Error;
use super::etcd;
use super::join;
use super::logging;
use crate::api::chain::chain;
use crate::api::docker_host::{DockerHost, LOCAL};
use crate::api::failure::{Class, Failure};
use crate::api::join::{Bundle, ETCD, KEYS};
use crate::api::labels;
use crate::api::pod_security::Level;
use crate::api::sync::lock;
use crate::engine::docker::OwnBinary;
use crate::engine::hosts::{Hosts, local_endpoint};
use crate::engine::{self, ContainerSeen, Engine, EventHint};
use crate::kinds::deployment::DeploymentKind;
use crate::kinds::docker_host::{DockerHostKind, local_host, register};
use crate::kinds::load_balancer::LoadBalancerKind;
use crate::kinds::port_reservation::PortReservationKind;
use crate::kinds::postgres_cluster::PostgresClusterKind;
use crate::kinds::redis_cluster::RedisClusterKind;
use crate::kinds::redis_sentinel::RedisSentinelKind;
use crate::runtime::{Clock, Kind, Manager, SystemClock, janitor, leadership};
use crate::server::containers::{self, Connection, Containers, Place};
use crate::server::doors::Doors;
use crate::server::{self, audit, identity};
use crate::store::etcd::EtcdConfig;
use crate::store::import::import;
use crate::store::{
    self, Candidate, EtcdStore, Key, KeyFiles, Leadership, Leases, Objects, Seal, SoleLeader, SqliteStore, Store,
};

/// Grace at shutdown for reconciles and requests under way (controllers limit themselves to 10 s).
const GRACE: Duration = Duration::from_secs(15);
/// Limit of open files that this process sets itself.
const FILES: u64 = 8192;
/// Timeout for connecting to a port of a pod on this machine.
const CONNECT: Duration = Duration::from_secs(5);

/// Most hints that wait for the manager; more are lost, and then it looks at everything.
const HINTS: usize = 1024;

/// Name of the systemd credential with the keys.
const CREDENTIAL: &str = "evenkeel.kek";

/// Runs the long-running controller and its API.
#[derive(Debug, Clone, clap::Args)]
// Also a part of `up`, whose arguments have the same names.
#[group(skip)]
pub struct Args {
    /// The data directory and its keys
    #[command(flatten)]
    pub home: Home,
    /// Address that the API listens on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7443")]
    pub listen: SocketAddr,
    /// Addresses or names, without a port, by which other machines reach the API; they are in its certificate
    #[arg(long, value_name = "ADDRESS,...", value_delimiter = ',', value_parser = host)]
    pub advertise: Vec<ServerName<'static>>,
    /// The etcd that this operator shares with others
    #[command(flatten)]
    pub shared: etcd::Args,
    /// The operators that this one joins
    #[command(flatten)]
    pub join: join::Args,
    /// `all`: the audit log has reads, too. `required`: nothing is changed that the audit log cannot record
    #[arg(long, value_name = "RULE,...", value_delimiter = ',')]
    pub audit: Vec<audit::Rule>,
    /// Pod Security level of a new namespace that names none: privileged, baseline or restricted
    #[arg(long, value_name = "LEVEL", default_value_t = Level::Baseline)]
    pub default_pod_security: Level,
}

impl Args {
    /// The data directory; the default if none is set.
    pub fn data_dir(&self) -> PathBuf {
        self.home.dir()
    }
}

/// An address or a name of a machine.
fn host(text: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(text.to_owned()).map_err(|_| "this is no address and no name of a machine".to_owned())
}

/// The data directory and its keys.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Home {
    /// Folder of the state, the keys and the kubeconfig [default: /var/lib/evenkeel as root, else the XDG data folder]
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// File with the keys that seal Secrets at rest, one a line; the first seals, all open [default: the systemd
    /// credential evenkeel.kek, else pki/secrets.key in the data directory]
    #[arg(long, global = true, value_name = "FILE")]
    pub encryption_key_file: Option<PathBuf>,
}

impl Home {
    /// The data directory; the default if none is set.
    pub fn dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| datadir::default_dir(|name| std::env::var(name).ok()))
    }

    /// The store's file.
    pub fn store(&self) -> PathBuf {
        self.dir().join("store.db")
    }

    /// The files with the keys.
    pub fn keys(&self) -> KeyFiles {
        let credential = || Some(PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join(CREDENTIAL));
        let given = self.encryption_key_file.clone().or_else(|| credential().filter(|path| path.exists()));
        KeyFiles::new(&self.dir(), given)
    }
}

/// Runs the verb until SIGTERM or SIGINT.
pub fn run(args: &Args) -> Result<(), Error> {
    logging::init("info");
    runtime()?.block_on(async {
        let mut signals = Signals::new()?;
        let mut running = start(args).await?;
        if running.closed.is_none() {
            tracing::info!(address = %running.address, kubeconfig = %running.kubeconfig.display(), "serving");
        }
        let ended = tokio::select! {
            name = signals.next() => {
                tracing::info!("{name}: finishing work in progress; a second signal ends it at once");
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

/// The operator's runtime: several threads, so that one busy reconcile does not delay others; only two, so
/// that an idle operator stays small.
pub fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|source| Error::Io { doing: "start the runtime".to_owned(), source })
}

/// Receives SIGTERM and SIGINT from the moment of its creation.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Starts to listen.
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

/// A running operator.
pub struct Running {
    /// Address of the API.
    pub address: SocketAddr,
    /// Why the API did not listen there at the start. It is opened as soon as possible; everything else runs.
    pub closed: Option<String>,
    /// Path of the kubeconfig.
    pub kubeconfig: PathBuf,
    shutdown: CancellationToken,
    parts: JoinSet<Part>,
    /// The store of the only operator, which is closed at the end.
    file: Option<Arc<SqliteStore>>,
    // Released last.
    _data_dir: DataDir,
}

impl Running {
    /// Waits until a part stops by itself, which is always an error.
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

    /// Accepts no more requests, lets reconciles finish, closes the store.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        let all = async { while self.parts.join_next().await.is_some() {} };
        if timeout(GRACE, all).await.is_err() {
            tracing::warn!("something was not finished in time; it is repeated at the next start");
            self.parts.shutdown().await;
        }
        if let Some(file) = self.file {
            file.close().await;
        }
        tracing::info!("stopped; the containers keep running");
    }
}

/// Starts all parts; on return the kubeconfig is written, and the API listens unless its port is taken.
pub async fn start(args: &Args) -> Result<Running, Error> {
    let path = args.data_dir();
    let data_dir = DataDir::claim(&path)?;
    raise_files();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    join::join(&args.join, &path, &args.shared.node(), |bundle| usable(args, bundle, &clock)).await?;
    let config = args.shared.config(&path)?;
    let doors = Doors::open(args.listen, &datadir::sockets(&path)).await;
    let mut doors = doors.map_err(|source| Error::Io { doing: format!("listen on {}", args.listen), source })?;
    let (address, closed) = (doors.address, doors.closed.clone());
    let identity = identity::prepare(&path, address, &args.advertise, clock.as_ref())
        .map_err(failed(|| format!("cannot prepare keys and kubeconfig in {}", path.display())))?;
    doors.audit = Some(audit::Audit::open(&path, args.audit.clone(), clock.clone()));
    let kubeconfig = identity.kubeconfig.clone();
    let seal = args.home.keys().read_or_make().map_err(failed(|| "cannot read the keys of the Secrets".to_owned()))?;
    let opened = match config {
        Some(config) => {
            let opened = Opened::etcd(&config, seal.clone(), &clock).await?;
            take_over(&args.home.store(), seal, &*opened.store).await?;
            etcd::keep(&path, &config)?;
            opened
        }
        None => Opened::file(&args.home.store(), seal, &clock).await?,
    };
    let objects = Objects::new(opened.store, clock.clone());
    let hosts = Arc::new(Hosts::new(Arc::new(OwnBinary::running())).below(path.join("run")));
    register_hosts(&hosts, &objects).await.map_err(failed(|| "cannot read the Docker hosts".to_owned()))?;
    let shutdown = CancellationToken::new();
    let mut parts = JoinSet::new();
    let leader = Arc::new(Leader::new(&hosts, &objects, &clock));
    let reached = identity.authority.reached().unwrap_or_else(|| address.to_string());
    let who = Candidate { node: args.shared.node(), address: reached };
    let nodes = nodes(opened.leases.clone(), who.node.clone());
    let (leading, following) = (leader.clone(), leader.clone());
    let (leases, stop) = (opened.leases, shutdown.clone());
    parts.spawn(async move {
        let lead = |leadership: &Leadership, stop| leading.clone().lead(leadership, stop);
        leadership::run(leases, who, stop, lead).await;
        ("the leadership", Ok(()))
    });
    // Every operator knows its hosts, so that one that begins to lead need not ask them first.
    let (hints, stop) = (hosts.events(), shutdown.clone());
    parts.spawn(async move {
        stop.run_until_cancelled(following.follow(hints)).await;
        ("the mirror of the hosts", Ok(()))
    });
    let (registering, stop) = (register::follow(hosts.clone(), objects.clone()), shutdown.clone());
    parts.spawn(async move {
        stop.run_until_cancelled(registering).await;
        ("the registration of hosts", Ok(()))
    });
    let planner: server::Planner = Arc::new(move |object| {
        let manager = leader.manager();
        Box::pin(async move { manager.preview(object).await })
    });
    let containers: Arc<dyn Containers> = Arc::new(EngineContainers(hosts));
    let behind = server::Behind {
        planner: Some(planner),
        containers: Some(containers),
        default_level: args.default_pod_security,
        nodes: Some(nodes),
    };
    let serving = server::run(doors, identity, objects, clock, behind, shutdown.clone());
    parts.spawn(async { ("the API", serving.await.map_err(failed(|| "the API stopped".to_owned()))) });
    Ok(Running { address, closed, kubeconfig, shutdown, parts, file: opened.file, _data_dir: data_dir })
}

/// Opens the store of the operators that this node joins, with what it got from them: their etcd must be reached from here,
/// and the keys must open the Secrets.
async fn usable(args: &Args, bundle: Bundle, clock: &Arc<dyn Clock>) -> Result<(), Error> {
    let unfit = |why: &str| Error::Failed(format!("this node was let in, but {why}; nothing was written"));
    let seal = args.home.keys().joining(bundle.text(KEYS)).map_err(|error| unfit(&chain(&error)))?;
    let config = match args.shared.named()? {
        Some(named) => named,
        None => etcd::parse(bundle.text(ETCD).unwrap_or_default()).map_err(|error| unfit(&chain(&error)))?,
    };
    let opened = Opened::etcd(&config, seal, clock).await.map_err(|error| unfit(&chain(&error)))?;
    let secrets = opened.store.list_of(&["secrets"], None).await;
    secrets.map(drop).map_err(|error| unfit(&format!("cannot read the store: {}", chain(&error))))
}

/// The nodes whose operators are known to run: this one, and the one that leads.
fn nodes(leases: Arc<dyn Leases>, own: String) -> server::Nodes {
    Arc::new(move || {
        let (leases, own) = (leases.clone(), own.clone());
        Box::pin(
            async move { Ok(leases.leader().await?.map(|leader| leader.who.node).into_iter().chain([own]).collect()) },
        )
    })
}

/// The opened store, and the way to leadership over it.
struct Opened {
    store: Arc<dyn Store>,
    leases: Arc<dyn Leases>,
    file: Option<Arc<SqliteStore>>,
}

impl Opened {
    /// A file of this operator alone.
    async fn file(path: &Path, seal: Seal, clock: &Arc<dyn Clock>) -> Result<Self, Error> {
        let opened = SqliteStore::open(path, seal).await;
        let file = Arc::new(opened.map_err(failed(|| format!("cannot open the store {}", path.display())))?);
        let leases = Arc::new(SoleLeader::new(file.clone(), clock.clone()));
        Ok(Self { store: file.clone(), leases, file: Some(file) })
    }

    /// An etcd that several operators share.
    async fn etcd(config: &EtcdConfig, seal: Seal, clock: &Arc<dyn Clock>) -> Result<Self, Error> {
        let opened = EtcdStore::open(config, seal, clock.clone()).await;
        let store = opened.map_err(failed(|| format!("cannot open the store in {}", config.endpoints.join(", "))))?;
        let leases = Arc::new(store.leases());
        Ok(Self { store: Arc::new(store), leases, file: None })
    }
}

/// Takes the objects of this machine's own store, if it has one, over into a shared one, and keeps its file under another name.
async fn take_over(file: &Path, seal: Seal, store: &dyn Store) -> Result<(), Error> {
    if !file.exists() {
        return Ok(());
    }
    let doing = || format!("cannot take the objects of {} over into etcd", file.display());
    let old = SqliteStore::open(file, seal).await.map_err(failed(doing))?;
    let copied = import(&old, store).await.map_err(failed(doing))?;
    old.close().await;
    let kept = file.with_extension("db.imported");
    let renamed = std::fs::rename(file, &kept);
    renamed
        .map_err(|source| Error::Io { doing: format!("rename {} to {}", file.display(), kept.display()), source })?;
    tracing::info!(objects = copied, kept = %kept.display(), "the objects of this machine's store are in etcd now");
    Ok(())
}

/// What runs while this operator leads, and what it needs for that.
struct Leader {
    hosts: Arc<Hosts>,
    clock: Arc<dyn Clock>,
    /// Hints of the hosts, to the manager that runs.
    hints: broadcast::Sender<EventHint>,
    /// The manager of this leadership.
    leading: Mutex<Option<Arc<Manager>>>,
    /// Plans while another operator leads. It never runs.
    other: Arc<Manager>,
}

impl Leader {
    fn new(hosts: &Arc<Hosts>, objects: &Objects, clock: &Arc<dyn Clock>) -> Self {
        let other = Arc::new(manager(hosts, objects, clock));
        let (hints, leading) = (broadcast::Sender::new(HINTS), Mutex::default());
        Self { hosts: hosts.clone(), clock: clock.clone(), hints, leading, other }
    }

    /// The manager that can plan now.
    fn manager(&self) -> Arc<Manager> {
        lock(&self.leading).clone().unwrap_or_else(|| self.other.clone())
    }

    /// Passes on what the hosts say, for ever.
    async fn follow(self: Arc<Self>, mut hints: impl Stream<Item = EventHint> + Unpin) {
        while let Some(hint) = hints.next().await {
            // An error means that this operator does not lead.
            let _ = self.hints.send(hint);
        }
    }

    /// Reconciles and sweeps for this leadership until `stop`. Everything is made anew for each leadership, so that nothing
    /// of an earlier one goes on.
    fn lead(self: Arc<Self>, leadership: &Leadership, stop: CancellationToken) -> impl Future<Output = ()> + use<> {
        let objects = Objects::led(leadership, self.clock.clone());
        let tenure = leadership.tenure().clone();
        let hosts = Arc::new(self.hosts.permitted(Arc::new(move || tenure.leads())));
        let manager = Arc::new(manager(&hosts, &objects, &self.clock));
        let hints = stream::unfold(self.hints.subscribe(), |mut hints| async {
            match hints.recv().await {
                Ok(hint) => Some((hint, hints)),
                Err(RecvError::Lagged(_)) => Some((None, hints)),
                Err(RecvError::Closed) => None,
            }
        });
        async move {
            *lock(&self.leading) = Some(manager.clone());
            let _ends = Ends(&self.leading);
            hosts.greet().await;
            tokio::join!(manager.run(hints, stop.clone()), janitor::run(objects, stop));
        }
    }
}

/// Takes the manager of a leadership away at its end.
struct Ends<'a>(&'a Mutex<Option<Arc<Manager>>>);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        *lock(self.0) = None;
    }
}

/// The error of a part of the operator.
pub fn failed<E: std::error::Error + Send + Sync + 'static>(doing: impl Fn() -> String) -> impl Fn(E) -> Error {
    move |source| Error::Operator { doing: doing(), source: Box::new(source) }
}

/// Allows as many open files as the system lets this process have: each connection of the API is one, and Docker and the
/// store need theirs.
fn raise_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(FILES)), hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

/// Creates a DockerHost for this machine's engine if there is none, and registers the existing hosts before any
/// controller runs. What cannot be registered is unknown to the controllers, and its own one reports the problem.
async fn register_hosts(hosts: &Hosts, objects: &Objects) -> Result<(), store::Error> {
    let (declared, _) = objects.list::<DockerHost>(DockerHostKind::RESOURCE, None).await?;
    if declared.is_empty() {
        match local_endpoint() {
            Ok(endpoint) => {
                let local = local_host(&endpoint);
                let name = local.metadata.name.clone().unwrap_or_default();
                let key = Key { resource: DockerHostKind::RESOURCE.to_owned(), namespace: String::new(), name };
                objects.create(&key, json!(local)).await?;
            }
            Err(error) => tracing::warn!(%error, "no Docker host; declare one"),
        }
    }
    register::all(hosts, objects).await
}

/// The manager of all kinds, over these hosts and objects.
fn manager(hosts: &Arc<Hosts>, objects: &Objects, clock: &Arc<dyn Clock>) -> Manager {
    let mut manager = Manager::new(objects.clone(), clock.clone());
    let wake = manager.wake();
    manager.add(DockerHostKind::new(hosts.clone(), objects.clone(), wake.clone()));
    manager.add(PortReservationKind::new(hosts.clone(), objects.clone()));
    manager.add(PostgresClusterKind::new(hosts.clone(), objects.clone(), clock.clone(), wake.clone()));
    manager.add(RedisSentinelKind::new(hosts.clone(), objects.clone(), clock.clone(), wake.clone()));
    manager.add(RedisClusterKind::new(hosts.clone(), objects.clone(), clock.clone(), wake.clone()));
    manager.add(DeploymentKind::new(hosts.clone(), objects.clone(), wake.clone()));
    manager.add(LoadBalancerKind::new(hosts.clone(), objects.clone(), clock.clone(), wake));
    manager
}

/// Gives the server access to containers through the engines.
struct EngineContainers(Arc<Hosts>);

impl EngineContainers {
    /// The engine of a place and the container there, if it belongs to the pod that it is said to be of: a status alone
    /// opens no container.
    async fn enter(&self, place: &Place) -> Result<(Arc<dyn Engine>, ContainerSeen), Failure> {
        let engine = self.0.get(&place.host)?;
        let seen = engine.list_containers(&place.owner).await?;
        let found = entered(&seen, place).cloned().ok_or_else(|| {
            let message = format!("no container {} of pod {} is on host {}", place.container, place.pod, place.host);
            Failure::new(Class::NotFound, message)
        })?;
        Ok((engine, found))
    }
}

/// The container that is meant, among those of the pod's owner.
fn entered<'a>(seen: &'a [ContainerSeen], place: &Place) -> Option<&'a ContainerSeen> {
    let is_meant = |one: &&ContainerSeen| one.id == place.container || one.name == place.container;
    seen.iter().filter(is_meant).find(|one| one.labels.get(labels::MEMBER) == Some(&place.pod))
}

#[async_trait::async_trait]
impl Containers for EngineContainers {
    async fn logs(&self, place: &Place, options: containers::LogOptions) -> Result<containers::Outputs, Failure> {
        let containers::LogOptions { follow, tail, since, timestamps, previous } = options;
        let options = engine::LogOptions { follow, tail, since, timestamps, previous };
        let (engine, container) = self.enter(place).await?;
        Ok(outputs(engine.logs(&container.id, &options).await?))
    }

    async fn exec(&self, place: &Place, command: &containers::Command) -> Result<containers::Session, Failure> {
        let containers::Command { words, stdin, tty } = command.clone();
        let request = engine::ExecRequest { command: words, stdin, tty };
        let (engine, container) = self.enter(place).await?;
        let engine::ExecSession { id, output, input } = engine.exec_attached(&container.id, &request).await?;
        Ok(containers::Session { id, output: outputs(output), input })
    }

    async fn resize(&self, place: &Place, id: &str, size: (u16, u16)) -> Result<(), Failure> {
        Ok(self.0.get(&place.host)?.exec_resize(id, size).await?)
    }

    async fn code(&self, place: &Place, id: &str) -> Result<Option<i64>, Failure> {
        Ok(self.0.get(&place.host)?.exec_code(id).await?)
    }

    async fn connect(&self, place: &Place, address: Option<IpAddr>, port: u16) -> Result<Connection, Failure> {
        let (engine, container) = self.enter(place).await?;
        // The networks of this machine's own engine can be reached as they are; others by a process in the container.
        let mut said = None;
        if let Some(address) = address.filter(|_| place.host == LOCAL) {
            match timeout(CONNECT, TcpStream::connect((address, port))).await {
                Ok(Ok(stream)) => {
                    let (read, write) = stream.into_split();
                    return Ok(Connection { read: Box::pin(read), write: Box::pin(write) });
                }
                Ok(Err(error)) => said = Some(error.to_string()),
                Err(_) => said = Some(format!("no answer within {} s", CONNECT.as_secs())),
            }
        }
        // A port that only the pod itself can reach; a container without a probe does not have Evenkeel's binary.
        let dialed = engine.dial(&container.id, &format!("tcp:127.0.0.1:{port}")).await;
        let stream = dialed.map_err(|error| match said {
            Some(said) => Failure::new(Class::Transient, format!("port {port} of the pod: {said}")),
            None => error.into(),
        })?;
        let (read, write) = tokio::io::split(stream);
        Ok(Connection { read: Box::pin(read), write: Box::pin(write) })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::labels::Owner;

    /// Regression 175: `exec`, `logs` and `port-forward` entered whatever container a status named, also one that Evenkeel has
    /// not made. The engine is asked first whether the container is of that pod.
    #[test]
    fn only_a_container_of_the_pod_is_entered() {
        let owner = Owner { kind: "Deployment".into(), namespace: "n".into(), name: "web".into() };
        let one = |id: &str, pod: &str| ContainerSeen {
            id: id.to_owned(),
            name: format!("n.{pod}"),
            labels: owner.member_labels(pod),
            state: engine::ContainerState::Running,
            image: "i".to_owned(),
            networks: Default::default(),
            exit_code: None,
        };
        let seen = [one("a1", "web-1"), one("b2", "web-2")];
        let enter = |container: &str| {
            let (host, pod) = (LOCAL.to_owned(), "web-1".to_owned());
            let place = Place { host, container: container.to_owned(), owner: owner.clone(), pod };
            entered(&seen, &place).map(|one| one.id.clone())
        };
        assert_eq!((enter("a1"), enter("n.web-1")), (Some("a1".to_owned()), Some("a1".to_owned())));
        assert_eq!((enter("b2"), enter("somebody-elses")), (None, None));
    }
}
