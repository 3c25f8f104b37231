//! Decides what is deleted from an archive: an explicit list of keys, from a fresh catalog. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::api::backup_id::began;
use crate::archive::catalog::{Catalog, Intent};
use crate::archive::info::BackupInfo;
use crate::archive::names::base_key;
use crate::archive::survey::{INFO_FILE, INTENT_FILE};

/// A base backup or dump that is not complete may be running for so long after it began.
pub const LONGEST: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What to keep, besides what people keep by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Every moment of this length before now must stay restorable.
    pub window: SignedDuration,
    /// Backups to keep at least, whatever their age. One is always kept.
    pub minimum: usize,
    /// Keys to delete at most; what is left is for the next time.
    pub limit: usize,
}

impl Policy {
    /// The policy of a retention; `limit`: keys to delete at most.
    pub fn new(window_seconds: u32, newest: u32, limit: usize) -> Self {
        let minimum = usize::try_from(newest).unwrap_or(usize::MAX);
        Self { window: SignedDuration::from_secs(window_seconds.into()), minimum, limit }
    }
}

/// Keys that may be deleted in any order, after those of all batches before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// What they are.
    pub what: String,
    /// The keys.
    pub keys: Vec<String>,
}

/// Decides what to delete. `files`: the keys below `base/`, as they were listed for the catalog.
///
/// A backup begins to vanish with its `backup.info`, so one that is deleted in part is none. WAL goes last, and only where no
/// backup that stays could need it. Nothing goes by the age of an object, and no history goes at all.
pub fn plan(catalog: &Catalog, files: &[String], policy: &Policy, now: Timestamp) -> Vec<Batch> {
    let mut batches = Vec::new();
    let lineage = catalog.newest_timeline().and_then(|newest| catalog.lineage(newest));
    // Without knowing which backups count, none may go.
    let Some(lineage) = lineage else { return batches };
    let counts = |info: &&BackupInfo| catalog.legs_from(info, &lineage).is_some();
    let good: Vec<&BackupInfo> = catalog.backups.iter().filter(counts).collect();
    let kept = kept(catalog, &good, policy, now);
    let runs = |intent: &Intent| began(&intent.id).is_none_or(|began| now.duration_since(began) < LONGEST);
    for info in catalog.backups.iter().filter(|info| !kept.contains(info.id.as_str())) {
        let info_key = base_key(&info.id, INFO_FILE);
        batches.push(Batch { what: format!("backup {}", info.id), keys: vec![info_key.clone()] });
        batches.extend(rest(files, &info.id, &format!("data of backup {}", info.id)));
    }
    for intent in catalog.running.iter().filter(|intent| !runs(intent)) {
        let complete = catalog.backups.iter().any(|info| info.id == intent.id);
        let what = format!("what is left of the attempt at backup {}", intent.id);
        match complete {
            // The others are files of the backup.
            true => batches.push(Batch { what, keys: vec![base_key(&intent.id, INTENT_FILE)] }),
            false => {
                batches.extend(rest(files, &intent.id, &what));
                batches.push(Batch { what, keys: vec![base_key(&intent.id, INTENT_FILE)] });
            }
        }
    }
    batches.extend(wal(catalog, (&kept, &good), runs, policy.limit));
    let mut left = policy.limit;
    batches.retain_mut(|batch| {
        batch.keys.truncate(left);
        left -= batch.keys.len();
        !batch.keys.is_empty()
    });
    batches
}

