//! One snapshot of a balancer: Docker's lists, the store, and what the balancers say. Reads only, judges nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use serde::de::DeserializeOwned;

use super::links::ContainerRef;
use super::lists::Lists;
use super::names::{CONFIG_DIR, namespace};
use super::render::{certificate_secrets, config_file};
use super::seen::{self, Answer};
use super::{Balancer, Certificate, ConfigCache, Controller, Hidden, LoadBalancer, Observed, secrets, workload};
use crate::api::endpoints::Routable;
use crate::api::failure::Failure;
use crate::api::load_balancer::{EngineKind, TargetObject};
use crate::engine::{ContainerSeen, ContainerState, Engine};
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
pub async fn observe(controller: &Controller, object: &LoadBalancer) -> Result<Observed, Failure> {
    let engine = controller.hosts.get(super::HOST)?;
    let Related { targets, certificates, stats_password } = related(controller, object).await?;
    let lists = controller.lists.read(object, &engine, &workload::networks(object, &targets)).await;
    let Lists { containers, volumes, networks, image } = lists;
    let running = containers
        .known()
        .into_iter()
        .flatten()
        .map(|(_, seen)| seen)
        .filter(|seen| matches!(seen.state, ContainerState::Running | ContainerState::Paused));
    let balancers = join_all(running.map(|seen| balancer(controller, object, &engine, seen))).await;
    Ok(Observed {
        balancers: balancers.into_iter().collect(),
        containers,
        volumes,
        networks,
        image,
        binary: controller.binary.get().cloned(),
        stopping: controller.stopping.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        targets,
        certificates,
        stats_password,
    })
}

/// Other objects that the balancer refers to.
struct Related {
    targets: BTreeMap<TargetObject, Routable>,
    certificates: BTreeMap<String, Result<Certificate, String>>,
    stats_password: Option<Hidden>,
}

async fn related(controller: &Controller, object: &LoadBalancer) -> Result<Related, Failure> {
    let (mut targets, mut certificates) = (BTreeMap::new(), BTreeMap::new());
    for named in object.spec.backends.iter().filter_map(|backend| backend.target()?.object()) {
        if let Some(found) = get(controller, object, named.resource, &named.name).await? {
            targets.insert(named, found);
        }
    }
    for secret in certificate_secrets(&object.spec) {
        let found = get(controller, object, "secrets", secret).await?;
        certificates.insert(secret.to_owned(), secrets::certificate(secret, found.as_ref()));
    }
    let stats_password = match object.spec.stats {
        Some(_) => secrets::password(&controller.objects, object).await?.map(Hidden),
        None => None,
    };
    Ok(Related { targets, certificates, stats_password })
}

async fn get<T: DeserializeOwned>(
    controller: &Controller,
    object: &LoadBalancer,
    resource: &str,
    name: &str,
) -> Result<Option<T>, Failure> {
    let key = Key { resource: resource.into(), namespace: namespace(object).into(), name: name.into() };
    Ok(controller.objects.get(&key).await?)
}

async fn balancer(
    controller: &Controller,
    object: &LoadBalancer,
    engine: &Arc<dyn Engine>,
    seen: &ContainerSeen,
) -> (String, Balancer) {
    let at = ContainerRef { engine, container: &seen.name, id: &seen.id };
    controller.known(&seen.name, |known| {
        if known.id != seen.id {
            controller.links.forget(&known.id);
            *known = ConfigCache { id: seen.id.clone(), ..Default::default() };
        }
    });
    let (answer, file) = tokio::join!(answer(controller, object, &at), file(controller, object, &at));
    let refused = controller.known(&seen.name, |known| known.refused.clone());
    let balancer = Balancer { answer: answer.into(), file: file.map(Hidden).into(), refused };
    (seen.name.clone(), balancer)
}

/// What a balancer says of itself now.
pub async fn answer(controller: &Controller, object: &LoadBalancer, at: &ContainerRef<'_>) -> Result<Answer, String> {
    let strange = || "it says what is not understood".to_owned();
    match object.spec.engine {
        EngineKind::Haproxy => {
            let questions = seen::QUESTIONS.map(String::from);
            let words = controller.links.haproxy(at, &questions).await?;
            let [info, state, stat, proc] = words.as_slice() else { return Err(strange()) };
            let mut answer = seen::haproxy(info, state, stat, proc).ok_or_else(strange)?;
            let questions: Vec<_> = answer.old.iter().map(|pid| format!("@!{pid} {}", seen::OLD_QUESTION)).collect();
            if !questions.is_empty() {
                let told = controller.links.haproxy(at, &questions).await?;
                told.iter().for_each(|words| answer.add_old(words));
            }
            Ok(answer)
        }
        EngineKind::Nginx => {
            let words = controller.links.nginx(at, "/state").await?;
            let old = old_nginx(controller, object, at).await?;
            seen::nginx(&words, old).ok_or_else(strange)
        }
    }
}

async fn old_nginx(controller: &Controller, object: &LoadBalancer, at: &ContainerRef<'_>) -> Result<u32, String> {
    // An exec is dear. Long after the last reload there is none.
    let longest = object.spec.backends.iter().map(|backend| backend.drain_timeout.get()).max().unwrap_or_default();
    let last = object.status.as_ref().and_then(|status| status.decisions.as_ref()?.last_reload);
    let since = last.map(|last| controller.clock.now().duration_since(last).unsigned_abs());
    if since.is_none_or(|since| since > longest + Duration::from_secs(10)) {
        return Ok(0);
    }
    let said = run(at, &["sh", "-c", OLD_NGINX]).await?;
    said.trim().parse().map_err(|_| format!("cannot count processes: {said}"))
}

async fn run(at: &ContainerRef<'_>, command: &[&str]) -> Result<String, String> {
    let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
    match at.engine.exec(at.container, &command, READ).await {
        Ok(result) if result.code == 0 => Ok(result.output),
        Ok(result) => Err(result.output),
        Err(error) => Err(Failure::from(error).message),
    }
}

/// The file of a balancer: what was written last, or, once, what is there.
async fn file(controller: &Controller, object: &LoadBalancer, at: &ContainerRef<'_>) -> Result<String, String> {
    if let Some(file) = controller.known(at.container, |known| known.file.clone()) {
        return Ok(file);
    }
    let path = format!("{CONFIG_DIR}/{}", config_file(object.spec.engine));
    let mut text = String::new();
    for _ in 0..PIECES {
        let (from, length) = ((text.len() + 1).to_string(), PIECE.to_string());
        let script = r#"tail -c +"$0" "$1" | head -c "$2""#;
        let piece = run(at, &["sh", "-c", script, &from, &path, &length]).await?;
        text.push_str(&piece);
        if piece.len() < PIECE {
            break;
        }
    }
    controller.known(at.container, |known| {
        if known.id == at.id {
            known.file.get_or_insert_with(|| text.clone());
        }
    });
    Ok(text)
}
