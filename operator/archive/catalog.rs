//! What an archive holds, made from the lists of its keys and the texts of its small objects. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::lsn::Lsn;
use crate::archive::history::History;
use crate::archive::info::BackupInfo;
use crate::archive::names::{self, Segment};

/// A base backup that was begun: `base/ID/.running`, written first and deleted last.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Intent {
    /// Its ID, which is not in the object but in its key.
    #[serde(skip)]
    pub id: String,
    /// Counts the attempts.
    pub attempt: u32,
    /// The member that takes it.
    pub member: String,
    /// Its timeline, once it is known.
    pub timeline: Option<u32>,
    /// Where its WAL begins, once that is known.
    pub begin: Option<Lsn>,
}

/// The last commit that is in the archive: `latest.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latest {
    /// A position after it.
    pub lsn: Lsn,
    /// Its time.
    pub time: Timestamp,
    /// From the first time to the second nobody but the supervisor has committed anything, and all that was committed before is
    /// in the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet: Option<(Timestamp, Timestamp)>,
}

/// Numbers of consecutive segments, the last one included.
pub type Range = (u64, u64);

/// What an archive holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Catalog {
    /// The complete base backups, in the order of their IDs.
    pub backups: Vec<BackupInfo>,
    /// Those that were begun and are not complete.
    pub running: Vec<Intent>,
    /// IDs of base backups that people keep, whatever the retention says.
    pub kept: BTreeSet<String>,
    /// Bytes of a segment; 0 if there is no backup that tells it.
    pub segment_size: u64,
    /// The segments of each timeline, as numbers in ascending ranges.
    pub wal: BTreeMap<u32, Vec<Range>>,
    /// Those of them that are encrypted.
    pub sealed: BTreeMap<u32, Vec<Range>>,
    /// Those that are there in both forms: timeline and number.
    pub twice: BTreeSet<(u32, u64)>,
    /// The histories.
    pub histories: BTreeMap<u32, History>,
    /// The terms that began each timeline, ascending.
    pub claims: BTreeMap<u32, Vec<u64>>,
    /// The last commit, if it is known.
    pub latest: Option<Latest>,
    /// What is unusable, in words.
    pub problems: Vec<String>,
}

/// A part of a lineage: a timeline, and the end of its WAL there. `None`: the lineage ends with this timeline.
pub type Leg = (u32, Option<Lsn>);

impl Catalog {
    /// Adds a key of `wals/` or `timelines/`. The size of a segment must be known before, and keys come in their order.
    pub fn add_key(&mut self, key: &str) {
        if let Some(segment) = names::segment_of_key(key) {
            if self.segment_size == 0 {
                return;
            }
            let (timeline, number) = (segment.timeline, segment.number(self.segment_size));
            let is_new = add(self.wal.entry(timeline).or_default(), number);
            if names::is_sealed(key) {
                add(self.sealed.entry(timeline).or_default(), number);
                if !is_new {
                    self.twice.insert((timeline, number));
                }
            }
        } else if let Some((timeline, term)) = names::claim_of_key(key) {
            let terms = self.claims.entry(timeline).or_default();
            terms.push(term);
            terms.sort_unstable();
        }
    }

    /// The keys of a segment.
    pub fn keys(&self, timeline: u32, number: u64) -> impl Iterator<Item = String> {
        let key = segment(timeline, number, self.segment_size.max(1)).key();
        let ranges = self.sealed.get(&timeline).map(Vec::as_slice).unwrap_or_default();
        let sealed = ranges.iter().any(|(first, last)| (*first..=*last).contains(&number));
        let clear = !sealed || self.twice.contains(&(timeline, number));
        clear.then(|| key.clone()).into_iter().chain(sealed.then(|| names::sealed(&key)))
    }

    /// Adds a base backup.
    pub fn add_backup(&mut self, info: BackupInfo) {
        self.segment_size = info.segment_size;
        self.backups.push(info);
        self.backups.sort_by(|one, other| one.id.cmp(&other.id));
    }

    /// The lineage that counts: that of the timeline that was begun in the highest term. Without any claim: of the highest
    /// timeline.
    pub fn newest_timeline(&self) -> Option<u32> {
        let claimed = self.claims.iter().filter_map(|(timeline, terms)| Some((*terms.last()?, *timeline))).max();
        let known = self.wal.keys().chain(self.histories.keys()).chain(self.backups.iter().map(|info| &info.timeline));
        claimed.map(|(_, timeline)| timeline).or_else(|| known.max().copied())
    }

