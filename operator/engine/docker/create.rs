//! Creates a container: translates a spec to Docker's API. One request, unless it has volumes with an owner
//! or further networks.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HostConfig, HostConfigLogConfig, Mount, MountType,
    MountVolumeOptions, MountVolumeOptionsDriverConfig, NetworkConnectRequest, NetworkingConfig, PortBinding, PortMap,
    ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::CreateContainerOptionsBuilder;
use futures::future::try_join_all;

use super::super::{Attachment, ContainerSpec, Error, Mount as Mounted, MountSource};
use super::containers::START;
use super::{ANSWER, DockerEngine, owner_in_words};
use crate::api::labels;

impl DockerEngine {
    pub(super) async fn container_created(&self, spec: &ContainerSpec) -> Result<(), Error> {
        let doing = format!("making container {}", spec.name);
        self.volumes_are_ours(spec, &doing).await?;
        let options = CreateContainerOptionsBuilder::default().name(&spec.name).build();
        let body = create_body(spec);
        match self.call(&doing, START, |docker| docker.create_container(Some(options), body)).await {
            Ok(made) => {
                for warning in made.warnings {
                    tracing::debug!(host = &*self.host, container = spec.name, "{warning}");
                }
            }
            Err(Error::Conflict { message, .. }) => self.same_as_there(spec, &doing, message).await?,
            Err(error) => return Err(error),
        }
        // Also for an existing container: its creator may have been stopped before this.
        for attachment in spec.further() {
            self.connected(&spec.name, &attachment, &doing).await?;
        }
        Ok(())
    }

    /// Docker silently mounts any existing volume with that name. One without wanted labels must belong to nobody.
    async fn volumes_are_ours(&self, spec: &ContainerSpec, doing: &str) -> Result<(), Error> {
        let volumes = spec.mounts.iter().filter_map(|mount| mount.source.volume());
        let checks = volumes.map(async |(name, labels)| match self.volume_named(name, doing).await? {
            Some(there) => self.volume_of(labels, &there, doing),
            None => Ok(()),
        });
        try_join_all(checks).await.map(drop)
    }

