//! The wiring of `evenkeel operator`: opens the store, starts the controllers and the server, ends them in order.
//! The one room beside main that knows all others.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::datadir::{self, DataDir};
use super::error::Error;
use crate::engine::docker::OwnBinary;
use crate::engine::hosts::{Hosts, local_endpoint};
use crate::kinds::docker_host::{DockerHosts, local_host};
use crate::kinds::postgres_cluster;
use crate::runtime::clock::SystemClock;
use crate::runtime::{Controller, Kind, Trigger, janitor};
use crate::server::{self, Planner, identity};
use crate::store::sqlite::SqliteStore;
use crate::store::{Change, Clock, Key, Objects};

/// Hints that wait for a controller; beyond that the sender waits.
const HINTS: usize = 1024;

/// Keeps everything as declared until it is told to stop.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where the state, the certificates and the kubeconfig are [default: /var/lib/evenkeel for root, else the XDG data folder]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address of the API
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7443")]
    pub listen: SocketAddr,
}

/// An operator that runs.
pub struct Running {
    /// The kubeconfig that clients use.
    pub kubeconfig: PathBuf,
    /// Where the API listens.
    pub address: SocketAddr,
    tasks: JoinSet<()>,
    store: Arc<SqliteStore>,
    shutdown: CancellationToken,
    _dir: DataDir,
}

impl Running {
    /// Stops accepting, lets what is under way finish, closes the store.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.store.close().await;
    }

    /// Ends when a part of the operator ended, which none does by itself.
    pub async fn failed(&mut self) {
        let _ = self.tasks.join_next().await;
    }
}

/// Runs the operator until SIGTERM or SIGINT.
pub async fn run(args: Args) -> Result<(), Error> {
    let mut running = start(&args).await?;
    tracing::info!(address = %running.address, kubeconfig = %running.kubeconfig.display(), "serving");
    let outcome = tokio::select! {
        () = stopped() => Ok(()),
        () = running.failed() => Err(Error::Failed("a part of the operator ended unexpectedly; see the log".into())),
    };
    tracing::info!("stopping");
    running.stop().await;
    outcome
}

/// SIGTERM or SIGINT came.
pub async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut term), Ok(mut int)) => tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        },
        // Without handlers the signals end the process by themselves.
        _ => std::future::pending().await,
    }
}

fn cannot<E: std::error::Error + Send + Sync + 'static>(doing: String) -> impl FnOnce(E) -> Error {
    move |source| Error::Operator { doing, source: Box::new(source) }
}

/// Starts all parts; nothing is left running if one cannot start.
pub async fn start(args: &Args) -> Result<Running, Error> {
    // Only fails if somebody installed one before us, and then there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let path = args.data_dir.clone().unwrap_or_else(|| datadir::default_dir(|name| std::env::var(name).ok()));
    let dir = DataDir::claim(&path)?;
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(cannot(format!("cannot listen on {}; choose another --listen or stop who does", args.listen)))?;
    let address = listener.local_addr().map_err(cannot("cannot tell the address listened on".into()))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = SqliteStore::open(path.join("store.db"))
        .await
        .map_err(cannot(format!("cannot open the store {}", path.join("store.db").display())))?;
    let store = Arc::new(store);
    let objects = Objects::new(store.clone(), clock.clone());
    let identity = identity::prepare(&path, address, &*clock)
        .map_err(cannot(format!("cannot prepare certificates and kubeconfig in {}", path.display())))?;
    let kubeconfig = identity.kubeconfig.clone();
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();

    let hosts =
        Hosts::local(Arc::new(OwnBinary::running())).map_err(cannot("cannot use the local Docker engine".into()))?;
    let hosts = Arc::new(hosts);
    declare_local(&objects).await?;
    let (wake, woken) = mpsc::unbounded_channel();
    let clusters = postgres_cluster::Controller::new(hosts.clone(), objects.clone(), clock.clone(), wake);
    let clusters = Arc::new(clusters);
    let (hints, heard) = mpsc::channel(HINTS);
    tasks.spawn(hint(hosts.clone(), woken, hints, shutdown.clone()));
    let controller = Controller::new(clusters.clone(), objects.clone(), clock.clone())
        .also_watch("secrets", owner::<postgres_cluster::Controller>);
    tasks.spawn(controller.run(heard, shutdown.clone()));
    // Held by the task, so that the channel stays open and silent.
    let (quiet, none) = mpsc::channel(1);
    let docker_hosts =
        Controller::new(Arc::new(DockerHosts::new(hosts, store.clone())), objects.clone(), clock.clone());
    let watching = shutdown.clone();
    tasks.spawn(async move {
        docker_hosts.run(none, watching).await;
        drop::<mpsc::Sender<Trigger>>(quiet);
    });
    tasks.spawn(janitor::run(objects.clone(), shutdown.clone()));
    let serving = server::run(
        listener,
        identity,
        objects.clone(),
        clock.clone(),
        Some(planner(clusters, clock)),
        shutdown.clone(),
    );
    tasks.spawn(async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "the API could not be served");
        }
    });
    Ok(Running { kubeconfig, address, tasks, store, shutdown, _dir: dir })
}

