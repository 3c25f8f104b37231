//! Performs one step: one call each, no policy. Already so is success.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::diff::Command;
use super::links::ContainerRef;
use super::{Controller, LoadBalancer, Step, configure, secrets, workload};
use crate::api::failure::{Class, Failure};
use crate::engine::{Engine, Error};

/// Grace for open connections when a balancer is stopped.
const STOP: Duration = Duration::from_secs(workload::STOP_SECONDS.unsigned_abs());

/// Performs `step`; its failure says what could not be done.
pub async fn act(controller: &Controller, object: &LoadBalancer, step: &Step) -> Result<(), Failure> {
    let engine = controller.hosts.get(super::HOST)?;
    let about_containers = !matches!(
        step,
        Step::Tell { .. }
            | Step::Write { .. }
            | Step::Reload { .. }
            | Step::Keep { .. }
            | Step::Refuse { .. }
            | Step::EnsureStats
    );
    if about_containers {
        controller.lists.forget(object);
    }
    let id = |container: &str| controller.cached(container, |cache| cache.id.clone());
    let at = |container| ContainerRef { engine: &engine, container, id: id(container) };
    match step {
        Step::EnsureStats => secrets::ensure(controller, object).await?,
        Step::EnsureImage(image) => engine.ensure_image(image).await?,
        Step::EnsureBinary { image } => {
            let volume = engine.ensure_binary(image).await?;
            controller.binary.get_or_init(|| volume);
        }
        Step::EnsureNetwork(spec) => drop(engine.ensure_network(spec).await?),
        Step::EnsureVolume(spec) => engine.ensure_volume(spec).await?,
        Step::CreateContainer(spec) => engine.create_container(spec).await?,
        Step::StartContainer(name) => engine.start_container(name).await?,
        Step::StopContainer { name, .. } => stop(controller, engine.clone(), name),
        Step::RemoveContainer { name, .. } => {
            engine.stop_container(name, STOP).await?;
            engine.remove_container(name).await?;
        }
        Step::RemoveVolume(name) => engine.remove_volume(name).await?,
        Step::RemoveNetwork(name) => match engine.remove_network(name).await {
            // Others of the namespace are in it.
            Err(Error::Conflict { .. }) => {}
            other => other?,
        },
        Step::Tell { container, commands, old } => tell(controller, &at(container), commands, old).await?,
        Step::Write { container, config, files, runs } => {
            configure::write(controller, object, &at(container), config, files, *runs).await?;
        }
        Step::Reload { container, hash, failed } => {
            configure::reload(controller, object, &at(container), hash, *failed).await?;
        }
        Step::Keep { container, accepted } => {
            configure::keep(controller, object, &at(container), *accepted).await?;
        }
        Step::Refuse { container, skeleton, .. } => {
            configure::refuse(controller, object, &at(container), skeleton).await?;
        }
    }
    Ok(())
}

/// Begins to stop a container. An event tells when it has ended; a failure is another try at the next look.
fn stop(controller: &Controller, engine: Arc<dyn Engine>, name: &str) {
    let stopping = Arc::clone(&controller.stopping);
    let name = name.to_owned();
    stopping.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
    tokio::spawn(async move {
        if let Err(error) = engine.stop_container(&name, STOP).await {
            tracing::debug!(%error, container = name, "not stopped");
        }
        stopping.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
    });
}

/// One batch: the current process first, then those from before a reload what takes something away.
async fn tell(
    controller: &Controller,
    at: &ContainerRef<'_>,
    commands: &[Command],
    old: &[u32],
) -> Result<(), Failure> {
    let transient = |why: String| Failure::new(Class::Transient, format!("{}: {why}", at.container));
    let lines: Vec<_> = commands.iter().map(|command| format!("@1 {}", command.line())).collect();
    let words = controller.links.haproxy(at, &lines).await.map_err(transient)?;
    let problems: Vec<_> = commands
        .iter()
        .zip(&words)
        .filter_map(|(command, words)| Some(format!("{command}: {}", command.judge(words).err()?)))
        .collect();
    let closing = commands.iter().filter(|command| command.closes());
    let lines: Vec<_> =
        closing.flat_map(|command| old.iter().map(move |pid| format!("@!{pid} {}", command.line()))).collect();
    if !lines.is_empty()
        && let Err(why) = controller.links.haproxy(at, &lines).await
    {
        // It ended meanwhile, and with it all that it had.
        tracing::debug!(container = at.container, why, "an old process did not hear everything");
    }
    if problems.is_empty() { Ok(()) } else { Err(transient(problems.join("; "))) }
}
