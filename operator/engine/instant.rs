//! The monotonic time of this room, for ages and time-outs; tests can pause it. The time of day is not read here.
#![allow(clippy::disallowed_methods)]

use tokio::time::Instant;

/// Now, by the clock that only goes forward.
pub(super) fn instant() -> Instant {
    Instant::now()
}
