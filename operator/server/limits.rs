//! How much one user, or one address without a user, may ask of the server. Clients that wait for their answers never come
//! near these limits; who exceeds them gets 429 and is told when to try again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::status::Refusal;
use crate::api::rate::Rate;
use crate::api::sync::lock;

/// Requests of a user.
const USER: Rate = Rate { a_second: 400, at_once: 800 };
/// Requests of an address without a user.
const STRANGER: Rate = Rate { a_second: 10, at_once: 50 };
/// Limit of the watches and followed logs of a user.
const WATCHES: usize = 100;
/// Limit of the exec, attach and port-forward sessions of a user.
const SESSIONS: usize = 20;
/// Limit of the requests of a user whose bodies are in memory; further ones wait.
const BODIES: usize = 32;
/// Limit of the accounts; further callers share one.
const ACCOUNTS: usize = 10_000;

/// Who sends a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Caller {
    /// A known user, by name.
    User(String),
    /// Somebody at this address.
    Stranger(Option<IpAddr>),
}

/// An answer that goes on until the client has enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// A watch or a log.
    Watch,
    /// A command or a connection in a container.
    Session,
}

struct Account {
    /// When everything that was asked so far is paid.
    paid: Instant,
    watches: Arc<Semaphore>,
    sessions: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
}

impl Account {
    fn new(now: Instant) -> Self {
        let of = |limit| Arc::new(Semaphore::new(limit));
        Self { paid: now, watches: of(WATCHES), sessions: of(SESSIONS), bodies: of(BODIES) }
    }

    fn is_idle(&self, now: Instant) -> bool {
        let all = [(&self.watches, WATCHES), (&self.sessions, SESSIONS), (&self.bodies, BODIES)];
        self.paid <= now && all.iter().all(|(free, limit)| free.available_permits() == *limit)
    }
}

/// The accounts of all callers.
#[derive(Default)]
pub struct Limits {
    accounts: Mutex<HashMap<Caller, Account>>,
}

impl Limits {
    /// Takes one request; 429 if the caller sends too many.
    pub fn admit(&self, caller: &Caller, now: Instant) -> Result<(), Refusal> {
        let rate = if matches!(caller, Caller::User(_)) { USER } else { STRANGER };
        if self.account(caller, now, |account| rate.admits(&mut account.paid, now)) {
            return Ok(());
        }
        let Rate { a_second, at_once } = rate;
        let told = format!("too many requests: at most {a_second} a second, and {at_once} at once");
        Err(Refusal::too_many_requests(told))
    }

    /// Takes one stream until the permit is dropped; 429 if the user has too many.
    pub fn stream(&self, caller: &Caller, stream: Stream, now: Instant) -> Result<OwnedSemaphorePermit, Refusal> {
        self.account(caller, now, |account| {
            let (free, limit, what) = match stream {
                Stream::Watch => (&account.watches, WATCHES, "watches and followed logs"),
                Stream::Session => (&account.sessions, SESSIONS, "exec, attach and port-forward sessions"),
            };
            let refused = |_| Refusal::too_many_requests(format!("a user may have {limit} {what} at once"));
            free.clone().try_acquire_owned().map_err(refused)
        })
    }

    /// Waits until the user may send a body.
    pub async fn body(&self, caller: &Caller, now: Instant) -> OwnedSemaphorePermit {
        let bodies = self.account(caller, now, |account| account.bodies.clone());
        bodies.acquire_owned().await.expect("the semaphore is never closed")
    }

    fn account<T>(&self, caller: &Caller, now: Instant, change: impl FnOnce(&mut Account) -> T) -> T {
        let mut accounts = lock(&self.accounts);
        if accounts.len() >= ACCOUNTS && !accounts.contains_key(caller) {
            accounts.retain(|_, account| !account.is_idle(now));
        }
        let full = accounts.len() >= ACCOUNTS && !accounts.contains_key(caller);
        let key = if full { Caller::Stranger(None) } else { caller.clone() };
        change(accounts.entry(key).or_insert_with(|| Account::new(now)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    use crate::runtime::clock::instant;

    fn user(name: &str) -> Caller {
        Caller::User(name.to_owned())
    }

    #[test]
    fn a_caller_gets_a_burst_and_then_its_rate_and_disturbs_nobody_else() {
        let (limits, start) = (Limits::default(), instant());
        let taken = |caller: &Caller, at: Duration| {
            (0..10_000).take_while(|_| limits.admit(caller, start + at).is_ok()).count()
        };
        let (now, later) = (Duration::ZERO, Duration::from_secs(1));
        assert_eq!((taken(&user("a"), now), taken(&user("b"), now)), (800, 800));
        assert_eq!((taken(&user("a"), later), taken(&user("a"), later * 10)), (400, 800));
        let address = |last| Caller::Stranger(Some([127, 0, 0, last].into()));
        assert_eq!((taken(&address(1), now), taken(&address(2), now), taken(&address(1), later)), (50, 50, 10));
    }

    #[test]
    fn streams_are_counted_until_they_end() {
        let (limits, now) = (Limits::default(), instant());
        let mut open: Vec<_> =
            (0..SESSIONS).map(|_| limits.stream(&user("a"), Stream::Session, now).unwrap()).collect();
        let refused = limits.stream(&user("a"), Stream::Session, now).unwrap_err();
        assert_eq!(refused.message, "a user may have 20 exec, attach and port-forward sessions at once");
        assert!(limits.stream(&user("a"), Stream::Watch, now).is_ok());
        assert!(limits.stream(&user("b"), Stream::Session, now).is_ok());
        open.pop();
        assert!(limits.stream(&user("a"), Stream::Session, now).is_ok());
    }

    #[test]
    fn many_addresses_take_bounded_memory() {
        let (limits, now) = (Limits::default(), instant());
        for number in 0..u32::try_from(ACCOUNTS).unwrap() + 100 {
            let _ = limits.admit(&Caller::Stranger(Some(IpAddr::V4(number.into()))), now);
        }
        assert_eq!(lock(&limits.accounts).len(), ACCOUNTS + 1);
    }
}
