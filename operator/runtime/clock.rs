//! Clocks and random numbers: the only file that reads them. Other code gets the value or a [`Clock`].
#![allow(clippy::disallowed_methods)]

use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use rand::Rng;
use tokio::time::Instant;

use crate::api::sync::lock;
pub use crate::store::Clock;

/// The machine's clock and the operating system's random numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn boot(&self) -> Duration {
        let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).expect("Linux has CLOCK_BOOTTIME");
        time.into()
    }

    fn random(&self) -> u64 {
        rand::rng().next_u64()
    }
}

/// A clock for tests: starts at a given time, and draws its random numbers from a seed.
#[derive(Debug)]
pub struct TestClock {
    state: Mutex<TestState>,
    /// The start in tokio's time, which it follows; `None` if it moves only with [`TestClock::advance`].
    follows: Option<Instant>,
}

#[derive(Debug)]
struct TestState {
    now: Timestamp,
    /// By how much the clock was advanced, in all.
    advanced: Duration,
    seed: u64,
}

impl TestClock {
    /// Stands at `start` until [`TestClock::advance`] is called.
    pub fn still(start: Timestamp) -> Self {
        Self { state: Mutex::new(TestState { now: start, advanced: Duration::ZERO, seed: 0 }), follows: None }
    }

    /// Shows `start` now and runs with tokio's time, which tests can pause.
    pub fn following_tokio(start: Timestamp) -> Self {
        Self { follows: Some(Instant::now()), ..Self::still(start) }
    }

    /// The same clock with another seed for its random numbers.
    pub fn seeded(self, seed: u64) -> Self {
        lock(&self.state).seed = seed;
        self
    }

    /// What tokio's time has added.
    fn run(&self) -> Duration {
        self.follows.map_or(Duration::ZERO, |start| start.elapsed())
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let mut state = lock(&self.state);
        state.now = later(state.now, by);
        state.advanced += by;
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let now = lock(&self.state).now;
        later(now, self.run())
    }

    fn boot(&self) -> Duration {
        lock(&self.state).advanced + self.run()
    }

    /// SplitMix64: every draw is different, and the same in every run.
    fn random(&self) -> u64 {
        let mut state = lock(&self.state);
        state.seed = state.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state.seed ^ (state.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// The monotonic time of queues and timers; tests can pause it.
pub fn instant() -> Instant {
    Instant::now()
}

/// `duration` times a random number between 0.5 and 1, so that keys that failed together do not retry together.
pub fn jitter(clock: &dyn Clock, duration: Duration) -> Duration {
    let chance = (clock.random() >> 11) as f64 / (1u64 << 53) as f64;
    duration.mul_f64(0.5 + chance / 2.0)
}

/// The time after `by`; the end of time if that would overflow.
fn later(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::clock::password;

    #[test]
    fn a_still_clock_moves_when_it_is_advanced_only() {
        let clock = TestClock::still(Timestamp::UNIX_EPOCH);
        assert_eq!(clock.now(), Timestamp::UNIX_EPOCH);
        clock.advance(Duration::from_millis(1500));
        assert_eq!(clock.now().to_string(), "1970-01-01T00:00:01.5Z");
    }

    #[test]
    fn the_boot_clock_moves_with_the_other_and_begins_at_no_date() {
        let clock = TestClock::still(Timestamp::MIN);
        clock.advance(Duration::from_secs(3));
        assert_eq!(clock.boot(), Duration::from_secs(3));
        let (one, other) = (SystemClock.boot(), SystemClock.boot());
        assert!(Duration::ZERO < one && one <= other, "{one:?} {other:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_following_clock_moves_with_paused_time() {
        let clock = TestClock::following_tokio(Timestamp::UNIX_EPOCH);
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(clock.now().to_string(), "1970-01-01T00:01:30Z");
    }

    #[test]
    fn jitter_stays_between_half_and_whole() {
        let clock = TestClock::still(Timestamp::UNIX_EPOCH);
        for _ in 0..1000 {
            let jittered = jitter(&clock, Duration::from_secs(10));
            assert!((5.0..=10.0).contains(&jittered.as_secs_f64()), "{jittered:?}");
        }
    }

    #[test]
    fn passwords_differ_and_have_the_length_asked_for() {
        let passwords = [password(&SystemClock, 32), password(&SystemClock, 32)];
        assert_ne!(passwords[0], passwords[1]);
        assert!(passwords.iter().all(|word| word.len() == 32 && word.chars().all(|c| c.is_ascii_alphanumeric())));
    }
}