/// The local engine is declared where no host is.
async fn declare_local(objects: &Objects) -> Result<(), Error> {
    let doing = || "cannot declare the local Docker host".to_owned();
    let (declared, _) = objects.list::<Value>(DockerHosts::RESOURCE, None).await.map_err(cannot(doing()))?;
    if !declared.is_empty() {
        return Ok(());
    }
    let endpoint = local_endpoint().map_err(cannot(doing()))?;
    let host = serde_json::to_value(local_host(&endpoint)).map_err(cannot(doing()))?;
    let key = Key {
        resource: DockerHosts::RESOURCE.into(),
        namespace: String::new(),
        name: host["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
    };
    objects.create(&key, host).await.map(drop).map_err(cannot(doing()))
}

/// Turns Docker's events and supervisors' news into hints for the clusters' controller.
async fn hint(
    hosts: Arc<Hosts>,
    mut woken: mpsc::UnboundedReceiver<(String, String)>,
    hints: mpsc::Sender<Trigger>,
    shutdown: CancellationToken,
) {
    let mut events = hosts.events();
    loop {
        let trigger = tokio::select! {
            () = shutdown.cancelled() => return,
            news = woken.recv() => match news {
                Some((namespace, name)) => Trigger::Object { namespace, name },
                None => return,
            },
            event = events.next() => match event {
                Some(Some(owner)) if owner.kind == postgres_cluster::Controller::NAME => {
                    Trigger::Object { namespace: owner.namespace, name: owner.name }
                }
                Some(Some(_)) => continue,
                Some(None) => Trigger::All,
                None => return,
            },
        };
        if hints.send(trigger).await.is_err() {
            return;
        }
    }
}

/// Whom a changed Secret concerns: its owner; all, if it has none and so may be named by a spec.
fn owner<K: Kind>(change: &Change) -> Option<Trigger> {
    let object = change.new.as_ref().or(change.old.as_ref())?;
    let owners = object["metadata"]["ownerReferences"].as_array();
    let name =
        owners.into_iter().flatten().find(|owner| owner["kind"] == K::NAME).and_then(|owner| owner["name"].as_str());
    Some(match name {
        Some(name) => Trigger::Object { namespace: change.key.namespace.clone(), name: name.to_owned() },
        None => Trigger::All,
    })
}

/// The planner behind `evenkeel plan`: the same observe and plan as the loop's, and no act.
fn planner(clusters: Arc<postgres_cluster::Controller>, clock: Arc<dyn Clock>) -> Planner {
    Arc::new(move |object| {
        let (clusters, clock) = (clusters.clone(), clock.clone());
        Box::pin(async move {
            match dry_run(&*clusters, object, &*clock).await {
                Ok(plan) => plan,
                Err(note) => json!({"note": note, "steps": []}),
            }
        })
    })
}

async fn dry_run<K: Kind>(kind: &K, object: Value, clock: &dyn Clock) -> Result<Value, String> {
    if object["kind"] != K::NAME {
        return Err(format!("nothing is planned for a {}", object["kind"].as_str().unwrap_or("thing without a kind")));
    }
    let object: K::Object = serde_json::from_value(object).map_err(|error| error.to_string())?;
    let observed = kind.observe(&object).await.map_err(|failure| failure.to_string())?;
    let plan = kind.plan(&object, &observed, clock.now());
    let steps: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
    let status = serde_json::to_value(&plan.status).map_err(|error| error.to_string())?;
    Ok(json!({"status": status, "steps": steps, "requeue": plan.requeue.map(|after| after.as_secs_f64())}))
}
