//! Begins and ends what a data member's supervisor does beside its loop: a snapshot into the store, and the first data from one.

use jiff::Timestamp;

use crate::api::chain::chain;
use crate::archive::store::Store;
use crate::supervisor::beside::Beside;
use crate::supervisor::clock::wall_seconds;
use crate::supervisor::durable;
use crate::supervisor::redis::kept::Kept;
use crate::supervisor::redis::rdb::Rdb;
use crate::supervisor::redis::restore::{FILE, Restore};
use crate::supervisor::redis::shell::Shell;
use crate::supervisor::redis::wire::{Archives, BackupOrder, BackupPhase, RestoreOrder, Role, Server};

impl Shell {
    /// Keeps what opens the stores.
    pub fn take_archives(&mut self, archives: Archives) {
        if self.archives.as_ref() == Some(&archives) {
            return;
        }
        let path = self.place.own().join(Archives::FILE);
        let saved = serde_json::to_vec(&archives).map_err(std::io::Error::from);
        match saved.and_then(|bytes| durable::write(&path, &bytes)) {
            Ok(()) => self.archives = Some(archives),
            Err(error) => self.problems.act = Some(format!("saving what opens the store: {error}")),
        }
    }

    /// Begins the snapshot of this order, unless this very attempt has begun; `None`: there is to be none.
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
        let (id, attempt) = (order.id.clone(), order.attempt);
        self.backup_of = self.role();
        let rdb = self.snapshot(order).map(|rdb| |progress| async move { rdb.take(&progress).await });
        self.backup = Some(Beside::begin("snapshot", (&id, attempt), rdb));
    }

    /// The inputs of a snapshot; or why none can be taken now.
    fn snapshot(&self, order: BackupOrder) -> Result<Rdb, String> {
        let process = self.process.as_ref().filter(|_| self.server() == Server::Running);
        let Some((process, info)) = process.and_then(|process| Some((process, process.info.as_ref()?))) else {
            return Err("the server of this member does not run".to_owned());
        };
        if info.role == Some(Role::Replica) && info.link.as_ref().is_none_or(|link| !link.up) {
            return Err("this replica is not in sync with its master".to_owned());
        }
        let archives = self.archives.as_ref();
        let Some((archives, own)) = archives.and_then(|archives| Some((archives, archives.own.as_ref()?))) else {
            return Err("what opens the store has not arrived yet".to_owned());
        };
        // A snapshot that fails for want of room stops writes, where the server is to save and cannot.
        let free = self.place.disk_free();
        if free < info.usage.memory {
            let (free, needed) = (free >> 20, info.usage.memory >> 20);
            return Err(format!(
                "the volume has {free} MiB free, and the server writes up to {needed} MiB for a snapshot"
            ));
        }
        Ok(Rdb {
            store: Store::open_archive(own).map_err(|error| chain(&error))?,
            order,
            member: self.member.clone(),
            socket: self.place.socket(),
            password: process.login.0.admin_password.clone(),
            data: (info.usage.memory, info.keys),
            appends: info.appends,
            retention: archives.retention,
            now,
        })
    }

    /// Begins to make the first data, unless this very attempt has begun.
    pub fn order_restore(&mut self, order: RestoreOrder) {
        let ids = (order.id.clone(), order.attempt);
        let done = self.restored.as_ref().is_some_and(|state| state.id == order.id);
        if done || self.restore.as_ref().is_some_and(|restore| restore.is(&ids.0, ids.1)) {
            return;
        }
        let restore = self.first_data(order).map(|restore| |progress| async move { restore.make(&progress).await });
        self.restore = Some(Beside::begin("restore", (&ids.0, ids.1), restore));
    }

    /// The inputs of a restore; or why there can be none. Data that is there is never replaced.
    fn first_data(&mut self, order: RestoreOrder) -> Result<Restore, String> {
        if self.has_data || self.process.is_some() {
            return Err("this member has data already, or its server runs".to_owned());
        }
        let Some(source) = self.archives.as_ref().and_then(|archives| archives.source.as_ref()) else {
            return Err("what opens the store has not arrived yet".to_owned());
        };
        let store = Store::open_archive(source).map_err(|error| chain(&error))?;
        // What is known of earlier data, of which nothing is left, does not count for the new.
        self.kept = Kept::default();
        self.keep(true);
        Ok(Restore { store, order, place: self.place.clone(), reaper: self.reaper.clone() })
    }

    /// Looks whether a restore has ended, and whether the member is still what a snapshot was ordered of.
    pub fn watch_work(&mut self) {
        let role = self.role();
        if let Some(backup) = self.backup.as_mut().filter(|_| role != self.backup_of) {
            backup.cut_off("this member has got another role");
        }
        let state = self.restore.as_ref().map(Beside::state).filter(|state| state.phase == BackupPhase::Completed);
        if let Some(state) = state.filter(|state| self.restored.as_ref() != Some(state)) {
            let saved = serde_json::to_vec(&state).map_err(std::io::Error::from);
            // Without it the data is there all the same.
            if let Err(error) = saved.and_then(|bytes| durable::write(&self.place.own().join(FILE), &bytes)) {
                tracing::warn!(%error, "that the data comes from a backup is not saved");
            }
            self.restored = Some(state);
            self.look();
        }
    }

    /// Ends what runs beside the loop: this member gets another role, or its server starts or stops.
    pub fn cut_off(&mut self, why: &str) {
        for work in self.backup.iter_mut().chain(&mut self.restore) {
            work.cut_off(why);
        }
    }
}

fn now() -> Timestamp {
    Timestamp::from_second(wall_seconds()).unwrap_or_default()
}
