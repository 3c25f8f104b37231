//! What a mirror has in memory: the containers and volumes by owner, networks and images by name, and how the host is.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::super::instant::instant;
use super::super::{ContainerSeen, HostInfo, ImageSeen, NetworkSeen, Trouble};
use crate::api::labels::Owner;

/// An entry that was not read for this many lists is dropped.
const UNUSED: u8 = 3;

/// The memory of one host.
#[derive(Default)]
pub(super) struct State {
    /// Number of tasks that follow the events; without any, memory is not used.
    pub(super) followers: usize,
    /// Grows with each removal from memory; the result of a read that began before is not stored.
    pub(super) version: u64,
    pub(super) owners: BTreeMap<Owner, Picture>,
    pub(super) networks: BTreeMap<String, Kept<Option<NetworkSeen>>>,
    pub(super) images: BTreeMap<String, Kept<Option<ImageSeen>>>,
    /// The host's images in the last list.
    listed: Option<BTreeMap<String, Vec<String>>>,
    /// The owner of each known container and volume, by name.
    pub(super) of: BTreeMap<String, Owner>,
    /// Why the host is not asked, if it hangs.
    pub(super) silent: Option<Trouble>,
    /// Why its last request had no answer.
    pub(super) trouble: Option<Trouble>,
    /// When an owner's state was last forgotten, because of an event or a change.
    pub(super) active: Option<Instant>,
    /// When it last answered.
    pub(super) heard: Option<Instant>,
    /// Its last answer about itself, and when that was.
    pub(super) info: Option<(HostInfo, Instant)>,
    /// The ID of the engine that this host is known as.
    pub(super) known: Option<String>,
    /// Number of managed containers in the last list.
    pub(super) containers: Option<BTreeMap<Owner, usize>>,
}

/// The state of one owner on the host.
#[derive(Default)]
pub(super) struct Picture {
    pub(super) version: u64,
    pub(super) containers: Option<Vec<ContainerSeen>>,
    pub(super) volumes: Option<Vec<String>>,
    pub(super) unused: u8,
}

/// An entry that is dropped when nobody reads it.
pub(super) struct Kept<T> {
    pub(super) value: T,
    pub(super) unused: u8,
}

/// What a list of the whole host found.
pub(super) struct Listed {
    pub(super) containers: BTreeMap<Owner, Vec<ContainerSeen>>,
    /// Absent if only the containers were listed.
    pub(super) others: Option<Others>,
}

/// Everything but the containers.
pub(super) struct Others {
    pub(super) volumes: BTreeMap<Owner, Vec<String>>,
    pub(super) networks: BTreeMap<String, NetworkSeen>,
    pub(super) images: BTreeMap<String, Vec<String>>,
}

impl State {
    pub(super) fn next(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// Forgets the state of the owner, with whom something happens.
    pub(super) fn outdate(&mut self, owner: &Owner) {
        self.active = Some(instant());
        self.forget(owner);
    }

    fn forget(&mut self, owner: &Owner) {
        let version = self.next();
        let unused = self.owners.get(owner).map(|picture| picture.unused).unwrap_or_default();
        self.owners.insert(owner.clone(), Picture { version, unused, ..Default::default() });
    }

    pub(super) fn outdate_all(&mut self) {
        let owners: Vec<_> = self.owners.keys().cloned().collect();
        owners.iter().for_each(|owner| self.forget(owner));
        self.outdate_shared();
    }

    /// Forgets all networks and images.
    pub(super) fn outdate_shared(&mut self) {
        self.networks.clear();
        self.images.clear();
        self.next();
    }

    /// Forgets the owner's state before a container or volume with these labels is created.
    pub(super) fn outdate_made(&mut self, name: &str, labels: &BTreeMap<String, String>) {
        match Owner::from_labels(|key| labels.get(key).map(String::as_str)) {
            Some(owner) => {
                self.outdate(&owner);
                self.of.insert(name.to_owned(), owner);
            }
            None => self.outdate_all(),
        }
    }

    /// Forgets the owner's state before a container or volume changes; everything if its owner is unknown.
    pub(super) fn outdate_thing(&mut self, name: &str) {
        match self.of.get(name).cloned() {
            Some(owner) => self.outdate(&owner),
            None => self.outdate_all(),
        }
    }

    /// Number of containers by owner, as last seen; `None` before the first list.
    pub(super) fn counts(&self) -> Option<BTreeMap<Owner, usize>> {
        let mut counts = self.containers.clone()?;
        for (owner, picture) in &self.owners {
            if let Some(known) = &picture.containers {
                counts.insert(owner.clone(), known.len());
            }
        }
        counts.retain(|_, count| *count > 0);
        Some(counts)
    }

    /// Whether an owner had containers when last seen, and has none in this list.
    pub(super) fn misses(&self, listed: &Listed) -> bool {
        self.counts().is_some_and(|counts| counts.keys().any(|owner| !listed.containers.contains_key(owner)))
    }

    /// Takes in a list whose request began at the version `before`; returns the owners whose state differs from memory.
    /// With `fill`, owners that were never read are stored too.
    pub(super) fn take_in(&mut self, before: u64, listed: Listed, fill: bool) -> BTreeSet<Owner> {
        let Listed { mut containers, others } = listed;
        let (mut volumes, shared) =
            others.map_or((None, None), |others| (Some(others.volumes), Some((others.networks, others.images))));
        self.containers = Some(containers.iter().map(|(owner, all)| (owner.clone(), all.len())).collect());
        self.owners.retain(|_, picture| {
            picture.unused += 1;
            picture.unused <= UNUSED
        });
        if fill {
            for owner in containers.keys().chain(volumes.iter().flat_map(BTreeMap::keys)) {
                self.owners.entry(owner.clone()).or_default();
            }
        }
        let mut changed = BTreeSet::new();
        for (owner, picture) in &mut self.owners {
            // A change after the request makes the list outdated for this owner.
            if picture.version > before {
                continue;
            }
            let now = containers.remove(owner).unwrap_or_default();
            let mut differs = picture.containers.as_ref().is_some_and(|known| *known != now);
            picture.containers = Some(now);
            if let Some(volumes) = &mut volumes {
                let now = volumes.remove(owner).unwrap_or_default();
                differs |= picture.volumes.as_ref().is_some_and(|known| *known != now);
                picture.volumes = Some(now);
            }
            if differs {
                changed.insert(owner.clone());
            }
        }
        if let Some((networks, images)) = shared.filter(|_| self.version == before) {
            self.take_in_shared(&networks, images);
        }
        self.index();
        changed
    }

    fn take_in_shared(&mut self, networks: &BTreeMap<String, NetworkSeen>, images: BTreeMap<String, Vec<String>>) {
        self.networks.retain(|name, kept| {
            kept.unused += 1;
            // A network without Evenkeel's labels is not in the list; it is read again when it is needed.
            kept.value.as_ref() == networks.get(name) && kept.unused <= UNUSED
        });
        // Only the host knows which reference means which image, so any change forgets them all.
        let same = self.listed.as_ref() == Some(&images);
        self.images.retain(|_, kept| {
            kept.unused += 1;
            same && kept.unused <= UNUSED
        });
        self.listed = Some(images);
    }

    /// Notes the owner of each container and volume in memory.
    fn index(&mut self) {
        let mut of = BTreeMap::new();
        for (owner, picture) in &self.owners {
            let names =
                picture.containers.iter().flatten().map(|one| &one.name).chain(picture.volumes.iter().flatten());
            of.extend(names.map(|name| (name.clone(), owner.clone())));
        }
        self.of = of;
    }
}
