//! The pause between two looks at something that is waited for; the one place in these tests that sleeps.

use std::time::Duration;

/// A moment; the caller bounds how often.
pub fn pause() {
    #[allow(clippy::disallowed_methods)] // Its callers are plain tests without a runtime.
    std::thread::sleep(Duration::from_millis(20));
}
