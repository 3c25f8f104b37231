//! Writes snapshots of the store while the operator runs. Wiring only: it decides nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::api::chain::chain;
use crate::runtime::Clock;
use crate::server;
use crate::store::Objects;
use crate::store::snapshots::Snapshots;

/// Pause before the first one: a start has more to do.
const FIRST: Duration = Duration::from_secs(60);
/// Interval of the others.
const INTERVAL: Duration = Duration::from_secs(600);

/// Writes them for ever. One that cannot be written is told to people, and the next one is tried.
pub async fn write(snapshots: Arc<Snapshots>, objects: Objects, clock: Arc<dyn Clock>) {
    let mut pause = FIRST;
    loop {
        sleep(pause).await;
        pause = INTERVAL;
        match snapshots.take(clock.now()).await {
            Ok(Some(file)) => tracing::debug!(file = %file.display(), "a snapshot of the store was written"),
            Ok(None) => {}
            Err(error) => {
                let folder = snapshots.folder().display();
                let message = format!("no snapshot of the store could be written to {folder}: {}", chain(&error));
                server::warn(&objects, clock.now(), "SnapshotFailed", message).await;
            }
        }
    }
}
