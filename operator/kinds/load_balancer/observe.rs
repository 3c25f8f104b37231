//! One snapshot of a balancer: Docker's lists, the store, and what the balancers say. Reads only, judges nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::links::Partner;
use super::names::{CONFIG_DIR, namespace};
use super::render::{certificate_secrets, config_file};
use super::seen::{self, Answer};
use super::{Balancer, Hidden, Known, LoadBalancer, LoadBalancerKind, Observed, secrets, workload};
use crate::api::deployment::Deployment;
use crate::api::docker_host::DockerHost;
use crate::api::failure::Failure;
use crate::api::load_balancer::{EngineKind, Target};
use crate::api::object::Object as _;
use crate::api::postgres_cluster::PostgresCluster;
use crate::engine::{ContainerSeen, ContainerState, Engine};
use crate::kinds::containers::HOME;
use crate::runtime::concern;
use crate::store::Key;

/// A command in a container that reads something takes no longer.
const READ: Duration = Duration::from_secs(5);
/// Docker gives back this much of a command's output, and a little more.
const PIECE: usize = 12_000;
/// A configuration has no more of such pieces.
const PIECES: usize = 100;
/// How many processes of nginx only finish what they began. From its start: these words are in the shell's own line, too.
const OLD_NGINX: &str = r#"n=0; for p in /proc/[0-9]*/cmdline; do case "$(tr '\0' ' ' < "$p" 2>/dev/null)" in "nginx: worker process is shutting down"*) n=$((n+1));; esac; done; echo $n"#;

/// Reads everything at once.
pub async fn observe(controller: &LoadBalancerKind, object: &LoadBalancer) -> Result<Observed, Failure> {
    let engine = controller.docker.hosts().get(HOME)?;
    let (owner, needs) = (workload::owner(object), workload::needs(object));
    let (hosts, related) =
        tokio::join!(controller.docker.observe(&owner, [HOME.to_owned()], &needs), related(controller, object));
    let (deployments, clusters, certificates, stats_password) = related?;
    let known = hosts.values().filter_map(|host| host.containers.known()).flat_map(BTreeMap::values);
    let running = known.filter(|seen| matches!(seen.state, ContainerState::Running | ContainerState::Paused));
    let balancers = join_all(running.map(|seen| balancer(controller, object, &engine, seen))).await;
    Ok(Observed {
        balancers: balancers.into_iter().collect(),
        work: controller.docker.work(&owner),
        hosts,
        deployments,
        clusters,
        certificates,
        stats_password,
    })
}

type Related = (
    BTreeMap<String, Deployment>,
    BTreeMap<String, PostgresCluster>,
    BTreeMap<String, Result<super::Certificate, String>>,
    Option<Hidden>,
);

async fn related(controller: &LoadBalancerKind, object: &LoadBalancer) -> Result<Related, Failure> {
    let (mut deployments, mut clusters, mut certificates) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for backend in &object.spec.backends {
        match backend.target() {
            Some(Target::Deployment(to)) => {
                let found = get(controller, object, Deployment::RESOURCE, &to.name).await?;
                deployments.extend(found.map(|found| (to.name.clone(), found)));
            }
            Some(Target::Postgres(to)) => {
                let found = get(controller, object, PostgresCluster::RESOURCE, &to.name).await?;
                clusters.extend(found.map(|found| (to.name.clone(), found)));
            }
            Some(Target::RedisSentinel(_) | Target::Servers(_)) | None => {}
        }
    }
    for secret in certificate_secrets(&object.spec) {
        let found = get(controller, object, "secrets", secret).await?;
        certificates.insert(secret.to_owned(), secrets::certificate(secret, found.as_ref()));
    }
    let password = match object.spec.stats {
        Some(_) => secrets::password(&controller.objects, object).await?.map(Hidden),
        None => None,
    };
    Ok((deployments, clusters, certificates, password))
}

/// The keys of everything in the store that is read for a balancer.
pub(super) fn references(object: &LoadBalancer) -> Vec<Key> {
    let key = |resource: &str, name: &str| key(object, resource, name);
    let targets = object.spec.backends.iter().filter_map(|backend| match backend.target()? {
        Target::Deployment(to) => Some(key(Deployment::RESOURCE, &to.name)),
        Target::Postgres(to) => Some(key(PostgresCluster::RESOURCE, &to.name)),
        Target::RedisSentinel(_) | Target::Servers(_) => None,
    });
    let certificates = certificate_secrets(&object.spec).into_iter().map(|secret| key("secrets", secret));
    let host = Key { namespace: String::new(), ..key(DockerHost::RESOURCE, HOME) };
    targets.chain(certificates).chain([secrets::key(object), host]).collect()
}

/// What of a Deployment matters to its balancers: its pods.
pub(super) fn pods(deployment: &Value) -> Value {
    deployment["status"]["pods"].clone()
}

