//! The janitor: removes old Events and objects without an owner from the store.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::store::Objects;

/// Interval between two sweeps.
const EVERY: Duration = Duration::from_secs(300);

/// Sweeps at once and then every five minutes, until `shutdown`.
pub async fn run(objects: Objects, shutdown: CancellationToken) {
    let mut turns = interval(EVERY);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            _ = turns.tick() => {}
        }
        match objects.sweep().await {
            Ok(0) => {}
            Ok(swept) => tracing::debug!(swept, "old events and orphans removed"),
            Err(error) => tracing::warn!(%error, "could not sweep the store; trying again later"),
        }
    }
}
