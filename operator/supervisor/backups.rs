//! Begins and ends base backups beside the loop. They are no jobs on the data directory: nothing of the loop, least of all a
//! promotion, waits for one.

use jiff::Timestamp;

use super::backing_up::BackingUp;
use super::backup::Backup;
use super::clock::wall_seconds;
use super::shell::Shell;
use super::sql;
use super::wire::{BackupOrder, Task};
use crate::api::chain::chain;
use crate::archive::store::Store;

impl Shell {
    /// Begins the base backup of this order, unless this very attempt has begun; `None`: there is to be none.
    pub fn order_backup(&mut self, order: Option<BackupOrder>) {
        let Some(order) = order else { return self.cut_backup("it is not wanted any more") };
        if self.backup.as_ref().is_some_and(|backup| backup.is(&order)) {
            return;
        }
        let backup = self.backup_of(order.clone());
        self.backup = Some(BackingUp::begin(&order, backup));
    }

    fn backup_of(&self, order: BackupOrder) -> Result<Backup, String> {
        let standing = self.durable.order.as_ref();
        let serves = standing.is_some_and(|order| matches!(order.task, Task::Lead(_) | Task::Follow(_)));
        if !serves || self.server.run.poll.is_none() || self.server.postmaster.is_none() {
            return Err("the server of this instance does not run as a primary or as a standby".to_owned());
        }
        let archive = standing.and_then(|order| order.archive.clone());
        let own = self.archives.as_ref().and_then(|archives| archives.own.as_ref());
        let (Some(archive), Some(own)) = (archive, own) else {
            return Err("this instance has no archive yet".to_owned());
        };
        if own.path != archive {
            return Err("what opens the archive has not arrived yet".to_owned());
        }
        let store = Store::open_archive(own).map_err(|error| chain(&error))?;
        let now = || Timestamp::from_second(wall_seconds()).unwrap_or_default();
        Ok(Backup { store, order, archive, member: self.member.clone(), socket: sql::socket(), now })
    }

    /// Ends a base backup that runs: its instance gets another role, or its server stops.
    pub fn cut_backup(&mut self, why: &str) {
        if let Some(backup) = &mut self.backup {
            backup.cut(why);
        }
    }
}
