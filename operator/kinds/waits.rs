//! Counts how long this operator itself has known of a recorded moment.
//!
//! A decision that waits for a time since something was recorded must not compare clocks: the one who recorded it may have been
//! another operator, or the same one before its clock was set. It waits anew: the time since it first saw the record.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::api::labels::Owner;
use crate::api::sync::lock;
use crate::runtime::{Keeper, clock};

/// By recorded moment, how long this operator has known of it. One that is missing has just been recorded.
pub type Waited = BTreeMap<Timestamp, Duration>;

/// How long this operator has known of a recorded moment.
pub fn waited(waited: &Waited, since: Timestamp) -> Duration {
    waited.get(&since).copied().unwrap_or_default()
}

/// When each recorded moment of the objects of a kind was first seen.
#[derive(Default)]
pub struct Waits(Mutex<BTreeMap<Owner, BTreeMap<Timestamp, Instant>>>);

impl Waits {
    /// Takes note of the moments that the record of an object has now, and forgets the others.
    pub fn note(&self, owner: &Owner, recorded: impl IntoIterator<Item = Timestamp>) -> Waited {
        let (mut all, now) = (lock(&self.0), clock::instant());
        let before = all.remove(owner).unwrap_or_default();
        let seen = |since: Timestamp| (since, before.get(&since).copied().unwrap_or(now));
        let seen: BTreeMap<_, _> = recorded.into_iter().map(seen).collect();
        let waited = seen.iter().map(|(since, first)| (*since, now.duration_since(*first))).collect();
        all.insert(owner.clone(), seen);
        waited
    }
}

impl Keeper for Waits {
    fn forget(&self, owner: &Owner) {
        lock(&self.0).remove(owner);
    }

    fn count(&self) -> usize {
        lock(&self.0).len()
    }
}

/// What an operator knows that saw each moment at once, and whose clock shows this time: for simulations.
#[cfg(test)]
pub fn by_the_clock(now: Timestamp, recorded: impl IntoIterator<Item = Timestamp>) -> Waited {
    recorded.into_iter().map(|since| (since, now.duration_since(since).unsigned_abs())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_moment_is_waited_for_from_when_it_was_first_seen_however_old_it_says_it_is() {
        let owner = Owner { kind: "K".into(), namespace: "n".into(), name: "o".into() };
        let (waits, old) = (Waits::default(), Timestamp::UNIX_EPOCH);
        let seconds = |waited: Waited| waited.into_values().map(|waited| waited.as_secs()).collect::<Vec<_>>();
        assert_eq!(seconds(waits.note(&owner, [old])), [0]);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(seconds(waits.note(&owner, [old, Timestamp::MAX])), [9, 0]);
        assert_eq!(seconds(waits.note(&owner, [])), [0; 0]);
        assert_eq!(seconds(waits.note(&owner, [old])), [0]);
    }
}