    /// The name is in use: by an equal container, or by another one?
    async fn same_as_there(&self, spec: &ContainerSpec, doing: &str, engines_words: String) -> Result<(), Error> {
        let there = match self.call(doing, ANSWER, |docker| docker.inspect_container(&spec.name, None)).await {
            Ok(there) => there,
            // It was removed meanwhile: the caller observes again.
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

    async fn connected(&self, container: &str, attachment: &Attachment, doing: &str) -> Result<(), Error> {
        let request =
            NetworkConnectRequest { container: container.to_owned(), endpoint_config: Some(endpoint(attachment)) };
        match self.call(doing, ANSWER, |docker| docker.connect_network(&attachment.network, request)).await {
            Err(Error::Refused { message, .. } | Error::Conflict { message, .. })
                if message.contains("already exists in network") =>
            {
                Ok(())
            }
            other => other,
        }
    }
}

fn create_body(spec: &ContainerSpec) -> ContainerCreateBody {
    let mut labels: HashMap<_, _> = spec.labels.clone().into_iter().collect();
    labels.insert(labels::SPEC_HASH.to_owned(), spec.hash());
    let (ports, security) = (port_bindings(&spec.ports), &spec.security);
    let named = |volume: &(String, String, bool)| named_volume(volume, &spec.labels);
    let mounts = spec.volumes.iter().map(named).chain(spec.mounts.iter().map(mount));
    // In the network of another container it has that container's host name, addresses and ports; Docker
    // refuses its own.
    let alone = spec.joins.is_none();
    ContainerCreateBody {
        hostname: Some(spec.hostname.clone()).filter(|_| alone),
        image: Some(spec.image.clone()),
        entrypoint: Some(spec.entrypoint.clone()).filter(|own| !own.is_empty()),
        cmd: Some(spec.cmd.clone()).filter(|own| !own.is_empty() || !spec.entrypoint.is_empty()),
        user: spec.chosen.user.clone().or_else(|| spec.user.clone()),
        working_dir: spec.working_dir.clone(),
        env: Some(spec.env.iter().chain(&spec.chosen.env).map(|(key, value)| format!("{key}={value}")).collect()),
        labels: Some(labels),
        stop_timeout: Some(spec.stop_timeout_seconds),
        exposed_ports: Some(ports.keys().cloned().collect()).filter(|_| alone),
        host_config: Some(HostConfig {
            mounts: Some(mounts.collect()),
            tmpfs: Some(spec.tmpfs.clone().into_iter().collect()),
            network_mode: Some(
                spec.joins.as_ref().map_or_else(|| spec.network.clone(), |one| format!("container:{one}")),
            ),
            port_bindings: Some(ports).filter(|_| alone),
            shm_size: spec.chosen.shm_bytes.or(spec.shm_bytes),
            memory: spec.memory_bytes,
            // No swap beyond the memory, as in Kubernetes.
            memory_swap: spec.memory_bytes,
            ulimits: spec.open_files.map(|most| {
                vec![ResourcesUlimits { name: Some("nofile".to_owned()), soft: Some(most), hard: Some(most) }]
            }),
            nano_cpus: spec.nano_cpus,
            cpu_shares: spec.cpu_shares,
            pids_limit: spec.pids_limit.or(spec.chosen.pids_limit),
            // Without a type Docker takes the engine's own log driver.
            log_config: map(&spec.chosen.log_options)
                .map(|options| HostConfigLogConfig { typ: None, config: Some(options) }),
            group_add: some(&spec.groups),
            cap_add: some(&security.cap_add),
            cap_drop: some(&spec.drops()),
            readonly_rootfs: Some(security.read_only || spec.chosen.read_only),
            privileged: Some(security.privileged),
            security_opt: (security.no_new_privileges || spec.chosen.no_new_privileges)
                .then(|| vec!["no-new-privileges:true".to_owned()]),
            sysctls: map(&security.sysctls),
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
        networking_config: alone.then(|| NetworkingConfig {
            endpoints_config: spec.attachments().first().map(|main| [(main.network.clone(), endpoint(main))].into()),
        }),
        ..Default::default()
    }
}

fn some(items: &[String]) -> Option<Vec<String>> {
    Some(items.to_vec()).filter(|items| !items.is_empty())
}

fn map(items: &BTreeMap<String, String>) -> Option<HashMap<String, String>> {
    Some(items.clone().into_iter().collect()).filter(|items: &HashMap<_, _>| !items.is_empty())
}

/// The connection in Docker's form.
pub(super) fn endpoint(attachment: &Attachment) -> EndpointSettings {
    EndpointSettings {
        aliases: Some(attachment.aliases.clone()),
        ipam_config: attachment
            .address
            .map(|address| EndpointIpamConfig { ipv4_address: Some(address.to_string()), ..Default::default() }),
        ..Default::default()
    }
}

/// `labels`: those of a data volume, if Docker has to make it because somebody has removed it just now.
fn named_volume((volume, path, read_only): &(String, String, bool), labels: &BTreeMap<String, String>) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(volume.clone()),
        target: Some(path.clone()),
        read_only: Some(*read_only),
        // A new data volume starts with the image's directory and its owner; a read-only volume keeps its content.
        volume_options: Some(MountVolumeOptions {
            no_copy: Some(*read_only),
            labels: map(labels).filter(|_| !read_only),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn mount(mounted: &Mounted) -> Mount {
    let mount = Mount { target: Some(mounted.path.clone()), read_only: Some(mounted.read_only), ..Default::default() };
    match &mounted.source {
        MountSource::Bind(path) => Mount { typ: Some(MountType::BIND), source: Some(path.clone()), ..mount },
        MountSource::Volume { name, options, labels } => {
            // A volume with options or labels starts empty, as in Kubernetes; one with only a name may use any driver.
            let plain = options.is_empty() && labels.is_empty();
            let local = MountVolumeOptionsDriverConfig { name: Some("local".to_owned()), options: map(options) };
            let volume_options = MountVolumeOptions {
                no_copy: Some(!plain || mounted.read_only),
                labels: map(labels),
                driver_config: Some(local).filter(|_| !plain),
                ..Default::default()
            };
            let volume_options = Some(volume_options);
            Mount { typ: Some(MountType::VOLUME), source: Some(name.clone()), volume_options, ..mount }
        }
        MountSource::Kept { name, labels } => {
            let no_copy = Some(mounted.read_only);
            let volume_options = Some(MountVolumeOptions { no_copy, labels: map(labels), ..Default::default() });
            Mount { typ: Some(MountType::VOLUME), source: Some(name.clone()), volume_options, ..mount }
        }
    }
}

fn port_bindings(ports: &[(IpAddr, u16, u16)]) -> PortMap {
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
    use crate::engine::{Chosen, Security};

    /// Regression 197: every container had NET_RAW, with which a pod took the addresses of its neighbours by false ARP replies
    /// and read the password of the replication role; and MKNOD, SETFCAP and AUDIT_WRITE, which none needs.
    #[test]
    fn a_container_has_none_of_the_capabilities_that_forge_unless_it_asks_for_one() {
        let drops = |add: &[&str], drop: &[&str]| {
            let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let security = Security { cap_add: list(add), cap_drop: list(drop), ..Default::default() };
            let body = create_body(&ContainerSpec { security, ..Default::default() });
            body.host_config.and_then(|host| host.cap_drop).unwrap_or_default().join(" ")
        };
        assert_eq!(drops(&[], &[]), "AUDIT_WRITE MKNOD NET_RAW SETFCAP");
        assert_eq!(drops(&["NET_RAW", "CAP_MKNOD"], &["KILL"]), "KILL AUDIT_WRITE SETFCAP");
        assert_eq!(drops(&["CHOWN"], &["ALL"]), "ALL");
        assert_eq!(drops(&["ALL"], &[]), "");
    }

    /// Regression 304: a data volume that was removed between a look and the creation of its container was made by Docker without
    /// labels. It belonged to nobody: it stayed after the object, and an object of the same name waited for its removal.
    #[test]
    fn a_data_volume_that_docker_makes_belongs_to_the_owner_of_its_container() {
        let owner: BTreeMap<String, String> = [("owner".to_owned(), "cache".to_owned())].into();
        let volumes = vec![("data".into(), "/data".into(), false), ("program".into(), "/evenkeel".into(), true)];
        let body = create_body(&ContainerSpec { labels: owner, volumes, ..Default::default() });
        let mounts = body.host_config.and_then(|host| host.mounts).unwrap_or_default();
        let labelled = |mount: &Mount| {
            let options = mount.volume_options.as_ref()?;
            options.labels.as_ref()?.get("owner").cloned()
        };
        let found: Vec<_> = mounts.iter().map(labelled).collect();
        assert_eq!(found, [Some("cache".to_owned()), None]);
    }

    #[test]
    fn what_is_chosen_counts_where_nothing_was_declared() {
        let chosen = Chosen {
            pids_limit: Some(16),
            user: Some("65534:65534".into()),
            cap_drop: vec!["ALL".into()],
            read_only: true,
            no_new_privileges: true,
            ..Default::default()
        };
        let spec = ContainerSpec { user: Some("0:0".into()), chosen, ..Default::default() };
        assert_eq!(spec.hash(), ContainerSpec { chosen: Chosen::default(), ..spec.clone() }.hash());
        let body = create_body(&spec);
        let host = body.host_config.unwrap_or_default();
        let limits = |spec: &ContainerSpec| create_body(spec).host_config.and_then(|host| host.pids_limit);
        assert_eq!((body.user.as_deref(), host.readonly_rootfs), (Some("65534:65534"), Some(true)));
        assert_eq!(host.cap_drop.unwrap_or_default(), ["ALL"]);
        assert_eq!(host.security_opt.unwrap_or_default(), ["no-new-privileges:true"]);
        assert_eq!((limits(&spec), limits(&ContainerSpec { pids_limit: Some(9), ..spec })), (Some(16), Some(9)));
    }

    #[test]
    fn one_container_port_can_be_published_twice() {
        let one: IpAddr = [127, 0, 0, 1].into();
        let bindings = port_bindings(&[(one, 15432, 5432), (one, 25432, 5432)]);
        assert_eq!(bindings["5432/tcp"].as_ref().map(Vec::len), Some(2));
    }
}
