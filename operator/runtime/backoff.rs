//! Backoff: the delay before a failed key is tried again. One policy for all kinds, kept per key.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use super::clock::{Clock, jitter};
use crate::api::failure::Class;

/// Delay after the first failure; it doubles with each further one.
const FIRST: Duration = Duration::from_millis(50);
/// Longest delay, and the delay after a terminal failure, which a retry cannot fix.
const LONGEST: Duration = Duration::from_secs(30);
/// Conflicts in a row that are retried at once.
const CONFLICTS: u32 = 10;

/// Failures in a row of each key; keys without a failure are not kept.
#[derive(Debug)]
pub struct Backoff<K> {
    failing: HashMap<K, Streak>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Streak {
    failures: u32,
    conflicts: u32,
}

impl<K> Default for Backoff<K> {
    fn default() -> Self {
        Self { failing: HashMap::new() }
    }
}

impl<K: Hash + Eq + Clone> Backoff<K> {
    /// Counts a failure of `key`; returns the delay before the next attempt.
    pub fn failed(&mut self, key: &K, class: Class, clock: &dyn Clock) -> Duration {
        let streak = self.failing.entry(key.clone()).or_default();
        if class == Class::Conflict && streak.conflicts < CONFLICTS {
            streak.conflicts += 1;
            return Duration::ZERO;
        }
        streak.failures = streak.failures.saturating_add(1);
        match class {
            Class::Terminal => jitter(clock, LONGEST),
            Class::Transient | Class::Conflict | Class::NotFound => jitter(clock, doubled(streak.failures - 1)),
        }
    }

    /// Number of keys that have failed and not yet succeeded.
    pub fn len(&self) -> usize {
        self.failing.len()
    }

    /// Whether every key has succeeded since its last failure.
    pub fn is_empty(&self) -> bool {
        self.failing.is_empty()
    }

    /// Failures in a row of `key`, without conflicts that were retried at once.
    pub fn failures(&self, key: &K) -> u32 {
        self.failing.get(key).map_or(0, |streak| streak.failures)
    }

    /// Forgets the failures of a key that succeeded or is gone.
    pub fn reset(&mut self, key: &K) {
        self.failing.remove(key);
    }
}

fn doubled(times: u32) -> Duration {
    // After 20 doublings it is the longest delay anyway; more would overflow.
    FIRST.saturating_mul(1 << times.min(20)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::runtime::clock::TestClock;

    fn waits(class: Class, count: usize) -> Vec<Duration> {
        let (clock, mut backoff) = (TestClock::still(Timestamp::UNIX_EPOCH), Backoff::default());
        (0..count).map(|_| backoff.failed(&"a", class, &clock)).collect()
    }

    fn within(wait: Duration, whole: Duration) -> bool {
        wait <= whole && wait >= whole / 2
    }

    #[test]
    fn waits_double_from_50_ms_to_30_s() {
        for (wait, whole_ms) in waits(Class::Transient, 12).iter().zip([50, 100, 200, 400, 800, 1600, 3200, 6400]) {
            assert!(within(*wait, Duration::from_millis(whole_ms)), "{wait:?} of {whole_ms} ms");
        }
        let many = waits(Class::NotFound, 100);
        assert!(within(many[99], LONGEST), "{:?}", many[99]);
    }

    #[test]
    fn ten_conflicts_are_answered_at_once_then_backed_off() {
        let waits = waits(Class::Conflict, 12);
        assert!(waits[..10].iter().all(Duration::is_zero));
        assert!(within(waits[10], FIRST) && within(waits[11], FIRST * 2), "{waits:?}");
    }

    #[test]
    fn what_a_retry_cannot_mend_waits_longest_from_the_first() {
        assert!(within(waits(Class::Terminal, 1)[0], LONGEST));
    }

    #[test]
    fn success_of_a_key_forgets_its_failures_and_no_others() {
        let (clock, mut backoff) = (TestClock::still(Timestamp::UNIX_EPOCH), Backoff::default());
        for key in ["a", "b", "a", "b"] {
            backoff.failed(&key, Class::Transient, &clock);
        }
        backoff.reset(&"a");
        assert_eq!((backoff.failures(&"a"), backoff.failures(&"b")), (0, 2));
        assert!(within(backoff.failed(&"a", Class::Transient, &clock), FIRST));
    }
}
