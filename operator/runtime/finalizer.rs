//! The finalizer protocol: one total match, no effects. Pure.

/// The finalizer that keeps a deleted object in the store until its containers, volumes and networks are torn down.
pub const FINALIZER: &str = "evenkeel.dev/teardown";

/// What a reconcile must do about the finalizer of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Add the finalizer, then continue: it must be stored before anything is created outside the store.
    Add,
    /// Continue.
    Keep,
    /// Tear down; remove the finalizer when the plan is finished.
    TearDown,
    /// Leave the object alone: its teardown is done, and only finalizers of others keep it.
    Leave,
}

/// The gate for an object with or without our finalizer, being deleted or not.
pub fn gate(has_finalizer: bool, deleting: bool) -> Gate {
    match (has_finalizer, deleting) {
        (false, false) => Gate::Add,
        (true, false) => Gate::Keep,
        (true, true) => Gate::TearDown,
        (false, true) => Gate::Leave,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_made_without_a_finalizer_nor_kept_by_ours_once_torn_down() {
        assert_eq!(gate(false, false), Gate::Add);
        assert_eq!(gate(true, false), Gate::Keep);
        assert_eq!(gate(true, true), Gate::TearDown);
        assert_eq!(gate(false, true), Gate::Leave);
    }
}
