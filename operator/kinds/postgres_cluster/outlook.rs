//! Looks into the archives of a cluster for people: what is there, what the retention would delete, how a recovery would go.
//!
//! It runs for the command line alone; no decision follows from it.

use std::time::Duration;

use super::stores;
use crate::api::archive_outlook::{ArchiveOutlook, ArchiveView, BackupView, RecoveryView};
use crate::api::chain::chain;
use crate::api::postgres_backup::Retention;
use crate::api::postgres_cluster::PostgresCluster;
use crate::archive::access::{ArchiveAccess, Store as Where};
use crate::archive::catalog::Catalog;
use crate::archive::dumps;
use crate::archive::frames::Index;
use crate::archive::names::{base_key, segment_of_key};
use crate::archive::recovery::{self, Plan};
use crate::archive::retention::{self, Policy};
use crate::archive::store::{Error, Store};
use crate::archive::survey::{DATA_FILE, FRAMES_FILE, INFO_FILE, each_object, survey};
use crate::archive::target::Recovery;
use crate::runtime::clock::instant;
use crate::store::objects::Objects;

/// Bytes that are read to measure the speed of the store.
const SAMPLE: u64 = 4 << 20;
/// Time for all that is read of one archive.
const PATIENCE: Duration = Duration::from_secs(20);
/// Why an archive in a directory is not read.
const DIRECTORY: &str = "it is in a directory of the instances' hosts, which the operator does not read; status.backup of the cluster says what its primary sees there";

/// The outlook of this object.
pub async fn outlook(
    objects: &Objects,
    object: &PostgresCluster,
    now: jiff::Timestamp,
) -> Result<ArchiveOutlook, crate::store::Error> {
    let opened = stores::archives(objects, object).await?;
    let recovers = object.spec.bootstrap.recovery.is_some() && stores::is_new(object);
    let has_own = object.spec.backup.is_some() && stores::archive(object).is_some();
    let archives = match opened {
        Ok(archives) => archives,
        Err((_, problem)) => {
            let own = ArchiveView { problem: Some(problem.clone()), ..ArchiveView::default() };
            let recovery = RecoveryView { problem: Some(problem), ..RecoveryView::default() };
            return Ok(ArchiveOutlook { own: has_own.then_some(own), recovery: recovers.then_some(recovery) });
        }
    };
    let own = match archives.own() {
        Some(own) => Some(holds(own, object, now).await),
        None => None,
    };
    let recovery = match &archives.source {
        Some(source) if recovers => Some(recovers_from(source, object).await),
        _ => None,
    };
    Ok(ArchiveOutlook { own, recovery })
}

/// The store, unless it is a directory of another host.
fn open(access: &ArchiveAccess) -> Result<Store, String> {
    match access.access.store {
        Where::Directory { .. } => Err(DIRECTORY.to_owned()),
        Where::S3(_) => Store::open_archive(access).map_err(|error| chain(&error)),
    }
}

async fn holds(access: &ArchiveAccess, object: &PostgresCluster, now: jiff::Timestamp) -> ArchiveView {
    let path = access.path.clone();
    let read = async {
        let store = open(access)?;
        let catalog = survey(&store).await.map_err(|error| chain(&error))?;
        let (mut files, mut dumped) = (Vec::new(), Vec::new());
        for (folder, keys) in [("base", &mut files), (dumps::FOLDER, &mut dumped)] {
            each_object(&store, folder, |found| keys.push(found.key.clone())).await.map_err(|error| chain(&error))?;
        }
        Ok::<_, String>((catalog, files, dumped))
    };
    match bounded(read).await {
        Ok((catalog, files, dumped)) => {
            let retention = object.spec.backup.as_ref().and_then(|backup| backup.retention.as_ref());
            let deletes =
                retention.map(|declared| deletes(&catalog, (&files, &dumped), declared, now)).unwrap_or_default();
            ArchiveView { path, deletes, ..view(&catalog) }
        }
        Err(problem) => ArchiveView { path, problem: Some(problem), ..ArchiveView::default() },
    }
}

/// What is in a catalog, for people.
fn view(catalog: &Catalog) -> ArchiveView {
    let shown = catalog.backups.iter().map(|info| BackupView {
        id: info.id.clone(),
        ended: info.time.1,
        size: info.size,
        timeline: info.timeline,
        end: info.lsn.1,
        kept: catalog.kept.contains(&info.id),
        age_fingerprint: info.age_fingerprint.clone(),
    });
    let complete = |id: &String| catalog.backups.iter().any(|info| info.id == *id);
    ArchiveView {
        backups: shown.collect(),
        unfinished: catalog.running.iter().map(|intent| intent.id.clone()).filter(|id| !complete(id)).collect(),
        first_point: catalog.first_point(),
        last_point: catalog.latest.map(|latest| latest.time),
        gaps: catalog.gaps(),
        unusable: catalog.problems.clone(),
        ..ArchiveView::default()
    }
}

