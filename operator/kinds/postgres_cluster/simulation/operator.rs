//! One operator: production's pieces, put together as `cli/operator.rs` does, and taken down without a word.

use std::sync::Arc;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::engine::SimEngine;
use super::gate::Gate;
use super::sim::Sim;
use super::store::SimStore;
use crate::api::labels::Owner;
use crate::engine::docker::OwnBinary;
use crate::engine::hosts::Hosts;
use crate::kinds::containers::HOME as HOST;
use crate::kinds::postgres_cluster::PostgresClusterKind;
use crate::runtime::companions::WakeOwner;
use crate::runtime::metrics::Metrics;
use crate::runtime::{self, Clock, Kind, Trigger, janitor};
use crate::store::{MemoryStore, Objects, Store};

/// Hints that wait for a controller.
const HINTS: usize = 256;

/// An operator at work.
pub struct Operator {
    pub gate: Arc<Gate>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl Operator {
    pub fn start(sim: &Arc<Sim>, inner: &Arc<MemoryStore>, number: u32) -> Self {
        sim.note(format!("operator {number} starts"));
        let gate = Arc::new(Gate::new(number));
        let clock: Arc<dyn Clock> = sim.clock.clone();
        let store: Arc<dyn Store> = Arc::new(SimStore { inner: inner.clone(), sim: sim.clone(), gate: gate.clone() });
        let objects = Objects::new(store, clock.clone());
        let hosts = Arc::new(Hosts::new(Arc::new(OwnBinary::running())));
        hosts.insert(HOST, Arc::new(SimEngine::new(sim.clone(), gate.clone())));
        let (wake, woken) = woken();
        let postgres = Arc::new(PostgresClusterKind::new(hosts.clone(), objects.clone(), clock.clone(), wake));
        let (to_postgres, hints) = mpsc::channel(HINTS);
        let shutdown = CancellationToken::new();
        let controller =
            runtime::Controller::new(postgres, objects.clone(), clock).also_watch("secrets", |_| Some(Trigger::All));
        let metrics = controller.metrics();
        let mut tasks = JoinSet::new();
        tasks.spawn(controller.run(hints, shutdown.clone()));
        tasks.spawn(janitor::run(objects, shutdown.clone()));
        tasks.spawn(pass_on(hosts, woken, to_postgres, shutdown.clone()));
        Self { gate, metrics, shutdown, tasks }
    }

    /// kill -9: nothing of it acts any more.
    pub async fn crash(mut self) -> u64 {
        self.gate.kill();
        self.tasks.shutdown().await;
        self.metrics.panics.get()
    }

    /// SIGTERM: what is under way may end.
    pub async fn stop(mut self) -> u64 {
        self.shutdown.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.gate.kill();
        self.metrics.panics.get()
    }

    /// Reconciles that panicked.
    pub fn panics(&self) -> u64 {
        self.metrics.panics.get()
    }
}

async fn pass_on(
    hosts: Arc<Hosts>,
    mut woken: mpsc::UnboundedReceiver<(String, String)>,
    to_postgres: mpsc::Sender<Trigger>,
    shutdown: CancellationToken,
) {
    let mut events = hosts.events();
    loop {
        let hint = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            Some((namespace, name)) = woken.recv() => Trigger::Object { namespace, name },
            Some(hint) = events.next() => match hint {
                Some(owner) if owner.kind == PostgresClusterKind::NAME => {
                    Trigger::Object { namespace: owner.namespace, name: owner.name }
                }
                Some(_) => continue,
                None => Trigger::All,
            },
        };
        let _ = to_postgres.send(hint).await;
    }
}

/// What wakes clusters from their own conversations.
fn woken() -> (WakeOwner, mpsc::UnboundedReceiver<(String, String)>) {
    let (sender, woken) = mpsc::unbounded_channel();
    let wake = Arc::new(move |owner: &Owner| drop(sender.send((owner.namespace.clone(), owner.name.clone()))));
    (wake, woken)
}