    /// The lineage of a timeline, from its first ancestor on; `None` if its history is missing.
    pub fn lineage(&self, timeline: u32) -> Option<Vec<Leg>> {
        let ancestors = match self.histories.get(&timeline) {
            Some(history) => history.ancestors.as_slice(),
            None if timeline == 1 => &[],
            None => return None,
        };
        let legs = ancestors.iter().map(|(ancestor, end)| (*ancestor, Some(*end)));
        Some(legs.chain([(timeline, None)]).collect())
    }

    /// The end of the WAL on this lineage without a gap from `from` on: the position after the last segment.
    /// `from` is on the timeline of the first leg.
    pub fn reaches(&self, from: Lsn, legs: &[Leg]) -> Reach {
        let size = self.segment_size.max(1);
        let mut at = from.0 / size;
        let mut timeline = legs.first().map_or(0, |(timeline, _)| *timeline);
        for (leg, end) in legs {
            timeline = *leg;
            let ranges = self.wal.get(leg).map(Vec::as_slice).unwrap_or_default();
            let there = ranges.iter().find(|(first, last)| (*first..=*last).contains(&at)).map(|(_, last)| *last);
            let next = there.map_or(at, |last| last + 1);
            match end {
                // The segment in which the timeline was left is whole on the next one, which has a copy of its beginning.
                Some(end) if next >= end.0 / size => at = at.max(end.0 / size),
                Some(end) => {
                    return Reach {
                        end: Lsn(next * size),
                        timeline,
                        missing: segment(*leg, next, size),
                        fork: Some(*end),
                    };
                }
                None => at = next,
            }
        }
        Reach { end: Lsn(at * size), timeline, missing: segment(timeline, at, size), fork: None }
    }

    /// The legs from this backup on; `None` if it is not on the lineage.
    pub fn legs_from<'a>(&self, info: &BackupInfo, lineage: &'a [Leg]) -> Option<&'a [Leg]> {
        let at = lineage.iter().position(|(timeline, _)| *timeline == info.timeline)?;
        // What was written after the lineage had left is not in it.
        lineage[at].1.is_none_or(|end| info.lsn.1 <= end).then_some(&lineage[at..])
    }

    /// The gaps in the WAL of the lineage that counts, from its oldest backup on, as `FIRST-LAST`.
    pub fn gaps(&self) -> Vec<String> {
        self.gaps_from(|mut backups| backups.next())
    }

    /// The first of them after the newest backup: nothing after it can be restored.
    pub fn cut(&self) -> Option<String> {
        self.gaps_from(|backups| backups.last()).into_iter().next()
    }

    fn gaps_from<'a>(
        &'a self,
        choose: impl FnOnce(Box<dyn Iterator<Item = &'a BackupInfo> + '_>) -> Option<&'a BackupInfo>,
    ) -> Vec<String> {
        let Some(lineage) = self.newest_timeline().and_then(|newest| self.lineage(newest)) else { return Vec::new() };
        let counts = self.backups.iter().filter(|info| self.legs_from(info, &lineage).is_some());
        let chosen = choose(Box::new(counts)).and_then(|info| Some((info, self.legs_from(info, &lineage)?)));
        let Some((info, legs)) = chosen else { return Vec::new() };
        let size = self.segment_size.max(1);
        let (mut at, mut gaps) = (info.lsn.0.0 / size, Vec::new());
        for (timeline, end) in legs {
            let ranges = self.wal.get(timeline).map(Vec::as_slice).unwrap_or_default();
            let until = end.map_or(u64::MAX, |end| end.0 / size);
            for (first, last) in ranges {
                if *last < at || *first >= until {
                    continue;
                }
                if *first > at {
                    gaps.push(format!("{}-{}", segment(*timeline, at, size), segment(*timeline, *first - 1, size)));
                }
                at = last + 1;
            }
            if end.is_some() && at < until {
                gaps.push(format!("{}-{}", segment(*timeline, at, size), segment(*timeline, until - 1, size)));
            }
            at = if end.is_some() { until } else { at };
        }
        gaps
    }

    /// The end of the oldest backup from which the WAL is complete up to the newest: nothing older can be restored
    /// with all that came later.
    pub fn first_point(&self) -> Option<Timestamp> {
        let lineage = self.lineage(self.newest_timeline()?)?;
        let reach = |info: &BackupInfo| Some(self.reaches(info.lsn.0, self.legs_from(info, &lineage)?));
        let reaches: Vec<(Timestamp, Reach)> =
            self.backups.iter().filter_map(|info| Some((info.time.1, reach(info)?))).collect();
        let farthest = reaches.iter().filter(|(_, reach)| reach.fork.is_none()).map(|(_, reach)| reach.end).max()?;
        let complete = reaches.iter().filter(|(_, reach)| reach.fork.is_none() && reach.end == farthest);
        complete.map(|(time, _)| *time).min()
    }
}

