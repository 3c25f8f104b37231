//! Observes a cluster: its hosts, its supervisors' last reports, its Secrets. Reads only, judges nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::{
    LinkSeen, Observed, PostgresClusterKind, collations, network_name, peers_network_name, places, restore_tests,
    secrets, stores,
};
use crate::api::failure::Failure;
use crate::api::labels::Owner;
use crate::api::object::Object as _;
use crate::api::postgres_cluster::{PostgresCluster, PostgresClusterStatus};
use crate::kinds::containers::Needs;
use crate::kinds::{hosts, ports};
use crate::runtime::clock;

/// Reads the whole snapshot.
pub async fn observe(controller: &PostgresClusterKind, object: &PostgresCluster) -> Result<Observed, Failure> {
    let owner = object.owner();
    let networks = [network_name(object), peers_network_name(object)].into();
    let needs = Needs { images: [object.spec.image.clone()].into(), networks, ..Default::default() };
    let (declared, reserved) = (hosts::read(&controller.objects).await?, ports::read(&controller.objects).await?);
    let (hosts, authority) = tokio::join!(
        controller.docker.observe(&owner, places::hosts(object, &declared), &needs),
        controller.authorities.read(&controller.objects, object, controller.clock.now()),
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
        declared,
        reserved,
        proven_ms: proven(controller, &owner, &links),
        links,
        calling: controller.links.calling(&owner),
        refused: controller.links.refused(&owner),
        work: controller.docker.work.heard(&owner),
        libraries: controller.libraries.heard(&owner),
        waited: controller.waits.note(&owner, moments(object.status.as_ref())),
        silent: controller.silence.note(&hosts),
        hosts,
        secrets,
        archives: stores::read(&controller.objects, object).await?,
        backups: restore_tests::read(&controller.objects, object).await?,
        certificates: Some(authority.seen()),
    })
}

/// The recorded moments that decisions wait from.
pub(super) fn moments(status: Option<&PostgresClusterStatus>) -> Vec<Timestamp> {
    let decisions = status.iter().filter_map(|status| status.decisions.as_ref());
    decisions.flat_map(|one| one.absent.values().copied().chain([one.since])).collect()
}

/// Milliseconds since each member last proved that a new client can write; `heard` are its last reports.
fn proven(
    controller: &PostgresClusterKind,
    owner: &Owner,
    heard: &BTreeMap<String, LinkSeen>,
) -> BTreeMap<String, u64> {
    let now = clock::instant();
    let proven = heard.iter().filter_map(|(member, link)| {
        let age = link.report.proof.as_ref()?.proven_ms?.saturating_add(link.silent_ms);
        Some((member.clone(), now.checked_sub(Duration::from_millis(age))?))
    });
    let ms = |at: tokio::time::Instant| u64::try_from(now.duration_since(at).as_millis()).unwrap_or(u64::MAX);
    controller.proofs.keep(owner, proven).into_iter().map(|(member, at)| (member, ms(at))).collect()
}
