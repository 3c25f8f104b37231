//! One watch of etcd for all readers of the same objects: otherwise etcd would send each change to each of a hundred clients that
//! watch, and this program would understand it a hundred times.
//!
//! The first reader opens the tail. A later one joins it if the tail still has all changes after that reader's revision; else it
//! gets a watch of its own. A reader that takes nothing may not hold up the others: it leaves the tail, and when it has read what
//! waits for it, it goes on with a watch of its own.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};

use futures::{StreamExt as _, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::Shared;
use super::tail::{self, WAITING, Watched};
use crate::api::sync::lock;
use crate::store::{Change, Error, Watch};

/// The open tails; each lives as long as it has a reader.
pub(super) type Tails = Mutex<HashMap<Watched, Weak<Tail>>>;

/// One watch of etcd for several readers.
pub(super) struct Tail {
    state: Arc<Mutex<State>>,
    _task: AbortOnDropHandle<()>,
}

/// What the readers of a tail have in common.
struct State {
    /// Every change after this revision that was told is in `recent`.
    since: u64,
    /// The last changes, each with the bytes that it takes.
    recent: VecDeque<(Change, u32)>,
    size: u64,
    readers: Vec<Reader>,
    ended: bool,
}

/// A reader, as the tail sees it.
struct Reader {
    /// It had every change up to this revision when it came,
    since: u64,
    /// and has every change up to this one, but for those of the same revision that come next.
    told: u64,
    changes: mpsc::UnboundedSender<Item>,
    room: Arc<Semaphore>,
}

/// What a reader gets, and the room that a change takes until it was taken.
type Item = (Result<Change, Error>, Option<OwnedSemaphorePermit>);

/// Starts a watch from this revision, which can be watched from.
pub(super) fn start(shared: &Arc<Shared>, watched: Watched, since: u64) -> Watch {
    let mut tails = lock(&shared.tails);
    tails.retain(|_, tail| tail.strong_count() > 0);
    let tail = tails.get(&watched).and_then(Weak::upgrade).filter(|tail| !lock(&tail.state).ended);
    let tail = tail.unwrap_or_else(|| {
        let state = Arc::new(Mutex::new(State::new(since)));
        let (shared, watching, told) = (shared.clone(), watched.clone(), state.clone());
        let task = tokio::spawn(async move {
            let error = tail::follow(shared, watching, since, |change, cost| lock(&told).tell(change, cost)).await;
            lock(&told).end(&error);
        });
        let tail = Arc::new(Tail { state, _task: AbortOnDropHandle::new(task) });
        tails.insert(watched.clone(), Arc::downgrade(&tail));
        tail
    });
    drop(tails);
    let Some(queue) = lock(&tail.state).join(since) else { return tail::start(shared.clone(), &watched, since) };
    let joined = Reading::Joined { shared: shared.clone(), watched, queue, _tail: tail, told: since };
    Box::pin(stream::unfold(joined, Reading::next))
}

/// A reader's side.
enum Reading {
    /// At a tail, with others.
    Joined {
        shared: Arc<Shared>,
        watched: Watched,
        queue: mpsc::UnboundedReceiver<Item>,
        /// It ends with its last reader.
        _tail: Arc<Tail>,
        told: u64,
    },
    /// With a watch of its own.
    Alone(Watch),
    Ended,
}

impl Reading {
    async fn next(mut self) -> Option<(Result<Change, Error>, Self)> {
        loop {
            match &mut self {
                Self::Joined { shared, watched, queue, told, .. } => match queue.recv().await {
                    // The room is free as soon as the change is taken.
                    Some((Ok(change), _room)) => {
                        *told = change.revision;
                        return Some((Ok(change), self));
                    }
                    Some((error, _)) => return Some((error, Self::Ended)),
                    None => self = Self::Alone(tail::start(shared.clone(), watched, *told)),
                },
                Self::Alone(watch) => {
                    let change = watch.next().await?;
                    return Some((change, self));
                }
                Self::Ended => return None,
            }
        }
    }
}

impl State {
    fn new(since: u64) -> Self {
        Self { since, recent: VecDeque::new(), size: 0, readers: Vec::new(), ended: false }
    }

    /// A new reader of the changes after this revision; `None`: the tail has not all of them any more.
    fn join(&mut self, since: u64) -> Option<mpsc::UnboundedReceiver<Item>> {
        if self.ended || since < self.since {
            return None;
        }
        self.readers.retain(|reader| !reader.changes.is_closed());
        let (changes, queue) = mpsc::unbounded_channel();
        let mut reader = Reader { since, told: since, changes, room: Arc::new(Semaphore::new(WAITING as usize)) };
        let mut later = self.recent.iter().filter(|(change, _)| change.revision > since);
        let all = later.all(|(change, cost)| reader.give(change, *cost));
        all.then(|| self.readers.push(reader))?;
        Some(queue)
    }

    /// Gives a change, which takes so many bytes, to all readers; who has no room for it leaves.
    fn tell(&mut self, change: Change, cost: u32) {
        self.readers.retain_mut(|reader| change.revision <= reader.since || reader.give(&change, cost));
        self.size += u64::from(cost);
        self.recent.push_back((change, cost));
        // Of a revision all changes are forgotten, or none.
        while self.size > u64::from(WAITING)
            || self.recent.front().is_some_and(|(change, _)| change.revision <= self.since)
        {
            let Some((change, cost)) = self.recent.pop_front() else { return };
            self.size -= u64::from(cost);
            self.since = self.since.max(change.revision);
        }
    }

    /// The watch has failed, and with it those of all readers.
    fn end(&mut self, error: &Error) {
        self.ended = true;
        for reader in self.readers.drain(..) {
            let error = match error {
                Error::Compacted { oldest, .. } => Error::Compacted { since: reader.told, oldest: *oldest },
                error => Error::Backend { doing: "understanding a stored object", source: error.to_string().into() },
            };
            let _ = reader.changes.send((Err(error), None));
        }
    }
}

impl Reader {
    /// Puts a change into the queue; false: the reader is gone, or has no room. It does not leave amid a revision: it goes on after
    /// the last one that it has.
    fn give(&mut self, change: &Change, cost: u32) -> bool {
        let room = self.room.clone().try_acquire_many_owned(cost).ok();
        if room.is_none() && change.revision != self.told {
            return false;
        }
        self.told = change.revision;
        self.changes.send((Ok(change.clone()), room)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::Key;

    fn change(revision: u64, name: &str) -> Change {
        Change { key: Key::new("toys", "", name), revision, old: None, new: None }
    }

    /// What waits in a queue.
    fn waiting(queue: &mut mpsc::UnboundedReceiver<Item>) -> Vec<u64> {
        std::iter::from_fn(|| queue.try_recv().ok()).map(|(change, _)| change.unwrap().revision).collect()
    }

    /// Regression 326: 300 clients watched one object, and etcd sent each change 300 times: 29 ms of its CPU time a change, and 34 ms
    /// of the operators, which understood each copy. Now it is 16 and 16 ms, with the write itself.
    #[test]
    fn readers_that_come_later_get_every_change_since_their_revision_once() {
        let mut state = State::new(5);
        let mut first = state.join(5).unwrap();
        for (revision, name) in [(6, "a"), (8, "b"), (8, "c")] {
            state.tell(change(revision, name), 1);
        }
        let (mut later, mut ahead) = (state.join(6).unwrap(), state.join(10).unwrap());
        for revision in [9, 10, 11] {
            state.tell(change(revision, "a"), 1);
        }
        assert_eq!(waiting(&mut first), [6, 8, 8, 9, 10, 11]);
        assert_eq!(waiting(&mut later), [8, 8, 9, 10, 11]);
        assert_eq!(waiting(&mut ahead), [11]);
        assert!(state.join(4).is_none(), "it may have missed one");
    }

    #[test]
    fn a_reader_without_room_leaves_between_two_revisions_and_what_is_old_is_forgotten_by_whole_ones() {
        let mut state = State::new(0);
        let (mut slow, mut quick) = (state.join(0).unwrap(), state.join(0).unwrap());
        for (revision, name) in [(1, "a"), (2, "a"), (2, "b"), (3, "a")] {
            state.tell(change(revision, name), WAITING / 2);
            waiting(&mut quick);
        }
        assert_eq!(waiting(&mut slow), [1, 2, 2], "it goes on after 2");
        assert!(slow.is_closed() && !quick.is_closed());
        assert_eq!(state.since, 2);
        assert!(state.join(1).is_none());
        assert_eq!(waiting(&mut state.join(2).unwrap()), [3]);
    }

    #[test]
    fn when_the_watch_fails_every_reader_hears_of_it_from_where_it_is() {
        let mut state = State::new(3);
        let (mut first, mut ahead) = (state.join(3).unwrap(), state.join(7).unwrap());
        state.tell(change(5, "a"), 1);
        assert_eq!(waiting(&mut first), [5]);
        state.end(&Error::Compacted { since: 5, oldest: 9 });
        for (queue, at) in [(&mut first, 5), (&mut ahead, 7)] {
            assert!(matches!(queue.try_recv().unwrap().0, Err(Error::Compacted { since, oldest: 9 }) if since == at));
            assert!(queue.is_closed());
        }
        assert!(state.join(9).is_none());
    }
}
