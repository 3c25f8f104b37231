//! Plans a ScheduledBackup: which time is due, which one was missed, and which ended Backups are too many. Pure.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{BackupSeen, ScheduledBackupKind, Step};
use crate::api::conditions::{self, Verdict, no, yes};
use crate::api::object::Object as _;
use crate::api::schedule::Schedule;
use crate::api::scheduled_backup::{ScheduledBackup, ScheduledBackupStatus};
use crate::runtime::{Plan, Planned, Want};

/// Most missed times that are counted at once, such as after a year without an operator.
const COUNTED: usize = 1000;
/// Longest time to the next look.
const LONGEST: Duration = Duration::from_secs(3600);
/// Shortest one.
const SHORTEST: Duration = Duration::from_secs(1);

/// The times that are due.
struct Due {
    /// The last one: that of the next Backup.
    latest: Timestamp,
    /// The number of times before it that nothing was done at.
    earlier: u64,
}

/// Pure: what to record, and which Backups to create and to remove.
pub fn plan(
    object: &ScheduledBackup,
    observed: &[BackupSeen],
    want: Want,
    now: Timestamp,
) -> Planned<ScheduledBackupKind> {
    let mut status = object.status.clone().unwrap_or_default();
    status.observed_generation = object.metadata.generation.unwrap_or_default();
    if want == Want::Absent {
        return Plan { status, steps: Vec::new(), requeue: None, finished: true };
    }
    let mut steps = Vec::new();
    let verdict = match object.spec.times() {
        // The API refuses such a schedule; it may be one of another version.
        Err(error) => no("InvalidSchedule", error.to_string()),
        Ok(_) if want == Want::Paused => no("Paused", "reconciliation is paused by annotation"),
        Ok(schedule) => {
            let due = due(object, &schedule, status.last_schedule_time, now);
            let next = schedule.next_after(now).filter(|_| !object.spec.suspend);
            status.next_schedule_time = next;
            let told = due.and_then(|due| serve(object, observed, (&mut status, &mut steps), due, now));
            told.unwrap_or_else(|| match next {
                Some(next) => yes("Scheduled", format!("the next backup is due at {}", second(next))),
                None if object.spec.suspend => no("Suspended", "spec.suspend is true: no backups are created"),
                None => no("NeverDue", "the schedule never comes due again"),
            })
        }
    };
    let served = steps.is_empty();
    if want == Want::Present {
        steps.extend(too_many(observed, object.spec.history_limit));
    }
    let wait = |next: Timestamp| Duration::try_from(next.duration_since(now)).unwrap_or_default();
    let next = status.next_schedule_time.map(wait).unwrap_or(LONGEST);
    let requeue = if served { next.clamp(SHORTEST, LONGEST) } else { SHORTEST };
    conditions::set(&mut status.conditions, "Ready", verdict, status.observed_generation, now);
    Plan { status, steps, requeue: Some(requeue), finished: false }
}

/// What is due now; `None`: nothing.
fn due(object: &ScheduledBackup, schedule: &Schedule, last: Option<Timestamp>, now: Timestamp) -> Option<Due> {
    let created = object.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let since = last.unwrap_or(created);
    let first = last.is_none() && object.spec.immediate;
    let Some(latest) = schedule.last_until(now).filter(|latest| *latest > since) else {
        return first.then_some(Due { latest: created, earlier: 0 });
    };
    let before = std::iter::successors(schedule.next_after(since), |time| schedule.next_after(*time));
    let before = before.take_while(|time| *time < latest).take(COUNTED).count();
    Some(Due { latest, earlier: before as u64 + u64::from(first) })
}

/// Deals with a due time. Returns what people should know, if it is more than when the next one is.
fn serve(
    object: &ScheduledBackup,
    observed: &[BackupSeen],
    (status, steps): (&mut ScheduledBackupStatus, &mut Vec<Step>),
    due: Due,
    now: Timestamp,
) -> Option<Verdict> {
    let Due { latest, earlier } = due;
    if object.spec.suspend {
        // Skipped on purpose, which is no miss.
        status.last_schedule_time = Some(latest);
        return None;
    }
    let name = format!("{}-{}", object.name(), latest.to_zoned(TimeZone::UTC).strftime("%Y%m%d%H%M"));
    if observed.iter().any(|backup| backup.name == name) {
        (status.last_schedule_time, status.last_backup) = (Some(latest), Some(name));
        status.missed = status.missed.saturating_add(earlier);
        return None;
    }
    let deadline = object.spec.starting_deadline;
    let late = Duration::try_from(now.duration_since(latest)).unwrap_or_default();
    if late > deadline.get() {
        status.last_schedule_time = Some(latest);
        status.missed = status.missed.saturating_add(earlier + 1);
        return None;
    }
    if let Some(active) = observed.iter().find(|backup| backup.ours && !backup.ended) {
        let message = format!(
            "the backup of {} waits for Backup {}, which has not ended, for {deadline} at most",
            second(latest),
            active.name
        );
        return Some(no("PreviousRuns", message));
    }
    steps.push(Step::Create { name: name.clone() });
    Some(yes("Creating", format!("Backup {name} is created")))
}

