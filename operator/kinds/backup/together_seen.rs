//! Observes a Backup over several objects: the Deployments, the PostgresClusters, and what porters and supervisors say. Reads only,
//! judges nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{BackupKind, TogetherSeen, others, together};
use crate::api::backup::Backup;
use crate::api::deployment::{ClaimedVolume, Deployment};
use crate::api::failure::Failure;
use crate::api::object::{Object as _, RECONCILE_ANNOTATION};
use crate::api::postgres_cluster::PostgresCluster;
use crate::api::together::Together;
use crate::api::volume_claims;
use crate::kinds::attempts::{self, Other};
use crate::kinds::containers::{DockerSeen, Needs};
use crate::kinds::fact::Fact;
use crate::kinds::porters;
use crate::kinds::stores::{self, Declared, OWN};
use crate::store::Key;

/// The store of the copies, as the spec has it.
pub fn declared(together: &Together) -> Declared<'_> {
    let (store, encryption) = (&together.store, together.encryption.as_ref());
    Declared { store, mounted: OWN, encryption, path: "spec.together" }
}

/// The keys of what it names.
pub fn references(object: &Backup, together: &Together) -> Vec<Key> {
    let deployments = together.deployments.iter().map(|one| Key::beside(object, Deployment::RESOURCE, &one.name));
    let clusters = together.clusters.iter().map(|one| Key::beside(object, PostgresCluster::RESOURCE, &one.name));
    deployments.chain(clusters).chain(stores::keys(object, &together.store, together.encryption.as_ref())).collect()
}

/// The Backup that holds a Deployment.
pub fn held_by(deployment: &Value) -> Vec<String> {
    let by = &deployment["status"]["heldBy"];
    by["name"].as_str().filter(|_| by["kind"] == Backup::KIND).map(str::to_owned).into_iter().collect()
}

/// The part of a Deployment that matters to Backups.
pub fn deployment_part(deployment: &Value) -> Value {
    let (metadata, status) = (&deployment["metadata"], &deployment["status"]);
    let pods = |list: &Value| list.as_array().map_or(0, Vec::len);
    json!([
        deployment["spec"]["template"]["spec"]["volumes"],
        metadata["deletionTimestamp"],
        metadata["annotations"][RECONCILE_ANNOTATION],
        status["heldBy"],
        status["volumes"],
        pods(&status["pods"]),
        pods(&status["decisions"]["pods"]),
    ])
}

/// Reads the whole snapshot; of a Backup that has ended only what is left of its porters.
pub async fn observe(controller: &BackupKind, object: &Backup, together: &Together) -> Result<TogetherSeen, Failure> {
    let (owner, objects) = (object.owner(), &controller.objects);
    let status = object.status.clone().unwrap_or_default();
    let parts = status.together.unwrap_or_default();
    let registered = |host: &String| controller.docker.hosts.get(host).is_ok();
    let hosts: BTreeSet<_> = parts.volumes.iter().map(|one| one.host.clone()).filter(registered).collect();
    let docker = match parts.cleared {
        true => BTreeMap::new(),
        false => controller.docker.observe(&owner, hosts, &porters::needs(object.namespace())).await,
    };
    controller.porters.keep(&controller.docker.hosts, &owner, &docker);
    let porters = controller.porters.heard(&owner);
    let work = controller.docker.work.heard(&owner);
    if status.phase.is_terminal() {
        controller.links.keep(&controller.docker.hosts, &owner, &BTreeMap::new());
        return Ok(TogetherSeen { porters, docker, work, ..TogetherSeen::default() });
    }
    let (all, _) = objects.list::<Backup>(Backup::RESOURCE, Some(object.namespace())).await?;
    let others = all.iter().filter(|other| other.name() != object.name() && shares(other, together));
    let others: Vec<_> = others.map(|other| Other { runs: runs(other), ..others::other(other) }).collect();
    let mut clusters = BTreeMap::new();
    for one in &together.clusters {
        let found = objects.get::<PostgresCluster>(&Key::beside(object, PostgresCluster::RESOURCE, &one.name)).await?;
        clusters.extend(found.map(|found| (one.name.clone(), found)));
    }
    // A supervisor holds only some conversations at once: those who wait for their turn have none.
    let talking = together::may_run(object, &others);
    let mut members = BTreeMap::new();
    for cluster in clusters.values().filter(|_| talking) {
        let decided = cluster.status.iter().filter_map(|status| status.decisions.as_ref());
        let hosts: BTreeSet<_> = decided.flat_map(|one| &one.members).map(|member| member.host.clone()).collect();
        let seen = controller.docker.observe(&cluster.owner(), hosts, &Needs::default()).await;
        seen.into_iter().for_each(|(host, seen)| merge(&mut members, host, seen));
    }
    controller.links.keep(&controller.docker.hosts, &owner, &members);
    let links = attempts::told(&controller.links.heard(&owner));
    let closed = stores::access(objects, object, declared(together)).await?.err();
    let (all, _) = objects.list::<Deployment>(Deployment::RESOURCE, Some(object.namespace())).await?;
    let deployments: BTreeMap<_, _> = all.into_iter().map(|one| (one.name().to_owned(), one)).collect();
    let volumes = volumes(controller, object.namespace(), together, &deployments).await;
    Ok(TogetherSeen { others, porters, links, deployments, clusters, closed, docker, work, volumes })
}

/// Whether a Backup is over some of these objects, too.
fn shares(other: &Backup, together: &Together) -> bool {
    let Some(its) = &other.spec.together else { return false };
    let deployments = its.deployments.iter().any(|one| together.deployments.iter().any(|ours| ours.name == one.name));
    deployments || its.clusters.iter().any(|one| together.clusters.contains(one))
}

/// Whether it has begun and not ended.
fn runs(other: &Backup) -> bool {
    let status = other.status.as_ref();
    status.is_some_and(|status| !status.phase.is_terminal() && status.backup_id.is_some())
}

/// Adds the containers of one more cluster to those of a host.
fn merge(all: &mut BTreeMap<String, DockerSeen>, host: String, seen: DockerSeen) {
    match all.get_mut(&host) {
        None => drop(all.insert(host, seen)),
        Some(known) => match (&mut known.containers, seen.containers) {
            (Fact::Known(known), Fact::Known(more)) => known.extend(more),
            (known, Fact::Unknown(why)) => *known = Fact::Unknown(why),
            (Fact::Unknown(_), Fact::Known(_)) => {}
        },
    }
}

/// The volumes that exist, of those that are to be copied.
async fn volumes(
    controller: &BackupKind,
    namespace: &str,
    together: &Together,
    deployments: &BTreeMap<String, Deployment>,
) -> Vec<ClaimedVolume> {
    let mut found = Vec::new();
    for (claim, deployment) in together.claims() {
        let status = deployments.get(deployment).and_then(|one| one.status.as_ref());
        let Some(volume) = status.and_then(|status| status.volumes.iter().find(|one| one.claim == claim)) else {
            continue;
        };
        let needs = Needs { volumes: BTreeSet::from([volume.volume.clone()]), ..Needs::default() };
        let owner = volume_claims::owner(namespace, claim);
        let seen = controller.docker.observe(&owner, [volume.host.clone()], &needs).await;
        let names = |fact: &Fact<BTreeSet<String>>| fact.known().is_some_and(|names| names.contains(&volume.volume));
        if seen.values().any(|seen| names(&seen.volumes) || names(&seen.foreign)) {
            found.push(volume.clone());
        }
    }
    found
}
