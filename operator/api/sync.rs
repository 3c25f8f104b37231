//! Locks of plain data.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The guard of a mutex whose data is whole even where a holder panicked: no code leaves it half changed.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
