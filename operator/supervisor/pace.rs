//! The pace of long work: not faster than is allowed, and told now and then.

use std::time::Duration;

use tokio::sync::watch;

use super::clock::boottime;
use super::wire::BackupState;

/// Progress is told whenever another so many bytes are done, as a power of two.
const STEP: u32 = 23;

/// The pace of work that began with it.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    began: Duration,
    /// Bytes a second at most; `None`: no limit.
    rate: Option<u64>,
}

impl Pace {
    /// Work begins.
    pub fn new(rate: Option<u64>) -> Self {
        Self { began: boottime(), rate }
    }

    /// So many bytes are read, and so many stored: tells that, and waits until more may be read.
    pub async fn keep(&self, now: (u64, u64), progress: &watch::Sender<BackupState>) {
        progress.send_if_modified(|state| {
            let steps = (state.bytes >> STEP) != (now.0 >> STEP);
            (state.bytes, state.stored) = now;
            steps
        });
        if let Some(rate) = self.rate {
            tokio::time::sleep(due(now.0, rate).saturating_sub(boottime().saturating_sub(self.began))).await;
        }
    }
}

/// The time from the begin after which so many bytes may have been read.
fn due(bytes: u64, rate: u64) -> Duration {
    Duration::from_millis((u128::from(bytes) * 1000 / u128::from(rate.max(1))).try_into().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_time_for_each_number_of_bytes() {
        assert_eq!(due(100 << 20, 50 << 20), Duration::from_secs(2));
        assert_eq!((due(1 << 20, 0) > Duration::ZERO, due(u64::MAX, 1)), (true, Duration::from_millis(u64::MAX)));
    }
}
