//! Containers: list, start, stop, kill, signal, unpause, remove.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bollard::models::{ContainerInspectResponse, ContainerSummary, ContainerSummaryStateEnum, EndpointSettings};
use bollard::query_parameters::{
    KillContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
    StopContainerOptionsBuilder,
};

use super::super::{BINARY, ConnectionSeen, ContainerSeen, ContainerState, Error};
use super::{ANSWER, DockerEngine, any_owner_filter, owner_filter};
use crate::api::labels::Owner;
use crate::api::sync::lock;

/// Time-out of a start: about half a second on an idle host, more on a loaded one.
pub(super) const START: Duration = Duration::from_secs(30);
/// Time-out of a kill: Docker itself waits 10 s for a killed container.
const KILL: Duration = Duration::from_secs(20);
/// Time-out of an inspect for DNS names.
const GLIMPSE: Duration = Duration::from_secs(1);
/// Poll interval while another client removes the container.
const GLANCE: Duration = Duration::from_millis(50);

impl DockerEngine {
    pub(super) async fn containers_of(&self, owner: &Owner) -> Result<Vec<ContainerSeen>, Error> {
        let doing = format!("listing the containers of {} {}", owner.kind, owner.name);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&owner_filter(owner)).build();
        let found = self.call(&doing, ANSWER, |docker| docker.list_containers(Some(options))).await?;
        let mut seen = self.containers_seen(found);
        seen.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(seen)
    }

    pub(super) async fn containers_of_all(&self) -> Result<BTreeMap<Owner, Vec<ContainerSeen>>, Error> {
        let options = ListContainersOptionsBuilder::default().all(true).filters(&any_owner_filter()).build();
        let doing = "listing all containers of ours";
        let found = self.call(doing, ANSWER, |docker| docker.list_containers(Some(options))).await?;
        let mut all: BTreeMap<Owner, Vec<ContainerSeen>> = BTreeMap::new();
        self.learn_aliases(&found);
        for one in self.containers_seen(found) {
            if let Some(owner) = Owner::from_labels(|key| one.labels.get(key).map(String::as_str)) {
                all.entry(owner).or_default().push(one);
            }
        }
        all.values_mut().for_each(|list| list.sort_by(|one, other| one.name.cmp(&other.name)));
        Ok(all)
    }

    fn containers_seen(&self, found: Vec<ContainerSummary>) -> Vec<ContainerSeen> {
        let aliases = lock(&self.aliases);
        found.into_iter().map(|one| seen(one, &aliases)).collect()
    }

    /// A list has no DNS names, so each new connection is inspected once, in the background: an inspect may wait for a
    /// container that is being started. The next list has the names.
    fn learn_aliases(&self, found: &[ContainerSummary]) {
        let mut new = Vec::new();
        {
            let mut known = lock(&self.aliases);
            let ids: BTreeSet<String> = found.iter().flat_map(endpoints).collect();
            known.retain(|id, _| ids.contains(id));
            for one in found {
                if endpoints(one).any(|id| !known.contains_key(&id)) {
                    new.extend(one.id.clone());
                }
            }
        }
        let engine = self.clone();
        tokio::spawn(async move {
            for id in new {
                let doing = "reading the DNS names of a container";
                // A container without an answer is inspected again with the next list.
                if let Ok(seen) = engine.call(doing, GLIMPSE, |docker| docker.inspect_container(&id, None)).await {
                    engine.remember_aliases(&seen);
                }
            }
        });
    }

    /// Remembers the DNS names of an inspected container.
    pub(super) fn remember_aliases(&self, seen: &ContainerInspectResponse) {
        let networks = seen.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
        let learnt = networks.into_iter().flat_map(HashMap::values).filter_map(|one| {
            let id = one.endpoint_id.clone().filter(|id| !id.is_empty())?;
            Some((id, one.aliases.clone().unwrap_or_default()))
        });
        lock(&self.aliases).extend(learnt);
    }

    pub(super) async fn container_started(&self, name: &str) -> Result<(), Error> {
        let started =
            self.call(&format!("starting container {name}"), START, |docker| docker.start_container(name, None)).await;
        if started.as_ref().is_err_and(|error| error.to_string().contains(BINARY)) {
            self.binary.doubt();
        }
        started
    }

    pub(super) async fn container_stopped(&self, name: &str, timeout: Duration) -> Result<(), Error> {
        let seconds = i32::try_from(timeout.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(seconds).build();
        let limit = timeout.saturating_add(KILL);
        let stopped = self
            .call(&format!("stopping container {name}"), limit, |docker| docker.stop_container(name, Some(options)))
            .await;
        gone_is_done(stopped)
    }

    pub(super) async fn container_signalled(&self, name: &str, signal: &str) -> Result<(), Error> {
        let options = KillContainerOptionsBuilder::default().signal(signal).build();
        let doing = format!("sending {signal} to container {name}");
        self.call(&doing, ANSWER, |docker| docker.kill_container(name, Some(options))).await
    }

    pub(super) async fn container_unpaused(&self, name: &str) -> Result<(), Error> {
        match self.call(&format!("unpausing container {name}"), START, |docker| docker.unpause_container(name)).await {
            Err(Error::Conflict { message, .. } | Error::Refused { message, .. })
                if message.contains("is not paused") =>
            {
                Ok(())
            }
            other => other,
        }
    }

    pub(super) async fn container_removed(&self, name: &str) -> Result<(), Error> {
        let doing = format!("removing container {name}");
        // `v` also removes the anonymous volumes of the image's VOLUME lines; named volumes stay.
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        let removed = self.call(&doing, KILL, |docker| docker.remove_container(name, Some(options))).await;
        let removed = match gone_is_done(removed) {
            Err(Error::Conflict { message, .. }) if message.contains("already in progress") => {
                self.until_gone(name, &doing).await
            }
            other => other,
        };
        self.container_gone();
        removed
    }

    /// Another client is removing it: wait until it is gone.
    async fn until_gone(&self, name: &str, doing: &str) -> Result<(), Error> {
        let watched = tokio::time::timeout(KILL, async {
            loop {
                match self.call(doing, ANSWER, |docker| docker.inspect_container(name, None)).await {
                    Ok(_) => tokio::time::sleep(GLANCE).await,
                    Err(Error::NotFound { .. }) => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        });
        watched.await.unwrap_or_else(|_| {
            let message = format!("Docker has been removing it for {} s and is not done", KILL.as_secs());
            Err(Error::conflict(&self.host, doing, message))
        })
    }
}

fn gone_is_done(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::NotFound { .. }) => Ok(()),
        other => other,
    }
}

