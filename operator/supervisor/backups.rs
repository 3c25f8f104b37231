//! Begins and ends base backups and dumps beside the loop.

use jiff::Timestamp;

use super::backup::Backup;
use super::beside::Beside;
use super::clock::wall_seconds;
use super::dump::Dump;
use super::jobs::Site;
use super::shell::Shell;
use super::sql;
use super::wire::{BackupOrder, Task};
use crate::api::chain::chain;
use crate::archive::store::Store;

impl Shell {
    /// Begins the base backup or dump of this order, unless this very attempt has begun; `None`: there is to be none.
    pub fn order_backup(&mut self, order: Option<BackupOrder>) {
        let Some(order) = order else {
            if let Some(backup) = &mut self.backup {
                backup.cut_off("it is not wanted any more");
            }
            return;
        };
        if self.backup.as_ref().is_some_and(|backup| backup.is(&order.id, order.attempt)) {
            return;
        }
        let (id, archive) = (order.id.clone(), self.own_archive());
        let ids = (id.as_str(), order.attempt);
        self.backup = Some(match order.dump.clone() {
            Some(database) => {
                let dump = archive.map(|(store, _)| Dump {
                    store,
                    site: self.site(),
                    database,
                    order,
                    member: self.member.clone(),
                    now,
                });
                Beside::begin("dump", ids, dump.map(|dump| |progress| async move { dump.take(&progress).await }))
            }
            None => {
                let (member, socket) = (self.member.clone(), sql::socket());
                let backup = archive.map(|(store, archive)| Backup { store, order, archive, member, socket, now });
                let work = backup.map(|backup| |progress| async move { backup.take(&progress).await });
                Beside::begin("base backup", ids, work)
            }
        });
    }

    /// The archive of this instance, and its folder; or why nothing can be taken now.
    pub fn own_archive(&self) -> Result<(Store, String), String> {
        let standing = self.durable.order.as_ref();
        let serves = standing.is_some_and(|order| matches!(order.task, Task::Lead(_) | Task::Follow(_)));
        if !serves || self.server.run.poll.is_none() || self.server.postmaster.is_none() {
            return Err("the server of this instance does not run as a primary or as a standby".to_owned());
        }
        let archive = standing.and_then(|order| order.archive.clone());
        let own = self.archives.as_ref().and_then(|archives| archives.own());
        let Some(archive) = archive else { return Err("this instance has no archive yet".to_owned()) };
        let Some(own) = own else {
            return Err("what opens the archive has not arrived; ArchiveHealthy of the cluster may say why".to_owned());
        };
        if own.path != archive {
            return Err("what opens the archive has not arrived yet".to_owned());
        }
        let store = Store::open_archive(own).map_err(|error| chain(&error))?;
        Ok((store, archive))
    }

    /// What programs of PostgreSQL need to run.
    pub fn site(&self) -> Site {
        Site { place: self.place.clone(), reaper: self.reaper.clone() }
    }

    /// Ends what runs beside the loop: this instance gets another role, or its server stops.
    pub fn cut_off(&mut self, why: &str) {
        for work in self.backup.iter_mut().chain(&mut self.restore).chain(&mut self.point) {
            work.cut_off(why);
        }
    }
}

fn now() -> Timestamp {
    Timestamp::from_second(wall_seconds()).unwrap_or_default()
}
