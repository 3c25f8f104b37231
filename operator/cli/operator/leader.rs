//! What only the operator that leads runs: the controllers and the sweep, made anew for each of its leaderships.
//! Wiring only: it decides nothing.

use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt as _, stream};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

use crate::api::sync::lock;
use crate::engine::EventHint;
use crate::engine::hosts::Hosts;
use crate::kinds::backup::BackupKind;
use crate::kinds::database_restore::DatabaseRestoreKind;
use crate::kinds::deployment::DeploymentKind;
use crate::kinds::docker_host::DockerHostKind;
use crate::kinds::load_balancer::LoadBalancerKind;
use crate::kinds::port_reservation::PortReservationKind;
use crate::kinds::postgres_cluster::PostgresClusterKind;
use crate::kinds::redis_cluster::RedisClusterKind;
use crate::kinds::redis_sentinel::RedisSentinelKind;
use crate::kinds::scheduled_backup::ScheduledBackupKind;
use crate::kinds::volume_restore::VolumeRestoreKind;
use crate::runtime::{Clock, Manager, janitor};
use crate::store::{Leadership, Objects};

/// Most hints that wait for the manager; more are lost, and then it looks at everything.
const HINTS: usize = 1024;

/// What runs while this operator leads, and what it needs for that.
pub struct Leader {
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
    /// Nothing runs yet.
    pub fn new(hosts: &Arc<Hosts>, objects: &Objects, clock: &Arc<dyn Clock>) -> Self {
        let other = Arc::new(manager(hosts, objects, clock));
        let (hints, leading) = (broadcast::Sender::new(HINTS), Mutex::default());
        Self { hosts: hosts.clone(), clock: clock.clone(), hints, leading, other }
    }

    /// The manager that can plan now.
    pub fn manager(&self) -> Arc<Manager> {
        lock(&self.leading).clone().unwrap_or_else(|| self.other.clone())
    }

    /// Whether this operator leads.
    pub fn leads(&self) -> bool {
        lock(&self.leading).is_some()
    }

    /// Passes on what the hosts say, for ever.
    pub async fn follow(self: Arc<Self>, mut hints: impl Stream<Item = EventHint> + Unpin) {
        while let Some(hint) = hints.next().await {
            // An error means that this operator does not lead.
            let _ = self.hints.send(hint);
        }
    }

    /// Reconciles and sweeps for this leadership until `stop`. Everything is made anew for each leadership, so that nothing
    /// of an earlier one goes on.
    pub fn lead(self: Arc<Self>, leadership: &Leadership, stop: CancellationToken) -> impl Future<Output = ()> + use<> {
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

/// The manager of all kinds, over these hosts and objects.
fn manager(hosts: &Arc<Hosts>, objects: &Objects, clock: &Arc<dyn Clock>) -> Manager {
    let mut manager = Manager::new(objects.clone(), clock.clone());
    let wake = manager.wake();
    manager.add(DockerHostKind::new(hosts.clone(), objects.clone(), wake.clone()));
    manager.add(PortReservationKind::new(hosts.clone(), objects.clone()));
    manager.add(PostgresClusterKind::new(hosts.clone(), objects.clone(), clock.clone(), wake.clone()));
    manager.add(BackupKind::new(hosts.clone(), objects.clone(), wake.clone()));
    manager.add(ScheduledBackupKind::new(objects.clone()));
    manager.add(DatabaseRestoreKind::new(hosts.clone(), objects.clone(), wake.clone()));
    manager.add(VolumeRestoreKind::new(hosts.clone(), objects.clone(), wake.clone()));
    manager.add(RedisSentinelKind::new(hosts.clone(), objects.clone(), clock.clone(), wake.clone()));
    manager.add(RedisClusterKind::new(hosts.clone(), objects.clone(), clock.clone(), wake.clone()));
    manager.add(DeploymentKind::new(hosts.clone(), objects.clone(), wake.clone()));
    manager.add(LoadBalancerKind::new(hosts.clone(), objects.clone(), clock.clone(), wake));
    manager
}
