//! Locks of plain data.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex, also if a holder panicked: no code leaves its data half changed.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
