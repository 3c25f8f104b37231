//! Observes a Deployment: its containers on each host, the results of probes and background work, and the balancers
//! that route to it. Reads only, judges nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Value, json};

use super::{BalancerSeen, DeploymentKind, HostSeen, Observed, blueprint, claims, hold, inputs};
use crate::api::backup::Backup;
use crate::api::core::NAMESPACES;
use crate::api::deployment::{Deployment, DeploymentStatus, Pod, Revision};
use crate::api::docker_host::{DockerHost, DockerHostSpec};
use crate::api::failure::Failure;
use crate::api::load_balancer::{Backend, LoadBalancer, ServerState};
use crate::api::object::{Object as _, RECONCILE_ANNOTATION, Want};
use crate::api::pod_security::Level;
use crate::api::volume_restore::VolumeRestore;
use crate::kinds::containers::{DockerSeen, InputRef, Needs};
use crate::kinds::hosts::Declared;
use crate::kinds::{network_of, ports};
use crate::store::Key;

/// Reads the whole snapshot.
pub(super) async fn observe(controller: &DeploymentKind, object: &Deployment) -> Result<Observed, Failure> {
    let owner = object.owner();
    let (declared, _) = controller.objects.list::<DockerHost>(DockerHost::RESOURCE, None).await?;
    let names = declared.iter().map(|host| host.metadata.name.clone().unwrap_or_default());
    let inputs = inputs::read(&controller.objects, object.namespace(), used(object)).await?;
    let networks = pod_specs(object).flat_map(|spec| inputs.networks(spec)).chain([network_of(object.namespace())]);
    let needs = Needs { images: images(object), networks: networks.collect(), volumes: claims::open(object) };
    let namespace = controller.objects.get::<Value>(&namespace(object)).await?;
    let mut seen = controller.docker.observe(&owner, names, &needs).await;
    let host = |host: &DockerHost| {
        let name = host.metadata.name.clone().unwrap_or_default();
        let seen = HostSeen {
            declared: Declared::from(host),
            volumes: given(&host.spec, object.namespace()),
            docker: seen.remove(&name).unwrap_or_else(|| DockerSeen::unknown("it was not asked")),
        };
        (name, seen)
    };
    let hosts: BTreeMap<String, HostSeen> = declared.iter().map(host).collect();
    controller.prober.keep(object, &hosts);
    let (all, _) = controller.objects.list::<LoadBalancer>(LoadBalancer::RESOURCE, Some(object.namespace())).await?;
    let (backups, _) = controller.objects.list::<Backup>(Backup::RESOURCE, Some(object.namespace())).await?;
    let (restores, _) =
        controller.objects.list::<VolumeRestore>(VolumeRestore::RESOURCE, Some(object.namespace())).await?;
    let wanted = hold::claims_of(object);
    let stopping = backups.iter().filter_map(|backup| hold::of_backup(backup, object.name()));
    let filling = restores.iter().filter_map(|restore| hold::of_restore(restore, &wanted));
    Ok(Observed {
        holders: stopping.chain(filling).collect(),
        inputs,
        probes: controller.prober.found(&owner),
        work: controller.docker.work.heard(&owner),
        balancers: all.iter().filter_map(|balancer| routed(balancer, object.name())).collect(),
        routed: all.iter().flat_map(|balancer| ports_to(balancer, object.name())).collect(),
        waited: controller.waits.note(&owner, moments(object.status.as_ref())),
        silent: controller.silence.note(hosts.iter().map(|(name, host)| (name, &host.docker))),
        reserved: ports::read(&controller.objects).await?,
        level: Level::enforced(namespace.as_ref()),
        hosts,
    })
}

/// The recorded moments that decisions wait from.
pub(super) fn moments(status: Option<&DeploymentStatus>) -> Vec<Timestamp> {
    let Some(d) = status.and_then(|status| status.decisions.as_ref()) else { return Vec::new() };
    let of_pod = |pod: &Pod| {
        let restarts = pod.restarts.values().flat_map(|one| [one.last, one.next_try]);
        restarts.chain([pod.ready_since, pod.stop.as_ref().and_then(|stop| stop.since)]).collect::<Vec<_>>()
    };
    let missing = d.missing.values().map(|missing| missing.since);
    d.pods.iter().flat_map(of_pod).chain(missing).chain([d.progressed_at]).flatten().collect()
}

/// The volumes of a host that its DockerHost gives to this namespace.
fn given(host: &DockerHostSpec, namespace: &str) -> BTreeSet<String> {
    let given = host.volumes.iter().filter(|volume| volume.namespaces.iter().any(|name| name == namespace));
    given.map(|volume| volume.name.clone()).collect()
}

/// The key of its namespace.
fn namespace(object: &Deployment) -> Key {
    Key::new(NAMESPACES, "", object.namespace())
}

/// The images of the template and of all kept revisions, as named and as resolved.
fn images(object: &Deployment) -> BTreeSet<String> {
    let resolved = revisions(object).flat_map(|revision| revision.images.values().cloned());
    let containers = pod_specs(object).flat_map(blueprint::containers);
    resolved.chain(containers.filter_map(|container| container.image.clone())).collect()
}

