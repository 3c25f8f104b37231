//! Which WAL files wait for the store, and which of them are given up because there are too many.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::api::sync::lock;
use crate::archive::names::WalFile;
use crate::supervisor::archiving::Shared;
use crate::supervisor::clock::boottime_ms;

/// Time between two looks while something waits, or may.
const EACH: Duration = Duration::from_secs(1);
/// Most files that are looked at; with segments of 4 MiB these are 400 GB.
const MOST: usize = 100_000;
/// The folder with a file for each WAL file that waits, and its ending.
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
    let limit = shared.archives.borrow().as_ref().and_then(|archives| archives.backlog_limit);
    let kept = limit.and_then(|bytes| bytes.checked_div(guard.segment_size)).unwrap_or(u64::MAX);
    let kept = usize::try_from(kept.max(1)).unwrap_or(usize::MAX);
    // Histories are few and small, and no recovery goes past a missing one.
    let histories = waiting.partition_point(|name| name.ends_with(HISTORY));
    let too_many = (waiting.len() - histories).saturating_sub(kept);
    for name in waiting.drain(histories..histories + too_many) {
        tracing::warn!(segment = %name, "WAL is given up: too much waits for the store; the archive has a gap");
        shared.done(&name);
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
