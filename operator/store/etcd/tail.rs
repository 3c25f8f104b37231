//! One watch of the store on etcd: events become changes, and wait here for a reader that is slow.
//!
//! The events of all watches share a connection, and a reader that takes none would hold up the others. So a task always takes
//! them; when those that wait are too many, it drops its watch of etcd and opens it again where the reader is.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::WatchOptions;
use futures::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::feed::{Event, Feed};
use super::layout::{self, Span};
use super::{Shared, signed};
use crate::store::{Change, Error, Watch};

/// What may wait for a reader, in bytes.
const WAITING: u32 = 8 << 20;
/// What a change costs besides its objects, so that small ones are not too many.
const EACH: usize = 32 << 10;
/// Limit of asking for the oldest revision.
const OLDEST: Duration = Duration::from_secs(2);

type Item = (Result<Change, Error>, OwnedSemaphorePermit);

/// Starts a watch from this revision, which can be watched from.
pub(super) fn start(shared: Arc<Shared>, resources: Vec<String>, namespace: Option<String>, since: u64) -> Watch {
    let (changes, queue) = mpsc::unbounded_channel();
    let span = shared.layout.around(&resources, namespace.as_deref());
    let feed = Feed::new(shared.members.clone(), span, since);
    let pump = Pump { shared, resources, namespace, feed, changes, room: Arc::new(Semaphore::new(WAITING as usize)) };
    let task = AbortOnDropHandle::new(tokio::spawn(pump.run()));
    Box::pin(stream::unfold((queue, task), |(mut queue, task)| async {
        let (change, _room): Item = queue.recv().await?;
        Some((change, (queue, task)))
    }))
}

/// The oldest revision that can be read, asked for because `since` is older; `None`: etcd does not say it.
pub(super) async fn oldest(shared: &Shared, since: u64) -> Option<u64> {
    let (_, mut services, _) = shared.members.streams();
    let Span { start, end } = shared.layout.nothing();
    let options = WatchOptions::new().with_range(end).with_start_revision(signed(since.max(1)));
    let said = async {
        let mut watch = services.watch.watch(start, Some(options)).await.ok()?;
        loop {
            let response = watch.message().await.ok()??;
            if response.compact_revision() > 0 {
                return Some(response.compact_revision().unsigned_abs());
            }
        }
    };
    timeout(OLDEST, said).await.ok()?
}

struct Pump {
    shared: Arc<Shared>,
    resources: Vec<String>,
    namespace: Option<String>,
    feed: Feed,
    changes: mpsc::UnboundedSender<Item>,
    room: Arc<Semaphore>,
}

impl Pump {
    /// Runs until the reader is gone or the watch has failed.
    async fn run(mut self) {
        loop {
            let (told, cost) = match self.feed.next().await {
                Ok(event) => {
                    let cost = cost(&event);
                    (self.change(event), cost)
                }
                Err(error) => (Err(error), 1),
            };
            let Some(change) = told.transpose() else { continue };
            let is_last = change.is_err();
            let Some(room) = self.room(cost).await else { return };
            if self.changes.send((change, room)).is_err() || is_last {
                return;
            }
        }
    }

    /// Room for a change of this size. While there is none, the watch of etcd is closed.
    async fn room(&mut self, cost: u32) -> Option<OwnedSemaphorePermit> {
        if let Ok(room) = self.room.clone().try_acquire_many_owned(cost) {
            return Some(room);
        }
        self.feed.pause();
        self.room.clone().acquire_many_owned(cost).await.ok()
    }

    /// The event as a change; `None`: it concerns nothing that is watched.
    fn change(&self, event: Event) -> Result<Option<Change>, Error> {
        let Some(key) = self.shared.layout.parse(&event.key) else { return Ok(None) };
        if !layout::wanted(&key, &self.resources, self.namespace.as_deref()) {
            return Ok(None);
        }
        let revision = event.revision;
        if event.replaces() && event.old.is_none() {
            // What was there before is compacted: the reader lists again.
            return Err(Error::Compacted { since: revision - 1, oldest: revision });
        }
        let object = |kv| Ok::<_, Error>(self.shared.object(kv)?.map(|(_, value)| Arc::new(value)));
        let new = event.new.as_ref().map(object).transpose()?.flatten();
        let old = event.old.as_ref().map(object).transpose()?.flatten();
        Ok(Some(Change { key, revision, old, new }))
    }
}

/// The bytes that an event takes while it waits.
fn cost(event: &Event) -> u32 {
    let bytes: usize = event.new.iter().chain(&event.old).map(|kv| kv.value().len()).sum();
    u32::try_from(bytes + EACH).unwrap_or(WAITING).min(WAITING)
}
