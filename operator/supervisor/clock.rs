//! The clocks of the supervisor, and its one random value.

use std::time::Duration;

/// CLOCK_BOOTTIME: continues during `docker pause` and a suspended machine.
pub fn boottime() -> Duration {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).expect("Linux has CLOCK_BOOTTIME");
    time.into()
}

/// [`boottime`] in milliseconds.
pub fn boottime_ms() -> u64 {
    u64::try_from(boottime().as_millis()).unwrap_or(u64::MAX)
}

/// Seconds since 1970, by the clock of the machine: for people, and for what PostgreSQL compares with times of commits.
pub fn wall_seconds() -> i64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME).expect("Linux has CLOCK_REALTIME").tv_sec()
}

/// A new identity; the only random value in the supervisor.
#[allow(clippy::disallowed_methods)]
pub fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
