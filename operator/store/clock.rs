//! Time and random numbers as a trait, and values drawn from it: uids, name suffixes, passwords. The
//! implementations are in `runtime/clock.rs`.

use std::time::Duration;

use jiff::Timestamp;

/// Time and random numbers: the machine's in production, a seed's in tests.
pub trait Clock: Send + Sync + 'static {
    /// The time of day.
    fn now(&self) -> Timestamp;
    /// The time since this machine started. It goes on while the machine is suspended, and nobody can set it: for the
    /// deadlines of a lease. Says nothing to another machine.
    fn boot(&self) -> Duration;
    /// 64 random bits; unpredictable in production.
    fn random(&self) -> u64;
}

/// A version 4 UUID.
pub fn uid(clock: &dyn Clock) -> String {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&clock.random().to_be_bytes());
    bytes[8..].copy_from_slice(&clock.random().to_be_bytes());
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

/// Alphabet of `generateName`, as in Kubernetes: lower-case letters and digits without those that are easily confused.
const SUFFIX: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Alphabet of passwords: safe in a URI and in a shell, 5.9 bits each.
const PASSWORD: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// The end of a generated name: `length` letters and digits.
pub fn suffix(clock: &dyn Clock, length: usize) -> String {
    draw(clock, SUFFIX, length)
}

/// A password of `length` letters and digits.
pub fn password(clock: &dyn Clock, length: usize) -> String {
    draw(clock, PASSWORD, length)
}

fn draw(clock: &dyn Clock, letters: &[u8], length: usize) -> String {
    let pick = |_| char::from(letters[(clock.random() % letters.len() as u64) as usize]);
    (0..length).map(pick).collect()
}
