//! One snapshot of a Deployment: a list of its containers from each host, what probes and jobs brought, who routes to it.
//! Reads only, judges nothing. Of a Deployment that is settled, one list from each host is all that is asked of Docker.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use serde_json::Value;

use super::{BalancerSeen, Controller, HostSeen, Observed, blueprint, inputs, name, namespace, owner};
use crate::api::deployment::Deployment;
use crate::api::docker_host::DockerHost;
use crate::api::failure::Failure;
use crate::kinds::fact::Fact;

/// How long balancers let old connections finish unless they say otherwise, in seconds.
const DRAIN_SECONDS: u64 = 30;

/// Reads everything.
pub(super) async fn observe(controller: &Controller, object: &Deployment) -> Result<Observed, Failure> {
    let owner = owner(object);
    let subject = (namespace(object).to_owned(), name(object).to_owned());
    let (declared, _) = controller.objects.list::<DockerHost>("dockerhosts.evenkeel.dev", None).await?;
    let reads = declared.iter().map(|host| {
        let name = host.metadata.name.clone().unwrap_or_default();
        let owner = owner.clone();
        async move {
            let containers = match controller.hosts.get(&name) {
                Ok(engine) => Fact::from(engine.list_containers(&owner).await),
                Err(error) => Fact::Unknown(error.to_string()),
            };
            let seen = HostSeen {
                labels: host.spec.labels.clone(),
                failure_domain: host.spec.failure_domain.clone().unwrap_or_else(|| name.clone()),
                schedulable: !host.spec.unschedulable && host.metadata.deletion_timestamp.is_none(),
                containers,
            };
            (name, seen)
        }
    });
    let hosts: BTreeMap<String, HostSeen> = join_all(reads).await.into_iter().collect();
    controller.prober.keep(object, &hosts);
    let deleting = object.metadata.deletion_timestamp.is_some();
    let mut volumes = BTreeMap::new();
    for host in hosts.keys().filter(|_| deleting) {
        let read = match controller.hosts.get(host) {
            Ok(engine) => Fact::from(engine.list_volumes(&owner).await.map(|names| names.into_iter().collect())),
            Err(error) => Fact::Unknown(error.to_string()),
        };
        volumes.insert(host.clone(), read);
    }
    Ok(Observed {
        inputs: inputs::read(&controller.objects, &subject.0, used(object)).await?,
        probes: controller.prober.found(&subject),
        jobs: controller.jobs.seen(&subject),
        balancers: balancers(controller, &subject).await?,
        hosts,
        volumes,
    })
}

/// The Secrets and ConfigMaps of the template and of all revisions that are kept.
fn used(object: &Deployment) -> BTreeSet<blueprint::InputRef> {
    let kept = object.status.iter().filter_map(|status| status.decisions.as_ref()).flat_map(|d| &d.revisions);
    let templates = kept.map(|revision| &revision.template).chain([&object.spec.template]);
    templates
        .filter_map(|template| template.spec.as_ref())
        .flat_map(|spec| blueprint::inputs(spec).into_keys())
        .collect()
}

/// Balancers of the namespace that are at work and route to it.
async fn balancers(controller: &Controller, subject: &(String, String)) -> Result<Vec<BalancerSeen>, Failure> {
    let (all, _) = controller.objects.list::<Value>("loadbalancers.evenkeel.dev", Some(&subject.0)).await?;
    let at_work = |object: &&Value| object["status"]["readyReplicas"].as_u64().unwrap_or_default() > 0;
    Ok(all.iter().filter(at_work).filter_map(|object| balancer(object, &subject.1)).collect())
}

fn balancer(object: &Value, deployment: &str) -> Option<BalancerSeen> {
    let routes = object["spec"]["backends"].as_array()?.iter();
    let ours: Vec<&Value> = routes.filter(|backend| backend["deployment"]["name"] == deployment).collect();
    if ours.is_empty() {
        return None;
    }
    let drain = |backend: &&Value| {
        let text = backend["drainTimeout"].as_str()?;
        humantime::parse_duration(text).ok().map(|bound| bound.as_secs())
    };
    let names: BTreeSet<&str> = ours.iter().filter_map(|backend| backend["name"].as_str()).collect();
    let reported = object["status"]["backends"].as_array().into_iter().flatten();
    let mut servers: BTreeMap<String, String> = BTreeMap::new();
    for backend in reported.filter(|backend| backend["name"].as_str().is_some_and(|name| names.contains(name))) {
        for server in backend["servers"].as_array().into_iter().flatten() {
            let text = |field: &str| server[field].as_str().unwrap_or_default().to_owned();
            // Two backends may route to it: it is what it is only if it is so in both.
            let state = servers.entry(text("name")).or_insert_with(|| text("state"));
            if *state != text("state") {
                *state = "unknown".into();
            }
        }
    }
    Some(BalancerSeen {
        name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        drain_seconds: ours
            .iter()
            .map(|backend| drain(backend).unwrap_or(DRAIN_SECONDS))
            .max()
            .unwrap_or(DRAIN_SECONDS),
        servers,
    })
}
