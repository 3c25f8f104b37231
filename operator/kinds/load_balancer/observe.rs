//! Observes a LoadBalancer: its containers, the objects that it refers to, and the balancers' answers. Reads only.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::dialect::Protocol;
use super::inputs::certificate_secrets;
use super::links::{ContainerRef, LinkId};
use super::seen::{self, Answer};
use super::{Balancer, Hidden, LoadBalancer, LoadBalancerKind, Observed, Targets, configure, secrets, workload};
use crate::api::failure::Failure;
use crate::api::labels;
use crate::api::load_balancer::LoadBalancerStatus;
use crate::api::object::Object as _;
use crate::api::sync::lock;
use crate::engine::{ContainerSeen, ContainerState};
use crate::kinds::containers::DockerSeen;
use crate::kinds::{hosts, ports, waits};
use crate::store::Key;

/// Lists the nginx processes that only finish their open connections. The match starts at the beginning of the command
/// line, because the shell's own command line contains these words too.
const OLD_NGINX: &str = r#"for p in /proc/[0-9]*/cmdline; do case "$(tr '\0' ' ' < "$p" 2>/dev/null)" in "nginx: worker process is shutting down"*) p=${p%/cmdline}; echo "${p#/proc/}";; esac; done"#;

/// Reads the whole snapshot.
pub async fn observe(controller: &LoadBalancerKind, object: &LoadBalancer) -> Result<Observed, Failure> {
    let declared = hosts::read(&controller.objects).await?;
    let reserved = ports::read(&controller.objects).await?;
    let targets = targets(controller, object).await?;
    let certificates = secrets::certificates(&controller.objects, object).await?;
    let stats_password = match object.spec.stats {
        Some(_) => secrets::password(&controller.objects, object).await?.map(Hidden),
        None => None,
    };
    let (owner, needs) = (object.owner(), workload::needs(object, &targets));
    let hosts = controller.docker.observe(&owner, declared.keys().cloned(), &needs).await;
    // No answer from the host does not mean that a container is gone.
    let there = |id: &LinkId| match hosts.get(&id.host).map(|seen| seen.containers.known()) {
        Some(Some(all)) => all.get(&id.container).is_some_and(|one| one.id == id.id),
        known => known.is_some(),
    };
    controller.links.retain(&owner, there);
    let of_host = |(host, seen): (&String, &DockerSeen)| {
        let known = seen.containers.known().into_iter().flat_map(BTreeMap::values);
        let running = known.filter(|seen| matches!(seen.state, ContainerState::Running | ContainerState::Paused));
        let placed = running.filter(|seen| placed(object, seen, host)).cloned();
        placed.map(|seen| (host.clone(), seen)).collect::<Vec<_>>()
    };
    let running: Vec<_> = hosts.iter().flat_map(of_host).collect();
    let balancers = join_all(running.iter().map(|(host, seen)| balancer(controller, object, host, seen))).await;
    Ok(Observed {
        balancers: balancers.into_iter().flatten().collect(),
        work: controller.docker.work.heard(&owner),
        silent: controller.silence.note(&hosts),
        waited: controller.waits.note(&owner, moments(object.status.as_ref())),
        hosts,
        declared,
        reserved,
        targets,
        certificates,
        stats_password,
    })
}

/// The recorded moments that decisions wait from.
pub(super) fn moments(status: Option<&LoadBalancerStatus>) -> Vec<Timestamp> {
    let Some(d) = status.and_then(|status| status.decisions.as_ref()) else { return Vec::new() };
    d.leaving.values().copied().chain(d.last_reload).collect()
}

/// Whether the record has this balancer on this host, or nowhere.
fn placed(object: &LoadBalancer, container: &ContainerSeen, host: &str) -> bool {
    let decisions = object.status.as_ref().and_then(|status| status.decisions.as_ref());
    let member = container.labels.get(labels::MEMBER);
    let recorded = decisions.zip(member).and_then(|(decisions, member)| decisions.places.get(member));
    recorded.is_none_or(|place| place == host)
}

/// The existing objects that backends refer to.
async fn targets(controller: &LoadBalancerKind, object: &LoadBalancer) -> Result<Targets, Failure> {
    let mut targets = Targets::new();
    for named in object.spec.backends.iter().filter_map(|backend| backend.target()?.object()) {
        if let Some(found) = controller.objects.get(&Key::beside(object, named.resource, &named.name)).await? {
            targets.insert(named, found);
        }
    }
    Ok(targets)
}

/// The keys of all objects that are read from the store for a LoadBalancer.
pub(super) fn references(object: &LoadBalancer) -> Vec<Key> {
    let targets = object.spec.backends.iter().filter_map(|backend| backend.target()?.object());
    let targets = targets.map(|named| Key::beside(object, named.resource, &named.name));
    let certificates = certificate_secrets(&object.spec).into_iter().map(|name| Key::beside(object, "secrets", name));
    targets.chain(certificates).chain([secrets::key(object)]).collect()
}

/// The part of an object that matters to the balancers that route to it: its endpoints, and whether it is being
/// deleted.
pub(super) fn endpoints(object: &Value) -> Value {
    json!([object["status"]["endpointSet"], object["metadata"]["deletionTimestamp"], object["status"].is_null()])
}

async fn balancer(
    controller: &LoadBalancerKind,
    object: &LoadBalancer,
    host: &str,
    seen: &ContainerSeen,
) -> Option<(String, Balancer)> {
    let id = LinkId { host: host.to_owned(), container: seen.name.clone(), id: seen.id.clone() };
    let at = controller.link(object, controller.docker.hosts.get(host).ok()?, id);
    let (answer, files) = tokio::join!(answer(controller, object, &at), configure::files(&at));
    let signalled = lock(&at.link.known).signalled.clone();
    let balancer = Balancer { host: host.to_owned(), answer: answer.into(), files: files.into(), signalled };
    Some((seen.name.clone(), balancer))
}

/// The current answer of a balancer.
async fn answer(controller: &LoadBalancerKind, object: &LoadBalancer, at: &ContainerRef) -> Result<Answer, String> {
    let strange = || "it says what is not understood".to_owned();
    match at.dialect.protocol {
        Protocol::MasterSocket => {
            let questions = seen::QUESTIONS.map(String::from);
            let words = at.tell(&questions).await?;
            let [info, state, stat, proc] = words.as_slice() else { return Err(strange()) };
            let mut answer = seen::haproxy(info, state, stat, proc).ok_or_else(strange)?;
            let questions: Vec<_> = answer.old.iter().map(|pid| format!("@!{pid} {}", seen::OLD_QUESTION)).collect();
            if !questions.is_empty() {
                let told = at.tell(&questions).await?;
                told.iter().for_each(|words| answer.add_old(words));
            }
            Ok(answer)
        }
        Protocol::StatePage => {
            let words = at.page("/state").await?;
            let old = old_nginx(controller, object, at).await?;
            seen::nginx(&words, &old).ok_or_else(strange)
        }
    }
}

async fn old_nginx(controller: &LoadBalancerKind, object: &LoadBalancer, at: &ContainerRef) -> Result<String, String> {
    // This needs a `docker exec`. Long after the last reload there are no old processes.
    let longest = object.spec.reload_timeout().get();
    let last = object.status.as_ref().and_then(|status| status.decisions.as_ref()?.last_reload);
    let waited = controller.waits.note(&object.owner(), moments(object.status.as_ref()));
    let since = last.map(|last| waits::waited(&waited, last));
    if since.is_none_or(|since| since > longest + Duration::from_secs(10)) {
        return Ok(String::new());
    }
    configure::read(at, OLD_NGINX, &[]).await
}