/// Adds a number to ranges that ascend; false if it is in the last one.
fn add(ranges: &mut Vec<Range>, number: u64) -> bool {
    match ranges.last_mut() {
        Some((_, last)) if number == *last + 1 => *last = number,
        Some((_, last)) if number <= *last => return false,
        _ => ranges.push((number, number)),
    }
    true
}

/// How far the WAL goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// The position after the last segment.
    pub end: Lsn,
    /// The timeline on which it ends.
    pub timeline: u32,
    /// The segment that is not there.
    pub missing: Segment,
    /// It ends within an ancestor, which should go up to here.
    pub fork: Option<Lsn>,
}

fn segment(timeline: u32, number: u64, size: u64) -> Segment {
    Segment::at(timeline, Lsn(number.saturating_mul(size)), size)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::archive::tests::{SIZE, at, backup, catalog};

    #[test]
    fn segments_are_kept_as_ranges_and_gaps_are_what_lies_between() {
        let catalog = catalog(vec![backup(1, 1, (2, 3), 100)], &[(1, (2, 5)), (1, (8, 9)), (1, (11, 12))], &[], &[]);
        assert_eq!(catalog.wal[&1], [(2, 5), (8, 9), (11, 12)]);
        assert_eq!(
            catalog.gaps(),
            ["000000010000000000000006-000000010000000000000007", "00000001000000000000000A-00000001000000000000000A"]
        );
        let reach = catalog.reaches(Lsn(2 * SIZE), &[(1, None)]);
        assert_eq!((reach.end, reach.missing.to_string()), (Lsn(6 * SIZE), "000000010000000000000006".into()));
        assert_eq!(catalog.cut().as_deref(), Some("000000010000000000000006-000000010000000000000007"));
        let healed = [backup(1, 1, (2, 3), 100), backup(2, 1, (11, 11), 200)];
        let healed = Catalog { backups: healed.into(), ..catalog };
        assert_eq!((healed.gaps().len(), healed.cut()), (2, None));
    }

    #[test]
    fn the_lineage_of_the_highest_term_counts_and_not_the_highest_number() {
        // Timeline 3 was begun in term 4 and given up; timeline 2 was begun anew in term 6.
        let catalog = catalog(
            vec![backup(1, 1, (2, 3), 100)],
            &[(1, (2, 5)), (2, (5, 9)), (3, (5, 20))],
            &[(2, &[(1, 5 * SIZE + 77)]), (3, &[(1, 5 * SIZE + 99)])],
            &[(2, 6), (3, 4), (2, 3)],
        );
        assert_eq!(catalog.newest_timeline(), Some(2));
        assert_eq!(catalog.lineage(2), Some(vec![(1, Some(Lsn(5 * SIZE + 77))), (2, None)]));
        assert_eq!((catalog.gaps(), catalog.first_point()), (Vec::new(), Some(at(100))));
        let legs = catalog.lineage(2).unwrap();
        let reach = catalog.reaches(Lsn(2 * SIZE), &legs);
        assert_eq!((reach.end, reach.timeline, reach.fork), (Lsn(10 * SIZE), 2, None));
    }

    #[test]
    fn wal_that_is_missing_before_the_fork_ends_the_way() {
        let catalog = catalog(
            vec![backup(1, 1, (2, 3), 100), backup(2, 2, (6, 6), 200)],
            &[(1, (2, 3)), (2, (5, 9))],
            &[(2, &[(1, 5 * SIZE + 77)])],
            &[],
        );
        let legs = catalog.lineage(2).unwrap();
        let reach = catalog.reaches(Lsn(2 * SIZE), &legs);
        assert_eq!((reach.end, reach.timeline, reach.fork), (Lsn(4 * SIZE), 1, Some(Lsn(5 * SIZE + 77))));
        assert_eq!(catalog.gaps(), ["000000010000000000000004-000000010000000000000004"]);
        assert_eq!(catalog.first_point(), Some(at(200)));
    }

    #[test]
    fn a_backup_of_a_timeline_after_its_fork_is_not_on_the_lineage() {
        let catalog = catalog(
            vec![backup(1, 1, (7, 8), 100)],
            &[(1, (2, 9)), (2, (5, 9))],
            &[(2, &[(1, 5 * SIZE + 77)])],
            &[(2, 2), (1, 1)],
        );
        let lineage = catalog.lineage(2).unwrap();
        assert_eq!(catalog.legs_from(&catalog.backups[0], &lineage), None);
        assert_eq!((catalog.first_point(), catalog.gaps()), (None, Vec::new()));
    }
}
