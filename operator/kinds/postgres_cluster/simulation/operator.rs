//! One operator: production's parts, wired as in `cli/operator.rs`, and ended without notice.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::engine::SimEngine;
use super::gate::Gate;
use super::sim::Sim;
use super::store::SimStore;
use crate::engine::docker::OwnBinary;
use crate::engine::hosts::Hosts;
use crate::kinds::containers::HOME as HOST;
use crate::kinds::postgres_cluster::PostgresClusterKind;
use crate::runtime::metrics::Metrics;
use crate::runtime::{Clock, Manager, janitor};
use crate::store::{MemoryStore, Objects, Store};

/// A running operator.
pub struct Operator {
    pub gate: Arc<Gate>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl Operator {
    pub fn start(sim: &Arc<Sim>, inner: &Arc<MemoryStore>, number: u32, resync: Option<Duration>) -> Self {
        sim.note(format!("operator {number} starts"));
        let gate = Arc::new(Gate::new(number));
        let clock: Arc<dyn Clock> = sim.clock.clone();
        let store: Arc<dyn Store> = Arc::new(SimStore { inner: inner.clone(), sim: sim.clone(), gate: gate.clone() });
        let objects = Objects::new(store, clock.clone());
        let hosts = Arc::new(Hosts::new(Arc::new(OwnBinary::running())));
        hosts.insert(HOST, Arc::new(SimEngine::new(sim.clone(), gate.clone())));
        let mut manager = Manager::new(objects.clone(), clock.clone());
        if let Some(resync) = resync {
            manager = manager.resync(resync);
        }
        let postgres = PostgresClusterKind::new(hosts.clone(), objects.clone(), clock, manager.wake());
        let metrics = manager.add(postgres);
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let stop = shutdown.clone();
        tasks.spawn(async move { manager.run(hosts.events(), stop).await });
        tasks.spawn(janitor::run(objects, shutdown.clone()));
        Self { gate, metrics, shutdown, tasks }
    }

    /// kill -9: no part of it acts any more.
    pub async fn crash(mut self) -> u64 {
        self.gate.kill();
        self.tasks.shutdown().await;
        self.metrics.panics.get()
    }

    /// SIGTERM: running work may end.
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
