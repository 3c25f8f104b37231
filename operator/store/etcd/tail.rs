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
pub(super) const WAITING: u32 = 8 << 20;
/// What a change costs besides its objects, so that small ones are not too many.
const EACH: usize = 32 << 10;
/// Limit of asking for the oldest revision.
const OLDEST: Duration = Duration::from_secs(2);

/// What is watched: resources and a namespace.
pub(super) type Watched = (Vec<String>, Option<String>);

type Item = (Result<Change, Error>, OwnedSemaphorePermit);

/// Starts a watch of one reader from this revision, which can be watched from.
pub(super) fn start(shared: Arc<Shared>, watched: &Watched, since: u64) -> Watch {
    let (changes, queue) = mpsc::unbounded_channel();
    let pump = Pump::new(shared, watched, since);
    let task = AbortOnDropHandle::new(tokio::spawn(pump.run(changes, Arc::new(Semaphore::new(WAITING as usize)))));
    Box::pin(stream::unfold((queue, task), |(mut queue, task)| async {
        let (change, _room): Item = queue.recv().await?;
        Some((change, (queue, task)))
    }))
}

/// Gives every change after this revision to `tell`, with the bytes that it takes, until the watch fails; returns why.
pub(super) async fn follow(shared: Arc<Shared>, watched: Watched, since: u64, tell: impl Fn(Change, u32)) -> Error {
    let mut pump = Pump::new(shared, &watched, since);
    loop {
        match pump.next().await {
            (Ok(change), cost) => tell(change, cost),
            (Err(error), _) => return error,
        }
    }
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
    watched: Watched,
    feed: Feed,
}

impl Pump {
    fn new(shared: Arc<Shared>, watched: &Watched, since: u64) -> Self {
        let span = shared.layout.around(&watched.0, watched.1.as_deref());
        let feed = Feed::new(shared.members.clone(), span, since);
        Self { shared, watched: watched.clone(), feed }
    }

    /// The next change, and the bytes that it takes; or why there is none any more.
    async fn next(&mut self) -> (Result<Change, Error>, u32) {
        loop {
            let (told, cost) = match self.feed.next().await {
                Ok(event) => {
                    let cost = cost(&event);
                    (self.change(event), cost)
                }
                Err(error) => (Err(error), 1),
            };
            if let Some(change) = told.transpose() {
                return (change, cost);
            }
        }
    }

    /// Gives the changes to one reader, until it is gone or the watch has failed.
    async fn run(mut self, changes: mpsc::UnboundedSender<Item>, room: Arc<Semaphore>) {
        loop {
            let (change, cost) = self.next().await;
            let is_last = change.is_err();
            let Some(room) = self.room(&room, cost).await else { return };
            if changes.send((change, room)).is_err() || is_last {
                return;
            }
        }
    }

    /// Room for a change of this size. While there is none, the watch of etcd is closed.
    async fn room(&mut self, room: &Arc<Semaphore>, cost: u32) -> Option<OwnedSemaphorePermit> {
        if let Ok(room) = room.clone().try_acquire_many_owned(cost) {
            return Some(room);
        }
        self.feed.pause();
        room.clone().acquire_many_owned(cost).await.ok()
    }

    /// The event as a change; `None`: it concerns nothing that is watched.
    fn change(&self, event: Event) -> Result<Option<Change>, Error> {
        let Some(key) = self.shared.layout.parse(&event.key) else { return Ok(None) };
        if !layout::wanted(&key, &self.watched.0, self.watched.1.as_deref()) {
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