/// The kept revisions.
fn revisions(object: &Deployment) -> impl Iterator<Item = &Revision> {
    object.status.iter().filter_map(|status| status.decisions.as_ref()).flat_map(|d| &d.revisions)
}

/// The pod specs of the template and of all kept revisions.
fn pod_specs(object: &Deployment) -> impl Iterator<Item = &PodSpec> {
    let templates = revisions(object).map(|revision| &revision.template).chain([&object.spec.template]);
    templates.filter_map(|template| template.spec.as_ref())
}

/// The Secrets and ConfigMaps that a Deployment reads, including registry logins; and its namespace.
pub(super) fn references(object: &Deployment) -> Vec<Key> {
    let template = object.spec.template.spec.iter();
    let logins = template.flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    let logins = logins.map(|secret| Key::beside(object, "secrets", &secret.name));
    used(object)
        .iter()
        .map(|input| Key::beside(object, input.resource, &input.name))
        .chain(logins)
        .chain([namespace(object)])
        .collect()
}

/// The Deployments that a LoadBalancer routes to, by name.
pub(super) fn routed_to(balancer: &Value) -> Vec<String> {
    let backends = balancer["spec"]["backends"].as_array().into_iter().flatten();
    backends.filter_map(|backend| Some(backend["deployment"]["name"].as_str()?.to_owned())).collect()
}

/// The part of a LoadBalancer that matters to the Deployments that it routes to: whether it is paused, its backends and
/// the state of their servers. Without the session counts, which change all the time.
pub(super) fn routes(balancer: &Value) -> Value {
    let status = &balancer["status"];
    let backends = status["backends"].as_array().into_iter().flatten();
    let states = backends.flat_map(|backend| {
        let servers = backend["servers"].as_array().into_iter().flatten();
        servers.map(|server| json!([backend["name"], server["name"], server["state"]]))
    });
    let paused = &balancer["metadata"]["annotations"][RECONCILE_ANNOTATION];
    json!([paused, balancer["spec"]["backends"], status["readyReplicas"], states.collect::<Vec<_>>()])
}

/// The Secrets and ConfigMaps of the template and of all kept revisions.
fn used(object: &Deployment) -> BTreeSet<InputRef> {
    pod_specs(object).flat_map(|spec| blueprint::inputs(spec).into_keys()).collect()
}

/// The Deployment that a reserved port belongs to.
pub(super) fn reserved_for(reservation: &Value) -> Vec<String> {
    let owner = &reservation["spec"]["owner"];
    let key = || Some(format!("{}/{}", owner["namespace"].as_str()?, owner["name"].as_str()?));
    key().filter(|_| owner["kind"] == Deployment::KIND).into_iter().collect()
}

/// The Deployments whose pods a Backup stops.
pub(super) fn held_by(backup: &Value) -> Vec<String> {
    let named = backup["spec"]["together"]["deployments"].as_array().into_iter().flatten();
    named.filter_map(|one| Some(one["name"].as_str()?.to_owned())).collect()
}

/// The part of a Backup that matters to these.
pub(super) fn hold(backup: &Value) -> Value {
    let (status, together) = (&backup["status"], &backup["status"]["together"]);
    json!([backup["metadata"]["deletionTimestamp"], together["holds"], together["until"], is_over(&status["phase"])])
}

/// The part of a VolumeRestore that matters to the Deployments with its claim.
pub(super) fn fills(restore: &Value) -> Value {
    let status = &restore["status"];
    let deleted = &restore["metadata"]["deletionTimestamp"];
    json!([restore["spec"]["claim"], deleted, status["partial"], is_over(&status["phase"])])
}

fn is_over(phase: &Value) -> bool {
    phase == "Completed" || phase == "Failed"
}

/// The ports that a LoadBalancer routes to at a Deployment.
fn ports_to(object: &LoadBalancer, deployment: &str) -> Vec<u16> {
    let named = object.spec.backends.iter().filter_map(|backend| backend.deployment.as_ref());
    named.filter(|to| to.name == deployment).map(|to| to.port).collect()
}

/// A running balancer that routes to it.
fn routed(object: &LoadBalancer, deployment: &str) -> Option<BalancerSeen> {
    let status = object.status.as_ref().filter(|status| status.ready_replicas > 0)?;
    let to_it = |backend: &&Backend| backend.deployment.as_ref().is_some_and(|to| to.name == deployment);
    let ours: BTreeMap<&str, Duration> =
        object.spec.backends.iter().filter(to_it).map(|one| (one.name.as_str(), one.drain_timeout.get())).collect();
    let drain_seconds = ours.values().max()?.as_secs();
    let mut servers: BTreeMap<String, ServerState> = BTreeMap::new();
    for backend in status.backends.iter().filter(|backend| ours.contains_key(backend.name.as_str())) {
        for server in &backend.servers {
            // If two backends route to it, a server has a state only if it has it in both.
            let state = servers.entry(server.name.clone()).or_insert(server.state);
            if *state != server.state {
                *state = ServerState::Unknown;
            }
        }
    }
    Some(BalancerSeen {
        name: object.metadata.name.clone().unwrap_or_default(),
        drain_seconds,
        paused: object.want() == Want::Paused,
        servers,
    })
}
