//! Metrics of a controller.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one kind's controller since its start.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Reconciles without steps.
    pub settled: Count,
    /// Reconciles whose steps were all done.
    pub acted: Count,
    /// Reconciles that ended in a conflict: another writer was first.
    pub conflicts: Count,
    /// Reconciles that failed otherwise.
    pub failed: Count,
    /// Reconciles that panicked.
    pub panics: Count,
    /// Steps done.
    pub steps_done: Count,
    /// Steps that failed.
    pub steps_failed: Count,
}

/// A counter that many tasks may increment.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds one.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
