//! Work that takes longer than a reconcile may: it goes on beside the loop, and its end wakes the object's reconcile.
//! A job that is under way is not begun again. What is lost with the operator is begun again by the next plan.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::api::deployment::Deployment;
use crate::api::failure::Failure;
use crate::runtime::clock;
use crate::runtime::{ObjectRef, Wake};

/// First and longest wait before work that failed is begun again.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// A job, as a planner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobSeen {
    /// It goes on.
    Running,
    /// It is done; what it brought (a volume's name, an image's references, comma-separated).
    Done(String),
    /// It failed.
    Failed {
        /// Why.
        why: String,
        /// It may be begun again now.
        retry: bool,
    },
}

/// All jobs of all Deployments.
pub(super) struct Jobs {
    wake: Wake,
    jobs: Arc<Mutex<BTreeMap<(Subject, String), Job>>>,
}

/// Namespace and name of the Deployment.
type Subject = (String, String);

struct Job {
    state: State,
    failures: u32,
}

enum State {
    Running,
    Done(String),
    Failed(String, Instant),
}

impl Jobs {
    pub(super) fn new(wake: Wake) -> Self {
        Self { wake, jobs: Arc::default() }
    }

    /// Begins the work unless it is under way.
    pub(super) fn begin(
        &self,
        subject: &Subject,
        key: String,
        work: impl Future<Output = Result<String, Failure>> + Send + 'static,
    ) {
        let place = (subject.clone(), key);
        let mut jobs = lock(&self.jobs);
        let failures = match jobs.get(&place) {
            Some(Job { state: State::Running, .. }) => return,
            Some(Job { failures, .. }) => *failures,
            None => 0,
        };
        jobs.insert(place.clone(), Job { state: State::Running, failures });
        let (all, wake, subject) = (self.jobs.clone(), self.wake.clone(), subject.clone());
        let ours = place;
        tokio::spawn(async move {
            let ended = work.await;
            if let Some(job) = lock(&all).get_mut(&ours) {
                job.state = match ended {
                    Ok(brought) => {
                        job.failures = 0;
                        State::Done(brought)
                    }
                    Err(failure) => {
                        job.failures += 1;
                        State::Failed(failure.message, clock::instant())
                    }
                };
            }
            // Nobody listens once the operator ends.
            wake.object(&ObjectRef::new::<Deployment>(&subject.0, &subject.1));
        });
    }

    /// The jobs of a Deployment.
    pub(super) fn seen(&self, subject: &Subject) -> BTreeMap<String, JobSeen> {
        let jobs = lock(&self.jobs);
        let of = jobs.iter().filter(|((whose, _), _)| whose == subject);
        of.map(|((_, key), job)| (key.clone(), job.seen())).collect()
    }

    /// Forgets what was brought to a host: it is to be brought anew when it is next asked for.
    pub(super) fn forget_all(&self, subject: &Subject, host: &str) {
        let about = |key: &str| !key.starts_with("stop ") && key.split(' ').nth(1) == Some(host);
        lock(&self.jobs)
            .retain(|(whose, key), job| whose != subject || !about(key) || matches!(job.state, State::Running));
    }
}

impl Job {
    fn seen(&self) -> JobSeen {
        match &self.state {
            State::Running => JobSeen::Running,
            State::Done(brought) => JobSeen::Done(brought.clone()),
            State::Failed(why, at) => {
                let doubled = AGAIN.0.saturating_mul(2_u32.saturating_pow(self.failures.saturating_sub(1)));
                JobSeen::Failed { why: why.clone(), retry: at.elapsed() >= doubled.min(AGAIN.1) }
            }
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
