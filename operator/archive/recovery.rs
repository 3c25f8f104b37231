//! Decides how a recovery goes: the base backup, the timelines on the way, and how far it must come. Pure.

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::api::lsn::Lsn;
use crate::archive::catalog::{Catalog, Leg};
use crate::archive::info::BackupInfo;
use crate::archive::names::Segment;
use crate::archive::target::{Recovery, Target};

/// How a recovery goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The base backup to begin with.
    pub backup: BackupInfo,
    /// The timeline to follow, as a number: `latest` may lead into a branch that was given up.
    pub timeline: u32,
    /// The timelines on the way from the backup's on, each with the end of its part.
    pub path: Vec<Leg>,
    /// The first segment that is needed.
    pub first: Segment,
    /// The last segment that is on the way without a gap.
    pub last: Segment,
    /// Where it stops.
    pub target: Target,
    /// It stops before the target.
    pub exclusive: bool,
}

/// The target cannot be reached, with the fact that says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// There is nothing to begin with.
    #[error("the archive has no complete base backup")]
    NoBackup,
    /// The named backup does not exist.
    #[error("the archive has no complete base backup {id}; it has {}", known(.there))]
    NotThere {
        /// Its ID.
        id: String,
        /// Those that exist.
        there: Vec<String>,
    },
    /// Every backup ended after the target.
    #[error(
        "no base backup ended before the target: the oldest on the way to timeline {timeline} is {id}, which ended at {ended} and {lsn}"
    )]
    TooEarly {
        /// The timeline to follow.
        timeline: u32,
        /// The oldest backup.
        id: String,
        /// When it ended.
        ended: Timestamp,
        /// Where it ended.
        lsn: Lsn,
    },
    /// The named backup ended after the target, or is on another branch.
    #[error("the base backup {id}, which ended on timeline {on} at {lsn}, is not on the way to timeline {timeline}")]
    OtherBranch {
        /// Its ID.
        id: String,
        /// Its timeline.
        on: u32,
        /// Where it ended.
        lsn: Lsn,
        /// The timeline to follow.
        timeline: u32,
    },
    /// The history of the timeline is not there.
    #[error("{0:08X}.history is not in the archive, so the way to timeline {0} is not known")]
    NoHistory(u32),
    /// No backup is on the way.
    #[error("no base backup is on the way to timeline {0}")]
    NoneOnTheWay(u32),
    /// A segment is missing.
    #[error("{missing} is not in the archive: from the base backup {id} on, recovery can go up to {until}")]
    Gap {
        /// The segment.
        missing: Segment,
        /// The backup.
        id: String,
        /// How far it can go.
        until: Lsn,
    },
    /// Nothing was committed at or after the target.
    #[error("the last commit in the archive is of {0}, before the target")]
    TooLate(Timestamp),
}

fn known(there: &[String]) -> String {
    match there {
        [] => "none".to_owned(),
        some => some.join(", "),
    }
}

