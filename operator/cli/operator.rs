//! `evenkeel operator`: starts the store, hosts, controllers and the API, and stops them in order.
//! Wiring only: it decides nothing, and no other file imports so many rooms.

mod containers;
mod leader;
mod opened;
mod snapshots;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::containers::EngineContainers;
use self::leader::Leader;
use self::opened::{Opened, take_over};
use super::datadir::{self, DataDir};
use super::error::{Error, failed};
use super::etcd;
use super::join;
use super::logging;
use super::managed::{self, Start};
use super::snapshot_store::{self, SnapshotStore};
use crate::api::chain::chain;
use crate::api::cluster::NodeInfo;
use crate::api::docker_host::DockerHost;
use crate::api::join::{Bundle, ETCD, KEYS};
use crate::api::pod_security::Level;
use crate::engine::docker::OwnBinary;
use crate::engine::hosts::{Hosts, local_endpoint};
use crate::kinds::docker_host::{DockerHostKind, local_host, register};
use crate::runtime::{Clock, Kind, SystemClock, leadership};
use crate::server::cluster::Cluster;
use crate::server::containers::Containers;
use crate::server::doors::Doors;
use crate::server::{self, audit, identity};
use crate::store::etcd::{AnnounceError, EtcdConfig, EtcdNodes};
use crate::store::snapshots::Snapshots;
use crate::store::{self, Candidate, Key, KeyFiles, Leadership, Objects, SqliteStore, generation, patiently};

/// Grace at shutdown for reconciles and requests under way (controllers limit themselves to 10 s).
const GRACE: Duration = Duration::from_secs(15);
/// Limit of open files that this process sets itself.
const FILES: u64 = 8192;
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
    /// Where the snapshots of the store are kept besides the data directory
    #[command(flatten)]
    pub snapshot_store: snapshot_store::Args,
    /// The etcd that this operator shares with others
    #[command(flatten)]
    pub shared: etcd::Args,
    /// The operators that this one joins
    #[command(flatten)]
    pub join: join::Args,
    /// The etcd that Evenkeel manages
    #[command(flatten)]
    pub managed: managed::Args,
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
        let mut running = tokio::select! {
            started = start(args) => started?,
            name = signals.next() => {
                tracing::info!("{name} before the operator had started; the next start goes on");
                return Ok(());
            }
        };
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
    if let Some(file) = &args.snapshot_store.snapshot_store {
        SnapshotStore::open(file)?;
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let starting = Start {
        args: &args.managed,
        dir: &path,
        named: args.shared.node.as_deref(),
        node: args.shared.node(),
        address: managed::address(args.listen, &args.advertise),
        prefix: &args.shared.etcd_prefix,
        clock: clock.clone(),
    };
    starting.begin().await?;
    let complete = async |bundle, asking| {
        let try_out = |bundle, config| usable(args, bundle, config, &clock);
        starting.complete(bundle, &asking, try_out).await
    };
    join::join(&args.join, &path, &starting.node, complete).await?;
    let mut managed = starting.open().await?;
    let config = match &managed {
        Some(_) if !args.shared.etcd_endpoints.is_empty() => {
            return Err(Error::Usage("--etcd-endpoints: the etcd of this node is managed by Evenkeel".to_owned()));
        }
        Some(managed) => Some(managed.config()?),
        None => args.shared.config(&path)?,
    };
    if managed.is_none() && config.as_ref().is_some_and(|config| config.managed) {
        return Err(Error::Failed(format!(
            "pki/etcd-member.json is missing in {}: put it back from a copy of pki/, or remove this node from its cluster and join again",
            path.display()
        )));
    }
    let node = managed.as_ref().map_or(starting.node.clone(), |managed| managed.node().to_owned());
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
            if let Some(store) = &opened.etcd {
                take_over((&args.home.store(), &path), seal.clone(), store, &clock).await?;
            }
            match &mut managed {
                Some(managed) => managed.served()?,
                None => etcd::keep(&path, &config)?,
            }
            opened
        }
        None => Opened::file(&args.home.store(), seal.clone(), &clock).await?,
    };
    let generation = patiently(|| opened.store.generation()).await;
    let generation = generation.map_err(failed(|| "cannot use the store".to_owned()))?;
    generation::note(&path, generation)
        .map_err(|source| Error::Io { doing: "note the generation".to_owned(), source })?;
    let snapshots = Arc::new(Snapshots::new(opened.store.clone(), seal, &path));
    let objects = Objects::new(opened.store, clock.clone());
    let hosts = Arc::new(Hosts::new(Arc::new(OwnBinary::running())).below(path.join("run")));
    patiently(|| register_hosts(&hosts, &objects, opened.etcd.is_some()))
        .await
        .map_err(failed(|| "cannot read the Docker hosts".to_owned()))?;
    let shutdown = CancellationToken::new();
    let mut parts = JoinSet::new();
    let leader = Arc::new(Leader::new(&hosts, &objects, &clock));
    let reached = identity.authority.reached().unwrap_or_else(|| address.to_string());
    let who = Candidate { node: node.clone(), address: reached.clone() };
    let cluster = opened.etcd.as_ref().map(|store| Cluster {
        node: node.clone(),
        managed: managed.is_some(),
        members: store.cluster(),
        nodes: store.nodes(),
        administrator: store.administrator().into(),
        leases: opened.leases.clone(),
    });
    if let Some(store) = &opened.etcd {
        let me = NodeInfo {
            name: node,
            address: reached,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: clock.now().to_string(),
        };
        let announcing = announced(store.nodes(), me, shutdown.clone()).await?;
        parts.spawn(async move { ("the name of this node", announcing.await) });
        if let Some(managed) = managed {
            let (looking, stop) = (managed.keep(store.cluster()), shutdown.clone());
            parts.spawn(async move {
                let ended = stop.run_until_cancelled(looking).await;
                ("this node's member of etcd", ended.map_or(Ok(()), Err))
            });
        }
    }
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
    let (leader_here, stop) = (leader.clone(), shutdown.clone());
    let writing = snapshots::Writing {
        snapshots: snapshots.clone(),
        store: args.snapshot_store.snapshot_store.clone(),
        leads: Box::new(move || leader_here.leads()),
        objects: objects.clone(),
        clock: clock.clone(),
    };
    parts.spawn(async move {
        stop.run_until_cancelled(writing.run()).await;
        ("the snapshots of the store", Ok(()))
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
        cluster,
        snapshots: Some(snapshots),
    };
    let serving = server::run(doors, identity, objects, clock, behind, shutdown.clone());
    parts.spawn(async { ("the API", serving.await.map_err(failed(|| "the API stopped".to_owned()))) });
    Ok(Running { address, closed, kubeconfig, shutdown, parts, file: opened.file, _data_dir: data_dir })
}

