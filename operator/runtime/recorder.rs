//! The recorder writes Events in the background, so that no reconcile waits for one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::clock;
use crate::api::rate::Rate;
use crate::api::sync::lock;
use crate::store::Objects;
use crate::store::events::NewEvent;

/// Length of the queue of Events; further ones are dropped and logged.
const WAITING: usize = 256;
/// Delay of Events, so that they do not compete with the writes that a failover waits for.
const CALM: Duration = Duration::from_millis(100);

/// Limit of the Events about one object; further ones are dropped and logged. What does the same again and again would else fill the
/// store, and each write of a store on etcd is one of a majority.
const EVENTS: Rate = Rate { a_second: 1, at_once: 50 };
/// Objects that are counted before those that said nothing for a while are forgotten.
const COUNTED: usize = 1000;

/// Takes Events without waiting. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Recorder {
    sender: mpsc::Sender<(Arc<Value>, NewEvent)>,
    /// By the object's uid: when the Events about it are paid.
    counted: Arc<Mutex<HashMap<String, Instant>>>,
}

impl Recorder {
    /// A recorder and its background task; the task ends when every clone of the recorder is dropped.
    pub fn new(objects: Objects) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self { sender, counted: Arc::default() }, write(objects, receiver))
    }

    /// Queues the Event; it is written after 100 ms.
    pub fn record(&self, about: Arc<Value>, event: NewEvent) {
        if !self.admits(&about) {
            tracing::warn!(
                reason = event.reason,
                message = event.message,
                "too many events about one object; this one is dropped"
            );
            return;
        }
        if let Err(error) = self.sender.try_send((about, event)) {
            let (_, event) = error.into_inner();
            tracing::warn!(reason = event.reason, message = event.message, "too many events; this one is dropped");
        }
    }
}

impl Recorder {
    /// Whether there is room for one more about this object.
    fn admits(&self, about: &Value) -> bool {
        let (mut counted, now) = (lock(&self.counted), clock::instant());
        if counted.len() >= COUNTED {
            counted.retain(|_, paid| *paid > now);
        }
        let uid = about["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        EVENTS.admits(counted.entry(uid).or_insert(now), now)
    }
}

async fn write(objects: Objects, mut receiver: mpsc::Receiver<(Arc<Value>, NewEvent)>) {
    let mut batch = Vec::new();
    loop {
        let Some(first) = receiver.recv().await else { return };
        sleep(CALM).await;
        batch.push(first);
        while let Ok(more) = receiver.try_recv() {
            batch.push(more);
        }
        // Concurrently: the store writes them in one transaction.
        let written = batch.iter().map(|(about, event)| objects.record_event(about, event));
        for error in join_all(written).await.into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "an event could not be recorded");
        }
        batch.clear();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::runtime::clock::TestClock;
    use crate::store::MemoryStore;

    #[tokio::test(start_paused = true)]
    async fn an_object_that_says_too_much_is_dropped_after_fifty_and_no_other_one() {
        let clock = Arc::new(TestClock::following_tokio("2026-01-01T00:00:00Z".parse().unwrap()));
        let (recorder, _) = Recorder::new(Objects::new(Arc::new(MemoryStore::default()), clock));
        let taken = |uid: &str| (0..100).filter(|_| recorder.admits(&json!({"metadata": {"uid": uid}}))).count();
        assert_eq!((taken("a"), taken("b")), (50, 50));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(taken("a"), 3);
    }
}
