//! What the archive holds: the leader lists it for the status, and deletes what nobody keeps any more.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::api::sync::lock;
use crate::archive::catalog::{Catalog, Latest};
use crate::archive::dumps;
use crate::archive::retention::{self, Batch, Policy};
use crate::archive::store::{Error, Store};
use crate::archive::survey::{INFO_FILE, LATEST, each_object, survey};
use crate::supervisor::archiving::Shared;
use crate::supervisor::archiving::decide::Guard;
use crate::supervisor::clock::{boottime_ms, wall_seconds};
use crate::supervisor::wire::{CatalogState, Retention};

/// Time between two short looks: the base backups, and how far the WAL reaches.
const EACH: Duration = Duration::from_secs(30);
/// Time between two lists of everything, in milliseconds; a new base backup, or one that is gone, or a new gap asks for it at once.
const WHOLE_MS: u64 = 600_000;
/// Most objects that are deleted at once; the rest is for the next list.
const MOST: usize = 5_000;
/// Most bytes of `latest.json`.
const SMALL: u64 = 4096;

/// What is known from earlier looks.
#[derive(Default)]
struct Before {
    archive: Option<String>,
    backups: Vec<String>,
    begun: u64,
    listed_at: u64,
}

/// Looks for ever, while this instance leads.
pub async fn run(shared: Arc<Shared>) {
    let mut guard = shared.guard.subscribe();
    let mut before = Before::default();
    loop {
        let granted = guard.borrow_and_update().clone();
        if granted.grant().is_none() {
            if guard.changed().await.is_err() {
                return;
            }
            continue;
        }
        if let Err(error) = look(&shared, &granted, &mut before).await {
            // The pushes tell what is wrong with the store.
            tracing::debug!(problem = %error, "what the archive holds is not known");
        }
        tokio::time::sleep(EACH).await;
    }
}

async fn look(shared: &Shared, guard: &Guard, before: &mut Before) -> Result<(), Error> {
    let Some(access) = shared.archives.borrow().clone() else { return Ok(()) };
    let Some(own) = access.own().filter(|own| Some(&own.path) == guard.archive.as_ref()) else { return Ok(()) };
    let store = Store::open_archive(own)?;
    let mut files = Vec::new();
    each_object(&store, "base", |found| files.push(found.key.clone())).await?;
    let backups: Vec<String> = files.iter().filter(|key| key.ends_with(INFO_FILE)).cloned().collect();
    let now = boottime_ms();
    let begun = lock(&shared.known).begun;
    let same = before.archive.as_ref() == Some(&own.path) && before.backups == backups && before.begun == begun;
    if !same || now.saturating_sub(before.listed_at) >= WHOLE_MS {
        let catalog = survey(&store).await?;
        *before = Before { archive: Some(own.path.clone()), backups, begun, listed_at: now };
        lock(&shared.known).catalog = Some(state(&catalog));
        // The pushes have found that this cluster owns the archive, and nobody else writes there.
        let owns = {
            let known = lock(&shared.known);
            known.problem.is_none() && known.conditional_put.is_some()
        };
        if let Some(retention) = access.retention.filter(|_| owns) {
            expire(shared, guard, &store, (&catalog, &files), retention).await?;
            expire_dumps(shared, guard, &store, retention).await?;
        }
        return Ok(());
    }
    let latest = store.get(LATEST, SMALL).await?.and_then(|text| serde_json::from_slice::<Latest>(&text).ok());
    if let (Some(latest), Some(catalog)) = (latest, &mut lock(&shared.known).catalog) {
        catalog.last_point = Some(latest.time.as_second());
    }
    Ok(())
}

/// I18: one deleter, the confirmed leader, and an explicit list from a fresh survey: nothing goes that a base backup needs which
/// stays, or may be running.
async fn expire(
    shared: &Shared,
    guard: &Guard,
    store: &Store,
    (catalog, files): (&Catalog, &[String]),
    retention: Retention,
) -> Result<(), Error> {
    let now = Timestamp::from_second(wall_seconds()).unwrap_or_default();
    let policy = Policy::new(retention.window_seconds, retention.minimum, MOST);
    delete(shared, guard, store, retention::plan(catalog, files, &policy, now)).await
}

/// The same for dumps, which need nothing but themselves.
async fn expire_dumps(shared: &Shared, guard: &Guard, store: &Store, retention: Retention) -> Result<(), Error> {
    let mut files = Vec::new();
    each_object(store, dumps::FOLDER, |found| files.push(found.key.clone())).await?;
    let policy = Policy::new(retention.window_seconds, retention.minimum, MOST);
    let now = Timestamp::from_second(wall_seconds()).unwrap_or_default();
    delete(shared, guard, store, dumps::expired(dumps::DUMPS, &files, &policy, now)).await
}

/// Deletes these, in their order, as long as this instance is the one that may.
async fn delete(shared: &Shared, guard: &Guard, store: &Store, batches: Vec<Batch>) -> Result<(), Error> {
    for batch in batches {
        if shared.guard.borrow().grant() != guard.grant() {
            return Ok(());
        }
        tracing::info!(
            what = batch.what,
            objects = batch.keys.len(),
            "deleted from the archive: it is older than the retention"
        );
        store.delete(&batch.keys).await?;
    }
    Ok(())
}

fn state(catalog: &Catalog) -> CatalogState {
    CatalogState {
        backups: catalog.backups.len() as u64,
        last_backup: catalog.backups.last().map(|backup| backup.id.clone()),
        first_point: catalog.first_point().map(|at| at.as_second()),
        last_point: catalog.latest.map(|latest| latest.time.as_second()),
        gaps: catalog.gaps(),
        cut: catalog.cut(),
    }
}