/// What the retention would delete, by the plan that the primary follows.
fn deletes(
    catalog: &Catalog,
    (files, dumped): (&[String], &[String]),
    declared: &Retention,
    now: jiff::Timestamp,
) -> Vec<String> {
    let policy = Policy::new(declared.window_seconds(), declared.newest(), usize::MAX);
    let batches =
        [retention::plan(catalog, files, &policy, now), dumps::expired(dumps::DUMPS, dumped, &policy, now)].concat();
    let sentence = |batch: &retention::Batch| match batch.keys.as_slice() {
        [] => None,
        [one] => Some(format!("{} ({one})", batch.what)),
        [first, .., last] => Some(format!("{} ({} objects, {first} to {last})", batch.what, batch.keys.len())),
    };
    batches.iter().filter_map(sentence).collect()
}

async fn recovers_from(access: &ArchiveAccess, object: &PostgresCluster) -> RecoveryView {
    let path = access.path.clone();
    let declared = object.spec.bootstrap.recovery.as_ref().map(|declared| Recovery::try_from(&declared.target));
    let looked = async {
        let store = open(access)?;
        if path.is_empty() {
            let archives = store.folders(2).await.map_err(|error| chain(&error))?;
            let problem = "source.path is not given: choose one of the archives in this store".to_owned();
            return Ok(RecoveryView { problem: Some(problem), archives, ..RecoveryView::default() });
        }
        let recovery = declared.unwrap_or_else(|| Ok(Recovery::default())).map_err(|error| error.to_string())?;
        let catalog = survey(&store).await.map_err(|error| chain(&error))?;
        let last_point = catalog.latest.map(|latest| latest.time);
        match recovery::plan(&catalog, &recovery) {
            Ok(plan) => {
                let view = way(&store, &plan).await.map_err(|error| chain(&error))?;
                Ok(RecoveryView { last_point, ..view })
            }
            Err(impossible) => {
                let missing = match &impossible {
                    recovery::Impossible::Gap { missing, .. } => vec![missing.to_string()],
                    _ => Vec::new(),
                };
                let problem = Some(impossible.to_string());
                Ok(RecoveryView { problem, last_point, missing, ..RecoveryView::default() })
            }
        }
    };
    let told = |problem: String| RecoveryView { problem: Some(problem), ..RecoveryView::default() };
    RecoveryView { path: access.path.clone(), ..bounded(looked).await.unwrap_or_else(told) }
}

/// A store that does not answer holds up nobody who waits for a plan.
async fn bounded<T>(looking: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let looked = tokio::time::timeout(PATIENCE, looking).await;
    looked.unwrap_or_else(|_| Err(format!("the store was not read within {} s", PATIENCE.as_secs())))
}

/// What a plan reads, and how long that takes.
async fn way(store: &Store, plan: &Plan) -> Result<RecoveryView, Error> {
    let legs = plan.path.iter().map(|(timeline, end)| match end {
        Some(end) => format!("timeline {timeline} up to {end}"),
        None => format!("timeline {timeline}"),
    });
    let (mut count, mut wal) = (0, 0);
    each_object(store, "wals", |found| {
        let Some(segment) = segment_of_key(&found.key) else { return };
        if plan.needs(segment) {
            count += 1;
            wal += found.size;
        }
    })
    .await?;
    store.opens(&base_key(&plan.backup.id, INFO_FILE), plan.backup.age_fingerprint.as_deref())?;
    let index = Index::load(store, &base_key(&plan.backup.id, FRAMES_FILE)).await?;
    let sample = index.stored.min(SAMPLE);
    let begun = instant();
    store.get_range(&index.key(&base_key(&plan.backup.id, DATA_FILE)), 0..sample).await?;
    let speed = sample as f64 / begun.elapsed().as_secs_f64().max(0.001);
    let seconds = (index.stored + wal) as f64 / speed.max(1.0);
    Ok(RecoveryView {
        backup: plan.backup.id.clone(),
        backup_ended: Some(plan.backup.time.1),
        timelines: legs.collect(),
        segments: Some((plan.first.to_string(), plan.last.to_string())),
        count,
        bytes: (index.size, index.stored, wal),
        // A float that is no number of seconds becomes the nearest one.
        download_seconds: Some(seconds.ceil() as u64),
        ..RecoveryView::default()
    })
}
