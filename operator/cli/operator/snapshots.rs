//! Writes snapshots of the store while the operator runs, and brings those of the leader into an object store. Wiring only: it
//! decides nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::api::chain::chain;
use crate::api::core::DEFAULT_NAMESPACE;
use crate::cli::snapshot_store::SnapshotStore;
use crate::runtime::Clock;
use crate::server::{self, namespaces};
use crate::store::Objects;
use crate::store::snapshots::Snapshots;

/// Pause before the first one: a start has more to do.
const FIRST: Duration = Duration::from_secs(60);
/// Interval of the others.
const INTERVAL: Duration = Duration::from_secs(600);
/// Pause after one that could not be stored.
const AGAIN: Duration = Duration::from_secs(60);

/// What writes and stores them. One that cannot be written or stored is told to people, and the next one is tried.
pub struct Writing {
    /// What writes them.
    pub snapshots: Arc<Snapshots>,
    /// The file that says where their object store is. It is read each time: credentials in it may change.
    pub store: Option<PathBuf>,
    /// Whether this operator leads: only that one stores them.
    pub leads: Box<dyn Fn() -> bool + Send + Sync>,
    /// For the Events.
    pub objects: Objects,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Writing {
    /// Does so until it is dropped.
    pub async fn run(self) {
        let (mut pause, mut stored) = (FIRST, None);
        loop {
            sleep(pause).await;
            pause = INTERVAL;
            match self.snapshots.take(self.clock.now()).await {
                Ok(Some(file)) => tracing::debug!(file = %file.display(), "a snapshot of the store was written"),
                Ok(None) => {}
                Err(error) => {
                    let folder = self.snapshots.folder().display();
                    let message = format!("no snapshot of the store could be written to {folder}: {}", chain(&error));
                    self.warn("SnapshotFailed", message).await;
                    continue;
                }
            }
            let Some(file) = self.store.as_ref().filter(|_| (self.leads)()) else { continue };
            if let Err(problem) = self.keep(file, &mut stored).await {
                let message = format!(
                    "the newest snapshot of the store is in no other place, as it could not be stored: {problem}; it is tried again every minute"
                );
                self.warn("SnapshotNotStored", message).await;
                pause = AGAIN;
            }
        }
    }

    /// Brings the newest one into the object store. `stored`: the last one that is there.
    async fn keep(&self, file: &Path, stored: &mut Option<String>) -> Result<(), String> {
        let newest = self.snapshots.newest().await.map_err(|error| chain(&error))?;
        let Some((name, bytes)) = newest.filter(|(name, _)| stored.as_ref() != Some(name)) else { return Ok(()) };
        let store = SnapshotStore::open(file).map_err(|error| chain(&error))?;
        let installation = self.objects.store().get(&namespaces::key(DEFAULT_NAMESPACE)).await;
        let installation = installation.map_err(|error| chain(&error))?;
        let uid = installation.as_ref().and_then(|namespace| namespace["metadata"]["uid"].as_str());
        let uid = uid.ok_or_else(|| format!("the namespace {DEFAULT_NAMESPACE} does not exist yet"))?;
        store.keep(uid, &name, bytes.into()).await.map_err(|error| chain(&error))?;
        tracing::info!(snapshot = name, "the snapshot of the store was stored");
        *stored = Some(name);
        Ok(())
    }

    async fn warn(&self, reason: &str, message: String) {
        server::warn(&self.objects, self.clock.now(), reason, message).await;
    }
}
