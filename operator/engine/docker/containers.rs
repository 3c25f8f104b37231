//! Containers: list, make, start, stop, kill, unpause, remove.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, ContainerSummary, ContainerSummaryStateEnum, EndpointIpamConfig, EndpointSettings, HostConfig,
    Mount, MountType, MountVolumeOptions, NetworkingConfig, PortBinding, PortMap, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
};

use super::super::{ContainerSeen, ContainerSpec, ContainerState, Error};
use super::{ANSWER, DockerEngine, owner_filter, owner_in_words};
use crate::api::labels::{self, Owner};

/// Starting a container takes about half a second on an idle host; a loaded one needs longer.
const START: Duration = Duration::from_secs(30);
/// Docker itself waits 10 s for a killed container before it gives up.
const KILL: Duration = Duration::from_secs(20);
/// Another client's removal is watched this often.
const GLANCE: Duration = Duration::from_millis(50);

impl DockerEngine {
    pub(super) async fn containers_of(&self, owner: &Owner) -> Result<Vec<ContainerSeen>, Error> {
        let doing = format!("listing the containers of {} {}", owner.kind, owner.name);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&owner_filter(owner)).build();
        let found = self.call(&doing, ANSWER, |docker| docker.list_containers(Some(options))).await?;
        let mut seen: Vec<_> = found.into_iter().map(seen).collect();
        seen.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(seen)
    }

    pub(super) async fn container_created(&self, spec: &ContainerSpec) -> Result<(), Error> {
        let doing = format!("making container {}", spec.name);
        let options = CreateContainerOptionsBuilder::default().name(&spec.name).build();
        let body = create_body(spec);
        match self.call(&doing, START, |docker| docker.create_container(Some(options), body)).await {
            Ok(made) => {
                for warning in made.warnings {
                    tracing::debug!(host = &*self.host, container = spec.name, "{warning}");
                }
                Ok(())
            }
            Err(Error::Conflict { message, .. }) => self.same_as_there(spec, &doing, message).await,
            Err(error) => Err(error),
        }
    }

    /// The name is taken: by what we want, or by something else?
    async fn same_as_there(&self, spec: &ContainerSpec, doing: &str, engines_words: String) -> Result<(), Error> {
        let there = match self.call(doing, ANSWER, |docker| docker.inspect_container(&spec.name, None)).await {
            Ok(there) => there,
            // Gone again: the caller looks anew.
            Err(Error::NotFound { .. }) => return Err(Error::conflict(&self.host, doing, engines_words)),
            Err(error) => return Err(error),
        };
        let labels = there.config.and_then(|config| config.labels);
        let hash = labels.as_ref().and_then(|labels| labels.get(labels::SPEC_HASH));
        if hash == Some(&spec.hash()) {
            return Ok(());
        }
        let made = if hash.is_some() { " and was made from another spec" } else { "" };
        let message = format!(
            "a container of that name is there already (id {}): {}{made}",
            there.id.unwrap_or_default().chars().take(12).collect::<String>(),
            owner_in_words(labels.as_ref()),
        );
        Err(Error::conflict(&self.host, doing, message))
    }

    pub(super) async fn container_started(&self, name: &str) -> Result<(), Error> {
        self.call(&format!("starting container {name}"), START, |docker| docker.start_container(name, None)).await
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

    pub(super) async fn container_killed(&self, name: &str) -> Result<(), Error> {
        let options = KillContainerOptionsBuilder::default().signal("SIGKILL").build();
        let killed = self
            .call(&format!("killing container {name}"), KILL, |docker| docker.kill_container(name, Some(options)))
            .await;
        match gone_is_done(killed) {
            Err(Error::Conflict { message, .. }) if message.contains("is not running") => Ok(()),
            other => other,
        }
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
        // `v` takes the anonymous volumes of the image's VOLUME lines along; named volumes stay.
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        let removed = self.call(&doing, KILL, |docker| docker.remove_container(name, Some(options))).await;
        match gone_is_done(removed) {
            Err(Error::Conflict { message, .. }) if message.contains("already in progress") => {
                self.until_gone(name, &doing).await
            }
            other => other,
        }
    }

    /// Somebody else is removing it: done when it is gone.
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

fn seen(found: ContainerSummary) -> ContainerSeen {
    let name = found.names.and_then(|names| names.into_iter().next()).unwrap_or_default();
    ContainerSeen {
        id: found.id.unwrap_or_default(),
        name: name.trim_start_matches('/').to_owned(),
        labels: found.labels.unwrap_or_default().into_iter().collect(),
        state: state(found.state),
        image: found.image.unwrap_or_default(),
        addresses: addresses(found.network_settings.and_then(|settings| settings.networks)),
        exit_code: exit_code(found.status.as_deref().unwrap_or_default()),
    }
}

fn addresses(networks: Option<HashMap<String, EndpointSettings>>) -> BTreeMap<String, Ipv4Addr> {
    let networks = networks.unwrap_or_default().into_iter();
    networks.filter_map(|(name, endpoint)| Some((name, endpoint.ip_address?.parse().ok()?))).collect()
}

/// From Docker's words for people, the only place in a list that has it: `Exited (137) 2 seconds ago`.
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
        // While something of it may run, nobody may take it for dead.
        Some(Docker::RUNNING | Docker::STOPPING | Docker::EMPTY) | None => ContainerState::Running,
    }
}

