//! One snapshot of a cluster: Docker's lists, the supervisors' last words, the Secrets. Reads only, judges nothing.

use std::collections::BTreeMap;

use super::{Fact, Observed, PostgresClusterKind, container_name, name, namespace, network_name, secrets, workload};
use crate::api::failure::Failure;
use crate::api::postgres_cluster::PostgresCluster;
use crate::engine::{ContainerSeen, ContainerState};

/// Reads everything at once.
pub async fn observe(controller: &PostgresClusterKind, object: &PostgresCluster) -> Result<Observed, Failure> {
    let engine = controller.hosts.get(super::HOST)?;
    let owner = workload::owner(object);
    let network = network_name(object);
    let (containers, volumes, network, image, secrets) = tokio::join!(
        engine.list_containers(&owner),
        engine.list_volumes(&owner),
        engine.network(&network),
        engine.has_image(&object.spec.image),
        secrets::read(&controller.objects, object),
    );
    let containers = Fact::from(
        containers.map(|all| all.into_iter().map(|one| (one.name.clone(), one)).collect::<BTreeMap<_, _>>()),
    );
    let cluster = (namespace(object).to_owned(), name(object).to_owned());
    if let Some(containers) = containers.known() {
        let running = containers.values().filter(|container| talks(container));
        let running = running.map(|container| (container.id.clone(), container.name.clone())).collect();
        controller.links.keep(&engine, &cluster, &running);
    }
    // Also where Docker could not be asked: a conversation that stands is worth more than a list.
    let links = links(controller, object, &cluster);
    Ok(Observed {
        links,
        calling: controller.links.calling(&cluster),
        containers,
        volumes: Fact::from(volumes.map(|names| names.into_iter().collect())),
        network: Fact::from(network.map(|seen| seen.map(|network| network.subnet))),
        image: Fact::from(image),
        binary: controller.binary.get().cloned(),
        secrets: secrets?,
    })
}

fn talks(container: &ContainerSeen) -> bool {
    matches!(container.state, ContainerState::Running | ContainerState::Paused)
}

fn links(
    controller: &PostgresClusterKind,
    object: &PostgresCluster,
    cluster: &(String, String),
) -> BTreeMap<String, super::LinkSeen> {
    let prefix = container_name(object, "");
    let heard = controller.links.heard(cluster).into_iter();
    heard.filter_map(|(container, seen)| Some((container.strip_prefix(&prefix)?.to_owned(), seen))).collect()
}