/// DNS names by Docker's ID of the connection.
pub(super) type Aliases = BTreeMap<String, Vec<String>>;

/// Docker's IDs of the connections of a running container.
fn endpoints(found: &ContainerSummary) -> impl Iterator<Item = String> {
    let networks = found.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    let ids = networks.into_iter().flat_map(HashMap::values).filter_map(|one| one.endpoint_id.clone());
    ids.filter(|id| !id.is_empty())
}

fn seen(found: ContainerSummary, aliases: &Aliases) -> ContainerSeen {
    let name = found.names.and_then(|names| names.into_iter().next()).unwrap_or_default();
    ContainerSeen {
        id: found.id.unwrap_or_default(),
        name: name.trim_start_matches('/').to_owned(),
        labels: found.labels.unwrap_or_default().into_iter().collect(),
        state: state(found.state),
        image: found.image.unwrap_or_default(),
        networks: connections(found.network_settings.and_then(|settings| settings.networks), aliases),
        exit_code: exit_code(found.status.as_deref().unwrap_or_default()),
    }
}

fn connections(
    networks: Option<HashMap<String, EndpointSettings>>,
    aliases: &Aliases,
) -> BTreeMap<String, ConnectionSeen> {
    let seen = |endpoint: EndpointSettings| {
        let fixed = endpoint.ipam_config.and_then(|config| config.ipv4_address);
        let mut addresses = [endpoint.ip_address, fixed].into_iter().flatten();
        ConnectionSeen {
            network: endpoint.network_id.unwrap_or_default(),
            address: addresses.find_map(|address| address.parse().ok()),
            aliases: endpoint.endpoint_id.and_then(|id| aliases.get(&id).cloned()),
        }
    };
    networks.unwrap_or_default().into_iter().map(|(name, endpoint)| (name, seen(endpoint))).collect()
}

/// Parses Docker's text `Exited (137) 2 seconds ago`, the only place in a list with the exit code.
fn exit_code(status: &str) -> Option<i64> {
    status.strip_prefix("Exited (")?.split(')').next()?.parse().ok()
}

fn state(found: Option<ContainerSummaryStateEnum>) -> ContainerState {
    use ContainerSummaryStateEnum as Docker;
    match found {
        Some(Docker::CREATED) => ContainerState::Created,
        Some(Docker::PAUSED) => ContainerState::Paused,
        Some(Docker::RESTARTING) => ContainerState::Restarting,
        Some(Docker::EXITED) => ContainerState::Exited,
        Some(Docker::DEAD | Docker::REMOVING) => ContainerState::Dead,
        // As long as a process of it may run, it must not count as dead.
        Some(Docker::RUNNING | Docker::STOPPING | Docker::EMPTY) | None => ContainerState::Running,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_surely_runs_nothing_counts_as_ended() {
        use ContainerSummaryStateEnum as Docker;
        let ended =
            |found| matches!(state(found), ContainerState::Created | ContainerState::Exited | ContainerState::Dead);
        for found in [
            None,
            Some(Docker::EMPTY),
            Some(Docker::RUNNING),
            Some(Docker::STOPPING),
            Some(Docker::PAUSED),
            Some(Docker::RESTARTING),
        ] {
            assert!(!ended(found), "{found:?}");
        }
        for found in [Docker::CREATED, Docker::EXITED, Docker::DEAD, Docker::REMOVING] {
            assert!(ended(Some(found)), "{found:?}");
        }
    }
}