fn create_body(spec: &ContainerSpec) -> ContainerCreateBody {
    let mut labels: HashMap<_, _> = spec.labels.clone().into_iter().collect();
    labels.insert(labels::SPEC_HASH.to_owned(), spec.hash());
    let ports = port_bindings(&spec.ports);
    ContainerCreateBody {
        hostname: Some(spec.hostname.clone()),
        image: Some(spec.image.clone()),
        entrypoint: Some(spec.entrypoint.clone()).filter(|own| !own.is_empty()),
        cmd: Some(spec.cmd.clone()).filter(|own| !own.is_empty() || !spec.entrypoint.is_empty()),
        env: Some(spec.env.iter().map(|(key, value)| format!("{key}={value}")).collect()),
        labels: Some(labels),
        stop_timeout: Some(spec.stop_timeout_seconds),
        exposed_ports: Some(ports.keys().cloned().collect()),
        host_config: Some(HostConfig {
            mounts: Some(spec.volumes.iter().map(mount).collect()),
            tmpfs: Some(spec.tmpfs.clone().into_iter().collect()),
            network_mode: Some(spec.network.clone()),
            port_bindings: Some(ports),
            shm_size: spec.shm_bytes,
            memory: spec.memory_bytes,
            nano_cpus: spec.nano_cpus,
            restart_policy: Some(RestartPolicy {
                name: Some(if spec.restart {
                    RestartPolicyNameEnum::UNLESS_STOPPED
                } else {
                    RestartPolicyNameEnum::NO
                }),
                maximum_retry_count: None,
            }),
            ..Default::default()
        }),
        networking_config: Some(NetworkingConfig {
            endpoints_config: Some(HashMap::from([(spec.network.clone(), endpoint(spec))])),
        }),
        ..Default::default()
    }
}

fn endpoint(spec: &ContainerSpec) -> EndpointSettings {
    EndpointSettings {
        aliases: Some(spec.aliases.clone()),
        ipam_config: spec
            .address
            .map(|address| EndpointIpamConfig { ipv4_address: Some(address.to_string()), ..Default::default() }),
        ..Default::default()
    }
}

fn mount((volume, path, read_only): &(String, String, bool)) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(volume.clone()),
        target: Some(path.clone()),
        read_only: Some(*read_only),
        // A new data volume starts with the image's directory and its owner; what is only read stays as it was filled.
        volume_options: Some(MountVolumeOptions { no_copy: Some(*read_only), ..Default::default() }),
        ..Default::default()
    }
}

fn port_bindings(ports: &[(std::net::IpAddr, u16, u16)]) -> PortMap {
    let mut bindings = PortMap::new();
    for (address, host, container) in ports {
        let binding = PortBinding { host_ip: Some(address.to_string()), host_port: Some(host.to_string()) };
        bindings
            .entry(format!("{container}/tcp"))
            .or_insert_with(|| Some(Vec::new()))
            .get_or_insert_default()
            .push(binding);
    }
    bindings
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

    #[test]
    fn one_container_port_can_be_published_twice() {
        let one: std::net::IpAddr = [127, 0, 0, 1].into();
        let bindings = port_bindings(&[(one, 15432, 5432), (one, 25432, 5432)]);
        assert_eq!(bindings["5432/tcp"].as_ref().map(Vec::len), Some(2));
    }
}