/// Opens the store of the operators that this node joins, with what it got from them: their etcd must be reached from here,
/// and the keys must open the Secrets.
async fn usable(args: &Args, bundle: Bundle, managed: Option<EtcdConfig>, clock: &Arc<dyn Clock>) -> Result<(), Error> {
    let unfit = |why: &str| Error::Failed(format!("this node was let in, but {why}; nothing was written"));
    let seal = args.home.keys().joining(bundle.text(KEYS)).map_err(|error| unfit(&chain(&error)))?;
    let config = match managed.map_or_else(|| args.shared.named(), |config| Ok(Some(config)))? {
        Some(named) => named,
        None => etcd::parse(bundle.text(ETCD).unwrap_or_default()).map_err(|error| unfit(&chain(&error)))?,
    };
    let opened = Opened::etcd(&config, seal, clock).await.map_err(|error| unfit(&chain(&error)))?;
    let secrets = opened.store.list_of(&["secrets"], None).await;
    secrets.map(drop).map_err(|error| unfit(&format!("cannot read the store: {}", chain(&error))))
}

/// Tells the others of this node, and keeps telling them. An error: another operator has its name.
async fn announced(
    nodes: EtcdNodes,
    me: NodeInfo,
    shutdown: CancellationToken,
) -> Result<impl Future<Output = Result<(), Error>>, Error> {
    let taken = |error: AnnounceError| Error::Failed(error.to_string());
    let lease = match nodes.announce(&me).await {
        Ok(lease) => Some(lease),
        Err(error @ AnnounceError::Taken { .. }) => return Err(taken(error)),
        // It is told when the store answers.
        Err(AnnounceError::Store(_)) => None,
    };
    Ok(async move {
        let ended = shutdown.run_until_cancelled(nodes.keep(&me, lease)).await;
        if ended.is_none() {
            nodes.leave(&me.name).await;
        }
        ended.map_or(Ok(()), |error| Err(taken(error)))
    })
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

/// Creates a DockerHost for this machine's engine if there is none and no other operator would take it for its own machine's, and
/// registers the existing hosts before any
/// controller runs. What cannot be registered is unknown to the controllers, and its own one reports the problem.
async fn register_hosts(hosts: &Hosts, objects: &Objects, is_one_of_several: bool) -> Result<(), store::Error> {
    let (declared, _) = objects.list::<DockerHost>(DockerHostKind::RESOURCE, None).await?;
    if declared.is_empty() && is_one_of_several {
        tracing::warn!("no Docker host; declare each by an address that all nodes reach: evenkeel host add");
    } else if declared.is_empty() {
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
