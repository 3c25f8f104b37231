//! The events of a span of keys, in order and each once, over whichever member answers: a watch of etcd that is made again
//! where it ended.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, KeyValue, WatchOptions, WatchResponse, WatchStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::failures::Failure;
use super::layout::Span;
use super::members::Members;
use crate::store::Error;

/// Limit of opening a watch.
const OPEN: Duration = Duration::from_secs(2);
/// Pause before a watch is opened again.
const PAUSE: Duration = Duration::from_millis(100);

/// One event of one key.
#[derive(Debug)]
pub(super) struct Event {
    /// The revision of the event.
    pub(super) revision: u64,
    /// The key.
    pub(super) key: Vec<u8>,
    /// What the key has now; `None`: it was deleted.
    pub(super) new: Option<KeyValue>,
    /// What it had before. `None`, too, if etcd has compacted that.
    pub(super) old: Option<KeyValue>,
}

impl Event {
    /// Whether there was a value before.
    pub(super) fn replaces(&self) -> bool {
        self.new.as_ref().is_none_or(|new| new.create_revision() != new.mod_revision())
    }
}

/// An open feed.
pub(super) struct Feed {
    members: Arc<Members>,
    span: Span,
    at: Position,
    queue: VecDeque<Event>,
    stream: Option<Stream>,
}

/// What was returned: all events before `revision`, and `count` of those with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    revision: u64,
    count: usize,
}

impl Position {
    /// The first revision that a new watch has to tell, and how many of its events were returned before.
    fn resume(self) -> (u64, usize) {
        if self.count > 0 { (self.revision, self.count) } else { (self.revision + 1, 0) }
    }

    fn note(&mut self, revision: u64) {
        self.count = if revision == self.revision { self.count + 1 } else { 1 };
        self.revision = revision;
    }
}

struct Stream {
    watch: WatchStream,
    /// The member that it goes to, and what is told when that is left.
    member: usize,
    left: watch::Receiver<u64>,
    /// Events of the first revision that were returned from the stream before.
    skip: (u64, usize),
}

/// What the stream says next.
enum Said {
    Response(WatchResponse),
    Ended,
}

impl Feed {
    /// The events after this revision. It connects with the first call of [`Feed::next`].
    pub(super) fn new(members: Arc<Members>, span: Span, since: u64) -> Self {
        let at = Position { revision: since, count: 0 };
        Self { members, span, at, queue: VecDeque::new(), stream: None }
    }

    /// The next event. Waits as long as no member answers. [`Error::Compacted`] ends the feed.
    pub(super) async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                self.at.note(event.revision);
                return Ok(event);
            }
            if self.stream.is_none() && !self.open().await {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            match self.listen().await {
                Said::Response(response) => self.take(&response)?,
                Said::Ended => self.pause(),
            }
        }
    }

    /// Drops the watch of etcd; the next call of [`Feed::next`] goes on where this one ended.
    pub(super) fn pause(&mut self) {
        self.stream = None;
        self.queue.clear();
    }

    /// Opens the watch at one member; turns to the next member if that fails.
    async fn open(&mut self) -> bool {
        let (member, mut services, left) = self.members.streams();
        let (first, count) = self.at.resume();
        let options = WatchOptions::new()
            .with_range(self.span.end.clone())
            .with_start_revision(i64::try_from(first).unwrap_or(i64::MAX))
            .with_prev_key()
            .with_progress_notify()
            .with_fragment();
        let opened = timeout(OPEN, services.watch.watch(self.span.start.clone(), Some(options))).await;
        match opened {
            Ok(Ok(watch)) => {
                self.stream = Some(Stream { watch, member, left, skip: (first, count) });
                true
            }
            failed => {
                let failure = failed.ok().and_then(Result::err).map_or_else(Failure::silence, Failure::from);
                tracing::debug!(error = %failure.cause, "a watch of etcd could not be opened");
                self.members.leave(member).await;
                false
            }
        }
    }

    async fn listen(&mut self) -> Said {
        let Some(stream) = &mut self.stream else { return Said::Ended };
        let member = stream.member;
        let failed = tokio::select! {
            biased;
            message = stream.watch.message() => match message {
                Ok(Some(response)) => return Said::Response(response),
                Ok(None) => None,
                Err(error) => Some(Failure::from(error)),
            },
            _ = stream.left.changed() => return Said::Ended,
        };
        if let Some(failure) = failed {
            tracing::debug!(error = %failure.cause, "a watch of etcd ended");
        }
        self.members.leave(member).await;
        Said::Ended
    }

    /// Puts the events of a response into the queue.
    fn take(&mut self, response: &WatchResponse) -> Result<(), Error> {
        if response.compact_revision() > 0 {
            self.pause();
            let since = self.at.revision;
            return Err(Error::Compacted { since, oldest: response.compact_revision().unsigned_abs() });
        }
        if response.canceled() {
            tracing::debug!(reason = response.cancel_reason(), "etcd has ended a watch");
            self.pause();
            return Ok(());
        }
        // Its revision is that of the member now, and not one up to which the watch has told everything.
        if response.created() {
            return Ok(());
        }
        let Some(stream) = &mut self.stream else { return Ok(()) };
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let revision = kv.mod_revision().unsigned_abs();
            if revision == stream.skip.0 && stream.skip.1 > 0 {
                stream.skip.1 -= 1;
                continue;
            }
            let new = (event.event_type() == EventType::Put).then(|| kv.clone());
            let (key, old) = (kv.key().to_vec(), event.prev_kv().cloned());
            self.queue.push_back(Event { revision, key, new, old });
        }
        if response.events().is_empty()
            && let Some(header) = response.header()
        {
            // A notice of progress: etcd has told everything up to there.
            let told = header.revision().unsigned_abs();
            if told > self.at.revision && self.queue.is_empty() {
                self.at = Position { revision: told, count: 0 };
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feed_goes_on_within_a_revision_that_changed_several_keys() {
        let mut at = Position { revision: 7, count: 0 };
        assert_eq!(at.resume(), (8, 0));
        at.note(9);
        assert_eq!(at.resume(), (9, 1));
        at.note(9);
        assert_eq!(at.resume(), (9, 2));
        at.note(12);
        assert_eq!(at.resume(), (12, 1));
    }
}
