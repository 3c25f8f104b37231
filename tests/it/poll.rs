//! The pause between two polls of a condition; the only place in these tests that sleeps.

use std::time::Duration;

/// Sleeps for a moment; the caller limits how often.
pub fn pause() {
    #[allow(clippy::disallowed_methods)] // Its callers are plain tests without a runtime.
    std::thread::sleep(Duration::from_millis(20));
}
