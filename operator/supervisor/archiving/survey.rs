//! Which WAL files wait for the store, and which of them are given up because there are too many.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use crate::api::sync::lock;
use crate::archive::names::WalFile;
use crate::supervisor::archiving::Shared;
use crate::supervisor::archiving::decide::{Volume, backlog_limit};
use crate::supervisor::clock::boottime_ms;

/// Time between two looks while something waits, or may.
const EACH: Duration = Duration::from_secs(1);
/// Fewer segments than this are never too many.
const FEW: usize = 4;
/// Most files that are looked at; with segments of 4 MiB these are 400 GB.
const MOST: usize = 100_000;
/// The folder with a file for each WAL file that waits, and its ending.
const WAL: &str = "pg_wal";
const FOLDER: &str = "pg_wal/archive_status";
const READY: &str = ".ready";
/// The ending of a history.
const HISTORY: &str = ".history";

/// Surveys for ever, while there is an archive.
pub async fn run(shared: Arc<Shared>) {
    let mut guard = shared.guard.subscribe();
    loop {
        if guard.borrow_and_update().archive.is_none() {
            *lock(&shared.known) = crate::supervisor::archiving::Known::default();
            if guard.changed().await.is_err() {
                return;
            }
            continue;
        }
        scan(&shared).await;
        tokio::select! {
            biased;
            () = shared.offered.notified() => {}
            () = tokio::time::sleep(EACH) => {}
        }
    }
}

/// How many segments may wait.
async fn kept(shared: &Arc<Shared>, segment_size: u64) -> usize {
    let Some(archives) = shared.archives.borrow().clone() else { return usize::MAX };
    let place = shared.place.clone();
    let seen = tokio::task::spawn_blocking(move || {
        let wal = place.theirs().names_ending(&place.pgdata().join(WAL), "", MOST);
        let is_segment =
            |name: &&OsString| name.to_str().is_some_and(|name| matches!(name.parse(), Ok(WalFile::Segment(_))));
        let segments = wal.iter().filter(is_segment).count() as u64;
        let (size, free) = place.volume_bytes()?;
        Some(Volume { size, free, wal: segments.saturating_mul(segment_size) })
    });
    let Ok(Some(volume)) = seen.await else { return usize::MAX };
    let limit = backlog_limit(&archives, volume, segment_size).and_then(|bytes| bytes.checked_div(segment_size));
    usize::try_from(limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX).max(1)
}

/// The files that wait and are needed, in the order in which they are pushed: histories first, then by timeline and position.
pub async fn scan(shared: &Arc<Shared>) -> Vec<String> {
    let (place, folder) = (shared.place.clone(), shared.place.pgdata().join(FOLDER));
    let read = tokio::task::spawn_blocking(move || place.theirs().names_ending(&folder, READY, MOST));
    let names = read.await.unwrap_or_default();
    let ready: BTreeSet<String> = names
        .iter()
        .filter_map(|name| name.to_str()?.strip_suffix(READY))
        .filter(|name| name.parse::<WalFile>().is_ok())
        .map(str::to_owned)
        .collect();
    let guard = shared.guard.borrow().clone();
    // What the server has forgotten is forgotten here.
    shared.done.send_if_modified(|done| {
        done.retain(|name| ready.contains(name));
        false
    });
    let (mut waiting, done) = (Vec::new(), shared.done.borrow().clone());
    for name in ready.into_iter().filter(|name| !done.contains(name)) {
        match name.parse() {
            Ok(file) if guard.needs(file) == Some(false) => shared.done(&name),
            _ => waiting.push(name),
        }
    }
    waiting.sort_by_key(|name| !name.ends_with(HISTORY));
    // Histories are few and small, and no recovery goes past a missing one.
    let histories = waiting.partition_point(|name| name.ends_with(HISTORY));
    let too_many = match waiting.len() - histories {
        few if few < FEW => 0,
        many => many.saturating_sub(kept(shared, guard.segment_size).await),
    };
    let given_up: Vec<String> = waiting.drain(histories..histories + too_many).collect();
    if let (Some(first), Some(last)) = (given_up.first(), given_up.last()) {
        let segments = given_up.len();
        tracing::warn!(segments, first, last, "WAL is given up: too much waits for the store; the archive has a gap");
        given_up.iter().for_each(|name| shared.given_up(name));
    }
    let now = boottime_ms();
    let mut known = lock(&shared.known);
    let before = std::mem::take(&mut known.waiting);
    let since = |name: &String| (name.clone(), before.get(name).copied().unwrap_or(now));
    known.waiting = waiting.iter().map(since).collect::<BTreeMap<_, _>>();
    known.waiting_bytes = waiting.len() as u64 * guard.segment_size;
    drop(known);
    waiting
}
