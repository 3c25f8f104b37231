//! The fence against operators that do not lead any more: which of them this supervisor listens to.
//!
//! Of several operators one leads. Each leadership has an epoch, which is higher than all before. An operator says its epoch at the
//! start of a conversation ([`Hello`]); a single operator has none and says nothing (0). The highest epoch that was ever said is
//! on the volume. Whatever comes in a conversation of a lower one is refused, however long it was on its way.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::durable;
use crate::api::sync::lock;

/// The file in the supervisor's folder on the volume.
const FILE: &str = "leader.json";

/// The first line of an operator that leads others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// The epoch of its leadership.
    pub epoch: u64,
}

/// An operator that leads no more, or whose epoch could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Another operator has spoken that leads since.
    #[error("an operator of epoch {epoch} is not listened to: one of epoch {highest} has spoken")]
    Deposed {
        /// Its epoch.
        epoch: u64,
        /// The highest epoch.
        highest: u64,
    },
    /// A promise to listen to no older one could not be saved.
    #[error("the epoch {epoch} of an operator cannot be saved")]
    Unsaved {
        /// Its epoch.
        epoch: u64,
        /// The cause.
        #[source]
        source: durable::Error,
    },
}

/// The highest epoch of an operator that has spoken.
pub struct Fence {
    /// `None`: it is kept in memory only.
    path: Option<PathBuf>,
    highest: Mutex<u64>,
}

impl Fence {
    /// As it was kept in the supervisor's folder.
    pub fn load(own: &Path) -> Result<Self, durable::Error> {
        let path = own.join(FILE);
        let kept: Hello = durable::load_file(&path)?;
        Ok(Self { path: Some(path), highest: Mutex::new(kept.epoch) })
    }

    /// For a container without a volume, which does nothing that an older operator could spoil for longer than it runs.
    pub fn unkept() -> Self {
        Self { path: None, highest: Mutex::default() }
    }

    /// Takes note of an operator that says its epoch, on disk before it counts.
    pub fn admit(&self, epoch: u64) -> Result<(), Refused> {
        let mut highest = lock(&self.highest);
        if epoch > *highest {
            if let Some(path) = &self.path {
                durable::save_file(path, &Hello { epoch }).map_err(|source| Refused::Unsaved { epoch, source })?;
            }
            *highest = epoch;
        }
        Self::compare(epoch, *highest)
    }

    /// Whether an operator of this epoch is listened to.
    pub fn check(&self, epoch: u64) -> Result<(), Refused> {
        Self::compare(epoch, *lock(&self.highest))
    }

    fn compare(epoch: u64, highest: u64) -> Result<(), Refused> {
        if epoch < highest { Err(Refused::Deposed { epoch, highest }) } else { Ok(()) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_epoch_that_was_said_is_kept_and_lower_ones_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let fence = Fence::load(folder.path()).unwrap();
        fence.check(0).unwrap();
        fence.admit(7).unwrap();
        fence.admit(7).unwrap();
        assert_eq!(
            fence.admit(6).unwrap_err().to_string(),
            "an operator of epoch 6 is not listened to: one of epoch 7 has spoken"
        );
        drop(fence);
        let again = Fence::load(folder.path()).unwrap();
        assert!(again.check(0).is_err() && again.check(7).is_ok() && again.check(8).is_ok());
    }

    #[test]
    fn an_epoch_that_cannot_be_saved_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let fence = Fence::load(folder.path()).unwrap();
        drop(folder);
        assert!(matches!(fence.admit(7), Err(Refused::Unsaved { epoch: 7, .. })));
        fence.check(0).unwrap();
    }
}