/// The IDs of the backups that stay.
fn kept<'a>(catalog: &'a Catalog, good: &[&'a BackupInfo], policy: &Policy, now: Timestamp) -> BTreeSet<&'a str> {
    let cut = now.checked_sub(policy.window).unwrap_or(Timestamp::MIN);
    // The beginning of the window is restored from the newest backup that had ended then.
    let base = good.iter().filter(|info| info.time.1 <= cut).map(|info| info.lsn.1).max();
    let least = good.len().saturating_sub(policy.minimum.max(1));
    let by_rule = good
        .iter()
        .enumerate()
        .filter(|(at, info)| *at >= least || info.time.1 > cut || base.is_some_and(|base| info.lsn.1 >= base));
    let recent = catalog.backups.iter().filter(|info| info.time.1 > cut || catalog.kept.contains(&info.id));
    by_rule.map(|(_, info)| info.id.as_str()).chain(recent.map(|info| info.id.as_str())).collect()
}

/// The other files of a backup.
fn rest(files: &[String], id: &str, what: &str) -> Option<Batch> {
    let folder = base_key(id, "");
    let named = [INFO_FILE, INTENT_FILE].map(|file| base_key(id, file));
    let keys = files.iter().filter(|key| key.starts_with(&folder) && !named.contains(key));
    Some(Batch { what: what.to_owned(), keys: keys.cloned().collect() })
}

/// The segments that no backup which stays, or runs, could need.
fn wal(
    catalog: &Catalog,
    (kept, good): (&BTreeSet<&str>, &[&BackupInfo]),
    runs: impl Fn(&Intent) -> bool,
    limit: usize,
) -> Vec<Batch> {
    let size = catalog.segment_size.max(1);
    // From where each timeline's WAL is needed by those that began on it.
    let mut begins: BTreeMap<u32, u64> = BTreeMap::new();
    let mut need = |timeline: u32, number: u64| {
        let begin = begins.entry(timeline).or_insert(number);
        *begin = number.min(*begin);
    };
    catalog.backups.iter().filter(|info| kept.contains(info.id.as_str())).for_each(|info| {
        need(info.timeline, info.lsn.0.0 / size);
    });
    for intent in &catalog.running {
        match (intent.timeline, intent.begin) {
            (Some(timeline), Some(begin)) => need(timeline, begin.0 / size),
            // It has just begun: where is not known. One that is given up is deleted before this.
            _ if runs(intent) => return Vec::new(),
            _ => {}
        }
    }
    // A timeline from which nothing that counts was backed up may be all there is.
    if !good.iter().any(|info| kept.contains(info.id.as_str())) {
        return Vec::new();
    }
    let mut batches = Vec::new();
    for (timeline, ranges) in &catalog.wal {
        let Some(lineage) = catalog.lineage(*timeline) else { continue };
        // A backup on an ancestor needs what follows on its descendants.
        let from = lineage.iter().filter_map(|(leg, _)| begins.get(leg)).min().copied();
        let until = from.unwrap_or(u64::MAX);
        let numbers = ranges.iter().flat_map(|(first, last)| *first..=*last).take_while(|number| *number < until);
        let keys: Vec<String> = numbers.flat_map(|number| catalog.keys(*timeline, number)).take(limit).collect();
        batches.push(Batch { what: format!("WAL of timeline {timeline}"), keys });
    }
    batches
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::api::lsn::Lsn;
    use crate::archive::catalog::Intent;
    use crate::archive::names::{Segment, sealed};
    use crate::archive::tests::{SIZE, at, backup, catalog};

    fn files(catalog: &Catalog) -> Vec<String> {
        let ids = catalog.backups.iter().map(|info| &info.id).chain(catalog.running.iter().map(|intent| &intent.id));
        ids.flat_map(|id| ["data.tar.zst", "frames.json", INFO_FILE, INTENT_FILE].map(|file| base_key(id, file)))
            .collect()
    }

    fn policy(seconds: i64, minimum: usize) -> Policy {
        Policy { window: SignedDuration::from_secs(seconds), minimum, limit: usize::MAX }
    }

    /// Segments are shortened to `TIMELINE/NUMBER`, backups to their number.
    fn told(catalog: &Catalog, policy: &Policy, now: i64) -> String {
        let short = |key: &String| match crate::archive::names::segment_of_key(key) {
            Some(segment) => format!("{}/{}", segment.timeline, segment.number(SIZE)),
            None => key.trim_start_matches("base/20261128T00000").trim_start_matches("base/20270115T09000").to_owned(),
        };
        let batches = plan(catalog, &files(catalog), policy, at(now));
        batches
            .iter()
            .map(|batch| batch.keys.iter().map(short).collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// One backup each 100 s from 100 on, each two segments later.
    fn four() -> Catalog {
        let backups = (1..=4).map(|n| backup(n, 1, (2 * u64::from(n), 2 * u64::from(n)), 100 * i64::from(n)));
        catalog(backups.collect(), &[(1, (1, 12))], &[], &[])
    }

    #[test]
    fn the_newest_backup_before_the_window_stays_and_everything_after_it() {
        // The window begins at 250: it is restored from the backup that ended at 200.
        assert_eq!(told(&four(), &policy(200, 1), 450), "1/backup.info; 1/data.tar.zst 1/frames.json; 1/1 1/2 1/3");
        assert_eq!(told(&four(), &policy(351, 1), 450), "1/1", "none had ended before the window");
        assert_eq!(told(&four(), &policy(i64::MAX, 1), 450), "1/1");
    }

    #[test]
    fn the_minimum_and_what_people_keep_stay_whatever_their_age() {
        assert_eq!(told(&four(), &policy(10, 3), 9_000), "1/backup.info; 1/data.tar.zst 1/frames.json; 1/1 1/2 1/3");
        let kept = Catalog { kept: ["20261128T000002".to_owned()].into(), ..four() };
        assert_eq!(
            told(&kept, &policy(10, 0), 9_000),
            "1/backup.info; 1/data.tar.zst 1/frames.json; 3/backup.info; 3/data.tar.zst 3/frames.json; 1/1 1/2 1/3"
        );
        let one = catalog(vec![backup(1, 1, (2, 2), 100)], &[(1, (1, 3))], &[], &[]);
        assert_eq!(told(&one, &policy(10, 0), 9_000), "1/1", "the last good backup is never deleted");
    }

    /// Another host may still take a backup that began long ago.
    #[test]
    fn a_running_backup_keeps_its_wal_and_an_abandoned_one_goes() {
        let mut catalog = four();
        let intent = |id: &str, begin| Intent { id: id.into(), timeline: Some(1), begin, ..Intent::default() };
        catalog.running = vec![intent("20270115T090009", Some(Lsn(3 * SIZE)))];
        let backups =
            (1..4).map(|n| format!("{n}/backup.info; {n}/data.tar.zst {n}/frames.json; ")).collect::<String>();
        assert_eq!(told(&catalog, &policy(10, 1), 9_000), format!("{backups}1/1 1/2"));
        catalog.running[0].begin = None;
        let unknown = told(&catalog, &policy(10, 1), 9_000);
        assert_eq!(unknown, backups.trim_end_matches("; "), "where it begins is not known yet");
        assert_eq!(
            told(&catalog, &policy(10, 1), 9_000 + 7 * 86_400),
            format!("{backups}9/data.tar.zst 9/frames.json; 9/.running; 1/1 1/2 1/3 1/4 1/5 1/6 1/7")
        );
        // One that was completed and whose intent stayed.
        catalog.running = vec![intent("20261128T000004", None)];
        assert!(told(&catalog, &policy(10, 1), 9_000).starts_with(&format!("{backups}4/.running; 1/1")));
    }

    /// A restore across a fork needs the WAL of more than one timeline.
    #[test]
    fn wal_is_kept_by_lineage_and_not_by_number() {
        let two = |backups| catalog(backups, &[(1, (1, 12)), (2, (12, 20))], &[(2, &[(1, 12 * SIZE + 77)])], &[(2, 4)]);
        // The only backup is on the ancestor: everything after its begin is needed, on both.
        assert_eq!(told(&two(vec![backup(1, 1, (3, 3), 100)]), &policy(10, 1), 9_000), "1/1 1/2");
        // A backup on the new timeline alone: nothing of the ancestor is needed.
        let batches = told(&two(vec![backup(1, 2, (14, 14), 100)]), &policy(10, 1), 9_000);
        assert_eq!(batches, "1/1 1/2 1/3 1/4 1/5 1/6 1/7 1/8 1/9 1/10 1/11 1/12; 2/12 2/13");
        // A branch that was given up, with the newest backups: they are not good for what counts.
        let mut given_up = two(vec![backup(1, 1, (3, 3), 100), backup(2, 3, (14, 14), 200)]);
        given_up.wal.insert(3, vec![(12, 15)]);
        given_up.histories.insert(3, given_up.histories[&2].clone());
        given_up.claims.insert(3, vec![3]);
        assert_eq!(told(&given_up, &policy(10, 1), 9_000), "2/backup.info; 2/data.tar.zst 2/frames.json; 1/1 1/2");
        // A history that is missing: nothing is known, and nothing goes.
        given_up.histories.clear();
        assert_eq!(told(&given_up, &policy(10, 1), 9_000), "");
    }

    /// Encryption was switched on at segment 3, which had been pushed already and was pushed again by the next leader.
    #[test]
    fn encrypted_segments_go_by_the_names_that_they_have() {
        let mut catalog = Catalog { wal: [].into(), ..four() };
        let segment = |number: u64| Segment::at(1, Lsn(number * SIZE), SIZE).key();
        let keys = [segment(1), segment(2), segment(3), sealed(&segment(3)), sealed(&segment(4)), sealed(&segment(5))];
        keys.iter().for_each(|key| catalog.add_key(key));
        assert_eq!((catalog.wal[&1].clone(), catalog.sealed[&1].clone()), (vec![(1, 5)], vec![(3, 5)]));
        let batches = plan(&catalog, &[], &policy(10, 1), at(9_000));
        assert_eq!(batches.last().unwrap().keys, keys);
        let mut files = files(&four());
        files.push(base_key("20261128T000001", "data.tar.zst.age"));
        let batches = plan(&four(), &files, &policy(200, 1), at(450));
        assert_eq!(batches[1].keys.last().unwrap(), "base/20261128T000001/data.tar.zst.age");
    }

    #[test]
    fn no_more_keys_than_the_limit_are_deleted_at_once_and_in_the_same_order() {
        let limited = Policy { limit: 4, ..policy(200, 1) };
        assert_eq!(told(&four(), &limited, 450), "1/backup.info; 1/data.tar.zst 1/frames.json; 1/1");
    }
}
