//! How an instance that does not lead learns what is in the store. It keeps its WAL until then: if the leader dies first, it is the
//! one that must bring it there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::archive::names::{self, Segment, WalFile};
use crate::archive::store::{Error, Store};
use crate::archive::survey::claims;
use crate::supervisor::archiving::decide::{Guard, is_passed};
use crate::supervisor::archiving::{Shared, survey};

/// Time between two looks: a request each.
const EACH: Duration = Duration::from_secs(30);
/// Most objects of one look; the rest is for the next.
const MOST: usize = 1_000;

/// Looks for ever, while files wait and another instance leads.
pub async fn run(shared: Arc<Shared>) {
    let mut guard = shared.guard.subscribe();
    let mut passed = BTreeSet::new();
    loop {
        let granted = guard.borrow_and_update().clone();
        let follows = granted.archive.is_some() && granted.grant().is_none() && granted.lineage.is_some();
        if !follows {
            if guard.changed().await.is_err() {
                return;
            }
            continue;
        }
        let more = match look(&shared, &granted, &mut passed).await {
            Ok(more) => {
                shared.problem(None);
                more
            }
            // It is the leader's to tell. This instance only waits longer.
            Err(error) => {
                tracing::debug!(problem = %error, "what is in the archive is not known");
                false
            }
        };
        if !more {
            tokio::select! {
                biased;
                _ = guard.changed() => {}
                () = tokio::time::sleep(EACH) => {}
            }
        }
    }
}

/// One look from the oldest file that waits; whether another one at once would show more. `passed`: the segments that the archive
/// had gone past at the last look.
async fn look(shared: &Arc<Shared>, guard: &Guard, passed: &mut BTreeSet<Segment>) -> Result<bool, Error> {
    let waiting = survey::scan(shared).await;
    let Some(access) = shared.archives.borrow().clone() else { return Ok(false) };
    let (Some(own), Some(lineage)) = (access.own(), &guard.lineage) else { return Ok(false) };
    if waiting.is_empty() || Some(&own.path) != guard.archive.as_ref() {
        return Ok(false);
    }
    let store = Store::open_archive(own)?;
    // I16: a segment of that name on another lineage is not this one's.
    let claimed = claims(&store).await?;
    let last = |timeline: u32| claimed.get(&timeline).and_then(|terms| terms.last().copied());
    let ours = |timeline: u32| match (last(timeline), lineage.began(timeline)) {
        (Some(claim), Some(began)) => claim == began,
        // What is older than records has no claims.
        (None, None) => true,
        _ => false,
    };
    let mut segments = BTreeMap::<String, Vec<(Segment, &String)>>::new();
    for name in &waiting {
        match name.parse() {
            Ok(WalFile::Segment(segment)) if ours(segment.timeline) => {
                segments.entry(segment.folder()).or_default().push((segment, name));
            }
            Ok(WalFile::History(timeline))
                if ours(timeline) && store.head(&names::history_key(timeline)).await?.is_some() =>
            {
                shared.done(name);
            }
            // It is for people. The leader has it, too, if it made the backup.
            Ok(WalFile::Label(_)) => shared.done(name),
            _ => {}
        }
    }
    let (mut there, mut whole) = (BTreeSet::new(), true);
    for (folder, wanted) in &segments {
        let Some((first, _)) = wanted.iter().min() else { continue };
        let found = store.list(folder, Some(&before(first)), MOST).await?;
        whole &= found.len() < MOST;
        there.extend(found.iter().filter_map(|one| names::segment_of_key(&one.key)));
    }
    let (before, mut done) = (std::mem::take(passed), false);
    for (segment, name) in segments.into_values().flatten() {
        let is_there = there.contains(&segment);
        if !is_there && is_passed(segment, &there, guard.segment_size) {
            passed.insert(segment);
        }
        // Seen twice, half a minute apart: the leader had no archive yet when it completed that segment, or has given it up.
        let never = passed.contains(&segment) && before.contains(&segment);
        if never {
            tracing::warn!(%segment, "this WAL segment is not in the archive, and later ones are: it is not waited for any more");
        }
        if is_there || never {
            shared.done(name);
            done = true;
        }
    }
    Ok(done && !whole)
}

/// A key just before that of the segment.
fn before(segment: &Segment) -> String {
    format!("{}/{segment}", segment.folder())
}
