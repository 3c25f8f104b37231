//! What each member last said of itself, kept when the link is gone with its container.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::api::labels::Owner;
use crate::api::sync::lock;
use crate::runtime::Keeper;

/// The last values of the members of all objects of a kind.
pub struct Kept<T>(Mutex<BTreeMap<Owner, BTreeMap<String, T>>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Send> Keeper for Kept<T> {
    fn forget(&self, owner: &Owner) {
        lock(&self.0).remove(owner);
    }

    fn count(&self) -> usize {
        lock(&self.0).len()
    }
}

impl<T: Clone> Kept<T> {
    /// Takes in what members say now, by name, and returns the last value of each member.
    pub fn keep(&self, owner: &Owner, now: impl IntoIterator<Item = (String, T)>) -> BTreeMap<String, T> {
        let mut kept = lock(&self.0);
        let known = kept.entry(owner.clone()).or_default();
        known.extend(now);
        known.clone()
    }
}
