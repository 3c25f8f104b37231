//! Observes a cluster: its hosts, its supervisors' last reports, its Secrets. Reads only, judges nothing.

use super::{Observed, PostgresClusterKind, network_name, secrets, workload};
use crate::api::failure::Failure;
use crate::api::object::Object as _;
use crate::api::postgres_cluster::PostgresCluster;
use crate::kinds::containers::Needs;

/// Reads the whole snapshot.
pub async fn observe(controller: &PostgresClusterKind, object: &PostgresCluster) -> Result<Observed, Failure> {
    let owner = object.owner();
    let needs = Needs { images: [object.spec.image.clone()].into(), networks: [network_name(object)].into() };
    let (hosts, secrets) = tokio::join!(
        controller.docker.observe(&owner, workload::hosts(object), &needs),
        secrets::read(&controller.objects, object),
    );
    controller.links.keep(&controller.docker.hosts, &owner, &hosts);
    let links = controller.links.heard(&owner);
    Ok(Observed {
        proven_ms: controller.links.proven(&owner, &links),
        links,
        calling: controller.links.calling(&owner),
        work: controller.docker.work.heard(&owner),
        hosts,
        secrets: secrets?,
    })
}
