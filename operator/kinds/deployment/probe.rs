//! The state of one probe: counts results in a row until it succeeds or fails. Pure.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;

/// The results of a container's probes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Probed {
    /// It has started: it has no startup probe, or the probe succeeded once. `None`: no result yet.
    pub started: Option<bool>,
    /// Its readiness probe succeeds. `None`: no result yet.
    pub ready: Option<bool>,
    /// Its liveness probe succeeds. `None`: no result yet.
    pub alive: Option<bool>,
    /// The message of the last failed probe.
    pub said: Option<String>,
}

/// The type of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// Has the container started? Asked until it has; the other probes wait for that.
    Startup,
    /// Can it serve requests?
    Readiness,
    /// Is it alive?
    Liveness,
}

/// Counts the results of one probe.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Count {
    holds: u32,
    fails: u32,
    /// The current verdict; `None` until there are enough results.
    pub verdict: Option<bool>,
}

impl Count {
    /// Counts a result; `true` if the verdict changed.
    pub fn take(&mut self, probe: &Probe, question: Question, held: bool) -> bool {
        let before = self.verdict;
        if held {
            self.holds += 1;
            self.fails = 0;
        } else {
            self.fails += 1;
            self.holds = 0;
        }
        if self.holds >= at_least_one(probe.success_threshold, 1) {
            self.verdict = Some(true);
        } else if self.fails >= at_least_one(probe.failure_threshold, 3) {
            self.verdict = Some(false);
        } else if self.verdict.is_none() && question == Question::Readiness && !held {
            // A container is not ready before its readiness probe succeeds.
            self.verdict = Some(false);
        }
        before != self.verdict
    }
}

fn at_least_one(value: Option<i32>, default: u32) -> u32 {
    value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
}

/// Time between two probes.
pub fn period(probe: &Probe) -> Duration {
    Duration::from_secs(at_least_one(probe.period_seconds, 10).into())
}

/// Time-out of a probe.
pub fn limit(probe: &Probe) -> Duration {
    Duration::from_secs(at_least_one(probe.timeout_seconds, 1).into())
}

/// Delay before the first probe.
pub fn delay(probe: &Probe) -> Duration {
    let seconds = probe.initial_delay_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Duration::from_secs(seconds.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(probe: &Probe, question: Question, answers: &str) -> String {
        let mut count = Count::default();
        let verdict = |count: &Count| count.verdict.map_or('?', |verdict| if verdict { '+' } else { '-' });
        let each = answers.chars().map(|answer| {
            count.take(probe, question, answer == 'y');
            verdict(&count)
        });
        each.collect()
    }

    #[test]
    fn a_verdict_takes_as_many_answers_as_it_says() {
        let probe = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Default::default() };
        assert_eq!(verdicts(&probe, Question::Liveness, "nnyynnynnn"), "???++++++-");
        assert_eq!(verdicts(&Probe::default(), Question::Readiness, "nynnn"), "-+++-");
    }
}
