//! Ends a WAL segment before it is full: when a commit in it is too old, or when a base backup needs its WAL in the archive.

use std::sync::Arc;
use std::time::Duration;

use crate::api::chain::chain;
use crate::api::sync::lock;
use crate::supervisor::archiving::Shared;
use crate::supervisor::archiving::decide::{Unarchived, must_end};
use crate::supervisor::clock::{boottime_ms, wall_seconds};
use crate::supervisor::sql::Session;

/// Time between two looks.
const EACH: Duration = Duration::from_millis(500);

/// Watches what the leader writes, for ever.
pub async fn run(shared: Arc<Shared>) {
    let (mut written, mut past) = (shared.written.subscribe(), shared.past.subscribe());
    let (mut unarchived, mut ended) = (Unarchived::default(), None);
    loop {
        let granted = shared.guard.borrow().grant().is_some();
        let pulse = (*written.borrow_and_update()).filter(|_| granted);
        let past_at = *past.borrow_and_update();
        match pulse {
            None => unarchived = Unarchived::default(),
            Some(pulse) => {
                let now = boottime_ms();
                unarchived.note(now, pulse.written);
                let age = shared.archives.borrow().as_ref().map_or(0, |archives| archives.max_age_ms);
                // While segments wait for the store, one more brings nothing into the archive.
                let old = unarchived.is_due(now, age) && lock(&shared.known).waiting.is_empty();
                let asked = must_end(pulse.written.segment, shared.guard.borrow().segment_size, past_at);
                let segment = pulse.written.segment;
                if (old || asked) && ended != Some(segment) {
                    match switch().await {
                        // The next poll shows another segment.
                        Ok(()) => ended = Some(segment),
                        Err(problem) => tracing::debug!(problem, "the WAL segment was not ended"),
                    }
                }
            }
        }
        {
            let mut known = lock(&shared.known);
            known.unarchived_since = unarchived.since();
            // What was committed before that proof began had its transaction when the poll was asked. A proof under way may hide one.
            let seen = pulse.filter(|pulse| !pulse.written.proving).and_then(|pulse| pulse.committed_at);
            known.quiet = match (pulse, unarchived.since(), known.quiet) {
                (None, ..) | (_, Some(_), _) => None,
                // What others wrote is in the segments before this one: it was committed before now.
                (_, _, None) => Some((wall_seconds() + 1, 0)),
                (_, _, Some((from, until))) => Some((from, seen.unwrap_or(until))),
            };
        }
        if pulse.is_some() {
            tokio::time::sleep(EACH).await;
            continue;
        }
        let changed = tokio::select! {
            biased;
            changed = written.changed() => changed,
            changed = past.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        // It may have become the leader's only now.
        tokio::time::sleep(EACH).await;
    }
}

async fn switch() -> Result<(), String> {
    let mut session = Session::open().await.map_err(|error| chain(&error))?;
    session.switch_wal().await.map_err(|error| chain(&error))
}
