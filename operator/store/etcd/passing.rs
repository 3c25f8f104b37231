//! The lease of what passes by itself: Events are gone an hour after their last write, also while no operator runs.

use std::sync::Mutex;
use std::time::Duration;

use super::members::{Members, Repeat, Services};
use crate::api::sync::lock;
use crate::store::{Clock, Error};

/// How long an Event stays, in seconds.
const LIFE: i64 = 3600;
/// How long new Events share a lease: they pass up to this much earlier.
const SHARED: Duration = Duration::from_secs(60);
/// Most Events of one lease: etcd deletes them in one transaction.
const MOST: usize = 500;

/// The lease that new Events get.
#[derive(Debug, Default)]
pub(super) struct Passing(Mutex<Option<Granted>>);

#[derive(Debug)]
struct Granted {
    lease: i64,
    at: Duration,
    uses: usize,
}

impl Passing {
    /// A lease for one more Event.
    pub(super) async fn lease(&self, members: &Members, clock: &dyn Clock) -> Result<i64, Error> {
        let now = clock.boot();
        if let Some(granted) = lock(&self.0).as_mut().filter(|granted| granted.is_young(now)) {
            granted.uses += 1;
            return Ok(granted.lease);
        }
        let request = |mut services: Services| async move { services.lease.grant(LIFE, None).await };
        // A lease that nobody uses passes, too.
        let lease = match members.call(Repeat::Harmless, request).await {
            Ok(granted) => granted.id(),
            Err(failure) => return Err(members.explained("asking for the lease of an Event", failure).await),
        };
        *lock(&self.0) = Some(Granted { lease, at: now, uses: 1 });
        Ok(lease)
    }

    /// Makes the next Event ask for a new lease.
    pub(super) fn forget(&self) {
        *lock(&self.0) = None;
    }
}

impl Granted {
    fn is_young(&self, now: Duration) -> bool {
        now.saturating_sub(self.at) < SHARED && self.uses < MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_shared_for_a_minute_and_by_a_bounded_number_of_events() {
        let young = |age, uses| {
            let at = Duration::from_secs(100);
            Granted { lease: 1, at, uses }.is_young(at + Duration::from_secs(age))
        };
        assert_eq!([young(0, 1), young(59, 499), young(60, 1), young(1, 500)], [true, true, false, false]);
    }
}
