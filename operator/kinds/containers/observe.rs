//! Observes the Docker state of an object on each host. Reads only, judges nothing.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;

use super::{Docker, Work};
use crate::api::labels::{self, Owner};
use crate::engine::{ContainerSeen, Daemon, Engine, Error, ImageSeen, NetworkSeen, VolumeSpec};
use crate::kinds::fact::Fact;

/// What a kind needs from a host, besides its containers and volumes.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// Images by reference.
    pub images: BTreeSet<String>,
    /// Networks by name.
    pub networks: BTreeSet<String>,
    /// Volumes by name, of whatever owner.
    pub volumes: BTreeSet<String>,
}

/// What was observed on one host for an object.
#[derive(Debug, Clone, PartialEq)]
pub struct DockerSeen {
    /// Its containers by name.
    pub containers: Fact<BTreeMap<String, ContainerSeen>>,
    /// Names of its volumes.
    pub volumes: Fact<BTreeSet<String>>,
    /// The needed volumes that exist and belong to nobody.
    pub foreign: Fact<BTreeSet<String>>,
    /// The needed networks that exist.
    pub networks: Fact<BTreeMap<String, NetworkSeen>>,
    /// The needed images that exist.
    pub images: Fact<BTreeMap<String, ImageSeen>>,
    /// The volume with Evenkeel's binary, once it is known to exist.
    pub binary: Option<String>,
    /// The engine itself, once it has answered.
    pub daemon: Option<Daemon>,
}

impl DockerSeen {
    /// Everything is unknown, with the cause.
    pub fn unknown(why: &str) -> Self {
        Self {
            containers: Fact::Unknown(why.to_owned()),
            volumes: Fact::Unknown(why.to_owned()),
            foreign: Fact::Unknown(why.to_owned()),
            networks: Fact::Unknown(why.to_owned()),
            images: Fact::Unknown(why.to_owned()),
            binary: None,
            daemon: None,
        }
    }

    /// Why a part of it is unknown, if so.
    pub fn silence(&self) -> Option<&str> {
        match (&self.containers, &self.volumes, &self.networks, &self.images) {
            (Fact::Unknown(why), ..) | (_, Fact::Unknown(why), ..) => Some(why),
            (_, _, Fact::Unknown(why), _) | (_, _, _, Fact::Unknown(why)) => Some(why),
            _ => None,
        }
    }

    /// The container with this name.
    pub fn container(&self, name: &str) -> Option<&ContainerSeen> {
        self.containers.known()?.get(name)
    }

    /// Whether the image exists; `None` if unknown.
    pub fn has_image(&self, image: &str) -> Option<bool> {
        Some(self.images.known()?.contains_key(image))
    }
}

impl Docker {
    /// Observes each of these hosts, and drops work about things that no longer exist.
    pub async fn observe(
        &self,
        owner: &Owner,
        hosts: impl IntoIterator<Item = String>,
        needs: &Needs,
    ) -> BTreeMap<String, DockerSeen> {
        let reads = hosts.into_iter().map(|host| async {
            let seen = match self.hosts.get(&host) {
                Ok(engine) => read(&*engine, owner, needs).await,
                Err(error) => DockerSeen::unknown(&error.to_string()),
            };
            (host, seen)
        });
        let seen: BTreeMap<_, _> = join_all(reads).await.into_iter().collect();
        self.work.retain(owner, |work| concerns(work, &seen, needs));
        seen
    }
}

async fn read(engine: &dyn Engine, owner: &Owner, needs: &Needs) -> DockerSeen {
    let (containers, volumes, named, networks, images) = tokio::join!(
        engine.list_containers(owner),
        engine.list_volumes(owner),
        each(&needs.volumes, |name| engine.volume(name)),
        each(&needs.networks, |name| engine.network(name)),
        each(&needs.images, |image| engine.image(image)),
    );
    DockerSeen {
        containers: containers.map(|all| all.into_iter().map(|one| (one.name.clone(), one)).collect()).into(),
        volumes: volumes.map(|names| names.into_iter().collect()).into(),
        foreign: named.map(unowned).into(),
        networks: networks.into(),
        images: images.into(),
        binary: engine.binary(),
        daemon: engine.daemon(),
    }
}

/// The names of the volumes that have no owner.
fn unowned(volumes: BTreeMap<String, VolumeSpec>) -> BTreeSet<String> {
    volumes.into_values().filter(|one| !one.labels.contains_key(labels::KIND)).map(|one| one.name).collect()
}

async fn each<'n, T, Read: Future<Output = Result<Option<T>, Error>>>(
    names: &'n BTreeSet<String>,
    read: impl Fn(&'n str) -> Read,
) -> Result<BTreeMap<String, T>, Error> {
    let reads = names.iter().map(|name| {
        let read = read(name);
        async move { Ok(read.await?.map(|found| (name.clone(), found))) }
    });
    let found: Result<Vec<_>, Error> = join_all(reads).await.into_iter().collect();
    Ok(found?.into_iter().flatten().collect())
}

/// Whether the subject of the work still exists, or may exist.
fn concerns(work: &Work, hosts: &BTreeMap<String, DockerSeen>, needs: &Needs) -> bool {
    let on = |host: &str, is: &dyn Fn(&ContainerSeen) -> bool| {
        let containers = hosts.get(host).map(|seen| seen.containers.known());
        containers.is_some_and(|known| known.is_none_or(|all| all.values().any(is)))
    };
    match work {
        Work::Image { host, image, .. } => hosts.contains_key(host) && needs.images.contains(image),
        Work::Binary { host } => hosts.contains_key(host),
        Work::Stop { host, subject } => {
            on(host, &|one| one.name == *subject || one.labels.get(labels::MEMBER) == Some(subject))
        }
        Work::Remove { host, container } | Work::Start { host, container } | Work::Connect { host, container, .. } => {
            on(host, &|one| one.name == *container)
        }
    }
}
