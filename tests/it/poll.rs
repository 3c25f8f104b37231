//! The pause between two looks at something that is waited for; the one place in these tests that sleeps.

use std::time::Duration;

/// A moment; the caller bounds how often.
pub fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}
