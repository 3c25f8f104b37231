//! The recorder writes Events in the background, so that no reconcile waits for one.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::store::Objects;
use crate::store::events::NewEvent;

/// Length of the queue of Events; further ones are dropped and logged.
const WAITING: usize = 256;
/// Delay of Events, so that they do not compete with the writes that a failover waits for.
const CALM: Duration = Duration::from_millis(100);

/// Takes Events without waiting. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Recorder {
    sender: mpsc::Sender<(Arc<Value>, NewEvent)>,
}

impl Recorder {
    /// A recorder and its background task; the task ends when every clone of the recorder is dropped.
    pub fn new(objects: Objects) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self { sender }, write(objects, receiver))
    }

    /// Queues the Event; it is written after 100 ms.
    pub fn record(&self, about: Arc<Value>, event: NewEvent) {
        if let Err(error) = self.sender.try_send((about, event)) {
            let (_, event) = error.into_inner();
            tracing::warn!(reason = event.reason, message = event.message, "too many events; this one is dropped");
        }
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
