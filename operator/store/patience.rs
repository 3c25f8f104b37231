//! Patience of a start: what it needs of the store is tried again while the store cannot answer.

use std::time::Duration;

use super::Error;
use crate::api::failure::{Class, Classify as _};

/// Pause before the next attempt.
const AGAIN: Duration = Duration::from_secs(1);
/// Attempts at most: an election of etcd takes a second or two, more on a busy machine.
const ATTEMPTS: usize = 30;

/// Tries until the store answers, or refuses, or has not answered for half a minute.
pub async fn patiently<T, F>(ask: impl Fn() -> F + Send) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>> + Send,
{
    for _ in 1..ATTEMPTS {
        match ask().await {
            Err(error) if error.class() == Class::Transient => {
                tracing::warn!(%error, "the store does not answer; this start tries again");
                tokio::time::sleep(AGAIN).await;
            }
            outcome => return outcome,
        }
    }
    ask().await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// How often it was asked, and whether it succeeded, of a store that fails so many times.
    async fn asked(failures: usize, error: fn() -> Error) -> (usize, bool) {
        let count = AtomicUsize::new(0);
        let ask = || async { if count.fetch_add(1, Ordering::Relaxed) < failures { Err(error()) } else { Ok(()) } };
        let outcome = patiently(ask).await;
        (count.into_inner(), outcome.is_ok())
    }

    /// Regression 328: an operator that started while etcd elected its leader ended with "raft proposal dropped". Seen when a host
    /// came back in the middle of an election.
    #[tokio::test(start_paused = true)]
    async fn a_start_outlasts_an_election_of_etcd_and_not_a_refusal() {
        let away = || Error::Backend { doing: "writing", source: "raft proposal dropped".into() };
        assert_eq!(asked(3, away).await, (4, true));
        assert_eq!(asked(99, away).await, (30, false));
        assert_eq!(asked(1, || Error::Setup { problem: "no".to_owned() }).await, (1, false));
    }
}