/// The oldest ended Backups of this schedule above the limit.
fn too_many(observed: &[BackupSeen], limit: u32) -> impl Iterator<Item = Step> {
    let mut ended: Vec<_> = observed.iter().filter(|backup| backup.ours && backup.ended && !backup.in_test).collect();
    ended.sort_by_key(|backup| (backup.created, &backup.name));
    let excess = ended.len().saturating_sub(limit as usize);
    ended.truncate(excess);
    ended.into_iter().map(|backup| Step::Forget { name: backup.name.clone(), uid: backup.uid.clone() })
}

/// A time for people.
fn second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn at(time: &str) -> Timestamp {
        format!("2026-11-{time}Z").parse().unwrap()
    }

    /// A schedule at 03:00 each day, created on the 1st, with its Backups.
    struct World {
        object: ScheduledBackup,
        backups: Vec<BackupSeen>,
        told: String,
    }

    impl World {
        fn new(more: &str) -> Self {
            let spec = format!("cluster: {{name: db}}\nschedule: 0 3 * * *\n{more}");
            let mut object = ScheduledBackup::new("daily", serde_saphyr::from_str(&spec).unwrap());
            object.metadata.creation_timestamp = Some(Time(at("01T12:00:00")));
            Self { object, backups: Vec::new(), told: String::new() }
        }

        /// Plans at this time, twice: what was created is seen by the second plan.
        fn look(&mut self, time: &str) -> &mut Self {
            for _ in 0..2 {
                let plan = plan(&self.object, &self.backups, Want::Present, at(time));
                for step in &plan.steps {
                    self.told += &format!("{time} {step}\n");
                    match step {
                        Step::Create { name } => self.backups.push(BackupSeen {
                            name: name.clone(),
                            uid: None,
                            created: Some(at(time)),
                            ours: true,
                            ended: false,
                            in_test: false,
                        }),
                        Step::Forget { name, .. } => self.backups.retain(|backup| backup.name != *name),
                    }
                }
                self.object.status = Some(plan.status);
            }
            let status = self.object.status.as_ref().unwrap();
            let ready = &status.conditions[0];
            self.told += &format!("{time} {}: {}; missed {}\n", ready.reason, ready.message, status.missed);
            self
        }

        fn end(&mut self) -> &mut Self {
            self.backups.iter_mut().for_each(|backup| backup.ended = true);
            self
        }
    }

    #[test]
    fn a_backup_is_created_once_at_each_due_time() {
        let mut world = World::new("");
        world.look("01T12:00:00").look("02T02:59:59").look("02T03:00:00").look("02T03:00:01").end();
        world.look("03T03:00:07");
        expect_test::expect![[r#"
            01T12:00:00 Scheduled: the next backup is due at 2026-11-02T03:00:00Z; missed 0
            02T02:59:59 Scheduled: the next backup is due at 2026-11-02T03:00:00Z; missed 0
            02T03:00:00 create Backup daily-202611020300
            02T03:00:00 Scheduled: the next backup is due at 2026-11-03T03:00:00Z; missed 0
            02T03:00:01 Scheduled: the next backup is due at 2026-11-03T03:00:00Z; missed 0
            03T03:00:07 create Backup daily-202611030300
            03T03:00:07 Scheduled: the next backup is due at 2026-11-04T03:00:00Z; missed 0
        "#]]
        .assert_eq(&world.told);
        let status = world.object.status.unwrap();
        assert_eq!(status.last_backup.as_deref(), Some("daily-202611030300"));
        assert_eq!(status.last_schedule_time, Some(at("03T03:00:00")));
        assert_eq!(status.next_schedule_time, Some(at("04T03:00:00")));
    }

    #[test]
    fn an_immediate_one_begins_with_a_backup() {
        let mut world = World::new("immediate: true");
        world.look("01T12:00:05").end().look("02T03:00:00");
        expect_test::expect![[r#"
            01T12:00:05 create Backup daily-202611011200
            01T12:00:05 Scheduled: the next backup is due at 2026-11-02T03:00:00Z; missed 0
            02T03:00:00 create Backup daily-202611020300
            02T03:00:00 Scheduled: the next backup is due at 2026-11-03T03:00:00Z; missed 0
        "#]]
        .assert_eq(&world.told);
    }

    #[test]
    fn a_start_waits_for_the_backup_before_and_is_missed_after_the_deadline() {
        let mut world = World::new("startingDeadline: 2h");
        world.look("02T03:00:00").look("03T03:00:00").look("03T05:00:00").look("03T05:00:01").end();
        world.look("03T06:00:00").look("04T03:00:00");
        expect_test::expect![[r#"
            02T03:00:00 create Backup daily-202611020300
            02T03:00:00 Scheduled: the next backup is due at 2026-11-03T03:00:00Z; missed 0
            03T03:00:00 PreviousRuns: the backup of 2026-11-03T03:00:00Z waits for Backup daily-202611020300, which has not ended, for 2h at most; missed 0
            03T05:00:00 PreviousRuns: the backup of 2026-11-03T03:00:00Z waits for Backup daily-202611020300, which has not ended, for 2h at most; missed 0
            03T05:00:01 Scheduled: the next backup is due at 2026-11-04T03:00:00Z; missed 1
            03T06:00:00 Scheduled: the next backup is due at 2026-11-04T03:00:00Z; missed 1
            04T03:00:00 create Backup daily-202611040300
            04T03:00:00 Scheduled: the next backup is due at 2026-11-05T03:00:00Z; missed 1
        "#]]
        .assert_eq(&world.told);
    }

    #[test]
    fn an_operator_that_was_away_starts_the_last_backup_and_counts_the_others() {
        let mut world = World::new("");
        world.look("02T03:00:00").end().look("09T03:30:00");
        // Too late for the last one, too.
        world.end().look("12T10:00:00");
        expect_test::expect![[r#"
            02T03:00:00 create Backup daily-202611020300
            02T03:00:00 Scheduled: the next backup is due at 2026-11-03T03:00:00Z; missed 0
            09T03:30:00 create Backup daily-202611090300
            09T03:30:00 Scheduled: the next backup is due at 2026-11-10T03:00:00Z; missed 6
            12T10:00:00 Scheduled: the next backup is due at 2026-11-13T03:00:00Z; missed 9
        "#]]
        .assert_eq(&world.told);
    }

    #[test]
    fn a_suspended_one_skips_its_times_without_counting_them() {
        let mut world = World::new("suspend: true");
        world.look("02T03:00:00").look("03T03:00:00");
        world.object.spec.suspend = false;
        world.look("03T03:10:00").look("04T03:00:00");
        expect_test::expect![[r#"
            02T03:00:00 Suspended: spec.suspend is true: no backups are created; missed 0
            03T03:00:00 Suspended: spec.suspend is true: no backups are created; missed 0
            03T03:10:00 Scheduled: the next backup is due at 2026-11-04T03:00:00Z; missed 0
            04T03:00:00 create Backup daily-202611040300
            04T03:00:00 Scheduled: the next backup is due at 2026-11-05T03:00:00Z; missed 0
        "#]]
        .assert_eq(&world.told);
    }

    #[test]
    fn the_oldest_ended_backups_above_the_limit_are_removed() {
        let mut world = World::new("historyLimit: 2");
        for day in ["02", "03", "04", "05"] {
            world.look(&format!("{day}T03:00:00")).end();
        }
        world.look("05T04:00:00");
        let names: Vec<_> = world.backups.iter().map(|backup| backup.name.as_str()).collect();
        assert_eq!(names, ["daily-202611040300", "daily-202611050300"]);
        // One of somebody else is never removed, and is no reason to wait.
        let other =
            BackupSeen { name: "mine".into(), uid: None, created: None, ours: false, ended: false, in_test: false };
        world.backups.push(other);
        world.look("06T03:00:00");
        let names = |world: &World| world.backups.iter().map(|backup| backup.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&world), ["daily-202611040300", "daily-202611050300", "mine", "daily-202611060300"]);
        // The throw-away cluster of a restore test would go with it.
        world.backups.iter_mut().for_each(|backup| (backup.ended, backup.in_test) = (true, true));
        world.look("07T03:00:00");
        assert_eq!(names(&world).len(), 5);
    }

    #[test]
    fn one_that_is_deleted_or_paused_creates_nothing() {
        let world = World::new("immediate: true");
        let planned = |want| {
            let plan = plan(&world.object, &[], want, at("02T03:00:00"));
            (plan.steps.len(), plan.finished)
        };
        assert_eq!((planned(Want::Absent), planned(Want::Paused)), ((0, true), (0, false)));
    }
}
