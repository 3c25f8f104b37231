//! What is known of the data while the server is down, or follows another: its last positions, and whether there is any.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::supervisor::durable;
use crate::supervisor::redis::info::Info;
use crate::supervisor::redis::place::Place;
use crate::supervisor::redis::wire::{Order, Position, Role, Task};

/// `position.json` in the supervisor's folder. A crash of the host may leave the one before.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Kept {
    /// Where the data was.
    pub position: Option<Position>,
    /// Number of keys; `None`: not known.
    pub keys: Option<u64>,
    /// Where it ended when the server was last made a replica out of a master.
    pub demoted: Option<Position>,
}

fn file(own: &Path) -> PathBuf {
    own.join("position.json")
}

impl Kept {
    /// What was saved last.
    pub fn load(own: &Path) -> Self {
        durable::read(&file(own)).unwrap_or_default()
    }

    /// Saves it: the file exists completely or not at all. It is not fsynced, because it is only a lower bound.
    pub fn save(&self, own: &Path) -> std::io::Result<()> {
        let (path, beside) = (file(own), own.join("position.new"));
        std::fs::write(&beside, serde_json::to_vec(self)?)?;
        std::fs::rename(&beside, &path)
    }
}

/// Whether what the server has belongs to the epoch of the order in force: only then its position counts in that epoch. A
/// replica has the data of its master while they are in sync, and a master that has to follow another has that of the epoch
/// before.
pub fn belongs(order: Option<&Order>, promoted: Option<u64>, info: &Info) -> bool {
    let Some(order) = order else { return false };
    let follows = match &order.task {
        Task::Follow { address, .. } => Some(*address),
        _ => None,
    };
    match info.role {
        Some(Role::Master) => follows.is_none() || promoted == Some(order.epoch),
        Some(Role::Replica) => info.link.as_ref().is_some_and(|link| link.up && Some(link.master) == follows),
        None => false,
    }
}

/// The files of Redis' data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OnDisk {
    /// There is an append-only file.
    pub log: bool,
    /// Something was appended to it since it was begun.
    pub appended: bool,
    /// There is a snapshot.
    pub snapshot: bool,
}

/// The file of a snapshot.
pub const SNAPSHOT: &str = "dump.rdb";
const LOG: &str = "appendonlydir";

/// Looks at the files.
pub fn on_disk(place: &Place) -> OnDisk {
    let (theirs, folder) = (place.theirs(), place.data());
    let log = folder.join(LOG);
    let names = theirs.names(&log);
    let names: Vec<&str> = names.iter().filter_map(|name| name.to_str()).collect();
    OnDisk {
        log: names.iter().any(|name| name.ends_with(".manifest")),
        appended: names.iter().any(|name| name.ends_with(".incr.aof") && theirs.length(&log.join(name)) > 0),
        snapshot: theirs.exists(&folder.join(SNAPSHOT)),
    }
}

/// Removes what a server that keeps nothing would read at its start: the copy of an old first synchronisation.
pub fn forget(place: &Place) -> std::io::Result<()> {
    place.theirs().remove(&place.data().join(SNAPSHOT))?;
    place.theirs().remove_folder(&place.data().join(LOG))
}

/// Removes what servers that were killed have left half written.
pub fn tidy(place: &Place) -> std::io::Result<()> {
    let (theirs, folder) = (place.theirs(), place.data());
    let half = |name: &str| name.starts_with("temp-") && (name.ends_with(".rdb") || name.ends_with(".aof"));
    for name in theirs.names(&folder).iter().filter(|name| name.to_str().is_some_and(half)) {
        theirs.remove(&folder.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::redis::wire::{Address, Link};

    /// Regression 365: a member that was cut off, or not yet demoted, counted its old data in the new epoch as soon as it had the
    /// order for it. With all members killed then, the one with lost data would have been taken for the newest.
    #[test]
    fn old_data_does_not_count_in_a_new_epoch() {
        let at = |last: u8| Address { ip: [10, 0, 0, last].into(), port: 6379 };
        let order = |task| Order {
            epoch: 2,
            revision: 1,
            run: String::new(),
            task,
            config: Default::default(),
            sentinels: Default::default(),
        };
        let follow = order(Task::Follow { master: "cache-1".into(), address: at(1) });
        let master = Info { role: Some(Role::Master), ..Info::default() };
        let replica = |of, up| {
            let link = Some(Link { master: at(of), up, syncing: false, down_s: 0, synced: true });
            Info { role: Some(Role::Replica), link, ..Info::default() }
        };
        let follows = |info: &Info, promoted| belongs(Some(&follow), promoted, info);
        assert!(follows(&replica(1, true), None));
        assert!(!follows(&replica(1, false), None), "cut off");
        assert!(!follows(&replica(3, true), None), "still with the former master");
        assert!(!follows(&master, None) && !follows(&master, Some(1)), "not demoted yet");
        assert!(follows(&master, Some(2)), "promoted in this very epoch");
        assert!(belongs(Some(&order(Task::Lead { pause: None })), None, &master));
        assert!(!belongs(None, None, &master));
    }
}
