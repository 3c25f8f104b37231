//! How often something may happen: so many times at once, and then so many a second.

use std::time::Duration;

use tokio::time::Instant;

/// A limit.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// A second, for as long as one likes; at least 1.
    pub a_second: u32,
    /// At once, after a pause.
    pub at_once: u32,
}

impl Rate {
    /// Takes one if there is one. `paid`: when everything that was taken so far is paid; a past moment for who took nothing.
    pub fn admits(self, paid: &mut Instant, now: Instant) -> bool {
        let price = Duration::from_secs(1) / self.a_second;
        let then = (*paid).max(now) + price;
        let admitted = then - now <= price * self.at_once;
        if admitted {
            *paid = then;
        }
        admitted
    }
}
