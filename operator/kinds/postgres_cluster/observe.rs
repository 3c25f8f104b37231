//! Observes a cluster: its hosts, its supervisors' last reports, its Secrets. Reads only, judges nothing.

use super::authority::Authority;
use super::{Observed, PostgresClusterKind, collations, network_name, peers_network_name, secrets, workload};
use crate::api::failure::Failure;
use crate::api::object::Object as _;
use crate::api::postgres_cluster::PostgresCluster;
use crate::kinds::containers::Needs;

/// Reads the whole snapshot.
pub async fn observe(controller: &PostgresClusterKind, object: &PostgresCluster) -> Result<Observed, Failure> {
    let owner = object.owner();
    let networks = [network_name(object), peers_network_name(object)].into();
    let needs = Needs { images: [object.spec.image.clone()].into(), networks, ..Default::default() };
    let (hosts, authority) = tokio::join!(
        controller.docker.observe(&owner, workload::hosts(object), &needs),
        Authority::read(&controller.objects, object, controller.clock.now()),
    );
    let authority = authority?;
    let secrets = secrets::read(&controller.objects, object, &authority).await?;
    controller.links.keep(&controller.docker.hosts, &owner, &hosts);
    let links = controller.links.heard(&owner);
    // An image that nobody would make a container of is forgotten.
    let there = |(host, id): &collations::ImageOn| {
        let images = hosts.get(host).map(|host| host.images.known());
        images.is_some_and(|known| known.is_none_or(|all| all.values().any(|image| image.id == *id)))
    };
    controller.libraries.retain(&owner, there);
    Ok(Observed {
        proven_ms: controller.links.proven(&owner, &links),
        links,
        calling: controller.links.calling(&owner),
        refused: controller.links.refused(&owner),
        work: controller.docker.work.heard(&owner),
        libraries: controller.libraries.heard(&owner),
        hosts,
        secrets,
        certificates: Some(authority.seen()),
    })
}
