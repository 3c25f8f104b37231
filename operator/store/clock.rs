//! The door through which time and chance reach this room and those above it; what is behind it is `runtime/clock.rs`.

use jiff::Timestamp;

/// Time and chance. Behind it stands the machine in production, a seed in tests.
pub trait Clock: Send + Sync + 'static {
    /// The time of day.
    fn now(&self) -> Timestamp;
    /// 64 bits that nobody can guess (in production).
    fn random(&self) -> u64;
}

/// A version 4 UUID.
pub fn uid(clock: &dyn Clock) -> String {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&clock.random().to_be_bytes());
    bytes[8..].copy_from_slice(&clock.random().to_be_bytes());
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

/// `length` letters and digits, those that people confuse left out, as Kubernetes ends a `generateName`.
pub fn suffix(clock: &dyn Clock, length: usize) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let pick = |_| {
        let index = clock.random() % LETTERS.len() as u64;
        char::from(LETTERS[index as usize])
    };
    (0..length).map(pick).collect()
}
