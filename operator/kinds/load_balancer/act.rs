//! Performs one step: one call each, no policy. Already so is success.

use super::diff::Command;
use super::links::ContainerRef;
use super::{LoadBalancer, LoadBalancerKind, Step, configure, secrets};
use crate::api::failure::{Class, Failure};
use crate::api::object::Object as _;
use crate::kinds::containers::HOME;

/// Performs `step`; its failure says what could not be done.
pub async fn act(controller: &LoadBalancerKind, object: &LoadBalancer, step: &Step) -> Result<(), Failure> {
    let engine = controller.docker.hosts().get(HOME)?;
    let id = |container: &str| controller.cached(container, |cache| cache.id.clone());
    let at = |container| ContainerRef { engine: &engine, container, id: id(container) };
    match step {
        Step::EnsureStats => secrets::ensure(controller, object).await?,
        Step::Docker(step) => controller.docker.act(&object.owner(), step).await?,
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

/// One batch: the current process first, then those from before a reload what takes something away.
async fn tell(
    controller: &LoadBalancerKind,
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