/// What of a PostgresCluster matters to its balancers: everything but how far each replica is behind, which changes all
/// the time.
pub(super) fn instances(cluster: &Value) -> Value {
    let mut rest = concern::content(cluster);
    for instance in rest["status"]["instances"].as_array_mut().into_iter().flatten() {
        instance.as_object_mut().map(|instance| instance.remove("lag"));
    }
    rest
}

fn key(object: &LoadBalancer, resource: &str, name: &str) -> Key {
    Key { resource: resource.into(), namespace: namespace(object).into(), name: name.into() }
}

async fn get<T: DeserializeOwned>(
    controller: &LoadBalancerKind,
    object: &LoadBalancer,
    resource: &str,
    name: &str,
) -> Result<Option<T>, Failure> {
    Ok(controller.objects.get(&key(object, resource, name)).await?)
}

async fn balancer(
    controller: &LoadBalancerKind,
    object: &LoadBalancer,
    engine: &Arc<dyn Engine>,
    seen: &ContainerSeen,
) -> (String, Balancer) {
    let partner = Partner { engine, container: &seen.name, id: &seen.id };
    controller.known(&seen.name, |known| {
        if known.id != seen.id {
            controller.links.forget(&known.id);
            *known = Known { id: seen.id.clone(), ..Default::default() };
        }
    });
    let (answer, file) = tokio::join!(answer(controller, object, &partner), file(controller, object, &partner));
    let refused = controller.known(&seen.name, |known| known.refused.clone());
    let balancer = Balancer { answer: answer.into(), file: file.map(Hidden).into(), refused };
    (seen.name.clone(), balancer)
}

/// What a balancer says of itself now.
pub async fn answer(
    controller: &LoadBalancerKind,
    object: &LoadBalancer,
    partner: &Partner<'_>,
) -> Result<Answer, String> {
    let strange = || "it says what is not understood".to_owned();
    match object.spec.engine {
        EngineKind::Haproxy => {
            let questions = seen::QUESTIONS.map(String::from);
            let words = controller.links.haproxy(partner, &questions).await?;
            let [info, state, stat, proc] = words.as_slice() else { return Err(strange()) };
            let mut answer = seen::haproxy(info, state, stat, proc).ok_or_else(strange)?;
            let questions: Vec<_> = answer.old.iter().map(|pid| format!("@!{pid} {}", seen::OLD_QUESTION)).collect();
            if !questions.is_empty() {
                let told = controller.links.haproxy(partner, &questions).await?;
                told.iter().for_each(|words| answer.add_old(words));
            }
            Ok(answer)
        }
        EngineKind::Nginx => {
            let words = controller.links.nginx(partner, "/state").await?;
            let old = old_nginx(controller, object, partner).await?;
            seen::nginx(&words, old).ok_or_else(strange)
        }
    }
}

async fn old_nginx(controller: &LoadBalancerKind, object: &LoadBalancer, partner: &Partner<'_>) -> Result<u32, String> {
    // An exec is dear. Long after the last reload there is none.
    let longest = object.spec.backends.iter().map(|backend| backend.drain_timeout.get()).max().unwrap_or_default();
    let last = object.status.as_ref().and_then(|status| status.decisions.as_ref()?.last_reload);
    let since = last.map(|last| controller.clock.now().duration_since(last).unsigned_abs());
    if since.is_none_or(|since| since > longest + Duration::from_secs(10)) {
        return Ok(0);
    }
    let said = run(partner, &["sh", "-c", OLD_NGINX]).await?;
    said.trim().parse().map_err(|_| format!("cannot count processes: {said}"))
}

async fn run(partner: &Partner<'_>, command: &[&str]) -> Result<String, String> {
    let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
    match partner.engine.exec(partner.container, &command, READ).await {
        Ok(result) if result.code == 0 => Ok(result.output),
        Ok(result) => Err(result.output),
        Err(error) => Err(Failure::from(error).message),
    }
}

/// The file of a balancer: what was written last, or, once, what is there.
async fn file(controller: &LoadBalancerKind, object: &LoadBalancer, partner: &Partner<'_>) -> Result<String, String> {
    if let Some(file) = controller.known(partner.container, |known| known.file.clone()) {
        return Ok(file);
    }
    let path = format!("{CONFIG_DIR}/{}", config_file(object.spec.engine));
    let mut text = String::new();
    for _ in 0..PIECES {
        let (from, length) = ((text.len() + 1).to_string(), PIECE.to_string());
        let script = r#"tail -c +"$0" "$1" | head -c "$2""#;
        let piece = run(partner, &["sh", "-c", script, &from, &path, &length]).await?;
        text.push_str(&piece);
        if piece.len() < PIECE {
            break;
        }
    }
    controller.known(partner.container, |known| {
        if known.id == partner.id {
            known.file.get_or_insert_with(|| text.clone());
        }
    });
    Ok(text)
}
