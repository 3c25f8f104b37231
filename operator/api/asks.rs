//! What an object asks of the host that it runs on, beyond a container of its own. The policy of its namespace judges it. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::PodSpec;

use super::backup_store::BackupStore;
use super::deployment::Deployment;
use super::host_ports::HostPorts;
use super::load_balancer::LoadBalancer;
use super::postgres_cluster::PostgresCluster;
use super::postgres_settings;
use super::redis_sentinel::RedisSentinel;

/// What an object asks.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Asks {
    /// The pod that it makes, if its author describes one.
    pub pod: Option<PodSpec>,
    /// The ports that it publishes.
    pub ports: Vec<HostPorts>,
    /// Settings that load or run code of the author's choice in its servers: path and value.
    pub code: BTreeSet<(String, String)>,
    /// Directories of the host that its containers write to: path of the field and directory. Those of `pod` are not among them.
    pub directories: BTreeSet<(String, String)>,
}

impl Asks {
    /// Of a Deployment.
    pub fn of_deployment(object: &Deployment) -> Self {
        let pod = object.spec.template.spec.clone().unwrap_or_default();
        let groups =
            [("initContainers", pod.init_containers.as_deref().unwrap_or_default()), ("containers", &pod.containers)];
        let mut published = Vec::new();
        for (group, containers) in groups {
            for (index, container) in containers.iter().enumerate() {
                for (at, port) in container.ports.iter().flatten().enumerate() {
                    let path = format!("spec.template.spec.{group}[{index}].ports[{at}].hostPort");
                    let host = port.host_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
                    let address = port.host_ip.as_deref().unwrap_or_default();
                    published.extend(host.map(|host| HostPorts::new(path, address, host, 1)));
                }
            }
        }
        Self { pod: Some(pod), ports: published, ..Self::default() }
    }

    /// Of a PostgresCluster.
    pub fn of_cluster(object: &PostgresCluster) -> Self {
        let spec = &object.spec;
        let expose = spec.expose.iter();
        let port =
            expose.map(|one| HostPorts::new("spec.expose.hostPort", &one.bind_address, one.host_port, spec.instances));
        let code = spec.parameters.iter().filter(|(name, value)| postgres_settings::runs_code(name, value));
        let code = code.map(|(name, value)| (format!("spec.parameters[{name}]"), value.clone()));
        let own = spec.backup.iter().map(|backup| ("spec.backup", &backup.store));
        let recovery = spec.bootstrap.recovery.iter().filter_map(|recovery| recovery.source.store.as_ref());
        let stores = own.chain(recovery.map(|store| ("spec.bootstrap.recovery.source", store)));
        Self { pod: None, ports: port.collect(), code: code.collect(), directories: directories(stores) }
    }

    /// Of a RedisSentinel.
    pub fn of_redis(object: &RedisSentinel) -> Self {
        let spec = &object.spec;
        let own = spec.backup.iter().map(|backup| ("spec.backup", &backup.store));
        let recovery = spec.bootstrap.recovery.iter().filter_map(|recovery| recovery.source.store.as_ref());
        let stores = own.chain(recovery.map(|store| ("spec.bootstrap.recovery.source", store)));
        Self { directories: directories(stores), ..Self::default() }
    }

    /// Of a LoadBalancer.
    pub fn of_balancer(object: &LoadBalancer) -> Self {
        let spec = &object.spec;
        // The address of any host.
        let address = if spec.binds_to_host() { "0.0.0.0" } else { &spec.bind_address };
        let frontends = spec.frontends.iter().enumerate().filter_map(|(at, one)| {
            Some(HostPorts::new(format!("spec.frontends[{at}].hostPort"), address, one.host_port?, spec.replicas))
        });
        let stats = spec.stats.iter().filter_map(|stats| {
            Some(HostPorts::new("spec.stats.hostPort", "127.0.0.1", stats.host_port?, spec.replicas))
        });
        Self { ports: frontends.chain(stats).collect(), ..Self::default() }
    }
}

/// The directories of the host among these stores; with each the path of what has it.
fn directories<'a>(stores: impl Iterator<Item = (&'static str, &'a BackupStore)>) -> BTreeSet<(String, String)> {
    let directory = |(path, store): (&'static str, &BackupStore)| {
        Some((format!("{path}.store.directory"), store.directory.as_ref()?.path.clone()))
    };
    stores.filter_map(directory).collect()
}
