//! The restore of the first data from a backup, as a supervisor of the test world does it.

use super::World;
use crate::supervisor::redis::wire::{BackupPhase, BackupState, RdbState, RestoreOrder};

/// Time that it takes.
const RESTORE_MS: u64 = 1_000;

/// A backup in a store.
#[derive(Debug, Clone, Default, PartialEq, Hash)]
pub struct Stored {
    /// What was written before it was taken.
    pub writes: Vec<u64>,
    /// Why it cannot be restored, and whether another attempt fails as well.
    pub damage: Option<(String, bool)>,
}

impl World {
    /// Begins, unless this attempt has begun; refuses where there is data.
    pub fn restore_data(&mut self, name: &str, order: &RestoreOrder) {
        let (ms, has_data, runs) = (self.ms, self.seen_data(name).has_data, self.boxes[name].data.server.is_some());
        let Some(one) = self.boxes.get_mut(name) else { return };
        let begun = one.data.restore.as_ref().is_some_and(|(state, _)| state.attempt == order.attempt);
        if begun || has_data || runs {
            return;
        }
        let state = BackupState {
            id: order.id.clone(),
            attempt: order.attempt,
            total: 100,
            rdb: Some(RdbState { backup: "20261130T030000".into(), ..RdbState::default() }),
            ..BackupState::default()
        };
        one.data.restore = Some((state, ms + RESTORE_MS));
    }

    /// What was begun goes on.
    pub fn restore_goes_on(&mut self, name: &str) {
        let (ms, stored) = (self.ms, self.stored.clone());
        let (Some(one), Some(disk)) = (self.boxes.get_mut(name), self.disks.get_mut(name)) else { return };
        let Some((state, ends)) = one.data.restore.as_mut().filter(|(state, _)| state.phase == BackupPhase::Running)
        else {
            return;
        };
        if ms < *ends {
            return;
        }
        match stored.damage {
            Some((error, lasting)) => {
                (state.phase, state.error, state.lasting) = (BackupPhase::Failed, Some(error), lasting);
            }
            None => {
                state.phase = BackupPhase::Completed;
                disk.data.writes = stored.writes;
                disk.data.restored = Some(state.clone());
            }
        }
    }
}
