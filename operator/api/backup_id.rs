//! Names of backups, and of what is restored from them. Pure.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// The form of an ID, which is a time in UTC.
const FORM: &str = "%Y%m%dT%H%M%S";

/// The ID of a base backup that begins at this time.
pub fn backup_id(now: Timestamp) -> String {
    now.to_zoned(TimeZone::UTC).strftime(FORM).to_string()
}

/// When the base backup with this ID began, by the clock of the operator; `None` if it is no ID.
pub fn began(id: &str) -> Option<Timestamp> {
    let time = DateTime::strptime(FORM, id).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// Whether this is the ID of a base backup: `YYYYMMDDTHHMMSS`.
/// What the names of databases begin with while a dump is restored into them.
pub const UNFINISHED: &str = "evenkeel_restore_";

/// Whether this is the ID of a base backup or dump: `YYYYMMDDTHHMMSS`.
pub fn is_backup_id(id: &str) -> bool {
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    id.len() == 15 && id.is_ascii() && digits(&id[..8]) && &id[8..9] == "T" && digits(&id[9..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_tells_when_its_backup_began() {
        let second = Timestamp::new(1_800_000_000, 0).ok();
        assert_eq!((second.map(backup_id), began("20270115T080000")), (Some("20270115T080000".into()), second));
        assert_eq!((began("20271415T080000"), began("")), (None, None));
    }

    #[test]
    fn an_id_is_a_time_without_signs() {
        assert!(is_backup_id("20261128T030000"));
        for wrong in ["", "20261128T03000", "20261128 030000", "2026-11-28T0300", "20261128T03000é"] {
            assert!(!is_backup_id(wrong), "{wrong}");
        }
    }
}
