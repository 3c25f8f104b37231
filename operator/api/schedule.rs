//! A schedule in the notation of cron, in a time zone. Pure.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

/// When something is due.
#[derive(Debug, Clone)]
pub struct Schedule {
    cron: Cron,
    zone: TimeZone,
}

/// The problem with a schedule: the field, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// It is not in the notation of cron, or never comes due.
    #[error("{0}")]
    Schedule(String),
    /// There is no such time zone.
    #[error("not an IANA time zone, such as Etc/UTC or Europe/Berlin")]
    TimeZone,
}

impl Schedule {
    /// Reads five fields (minute, hour, day, month, weekday), or a word such as `@daily`. The time zone is looked up in the
    /// database that the program brings along, so that every operator computes the same times.
    ///
    /// # Errors
    /// It is no such schedule, it never comes due, or the time zone is not known.
    pub fn parse(schedule: &str, time_zone: &str) -> Result<Self, ScheduleError> {
        let cron = cron(schedule).map_err(ScheduleError::Schedule)?;
        let zone = TimeZoneDatabase::bundled().get(time_zone).map_err(|_| ScheduleError::TimeZone)?;
        Ok(Self { cron, zone })
    }

    /// The first time after this one at which it is due; `None` beyond the end of the calendar.
    pub fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        let next = self.cron.find_next_occurrence(&time.to_zoned(self.zone.clone()), false).ok()?;
        Some(next.timestamp())
    }

    /// The last time at which it was due, up to this one.
    pub fn last_until(&self, time: Timestamp) -> Option<Timestamp> {
        let last = self.cron.find_previous_occurrence(&time.to_zoned(self.zone.clone()), true).ok()?;
        Some(last.timestamp())
    }
}

fn cron(schedule: &str) -> Result<Cron, String> {
    const FIELDS: &str = "minute hour day month weekday";
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    match fields.as_slice() {
        [_, _, _, _, _] => {}
        [word] if word.starts_with('@') => {}
        [_, rest @ ..] if rest.len() == 5 => {
            let meant = rest.join(" ");
            return Err(format!("six fields; this takes five ({FIELDS}), did you mean {meant:?}?"));
        }
        _ => return Err(format!("{} fields; this takes five ({FIELDS}), such as \"30 2 * * *\"", fields.len())),
    }
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    let wrong = |error| format!("{schedule:?} is not a schedule ({FIELDS}), such as \"30 2 * * *\": {error}");
    let cron = parser.parse(&fields.join(" ")).map_err(wrong)?;
    let comes_due = cron.find_next_occurrence(&Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC), false).is_ok();
    if comes_due { Ok(cron) } else { Err("never comes due".into()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn next(schedule: &str, zone: &str, after: &str) -> String {
        Schedule::parse(schedule, zone).unwrap().next_after(after.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn a_schedule_is_due_at_the_wall_clock_of_its_time_zone() {
        assert_eq!(next("30 2 * * *", "Etc/UTC", "2026-11-28T02:30:00Z"), "2026-11-29T02:30:00Z");
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-11-28T02:30:00Z"), "2026-11-29T01:30:00Z");
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-06-28T02:30:00Z"), "2026-06-29T00:30:00Z");
        assert_eq!(next("@daily", "Etc/UTC", "2026-11-28T02:30:00Z"), "2026-11-29T00:00:00Z");
        assert_eq!(next("0 0 29 2 *", "Etc/UTC", "2026-11-28T02:30:00Z"), "2028-02-29T00:00:00Z");
        let every_day = Schedule::parse("0 3 * * *", "Etc/UTC").unwrap();
        let last = |at: &str| every_day.last_until(at.parse().unwrap()).unwrap().to_string();
        assert_eq!(last("2026-11-28T03:00:00Z"), "2026-11-28T03:00:00Z");
        assert_eq!(last("2026-11-28T02:59:59.5Z"), "2026-11-27T03:00:00Z");
    }

    #[test]
    fn an_hour_that_does_not_exist_or_exists_twice_is_one_backup() {
        // Berlin: 02:00 to 03:00 does not exist on 2026-03-29, and exists twice on 2026-10-25.
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z"), "2026-03-29T01:00:00Z");
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-03-29T01:00:00Z"), "2026-03-30T00:30:00Z");
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z"), "2026-10-25T00:30:00Z");
        assert_eq!(next("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00Z"), "2026-10-26T01:30:00Z");
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_what_would_be_right() {
        let told = |schedule: &str, zone: &str| Schedule::parse(schedule, zone).unwrap_err().to_string();
        let mut all = String::new();
        for schedule in
            ["0 0 0 * * *", "30 2 31 2 *", "", "30 2 *", "61 2 * * *", "a b c d e", "@often", "0 0 * * * * *"]
        {
            all += &format!("{}\n", told(schedule, "Etc/UTC"));
        }
        all += &format!("{}\n{}\n", told("0 0 * * *", "EST5X"), told("0 0 * * *", "../../etc/passwd"));
        expect_test::expect![[r#"
            six fields; this takes five (minute hour day month weekday), did you mean "0 0 * * *"?
            never comes due
            0 fields; this takes five (minute hour day month weekday), such as "30 2 * * *"
            3 fields; this takes five (minute hour day month weekday), such as "30 2 * * *"
            "61 2 * * *" is not a schedule (minute hour day month weekday), such as "30 2 * * *": Component error: Number out of bounds.
            "a b c d e" is not a schedule (minute hour day month weekday), such as "30 2 * * *": Pattern contains illegal characters: CronPattern contains illegal character 'A' in part 'A'
            "@often" is not a schedule (minute hour day month weekday), such as "30 2 * * *": Invalid pattern: Pattern must have 5 fields when seconds are disallowed.
            7 fields; this takes five (minute hour day month weekday), such as "30 2 * * *"
            not an IANA time zone, such as Etc/UTC or Europe/Berlin
            not an IANA time zone, such as Etc/UTC or Europe/Berlin
        "#]]
        .assert_eq(&all);
    }
}