/// Decides how to get there.
///
/// A time, a transaction or a restore point may still turn out not to be in the WAL: PostgreSQL ends with an error then.
///
/// # Errors
/// The target cannot be reached with what the catalog has.
pub fn plan(catalog: &Catalog, recovery: &Recovery) -> Result<Plan, Impossible> {
    let timeline = recovery.timeline.or_else(|| catalog.newest_timeline()).ok_or(Impossible::NoBackup)?;
    let named = match &recovery.backup_id {
        None => None,
        Some(id) => Some(catalog.backups.iter().find(|info| info.id == *id).ok_or_else(|| Impossible::NotThere {
            id: id.clone(),
            there: catalog.backups.iter().map(|info| info.id.clone()).collect(),
        })?),
    };
    // Consistency comes on the backup's own timeline.
    let timeline = match (&recovery.target, recovery.timeline, named) {
        (Target::Immediate, None, Some(info)) => info.timeline,
        _ => timeline,
    };
    let lineage = catalog.lineage(timeline).ok_or(Impossible::NoHistory(timeline))?;
    let on_the_way = |info: &&BackupInfo| catalog.legs_from(info, &lineage).is_some();
    let backup = match named {
        Some(info) => info,
        None => {
            let mut ways = catalog.backups.iter().filter(on_the_way).peekable();
            let oldest = *ways.peek().ok_or(match catalog.backups.is_empty() {
                true => Impossible::NoBackup,
                false => Impossible::NoneOnTheWay(timeline),
            })?;
            let too_early =
                || Impossible::TooEarly { timeline, id: oldest.id.clone(), ended: oldest.time.1, lsn: oldest.lsn.1 };
            let newest = match recovery.target {
                // Where these are is known to nobody: the oldest backup from which nothing is missing is before most of them.
                Target::Xid(_) | Target::Name(_) => {
                    let whole = |info: &&BackupInfo| {
                        let legs = catalog.legs_from(info, &lineage).unwrap_or_default();
                        !is_cut(catalog, catalog.reaches(info.lsn.0, legs).end, legs)
                    };
                    let found = ways.clone().find(whole);
                    found.or_else(|| ways.last())
                }
                _ => ways.filter(|info| is_before(info, &recovery.target)).max_by_key(|info| info.lsn.1),
            };
            newest.ok_or_else(too_early)?
        }
    };
    let legs = catalog.legs_from(backup, &lineage).ok_or_else(|| Impossible::OtherBranch {
        id: backup.id.clone(),
        on: backup.timeline,
        lsn: backup.lsn.1,
        timeline,
    })?;
    if !is_before(backup, &recovery.target) {
        let (ended, lsn) = (backup.time.1, backup.lsn.1);
        return Err(Impossible::TooEarly { timeline, id: backup.id.clone(), ended, lsn });
    }
    let legs = if recovery.target == Target::Immediate { vec![(backup.timeline, None)] } else { legs.to_vec() };
    let timeline = legs.last().map_or(timeline, |(last, _)| *last);
    let reach = catalog.reaches(backup.lsn.0, &legs);
    let gap = || Impossible::Gap { missing: reach.missing, id: backup.id.clone(), until: reach.end };
    let needed = match recovery.target {
        Target::Lsn(lsn) => backup.lsn.1.max(Lsn(lsn.0.saturating_add(1))),
        _ => backup.lsn.1,
    };
    if reach.end < needed || recovery.target == Target::Latest && is_cut(catalog, reach.end, &legs) {
        return Err(gap());
    }
    let mut target = recovery.target.clone();
    if let (Target::Time(time), Some(latest)) = (&recovery.target, &catalog.latest)
        && *time > latest.time
        && reach.end >= latest.lsn
    {
        match latest.quiet {
            Some((_, until)) if *time > until => return Err(Impossible::TooLate(until)),
            None => return Err(Impossible::TooLate(latest.time)),
            // PostgreSQL stops at a time only where something was committed later. Here nothing was: the end is the target.
            Some((from, _)) if *time >= from => target = Target::Latest,
            // Something was committed between the two. PostgreSQL finds it, or fails.
            Some(_) => {}
        }
    }
    Ok(Plan {
        backup: backup.clone(),
        timeline,
        first: backup.first(),
        last: Segment::before(reach.timeline, reach.end, catalog.segment_size),
        path: legs,
        target,
        exclusive: recovery.exclusive,
    })
}

/// Whether a backup is complete before the target.
fn is_before(info: &BackupInfo, target: &Target) -> bool {
    match target {
        Target::Time(time) => info.time.1 < *time,
        Target::Lsn(lsn) => info.lsn.1 <= *lsn,
        Target::Latest | Target::Xid(_) | Target::Name(_) | Target::Immediate => true,
    }
}

/// Whether there is WAL on the way after a gap at `end`.
fn is_cut(catalog: &Catalog, end: Lsn, legs: &[Leg]) -> bool {
    let Some((last, _)) = legs.last() else { return false };
    let beyond = |timeline: &u32| {
        let ranges = catalog.wal.get(timeline).map(Vec::as_slice).unwrap_or_default();
        ranges.last().is_some_and(|(_, last)| last.saturating_mul(catalog.segment_size) >= end.0)
    };
    let forked = legs.iter().filter_map(|(_, fork)| *fork).max();
    beyond(last) || forked.is_some_and(|fork| end.0 < fork.0 - fork.0 % catalog.segment_size.max(1))
}

