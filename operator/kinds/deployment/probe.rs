//! A probe's memory: how many answers in a row make it hold or not. Pure.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;

/// What the probes of a container found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Probed {
    /// It has started: no startup probe, or one that held once. `None`: no answer yet.
    pub started: Option<bool>,
    /// Its readiness holds. `None`: no answer yet.
    pub ready: Option<bool>,
    /// It is alive. `None`: no answer yet.
    pub alive: Option<bool>,
    /// What the last answer that did not hold said.
    pub said: Option<String>,
}

/// Which question a probe asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Question {
    /// Has it started? Asked until it has; the others wait for that.
    Startup,
    /// Can it take work?
    Readiness,
    /// Is it alive?
    Liveness,
}

/// Counts the answers of one probe.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Count {
    holds: u32,
    fails: u32,
    /// What it comes to; `None` before enough answers came in.
    pub verdict: Option<bool>,
}

impl Count {
    /// Takes an answer; `true` if the verdict changed.
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
            // Not ready until it says so.
            self.verdict = Some(false);
        }
        before != self.verdict
    }
}

fn at_least_one(value: Option<i32>, default: u32) -> u32 {
    value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
}

/// Between two answers.
pub fn period(probe: &Probe) -> Duration {
    Duration::from_secs(at_least_one(probe.period_seconds, 10).into())
}

/// How long an answer may take.
pub fn limit(probe: &Probe) -> Duration {
    Duration::from_secs(at_least_one(probe.timeout_seconds, 1).into())
}

/// Before the first answer is asked for.
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
