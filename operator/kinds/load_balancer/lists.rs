//! Docker's lists of a balancer, cached. A busy Docker is not waited for while its last answer is fresh: it is busiest during a
//! failover of a database, and that is when a balancer must be changed at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::try_join_all;
use tokio::time::{Instant, timeout};

use super::names::{name, namespace};
use super::{Fact, LoadBalancer, workload};
use crate::engine::{ContainerSeen, Engine};
use crate::kinds::network_of;
use crate::runtime::clock;

/// Time limit of Docker's answer if there is an older one.
const PATIENCE: Duration = Duration::from_millis(30);
/// Age up to which an older answer is used, unless a container was changed since.
const FRESH: Duration = Duration::from_secs(3);

/// What Docker says.
#[derive(Clone)]
pub struct Lists {
    /// The containers by name.
    pub containers: Fact<BTreeMap<String, ContainerSeen>>,
    /// The volumes by name.
    pub volumes: Fact<BTreeSet<String>>,
    /// Whether each network that concerns it is there.
    pub networks: Fact<BTreeMap<String, bool>>,
    /// Whether the image is there.
    pub image: Fact<bool>,
}

/// The last answers, by namespace and name of the object.
#[derive(Default)]
pub struct Last(Mutex<BTreeMap<(String, String), (Instant, Lists)>>);

fn key(object: &LoadBalancer) -> (String, String) {
    (namespace(object).to_owned(), name(object).to_owned())
}

impl Last {
    /// Something is made or taken away: nothing older will do.
    pub fn forget(&self, object: &LoadBalancer) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&key(object));
    }

    /// Asks Docker. `others`: networks that concern the object beside that of its namespace.
    pub async fn read(&self, object: &LoadBalancer, engine: &Arc<dyn Engine>, others: &BTreeSet<String>) -> Lists {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key(object)).cloned();
        let last = last.filter(|(at, _)| at.elapsed() < FRESH);
        let asked = read(object, engine, others);
        let lists = match last {
            None => asked.await,
            Some((_, last)) => match timeout(PATIENCE, asked).await {
                Ok(lists) => lists,
                Err(_) => return last,
            },
        };
        let known = lists.containers.known().is_some() && lists.networks.known().is_some();
        if known {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(key(object), (clock::instant(), lists.clone()));
        }
        lists
    }
}

async fn read(object: &LoadBalancer, engine: &Arc<dyn Engine>, others: &BTreeSet<String>) -> Lists {
    let owner = workload::owner(object);
    let (containers, volumes, networks, image) = tokio::join!(
        engine.list_containers(&owner),
        engine.list_volumes(&owner),
        networks(engine, object, others),
        engine.has_image(object.spec.image()),
    );
    Lists {
        containers: containers.map(|all| all.into_iter().map(|one| (one.name.clone(), one)).collect()).into(),
        volumes: volumes.map(|names| names.into_iter().collect()).into(),
        networks,
        image: image.into(),
    }
}

async fn networks(
    engine: &Arc<dyn Engine>,
    object: &LoadBalancer,
    others: &BTreeSet<String>,
) -> Fact<BTreeMap<String, bool>> {
    let names = others.iter().cloned().chain([network_of(namespace(object))]);
    let look = names.map(|name| async {
        let there = engine.network(&name).await?.is_some();
        Ok::<_, crate::engine::Error>((name, there))
    });
    try_join_all(look).await.map(|seen| seen.into_iter().collect()).into()
}