impl Plan {
    /// The server's settings for the target.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let target = match &self.target {
            Target::Latest => None,
            Target::Time(time) => {
                let time = time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string();
                Some(("recovery_target_time", time))
            }
            Target::Lsn(lsn) => Some(("recovery_target_lsn", lsn.to_string())),
            Target::Xid(xid) => Some(("recovery_target_xid", xid.to_string())),
            Target::Name(name) => Some(("recovery_target_name", name.clone())),
            Target::Immediate => Some(("recovery_target", "immediate".to_owned())),
        };
        let inclusive = if self.exclusive { "off" } else { "on" };
        let always = [
            ("recovery_target_timeline", self.timeline.to_string()),
            ("recovery_target_action", "promote".to_owned()),
            ("recovery_target_inclusive", inclusive.to_owned()),
        ];
        always.into_iter().chain(target).collect()
    }

    /// Whether the way leads through this segment.
    pub fn needs(&self, segment: Segment) -> bool {
        let size = self.backup.segment_size.max(1);
        let mut from = self.first.number(size);
        for (timeline, end) in &self.path {
            // The segment in which a timeline was left is whole on the next one.
            let until = end.map_or(self.last.number(size) + 1, |end| end.0 / size);
            if segment.timeline == *timeline {
                return (from..until).contains(&segment.number(size));
            }
            from = until;
        }
        false
    }

    /// Judges where a recovery has ended: `timeline` is the one that was left for a new one, at `end`.
    ///
    /// # Errors
    /// In words, if that is not what this plan said: something on the way was not found and nobody complained.
    pub fn check(&self, timeline: u32, end: Lsn) -> Result<(), String> {
        let size = self.backup.segment_size;
        let leg = self.path.iter().find(|(leg, until)| *leg == timeline && until.is_none_or(|until| end <= until));
        let mut wrong = String::new();
        // Writing to a string cannot fail.
        let _ = match (&self.target, leg) {
            (_, None) => write!(wrong, "it left the way to timeline {} on timeline {timeline}", self.timeline),
            (Target::Latest, _) if timeline != self.timeline => {
                write!(wrong, "it ended on timeline {timeline} and not on {}", self.timeline)
            }
            // The rest of the last segment may be empty.
            (Target::Latest, _) if end < self.last.start(size) => write!(wrong, "it did not get to {}", self.last),
            (Target::Lsn(lsn), _) if !self.exclusive && end < *lsn => write!(wrong, "it did not get to {lsn}"),
            (_, _) if end < self.backup.lsn.1 => write!(wrong, "it ended within the base backup"),
            _ => Ok(()),
        };
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(format!("recovery ended on timeline {timeline} at {end}: {wrong}")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::archive::catalog::Latest;
    use crate::archive::tests::{SIZE, at, backup, catalog};

    fn to(target: Target) -> Recovery {
        Recovery { target, ..Recovery::default() }
    }

    /// Backups that ended at 100, 200 (before the fork) and 300 (after it); timeline 2 left timeline 1 in segment 12.
    fn two_timelines() -> Catalog {
        let backups = vec![backup(1, 1, (2, 3), 100), backup(2, 1, (8, 9), 200), backup(3, 2, (15, 15), 300)];
        let mut catalog =
            catalog(backups, &[(1, (2, 12)), (2, (12, 20))], &[(2, &[(1, 12 * SIZE + 77)])], &[(1, 1), (2, 4)]);
        catalog.latest = Some(Latest { lsn: Lsn(19 * SIZE), time: at(400), quiet: None });
        catalog
    }

    fn told(catalog: &Catalog, recovery: &Recovery) -> String {
        match plan(catalog, recovery) {
            Ok(plan) => {
                format!("{} to {} by {:?}, {}-{}", plan.backup.id, plan.timeline, plan.path, plan.first, plan.last)
            }
            Err(impossible) => impossible.to_string(),
        }
    }

    #[test]
    fn the_way_leads_through_the_segments_of_each_timeline_until_it_is_left() {
        let plan = plan(&two_timelines(), &to(Target::Xid(9))).unwrap();
        let needed = |timeline: u32| {
            let numbers = 0..30;
            numbers.filter(|number| plan.needs(Segment::at(timeline, Lsn(number * SIZE), SIZE))).collect::<Vec<_>>()
        };
        assert_eq!((needed(1), needed(2), needed(3)), ((2..12).collect(), (12..21).collect(), Vec::new()));
    }

    #[test]
    fn the_newest_backup_that_ended_before_the_target_is_taken() {
        let catalog = two_timelines();
        let chosen = |target: Target| plan(&catalog, &to(target)).map(|plan| plan.backup.id);
        assert_eq!(chosen(Target::Latest).unwrap(), "20261128T000003");
        assert_eq!(chosen(Target::Time(at(250))).unwrap(), "20261128T000002");
        // A time within a backup's own span needs the one before.
        assert_eq!(chosen(Target::Time(at(200))).unwrap(), "20261128T000001");
        assert_eq!(chosen(Target::Lsn(Lsn(9 * SIZE + 0x100))).unwrap(), "20261128T000002");
        assert_eq!(chosen(Target::Lsn(Lsn(9 * SIZE))).unwrap(), "20261128T000001");
        assert_eq!(chosen(Target::Immediate).unwrap(), "20261128T000003");
        assert_eq!(chosen(Target::Xid(7)).unwrap(), "20261128T000001");
    }

    #[test]
    fn the_way_is_told_by_timelines_and_segments() {
        assert_eq!(
            told(&two_timelines(), &to(Target::Time(at(250)))),
            "20261128T000002 to 2 by [(1, Some(Lsn(12582989))), (2, None)], 000000010000000000000008-000000020000000000000014"
        );
        let first = Recovery { backup_id: Some("20261128T000001".into()), ..to(Target::Immediate) };
        assert_eq!(
            told(&two_timelines(), &first),
            "20261128T000001 to 1 by [(1, None)], 000000010000000000000002-00000001000000000000000C"
        );
    }

    /// `latest` of PostgreSQL leads into a branch that was given up, if its number is higher.
    #[test]
    fn the_lineage_of_the_highest_term_is_followed_and_not_the_highest_number() {
        let mut catalog = two_timelines();
        catalog.wal.insert(3, vec![(12, 40)]);
        catalog.histories.insert(3, catalog.histories[&2].clone());
        catalog.claims.insert(3, vec![3]);
        let plan = plan(&catalog, &to(Target::Latest)).unwrap();
        assert_eq!((plan.timeline, plan.last.to_string()), (2, "000000020000000000000014".into()));
        assert!(plan.settings().contains(&("recovery_target_timeline", "2".to_owned())));
    }

    #[test]
    fn what_cannot_be_reached_is_refused_with_the_fact() {
        let mut catalog = two_timelines();
        assert_eq!(
            told(&catalog, &to(Target::Time(at(90)))),
            "no base backup ended before the target: the oldest on the way to timeline 2 is 20261128T000001, which ended at \
             2027-01-15T08:01:40Z and 0/300100"
        );
        assert_eq!(
            told(&catalog, &to(Target::Time(at(401)))),
            "the last commit in the archive is of 2027-01-15T08:06:40Z, before the target"
        );
        assert_eq!(
            told(&catalog, &to(Target::Lsn(Lsn(21 * SIZE)))),
            "000000020000000000000015 is not in the archive: from the base backup 20261128T000003 on, recovery can go up to 0/1500000"
        );
        let named = |id: &str| Recovery { backup_id: Some(id.into()), ..to(Target::Latest) };
        assert_eq!(
            told(&catalog, &named("x")),
            "the archive has no complete base backup x; it has 20261128T000001, 20261128T000002, 20261128T000003"
        );
        let back = Recovery { timeline: Some(1), ..named("20261128T000003") };
        assert_eq!(
            told(&catalog, &back),
            "the base backup 20261128T000003, which ended on timeline 2 at 0/F00100, is not on the way to timeline 1"
        );
        catalog.histories.clear();
        assert_eq!(
            told(&catalog, &to(Target::Latest)),
            "00000002.history is not in the archive, so the way to timeline 2 is not known"
        );
        assert_eq!(told(&Catalog::default(), &to(Target::Latest)), "the archive has no complete base backup");
    }

    #[test]
    fn a_gap_on_the_way_is_named() {
        let mut catalog = two_timelines();
        catalog.wal.insert(2, vec![(12, 16), (18, 20)]);
        let said = "000000020000000000000011 is not in the archive: from the base backup 20261128T000003 on, recovery can go up to 0/1100000";
        assert_eq!(told(&catalog, &to(Target::Latest)), said);
        assert_eq!(told(&catalog, &to(Target::Lsn(Lsn(19 * SIZE)))), said);
        assert!(plan(&catalog, &to(Target::Lsn(Lsn(16 * SIZE)))).is_ok());
        // Before the fork: the beginning of the next timeline is there, the end of the one before is not.
        catalog.wal.insert(1, vec![(2, 10)]);
        let early = Recovery { backup_id: Some("20261128T000001".into()), ..to(Target::Latest) };
        assert_eq!(
            told(&catalog, &early),
            "00000001000000000000000B is not in the archive: from the base backup 20261128T000001 on, recovery can go up to 0/B00000"
        );
        // The backup's own WAL.
        catalog.wal.insert(2, vec![(12, 14)]);
        assert!(told(&catalog, &to(Target::Immediate)).starts_with("00000002000000000000000F is not in the archive"));
    }

    /// A recovery that does not find a history file ends at the backup's timeline without an error, and what was committed
    /// later is missing.
    #[test]
    fn a_recovery_that_ended_elsewhere_than_planned_is_no_success() {
        let planned = |target: Target| plan(&two_timelines(), &to(target)).unwrap();
        let latest = planned(Target::Latest);
        assert_eq!(latest.check(2, Lsn(20 * SIZE + 9)), Ok(()));
        assert_eq!(
            latest.check(1, Lsn(12 * SIZE)).unwrap_err(),
            "recovery ended on timeline 1 at 0/C00000: it left the way to timeline 2 on timeline 1"
        );
        assert!(latest.check(2, Lsn(19 * SIZE)).unwrap_err().ends_with("it did not get to 000000020000000000000014"));
        // Nobody committed anything from 410 to 450: the end of the archive is what was there then.
        let mut quiet = two_timelines();
        quiet.latest = quiet.latest.map(|latest| Latest { quiet: Some((at(410), at(450))), ..latest });
        let recovery = |time| Recovery { target: Target::Time(at(time)), ..Recovery::default() };
        assert_eq!(plan(&quiet, &recovery(440)).unwrap().target, Target::Latest);
        assert_eq!(plan(&quiet, &recovery(405)).unwrap().target, Target::Time(at(405)));
        assert_eq!(plan(&quiet, &recovery(460)).unwrap_err(), Impossible::TooLate(at(450)));
        let time = planned(Target::Time(at(250)));
        assert_eq!((time.check(1, Lsn(11 * SIZE)), time.check(2, Lsn(14 * SIZE))), (Ok(()), Ok(())));
        assert!(time.check(1, Lsn(13 * SIZE)).is_err() && time.check(3, Lsn(13 * SIZE)).is_err());
        assert!(time.check(1, Lsn(9 * SIZE)).unwrap_err().ends_with("it ended within the base backup"));
        let lsn = planned(Target::Lsn(Lsn(14 * SIZE)));
        assert_eq!(lsn.check(2, Lsn(14 * SIZE)), Ok(()));
        assert!(lsn.check(2, Lsn(14 * SIZE - 1)).is_err());
    }

    #[test]
    fn the_target_is_told_to_postgresql_without_a_doubt_about_zones() {
        let mut plan = plan(&two_timelines(), &to(Target::Time(at(250)))).unwrap();
        plan.exclusive = true;
        assert_eq!(
            plan.settings(),
            [
                ("recovery_target_timeline", "2"),
                ("recovery_target_action", "promote"),
                ("recovery_target_inclusive", "off"),
                ("recovery_target_time", "2027-01-15 08:04:10.000000+00"),
            ]
            .map(|(name, value)| (name, value.to_owned()))
        );
    }
}
